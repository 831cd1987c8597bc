"""The audit: Redis against ledger and journal, event by event, while the sale goes on.

A difference is reported when two readings a moment apart have both found it: what one of them caught in the middle of a
change is gone, or another, by the next. Nothing is written. Work is proportional to an event's bookings; memory to its
seats, and to a bounded number of its live holds.
"""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import msgspec

from engine.backlog import read_backlog
from engine.catalog import Catalog
from engine.errors import EventNotFound, EventNotOpen, StoreUnavailable
from engine.events import SellableEvent
from engine.kernel import Kernel
from persistence.audit_journal import JournalWatch
from persistence.audit_reading import DIFFERENCES_MAX, Reading, read_event
from persistence.bookings import Bookings
from persistence.differences import Difference

SETTLE_S = 0.25  # between two readings: longer than anything that is half done stays so
EXACT_ATTEMPTS_MAX = 4  # readings in the hope of one whose sums are of one moment; nearly always the first is
LIVE_BATCH = 500


class EventAudit(msgspec.Struct, frozen=True):
    """What was found of one event; ``loaded`` says whether Redis has it.

    Unless ``steady``, it changed meanwhile, and customers' totals were not compared. Unless ``exact``, more bookings
    went than are remembered, another repair came in between, or there are more live holds than can be read at once:
    some sums were not compared either.
    """

    event_id: str
    loaded: bool
    steady: bool
    exact: bool
    epoch: int | None
    seq: int | None
    holds: int
    bookings: int
    differences: tuple[Difference, ...]

    @property
    def drift(self) -> int:
        """How many differences there are."""
        return len(self.differences)


class JournalState(msgspec.Struct, frozen=True):
    """How many bookings wait to be written to the ledger; the age in seconds of the one that waits longest."""

    entries: int
    oldest_age: float | None


class Audit(msgspec.Struct, frozen=True):
    """What was found, as ``/v1/admin/audit`` and ``holdfast audit --json`` tell it; ``drift`` is 0 when all agree."""

    events: int
    drift: int
    differences: tuple[Difference, ...]
    journal: JournalState
    checked_at: dt.datetime
    audited: tuple[EventAudit, ...]

    @property
    def by_kind(self) -> Counter[str]:
        """How many differences of which kind."""
        return Counter(difference.kind for difference in self.differences)


async def audit_events(
    kernel: Kernel, bookings: Bookings, catalog: Catalog, event_ids: Sequence[str] | None = None
) -> Audit:
    """Audit the events named, or all whose state is in Redis.

    Raises:
        EventNotFound, EventNotOpen: One of those named does not exist, or is a draft.
        StoreUnavailable, LedgerUnavailable: A server does not answer.
    """
    audited, journals = [], JournalWatch(kernel)
    for event_id in await live_events(kernel) if event_ids is None else event_ids:
        try:
            audited.append(await audit_event(kernel, bookings, await catalog.get(event_id), journals=journals))
        except (EventNotFound, EventNotOpen):
            if event_ids is not None:
                raise
            audited.append(unknown_event(event_id))
    differences = tuple(difference for event in audited for difference in event.differences)
    return Audit(
        events=len(audited),
        drift=len(differences),
        differences=differences,
        journal=await _journal_state(kernel),
        checked_at=dt.datetime.now(dt.UTC),
        audited=tuple(audited),
    )


async def audit_event(
    kernel: Kernel, bookings: Bookings, sellable: SellableEvent, *, journals: JournalWatch | None = None
) -> EventAudit:
    """Audit one event; *journals* are shared with others that are audited at about the same time.

    Raises:
        StoreUnavailable, LedgerUnavailable: A server does not answer.
    """
    reader = EventReader(kernel, bookings, sellable, journals or JournalWatch(kernel))
    audit, _ = await reader.confirmed(await reader.read())
    return audit


class EventReader:
    """Readings of one event; *turns* bounds how many are under way at once in the process."""

    def __init__(
        self,
        kernel: Kernel,
        bookings: Bookings,
        sellable: SellableEvent,
        journals: JournalWatch,
        turns: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        self._kernel = kernel
        self._bookings = bookings
        self._sellable = sellable
        self._journals = journals
        self._turns = turns or nullcontext()

    async def confirmed(self, first: Reading) -> tuple[EventAudit, Reading]:
        """What a second reading finds as well, if *first* has found anything; and the last reading."""
        if not first.differences:
            return self._audit(first, first.differences), first
        await asyncio.sleep(SETTLE_S)
        second = await self.read(again=True)
        before = {difference.identity for difference in first.differences}
        return self._audit(second, [one for one in second.differences if one.identity in before]), second

    async def read(self, *, again: bool = False) -> Reading:
        """The first reading that is complete, or the last of a few."""
        reading: Reading | None = None
        for attempt in range(EXACT_ATTEMPTS_MAX):
            try:
                async with self._turns:
                    reading = await read_event(
                        self._kernel, self._bookings, self._sellable, journals=self._journals, again=again
                    )
            except StoreUnavailable:  # loaded anew meanwhile, perhaps: that takes a moment
                if attempt == EXACT_ATTEMPTS_MAX - 1:
                    raise
                await asyncio.sleep(SETTLE_S)
                continue
            if reading.complete or len(reading.differences) >= DIFFERENCES_MAX:
                break
        assert reading is not None  # the last attempt raises or returns
        return reading

    def _audit(self, reading: Reading, differences: Collection[Difference]) -> EventAudit:
        return EventAudit(
            event_id=self._sellable.event.id,
            loaded=reading.loaded,
            steady=reading.steady,
            exact=reading.exact,
            epoch=reading.epoch,
            seq=reading.seq,
            holds=reading.hold_count,
            bookings=reading.booking_count,
            differences=tuple(sorted(differences, key=_order)),
        )


async def live_events(kernel: Kernel) -> list[str]:
    """The ids of all events whose state is in Redis, sorted."""
    return sorted([event_id async for _, event_id in live_by_partition(kernel)])


async def live_by_partition(kernel: Kernel) -> AsyncIterator[tuple[int, str]]:
    """Partition and id of every event whose state is in Redis, each once."""
    for partition in range(kernel.partitions):
        cursor, found = b"0", set[bytes]()
        while True:
            cursor, members = await kernel.partition_command(partition, "SSCAN", "live", cursor, "COUNT", LIVE_BATCH)
            for member in members:
                if member not in found:
                    found.add(member)
                    yield partition, member.decode()
            if cursor == b"0":
                break


async def _journal_state(kernel: Kernel) -> JournalState:
    backlog = await read_backlog(kernel)
    return JournalState(entries=backlog.entries, oldest_age=backlog.oldest_age_s)


def unknown_event(event_id: str) -> EventAudit:
    """The audit of an event that Redis has and the ledger does not know."""
    return EventAudit(event_id, True, True, True, None, None, 0, 0, (Difference(event_id, "event_unknown"),))


def unread_event(event_id: str) -> EventAudit:
    """The audit of an event that could not be read."""
    return EventAudit(event_id, True, False, False, None, None, 0, 0, ())


def _order(difference: Difference) -> tuple[str, ...]:
    return tuple("" if value is None else f"{value:0>12}" for value in msgspec.structs.astuple(difference))
