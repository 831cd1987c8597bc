"""A booking: the durable claim, as engine and ledger hand it to each other and as clients see it."""

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec

from engine.claims import ClaimedItem
from engine.ids import BookingId
from engine.places import Places

BookingStatus = Literal[
    "confirming",
    "payment_initiated",
    "paid",
    "pending",
    "confirmed",
    "checked_in",
    "completed",
    "cancelled",
    "rejected",
    "expired",
    "failed",
    "no_show",
]
PaymentStatus = Literal["none", "pending", "held", "completed", "failed", "refunded", "partially_refunded"]


class Price(msgspec.Struct, frozen=True):
    """What a booking costs, as it was agreed: a snapshot, in minor units of the event's currency.

    ``total`` is ``base + tax - discount``. ``source`` says who made it: ``fixed`` are the sections' own prices,
    ``service`` a pricing service, ``fallback`` the sections' prices because that service did not answer.
    """

    base: int
    tax: int
    discount: int
    total: int
    source: Literal["fixed", "service", "fallback"] = "fixed"


class BlockTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What makes a booking a block: who has taken its places off sale, and when they come back by themselves."""

    actor: str
    release_at: dt.datetime | None = None


class BookingDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What goes with a booking beside the places, and is for the ledger alone.

    Guests, attendees and notes are personal data: they are sealed (encrypted) before they leave the process, and only
    the ledger's readers open them. With them, so that Redis can neither read nor change it, goes what was agreed:
    ``price`` where it is not the sections' own, ``payment_id`` where the booking was paid for, with its provider's name
    of it (``payment_ref``) where that was known, and who asked for it. ``block`` is there where it is no booking of a
    customer's: see :mod:`engine.blocks`.
    """

    guest: dict[str, Any] | None = None
    attendees: list[dict[str, Any]] = []
    notes: str | None = None
    source: str = "api"
    metadata: dict[str, Any] = {}
    price: Price | None = None
    payment_id: str | None = None
    payment_ref: str | None = None
    role: str = "customer"
    request_id: str | None = None
    block: BlockTerms | None = None


class JournalEntry(msgspec.Struct, frozen=True):
    """A booking accepted in Redis: all that the ledger needs to write it, as it stands in the journal.

    ``details`` is opaque to engine and Redis: the sealed details. ``once`` and ``body_digest`` are the idempotency
    key's scope digest and the digest of the request's body, empty without a key.
    """

    journal_id: str
    epoch: int
    event_id: str
    booking_id: BookingId
    customer_id: str
    places: Places
    created_at_ms: int
    confirmed_at_ms: int
    details: bytes
    once: bytes = b""
    body_digest: bytes = b""

    @property
    def booking_key(self) -> bytes:
        """What the entry itself calls its booking: the booking's name inside the event's hashes."""
        return self.booking_id.partition("~")[0].encode()


_AMOUNT = (
    "What the places cost, until the booking is paid for; from then on all that was ever charged for it, in minor "
    "units. A change of places that costs more adds the difference; one that costs less leaves it as it is, and "
    "raises `refunded`. What the places cost now is `price.total`."
)
_REFUNDED = "What of `amount` was granted back in all, in minor units."


class Booking(msgspec.Struct, frozen=True):
    """A booking as clients see it; ``durable`` once the ledger has it, and ``reference`` is ``None`` until then."""

    id: BookingId
    reference: str | None
    event_id: str
    customer_id: str
    status: BookingStatus
    payment_status: PaymentStatus
    version: int
    durable: bool
    items: tuple[ClaimedItem, ...]
    from_: str | None = msgspec.field(name="from")
    to: str | None
    guest: dict[str, Any] | None
    attendees: list[dict[str, Any]]
    price: Price
    amount: Annotated[int, msgspec.Meta(description=_AMOUNT)]
    refunded: Annotated[int, msgspec.Meta(description=_REFUNDED)]
    currency: str
    notes: str | None
    organizer_notes: str | None
    source: str
    metadata: dict[str, Any]
    created_at: dt.datetime
    updated_at: dt.datetime
    confirmed_at: dt.datetime | None = None
    cancelled_at: dt.datetime | None = None
    cancelled_by: str | None = None
    cancellation_reason: str | None = None
    checked_in_at: dt.datetime | None = None
    completed_at: dt.datetime | None = None
    expires_at: dt.datetime | None = None
    estimated_pickup_time: dt.datetime | None = None
    estimated_dropoff_time: dt.datetime | None = None
    actual_pickup_time: dt.datetime | None = None
    actual_dropoff_time: dt.datetime | None = None
