"""Bookings that nobody asks to be ended, ended by Holdfast itself: a page of them, a few at a time."""

import asyncio
import datetime as dt
from collections.abc import Sequence

from engine.definition import EventDefinition
from engine.errors import BookingNotFound, InvalidTransition
from engine.ids import claim_id
from engine.lifecycle import SYSTEM, Step
from persistence.booking_desk import BookingDesk, Order
from persistence.database import Row

PAGE = 200  # bookings read at a time
AT_ONCE_MAX = 4  # transactions beside each other: half of a process's connections, the others are for requests

_AS_HOLDFAST = Order(admit=lambda _: SYSTEM)


async def end_all(
    desk: BookingDesk, page: Sequence[Row], steps: dict[str, Step], *, event: EventDefinition | None, reason: str
) -> tuple[int, Exception | None]:
    """Take the step that *steps* has for each booking's status; returns how many there were to take.

    A booking that somebody else has ended meanwhile is left alone. One that cannot be ended holds up no other: what was
    wrong with the first of them is returned when all have been tried, for the caller to raise when it has tried all
    pages. Only cancelling needs to know the *event*.
    """
    queue, problem, ended = list(reversed(page)), None, 0

    async def lane() -> None:
        nonlocal ended, problem
        while queue:
            row = queue.pop()
            booking_id = claim_id(row["id"].int, row["event_id"])
            try:
                await _end(desk, booking_id, steps[row["status"]], event, reason)
                ended += 1
            except (InvalidTransition, BookingNotFound):
                pass  # it has changed since the page was read
            except Exception as error:
                problem = problem or error

    await asyncio.gather(*[lane() for _ in range(AT_ONCE_MAX)])
    return ended, problem


async def _end(desk: BookingDesk, booking_id: str, step: Step, event: EventDefinition | None, reason: str) -> None:
    match step:
        case "expire":
            await desk.expire(booking_id, _AS_HOLDFAST, reason=reason)
        case "complete":
            await desk.complete(booking_id, _AS_HOLDFAST, reason=reason)
        case "mark_no_show":
            await desk.mark_no_show(booking_id, _AS_HOLDFAST, reason=reason)
        case "cancel":
            assert event is not None, booking_id
            now = dt.datetime.now(dt.UTC)
            await desk.cancel(booking_id, _AS_HOLDFAST, event=event, reason=reason, now=now)
        case _:
            raise AssertionError(step)
