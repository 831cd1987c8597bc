"""Handlers of waitlists: standing in line, looking, leaving, and taking or leaving what is offered."""

from typing import Annotated

import msgspec

from api.answers import Answer, json_answer
from api.bookings import Attendee, BookingRequest, CustomerId, Guest, PaymentRequest, answer_booking
from api.call import Call
from api.decoding import decode_body, decode_query
from api.errors import Forbidden
from api.holds import Items
from api.identity import SERVICE
from api.paging import PageQuery, page_answer
from api.patterns import SOURCE_PATTERN
from engine.definition import PLACES_PER_HOLD_MAX, EventId, Metadata, PlaceName
from engine.errors import EntryNotFound, InvalidRequest
from engine.waitlist import PRIORITY_MAX, EntryStatus, WaitlistEntry
from persistence.waitlist import require_step
from persistence.waitlist_entries import Wish

Priority = Annotated[int, msgspec.Meta(ge=0, le=PRIORITY_MAX, description="The higher is asked first.")]


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is waited for. ``priority`` and ``customer_id`` are for the event's organizer, admins and services."""

    items: Items
    from_: PlaceName | None = msgspec.field(default=None, name="from")
    to: PlaceName | None = None
    priority: Priority = 0
    customer_id: CustomerId | None = None


class AcceptRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes with the booking that the offer becomes; as for bookings."""

    guest: Guest | None = None
    attendees: Annotated[list[Attendee], msgspec.Meta(max_length=PLACES_PER_HOLD_MAX)] = []
    payment: PaymentRequest | None = None
    notes: Annotated[str, msgspec.Meta(max_length=2000)] | None = None
    source: Annotated[str, msgspec.Meta(pattern=SOURCE_PATTERN)] = "waitlist"
    metadata: Metadata = {}

    def of_hold(self, hold_id: str) -> BookingRequest:
        """The same as a request to book a hold."""
        return BookingRequest(
            hold_id=hold_id,
            guest=self.guest,
            attendees=self.attendees,
            payment=self.payment,
            notes=self.notes,
            source=self.source,
            metadata=self.metadata,
        )


class EntryQuery(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Which entries: of one event, of one customer, in one status."""

    event_id: EventId | None = None
    customer_id: CustomerId | None = None
    status: EntryStatus | None = None


class EntryPage(msgspec.Struct, frozen=True):
    """Part of a list of entries."""

    items: list[WaitlistEntry]
    next_cursor: str | None


_join = msgspec.json.Decoder(JoinRequest)
_accept = msgspec.json.Decoder(AcceptRequest)


async def join_waitlist(call: Call) -> Answer:
    """``POST /v1/events/{event_id}/waitlist`` → 201."""
    request, event_id = decode_body(_join, call.body), call.params["event_id"]
    call.caller.require_event(event_id)
    if (request.priority or request.customer_id is not None) and not await _manages(call, event_id):
        field = "priority" if request.priority else "customer_id"
        raise InvalidRequest(f"$.{field}", "only the event's organizer, admins and services may say this")
    wish = Wish(
        items=request.items,
        from_stop=request.from_,
        to_stop=request.to,
        customer_id=request.customer_id or call.caller.sub,
        priority=request.priority,
    )
    entry = await call.services.waitlist.join(event_id, wish)
    return json_answer(entry, status=201, headers=(call.location(f"/v1/waitlist/{entry.id}"),))


async def list_waitlist(call: Call) -> Answer:
    """``GET /v1/waitlist`` → 200: one's own; with ``event_id``, for its organizer all of it; for an admin, all."""
    query = decode_query(call.query_string, EntryQuery)
    customer_id = query.customer_id
    if not await _may_see_all(call, query.event_id):
        if customer_id not in (None, call.caller.sub):
            raise Forbidden
        customer_id = call.caller.sub
    page = await call.services.waitlist.list_entries(
        event_id=query.event_id,
        customer_id=customer_id,
        status=query.status,
        within=call.caller.scope,
        limit=query.limit,
        cursor=query.cursor,
    )
    return page_answer(call, page.items, page.next_cursor)


async def show_entry(call: Call) -> Answer:
    """``GET /v1/waitlist/{entry_id}`` → 200."""
    return json_answer(await _visible_entry(call))


async def leave_waitlist(call: Call) -> Answer:
    """``DELETE /v1/waitlist/{entry_id}`` → 204; what was offered goes to the next in line."""
    entry = await _visible_entry(call)
    await call.services.waitlist.give_up(entry.id, "cancelled")
    return Answer(204)


async def accept_offer(call: Call) -> Answer:
    """``POST /v1/waitlist/{entry_id}/accept`` → 201, 202, as ``POST /v1/bookings``."""
    request = decode_body(_accept, call.body) if call.body else AcceptRequest()
    entry = await _own_entry(call)
    entry = await call.services.waitlist.settle(entry.id)
    if entry.status != "booked":  # an answer that was lost is found again by its idempotency key
        require_step(entry, "booked")
    answer = await answer_booking(call, request.of_hold(entry.id))
    await call.services.waitlist.note_booking(entry.id)
    return answer


async def decline_offer(call: Call) -> Answer:
    """``POST /v1/waitlist/{entry_id}/decline`` → 200."""
    entry = await _own_entry(call)
    return json_answer(await call.services.waitlist.give_up(entry.id, "declined"))


async def _visible_entry(call: Call) -> WaitlistEntry:
    """The entry for its customer, its event's organizer and admins; for others it is not there."""
    entry = await call.services.waitlist.find(call.params["entry_id"])
    call.caller.require_event(entry.event_id)
    if entry.customer_id != call.caller.sub and not await _organizes(call, entry.event_id):
        raise EntryNotFound(entry.id)
    return entry


async def _own_entry(call: Call) -> WaitlistEntry:
    """The entry for its customer; whoever else may see it is told that the offer is not theirs.

    Raises:
        Forbidden: The caller runs the event, or everything, and is not the customer.
    """
    entry = await _visible_entry(call)
    if entry.customer_id != call.caller.sub:
        raise Forbidden
    return entry


async def _organizes(call: Call, event_id: str) -> bool:
    if call.caller.is_admin:
        return True
    event = await call.services.reservations.find_event(event_id)
    return call.caller.organizes(event.organizer_id)


async def _manages(call: Call, event_id: str) -> bool:
    """Whether the caller may say who comes first, and stand in line for others."""
    return SERVICE in call.caller.roles or await _organizes(call, event_id)


async def _may_see_all(call: Call, event_id: str | None) -> bool:
    """Whether the caller may see everybody's entries: of one event, or of all."""
    if event_id is None:
        return call.caller.is_admin
    return await _organizes(call, event_id)
