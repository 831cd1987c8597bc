"""What administrators ask of an installation: is all well, mend what is not, and how much of everything is there."""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Literal

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.backlog import read_backlog
from engine.catalog import Catalog
from engine.errors import EventNotFound, EventNotOpen
from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.loader import EventLoader
from persistence.audit import Audit, JournalState, audit_events, live_by_partition, live_events
from persistence.audit_journal import JournalWatch
from persistence.bookings import Bookings
from persistence.database import fetch_rows
from persistence.differences import Difference
from persistence.publishing.letters import OutboxState, outbox_state
from persistence.repair import repair_event
from persistence.schema import bookings as booking_table
from persistence.schema import events, reconcilers

EVENTS_AT_ONCE = 4  # of a round: enough to hide round trips, and the sale goes on beside it
DETAILS_MAX = 1_000  # differences and events told in full; the counts beside them are of all
RECONCILER_LIVE_S = 30.0  # ten of its heartbeats
COUNTED_AT_ONCE = 500  # events whose holds are counted in one go

logger = structlog.get_logger("holdfast.oversight")


class EventRound(msgspec.Struct, frozen=True):
    """What one round found of one event, what of it was repaired, and what needs a person."""

    event_id: str
    found: tuple[Difference, ...]
    repaired: tuple[Difference, ...]
    unresolved: tuple[Difference, ...]
    rebuilt: bool = False


class EventFailure(msgspec.Struct, frozen=True):
    """An event that could not be looked at; ``reason`` names the error."""

    event_id: str
    reason: str


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round of repair over ``events`` events, ``done`` of which are done; the counts are of these.

    ``results`` are of the events with differences; of very many, the first.
    """

    status: Literal["running", "finished"]
    begun_at: dt.datetime
    finished_at: dt.datetime | None
    events: int
    done: int
    found: int
    repaired: int
    unresolved: int
    results: tuple[EventRound, ...]
    failures: tuple[EventFailure, ...]


class ReconcilerSeen(msgspec.Struct, frozen=True):
    """A reconciler's last heartbeat."""

    id: str
    host: str
    pid: int
    started_at: dt.datetime
    seen_at: dt.datetime
    partitions: int
    live: bool


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything there is.

    ``events`` by status, ``live_events`` those whose state is in Redis, ``holds`` those of them that are alive or not
    yet reaped; ``bookings`` the number of the latest one, of which a few may have been refused.
    """

    events: dict[str, int]
    live_events: int
    holds: int
    bookings: int
    journal: JournalState
    dead_letters: int
    outbox: OutboxState
    reconcilers: tuple[ReconcilerSeen, ...]
    checked_at: dt.datetime


RepairEvent = Callable[[SellableEvent], Awaitable[EventRound]]
"""Compares one event with the ledger and repairs what differs."""


def repair_with(kernel: Kernel, bookings: Bookings, loader: EventLoader, journals: JournalWatch) -> RepairEvent:
    """How one event is repaired over these parts; see :func:`persistence.repair.repair_event`."""

    async def repair(sellable: SellableEvent) -> EventRound:
        done = await repair_event(kernel, bookings, loader, sellable, journals=journals)
        return EventRound(done.event_id, done.found, done.repaired, done.unresolved, done.rebuilt)

    return repair


class Oversight:
    """Audits, rounds of repair, and the overview. *kernel* should be a patient one."""

    def __init__(
        self, kernel: Kernel, bookings: Bookings, catalog: Catalog, database: AsyncEngine, repair: RepairEvent
    ) -> None:
        self._kernel = kernel
        self._bookings = bookings
        self._catalog = catalog
        self._database = database
        self._repair = repair
        self._auditing = asyncio.Lock()
        self._rounds: dict[str | None, _Running] = {}

    async def audit(self, event_id: str | None) -> Audit:
        """Audit one event, or all in Redis, now. Several at once take turns: dashboards must not multiply the work.

        Raises:
            EventNotFound: There is none of this id.
            StoreUnavailable, LedgerUnavailable: A server does not answer.
        """
        async with self._auditing:
            event_ids = None if event_id is None else [event_id]
            return await audit_events(self._kernel, self._bookings, self._catalog, event_ids)

    async def reconcile(self, event_id: str | None, *, wait_s: float) -> Round:
        """Repair one event, or all in Redis: how far that has come after *wait_s*; it goes on to its end by itself.

        Whoever asks for the same while it runs in this process joins it.

        Raises:
            EventNotFound: There is none of this id.
            StoreUnavailable, LedgerUnavailable: A server does not answer, so that not even a round can begin.
        """
        running = self._rounds.get(event_id)
        if running is None:
            if event_id is not None:
                await self._catalog.get(event_id)
            event_ids = await live_events(self._kernel) if event_id is None else [event_id]
            running = self._rounds.get(event_id)  # somebody may have begun meanwhile
        if running is None:
            running = self._rounds[event_id] = _Running(event_ids, self._repair_one)
            running.task.add_done_callback(lambda _: self._rounds.pop(event_id, None))
        await asyncio.wait([running.task], timeout=wait_s)
        return running.report()

    async def reconcilers(self) -> tuple[ReconcilerSeen, ...]:
        """The reconcilers that are known, the one seen last first.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        age_s = sa.extract("epoch", sa.func.clock_timestamp() - reconcilers.c.seen_at)
        query = sa.select(reconcilers, age_s.label("age_s")).order_by(reconcilers.c.seen_at.desc())
        return tuple(
            ReconcilerSeen(
                id=str(row["id"]),
                host=row["host"],
                pid=row["pid"],
                started_at=row["started_at"],
                seen_at=row["seen_at"],
                partitions=row["partitions"],
                live=float(row["age_s"]) <= RECONCILER_LIVE_S,
            )
            for row in await fetch_rows(self._database, query)
        )

    async def overview(self) -> Overview:
        """How much of everything there is now.

        Raises:
            StoreUnavailable, LedgerUnavailable: A server does not answer.
        """
        by_status = sa.select(events.c.status, sa.func.count().label("count")).group_by(events.c.status)
        latest = sa.select(sa.func.coalesce(sa.func.max(booking_table.c.number), 0).label("number"))
        live = [pair async for pair in live_by_partition(self._kernel)]
        backlog = await read_backlog(self._kernel)
        return Overview(
            events={row["status"]: row["count"] for row in await fetch_rows(self._database, by_status)},
            live_events=len(live),
            holds=await self._count_holds(live),
            bookings=(await fetch_rows(self._database, latest))[0]["number"],
            journal=JournalState(backlog.entries, backlog.oldest_age_s),
            dead_letters=backlog.dead_letters,
            outbox=await outbox_state(self._database),
            reconcilers=await self.reconcilers(),
            checked_at=dt.datetime.now(dt.UTC),
        )

    async def close(self) -> None:
        """Stop the rounds under way: a repair that was cut off is done by the next."""
        tasks = [running.task for running in self._rounds.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _repair_one(self, event_id: str) -> EventRound | EventFailure:
        try:
            return await self._repair(await self._catalog.get(event_id))
        except (EventNotFound, EventNotOpen):
            unknown = (Difference(event_id, "event_unknown"),)
            return EventRound(event_id, unknown, (), unknown)
        except Exception as error:  # the next event may fare better
            logger.warning("event not reconciled", event_id=event_id, error=type(error).__name__, reason=str(error))
            return EventFailure(event_id, type(error).__name__)

    async def _count_holds(self, live: Sequence[tuple[int, str]]) -> int:
        """By partition and id alone: to read all these events would put those on sale out of the catalog."""
        total = 0
        for first in range(0, len(live), COUNTED_AT_ONCE):
            batch = live[first : first + COUNTED_AT_ONCE]
            counting = [self._kernel.event_command_in(*one, "HLEN", "holds") for one in batch]
            total += sum(await asyncio.gather(*counting))
        return total


class _Running:
    """A round under way, a few events at a time."""

    def __init__(self, event_ids: Sequence[str], repair: Callable[[str], Awaitable[EventRound | EventFailure]]) -> None:
        self._event_ids = event_ids
        self._repair = repair
        self._begun_at = dt.datetime.now(dt.UTC)
        self._finished_at: dt.datetime | None = None
        self._done = 0
        self._counts: Counter[str] = Counter()
        self._results: list[EventRound] = []
        self._failures: list[EventFailure] = []
        self.task = asyncio.create_task(self._run(), name="round of repair")

    def report(self) -> Round:
        """How far it has come.

        Raises:
            Exception: What ended it before its time.
        """
        if self.task.done():
            self.task.result()
        return Round(
            status="running" if self._finished_at is None else "finished",
            begun_at=self._begun_at,
            finished_at=self._finished_at,
            events=len(self._event_ids),
            done=self._done,
            found=self._counts["found"],
            repaired=self._counts["repaired"],
            unresolved=self._counts["unresolved"],
            results=tuple(self._results),
            failures=tuple(self._failures),
        )

    async def _run(self) -> None:
        waiting = iter(self._event_ids)  # shared: each worker takes the next
        async with asyncio.TaskGroup() as group:
            for _ in range(min(EVENTS_AT_ONCE, len(self._event_ids))):
                group.create_task(self._repair_all(waiting))
        self._finished_at = dt.datetime.now(dt.UTC)
        logger.info("round of repair finished", events=self._done, **self._counts)

    async def _repair_all(self, waiting: Iterator[str]) -> None:
        for event_id in waiting:
            outcome = await self._repair(event_id)
            self._done += 1
            if isinstance(outcome, EventFailure):
                if len(self._failures) < DETAILS_MAX:
                    self._failures.append(outcome)
            elif outcome.found:
                self._note(outcome)

    def _note(self, outcome: EventRound) -> None:
        self._counts["found"] += len(outcome.found)
        self._counts["repaired"] += len(outcome.repaired)
        self._counts["unresolved"] += len(outcome.unresolved)
        if len(self._results) < DETAILS_MAX:
            cut = {name: getattr(outcome, name)[:DETAILS_MAX] for name in ("found", "repaired", "unresolved")}
            self._results.append(msgspec.structs.replace(outcome, **cut))
