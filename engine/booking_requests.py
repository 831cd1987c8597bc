"""One attempt to book: what the scripts are told, and what can be said before the ledger has it."""

import msgspec

from engine.bookings import Booking, BookingDetails, JournalEntry
from engine.claims import describe_places
from engine.errors import InvalidRequest
from engine.events import SellableEvent
from engine.ids import BookingId
from engine.once import ONCE_TTL_MS, Once, attempt_of
from engine.refusals import moment

# Of the sealed details of one booking: 500 attendees with a name and a seat each are 30 kB. The scripts rely on it when
# they judge by the number of entries whether the journal may be full (lua/include/book.lua).
DETAILS_BYTES_MAX = 65_536
JOURNAL_BYTES_MAX = 64 << 20  # of a partition's journal: about 200 000 bookings, written in less than a minute


class BookingRequest(msgspec.Struct, frozen=True):
    """One attempt to book: what the script, the journal and the answer need of it."""

    key: bytes
    booking_id: BookingId
    customer_id: str
    details: BookingDetails
    sealed: bytes
    once: Once | None


def booking_args(request: BookingRequest, *, journal_bytes_max: int) -> list[bytes]:
    """The arguments that ``confirm_hold`` and ``book_places`` share.

    Raises:
        InvalidRequest: What the customer says of people is too long to be kept.
    """
    if len(request.sealed) > DETAILS_BYTES_MAX:
        raise InvalidRequest("$", f"guest, attendees, notes and metadata are more than {DETAILS_BYTES_MAX} bytes")
    once = request.once
    attempt = attempt_of(once)
    scope, body = (once.scope, once.body) if once else (b"", b"")
    bounds = (b"%d" % ONCE_TTL_MS, b"%d" % journal_bytes_max)
    return [request.key, request.customer_id.encode(), attempt, request.sealed, body, scope, *bounds]


def accepted_booking(entry: JournalEntry, event: SellableEvent, details: BookingDetails) -> Booking:
    """What can be said of a booking that is accepted in Redis and not yet known to be in the ledger.

    It is ``confirming``, but where the event's policy leaves it to Redis: there it is ``confirmed`` and not durable.
    """
    is_confirmed = event.definition.policy.durability == "redis"
    confirmed_at = moment(entry.confirmed_at_ms)
    items, amount = describe_places(event.layout, entry.places)
    return Booking(
        id=entry.booking_id,
        reference=None,
        event_id=entry.event_id,
        customer_id=entry.customer_id,
        status="confirmed" if is_confirmed else "confirming",
        payment_status="none",
        version=0,  # the ledger begins at 1: an entity tag of this one must not fit that one
        durable=False,
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
        updated_at=confirmed_at,
        confirmed_at=confirmed_at if is_confirmed else None,
    )
