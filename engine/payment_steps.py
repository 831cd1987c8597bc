"""What is to be done next about the payments of a booking: decided from what the ledger says, and from nothing else.

The booking's status decides, the money follows. Nothing is captured before the booking is certain, and nothing voided
before the booking has ended: so whoever is interrupted anywhere leaves a case from which the next one goes on.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Literal

import msgspec

from engine.bookings import PaymentStatus
from engine.payments import PROVIDER_TIMEOUT_S, PaymentState

# An authorization that nobody has heard of this long after it was asked for is not under way any more.
ABANDONED_AFTER = dt.timedelta(seconds=2 * PROVIDER_TIMEOUT_S)
# Between a hold's deadline (Redis's clock) and the end of its booking (Postgres's), so that both agree it is over.
OVER_MARGIN = dt.timedelta(seconds=2)
# How long after its hold's deadline a payment may arrive and still be booked; what comes later is given back.
LATE_MAX = dt.timedelta(hours=1)

_KEPT = ("confirmed", "checked_in", "completed", "no_show")
_OPEN: tuple[PaymentState, ...] = ("initiated", "pending")


class PaymentView(msgspec.Struct, frozen=True, kw_only=True):
    """One payment; ``chosen`` is the one that the booking is bought with, of which there is one at most."""

    id: str
    state: PaymentState
    chosen: bool
    captured: int
    created_at: dt.datetime


class RefundView(msgspec.Struct, frozen=True, kw_only=True):
    """Money on its way back. One that the provider has ``refused`` is for a person to look into."""

    id: str
    payment_id: str
    amount: int
    state: Literal["due", "done", "refused"]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A booking, its payments by attempt, and its refunds, as the ledger had them at ``now``.

    ``was_confirmed``: it was certain once, so that what is not granted back may be kept after its end.
    """

    status: str
    payment_status: PaymentStatus
    amount: int
    refunded: int
    was_confirmed: bool
    expires_at: dt.datetime | None
    waits_for_late: bool
    now: dt.datetime
    payments: Sequence[PaymentView]
    refunds: Sequence[RefundView]

    @property
    def chosen(self) -> PaymentView | None:
        """The payment that the booking is bought with."""
        return next((payment for payment in self.payments if payment.chosen), None)

    @property
    def ends_at(self) -> dt.datetime | None:
        """When a booking that still waits for its payment will have waited long enough."""
        if self.status != "payment_initiated" or self.expires_at is None:
            return None
        is_open = any(payment.state in _OPEN for payment in self.payments)
        return self.expires_at + (LATE_MAX if is_open and self.waits_for_late else OVER_MARGIN)


class LookUp(msgspec.Struct, frozen=True):
    """Ask what has become of it."""

    payment_id: str


class Confirm(msgspec.Struct, frozen=True):
    """Turn the hold into the booking that this payment has paid for."""

    payment_id: str


class Capture(msgspec.Struct, frozen=True):
    """Take the money."""

    payment_id: str
    amount: int


class Void(msgspec.Struct, frozen=True):
    """Let go of the money."""

    payment_id: str


class OpenRefund(msgspec.Struct, frozen=True):
    """Write down that money must go back."""

    payment_id: str
    amount: int


class Refund(msgspec.Struct, frozen=True):
    """Give it back."""

    refund_id: str


class End(msgspec.Struct, frozen=True):
    """The booking was not paid for in time; ``despite_payment`` it was, and its places are not to be had any more."""

    to_status: Literal["failed", "expired"]
    despite_payment: bool = False


class Say(msgspec.Struct, frozen=True):
    """Bring what the booking says of its payment to what is true."""

    payment_status: PaymentStatus


Step = LookUp | Confirm | Capture | Void | OpenRefund | Refund | End | Say


def next_step(case: Case, looked_up: frozenset[str]) -> Step | None:
    """The next thing to do, or ``None``: all is done that can be done now. *looked_up* were asked about already."""
    opened = [payment for payment in case.payments if payment.state in _OPEN]
    for payment in opened:
        if payment.id not in looked_up:
            return LookUp(payment.id)
    step = _while_unpaid(case) if case.status == "payment_initiated" else _about_the_money(case)
    if step is not None:
        return step
    # What nobody has heard of for long enough is not waited for, nor is what its booking does not wait for.
    for payment in opened:
        is_abandoned = payment.state == "initiated" and case.now - payment.created_at > ABANDONED_AFTER
        if is_abandoned or case.status != "payment_initiated":
            return Void(payment.id)
    said = payment_status_of(case)
    return Say(said) if said != case.payment_status else None


def payment_status_of(case: Case) -> PaymentStatus:
    """What is true of the booking's payment."""
    chosen = case.chosen
    if chosen is None:
        is_open = case.status == "payment_initiated" and any(payment.state in _OPEN for payment in case.payments)
        return "pending" if is_open else "failed"
    match chosen.state:
        case "captured":
            given_back = _given_back(case, chosen)
            kept = chosen.captured - given_back
            if kept == 0 and case.amount > 0:  # what was free is paid for
                return "refunded"
            return "completed" if kept >= case.amount else "partially_refunded"
        case "voided":
            return "failed" if case.status in _KEPT else "refunded"
    return "held"


def _while_unpaid(case: Case) -> Step | None:
    if (chosen := case.chosen) is not None and chosen.state in ("authorized", "captured"):
        return Confirm(chosen.id)
    if (ends_at := case.ends_at) is None or case.now <= ends_at:
        return None
    was_refused = bool(case.payments) and case.payments[-1].state in ("declined", "voided")
    return End("failed" if was_refused else "expired")


def _about_the_money(case: Case) -> Step | None:
    for refund in case.refunds:
        if refund.state == "due":
            return Refund(refund.id)
    for payment in case.payments:
        wanted = _wanted(case, payment)
        if payment.state == "authorized" and wanted is not None:
            return Capture(payment.id, wanted) if wanted > 0 else Void(payment.id)
        if payment.state == "captured" and wanted is not None:
            excess = payment.captured - _given_back(case, payment) - wanted
            if excess > 0:
                return OpenRefund(payment.id, excess)
    return None


def _wanted(case: Case, payment: PaymentView) -> int | None:
    """How much of a payment is ours for good; ``None`` while that is open."""
    if not payment.chosen:
        return 0
    if case.status in ("pending", "paid", "payment_initiated"):
        return None
    if case.status in _KEPT or (case.status == "cancelled" and case.was_confirmed):
        return case.amount - case.refunded
    return 0


def _given_back(case: Case, payment: PaymentView) -> int:
    """What is on its way back, or was to be: what a provider refuses once is not asked for again."""
    return sum(refund.amount for refund in case.refunds if refund.payment_id == payment.id)
