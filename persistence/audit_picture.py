"""One event's state in Redis at one moment, without stopping anybody.

All commands of a picture travel in one batch over one connection, so the server runs them back to back; that nothing
came in between is proved by ``seq``, which counts every change, read first and last.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.errors import StoreUnavailable
from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.records import pairs, scan_hash

ATTEMPTS_MAX = 20  # of a picture; on a server shared by other clients the first one nearly always succeeds
HOLDS_AT_ONCE_MAX = 20_000  # holds read by one command, some 5 ms; more are read in steps, while they change

Mark = tuple[bytes | None, bytes | None]  # epoch and seq; of an event whose state is not there, nothing


class Picture(msgspec.Struct, frozen=True):
    """An event's state but for its bookings; ``holds_exact`` says that holds and deadlines are of the same moment.

    The live holds are kept in memory, a few hundred bytes each.
    """

    mark: Mark
    state: Mapping[str, str]
    counters: Mapping[str, int]
    held: bytes
    sold: bytes
    holds: Mapping[bytes, bytes]
    deadlines: Mapping[bytes, int]
    wakeup_ms: int | None
    booking_count: int
    holds_exact: bool

    @property
    def loaded(self) -> bool:
        """Whether Redis has the event."""
        return bool(self.state)


async def read_mark(kernel: Kernel, event: SellableEvent) -> Mark:
    """What changes with every change of the event."""
    epoch, seq = await kernel.event_command(event, "HMGET", "state", "epoch", "seq")
    return epoch, seq


async def take_picture(kernel: Kernel, event: SellableEvent) -> Picture:
    """The event's state now.

    Raises:
        StoreUnavailable: Redis does not answer, or the event changes so fast that it cannot be read.
    """
    for _ in range(ATTEMPTS_MAX):
        hold_count = await kernel.event_command(event, "HLEN", "holds")
        at_once = hold_count <= HOLDS_AT_ONCE_MAX
        before, state, held, sold, wakeup, booking_count, holds, deadlines, after = await _read(kernel, event, at_once)
        if before == after:
            break
    else:
        raise StoreUnavailable(f"event {event.event.id} changes too fast to be read")
    if not at_once:
        holds = dict([member async for batch in scan_hash(kernel, event, "holds") for member in batch])
        deadlines = await _scan_deadlines(kernel, event)
    texts = {name.decode(): value.decode() for name, value in pairs(state)}
    return Picture(
        mark=after,
        state=texts,
        counters=_counters(texts),
        held=held or b"",
        sold=sold or b"",
        holds=holds,
        deadlines=deadlines,
        wakeup_ms=None if wakeup is None else int(wakeup),
        booking_count=booking_count,
        holds_exact=at_once,
    )


async def read_counters(kernel: Kernel, event: SellableEvent) -> Mapping[str, int]:
    """The counters of free, held and sold now, by field of the state."""
    state = await kernel.event_command(event, "HGETALL", "state")
    return _counters({name.decode(): value.decode() for name, value in pairs(state)})


async def read_bitmaps(kernel: Kernel, event: SellableEvent) -> tuple[bytes, bytes]:
    """The bitmaps of held and sold cells now."""
    held, sold = await asyncio.gather(
        kernel.event_command(event, "GET", "held"), kernel.event_command(event, "GET", "sold")
    )
    return held or b"", sold or b""


def _counters(state: Mapping[str, str]) -> dict[str, int]:
    return {name: int(value) for name, value in state.items() if name.startswith(("free:", "held:", "sold:"))}


async def _read(kernel: Kernel, event: SellableEvent, at_once: bool) -> tuple[Any, ...]:
    partition = kernel.partition_of(event)
    commands = [
        read_mark(kernel, event),
        kernel.event_command(event, "HGETALL", "state"),
        kernel.event_command(event, "GET", "held"),
        kernel.event_command(event, "GET", "sold"),
        kernel.partition_command(partition, "ZSCORE", "wakeups", event.event.id),
        kernel.event_command(event, "HLEN", "bookings"),
        _holds_at_once(kernel, event) if at_once else _nothing(),
        _deadlines_at_once(kernel, event) if at_once else _nothing(),
        read_mark(kernel, event),
    ]
    return tuple(await asyncio.gather(*commands))


async def _holds_at_once(kernel: Kernel, event: SellableEvent) -> dict[bytes, bytes]:
    return dict(pairs(await kernel.event_command(event, "HGETALL", "holds")))


async def _deadlines_at_once(kernel: Kernel, event: SellableEvent) -> dict[bytes, int]:
    flat = await kernel.event_command(event, "ZRANGE", "expiries", 0, -1, "WITHSCORES")
    return {hold: int(score) for hold, score in pairs(flat)}


async def _scan_deadlines(kernel: Kernel, event: SellableEvent) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    cursor = b"0"
    while True:
        cursor, flat = await kernel.event_command(event, "ZSCAN", "expiries", cursor, "COUNT", 1_000)
        found.update((hold, int(score)) for hold, score in pairs(flat))
        if cursor == b"0":
            return found


async def _nothing() -> dict[bytes, Any]:
    return {}
