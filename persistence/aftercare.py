"""Aftercare: what becomes of an event's bookings once it is cancelled, or over.

``events.aftercare_at`` says when they are to be looked through: at the event's end, or at once when it is cancelled.
Whoever takes care puts that off first, by a short lease, and so works alone; should they die the lease lapses, and
somebody else goes on, for a booking that was ended is not looked at again. When nothing is left the event is looked at
now and then for a day more, because bookings that were accepted before may still come out of a journal; then never,
unless one comes even later: who writes it has the event looked through again (``persistence.ledger_batch``)::

    last look at the event                     commit of a late booking
    ----------------------                     ------------------------
    no booking is left
                                               events row FOR KEY SHARE, aftercare_at is there; writes, …
    events row FOR UPDATE: waits
                                               COMMIT
    a booking is left: looks again soon

So either the last look sees the booking, or whoever writes it sees that there will be no other look.
"""

import asyncio
import datetime as dt
import time
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.errors import Unavailable
from engine.events import DAY, Event, event_end_at
from engine.figures import ENDED
from engine.lifecycle import UPCOMING_STATUSES, Step
from persistence.booking_desk import BookingDesk
from persistence.database import Row, fetch_rows, in_transaction
from persistence.ending import PAGE, end_all
from persistence.event_rows import event_from_row
from persistence.schema import bookings, events

LEASE_S = 20.0  # a page takes a second or two; what a crash leaves is taken up after this
STEP_S = 5.0  # of one event at a stretch, where others wait
# Until an event of which nothing is left is looked at again: soon while bookings may be on their way to the ledger.
SOON_S, SOON_FOR = 10.0, dt.timedelta(minutes=5)
AGAIN_S = 600.0
INTERRUPTED_MAX = 1_000  # events remembered of which some bookings cannot be ended; more begin at their first again
LATE_FOR = DAY  # a journal that has waited for Postgres longer than this needs a person anyway
CANCELLED_REASON = "the event was cancelled"
OVER_REASON = "the event is over"

logger = structlog.get_logger("holdfast.aftercare")


class Care(msgspec.Struct, frozen=True):
    """What is to be done with an event's bookings: the step for each status, why, and what figures call it."""

    steps: dict[str, Step]
    reason: str
    kind: str


_CANCELLED = Care(dict.fromkeys(UPCOMING_STATUSES, "cancel"), CANCELLED_REASON, "event_cancelled")
_OVER: dict[str, Care | None] = {
    "keep": None,
    "complete": Care(
        {"pending": "expire", "confirmed": "complete", "checked_in": "complete"}, OVER_REASON, "event_over"
    ),
    "no_show": Care(
        {"pending": "expire", "confirmed": "mark_no_show", "checked_in": "complete"}, OVER_REASON, "event_over"
    ),
}


def care_for(event: Event) -> Care | None:
    """What is to be done with the bookings of an event that is cancelled or over."""
    return _CANCELLED if event.status == "cancelled" else _OVER[event.definition.policy.after_event]


class _Visit(msgspec.Struct):
    """One look through the bookings of an event: until when it is leased, how much was done, and what went wrong."""

    lease: dt.datetime | None
    stop_at: float
    ended: int = 0
    problem: Exception | None = None


class Aftercare:
    """Looks through the bookings of events that are cancelled or over, in any number of processes."""

    def __init__(self, database: AsyncEngine, desk: BookingDesk) -> None:
        self._database = database
        self._desk = desk
        self._tasks: set[asyncio.Task[None]] = set()
        self._begin: dict[str, int] = {}
        """Behind which booking an event's next visit begins, where the last one was interrupted among failures."""

    def begin(self, event_id: str) -> None:
        """Take care of an event now, in the background. Should this process die, a reconciler goes on."""
        task = asyncio.create_task(self._take_care_to_the_end(event_id), name=f"aftercare of {event_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop what is under way; its leases lapse."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def find_due(self, *, limit: int) -> list[str]:
        """Events whose bookings are to be looked through, the one that waits longest first.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        due = sa.select(events.c.id).where(events.c.aftercare_at <= sa.func.now())
        rows = await fetch_rows(self._database, due.order_by(events.c.aftercare_at).limit(limit))
        return [row["id"] for row in rows]

    async def count_left(self, event_id: str) -> int:
        """How many bookings of an event that is due are to be ended.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        rows = await fetch_rows(self._database, sa.select(events).where(events.c.id == event_id))
        care = care_for(event_from_row(rows[0])) if rows else None
        if care is None:
            return 0
        query = sa.select(sa.func.count().label("left")).where(
            bookings.c.event_id == event_id, bookings.c.status.in_(care.steps)
        )
        return int((await fetch_rows(self._database, query))[0]["left"])

    async def take_care(self, event_id: str, *, at_most_s: float = STEP_S) -> int:
        """End what is to be ended of an event that is due, for a while; returns how many were.

        Does nothing when it is not due, or somebody else is at it. Bookings that cannot be ended keep no others from
        it: a visit that is interrupted among them is followed by one that begins behind them.

        Raises:
            LedgerUnavailable: Postgres does not answer. The lease lapses, and then it goes on.
            Exception: What was wrong with the first that could not be ended, when the others have been tried. All of
                them are tried again when the lease has lapsed.
        """
        if (row := await self._lease(event_id)) is None:
            return 0
        event = event_from_row(row)
        care, visit = care_for(event), _Visit(row["aftercare_at"], time.monotonic() + at_most_s)
        is_whole = care is None or await self._look_through(event_id, event, care, visit)
        if visit.problem is not None:
            raise visit.problem
        if is_whole and visit.lease is not None:
            pause_s = None if care is None else _pause_after(event)
            if care is not None and pause_s is None:
                await self._look_last(event_id, visit.lease, care)
            else:
                await self._put_off(event_id, visit.lease, pause_s)
        if visit.ended:
            logger.info("bookings of an event ended", event_id=event_id, bookings=visit.ended)
        return visit.ended

    async def _look_through(self, event_id: str, event: Event, care: Care, visit: _Visit) -> bool:
        """Go round all bookings of an event once; returns whether it came to that."""
        begin = self._begin.pop(event_id, -1)
        stretches: list[tuple[int, int | None]] = [(begin, None)] + ([(-1, begin)] if begin >= 0 else [])
        for after, last in stretches:
            while page := await self._page(event_id, care, after, last):
                count, error = await end_all(self._desk, page, care.steps, event=event.definition, reason=care.reason)
                ENDED.add(care.kind, count=count)
                visit.ended, visit.problem, after = visit.ended + count, visit.problem or error, page[-1]["number"]
                is_interrupted = time.monotonic() > visit.stop_at
                visit.lease = await self._put_off(event_id, visit.lease, 0.0 if is_interrupted else LEASE_S)
                if is_interrupted and visit.problem is not None and len(self._begin) < INTERRUPTED_MAX:
                    self._begin[event_id] = after
                if is_interrupted or visit.lease is None:
                    return False
        return True

    async def _page(self, event_id: str, care: Care, after: int, last: int | None) -> Sequence[Row]:
        """The next of an event's bookings that are to be ended, up to number *last*."""
        query = sa.select(bookings.c.id, bookings.c.event_id, bookings.c.number, bookings.c.status).where(
            bookings.c.event_id == event_id, bookings.c.number > after, bookings.c.status.in_(care.steps)
        )
        if last is not None:
            query = query.where(bookings.c.number <= last)
        return await fetch_rows(self._database, query.order_by(bookings.c.number).limit(PAGE))

    async def _take_care_to_the_end(self, event_id: str) -> None:
        try:
            while await self.take_care(event_id):
                pass
        except Unavailable as error:
            logger.warning("aftercare is left to a reconciler", event_id=event_id, reason=str(error))

    async def _lease(self, event_id: str) -> Row | None:
        """Put the event off for everybody else; ``None`` if somebody has, or it is not due."""
        due = (events.c.id == event_id, events.c.aftercare_at <= sa.func.now())
        leased = sa.update(events).where(*due).values(aftercare_at=_in_seconds(LEASE_S)).returning(events)

        async def work(connection: AsyncConnection) -> Row | None:
            row: Row | None = (await connection.execute(leased)).mappings().one_or_none()
            return row

        return await in_transaction(self._database, work)

    async def _put_off(self, event_id: str, lease: dt.datetime | None, seconds: float | None) -> dt.datetime | None:
        """Until when the event is put off now; ``None`` if for good, or if the *lease* is not ours any more.

        The event may have been cancelled meanwhile, which makes it due at once: that must not be overwritten.
        """
        at = None if seconds is None else _in_seconds(seconds)
        held = (events.c.id == event_id, events.c.aftercare_at == lease)
        later = sa.update(events).where(*held).values(aftercare_at=at).returning(events.c.aftercare_at)

        async def work(connection: AsyncConnection) -> dt.datetime | None:
            until: dt.datetime | None = (await connection.execute(later)).scalar_one_or_none()
            return until

        return await in_transaction(self._database, work)

    async def _look_last(self, event_id: str, lease: dt.datetime, care: Care) -> None:
        """Look at the event never again, unless a booking has come since the last page was read."""
        held = (events.c.id == event_id, events.c.aftercare_at == lease)
        left = sa.select(sa.exists().where(bookings.c.event_id == event_id, bookings.c.status.in_(care.steps)))

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(sa.select(events.c.id).where(*held).with_for_update())).first() is None:
                return
            is_any_left = (await connection.execute(left)).scalar_one()
            at = _in_seconds(SOON_S) if is_any_left else None
            await connection.execute(sa.update(events).where(events.c.id == event_id).values(aftercare_at=at))

        await in_transaction(self._database, work)


def _pause_after(event: Event) -> float | None:
    """Until an event of which nothing is left is looked at again; ``None``: once more, for the last time."""
    since = event.updated_at if event.status == "cancelled" else event_end_at(event.definition)
    age = dt.datetime.now(dt.UTC) - since
    if age > LATE_FOR:
        return None
    return SOON_S if age < SOON_FOR else AGAIN_S


def _in_seconds(seconds: float) -> sa.ColumnElement[dt.datetime]:
    return sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
