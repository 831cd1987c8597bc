"""The audit: Redis against ledger and journal, event by event, while the sale goes on.

A difference is reported when two readings a moment apart have both found it: what one of them caught in the middle of a
change is gone, or another, by the next. Nothing is written. Work is proportional to an event's bookings;
memory to its seats and live holds.
"""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Sequence

import msgspec

from engine.backlog import read_backlog
from engine.catalog import Catalog
from engine.errors import EventNotFound, StoreUnavailable
from engine.events import SellableEvent
from engine.kernel import Kernel
from persistence.audit_reading import Reading, read_event
from persistence.bookings import Bookings
from persistence.differences import Difference

SETTLE_S = 0.25  # between two readings: longer than anything that is half done stays so
STEADY_ATTEMPTS_MAX = 4  # readings in the hope of one during which nothing changed
LIVE_BATCH = 500


class EventAudit(msgspec.Struct, frozen=True):
    """What was found of one event; ``loaded`` says whether Redis has it.

    Unless ``steady``, it changed all the while, and customers' totals were not compared.
    """

    event_id: str
    loaded: bool
    steady: bool
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
        EventNotFound: One of those named does not exist.
        StoreUnavailable, LedgerUnavailable: A server does not answer.
    """
    audited = []
    if event_ids is None:
        for event_id in await live_events(kernel):
            try:
                audited.append(await audit_event(kernel, bookings, await catalog.get(event_id)))
            except EventNotFound:
                audited.append(_unknown(event_id))
    else:
        audited = [await audit_event(kernel, bookings, await catalog.get(event_id)) for event_id in event_ids]
    differences = tuple(difference for event in audited for difference in event.differences)
    return Audit(
        events=len(audited),
        drift=len(differences),
        differences=differences,
        journal=await _journal_state(kernel),
        checked_at=dt.datetime.now(dt.UTC),
        audited=tuple(audited),
    )


async def audit_event(kernel: Kernel, bookings: Bookings, sellable: SellableEvent) -> EventAudit:
    """Audit one event.

    Raises:
        StoreUnavailable, LedgerUnavailable: A server does not answer.
    """
    reading = await _read_steadily(kernel, bookings, sellable)
    found = reading.differences
    if found:
        await asyncio.sleep(SETTLE_S)
        reading = await _read_steadily(kernel, bookings, sellable)
        before = {difference.identity for difference in found}
        found = frozenset(difference for difference in reading.differences if difference.identity in before)
    return EventAudit(
        event_id=sellable.event.id,
        loaded=reading.loaded,
        steady=reading.steady,
        epoch=reading.epoch,
        seq=reading.seq,
        holds=reading.hold_count,
        bookings=reading.booking_count,
        differences=tuple(sorted(found, key=_order)),
    )


async def _read_steadily(kernel: Kernel, bookings: Bookings, sellable: SellableEvent) -> Reading:
    """The first reading during which the event stood still, or the last of a few."""
    reading: Reading | None = None
    for attempt in range(STEADY_ATTEMPTS_MAX):
        try:
            reading = await read_event(kernel, bookings, sellable)
        except StoreUnavailable:  # loaded anew meanwhile, perhaps: that takes a moment
            if attempt == STEADY_ATTEMPTS_MAX - 1:
                raise
            await asyncio.sleep(SETTLE_S)
            continue
        if reading.steady:
            break
    assert reading is not None  # the last attempt raises or returns
    return reading


async def live_events(kernel: Kernel) -> list[str]:
    """The ids of all events whose state is in Redis.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    found: set[str] = set()
    for partition in range(kernel.partitions):
        cursor = b"0"
        while True:
            cursor, members = await kernel.partition_command(partition, "SSCAN", "live", cursor, "COUNT", LIVE_BATCH)
            found.update(member.decode() for member in members)
            if cursor == b"0":
                break
    return sorted(found)


async def _journal_state(kernel: Kernel) -> JournalState:
    backlog = await read_backlog(kernel)
    return JournalState(entries=backlog.entries, oldest_age=backlog.oldest_age_s)


def _unknown(event_id: str) -> EventAudit:
    return EventAudit(event_id, True, True, None, None, 0, 0, (Difference(event_id, "event_unknown"),))


def _order(difference: Difference) -> tuple[str, ...]:
    return tuple("" if value is None else f"{value:0>12}" for value in msgspec.structs.astuple(difference))
