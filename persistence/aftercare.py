"""Aftercare: what becomes of an event's bookings once it is cancelled, or over.

``events.aftercare_at`` says when they are to be looked through: at the event's end, or at once when it is cancelled.
Whoever takes care puts that off first, by a short lease, and so works alone; should they die the lease lapses, and
somebody else goes on, for a booking that was ended is not looked at again. When nothing is left the event is looked at
now and then for a day more, because bookings that were accepted before may still come out of a journal; then never.
"""

import asyncio
import datetime as dt
import time

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


class Aftercare:
    """Looks through the bookings of events that are cancelled or over, in any number of processes."""

    def __init__(self, database: AsyncEngine, desk: BookingDesk) -> None:
        self._database = database
        self._desk = desk
        self._tasks: set[asyncio.Task[None]] = set()

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

        Does nothing when it is not due, or somebody else is at it.

        Raises:
            LedgerUnavailable: Postgres does not answer. The lease lapses, and then it goes on.
        """
        if (row := await self._lease(event_id)) is None:
            return 0
        event = event_from_row(row)
        care, lease = care_for(event), row["aftercare_at"]
        ended, after, stop_at = 0, -1, time.monotonic() + at_most_s
        while care is not None:
            query = sa.select(bookings.c.id, bookings.c.event_id, bookings.c.number, bookings.c.status).where(
                bookings.c.event_id == event_id, bookings.c.number > after, bookings.c.status.in_(care.steps)
            )
            page = await fetch_rows(self._database, query.order_by(bookings.c.number).limit(PAGE))
            if not page:
                break
            count = await end_all(self._desk, page, care.steps, event=event.definition, reason=care.reason)
            ENDED.add(care.kind, count=count)
            ended, after = ended + count, page[-1]["number"]
            is_interrupted = time.monotonic() > stop_at
            lease = await self._put_off(event_id, lease, 0.0 if is_interrupted else LEASE_S)
            if is_interrupted or lease is None:
                return ended
        await self._put_off(event_id, lease, _pause_after(event, care))
        if ended:
            logger.info("bookings of an event ended", event_id=event_id, bookings=ended)
        return ended

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

    async def _put_off(self, event_id: str, lease: dt.datetime, seconds: float | None) -> dt.datetime | None:
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


def _pause_after(event: Event, care: Care | None) -> float | None:
    """Until an event of which nothing is left is looked at again; ``None``: never."""
    since = event.updated_at if event.status == "cancelled" else event_end_at(event.definition)
    age = dt.datetime.now(dt.UTC) - since
    if care is None or age > LATE_FOR:
        return None
    return SOON_S if age < SOON_FOR else AGAIN_S


def _in_seconds(seconds: float) -> sa.ColumnElement[dt.datetime]:
    return sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
