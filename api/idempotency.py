"""Idempotency keys: which requests are the same one, and answering a repetition with the first answer.

Holds and bookings keep their keys in the scripts and in the ledger: the engine is given the digests
(:class:`engine.once.Once`), and no window remains. Every other change goes through :func:`answer_once`, over a
small store of opaque answers.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Protocol

import msgspec
import structlog

from api.answers import Answer
from engine.errors import InvalidRequest, StoreUnavailable
from engine.once import Once

REPEATED_MAX = 256  # bytes of a body whose digest is worth remembering
IN_FLIGHT_TTL_S = 60  # longer than any request may take; a crashed process's key is free again after it
REPLAYED = (b"idempotent-replayed", b"true")

logger = structlog.get_logger("holdfast.api")

_KEY_MAX = 255
_PRINTABLE = bytes(range(0x20, 0x7F))
_encode_answer = msgspec.msgpack.Encoder().encode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode


class OnceStore(Protocol):
    """Where the answers of requests with an idempotency key are kept, for 24 hours, as opaque bytes."""

    async def begin(self, once: Once, *, in_flight_ttl_s: int) -> bytes | None:
        """Claim the key for a request; the answer kept, if there is one.

        Raises:
            IdempotencyKeyReused: It was used with another body.
            IdempotencyInFlight: The first request has not been answered yet.
            StoreUnavailable: Redis does not answer.
        """
        ...

    async def finish(self, once: Once, answer: bytes) -> None:
        """Keep the answer."""
        ...

    async def abandon(self, once: Once) -> None:
        """Forget the claim, so that the next request with this key runs anew; at once where Redis answers at once."""
        ...


def once_for(
    key: bytes, *, caller: str, route: str, params: Mapping[str, str], body: bytes, body_repeats: bool = False
) -> Once:
    """The digests of a request's scope (caller, route, key) and body.

    With *body_repeats* that of a short body is remembered, and with it the body: many send the same.

    Raises:
        InvalidRequest: The key is not 1 to 255 printable ASCII characters.
    """
    if not key or len(key) > _KEY_MAX or key.translate(None, _PRINTABLE) or key.strip() != key:
        raise InvalidRequest("Idempotency-Key", "must be 1 to 255 printable ASCII characters")
    # JSON, because no choice of caller and key can then look like another pair of the two.
    scope = msgspec.json.encode((caller, route, params, key))
    of_body = _remembered_digest if body_repeats and len(body) <= REPEATED_MAX else _digest
    return Once(scope=_digest(scope), body=of_body(body))


def part_of(once: Once, number: int) -> Once:
    """The digests for part *number* of a request that consists of several."""
    return Once(scope=_digest(once.scope + b"/%d" % number), body=once.body)


async def answer_once(store: OnceStore, once: Once, handle: Callable[[], Awaitable[Answer]]) -> Answer:
    """The answer of *handle*, or the one it gave when it was first called with this key.

    *handle* turns refusals into answers itself. When it is cancelled the outcome is not known: the claim then stays
    until it lapses, so that a hasty repetition is told to wait instead of being run beside the first.
    """
    if (kept := await store.begin(once, in_flight_ttl_s=IN_FLIGHT_TTL_S)) is not None:
        answer = _decode_answer(kept)
        return msgspec.structs.replace(answer, headers=(*answer.headers, REPLAYED))
    answer = await handle()
    try:
        if _is_memorable(answer):
            await store.finish(once, _encode_answer(answer))
        else:
            await store.abandon(once)
    except StoreUnavailable:
        # What was asked for is decided, whatever becomes of its key: say so, rather than send the client to try again.
        logger.warning("idempotency_key_left_in_flight", status=answer.status)
    return answer


def _is_memorable(answer: Answer) -> bool:
    return answer.memorable and answer.status not in (409, 429) and answer.status < 500


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:32].encode()


_remembered_digest = lru_cache(maxsize=1_000)(_digest)  # of a rush most ask for one, two or four of the same section
