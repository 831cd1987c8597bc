"""Handlers of what becomes of bookings: approved or rejected, changed, cancelled, checked in, completed, refunded.

The desk is told how to see whether the caller may, and which version they have seen, because it alone has the booking
locked: what was true when the request came in may not be true any more. Idempotency keys go to the desk as well, which
remembers them where the step is recorded.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import msgspec

from api.answers import Answer, json_answer
from api.bookings import Attendee, CustomerId, Guest, PaymentRequest, require_visible
from api.call import Call
from api.decoding import check_free_form, check_moment, decode_body, decode_query
from api.errors import Forbidden
from api.expectations import HINT
from api.holds import Items
from api.idempotency import REPLAYED
from api.paging import PageQuery, page_answer
from api.patterns import NOT_BLANK_PATTERN
from api.versions import expected_version, versioned_answer
from engine.attendees import check_attendees
from engine.claims import ClaimedItem, ItemRequest
from engine.definition import PLACES_PER_HOLD_MAX, PRICE_MAX, Metadata, Moment, PlaceName
from engine.errors import BookingNotFound, EventNotFound, InvalidRequest
from engine.events import Event
from engine.ids import parse_claim_id
from engine.lifecycle import Actor, Role
from engine.payments import Means
from persistence.booking_desk import Amendment, Order, Stepped
from persistence.booking_history import HistoryLine
from persistence.place_desk import PlaceWish

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2000, pattern=NOT_BLANK_PATTERN)]
_Version = Annotated[int, msgspec.Meta(ge=0)]
# A booking that is not durable yet has version 0; the ledger writes it as 1, and nobody has changed it by that.
_ACCEPTED, _WRITTEN = 0, 1


class StepRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Optional: the version that must be the current one. 0, told while it was not durable yet, is 1 since."""

    expected_version: _Version | None = None


class ApprovalRequest(StepRequest, frozen=True, forbid_unknown_fields=True):
    """What the organizer says with a yes."""

    organizer_notes: _Text | None = None
    estimated_pickup_time: Moment | None = None
    estimated_dropoff_time: Moment | None = None


class RejectionRequest(StepRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A no has its reason, which the customer reads."""

    organizer_notes: _Text


class CancellationRequest(StepRequest, frozen=True, forbid_unknown_fields=True):
    """Why; kept with the booking and in its history."""

    reason: _Text | None = None


class CompletionRequest(StepRequest, frozen=True, forbid_unknown_fields=True):
    """When it really began and ended."""

    actual_pickup_time: Moment | None = None
    actual_dropoff_time: Moment | None = None


class RefundRequest(StepRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much to give back beside what was given back before, in minor units, and why."""

    amount: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=PRICE_MAX * PLACES_PER_HOLD_MAX, extra={HINT: "an integer in minor units of the currency"}
        ),
    ]
    reason: _Text | None = None


class BookingPatch(StepRequest, frozen=True, forbid_unknown_fields=True):
    """What to say anew; what is absent stays as it is."""

    guest: Guest | None | msgspec.UnsetType = msgspec.UNSET
    attendees: Annotated[list[Attendee], msgspec.Meta(max_length=PLACES_PER_HOLD_MAX)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    notes: Annotated[str, msgspec.Meta(max_length=2000)] | None | msgspec.UnsetType = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET
    items: Items | msgspec.UnsetType = msgspec.UNSET
    from_: PlaceName | None | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="from")
    to: PlaceName | None | msgspec.UnsetType = msgspec.UNSET
    payment: PaymentRequest | None = None

    def amendment(self) -> Amendment | None:
        """What is said beside the places, for the desk; ``None`` where nothing is.

        Raises:
            InvalidRequest: ``metadata`` holds what cannot be kept.
        """
        if self.metadata is not msgspec.UNSET:
            check_free_form(self.metadata, "$.metadata")
        said = self._said(Amendment.__struct_fields__)
        return Amendment(**{name: msgspec.to_builtins(value) for name, value in said.items()}) if said else None

    def wish(self) -> PlaceWish | None:
        """What is said of the places; ``None`` where nothing is.

        Raises:
            InvalidRequest: A payment is, and no places.
        """
        said = self._said(PlaceWish.__struct_fields__)
        if self.payment is not None and not said:
            raise InvalidRequest("$.payment", "pays for places: say items, from or to with it")
        return PlaceWish(**said) if said else None

    def means(self) -> Means | None:
        """What a difference in price is to be paid with; ``None``: what the booking was paid with."""
        return None if self.payment is None else Means(self.payment.provider, self.payment.method)

    def _said(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not msgspec.UNSET}


class TransferRequest(StepRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose the booking is to be, and who comes then.

    What is not said goes: guest, attendees and notes are what the booking's customer until now has said of people.
    """

    customer_id: CustomerId
    guest: Guest | None = None
    attendees: Annotated[list[Attendee], msgspec.Meta(max_length=PLACES_PER_HOLD_MAX)] = []
    notes: Annotated[str, msgspec.Meta(max_length=2000)] | None = None

    def amendment(self) -> Amendment:
        """The same for the desk."""
        guest, attendees = msgspec.to_builtins(self.guest), msgspec.to_builtins(self.attendees)
        return Amendment(guest=guest, attendees=attendees, notes=self.notes)


class HistoryPage(msgspec.Struct, frozen=True):
    """Part of a booking's history."""

    items: list[HistoryLine]
    next_cursor: str | None


_step = msgspec.json.Decoder(StepRequest)
_approval = msgspec.json.Decoder(ApprovalRequest)
_rejection = msgspec.json.Decoder(RejectionRequest)
_cancellation = msgspec.json.Decoder(CancellationRequest)
_completion = msgspec.json.Decoder(CompletionRequest)
_refund = msgspec.json.Decoder(RefundRequest)
_patch = msgspec.json.Decoder(BookingPatch)
_transfer = msgspec.json.Decoder(TransferRequest)


async def approve_booking(call: Call) -> Answer:
    """``POST /v1/bookings/{booking_id}/approve`` → 200; 409 invalid-transition unless it is pending."""
    request = decode_body(_approval, call.body or b"{}")
    _check_ride(request, "estimated_pickup_time", "estimated_dropoff_time")
    order = order_of(call, request, await _event_of(call), staff_only=True)
    stepped = await call.services.desk.approve(
        call.params["booking_id"],
        order,
        organizer_notes=request.organizer_notes,
        estimated_pickup_time=request.estimated_pickup_time,
        estimated_dropoff_time=request.estimated_dropoff_time,
    )
    return answer_step(call, stepped)


async def reject_booking(call: Call) -> Answer:
    """``POST /v1/bookings/{booking_id}/reject`` → 200; the places are free."""
    request = decode_body(_rejection, call.body or b"{}")
    order = order_of(call, request, await _event_of(call), staff_only=True)
    stepped = await call.services.desk.reject(call.params["booking_id"], order, organizer_notes=request.organizer_notes)
    return answer_step(call, stepped)


async def cancel_booking(call: Call) -> Answer:
    """``POST /v1/bookings/{booking_id}/cancel`` → 200; the places are free."""
    request = decode_body(_cancellation, call.body or b"{}")
    event = await _event_of(call)
    stepped = await call.services.desk.cancel(
        call.params["booking_id"],
        order_of(call, request, event),
        event=event.definition,
        reason=request.reason,
        now=dt.datetime.now(dt.UTC),
    )
    return answer_step(call, stepped)


async def check_in_booking(call: Call) -> Answer:
    """``POST /v1/bookings/{booking_id}/check-in`` → 200."""
    request = decode_body(_step, call.body or b"{}")
    order = order_of(call, request, await _event_of(call), staff_only=True)
    return answer_step(call, await call.services.desk.check_in(call.params["booking_id"], order))


async def complete_booking(call: Call) -> Answer:
    """``POST /v1/bookings/{booking_id}/complete`` → 200."""
    request = decode_body(_completion, call.body or b"{}")
    _check_ride(request, "actual_pickup_time", "actual_dropoff_time")
    order = order_of(call, request, await _event_of(call), staff_only=True)
    stepped = await call.services.desk.complete(
        call.params["booking_id"],
        order,
        actual_pickup_time=request.actual_pickup_time,
        actual_dropoff_time=request.actual_dropoff_time,
    )
    return answer_step(call, stepped)


async def mark_no_show(call: Call) -> Answer:
    """``POST /v1/bookings/{booking_id}/no-show`` → 200."""
    request = decode_body(_step, call.body or b"{}")
    order = order_of(call, request, await _event_of(call), staff_only=True)
    return answer_step(call, await call.services.desk.mark_no_show(call.params["booking_id"], order))


async def refund_booking(call: Call) -> Answer:
    """``POST /v1/bookings/{booking_id}/refund`` → 200; the booking keeps its status."""
    request = decode_body(_refund, call.body)
    order = order_of(call, request, await _event_of(call), staff_only=True)
    stepped = await call.services.desk.refund(
        call.params["booking_id"], order, amount=request.amount, reason=request.reason
    )
    return answer_step(call, stepped)


async def patch_booking(call: Call) -> Answer:
    """``PATCH /v1/bookings/{booking_id}`` → 200; while it is pending or confirmed. Its places: all or none.

    402 and 503 where a paid booking would become dearer, and the difference is not to be had, or not yet.
    """
    request = decode_body(_patch, call.body)
    amendment, wish = request.amendment(), request.wish()
    booking_id, order = call.params["booking_id"], order_of(call, request, await _event_of(call))
    expect_places = await _seating_of(call, request.attendees)
    if wish is not None:
        if wish.items is not msgspec.UNSET:
            expect_places(wish.items)  # of other places it is not asked: people may be named whose seats are given up
        now = dt.datetime.now(dt.UTC)
        changed = await call.services.places.change(booking_id, order, wish, amendment, means=request.means(), now=now)
        return answer_step(call, changed)
    if amendment is None:
        raise InvalidRequest("$", "say at least one of items, from, to, guest, attendees, notes and metadata")
    stepped = await call.services.desk.amend(booking_id, order, amendment, expect_places=expect_places)
    return answer_step(call, stepped)


async def transfer_booking(call: Call) -> Answer:
    """``POST /v1/bookings/{booking_id}/transfer`` → 200; for who had it before, it is not there any more."""
    request = decode_body(_transfer, call.body)
    order = order_of(call, request, await _event_of(call))
    expect_places = await _seating_of(call, request.attendees)
    transferred = await call.services.places.transfer(
        call.params["booking_id"], order, request.customer_id, request.amendment(), expect_places=expect_places
    )
    return answer_step(call, transferred)


async def quote_refund(call: Call) -> Answer:
    """``GET /v1/bookings/{booking_id}/refund-quote`` → 200: what cancelling it now would give back."""
    event = await _event_of(call)
    order = order_of(call, StepRequest(), event)
    quote = await call.services.desk.quote(
        call.params["booking_id"], order.admit, event=event.definition, now=dt.datetime.now(dt.UTC)
    )
    return json_answer(quote)


async def show_history(call: Call) -> Answer:
    """``GET /v1/bookings/{booking_id}/history`` → 200, the first step first."""
    query = decode_query(call.query_string, PageQuery)
    booking = await call.services.reservations.find_booking(call.params["booking_id"], customer_id=call.caller.owner)
    await require_visible(call, booking)
    page = await call.services.desk.history(booking.id, limit=query.limit, cursor=query.cursor)
    return page_answer(call, page.items, page.next_cursor)


def order_of(call: Call, request: StepRequest, event: Event, *, staff_only: bool = False) -> Order:
    """What the desk must know of the call: with *staff_only* the booking's customer may not."""

    def admit(customer_id: str) -> Actor:
        """As whom the caller acts on a booking of *customer_id*."""
        is_customer, organizes = call.caller.sub == customer_id, call.caller.organizes(event.organizer_id)
        if not is_customer and not organizes:
            raise BookingNotFound(call.params["booking_id"], is_foreign=True)
        if staff_only and not organizes:
            raise Forbidden
        role: Role = "customer"
        if staff_only or not is_customer:
            role = "organizer" if call.caller.sub == event.organizer_id else "admin"
        return Actor(call.caller.sub, role, call.request_id.decode("ascii"))

    def expect(version: int) -> None:
        formerly = _ACCEPTED if version == _WRITTEN else None
        expected_version(call, request.expected_version, current=version, formerly=formerly)

    return Order(admit=admit, expect=expect, once=call.once)


def answer_step(call: Call, stepped: Stepped) -> Answer:
    """The booking after a step."""
    headers = (REPLAYED,) if stepped.replayed else ()
    return versioned_answer(call, stepped.booking, stepped.booking.version, headers=headers)


async def _event_of(call: Call) -> Event:
    """The event that the booking of the path is of.

    Raises:
        BookingNotFound: The id is none, or there is no such event.
    """
    booking_id = call.params["booking_id"]
    key = parse_claim_id(booking_id)
    if key is None:
        raise BookingNotFound(booking_id)
    try:
        return await call.services.reservations.find_event(key.event_id)
    except EventNotFound:
        raise BookingNotFound(booking_id) from None


async def _seating_of(
    call: Call, named: Sequence[Attendee] | msgspec.UnsetType
) -> Callable[[Sequence[ItemRequest | ClaimedItem]], None]:
    """What refuses places in which those who are *named* cannot sit; nothing does where nobody is."""
    if named is msgspec.UNSET or not named:
        return lambda _: None
    attendees = msgspec.to_builtins(named)
    key = parse_claim_id(call.params["booking_id"])
    assert key is not None  # its event was found by it
    layout = await call.services.reservations.layout_of(key.event_id)
    return lambda items: check_attendees(layout, items, attendees)


def _check_ride(request: msgspec.Struct, pickup: str, dropoff: str) -> None:
    """Refuse a ride whose moments cannot be stored, or that ends before it begins.

    Raises:
        InvalidRequest: It is one.
    """
    begin, end = getattr(request, pickup), getattr(request, dropoff)
    for name, moment in ((pickup, begin), (dropoff, end)):
        if moment is not None:
            check_moment(moment, f"$.{name}")
    if begin is not None and end is not None and end < begin:
        raise InvalidRequest(f"$.{dropoff}", f"must not be before {pickup}")
