"""How many requests a caller, or an address, may make: buckets that fill at a steady rate, shared by all processes.

What is asked for in one turn of the event loop is asked in one script call, whoever asks: see
``docs/decisions/0030-limits-are-asked-together.md``.
"""

import asyncio
import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec
import structlog

from engine import figures
from engine.errors import RateLimited, StoreUnavailable

if TYPE_CHECKING:  # commands that only read settings need not wait for Redis's client
    from engine.kernel import Kernel

PARTITION = 0  # of all buckets: one script call can look at those of any caller and any address
REQUESTS_MAX = 100  # in one script call, which bounds how long everybody else waits
PAUSE_S = 1.0  # after a call that was not answered; what needs Redis has waited for its own answer long enough
SLOT_DIGITS = 5  # a million slots for callers and as many for addresses, some 80 MB each when all are in use
REMEMBERED_MAX = 10_000  # digests, some 300 bytes each
CALLER, ADDRESS = "caller", "address"  # the policies, as clients are told of them
_NOBODY = (b"", b"")

Left = tuple[int | None, int | None]
"""How many requests of the caller, and from the address, may follow at once; ``None`` where that was not asked."""

UNKNOWN: Left = (None, None)

logger = structlog.get_logger("holdfast.engine")


class RateLimit(msgspec.Struct, frozen=True):
    """``requests`` in ``window_s`` seconds, earned evenly, of which ``burst`` may come at once."""

    requests: int
    window_s: int
    burst: int

    @property
    def interval_us(self) -> int:
        """Microseconds in which one request is earned."""
        return self.window_s * 1_000_000 // self.requests


class RateLimiter:
    """Asks Redis for every request: what was done at another process counts too.

    A limit that is ``None`` is not asked for. *secret* is the installation's: nobody outside can tell which callers or
    addresses share a slot of the table, in which one would displace the other.
    """

    def __init__(
        self,
        kernel: "Kernel",
        *,
        secret: bytes,
        by_caller: RateLimit | None = None,
        by_address: RateLimit | None = None,
    ) -> None:
        self.by_caller = by_caller
        self.by_address = by_address
        self._kernel = kernel
        shapes = [limit or RateLimit(1, 1, 1) for limit in (by_caller, by_address)]
        self._shapes = [number for limit in shapes for number in (b"%d" % limit.interval_us, b"%d" % limit.burst)]
        self._caller = _marks(b"c", secret)
        self._address = _marks(b"a", secret)
        self._slots: list[bytes] = []
        self._digests: list[bytes] = []
        self._answers: list[asyncio.Future[Left]] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._pause_until = 0.0

    async def take(self, *, caller: str | None = None, address: str | None = None) -> Left:
        """Count one request of *caller* from *address*, by the limits that there are; returns what they leave.

        What either refuses is counted by neither. Where Redis does not answer nobody is limited: what needs Redis fails
        by itself, and what does not need it must not fail for this. Not idempotent: a repeated call is another request.

        Raises:
            RateLimited: An allowance is used up.
        """
        caller_slot, caller_digest = _NOBODY if caller is None or self.by_caller is None else self._caller(caller)
        address_slot, address_digest = _NOBODY if address is None or self.by_address is None else self._address(address)
        if not (caller_slot or address_slot) or time.monotonic() < self._pause_until:
            return UNKNOWN
        if not self._answers:  # the task begins when all that are ready now have had their turn
            task = asyncio.create_task(self._ask())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        answer: asyncio.Future[Left] = asyncio.get_running_loop().create_future()
        self._slots += (caller_slot, address_slot)
        self._digests += (caller_digest, address_digest)
        self._answers.append(answer)
        of_caller, of_address = await answer
        of_caller, of_address = of_caller if caller_slot else None, of_address if address_slot else None
        if (of_caller or 0) < 0 or (of_address or 0) < 0:
            raise _refusal(of_caller, of_address)
        return of_caller, of_address

    async def _ask(self) -> None:
        slots, digests, answers = self._slots, self._digests, self._answers
        self._slots, self._digests, self._answers = [], [], []
        for first in range(0, len(answers), REQUESTS_MAX):
            part = slice(2 * first, 2 * (first + REQUESTS_MAX))
            await self._ask_part(slots[part], digests[part], answers[first : first + REQUESTS_MAX])

    async def _ask_part(self, slots: list[bytes], digests: list[bytes], answers: "list[asyncio.Future[Left]]") -> None:
        try:
            args = [*self._shapes, *slots, *digests]
            reply = await self._kernel.run_in_partition("take_tokens", PARTITION, args)
            lefts: Iterable[Left] = zip(reply[1::2], reply[2::2], strict=True)
        except StoreUnavailable as error:
            logger.warning("nobody is limited", reason=str(error))
            self._pause_until = time.monotonic() + PAUSE_S
            lefts = itertools.repeat(UNKNOWN)
        except Exception as error:  # a bug of ours, which each of the requests is to tell of
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
            return
        for answer, left in zip(answers, lefts, strict=False):
            if not answer.done():  # its request was cancelled otherwise
                answer.set_result(left)


def _refusal(of_caller: int | None, of_address: int | None) -> RateLimited:
    wait_ms, policy = max((-(of_caller or 0), CALLER), (-(of_address or 0), ADDRESS))
    figures.RATE_LIMITED.add(policy)
    left = tuple(None if each is None else max(each, 0) for each in (of_caller, of_address))
    return RateLimited(policy, left[0], left[1], retry_after_ms=wait_ms)


def _marks(table: bytes, secret: bytes) -> Callable[[str], tuple[bytes, bytes]]:
    """By what names stand in a table of the script's: a slot, of a million, and the rest of the digest."""

    @functools.lru_cache(maxsize=REMEMBERED_MAX)
    def mark(name: str) -> tuple[bytes, bytes]:
        digest = hashlib.blake2b(name.encode(), digest_size=10, key=secret, person=table).hexdigest().encode()
        return table + digest[:SLOT_DIGITS], digest[SLOT_DIGITS:]

    return mark
