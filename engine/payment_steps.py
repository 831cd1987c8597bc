"""What is to be done next about the payments of a booking: decided from what the ledger says, and from nothing else.

The booking's status decides, the money follows. Nothing is captured before the booking is certain, and nothing voided
before the booking has ended: so whoever is interrupted anywhere leaves a case from which the next one goes on.

A booking is bought with one payment, and with one more for every change that made it dearer. Those are the chosen ones.
What is ours of them for good is taken from the oldest first, so that what goes back comes from the newest.
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

# How long money that was set aside for a change waits for it: a change that was cut short may be asked for again, and a
# customer who has to go to a page of their bank comes back within the usual ``payment_ttl``.
CHANGE_GRACE = dt.timedelta(minutes=10)

_KEPT = ("confirmed", "checked_in", "completed", "no_show")
_CHANGEABLE = ("pending", "confirmed")
_OPEN: tuple[PaymentState, ...] = ("initiated", "pending")
_LIVE: tuple[PaymentState, ...] = (*_OPEN, "authorized", "captured")


class PaymentView(msgspec.Struct, frozen=True, kw_only=True):
    """One payment over *amount*; ``chosen``: the booking is bought with it.

    ``awaits_change``: it was asked for by a change of places, which may still be made, and chooses it then. Once it is
    given up no change can.
    """

    id: str
    state: PaymentState
    chosen: bool
    amount: int
    captured: int
    created_at: dt.datetime
    awaits_change: bool = False


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
    def chosen(self) -> list[PaymentView]:
        """The payments that the booking is bought with, the oldest first."""
        return [payment for payment in self.payments if payment.chosen]

    @property
    def ends_at(self) -> dt.datetime | None:
        """When a booking that still waits for its payment will have waited long enough."""
        if self.status != "payment_initiated" or self.expires_at is None:
            return None
        is_open = any(payment.state in _OPEN for payment in self.payments)
        return self.expires_at + (LATE_MAX if is_open and self.waits_for_late else OVER_MARGIN)

    @property
    def turns_at(self) -> dt.datetime | None:
        """When there will be something to do though nothing happens; ``None``: never."""
        lapses = [payment.created_at + CHANGE_GRACE for payment in self.payments if self.is_spared(payment)]
        return min(lapses, default=self.ends_at)

    def is_spared(self, payment: PaymentView) -> bool:
        """Whether it is left alone, because the change that asked for it may still be made."""
        is_in_time = self.now - payment.created_at <= CHANGE_GRACE
        return payment.awaits_change and payment.state in _LIVE and is_in_time and self.status in _CHANGEABLE


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


class GiveUp(msgspec.Struct, frozen=True):
    """Write down that no change will choose it. It is let go only then, or one could choose it meanwhile."""

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


Step = LookUp | Confirm | Capture | Void | GiveUp | OpenRefund | Refund | End | Say


def next_step(case: Case, looked_up: frozenset[str]) -> Step | None:
    """The next thing to do, or ``None``: all is done that can be done now. *looked_up* were asked about already."""
    opened = [payment for payment in case.payments if payment.state in _OPEN]
    for payment in opened:
        if payment.id not in looked_up:
            return LookUp(payment.id)
    for payment in case.payments:
        if payment.awaits_change and payment.state in _LIVE and not case.is_spared(payment):
            return GiveUp(payment.id)
    step = _while_unpaid(case) if case.status == "payment_initiated" else _about_the_money(case)
    if step is not None:
        return step
    # What nobody has heard of for long enough is not waited for, nor is what its booking does not wait for.
    for payment in opened:
        if case.is_spared(payment):
            continue
        is_abandoned = payment.state == "initiated" and case.now - payment.created_at > ABANDONED_AFTER
        if is_abandoned or case.status != "payment_initiated":
            return Void(payment.id)
    said = payment_status_of(case)
    return Say(said) if said != case.payment_status else None


def payment_status_of(case: Case) -> PaymentStatus:
    """What is true of the booking's payment."""
    chosen = case.chosen
    if not chosen:
        is_open = case.status == "payment_initiated" and any(payment.state in _OPEN for payment in case.payments)
        return "pending" if is_open else "failed"
    if any(payment.state == "authorized" for payment in chosen):
        return "held"
    # What a provider has refused to give back is still with it, though it is not asked for again.
    kept = sum(_at_hand(case, payment) for payment in chosen) + _refused(case, chosen)
    if case.status in _KEPT and kept < case.amount - case.refunded and _any_voided(chosen):
        return "failed"  # what was set aside has lapsed before it was taken
    if kept == 0 and case.amount > 0:  # what was free is paid for
        return "refunded"
    return "completed" if kept >= case.amount else "partially_refunded"


def _refused(case: Case, payments: Sequence[PaymentView]) -> int:
    ids = {payment.id for payment in payments}
    return sum(refund.amount for refund in case.refunds if refund.state == "refused" and refund.payment_id in ids)


def _any_voided(payments: Sequence[PaymentView]) -> bool:
    return any(payment.state == "voided" for payment in payments)


def _while_unpaid(case: Case) -> Step | None:
    for payment in case.chosen:
        if payment.state in ("authorized", "captured"):
            return Confirm(payment.id)
    if (ends_at := case.ends_at) is None or case.now <= ends_at:
        return None
    was_refused = bool(case.payments) and case.payments[-1].state in ("declined", "voided")
    return End("failed" if was_refused else "expired")


def _about_the_money(case: Case) -> Step | None:
    for refund in case.refunds:
        if refund.state == "due":
            return Refund(refund.id)
    left = _wanted(case)
    for payment in case.payments:
        if case.is_spared(payment) or (payment.chosen and left is None):
            continue
        at_hand = _at_hand(case, payment)
        ours = min(at_hand, left or 0) if payment.chosen else 0
        if payment.chosen and left is not None:
            left -= ours
        if payment.state == "authorized":
            return Capture(payment.id, ours) if ours > 0 else Void(payment.id)
        if payment.state == "captured" and at_hand > ours:
            return OpenRefund(payment.id, at_hand - ours)
    return None


def _wanted(case: Case) -> int | None:
    """How much of the chosen payments is ours for good, in all; ``None`` while that is open."""
    if case.status in ("pending", "paid", "payment_initiated"):
        return None
    if case.status in _KEPT or (case.status == "cancelled" and case.was_confirmed):
        return case.amount - case.refunded
    return 0


def _at_hand(case: Case, payment: PaymentView) -> int:
    """What can be had of a payment, or is kept of it: never what is on its way back, nor what was to be.

    What a provider has refused to give back once is not asked for again.
    """
    if payment.state == "authorized":
        return payment.amount
    if payment.state != "captured":
        return 0
    return payment.captured - sum(refund.amount for refund in case.refunds if refund.payment_id == payment.id)
