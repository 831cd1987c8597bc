"""One step in the life of a booking: checked, recorded, told, and its places given up, all in one transaction.

Whoever takes a step opens the transaction, locks the booking first and takes the step then; what belongs to it (a
payment's row, a refund) is written in the same transaction. Locks are taken in the order of ``ledger_batch``: the
booking, its claims, its counters. Freeing the places in Redis comes after the commit: a crash in between leaves them
taken there, never sold twice, and the audit frees them.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BookingNotFound, IdempotencyKeyReused, InvalidTransition, VersionConflict
from engine.ids import parse_claim_id
from engine.lifecycle import OWNING_STATUSES, Actor, allowed_from, require_transition
from engine.once import Once
from engine.places import CountedPlaces, parse_places
from persistence.bookings import IDEMPOTENCY_TIME, NO_BLOCK
from persistence.database import Row
from persistence.schema import bookings, claims, history, outbox, usage

# Reasons in the history of steps that leave the status as it is, and change whose a place is. Holdfast gives them and
# acts on them: who may be charged by what the booking was paid with, and who had a seat, is read from them.
PLACES_CHANGED, TRANSFERRED = "places changed", "transferred"

# What subscribers hear when a booking reaches a status; those that are not here are told as ``status_changed``.
_TYPES: Mapping[str, str] = {
    "confirmed": "booking.confirmed",
    "cancelled": "booking.cancelled",
    "checked_in": "booking.checked_in",
    "completed": "booking.completed",
    "expired": "booking.expired",
    "rejected": "booking.rejected",
}
_TOLD = ("customer_id", "status", "payment_status", "version", "items", "amount", "refunded", "currency")
_TOLD_TIMES = ("created_at", "confirmed_at", "cancelled_at", "cancelled_by")
# The same in SQL, of a row of bookings, for statements that take a step all by themselves.
TOLD = f"""jsonb_build_object(
    'from', from_stop, 'to', to_stop, {", ".join(f"'{name}', {name}" for name in (*_TOLD, *_TOLD_TIMES))}
)"""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of a booking; ``to_status`` is ``None`` where its status stays and ``changes`` are all.

    ``changes`` are columns of ``bookings`` by name; JSON columns as text.
    """

    to_status: str | None = None
    reason: str | None = None
    changes: Mapping[str, Any] = {}


async def lock_booking(connection: AsyncConnection, booking_id: str) -> Row:
    """The booking's row, which is the transaction's alone from now on; a block is none.

    Raises:
        BookingNotFound: The ledger has none of this id.
    """
    key = parse_claim_id(booking_id)
    if key is None:
        raise BookingNotFound(booking_id)
    query = sa.select(bookings).where(bookings.c.id == key.uuid, bookings.c.event_id == key.event_id, NO_BLOCK)
    row: Row | None = (await connection.execute(query.with_for_update(key_share=True))).mappings().one_or_none()
    if row is None:
        raise BookingNotFound(booking_id)
    return row


async def require_in_time(connection: AsyncConnection, row: Row, to_status: str) -> None:
    """Make sure that a request that :func:`lock_booking` has locked is not past its ``expires_at``.

    Whoever expires requests comes a moment later, or not at all where no reconciler runs: past it a request can only
    be ended. The clock is Postgres's, read behind the lock, which may have been waited for.

    Raises:
        InvalidTransition: It is past it, and can only become what is allowed then.
    """
    if row["status"] != "pending" or row["expires_at"] is None:
        return
    deadline = sa.literal(row["expires_at"], bookings.c.expires_at.type)
    if (await connection.execute(sa.select(sa.func.clock_timestamp() >= deadline))).scalar_one():
        ends = tuple(status for status in allowed_from("pending") if status not in OWNING_STATUSES)
        raise InvalidTransition("pending", to_status, ends)


async def take_step(
    connection: AsyncConnection,
    row: Row,
    step: Step,
    actor: Actor,
    *,
    expected_version: int | None = None,
    once: Once | None = None,
) -> Row:
    """Take *step* of the booking that :func:`lock_booking` has locked; returns its row as it is now.

    With *once*, the history remembers the idempotency key that it was asked for with: see :func:`find_repetition`.

    Raises:
        VersionConflict: It is not at *expected_version*.
        InvalidTransition: Its status cannot become ``to_status``.
    """
    if expected_version is not None and row["version"] != expected_version:
        raise VersionConflict(row["version"])
    status = step.to_status or row["status"]
    if step.to_status is not None:
        require_transition(row["status"], step.to_status)
    change = (
        sa.update(bookings)
        .where(bookings.c.id == row["id"])
        .values({"status": status, "version": row["version"] + 1, "updated_at": sa.func.now(), **step.changes})
        .returning(bookings)
    )
    changed: Row = (await connection.execute(change)).mappings().one()
    await _record(connection, row, changed, step, actor, once)
    await _tell(connection, row, changed)
    if row["status"] in OWNING_STATUSES and status not in OWNING_STATUSES:
        await give_up_places(connection, row)
    return changed


async def record_creation(connection: AsyncConnection, row: Row, actor: Actor) -> None:
    """Record, and tell, that the booking of *row* has just been made."""
    await connection.execute(
        sa.insert(history).values(
            booking_id=row["id"],
            version=row["version"],
            to_status=row["status"],
            actor=actor.id,
            role=actor.role,
            at=row["updated_at"],
            request_id=actor.request_id,
        )
    )
    await _tell(connection, {"status": None}, row, type_="booking.created")


async def find_repetition(connection: AsyncConnection, row: Row, once: Once) -> int | None:
    """The version that a step of the locked booking led to which was taken with the key of *once* before, if any was.

    Keys are kept for a time; ``None`` says that none is known.

    Raises:
        IdempotencyKeyReused: It was, for a request with another body.
    """
    query = sa.select(history.c.once, history.c.version).where(
        history.c.booking_id == row["id"],
        sa.func.substring(history.c.once, 1, len(once.scope)) == once.scope,
        history.c.at > sa.func.now() - IDEMPOTENCY_TIME,
    )
    kept = (await connection.execute(query.limit(1))).mappings().one_or_none()
    if kept is None:
        return None
    if kept["once"] != once.scope + once.body:
        raise IdempotencyKeyReused
    version: int = kept["version"]
    return version


async def _record(
    connection: AsyncConnection, before: Row, after: Row, step: Step, actor: Actor, once: Once | None
) -> None:
    await connection.execute(
        sa.insert(history).values(
            booking_id=after["id"],
            version=after["version"],
            from_status=before["status"],
            to_status=after["status"],
            actor=actor.id,
            role=actor.role,
            reason=step.reason,
            at=after["updated_at"],
            request_id=actor.request_id,
            once=None if once is None else once.scope + once.body,
        )
    )


async def _tell(connection: AsyncConnection, before: Row, after: Row, *, type_: str | None = None) -> None:
    """Leave word in the outbox: ids, places and money, and nothing that a person said."""
    if type_ is None:
        type_ = "booking.updated"
        if after["status"] != before["status"]:
            type_ = _TYPES.get(after["status"], "booking.status_changed")
    payload: dict[str, Any] = {name: after[name] for name in _TOLD}
    payload |= {"items": msgspec.Raw(after["items"].encode()), "from_status": before["status"]}
    payload |= {"from": after["from_stop"], "to": after["to_stop"]}
    payload |= {name: after[name] for name in _TOLD_TIMES}
    await connection.execute(
        sa.insert(outbox).values(
            booking_id=after["id"],
            number=after["number"],
            event_id=after["event_id"],
            type=type_,
            payload=msgspec.json.encode(payload).decode(),
            created_at=after["updated_at"],
        )
    )


async def give_up_places(connection: AsyncConnection, row: Row) -> None:
    """Free what the booking owned in the ledger: its seats, and what it added to the counters."""
    await connection.execute(sa.delete(claims).where(claims.c.booking_id == row["id"]))
    legs = range(row["first_leg"], row["last_leg"])
    for item in sorted(parse_places(row["places"]).items, key=lambda item: item.section):
        if not isinstance(item, CountedPlaces):
            continue
        ours = (usage.c.event_id == row["event_id"], usage.c.section == item.section, usage.c.leg.in_(legs))
        # In the order that everybody locks them in; an UPDATE alone takes them in any.
        await connection.execute(
            sa.select(usage.c.leg).where(*ours).order_by(usage.c.leg).with_for_update(key_share=True)
        )
        await connection.execute(sa.update(usage).where(*ours).values(sold=usage.c.sold - item.quantity))
