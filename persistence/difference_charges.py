"""Charging what a change of a paid booking costs more: by a payment of its own, set aside before the ledger decides.

Step by step, and what a crash after it leaves:

1. begin      the payment's row                      the old booking; the payment is looked up, given up and voided
2. authorize  the money is set aside                 the same; or the change, asked for again, goes on from here
3. choose     in the transaction of the change       the new booking; the settlement takes the money
4. capture    as of any other payment                the new booking

Between 2 and 3 nobody owns the money: the settlement gives it up after ``CHANGE_GRACE``, under the booking's lock, and
only then has it voided. So a change either chooses a payment that nobody will void, or finds that it may not.
"""

import asyncio
import datetime as dt
import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine import figures
from engine.bookings import Booking
from engine.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
    LedgerUnavailable,
    LimitExceeded,
    PaymentDeclined,
    PaymentOpen,
)
from engine.once import Once
from engine.payment_steps import CHANGE_GRACE
from engine.payments import UNKNOWN, Means, Said
from engine.place_changes import Overtaken
from persistence.bookings import IDEMPOTENCY_TIME
from persistence.checkout import Checkout
from persistence.database import Row, in_transaction
from persistence.payment_beginning import ATTEMPTS_MAX, new_payment_id
from persistence.payments import CHECK_FIRST, charge_of
from persistence.schema import history, payments
from persistence.steps import TRANSFERRED, lock_booking

_SET_ASIDE = ("authorized", "captured")  # a provider that knows no setting aside takes it at once
_USABLE = ("initiated", "pending", *_SET_ASIDE)

logger = structlog.get_logger("holdfast.payments")


class _Begun(msgspec.Struct, frozen=True):
    """The payment that is under way; ``is_new`` when nobody has asked for it yet."""

    row: Row
    is_new: bool


class DifferenceCharges:
    """The :class:`engine.ports.DifferenceCharger` of bookings that *checkout* has sold.

    What a provider has not answered after *time_limit_s* goes on in a task of its own, and is written down.
    """

    def __init__(self, database: AsyncEngine, checkout: Checkout, *, time_limit_s: float) -> None:
        self._database = database
        self._checkout = checkout
        self._time_limit_s = time_limit_s

    async def charge_difference(self, booking: Booking, amount: int, means: Means | None, once: Once | None) -> str:
        """Set *amount* aside; the id of the payment, for :func:`choose_payment`."""
        if means is not None:
            self._checkout.require_provider(means.provider)
        begun = await in_transaction(
            self._database, lambda connection: _begin(connection, booking, amount, means, once)
        )
        if begun.row["state"] not in _SET_ASIDE:
            await self._ask_in_time(booking, begun)
        return str(begun.row["id"])

    async def _ask_in_time(self, booking: Booking, begun: _Begun) -> None:
        """Return when the money is set aside.

        Raises:
            PaymentDeclined, PaymentOpen, Overtaken: It is not.
        """
        task = self._checkout.keep_going(self._ask(booking, begun))
        await asyncio.wait((task,), timeout=self._time_limit_s)
        said = task.result() if task.done() else UNKNOWN
        match said.outcome:
            case "authorized" | "captured":
                return
            case "declined":
                raise PaymentDeclined(booking.id, said.reason)
            case "voided":
                raise Overtaken("the payment was let go meanwhile")
        raise PaymentOpen(booking.id, said.redirect_url)

    async def _ask(self, booking: Booking, begun: _Begun) -> Said:
        """Have the money set aside, and write down what was said; what somebody has begun is looked up first."""
        said = Said(outcome="absent") if begun.is_new else await self._call("look_up", begun.row)
        if said.outcome == "absent":
            said = await self._call("authorize", begun.row)
        if said.outcome != "unknown":
            try:
                await self._checkout.store.note(booking.id, str(begun.row["id"]), said)
            except LedgerUnavailable as error:
                logger.warning("payment left for later", booking_id=booking.id, reason=str(error))
                return UNKNOWN
        return said

    async def _call(self, call: str, row: Row) -> Said:
        provider = self._checkout.providers.get(row["provider"])
        if provider is None:
            return UNKNOWN
        began = time.perf_counter()
        said: Said = await getattr(provider, call)(charge_of(row))
        figures.PAYMENTS.observe(time.perf_counter() - began, row["provider"], call, said.outcome)
        return said


async def choose_payment(connection: AsyncConnection, payment_id: str) -> None:
    """Have the booking, whose row the transaction has locked, be bought with this payment as well.

    Raises:
        Overtaken: It was chosen before, given up, or let go by its provider.
    """
    chosen = (
        sa.update(payments)
        .where(payments.c.id == uuid.UUID(payment_id), payments.c.for_change)
        .where(~payments.c.chosen, ~payments.c.given_up, payments.c.state.in_(_SET_ASIDE))
        .values(chosen=True, updated_at=sa.func.now())
    )
    if (await connection.execute(chosen)).rowcount != 1:
        raise Overtaken("the payment of the difference is not to be had any more")


async def _begin(
    connection: AsyncConnection, booking: Booking, amount: int, means: Means | None, once: Once | None
) -> _Begun:
    """Write down that a payment is about to be asked for; or find the one that waits for this very change."""
    row = await lock_booking(connection, booking.id)
    if row["version"] != booking.version:
        raise Overtaken("the booking was changed meanwhile")
    query = sa.select(payments, (sa.func.now() - IDEMPOTENCY_TIME).label("keys_since"))
    query = query.where(payments.c.booking_id == row["id"]).order_by(payments.c.attempt)
    ours = (await connection.execute(query)).mappings().all()
    if once is not None:
        _require_new_or_same(booking, ours, once)
    means = means or _means_of(ours, await _transferred_at(connection, row))
    for one in ours:
        is_same = (one["amount"], one["provider"], one["method"]) == (amount, means.provider, means.method)
        is_waiting = one["for_change"] and not one["chosen"] and not one["given_up"] and one["state"] in _USABLE
        if is_same and is_waiting:
            return _Begun(one, is_new=False)
    attempt = ours[-1]["attempt"] + 1 if ours else 1
    if attempt > ATTEMPTS_MAX:
        raise LimitExceeded("payment_attempts", ATTEMPTS_MAX)
    values = _row_of(row, amount, means, once) | {"attempt": attempt}
    made = await connection.execute(sa.insert(payments).values(values).returning(payments))
    return _Begun(made.mappings().one(), is_new=True)


def _row_of(row: Row, amount: int, means: Means, once: Once | None) -> dict[str, Any]:
    return {
        "id": uuid.UUID(new_payment_id()),
        "booking_id": row["id"],
        "event_id": row["event_id"],
        "provider": means.provider,
        "method": means.method,
        "amount": amount,
        "currency": row["currency"],
        "state": "initiated",
        "for_change": True,
        "once": None if once is None else once.scope + once.body,
        "expires_at": sa.func.now() + CHANGE_GRACE,
        "created_at": sa.func.now(),
        "updated_at": sa.func.now(),
        "check_at": sa.func.now() + CHECK_FIRST,
    }


def _require_new_or_same(booking: Booking, ours: Sequence[Row], once: Once) -> None:
    """Answer a key as it was answered: with another body, or after a payment that was declined."""
    for one in ours:
        kept = one["once"] if one["for_change"] and one["created_at"] > one["keys_since"] else None
        if kept is None or kept[: len(once.scope)] != once.scope:
            continue
        if kept != once.scope + once.body:
            raise IdempotencyKeyReused
        if one["state"] == "declined":
            raise PaymentDeclined(booking.id, one["reason"]).again()


async def _transferred_at(connection: AsyncConnection, row: Row) -> dt.datetime | None:
    """When the booking was given to whose it is now; ``None`` where it has always been theirs."""
    query = sa.select(sa.func.max(history.c.at)).where(
        history.c.booking_id == row["id"], history.c.reason == TRANSFERRED
    )
    moment: dt.datetime | None = (await connection.execute(query)).scalar_one()
    return moment


def _means_of(ours: Sequence[Row], transferred_at: dt.datetime | None) -> Means:
    """What the booking was paid with last, by whose it is now.

    Raises:
        InvalidRequest: They have paid nothing for it; what somebody else has paid with is not theirs to use.
    """
    chosen = [one for one in ours if one["chosen"]]
    if not chosen:
        raise InvalidRequest("$.payment", "required: the places cost more, and no provider knows of the booking yet")
    if transferred_at is not None and chosen[-1]["created_at"] <= transferred_at:
        raise InvalidRequest("$.payment", "required: the places cost more, and it was another customer who paid")
    return Means(chosen[-1]["provider"], chosen[-1]["method"])
