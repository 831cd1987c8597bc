"""The events of one's partitions that are in Redis, and what was last seen of each."""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from engine.kernel import Kernel

Mark = tuple[int, int]
"""Epoch and seq: an event's state never goes back behind one that was seen."""

SCAN_COUNT = 1_000  # members of a set that one step asks for: well under a millisecond of the server's time
BATCH = 200  # events looked at in one round trip: about a millisecond of the server's time
LARGE_WEIGHT = 20_000  # bookings and holds, and a tenth of the seats: from here on an audit takes about a second
SEATS_PER_BOOKING = 10  # what a seat weighs in an audit, next to a booking: it is compared in bulk


class Sighting(msgspec.Struct):
    """One event: what was seen of it, and when (by the monotonic clock) it was last audited, or first seen.

    ``heat`` is by how much its seq grew between the last two looks. ``urgent``: something speaks against it.
    ``indexed``: the partition's index has it. ``trouble`` is what the last audit could not repair.
    """

    event_id: str
    partition: int
    since: float
    mark: Mark = (0, 0)
    weight: int = 0
    heat: int = 0
    audited: bool = False
    urgent: bool = False
    indexed: bool = True
    trouble: frozenset[str] = frozenset()

    @property
    def large(self) -> bool:
        """Whether its audit would hold others up."""
        return self.weight >= LARGE_WEIGHT

    def note(self, mark: Mark) -> None:
        """Remember a later state."""
        if mark > self.mark:
            if mark[0] == self.mark[0]:
                self.heat = mark[1] - self.mark[1]
            self.mark = mark


class Roster:
    """Sightings by partition, about 300 bytes for each event; those ``synced`` were read since they are ours."""

    def __init__(self) -> None:
        self._partitions: dict[int, dict[str, Sighting]] = {}
        self.synced: set[int] = set()

    def __len__(self) -> int:
        return sum(map(len, self._partitions.values()))

    def __iter__(self) -> Iterator[Sighting]:
        for sightings in self._partitions.values():
            yield from sightings.values()

    def of(self, partition: int) -> dict[str, Sighting]:
        """The events of one partition."""
        return self._partitions.setdefault(partition, {})

    def see(self, partition: int, event_id: str) -> Sighting:
        """The sighting of an event that is in Redis."""
        known = self.of(partition)
        if event_id not in known:
            known[event_id] = Sighting(event_id, partition, time.monotonic())
        return known[event_id]

    def forget(self, partition: int, event_id: str) -> None:
        self.of(partition).pop(event_id, None)

    def keep_only(self, partitions: Sequence[int]) -> None:
        """Forget the events of partitions that somebody else takes care of."""
        for partition in self._partitions.keys() - set(partitions):
            del self._partitions[partition]
        self.synced &= set(partitions)

    def sample(self, partition: int) -> Sighting | None:
        """Any event of the partition."""
        known = list(self.of(partition).values())
        return random.choice(known) if known else None  # noqa: S311 - a sample, no secret


async def live_events(kernel: Kernel, partition: int) -> set[str]:
    """The events of a partition whose state is in Redis, as its index has them."""
    found: set[str] = set()
    cursor = b"0"
    while True:
        cursor, members = await kernel.partition_command(partition, "SSCAN", "live", cursor, "COUNT", SCAN_COUNT)
        found.update(member.decode() for member in members)
        if cursor == b"0":
            return found


async def look_at(kernel: Kernel, sightings: Iterable[Sighting]) -> list[Sighting]:
    """Read marks and weights; returns those whose state is missing, or older than what was seen before."""
    wanted, wrong = list(sightings), []
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        before = [sighting.mark for sighting in batch]  # of this moment: an audit may move them meanwhile
        replies = await asyncio.gather(*[_read(kernel, sighting) for sighting in batch])
        for sighting, known, ((epoch, seq, seats), holds, bookings) in zip(batch, before, replies, strict=True):
            if epoch is None or (mark := (int(epoch), int(seq))) < known:
                wrong.append(sighting)
                continue
            sighting.note(mark)
            sighting.weight = holds + bookings + int(seats) // SEATS_PER_BOOKING
    return wrong


async def _read(kernel: Kernel, sighting: Sighting) -> tuple[Any, int, int]:
    partition, event_id = sighting.partition, sighting.event_id
    state, holds, bookings = await asyncio.gather(
        kernel.event_command_in(partition, event_id, "HMGET", "state", "epoch", "seq", "seats"),
        kernel.event_command_in(partition, event_id, "HLEN", "holds"),
        kernel.event_command_in(partition, event_id, "HLEN", "bookings"),
    )
    return state, holds, bookings
