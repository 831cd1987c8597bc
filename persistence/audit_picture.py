"""One event's state in Redis at one moment, without stopping anybody.

All commands of a picture travel in one batch over one connection, so the server runs them back to back; that nothing
came in between is proved by ``seq``, which counts every change, read first and last. The journal's last id is in the
picture too: it tells the bookings that were in Redis then (their records carry their journal's id) from later ones.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.errors import StoreUnavailable
from engine.events import SellableEvent
from engine.journal import journal_tail, stream_tail
from engine.kernel import Kernel
from engine.records import pairs

ATTEMPTS_MAX = 20  # of a picture; on a server shared by other clients the first one nearly always succeeds
# Holds read at one moment: with all commands of the picture some 4 ms of the server's time. More are read in steps,
# while they change, and never kept.
HOLDS_AT_ONCE_MAX = 4_000


class Mark(msgspec.Struct, frozen=True):
    """What changes with an event: ``seq`` with whatever changes, ``undone`` and ``repairs`` when a booking goes.

    Of an event whose state is not there, nothing.
    """

    epoch: bytes | None
    seq: bytes | None
    undone: bytes | None
    repairs: bytes | None


class SeenRecord(msgspec.Struct, frozen=True):
    """A member of one of the event's hashes that something is wrong with, as it was read."""

    key: bytes
    text: bytes


class Picture(msgspec.Struct, frozen=True):
    """An event's state but for its bookings; ``holds`` and ``deadlines`` are ``None`` where they are too many.

    ``time_ms`` is Redis's clock.

    The live holds are kept in memory, a few hundred bytes each. ``journal_id`` is that of the partition's last entry,
    ``journal_length`` how many entries there are; ``removed_id`` is the last entry's of the list of removed bookings.
    """

    mark: Mark
    time_ms: int
    state: Mapping[str, str]
    held: bytes
    sold: bytes
    holds: Mapping[bytes, bytes] | None
    deadlines: Mapping[bytes, int] | None
    hold_count: int
    wakeup_ms: int | None
    booking_count: int
    journal_id: str
    journal_length: int
    removed_id: str

    @property
    def loaded(self) -> bool:
        """Whether Redis has the event."""
        return bool(self.state)

    @property
    def lead_ms(self) -> int:
        """By how much the event's clock, which never goes back, is ahead of Redis's."""
        return int(self.state["clock"]) - self.time_ms

    @property
    def repairs(self) -> int:
        """How often this state has been repaired."""
        return int(self.state.get("repairs", 0))

    @property
    def undone(self) -> int:
        """How many bookings had been removed, or changed, from this state."""
        return int(self.state.get("undone", 0))

    def kept(self, section: int, leg: int) -> int:
        """How many places are sold to nobody, because the ledger has refused whoever they were sold to."""
        return int(self.state.get(f"kept:{section}:{leg}", 0))

    def counter(self, field: str) -> int:
        """One of the counters of free, held and sold, by its field of the state."""
        return int(self.state[field])


async def read_mark(kernel: Kernel, event: SellableEvent) -> Mark:
    """What changes with every change of the event."""
    fields = ("epoch", "seq", "undone", "repairs")
    return Mark(*await kernel.event_command(event, "HMGET", "state", *fields))


async def take_picture(kernel: Kernel, event: SellableEvent) -> Picture:
    """The event's state now.

    Raises:
        StoreUnavailable: Redis does not answer, or the event changes so fast that it cannot be read.
    """
    for _ in range(ATTEMPTS_MAX):
        hold_count = await kernel.event_command(event, "HLEN", "holds")
        before, *parts, after = await _read(kernel, event, at_once=hold_count <= HOLDS_AT_ONCE_MAX)
        if before == after:
            break
    else:
        raise StoreUnavailable(f"event {event.event.id} changes too fast to be read")
    time_ms, state, held, sold, wakeup, hold_count, booking_count, tail, removed, holds, deadlines = parts
    return Picture(
        mark=after,
        time_ms=time_ms,
        state={name.decode(): value.decode() for name, value in pairs(state)},
        held=held or b"",
        sold=sold or b"",
        holds=holds,
        deadlines=deadlines,
        hold_count=hold_count,
        wakeup_ms=None if wakeup is None else deadline_of(wakeup),
        booking_count=booking_count,
        journal_id=tail[0],
        journal_length=tail[1],
        removed_id=removed[0],
    )


async def _read(kernel: Kernel, event: SellableEvent, *, at_once: bool) -> tuple[Any, ...]:
    partition = kernel.partition_of(event)
    commands = [
        read_mark(kernel, event),
        kernel.time_ms(partition),
        kernel.event_command(event, "HGETALL", "state"),
        kernel.event_command(event, "GET", "held"),
        kernel.event_command(event, "GET", "sold"),
        kernel.partition_command(partition, "ZSCORE", "wakeups", event.event.id),
        kernel.event_command(event, "HLEN", "holds"),
        kernel.event_command(event, "HLEN", "bookings"),
        journal_tail(kernel, partition),
        stream_tail(kernel.event_subcommand(event, "XINFO", "STREAM", "removed")),
        _holds_at_once(kernel, event) if at_once else _too_many(),
        _deadlines_at_once(kernel, event) if at_once else _too_many(),
        read_mark(kernel, event),
    ]
    return tuple(await asyncio.gather(*commands))


async def _holds_at_once(kernel: Kernel, event: SellableEvent) -> dict[bytes, bytes]:
    return dict(pairs(await kernel.event_command(event, "HGETALL", "holds")))


async def _deadlines_at_once(kernel: Kernel, event: SellableEvent) -> dict[bytes, int]:
    flat = await kernel.event_command(event, "ZRANGE", "expiries", 0, -1, "WITHSCORES")
    return {hold: deadline_of(score) for hold, score in pairs(flat)}


async def _too_many() -> None:
    return None


def deadline_of(score: bytes) -> int:
    """A deadline in ms, of the score that the server writes out."""
    return int(float(score))
