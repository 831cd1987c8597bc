"""What is needed of a payment provider, as a port: a simulator and Stripe speak it (``holdfast.payments``).

A payment is authorized first (the money is set aside), captured when the booking is certain, voided when it is not,
and refunded afterwards. Every change carries an idempotency key that was written down before it was asked for, so that
it may be asked for again by anybody who does not know what became of it.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Literal, Protocol

import msgspec

from engine.definition import PRINTABLE_PATTERN

Outcome = Literal["declined", "authorized", "captured", "voided", "pending", "absent", "unknown"]
"""What a provider says of a payment. ``pending`` is open (the customer has to do something), ``absent`` one it has
never heard of. ``unknown`` is no answer at all: a time-out is that, never a failure."""
PaymentState = Literal["initiated", "pending", "authorized", "captured", "declined", "voided"]
"""What the ledger knows of a payment; ``initiated``: nobody has said anything of it yet."""

NAME_MAX = 255  # characters of what a provider calls something; theirs are a few dozen
SUM_MAX = 2**63 - 1  # what Postgres's bigint holds

# What a provider says goes into the ledger: the documents that adapters read it from are bounded to what that can keep,
# which is no text with NUL in it, among others.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX, pattern=PRINTABLE_PATTERN)]
Sum = Annotated[int, msgspec.Meta(ge=0, le=SUM_MAX)]
Text = Annotated[str, msgspec.Meta(pattern=PRINTABLE_PATTERN)]

WEBHOOK_TOLERANCE = dt.timedelta(minutes=5)  # between the time that a notice was signed at and ours, either way


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One payment as its provider is asked for it.

    ``key`` is the idempotency key, and our name for it; ``provider_ref`` is the provider's own, once it is known.
    ``amount`` is in minor units; ``expires_at`` is when whatever it pays for will be gone.
    """

    key: str
    booking_id: str
    method: str
    amount: int
    currency: str
    expires_at: dt.datetime
    provider_ref: str | None = None


class Means(msgspec.Struct, frozen=True):
    """What somebody pays with: a provider's name, and the provider's token of the method."""

    provider: str
    method: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's word on a payment. ``captured`` is the sum taken; ``redirect_url`` where the customer has to go."""

    outcome: Outcome
    provider_ref: str | None = None
    captured: int = 0
    redirect_url: str | None = None
    reason: str | None = None


UNKNOWN = Said(outcome="unknown")


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook, its signature being right: the provider's word on the payment that we call ``key``.

    ``id`` is the provider's name of the notice; one that comes again has the same.
    """

    id: str
    key: str
    said: Said


class NoticeRefused(Exception):
    """A webhook whose signature is wrong, too old or from the future."""


class PaymentProvider(Protocol):
    """Whoever moves the money. No method raises because a provider fails: what it does not answer is ``unknown``.

    Each returns within :data:`engine.payments.PROVIDER_TIMEOUT_S`, and may be called again with the same arguments
    without moving money twice.
    """

    name: str

    async def authorize(self, charge: Charge) -> Said:
        """Set the money aside."""
        ...

    async def capture(self, charge: Charge, amount: int) -> Said:
        """Take *amount*, no more than was set aside; the rest is let go."""
        ...

    async def void(self, charge: Charge) -> Said:
        """Let go of what was set aside, and see to it that nothing is when ``authorize`` arrives only later.

        ``captured`` is the answer when it is too late for that.
        """
        ...

    async def refund(self, charge: Charge, amount: int, *, key: str) -> Literal["done", "refused", "unknown"]:
        """Give *amount* of what was taken back; *key* is the refund's own idempotency key."""
        ...

    async def look_up(self, charge: Charge) -> Said:
        """What has become of a payment whose answer was lost."""
        ...

    def parse_webhook(self, headers: Mapping[bytes, bytes], body: bytes, *, now: dt.datetime) -> Notice | None:
        """What a webhook says; ``None`` when it speaks of nothing that concerns a payment. Names are in lower case.

        Raises:
            NoticeRefused: Nothing that it says may be believed.
            InvalidRequest: It is rightly signed, and is no notice, or says what cannot be written down.
        """
        ...


PROVIDER_TIMEOUT_S = 30.0  # of one call; past it the outcome is unknown
