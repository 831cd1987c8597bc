"""Bookings as the ledger has them: one by id or reference, and lists of them."""

import datetime as dt
import functools
import uuid
from collections.abc import Collection

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.bookings import Booking, BookingDetails, Price
from engine.claims import ClaimedItem
from engine.errors import IdempotencyKeyReused
from engine.ids import BookingId, claim_id, number_from_reference, parse_claim_id, reference_from_number
from engine.lifecycle import BLOCK_STATUSES, OWNING_STATUSES, UPCOMING_STATUSES
from engine.ports import Sealer, Standing
from persistence.database import Row, fetch_rows
from persistence.paging import BookingKey, Page, UpcomingKey, cut_page, decode_cursor
from persistence.schema import bookings, events, idempotency, usage

IDEMPOTENCY_TIME = dt.timedelta(hours=24)  # an idempotency key is remembered that long

NO_BLOCK = bookings.c.status.not_in(BLOCK_STATUSES)
_OWNING = ", ".join(f"'{status}'" for status in OWNING_STATUSES)
# Whether a booking has its places or had them: one that waits for its payment never did, nor one that ended waiting.
HAD_PLACES = f"""(bookings.status IN ({_OWNING}) OR EXISTS (
    SELECT FROM history WHERE history.booking_id = bookings.id AND history.to_status IN ({_OWNING})
))"""

logger = structlog.get_logger("holdfast.persistence")

_decode_items = msgspec.json.Decoder(tuple[ClaimedItem, ...]).decode
_decode_price = msgspec.json.Decoder(Price).decode


class BookingFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a listing is narrowed to; dates are those of booking, ``to_date`` excluded.

    ``q`` is a reference as somebody typed it, or a booking's id; ``within`` names the only events that may be told of.
    """

    customer_id: str | None = None
    event_id: str | None = None
    organizer_id: str | None = None
    status: str | None = None
    from_date: dt.datetime | None = None
    to_date: dt.datetime | None = None
    q: str | None = None
    within: Collection[str] | None = None


class SectionUsage(msgspec.Struct, frozen=True):
    """How many places of a counted section the ledger has sold on one leg."""

    section: int
    leg: int
    sold: int
    capacity: int


class Bookings:
    """Reads bookings; blocks, which lie among them, only by their id.

    Every method raises ``LedgerUnavailable`` when Postgres does not answer.
    """

    def __init__(self, engine: AsyncEngine, sealer: Sealer) -> None:
        self._engine = engine
        self._sealer = sealer

    @property
    def engine(self) -> AsyncEngine:
        """The database they are in; the audit asks it for more than bookings."""
        return self._engine

    async def find_booking(self, booking_id: BookingId) -> Booking | None:
        """The booking, or ``None`` when the ledger has none of this id (yet)."""
        key = parse_claim_id(booking_id)
        if key is None:
            return None
        return await self._find(bookings.c.id == key.uuid, bookings.c.event_id == key.event_id)

    async def find_standing(self, booking_id: BookingId) -> Standing:
        """What the ledger has of an entry's booking."""
        key = parse_claim_id(booking_id)
        if key is None:
            return "absent"
        query = sa.select(bookings.c.status, sa.literal_column(HAD_PLACES).label("had_places"))
        rows = await fetch_rows(
            self._engine, query.where(bookings.c.id == key.uuid, bookings.c.event_id == key.event_id)
        )
        if not rows:
            return "absent"
        if rows[0]["status"] == "payment_initiated":
            return "waiting"
        return "written" if rows[0]["had_places"] else "ended"

    async def find_by_reference(self, reference: str) -> Booking | None:
        """The booking of a reference as somebody typed it."""
        number = number_from_reference(reference)
        return None if number is None else await self._find(bookings.c.number == number, NO_BLOCK)

    async def list_bookings(self, wanted: BookingFilter, *, limit: int, cursor: str | None = None) -> Page[Booking]:
        """Bookings, the newest first.

        Raises:
            InvalidRequest: The cursor is none of this listing.
        """
        query = sa.select(bookings).where(*_conditions(wanted)).order_by(bookings.c.number.desc())
        if cursor is not None:
            query = query.where(bookings.c.number < decode_cursor(cursor, BookingKey).number)
        rows = await fetch_rows(self._engine, query.limit(limit + 1))
        return cut_page([self._open(row) for row in rows], [BookingKey(row["number"]) for row in rows], limit=limit)

    async def upcoming(
        self,
        customer_id: str,
        *,
        now: dt.datetime,
        within: Collection[str] | None = None,
        limit: int,
        cursor: str | None = None,
    ) -> Page[Booking]:
        """A customer's live bookings of events that start after *now*, the next one first; *within* as in a filter.

        Raises:
            InvalidRequest: The cursor is none of this listing.
        """
        query = (
            sa.select(bookings, events.c.starts_at)
            .join(events, events.c.id == bookings.c.event_id)
            .where(
                bookings.c.customer_id == customer_id,
                bookings.c.status.in_(UPCOMING_STATUSES),
                events.c.starts_at > now,
            )
            .order_by(events.c.starts_at, bookings.c.number)
        )
        if within is not None:
            query = query.where(bookings.c.event_id.in_(within))
        if cursor is not None:
            last = decode_cursor(cursor, UpcomingKey)
            query = query.where(sa.tuple_(events.c.starts_at, bookings.c.number) > sa.tuple_(last.at, last.number))
        rows = await fetch_rows(self._engine, query.limit(limit + 1))
        keys = [UpcomingKey(row["starts_at"], row["number"]) for row in rows]
        return cut_page([self._open(row) for row in rows], keys, limit=limit)

    async def usage_of(self, event_id: str) -> list[SectionUsage]:
        """What is sold of an event's counted sections, by section and leg."""
        query = (
            sa.select(usage.c.section, usage.c.leg, usage.c.sold, usage.c.capacity)
            .where(usage.c.event_id == event_id)
            .order_by(usage.c.section, usage.c.leg)
        )
        return [SectionUsage(**row) for row in await fetch_rows(self._engine, query)]

    async def find_replay(self, once: bytes, body_digest: bytes) -> Booking | None:
        """The booking that the idempotency key *once* made; ``None`` when the key is not known, or forgotten.

        Raises:
            IdempotencyKeyReused: It made one for another body.
        """
        query = (
            sa.select(bookings, idempotency.c.body_digest)
            .join(idempotency, idempotency.c.booking_id == bookings.c.id)
            .where(idempotency.c.scope == once, idempotency.c.created_at > sa.func.now() - IDEMPOTENCY_TIME)
        )
        rows = await fetch_rows(self._engine, query)
        if not rows:
            return None
        if rows[0]["body_digest"] != body_digest:
            raise IdempotencyKeyReused
        return self._open(rows[0])

    async def _find(self, *conditions: sa.ColumnElement[bool]) -> Booking | None:
        rows = await fetch_rows(self._engine, sa.select(bookings).where(*conditions))
        return self._open(rows[0]) if rows else None

    def _open(self, row: Row) -> Booking:
        return open_booking(row, self._sealer)


def open_booking(row: Row, sealer: Sealer) -> Booking:
    """A row of ``bookings`` as clients see it; where its details cannot be opened, as if they had been erased.

    That is for a person to look into, and must not keep the rest of it, or of a list that it is in, from anybody.
    """
    booking_id = BookingId(claim_id(row["id"].int, row["event_id"]))
    try:
        details = sealer.unseal(row["sealed"], booking_id)
    except ValueError as error:
        _tell_unreadable(booking_id, str(error))
        details = BookingDetails()
    return Booking(
        id=booking_id,
        reference=reference_from_number(row["number"]),
        event_id=row["event_id"],
        customer_id=row["customer_id"],
        status=row["status"],
        payment_status=row["payment_status"],
        version=row["version"],
        durable=True,
        items=_decode_items(row["items"]),
        from_=row["from_stop"],
        to=row["to_stop"],
        guest=details.guest,
        attendees=details.attendees,
        price=_decode_price(row["price"]) if row["price"] else Price(row["amount"], 0, 0, row["amount"]),
        amount=row["amount"],
        refunded=row["refunded"],
        currency=row["currency"],
        notes=details.notes,
        organizer_notes=row["organizer_notes"],
        source=details.source,
        metadata=details.metadata,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        confirmed_at=row["confirmed_at"],
        cancelled_at=row["cancelled_at"],
        cancelled_by=row["cancelled_by"],
        cancellation_reason=row["cancellation_reason"],
        checked_in_at=row["checked_in_at"],
        completed_at=row["completed_at"],
        expires_at=row["expires_at"],
        estimated_pickup_time=row["estimated_pickup_time"],
        estimated_dropoff_time=row["estimated_dropoff_time"],
        actual_pickup_time=row["actual_pickup_time"],
        actual_dropoff_time=row["actual_dropoff_time"],
    )


def _conditions(wanted: BookingFilter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [NO_BLOCK]
    if wanted.customer_id is not None:
        conditions.append(bookings.c.customer_id == wanted.customer_id)
    if wanted.event_id is not None:
        conditions.append(bookings.c.event_id == wanted.event_id)
    if wanted.organizer_id is not None:
        theirs = sa.select(events.c.id).where(events.c.organizer_id == wanted.organizer_id)
        conditions.append(bookings.c.event_id.in_(theirs))
    if wanted.status is not None:
        conditions.append(bookings.c.status == wanted.status)
    if wanted.from_date is not None:
        conditions.append(bookings.c.created_at >= wanted.from_date)
    if wanted.to_date is not None:
        conditions.append(bookings.c.created_at < wanted.to_date)
    if wanted.q is not None:
        conditions.append(_named(wanted.q))
    if wanted.within is not None:
        conditions.append(bookings.c.event_id.in_(wanted.within))
    return conditions


def _named(q: str) -> sa.ColumnElement[bool]:
    if (number := number_from_reference(q)) is not None:
        return bookings.c.number == number
    key = parse_claim_id(q)
    booking_id = uuid.UUID(int=0) if key is None else key.uuid
    return bookings.c.id == booking_id


@functools.lru_cache(maxsize=1_000)  # once for each: clients ask for the same lists again and again
def _tell_unreadable(booking_id: BookingId, reason: str) -> None:
    logger.error("details cannot be opened", booking_id=booking_id, reason=reason)
