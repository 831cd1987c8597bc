"""Entries of waitlists in Postgres: each step in the transaction of whoever takes it, with its word in the outbox."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine import figures
from engine.claims import ItemRequest
from engine.errors import AlreadyInLine, EntryNotFound
from engine.events import SellableEvent
from engine.ids import HoldId, claim_id, new_claim_id, parse_claim_id
from engine.waitlist import LIVE_STATUSES, EntryStatus, Offer, WaitlistEntry
from persistence.database import Row, fetch_rows, in_transaction
from persistence.schema import IS_IN_LINE, bookings, events, outbox, waitlist

_decode_items = msgspec.json.Decoder(list[ItemRequest]).decode
# Of bookings that may never have come about: an unpaid one leaves the hold, and whether that lives only Redis knows.
_UNSURE = ("payment_initiated", "failed", "expired")
_NEVER_TOLD = frozenset({"waiting"})  # back in line: the offer was lost, and the next one is told


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to wait for."""

    items: Sequence[ItemRequest]
    from_stop: str | None
    to_stop: str | None
    customer_id: str
    priority: int


async def cancel_past(engine: AsyncEngine, *, limit: int) -> int:
    """End the entries of events that are off sale; offers live on, as holds do, unless the event was cancelled.

    Redis hears of them as of all that are not settled. Returns how many there were.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """

    async def step(connection: AsyncConnection) -> int:
        ended = (await connection.execute(_CANCEL_PAST, {"limit": limit})).mappings().all()
        for row in ended:
            await _tell(connection, row)
        return len(ended)

    return await in_transaction(engine, step)


async def rows_to_settle(
    engine: AsyncEngine, *conditions: sa.ColumnElement[bool], after: UUID, limit: int
) -> Sequence[Row]:
    """A page of entries, as :meth:`Waitlist.settle_row` wants them, in order of their ids.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    query = _TO_SETTLE.where(waitlist.c.id > after, *conditions).order_by(waitlist.c.id).limit(limit)
    return await fetch_rows(engine, query)


def _ahead() -> Any:
    """How many are in line before an entry, as a column of it."""
    other = waitlist.alias("other")
    in_front = sa.or_(
        other.c.priority > waitlist.c.priority,
        sa.and_(
            other.c.priority == waitlist.c.priority,
            sa.tuple_(other.c.joined_at, other.c.id) < sa.tuple_(waitlist.c.joined_at, waitlist.c.id),
        ),
    )
    query = sa.select(sa.func.count()).where(
        other.c.event_id == waitlist.c.event_id, other.c.status == "waiting", in_front
    )
    return query.scalar_subquery()


SELECT_ENTRIES = sa.select(waitlist, sa.case((waitlist.c.status == "waiting", _ahead() + 1)).label("position"))
_TO_SETTLE = sa.select(
    waitlist,
    (waitlist.c.expires_at <= sa.func.now()).label("is_over"),
    sa.exists().where(bookings.c.id == waitlist.c.id, bookings.c.status.not_in(_UNSURE)).label("is_booked"),
    sa.exists().where(bookings.c.id == waitlist.c.id).label("was_tried"),
    sa.select(events.c.group_id).where(events.c.id == waitlist.c.event_id).scalar_subquery().label("group_id"),
)
_CANCEL_PAST = sa.text("""
    UPDATE waitlist SET status = 'cancelled', settled = false, updated_at = now()
     WHERE id IN (
        SELECT entry.id FROM waitlist AS entry JOIN events ON events.id = entry.event_id
         WHERE entry.status = 'offered' AND events.status = 'cancelled'
            OR entry.status = 'waiting'
               AND (events.status <> 'open' OR events.starts_at <= now() + make_interval(
                        secs => COALESCE((events.definition -> 'policy' ->> 'sales_close_before')::int, 0)))
         LIMIT :limit FOR UPDATE OF entry SKIP LOCKED)
    RETURNING *
""")


def select_to_settle(ids: Sequence[UUID]) -> sa.Select[Any]:
    return _TO_SETTLE.where(waitlist.c.id.in_(ids))


async def insert_entry(connection: AsyncConnection, event: SellableEvent, wish: Wish, places: str) -> Row:
    """A new entry, which Redis has not heard of.

    Raises:
        AlreadyInLine: The customer has a live one.
    """
    entry_id = new_claim_id(event.event.id)
    row = insert(waitlist).values(
        id=uuid_of(entry_id),
        event_id=event.event.id,
        customer_id=wish.customer_id,
        status="waiting",
        priority=wish.priority,
        places=places,
        items=msgspec.json.encode([_compact(item) for item in wish.items]).decode(),
        from_stop=wish.from_stop,
        to_stop=wish.to_stop,
        joined_at=sa.func.date_trunc("milliseconds", sa.func.clock_timestamp()),
        updated_at=sa.func.now(),
        settled=False,
    )
    row = row.on_conflict_do_nothing(
        index_elements=[waitlist.c.event_id, waitlist.c.customer_id], index_where=sa.text(IS_IN_LINE)
    )
    made: Row | None = (await connection.execute(row.returning(waitlist))).mappings().one_or_none()
    if made is not None:
        await _tell(connection, made, "waitlist.joined")
        return made
    theirs = (waitlist.c.event_id == event.event.id, waitlist.c.customer_id == wish.customer_id)
    live = sa.select(waitlist).where(*theirs, waitlist.c.status.in_(LIVE_STATUSES))
    there: Row | None = (await connection.execute(live)).mappings().one_or_none()
    raise AlreadyInLine(entry_id_of(there) if there is not None else entry_id)


async def step_entry(
    connection: AsyncConnection, entry_id: str, to_status: EntryStatus, changes: Mapping[str, Any]
) -> Row | None:
    query = sa.select(waitlist).where(waitlist.c.id == uuid_of(entry_id)).with_for_update()
    row: Row | None = (await connection.execute(query)).mappings().one_or_none()
    if row is None or not _may_become(row["status"], to_status):
        return None
    change = (
        sa.update(waitlist)
        .where(waitlist.c.id == row["id"])
        .values({"status": to_status, "updated_at": sa.func.now(), **changes})
        .returning(waitlist)
    )
    changed: Row = (await connection.execute(change)).mappings().one()
    if row["status"] != to_status and to_status not in _NEVER_TOLD:
        await _tell(connection, changed)
    return changed


def _may_become(status: str, to_status: str) -> bool:
    """Whether an entry may take a step, or repeat it.

    What Redis has decided stands, though Postgres hears of it late: an offer that it missed may have ended already, and
    a booking is one whatever was said of its entry meanwhile.
    """
    return status in LIVE_STATUSES or (to_status == "booked" and status != "booked")


async def pass_over(connection: AsyncConnection, entry_id: str, limit: str) -> None:
    change = (
        sa.update(waitlist)
        .where(waitlist.c.id == uuid_of(entry_id), waitlist.c.status == "waiting", waitlist.c.passed_over.is_(None))
        .values(passed_over=limit, updated_at=sa.func.now())
        .returning(waitlist)
    )
    changed: Row | None = (await connection.execute(change)).mappings().one_or_none()
    if changed is not None:
        await _tell(connection, changed, "waitlist.passed_over")


async def mark_settled(connection: AsyncConnection, entry_id: str, status: str | None) -> bool:
    """Redis has heard of the status; where *status* is given, only if it is still that one. Returns whether it was.

    Without, it is over, unless a payment that is open makes a booking of it after all.
    """
    change = sa.update(waitlist).where(waitlist.c.id == uuid_of(entry_id)).values(settled=True)
    if status is None:
        is_open = sa.exists().where(bookings.c.id == waitlist.c.id, bookings.c.status == "payment_initiated")
        change = change.where(waitlist.c.status.not_in(LIVE_STATUSES), ~is_open)
    else:
        change = change.where(waitlist.c.status == status)
    return (await connection.execute(change)).rowcount > 0


async def _tell(connection: AsyncConnection, row: Row, type_: str | None = None) -> None:
    """Leave word in the outbox, under the entry's id."""
    type_ = type_ or f"waitlist.{row['status']}"
    payload: dict[str, Any] = {name: row[name] for name in ("customer_id", "status", "priority", "passed_over")}
    payload |= {"entry_id": entry_id_of(row), "items": msgspec.Raw(row["items"].encode())}
    payload |= {"from": row["from_stop"], "to": row["to_stop"], "joined_at": row["joined_at"]}
    payload |= {"offer": msgspec.to_builtins(_offer(row))}
    await connection.execute(
        sa.insert(outbox).values(
            booking_id=row["id"],
            number=None,
            event_id=row["event_id"],
            type=type_,
            payload=msgspec.json.encode(payload).decode(),
            created_at=row["updated_at"],
        )
    )
    figures.WAITLIST.add(type_.removeprefix("waitlist."))


def _compact(item: ItemRequest) -> dict[str, Any]:
    members = {"section": item.section, "quantity": item.quantity, "seats": item.seats, "best": item.best}
    return {name: value for name, value in members.items() if value is not None}


def _offer(row: Row) -> Offer | None:
    return Offer(entry_id_of(row), row["expires_at"]) if row["status"] == "offered" else None


def open_entry(row: Row) -> WaitlistEntry:
    return WaitlistEntry(
        id=entry_id_of(row),
        event_id=row["event_id"],
        customer_id=row["customer_id"],
        status=row["status"],
        position=row["position"],
        priority=row["priority"],
        items=_decode_items(row["items"]),
        from_=row["from_stop"],
        to=row["to_stop"],
        offer=_offer(row),
        booking_id=entry_id_of(row) if row["status"] == "booked" else None,
        passed_over=row["passed_over"],
        joined_at=row["joined_at"].astimezone(dt.UTC),
    )


def entry_id_of(row: Row) -> HoldId:
    return HoldId(claim_id(row["id"].int, row["event_id"]))


def uuid_of(entry_id: str) -> UUID:
    key = parse_claim_id(entry_id)
    if key is None:
        raise EntryNotFound(entry_id)
    return key.uuid
