"""The simulator's book: payments in memory by their idempotency key, and what may become of them."""

import datetime as dt
from typing import Literal

import msgspec

Status = Literal["pending", "authorized", "captured", "declined", "voided"]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A payment as it is asked for."""

    key: str
    booking_id: str
    method: str
    amount: int
    currency: str
    expires_at: dt.datetime


class Payment(msgspec.Struct):
    """One payment; ``refunds`` are sums by their keys."""

    key: str
    booking_id: str
    method: str
    amount: int
    currency: str
    status: Status
    captured: int = 0
    reason: str | None = None
    redirect_url: str | None = None
    refunds: dict[str, int] = {}

    @property
    def refunded(self) -> int:
        return sum(self.refunds.values())

    def document(self) -> dict[str, object]:
        """As callers and webhooks are told of it."""
        return {
            name: getattr(self, name)
            for name in (
                "key",
                "booking_id",
                "method",
                "amount",
                "currency",
                "status",
                "captured",
                "refunded",
                "redirect_url",
                "reason",
            )
        }


class NotPossible(Exception):
    """There is no such payment (any more) for this."""


class Book:
    """All payments. Every change may be asked for twice, and is done once."""

    def __init__(self) -> None:
        self.payments: dict[str, Payment] = {}

    def open(self, asked: Asked, status: Status, **said: str) -> Payment:
        """The payment of this key, made as *status* if it is new."""
        payment = self.payments.get(asked.key)
        if payment is None:
            known = (asked.key, asked.booking_id, asked.method, asked.amount, asked.currency)
            payment = self.payments[asked.key] = Payment(*known, status, **said)  # type: ignore[arg-type]
        return payment

    def decide(self, key: str, status: Status) -> bool:
        """A pending payment has been authorized or declined; whether that was news."""
        payment = self.payments[key]
        if payment.status != "pending":
            return False
        payment.status = status
        return True

    def capture(self, key: str, amount: int) -> Payment:
        """Take *amount* of what is authorized, once."""
        payment = self._find(key)
        if payment.status == "authorized" and 0 < amount <= payment.amount:
            payment.status, payment.captured = "captured", amount
        elif payment.status != "captured":
            raise NotPossible(f"{payment.status}, {amount} of {payment.amount}")
        return payment

    def void(self, key: str) -> Payment:
        """Let go; of a payment that was never heard of, remember that it is void."""
        payment = self.payments.get(key)
        if payment is None:
            payment = self.payments[key] = Payment(key, "", "", 0, "", "voided")
        elif payment.status in ("pending", "authorized"):
            payment.status = "voided"
        return payment

    def refund(self, key: str, amount: int, refund_key: str) -> Payment:
        """Give *amount* back, once for each *refund_key*."""
        payment = self._find(key)
        if refund_key not in payment.refunds:
            if payment.status != "captured" or not 0 < amount <= payment.captured - payment.refunded:
                raise NotPossible(f"{payment.captured} taken, {payment.refunded} given back")
            payment.refunds = payment.refunds | {refund_key: amount}
        return payment

    def _find(self, key: str) -> Payment:
        if key not in self.payments:
            raise NotPossible("no such payment")
        return self.payments[key]
