"""Handlers of bookings: from a hold or in one step, and reading them."""

import datetime as dt
from typing import Annotated, Any, Final

import msgspec

from api.admission_queue import repeats_booking, require_admission
from api.answers import Answer
from api.call import Call
from api.decoding import DateOrMoment, check_free_form, decode_body, decode_moment, decode_query
from api.errors import Forbidden
from api.events import managed_event
from api.holds import Items
from api.idempotency import REPLAYED
from api.identity import ADMIN, CUSTOMER, ORGANIZER, SERVICE, Caller
from api.paging import PageQuery, page_answer
from api.patterns import EMAIL_PATTERN, SOURCE_PATTERN
from api.payments import answer_paid, is_sold_against_payment
from api.versions import versioned_answer
from engine.attendees import check_attendees
from engine.bookings import Booking, BookingDetails, BookingStatus
from engine.claim_requests import Booked, ClaimRequest
from engine.claims import resolve_places
from engine.definition import PLACES_PER_HOLD_MAX, PRINTABLE_PATTERN, EventId, Metadata, PlaceName
from engine.errors import BookingNotFound, BookingRefused, HoldRefusal, InvalidRequest
from engine.ids import parse_claim_id
from persistence.bookings import BookingFilter

SOURCE_DEFAULT: Final = "api"
_BUYING_ROLES = (CUSTOMER, SERVICE, ADMIN)  # who has several acts with the least of them
AGE_MAX = 150  # nobody has been older than 122

# As the subject of a token can be: nobody else could ever be that customer.
CustomerId = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=PRINTABLE_PATTERN)]
_TO_DATE = "A date in UTC, which is the last day, or a moment with a zone (RFC 3339), which is excluded."
_Line = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Guest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whom the booking is for."""

    name: _Line | None = None
    email: Annotated[str, msgspec.Meta(max_length=254, pattern=EMAIL_PATTERN)] | None = None
    phone: Annotated[str, msgspec.Meta(min_length=1, max_length=40)] | None = None


class Attendee(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who will sit where: in a place of the booking that nobody else is named for. A table seats as many as it fits."""

    name: _Line | None = None
    email: Annotated[str, msgspec.Meta(max_length=254, pattern=EMAIL_PATTERN)] | None = None
    age: Annotated[int, msgspec.Meta(ge=0, le=AGE_MAX)] | None = None
    gender: Annotated[str, msgspec.Meta(min_length=1, max_length=32)] | None = None
    section: PlaceName | None = None
    seat: Annotated[str, msgspec.Meta(min_length=1, max_length=129)] | None = None


class PaymentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to pay, where the event's policy has `payment: required`.

    Where it has not, this is not looked at and nothing is charged: the booking's `payment_status` is then `none`.
    """

    provider: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    method: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class BookingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A booking of a hold (``hold_id``), or both in one step (``event_id``, ``items``, ``from``, ``to``)."""

    hold_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    event_id: EventId | None = None
    items: Items | None = None
    from_: PlaceName | None = msgspec.field(default=None, name="from")
    to: PlaceName | None = None
    guest: Guest | None = None
    attendees: Annotated[list[Attendee], msgspec.Meta(max_length=PLACES_PER_HOLD_MAX)] = []
    payment: PaymentRequest | None = None
    notes: Annotated[str, msgspec.Meta(max_length=2000)] | None = None
    source: Annotated[str, msgspec.Meta(pattern=SOURCE_PATTERN)] = SOURCE_DEFAULT
    metadata: Metadata = {}

    def details(self, caller: Caller, *, request_id: str) -> BookingDetails:
        """What the customer says beside the places, and as whom and by which request, for the history.

        Raises:
            InvalidRequest: ``metadata`` holds what cannot be kept.
        """
        if self.metadata:
            check_free_form(self.metadata, "$.metadata")
        guest: dict[str, Any] | None = msgspec.to_builtins(self.guest)
        attendees: list[dict[str, Any]] = msgspec.to_builtins(self.attendees)
        return BookingDetails(
            guest=guest,
            attendees=attendees,
            notes=self.notes,
            source=self.source,
            metadata=self.metadata,
            role=_buying_role(caller),
            request_id=request_id,
        )


class BookingPage(msgspec.Struct, frozen=True):
    """Part of a list of bookings."""

    items: list[Booking]
    next_cursor: str | None


class EventBookingQuery(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Which bookings of an event: by whom, in which status, made when."""

    customer_id: CustomerId | None = None
    status: BookingStatus | None = None
    from_date: DateOrMoment | None = None
    to_date: Annotated[DateOrMoment, msgspec.Meta(description=_TO_DATE)] | None = None
    q: Annotated[str, msgspec.Meta(min_length=1, max_length=128, description="A reference or an id.")] | None = None

    def wanted(self, *, event_id: str | None) -> BookingFilter:
        """The same for the ledger.

        Raises:
            InvalidRequest: One of the dates is none.
        """
        return BookingFilter(
            event_id=event_id,
            customer_id=self.customer_id,
            status=self.status,
            from_date=decode_moment(self.from_date, "from_date"),
            to_date=decode_moment(self.to_date, "to_date", is_end=True),
            q=self.q,
        )


class BookingQuery(EventBookingQuery, frozen=True, forbid_unknown_fields=True):
    """Which bookings, of one event or of all."""

    event_id: EventId | None = None


_request = msgspec.json.Decoder(BookingRequest)


async def create_booking(call: Call) -> Answer:
    """``POST /v1/bookings`` → 201, or 202 while Postgres or a payment provider has not answered."""
    return await answer_booking(call, decode_body(_request, call.body))


async def answer_booking(call: Call, request: BookingRequest) -> Answer:
    """Book what was asked for, whichever route it came by."""
    details = request.details(call.caller, request_id=call.request_id.decode("ascii"))
    event_id, claim = _what_is_booked(call, request)
    if event_id is not None and claim is not None:  # whoever has a hold has been let in
        await require_admission(call, event_id, call.once, repeats_booking)
    if event_id is not None and request.attendees:
        await _check_attendees(call, request, details, event_id, claim)
    if event_id is not None and await is_sold_against_payment(call, event_id):
        return await answer_paid(call, request, details, claim=claim)
    booked = await _book(call, request, details, claim)
    location = call.location(f"/v1/bookings/{booked.booking.id}")
    headers = (location, REPLAYED) if booked.replayed else (location,)
    if booked.booking.status == "confirming":
        return versioned_answer(
            call, booked.booking, booked.booking.version, status=202, headers=(*headers, (b"retry-after", b"1"))
        )
    return versioned_answer(call, booked.booking, booked.booking.version, status=201, headers=headers)


async def show_booking(call: Call) -> Answer:
    """``GET /v1/bookings/{booking_id}`` → 200, 304."""
    booking = await call.services.reservations.find_booking(call.params["booking_id"], customer_id=call.caller.owner)
    return await _answer_visible(call, booking)


async def show_booking_by_reference(call: Call) -> Answer:
    """``GET /v1/bookings/by-reference/{reference}`` → 200, 304."""
    booking = await call.services.bookings.find_by_reference(call.params["reference"])
    if booking is None:
        raise BookingNotFound(call.params["reference"])
    return await _answer_visible(call, booking)


async def list_bookings(call: Call) -> Answer:
    """``GET /v1/bookings`` → 200: one's own; for an organizer, those of their events; for an admin, all."""
    query = decode_query(call.query_string, BookingQuery)
    return await _answer_list(call, query, _confined(call.caller, query.wanted(event_id=query.event_id)))


async def list_all_bookings(call: Call) -> Answer:
    """``GET /v1/admin/bookings`` → 200."""
    query = decode_query(call.query_string, BookingQuery)
    return await _answer_list(call, query, query.wanted(event_id=query.event_id))


async def list_event_bookings(call: Call) -> Answer:
    """``GET /v1/events/{event_id}/bookings`` → 200."""
    query = decode_query(call.query_string, EventBookingQuery)
    event = await managed_event(call)
    return await _answer_list(call, query, query.wanted(event_id=event.id))


async def list_upcoming_bookings(call: Call) -> Answer:
    """``GET /v1/bookings/upcoming`` → 200: one's own, of events that have not started."""
    query = decode_query(call.query_string, PageQuery)
    page = await call.services.bookings.upcoming(
        call.caller.sub,
        now=dt.datetime.now(dt.UTC),
        within=call.caller.scope,
        limit=query.limit,
        cursor=query.cursor,
    )
    return page_answer(call, page.items, page.next_cursor)


def _buying_role(caller: Caller) -> str:
    for role in _BUYING_ROLES:
        if role in caller.roles:
            return role
    return CUSTOMER


def _what_is_booked(call: Call, request: BookingRequest) -> tuple[str | None, ClaimRequest | None]:
    """The event, if the hold's id is one, and what is wanted of it where there is no hold yet.

    Raises:
        InvalidRequest: It is neither of the two ways to say it.
    """
    if request.hold_id is not None:
        for name in ("event_id", "items", "from_", "to"):
            if getattr(request, name) is not None:
                raise InvalidRequest(f"$.{name.rstrip('_')}", "a hold_id says it all: leave this out")
        key = parse_claim_id(request.hold_id)
        if key is not None:
            call.caller.require_event(key.event_id)
        return (None if key is None else key.event_id), None
    if request.event_id is None:
        raise InvalidRequest("$.hold_id", "either hold_id, or event_id and items")
    if request.items is None:
        raise InvalidRequest("$.items", "required with event_id")
    call.caller.require_event(request.event_id)
    return request.event_id, ClaimRequest(items=request.items, from_=request.from_, to=request.to, ttl=None)


async def _check_attendees(
    call: Call, request: BookingRequest, details: BookingDetails, event_id: str, claim: ClaimRequest | None
) -> None:
    """Make sure that there is a place for everybody who is named.

    Raises:
        InvalidRequest: There is not, or what is claimed the event does not have.
    """
    reservations = call.services.reservations
    if request.hold_id is not None:
        try:
            hold = await reservations.find_hold(request.hold_id, customer_id=call.caller.sub)
        except (HoldRefusal, BookingRefused):
            return  # what is to be said of the hold the confirmation says, which also knows what its key has made
        check_attendees(await reservations.layout_of(event_id), hold.items, details.attendees)
        return
    assert claim is not None
    layout = await reservations.layout_of(event_id)
    resolve_places(layout, claim.items, claim.from_, claim.to)  # what is wrong with these is told first
    check_attendees(layout, claim.items, details.attendees)


async def _book(call: Call, request: BookingRequest, details: BookingDetails, claim: ClaimRequest | None) -> Booked:
    terms, customer_id = call.services.terms, call.caller.sub
    if request.hold_id is not None:
        return await terms.confirm(request.hold_id, details, customer_id=customer_id, once=call.once)
    assert request.event_id is not None
    assert claim is not None
    return await terms.book(request.event_id, claim, details, customer_id=customer_id, once=call.once)


async def _answer_list(call: Call, query: PageQuery, wanted: BookingFilter) -> Answer:
    wanted = msgspec.structs.replace(wanted, within=call.caller.scope)
    page = await call.services.bookings.list_bookings(wanted, limit=query.limit, cursor=query.cursor)
    return page_answer(call, page.items, page.next_cursor)


def _confined(caller: Caller, wanted: BookingFilter) -> BookingFilter:
    """What is wanted, narrowed to what the caller may see.

    Raises:
        Forbidden: Somebody else's bookings were asked for.
    """
    if caller.is_admin:
        return wanted
    if ORGANIZER in caller.roles and wanted.customer_id != caller.sub:
        return msgspec.structs.replace(wanted, organizer_id=caller.sub)
    if wanted.customer_id not in (None, caller.sub):
        raise Forbidden
    return msgspec.structs.replace(wanted, customer_id=caller.sub)


async def require_visible(call: Call, booking: Booking) -> None:
    """Let its customer see a booking, its event's organizer and admins.

    Raises:
        BookingNotFound: The caller is somebody else, and it is not there.
    """
    call.caller.require_event(booking.event_id)
    if booking.customer_id != call.caller.sub and not await _organizes_event(call, booking.event_id):
        raise BookingNotFound(booking.id, is_foreign=True)


async def _answer_visible(call: Call, booking: Booking) -> Answer:
    await require_visible(call, booking)
    return versioned_answer(call, booking, booking.version)


async def _organizes_event(call: Call, event_id: str) -> bool:
    if call.caller.is_admin:
        return True
    event = await call.services.reservations.find_event(event_id)
    return call.caller.organizes(event.organizer_id)
