"""Beginning a payment: booking, payment and idempotency key in one transaction, before any provider hears of it.

Mostly all of them are new, and one statement writes them. Where any of them is there already it writes nothing, and the
transaction that looks at what there is begins.
"""

import uuid
from typing import Any, Literal, NoReturn

import asyncpg
import msgspec
import sqlalchemy as sa
import uuid_utils.compat
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.bookings import BookingDetails, JournalEntry
from engine.errors import HoldConfirmed, HoldExpired, HoldReleased, IdempotencyKeyReused, LimitExceeded
from engine.holding import PayingHold
from engine.ids import BookingId, claim_id
from engine.lifecycle import Actor
from engine.once import Once
from engine.payments import Charge
from engine.ports import Sealer
from engine.refusals import moment
from persistence.bookings import IDEMPOTENCY_TIME
from persistence.database import Row, driver_connection, in_transaction, retrying
from persistence.ledger_entries import ready_entry
from persistence.payments import CHECK_FIRST, charge_of
from persistence.schema import bookings, events, idempotency, payments
from persistence.steps import TOLD, Step, lock_booking, record_creation, take_step

ATTEMPTS_MAX = 20  # of one booking: cards that somebody tries one after the other on one hold

_GIVEN = {
    "id": "uuid",
    "event_id": "text",
    "customer_id": "text",
    "epoch": "bigint",
    "first_leg": "smallint",
    "last_leg": "smallint",
    "places": "text",
    "items": "text::jsonb",
    "from_stop": "text",
    "to_stop": "text",
    "price": "text::jsonb",
    "amount": "bigint",
    "currency": "text",
    "exclusive": "boolean",
    "sealed": "bytea",
    "status": "text",
    "payment_status": "text",
    "version": "integer",
    "created_at": "timestamptz",
    "expires_at": "timestamptz",
}
_REST = [f"${len(_GIVEN) + number}" for number in range(1, 9)]
_ROLE, _REQUEST_ID, _PAYMENT_ID, _PROVIDER, _METHOD, _ONCE, _BODY, _CHECK = _REST
# Locks in the order of everybody: the event, as the group commit does (whoever raises the epoch or changes the event
# comes before us, or after), the booking, its payment, its key. Nothing to be paid is paid: no provider hears of it,
# and whoever goes on with it would ask in vain.
_BEGIN = f"""
    WITH sold AS MATERIALIZED (
        SELECT id FROM events WHERE id = $2 FOR KEY SHARE
    ), made AS (
        INSERT INTO bookings (updated_at, {", ".join(_GIVEN)})
        SELECT now(), {", ".join(f"${number}::{kind}" for number, kind in enumerate(_GIVEN.values(), start=1))}
          FROM sold
        RETURNING *
    ), initiated AS (
        INSERT INTO payments (id, booking_id, event_id, attempt, provider, method, amount, currency, state, chosen,
                              once, expires_at, created_at, updated_at, check_at)
        SELECT {_PAYMENT_ID}::uuid, id, event_id, 1, {_PROVIDER}::text, {_METHOD}::text, amount, currency,
               CASE amount WHEN 0 THEN 'captured' ELSE 'initiated' END, amount = 0,
               {_ONCE}::bytea, expires_at, now(), now(), now() + {_CHECK}::interval
          FROM made
        RETURNING booking_id
    ), kept AS (
        INSERT INTO idempotency (scope, body_digest, booking_id, created_at)
        SELECT {_ONCE}::bytea, {_BODY}::bytea, booking_id, now() FROM initiated WHERE {_ONCE}::bytea IS NOT NULL
    ), recorded AS (
        INSERT INTO history (booking_id, version, to_status, actor, role, at, request_id)
        SELECT id, version, status, customer_id, {_ROLE}::text, updated_at, {_REQUEST_ID}::text FROM made
    ), published AS (
        INSERT INTO outbox (booking_id, number, event_id, type, payload, created_at)
        SELECT id, number, event_id, 'booking.created', {TOLD}, updated_at FROM made
    )
    SELECT id FROM made
"""  # noqa: S608 - made of the constants above


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be paid for, how, and by whom."""

    hold_id: str
    hold: PayingHold
    details: BookingDetails
    customer_id: str
    provider: str
    method: str
    once: Once | None


class Begun(msgspec.Struct, frozen=True):
    """The payment that is under way: ``new`` by this request; ``open`` since an earlier one; ``replayed`` the key's."""

    how: Literal["new", "open", "replayed"]
    booking_id: str
    charge: Charge | None = None


class _KeyInUse(Exception):
    """Raised to have the transaction rolled back: the key belongs to ``booking_id``, another request's booking."""

    def __init__(self, booking_id: str) -> None:
        super().__init__(booking_id)
        self.booking_id = booking_id


async def begin_payment(engine: AsyncEngine, sealer: Sealer, order: Order) -> Begun:
    """Write down, durably, that a payment is about to be asked for. Safe to repeat with the same idempotency key.

    A booking whose last payment came to nothing gets another one; while one is open there is no second.

    Raises:
        LimitExceeded: The customer has a live booking of an event that takes but one, or has tried too often.
        HoldConfirmed, HoldExpired: The hold's booking is past being paid for.
        HoldReleased: It was cancelled, and its places are to be free.
        IdempotencyKeyReused: The key was used for another request.
        LedgerUnavailable: Postgres does not answer; with the same key it is safe to repeat.
    """
    row = _booking_row(order, sealer)
    if (charge := await _begin_anew(engine, order, row)) is not None:
        return Begun("new", order.hold_id, charge)
    try:
        return await in_transaction(engine, lambda connection: _begin(connection, order, row))
    except _KeyInUse as error:
        return Begun("replayed", error.booking_id)


def _booking_row(order: Order, sealer: Sealer) -> dict[str, Any]:
    """The row that the group commit would write of this booking, as one that waits for its payment."""
    hold, now_ms = order.hold, order.hold.created_ms
    entry = JournalEntry(
        journal_id="0-0",
        epoch=0,  # its own one comes with its entry
        event_id=hold.event.event.id,
        booking_id=BookingId(order.hold_id),
        customer_id=order.customer_id,
        places=hold.places,
        created_at_ms=now_ms,
        confirmed_at_ms=now_ms,
        details=sealer.seal(order.details, BookingId(order.hold_id)),
    )
    return ready_entry(entry, hold.event, sealer).row | {
        "status": "payment_initiated",
        "payment_status": "pending",
        "version": 1,
        "confirmed_at": None,
        "updated_at": sa.func.now(),
        "expires_at": moment(hold.deadline_ms),
    }


async def _begin_anew(engine: AsyncEngine, order: Order, row: dict[str, Any]) -> Charge | None:
    """Begin the first payment of a booking that is not there yet; ``None`` where something is in the way."""
    details, once = order.details, order.once
    assert details.payment_id is not None  # it is sealed with the details
    said = (details.role, details.request_id, uuid.UUID(details.payment_id), order.provider, order.method)
    key = (None, None) if once is None else (once.scope, once.body)
    values = [*(row[name] for name in _GIVEN), *said, *key, CHECK_FIRST]

    async def attempt() -> bool:
        async with driver_connection(engine) as connection:
            try:
                return bool(await connection.fetch(_BEGIN, *values))
            except asyncpg.UniqueViolationError:
                return False

    if not await retrying(attempt):
        return None
    return Charge(
        key=details.payment_id,
        booking_id=order.hold_id,
        method=order.method,
        amount=row["amount"],
        currency=row["currency"],
        expires_at=row["expires_at"],
    )


async def _begin(connection: AsyncConnection, order: Order, row: dict[str, Any]) -> Begun:
    # As the group commit does: whoever raises the epoch or changes the event comes before us, or after.
    await connection.execute(
        sa.select(events.c.id).where(events.c.id == row["event_id"]).with_for_update(read=True, key_share=True)
    )
    actor = Actor(order.customer_id, order.details.role, order.details.request_id)  # type: ignore[arg-type]
    made = (
        (await connection.execute(insert(bookings).values(row).on_conflict_do_nothing().returning(bookings)))
        .mappings()
        .one_or_none()
    )
    if made is not None:
        await record_creation(connection, made, actor)
        charge = await _insert_payment(connection, order, made, attempt=1)
    else:
        found = (await connection.execute(sa.select(bookings.c.id).where(bookings.c.id == row["id"]))).one_or_none()
        if found is None:  # another constraint was met: its customer has a live booking, and may have but one
            raise LimitExceeded("one_booking_per_customer", 1)
        retried = await _retry(connection, order, row, actor)
        if isinstance(retried, Begun):
            return retried
        charge = retried
    if order.once is not None and not await _keep_key(connection, order.once, row["id"]):
        await _refuse_key(connection, order.once)
    return Begun("new", order.hold_id, charge)


async def _retry(connection: AsyncConnection, order: Order, row: dict[str, Any], actor: Actor) -> Begun | Charge:
    """Another payment of a booking that is there, unless one is open."""
    booking = await lock_booking(connection, order.hold_id)
    if booking["status"] != "payment_initiated":
        if booking["confirmed_at"]:
            raise HoldConfirmed(order.hold_id, order.hold_id)
        raise (HoldReleased if booking["status"] == "cancelled" else HoldExpired)(order.hold_id)
    query = sa.select(payments).where(payments.c.booking_id == booking["id"]).order_by(payments.c.attempt.desc())
    last = (await connection.execute(query.limit(1))).mappings().one()
    if last["state"] not in ("declined", "voided"):
        is_ours = order.once is not None and last["once"] == order.once.scope
        return Begun("replayed" if is_ours else "open", order.hold_id)
    if last["attempt"] >= ATTEMPTS_MAX:
        raise LimitExceeded("payment_attempts", ATTEMPTS_MAX)
    changes = {"payment_status": "pending"} | {name: row[name] for name in ("sealed", "price", "amount")}
    await take_step(connection, booking, Step(changes=changes), actor)
    return await _insert_payment(connection, order, row | {"id": booking["id"]}, attempt=last["attempt"] + 1)


async def _insert_payment(connection: AsyncConnection, order: Order, booking: Row, *, attempt: int) -> Charge:
    payment_id = order.details.payment_id
    assert payment_id is not None  # it is sealed with the details
    is_free = booking["amount"] == 0
    values = {
        "id": uuid.UUID(payment_id),
        "booking_id": booking["id"],
        "event_id": booking["event_id"],
        "attempt": attempt,
        "provider": order.provider,
        "method": order.method,
        "amount": booking["amount"],
        "currency": booking["currency"],
        # Nothing to be paid is paid: a provider would refuse to take it, and its word is not needed.
        "state": "captured" if is_free else "initiated",
        "chosen": is_free,
        "once": None if order.once is None else order.once.scope,
        "expires_at": moment(order.hold.deadline_ms),
        "created_at": sa.func.now(),
        "updated_at": sa.func.now(),
        "check_at": sa.func.now() + CHECK_FIRST,
    }
    made = await connection.execute(sa.insert(payments).values(values).returning(payments))
    return charge_of(made.mappings().one())


async def _keep_key(connection: AsyncConnection, once: Once, booking_id: uuid.UUID) -> bool:
    """Tie the key to the booking; ``False`` when it is in use."""
    kept = insert(idempotency).values(
        scope=once.scope, body_digest=once.body, booking_id=booking_id, created_at=sa.func.now()
    )
    anew = kept.on_conflict_do_update(
        index_elements=[idempotency.c.scope],
        set_={name: kept.excluded[name] for name in ("body_digest", "booking_id", "created_at")},
        where=idempotency.c.created_at < kept.excluded.created_at - IDEMPOTENCY_TIME,
    ).returning(idempotency.c.scope)
    return (await connection.execute(anew)).first() is not None


async def _refuse_key(connection: AsyncConnection, once: Once) -> NoReturn:
    query = (
        sa.select(idempotency.c.body_digest, bookings.c.id, bookings.c.event_id)
        .join(bookings, bookings.c.id == idempotency.c.booking_id)
        .where(idempotency.c.scope == once.scope)
    )
    row = (await connection.execute(query)).mappings().one()
    if row["body_digest"] != once.body:
        raise IdempotencyKeyReused
    raise _KeyInUse(claim_id(row["id"].int, row["event_id"]))


def new_payment_id() -> str:
    """A fresh id, which is also the idempotency key towards the provider."""
    return str(uuid_utils.compat.uuid7())
