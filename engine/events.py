"""An event as the ledger keeps it: its definition and what has become of it."""

import datetime as dt
from typing import Literal, get_args

import msgspec

from engine.definition import EventDefinition
from engine.layout import Layout

DAY = dt.timedelta(hours=24)

EventStatus = Literal["draft", "open", "closed", "cancelled"]
EVENT_STATUSES: tuple[str, ...] = get_args(EventStatus)

EVENT_TRANSITIONS: dict[str, tuple[str, ...]] = {
    "draft": ("open", "cancelled"),
    "open": ("closed", "cancelled"),
    "closed": ("open", "cancelled"),
    "cancelled": (),
}


class Event(msgspec.Struct, frozen=True):
    """One event; ``definition.id`` is always set. ``epoch`` counts how often its Redis state was built."""

    id: str
    organizer_id: str
    status: EventStatus
    version: int
    epoch: int
    definition: EventDefinition
    created_at: dt.datetime
    updated_at: dt.datetime


def sales_end_at(definition: EventDefinition) -> dt.datetime:
    """When sale ends by itself: ``sales_close_before`` seconds before the start, in UTC."""
    return definition.starts_at.astimezone(dt.UTC) - dt.timedelta(seconds=definition.policy.sales_close_before)


def event_end_at(definition: EventDefinition) -> dt.datetime:
    """When the event is over, in UTC; one that does not say when it ends lasts for a day."""
    if definition.ends_at is not None:
        return definition.ends_at.astimezone(dt.UTC)
    return definition.starts_at.astimezone(dt.UTC) + DAY


class SellableEvent(msgspec.Struct, frozen=True):
    """An event with its compiled layout."""

    event: Event
    layout: Layout

    @property
    def definition(self) -> EventDefinition:
        """The event's definition."""
        return self.event.definition
