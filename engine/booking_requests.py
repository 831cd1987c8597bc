"""One attempt to book: what the scripts are told, and what can be said before the ledger has it."""

import msgspec

from engine.bookings import Booking, BookingDetails, JournalEntry
from engine.claims import describe_places
from engine.events import SellableEvent
from engine.ids import BookingId
from engine.once import ONCE_TTL_MS, Once, attempt_of
from engine.refusals import moment


class BookingRequest(msgspec.Struct, frozen=True):
    """One attempt to book: what the script, the journal and the answer need of it."""

    key: bytes
    booking_id: BookingId
    customer_id: str
    details: BookingDetails
    sealed: bytes
    once: Once | None


def booking_args(request: BookingRequest) -> list[bytes]:
    """The arguments that ``confirm_hold`` and ``book_places`` share."""
    once = request.once
    attempt = attempt_of(once)
    scope, body = (once.scope, once.body) if once else (b"", b"")
    return [request.key, request.customer_id.encode(), attempt, request.sealed, body, scope, b"%d" % ONCE_TTL_MS]


def confirming_booking(entry: JournalEntry, event: SellableEvent, details: BookingDetails) -> Booking:
    """What can be said of a booking that is accepted in Redis and not yet known to be in the ledger."""
    items, amount = describe_places(event.layout, entry.places)
    return Booking(
        id=entry.booking_id,
        reference=None,
        event_id=entry.event_id,
        customer_id=entry.customer_id,
        status="confirming",
        payment_status="none",
        version=0,  # the ledger begins at 1: an entity tag of this one must not fit that one
        items=items,
        from_=event.layout.stop_name(entry.places.first_leg),
        to=event.layout.stop_name(entry.places.last_leg),
        guest=details.guest,
        attendees=details.attendees,
        amount=amount,
        refunded=0,
        currency=event.definition.currency,
        notes=details.notes,
        organizer_notes=None,
        source=details.source,
        metadata=details.metadata,
        created_at=moment(entry.created_at_ms),
        updated_at=moment(entry.confirmed_at_ms),
    )
