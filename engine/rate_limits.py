"""How many requests a caller, or an address, may make: buckets that fill at a steady rate, shared by all processes.

What is asked for in one turn of the event loop is asked in one script call, whoever asks, and in advance for those who
ask often: see ``docs/decisions/0031-limits-are-asked-together.md``.
"""

import asyncio
import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import structlog

from engine import figures
from engine.errors import RateLimited, StoreUnavailable
from engine.rate_leases import Leases, Mark

if TYPE_CHECKING:  # commands that only read settings need not wait for Redis's client
    from engine.kernel import Kernel

PARTITION = 0  # of all buckets: one script call can look at those of any caller and any address
REQUESTS_MAX = 100  # in one script call, which bounds how long everybody else waits
PAUSE_S = 1.0  # after a call that was not answered; what needs Redis has waited for its own answer long enough
SLOT_DIGITS = 5  # a million slots for callers and as many for addresses, some 80 MB each when all are in use
REMEMBERED_MAX = 10_000  # digests, some 300 bytes each
CALLER, ADDRESS = "caller", "address"  # the policies, as clients are told of them
_NOBODY: Mark = (b"", b"")

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
        self._leases = Leases()
        self._waiting: list[_Asked] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._pause_until = 0.0

    def spend(self, *, caller: str | None = None, address: str | None = None) -> Left | None:
        """As :meth:`take`, at once, where all of it was taken in advance; else ``None``, and nothing was counted."""
        now = time.monotonic()
        if now < self._pause_until:
            return UNKNOWN
        who = None if caller is None or self.by_caller is None else self._caller(caller)
        of_caller = None if who is None else self._leases.spend(who, now)
        if who is not None and of_caller is None:
            return None
        where = None if address is None or self.by_address is None else self._address(address)
        of_address = None if where is None else self._leases.spend(where, now)
        if where is not None and of_address is None:
            if who is not None:
                self._leases.give_back(who)
            return None
        return of_caller, of_address

    async def take(self, *, caller: str | None = None, address: str | None = None) -> Left:
        """Count one request of *caller* from *address*, by the limits that there are; returns what they leave.

        What either refuses is counted by neither. Where Redis does not answer nobody is limited: what needs Redis fails
        by itself, and what does not need it must not fail for this. Not idempotent: a repeated call is another request.

        Raises:
            RateLimited: An allowance is used up.
        """
        now = time.monotonic()
        if now < self._pause_until:
            return UNKNOWN
        who = None if caller is None or self.by_caller is None else self._caller(caller)
        where = None if address is None or self.by_address is None else self._address(address)
        of_caller = None if who is None else self._leases.spend(who, now)
        of_address = None if where is None else self._leases.spend(where, now)
        paid_by_caller, paid_by_address = of_caller is not None, of_address is not None
        asked_who, asked_where = None if paid_by_caller else who, None if paid_by_address else where
        if asked_who is not None or asked_where is not None:
            found = await self._ask(asked_who, asked_where, now)
            of_caller, of_address = (
                of_caller if paid_by_caller else found[0],
                of_address if paid_by_address else found[1],
            )
            if (of_caller or 0) < 0 or (of_address or 0) < 0:
                if who is not None and paid_by_caller:
                    self._leases.give_back(who)
                if where is not None and paid_by_address:
                    self._leases.give_back(where)
                raise _refusal(of_caller, of_address)
        return of_caller, of_address

    async def _ask(self, who: Mark | None, where: Mark | None, now: float) -> Left:
        if not self._waiting:  # the task begins when all that are ready now have had their turn
            task = asyncio.create_task(self._send())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        who_ahead = 0 if who is None else self._leases.wanted(who, now)
        where_ahead = 0 if where is None else self._leases.wanted(where, now)
        answer: asyncio.Future[Left] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(who or _NOBODY, where or _NOBODY, who_ahead, where_ahead, answer))
        of_caller, of_address = await answer
        return (
            None if who is None or of_caller is None else self._leases.note(who, of_caller, who_ahead, now),
            None if where is None or of_address is None else self._leases.note(where, of_address, where_ahead, now),
        )

    async def _send(self) -> None:
        asked, self._waiting = self._waiting, []
        for first in range(0, len(asked), REQUESTS_MAX):
            await self._send_part(asked[first : first + REQUESTS_MAX])

    async def _send_part(self, asked: "list[_Asked]") -> None:
        try:
            reply = await self._kernel.run_in_partition("take_tokens", PARTITION, self._arguments(asked))
            lefts: Iterable[Left] = zip(reply[1::2], reply[2::2], strict=True)
        except StoreUnavailable as error:
            logger.warning("nobody is limited", reason=str(error))
            self._pause_until = time.monotonic() + PAUSE_S
            lefts = itertools.repeat(UNKNOWN)
        except Exception as error:  # a bug of ours, which each of the requests is to tell of
            for each in asked:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each, left in zip(asked, lefts, strict=False):
            if not each.answer.done():  # its request was cancelled otherwise
                each.answer.set_result(left)

    def _arguments(self, asked: "list[_Asked]") -> list[bytes]:
        slots: list[bytes] = []
        digests: list[bytes] = []
        ahead = bytearray()
        for each in asked:
            slots += (each.who[0], each.where[0])
            digests += (each.who[1], each.where[1])
            ahead += bytes((each.who_ahead, each.where_ahead))
        return [*self._shapes, bytes(ahead), *slots, *digests]


class _Asked(NamedTuple):
    who: Mark
    where: Mark
    who_ahead: int
    where_ahead: int
    answer: "asyncio.Future[Left]"


def _refusal(of_caller: int | None, of_address: int | None) -> RateLimited:
    wait_ms, policy = max((-(of_caller or 0), CALLER), (-(of_address or 0), ADDRESS))
    figures.RATE_LIMITED.add(policy)
    left = tuple(None if each is None else max(each, 0) for each in (of_caller, of_address))
    return RateLimited(policy, left[0], left[1], retry_after_ms=wait_ms)


def _marks(table: bytes, secret: bytes) -> Callable[[str], Mark]:
    """By what names stand in a table of the script's: a slot, of a million, and the rest of the digest."""

    @functools.lru_cache(maxsize=REMEMBERED_MAX)
    def mark(name: str) -> Mark:
        digest = hashlib.blake2b(name.encode(), digest_size=10, key=secret, person=table).hexdigest().encode()
        return table + digest[:SLOT_DIGITS], digest[SLOT_DIGITS:]

    return mark
