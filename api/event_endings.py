"""Handlers of what organizers do with an event that sells: look at its figures, and cancel it for good."""

import msgspec

from api.answers import Answer, json_answer
from api.call import Call
from api.events import answer_event, change_status, managed_event
from persistence.statistics import Statistics, read_statistics


class StatisticsView(Statistics, frozen=True, kw_only=True):
    """An event's figures; ``holds_active`` is how many holds are alive at this moment."""

    holds_active: int


async def cancel_event(call: Call) -> Answer:
    """``POST /v1/events/{event_id}/cancel`` → 200; its bookings are cancelled in the background."""
    event = await change_status(call, "cancelled")
    call.services.aftercare.begin(event.id)
    return await answer_event(call, event)


async def show_statistics(call: Call) -> Answer:
    """``GET /v1/events/{event_id}/statistics`` → 200."""
    event = await managed_event(call)
    told = await read_statistics(call.services.bookings.engine, event)
    holds = await call.services.reservations.count_holds(event)
    return json_answer(StatisticsView(**msgspec.structs.asdict(told), holds_active=holds))
