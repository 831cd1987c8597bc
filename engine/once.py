"""Idempotency keys: the digests that stand for one, and the store for answers that no script keeps itself."""

import asyncio
import binascii
import itertools
import secrets

import msgspec
import structlog

from engine.errors import IdempotencyInFlight, IdempotencyKeyReused, StoreUnavailable
from engine.kernel import Kernel
from engine.keys import once_key

ABANDON_WAIT_S = 0.1  # a thousand times what it takes; the rest of a request's second has gone into its failure
ONCE_TTL_MS = 24 * 3600 * 1000  # the contract's 24 hours

# Counted, for it is no secret: attempts only have to differ between requests about one and the same hold.
_PROCESS = secrets.token_hex(4).encode()
_numbers = itertools.count()

logger = structlog.get_logger("holdfast.engine")


class Once(msgspec.Struct, frozen=True):
    """An idempotency key in use: the digest of caller, route and key, and the digest of the request's body."""

    scope: bytes
    body: bytes


def attempt_of(once: Once | None) -> bytes:
    """What marks a request to a script: its repetitions under one key are the same attempt, and so are our own."""
    return once.scope if once is not None else b"%b%08x" % (_PROCESS, next(_numbers))


class OnceStore:
    """Answers of requests that have no script of their own, as ``<body digest>|=<answer>`` in Redis, for 24 hours.

    Until there is one, ``<body digest>|?<nonce>`` says that a request is under way.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._abandoning: set[asyncio.Task[None]] = set()

    async def begin(self, once: Once, *, in_flight_ttl_s: int) -> bytes | None:
        """Claim the key for a request, or return the first request's answer.

        Raises:
            IdempotencyKeyReused: It was used with another body.
            IdempotencyInFlight: The first request has not been answered yet.
            StoreUnavailable: Redis does not answer.
        """
        claim = once.body + b"|?" + secrets.token_bytes(8)
        kept = await self._kernel.command("SET", self._key(once), claim, "NX", "GET", "PX", in_flight_ttl_s * 1000)
        if kept is None or kept == claim:  # our own claim, if the reply to its first sending was lost
            return None
        body, _, answer = bytes(kept).partition(b"|")
        if body != once.body:
            raise IdempotencyKeyReused
        if not answer.startswith(b"="):
            raise IdempotencyInFlight
        return answer[1:]

    async def finish(self, once: Once, answer: bytes) -> None:
        """Keep the answer."""
        await self._kernel.command("SET", self._key(once), once.body + b"|=" + answer, "PX", ONCE_TTL_MS)

    async def abandon(self, once: Once) -> None:
        """Forget the key: the next request with it runs anew.

        What was asked for has failed, perhaps because Redis is away: that must not be waited for a second time. So it
        goes on by itself after a moment, and where it fails, the claim lapses.
        """
        task = asyncio.create_task(self._forget(once))
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)
        await asyncio.wait([task], timeout=ABANDON_WAIT_S)

    async def _forget(self, once: Once) -> None:
        try:
            await self._kernel.command("DEL", self._key(once))
        except StoreUnavailable:
            logger.warning("idempotency_key_left_in_flight")

    def _key(self, once: Once) -> bytes:
        return once_key(binascii.crc32(once.scope) % self._kernel.partitions, once.scope)
