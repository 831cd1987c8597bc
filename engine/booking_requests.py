"""One attempt to book: what the scripts are told, and what can be said before the ledger has it."""

import msgspec

from engine.bookings import Booking, BookingDetails, BookingStatus, JournalEntry, Price
from engine.claims import describe_places
from engine.errors import InvalidRequest
from engine.events import SellableEvent
from engine.ids import BookingId
from engine.once import Once, attempt_of
from engine.refusals import moment

# Of the sealed details of one booking: 500 attendees with a name and a seat each are 30 kB. The scripts rely on it when
# they judge by the number of entries whether the journal may be full (lua/include/book.lua).
DETAILS_BYTES_MAX = 65_536


class BookingRequest(msgspec.Struct, frozen=True):
    """One attempt to book: what the script, the journal and the answer need of it.

    ``attempt`` marks it where no idempotency key does.
    """

    key: bytes
    booking_id: BookingId
    customer_id: str
    details: BookingDetails
    sealed: bytes
    once: Once | None
    attempt: bytes | None = None


def booking_args(request: BookingRequest) -> tuple[bytes, ...]:
    """What every script that books is told of a request: the same of each repetition, by whichever script.

    Raises:
        InvalidRequest: What the customer says of people is too long to be kept.
    """
    if len(request.sealed) > DETAILS_BYTES_MAX:
        raise InvalidRequest("$", f"guest, attendees, notes and metadata are more than {DETAILS_BYTES_MAX} bytes")
    once = request.once
    attempt = request.attempt or attempt_of(once)
    scope, body = (once.scope, once.body) if once else (b"", b"")
    return (request.key, request.customer_id.encode(), attempt, request.sealed, body, scope)


def leaves_it_to_redis(event: SellableEvent) -> bool:
    """Whether a booking is acknowledged before the ledger has it; looking things up there first would make it wait.

    Never where it is paid for: the payment is in the ledger already, and its money must not outlive its booking.
    """
    policy = event.definition.policy
    return policy.durability == "redis" and policy.payment == "none"


def accepted_booking(entry: JournalEntry, event: SellableEvent, details: BookingDetails) -> Booking:
    """What can be said of a booking that is accepted in Redis and not yet known to be in the ledger.

    It is ``confirming``, but where the event's policy leaves it to Redis: there it has the status it will have, and is
    not durable.
    """
    policy = event.definition.policy
    is_settled = details.block is None and leaves_it_to_redis(event)
    is_requested = policy.approval == "manual"
    accepted_at = moment(entry.confirmed_at_ms)
    items, amount = describe_places(event.layout, entry.places)
    price = details.price or Price(amount, 0, 0, amount)
    status: BookingStatus = "confirming"
    if is_settled:
        status = "pending" if is_requested else "confirmed"
    return Booking(
        id=entry.booking_id,
        reference=None,
        event_id=entry.event_id,
        customer_id=entry.customer_id,
        status=status,
        payment_status="held" if details.payment_id else "none",
        version=0,  # the ledger begins at 1: an entity tag of this one must not fit that one
        durable=False,
        items=items,
        from_=event.layout.stop_name(entry.places.first_leg),
        to=event.layout.stop_name(entry.places.last_leg),
        guest=details.guest,
        attendees=details.attendees,
        price=price,
        amount=price.total,
        refunded=0,
        currency=event.definition.currency,
        notes=details.notes,
        organizer_notes=None,
        source=details.source,
        metadata=details.metadata,
        created_at=moment(entry.created_at_ms),
        updated_at=accepted_at,
        confirmed_at=accepted_at if status == "confirmed" else None,
        expires_at=None if details.block is None else details.block.release_at,
    )
