"""The journal's part of an audit: bookings that it has and Redis has not.

A journal belongs to a partition and may be long while Postgres is away, and a partition may have a thousand events. So
it is read through once for all of them, in pages, and only what Redis lacks is kept.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.bookings import JournalEntry
from engine.journal import FIRST_ID, entry_order, journal_tail, parse_entry, read_journal
from engine.kernel import Kernel
from engine.keys import event_key

PAGE = 500
LOST_MAX = 10_000  # entries kept by one pass; more are left to a later one
KEPT_S = 30.0  # for a first look at an event, a pass this old will do


class JournalWatch:
    """Passes over the journals of all partitions, shared by the events that are read at about the same time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._passes: dict[int, tuple[float, asyncio.Task[_Lost]]] = {}

    async def lost_entries(
        self, partition: int, event_id: str, *, epoch: int, begun_after: float
    ) -> tuple[Sequence[JournalEntry], bool]:
        """Entries of an event's current epoch whose booking Redis did not have, by a pass begun after that moment.

        They may be settled, and the booking undone, by now. The second value says whether these are all of them.
        *begun_after* is by ``time.monotonic()``.
        """
        known = self._passes.get(partition)
        if known is None or known[0] < begun_after or _has_failed(known[1]):
            known = (time.monotonic(), asyncio.create_task(_find_lost(self._kernel, partition)))
            self._forget_old()
            self._passes[partition] = known
        # Shielded: one event that gives up must not take the pass from the others.
        lost = await asyncio.shield(known[1])
        return [entry for entry in lost.by_event.get(event_id, ()) if entry.epoch == epoch], lost.complete

    def _forget_old(self) -> None:
        """Let go of passes that nobody may use any more: one keeps up to ten thousand entries."""
        oldest = time.monotonic() - KEPT_S
        self._passes = {
            partition: known for partition, known in self._passes.items() if known[0] > oldest or not known[1].done()
        }


class _Lost(msgspec.Struct, frozen=True):
    by_event: dict[str, list[JournalEntry]]
    complete: bool


def _has_failed(task: asyncio.Task[_Lost]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


async def _find_lost(kernel: Kernel, partition: int) -> _Lost:
    lost: dict[str, list[JournalEntry]] = defaultdict(list)
    count = 0
    last_id, _ = await journal_tail(kernel, partition)
    after = FIRST_ID
    while entry_order(after) < entry_order(last_id) and count < LOST_MAX:
        entries = await read_journal(kernel, partition, after=after, until=last_id, limit=PAGE)
        if not entries:
            break
        after = entries[-1][0].decode()
        for entry in await _without_booking(kernel, partition, entries):
            lost[entry.event_id].append(entry)
            count += 1
    return _Lost(dict(lost), complete=count < LOST_MAX)


async def _without_booking(kernel: Kernel, partition: int, raw: Sequence[Any]) -> list[JournalEntry]:
    by_event: dict[str, list[JournalEntry]] = defaultdict(list)
    for journal_id, fields in raw:
        try:
            entry = parse_entry(journal_id, fields)
        except ValueError:
            continue  # of no event that could be told; the drain reports it
        by_event[entry.event_id].append(entry)

    async def lacking(event_id: str, entries: list[JournalEntry]) -> list[JournalEntry]:
        keys = [entry.booking_id.partition("~")[0] for entry in entries]
        records = await kernel.command("HMGET", event_key(partition, event_id, "bookings"), *keys)
        return [entry for entry, record in zip(entries, records, strict=True) if record is None]

    found = await asyncio.gather(*[lacking(event_id, entries) for event_id, entries in by_event.items()])
    return [entry for entries in found for entry in entries]
