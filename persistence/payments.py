"""Payments as the ledger has them: begun with their booking, advanced by what providers say, and looked at when due.

Everything here is one short transaction each, with the booking's row locked first where it matters; no transaction is
ever open while a provider is asked.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
import uuid_utils.compat
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.definition import Policy
from engine.errors import BookingNotFound
from engine.ids import claim_id, parse_claim_id
from engine.payment_steps import Case, End, OpenRefund, PaymentView, RefundView, Say
from engine.payments import Charge, Notice, PaymentState, Said
from persistence.database import Row, fetch_rows, in_transaction, outside_transaction
from persistence.schema import bookings, events, payment_events, payments, refunds
from persistence.steps import Step, lock_booking, take_step

CHECK_FIRST = dt.timedelta(seconds=10)  # after which a payment that was left alone is looked at
CHECK_BACKOFF_MAX = dt.timedelta(minutes=5)  # between two looks at what does not get on
CHECK_LEASE = dt.timedelta(seconds=60)  # for which one reconciler has a due payment to itself; longer than a call takes
# Due for so long, a payment is taken by nobody: whoever takes one puts it off by the lease at once.
OVERDUE_AFTER = dt.timedelta(seconds=60)
_DOUBLINGS_MAX = 5  # of ten seconds: past five minutes
METHOD_REASON_MAX = 200  # characters of a provider's words that are kept

# From which states a payment may come to which: what a provider says may arrive twice, late, or out of order.
FROM: dict[str, tuple[PaymentState, ...]] = {
    "pending": ("initiated",),
    "declined": ("initiated", "pending"),
    "authorized": ("initiated", "pending", "declined"),
    "captured": ("initiated", "pending", "declined", "authorized", "voided"),
    "voided": ("initiated", "pending", "authorized"),
}
_OF_PAYMENT = "of_payment_"  # before the names of a payment's columns, where they are read with its booking's
_LATE_PAYMENT = events.c.definition["policy"]["late_payment"].astext


class PaymentsStore:
    """Reads and changes payments. Every method raises ``LedgerUnavailable`` when Postgres does not answer.

    *providers* are the names of those that this process can ask: only their payments are due here.
    """

    def __init__(self, engine: AsyncEngine, providers: Collection[str]) -> None:
        self._engine = engine
        self._providers = providers

    async def read_case(self, booking_id: str) -> tuple[Case, dict[str, Row], Row] | None:
        """The booking's case, its payments' rows by id, and its own row; ``None`` where there is no payment."""
        return await outside_transaction(self._engine, lambda connection: _read_case(connection, booking_id))

    async def note(self, booking_id: str, payment_id: str, said: Said) -> bool:
        """Write down what a provider has said; whether it was news. The first money there is becomes the chosen one."""
        return await in_transaction(
            self._engine, lambda connection: note_said(connection, booking_id, payment_id, said)
        )

    async def receive(self, provider: str, notice: Notice) -> str | None:
        """Write a webhook down, and what it says with it; the id of the booking, where that was news of one."""
        return await in_transaction(self._engine, lambda connection: _receive(connection, provider, notice))

    async def open_refund(self, booking_id: str, step: OpenRefund, seen: Case) -> None:
        """Write down that money must go back, unless the case is not as it was seen any more."""

        async def work(connection: AsyncConnection) -> None:
            await lock_booking(connection, booking_id)
            found = await _read_case(connection, booking_id)
            if found is None or _owed(found[0]) != _owed(seen):
                return
            await connection.execute(
                sa.insert(refunds).values(
                    id=uuid_utils.compat.uuid7(),
                    payment_id=uuid.UUID(step.payment_id),
                    booking_id=found[2]["id"],
                    amount=step.amount,
                    state="due",
                    created_at=sa.func.now(),
                    updated_at=sa.func.now(),
                )
            )

        await in_transaction(self._engine, work)

    async def give_up_payment(self, booking_id: str, payment_id: str) -> None:
        """Write down that no change will choose the payment, unless one has."""

        async def work(connection: AsyncConnection) -> None:
            await lock_booking(connection, booking_id)
            mine = payments.c.id == uuid.UUID(payment_id)
            await connection.execute(sa.update(payments).where(mine, ~payments.c.chosen).values(given_up=True))

        await in_transaction(self._engine, work)

    async def finish_refund(self, refund_id: str, state: str) -> None:
        """The provider has given it back, or will not."""
        change = (
            sa.update(refunds)
            .where(refunds.c.id == uuid.UUID(refund_id), refunds.c.state == "due")
            .values(state=state, updated_at=sa.func.now())
        )
        await in_transaction(self._engine, lambda connection: connection.execute(change))

    async def end(self, booking_id: str, step: End, reason: str, actor: Any) -> bool:
        """End a booking that was not paid for, unless it is not waiting any more; whether it was ended."""

        async def work(connection: AsyncConnection) -> bool:
            row = await lock_booking(connection, booking_id)
            if (
                row["status"] != "payment_initiated"
                or await _has_chosen(connection, row["id"]) is not step.despite_payment
            ):
                return False
            changes: dict[str, Any] = {"payment_status": "failed"}
            if step.despite_payment:
                changes["refunded"] = row["amount"]  # granted now; the payment's side says when it has gone back
            await take_step(connection, row, Step(to_status=step.to_status, reason=reason, changes=changes), actor)
            return True

        return await in_transaction(self._engine, work)

    async def give_up(self, booking_id: str, actor: Any) -> bool:
        """End a booking whose hold was given back, unless a payment of it is open or has been made."""

        async def work(connection: AsyncConnection) -> bool:
            try:
                row = await lock_booking(connection, booking_id)
            except BookingNotFound:
                return False
            query = sa.select(payments.c.state).where(payments.c.booking_id == row["id"]).order_by(payments.c.attempt)
            states = list((await connection.execute(query)).scalars())
            if row["status"] != "payment_initiated" or not set(states) <= {"declined", "voided"}:
                return False
            step = Step(
                to_status="failed" if states else "cancelled",
                reason="its hold was given back",
                changes={"payment_status": "failed"},
            )
            await take_step(connection, row, step, actor)
            return True

        return await in_transaction(self._engine, work)

    async def say(self, booking_id: str, step: Say, seen: Case, actor: Any) -> None:
        """Have the booking say what is true of its payment, unless it has changed since it was looked at."""

        async def work(connection: AsyncConnection) -> None:
            row = await lock_booking(connection, booking_id)
            if (row["status"], row["refunded"], row["payment_status"]) == (
                seen.status,
                seen.refunded,
                seen.payment_status,
            ):
                await take_step(connection, row, Step(changes={"payment_status": step.payment_status}), actor)

        await in_transaction(self._engine, work)

    async def schedule(self, rows: Sequence[Row], *, version: int, at: dt.datetime | None, backs_off: bool) -> None:
        """Set when the payments are due for the next look, unless somebody else has set it meanwhile.

        With *backs_off* that is later every time, and *at* is the latest; otherwise it is *at*: never, for ``None``.
        *version* is the booking's that was looked at, which may be older than *rows*::

            look    reads the booking                    reads the payments    never again?
            cancel                      commit: due soon                       (dies)
        """
        is_as_seen = sa.exists().where(bookings.c.id == payments.c.booking_id, bookings.c.version == version)

        async def work(connection: AsyncConnection) -> None:
            for row in rows:
                due: Any = at
                if backs_off:
                    pause = min(CHECK_FIRST * 2 ** min(row["tries"], _DOUBLINGS_MAX), CHECK_BACKOFF_MAX)
                    due = sa.func.now() + pause if at is None else sa.func.least(sa.func.now() + pause, at)
                await connection.execute(
                    sa.update(payments)
                    .where(payments.c.id == row["id"], payments.c.check_at.is_not_distinct_from(row["check_at"]))
                    .where(is_as_seen)
                    .values(check_at=due, tries=row["tries"] + 1 if backs_off else 0)
                )

        await in_transaction(self._engine, work)

    async def take_due(self, *, limit: int) -> list[str]:
        """Bookings whose payments are due, the longest due first; for a minute nobody else will be given them.

        Those of a provider that is not configured here are left as they are, for a process that can ask it.
        """
        if not self._providers:
            return []
        due = (
            sa.select(payments.c.id)
            .where(payments.c.check_at <= sa.func.now(), self._is_askable())
            .order_by(payments.c.check_at)
            .limit(limit)
            .with_for_update()
            .scalar_subquery()
        )
        taken = (
            sa.update(payments)
            .where(payments.c.id.in_(due))
            .values(check_at=sa.func.now() + CHECK_LEASE)
            .returning(payments.c.booking_id, payments.c.event_id)
        )

        async def work(connection: AsyncConnection) -> list[str]:
            rows = (await connection.execute(taken)).all()
            return list(dict.fromkeys(claim_id(row.booking_id.int, row.event_id) for row in rows))

        return await in_transaction(self._engine, work)

    async def count_due(self) -> int:
        """How many bookings have payments that are due now, and can be settled here."""
        query = sa.select(sa.func.count(payments.c.booking_id.distinct())).where(payments.c.check_at <= sa.func.now())
        query = query.where(self._is_askable())
        count: int = (await outside_transaction(self._engine, lambda c: c.execute(query))).scalar_one()
        return count

    async def find_stranded(self) -> list[str]:
        """The providers that are not configured here and have overdue payments: no other process seems to ask them."""
        query = (
            sa.select(payments.c.provider)
            .distinct()
            .where(payments.c.check_at <= sa.func.now() - OVERDUE_AFTER)
            .where(payments.c.provider.not_in(list(self._providers)))
        )
        return sorted(row["provider"] for row in await fetch_rows(self._engine, query))

    def _is_askable(self) -> sa.ColumnElement[bool]:
        """Whether all of a booking's payments that are to be looked at are of providers that this process has."""
        other = payments.alias()
        names = list(self._providers)
        is_foreign = sa.exists().where(
            other.c.booking_id == payments.c.booking_id, other.c.check_at.is_not(None), other.c.provider.not_in(names)
        )
        return sa.and_(payments.c.provider.in_(names), ~is_foreign)

    async def find_last(self, booking_id: str, once: bytes | None = None) -> Row | None:
        """The latest payment for the booking; the latest that a request with the idempotency key *once* has begun.

        Those for its changes are not among them.
        """
        key = parse_claim_id(booking_id)
        assert key is not None, booking_id
        query = sa.select(payments).where(payments.c.booking_id == key.uuid, ~payments.c.for_change)
        query = query.order_by(payments.c.attempt.desc())
        if once is not None:
            query = query.where(payments.c.once == once)
        rows = await fetch_rows(self._engine, query.limit(1))
        return rows[0] if rows else None


def _owed(case: Case) -> tuple[object, ...]:
    """What decides how much goes back. The amount too: a change may have made of use what was to be refunded."""
    return case.status, case.amount, case.refunded, case.refunds


def charge_of(row: Row) -> Charge:
    """A payment's row as its provider is told of it."""
    return Charge(
        key=str(row["id"]),
        booking_id=claim_id(row["booking_id"].int, row["event_id"]),
        method=row["method"],
        amount=row["amount"],
        currency=row["currency"],
        expires_at=row["expires_at"],
        provider_ref=row["provider_ref"],
    )


async def note_said(connection: AsyncConnection, booking_id: str, payment_id: str, said: Said) -> bool:
    """As :meth:`PaymentsStore.note`, in the caller's transaction."""
    booking = await lock_booking(connection, booking_id)
    mine = payments.c.id == uuid.UUID(payment_id)
    row = (await connection.execute(sa.select(payments).where(mine).with_for_update())).mappings().one()
    is_more = said.outcome == "captured" == row["state"] and said.captured > row["captured"]
    if not is_more and row["state"] not in FROM.get(said.outcome, ()):
        return False
    chosen = row["chosen"]
    if booking["status"] == "payment_initiated":  # what is let go before it has bought anything makes room for another
        is_money = said.outcome in ("authorized", "captured")
        chosen = is_money and (chosen or not await _has_chosen(connection, row["booking_id"]))
    await connection.execute(
        sa.update(payments)
        .where(mine)
        .values(
            state=said.outcome,
            chosen=chosen,
            captured=min(said.captured or row["amount"], row["amount"]) if said.outcome == "captured" else 0,
            provider_ref=said.provider_ref or row["provider_ref"],
            redirect_url=said.redirect_url or row["redirect_url"],
            reason=said.reason[:METHOD_REASON_MAX] if said.reason else None,
            updated_at=sa.func.now(),
            check_at=sa.func.now() + CHECK_FIRST,
            tries=0,
        )
    )
    return True


async def _has_chosen(connection: AsyncConnection, booking_id: uuid.UUID) -> bool:
    query = sa.select(payments.c.id).where(payments.c.booking_id == booking_id, payments.c.chosen)
    return (await connection.execute(query)).first() is not None


async def _receive(connection: AsyncConnection, provider: str, notice: Notice) -> str | None:
    try:
        payment_id: uuid.UUID | None = uuid.UUID(notice.key)
    except ValueError:
        payment_id = None
    query = sa.select(payments).where(payments.c.id == payment_id, payments.c.provider == provider)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is not None:  # before the notice's own row, as everybody locks them
        await lock_booking(connection, claim_id(row["booking_id"].int, row["event_id"]))
    kept = insert(payment_events).values(
        provider=provider,
        id=notice.id,
        payment_id=None if row is None else row["id"],
        outcome=notice.said.outcome,
        key=notice.key,
        received_at=sa.func.now(),
    )
    is_new = (await connection.execute(kept.on_conflict_do_nothing().returning(payment_events.c.id))).first()
    if is_new is None or row is None:
        return None
    booking_id = claim_id(row["booking_id"].int, row["event_id"])
    return booking_id if await note_said(connection, booking_id, str(row["id"]), notice.said) else None


async def _read_case(connection: AsyncConnection, booking_id: str) -> tuple[Case, dict[str, Row], Row] | None:
    key = parse_claim_id(booking_id)
    if key is None:
        return None
    # Booking and payments in one statement, as of one moment: an older booking, with the payment that a change has
    # chosen since, would seem to have no use for it. Refunds that are newer only make less seem to be at hand.
    query = (
        sa.select(bookings, sa.func.clock_timestamp().label("now"), _LATE_PAYMENT.label("late_payment"))
        .add_columns(*(column.label(_OF_PAYMENT + column.name) for column in payments.c))
        .join(events, events.c.id == bookings.c.event_id)
        .join(payments, payments.c.booking_id == bookings.c.id)
        .where(bookings.c.id == key.uuid, bookings.c.event_id == key.event_id)
        .order_by(payments.c.attempt)
    )
    rows = (await connection.execute(query)).mappings().all()
    if not rows:
        return None
    row = rows[0]
    ours = ({column.name: one[_OF_PAYMENT + column.name] for column in payments.c} for one in rows)
    payment_rows: dict[str, Row] = {str(one["id"]): one for one in ours}
    back = sa.select(refunds).where(refunds.c.booking_id == row["id"]).order_by(refunds.c.id)
    refund_rows = (await connection.execute(back)).mappings().all()
    return _case(row, list(payment_rows.values()), refund_rows), dict(payment_rows), row


def _case(row: Row, payment_rows: Sequence[Row], refund_rows: Sequence[Row]) -> Case:
    return Case(
        status=row["status"],
        payment_status=row["payment_status"],
        amount=row["amount"],
        refunded=row["refunded"],
        was_confirmed=row["confirmed_at"] is not None,
        expires_at=row["expires_at"],
        waits_for_late=(row["late_payment"] or Policy().late_payment) == "book",
        now=row["now"],
        payments=tuple(
            PaymentView(
                id=str(one["id"]),
                state=one["state"],
                chosen=one["chosen"],
                amount=one["amount"],
                captured=one["captured"],
                created_at=one["created_at"],
                awaits_change=one["for_change"] and not one["chosen"] and not one["given_up"],
            )
            for one in payment_rows
        ),
        refunds=tuple(
            RefundView(id=str(one["id"]), payment_id=str(one["payment_id"]), amount=one["amount"], state=one["state"])
            for one in refund_rows
        ),
    )
