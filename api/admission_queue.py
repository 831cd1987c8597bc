"""Handlers of admission queues: taking a ticket, and asking holds and bookings for one."""

from collections.abc import Awaitable, Callable

from api.answers import Answer, json_answer
from api.call import Call
from api.seats import visible_event
from engine.errors import AdmissionPending, AdmissionRequired
from engine.events import SellableEvent
from engine.once import Once

HEADER = b"holdfast-admission"

Repeats = Callable[[Call, SellableEvent, Once], Awaitable[bool]]


async def take_ticket(call: Call) -> Answer:
    """``POST /v1/events/{event_id}/queue`` → 200."""
    ticket = await call.services.admission_queue.take(await visible_event(call), customer_id=call.caller.sub)
    return json_answer(ticket)


async def repeats_hold(call: Call, event: SellableEvent, once: Once) -> bool:
    """Whether a hold was made under *once* before."""
    return await call.services.admission_queue.is_repetition(event, once)


async def repeats_booking(call: Call, event: SellableEvent, once: Once) -> bool:
    """Whether a booking was made under *once* before, as Redis or the ledger knows."""
    booked = await call.services.reservations.find_replay(event.event.id, once, customer_id=call.caller.sub)
    return booked is not None


async def require_admission(call: Call, event_id: str, once: Once | None, repeats: Repeats = repeats_hold) -> None:
    """Let the call go on if the event asks for no ticket, or it has one whose turn has come, or its caller needs none.

    Who repeats what they were let in to is told the same again, even when the ticket has lapsed since: *repeats* is
    asked only then.

    Raises:
        AdmissionRequired, AdmissionPending: The caller has to wait for their turn.
        EventNotFound, EventNotOpen: There is nothing to be let in to.
    """
    queue = call.services.admission_queue
    event = queue.recall(event_id) or await queue.find(event_id)
    if event.event.definition.policy.admission is None:
        return
    if call.caller.is_trusted or call.caller.organizes(event.event.organizer_id):
        return
    try:
        queue.check(event_id, call.headers.get(HEADER, b""), customer_id=call.caller.sub)
    except (AdmissionRequired, AdmissionPending):
        if once is None or not await repeats(call, event, once):
            raise
