"""What is asked for when places are claimed, and what comes of it: a hold, or a booking."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from engine.bookings import Booking
from engine.claims import ItemRequest, resolve_places
from engine.definition import PlaceName
from engine.errors import InvalidRequest
from engine.events import SellableEvent
from engine.holds import Hold

ITEMS_MAX = 50  # of one request: bounds the work of one script call
GROUP_MAX = 20  # events of one all-or-nothing request

TtlSeconds = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=604_800,
        description="Seconds. Not refused but cut where it is above what is left of the event's `hold_ttl_max`, which "
        "counts from the hold's creation: the answer's `ttl` and `expires_at` say what it came to.",
    ),
]


class ClaimRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client wants of one event; ``ttl`` in seconds, the event's ``hold_ttl`` where it is not said."""

    items: Annotated[list[ItemRequest], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]
    from_: PlaceName | None = msgspec.field(name="from", default=None)
    to: PlaceName | None = None
    ttl: TtlSeconds | None = None


class Held(msgspec.Struct, frozen=True, gc=False):
    """A hold, and whether an earlier request with the same idempotency key made it."""

    hold: Hold
    replayed: bool = False


class Booked(msgspec.Struct, frozen=True):
    """A booking, durable or not as it says itself."""

    booking: Booking
    replayed: bool = False


def check_group(events: Sequence[SellableEvent]) -> None:
    """Make sure that *events* can be held together.

    Raises:
        InvalidRequest: They are too many, one comes twice, or they are not of one group.
    """
    if len(events) > GROUP_MAX:
        raise InvalidRequest("$.holds", f"at most {GROUP_MAX} events can be held together")
    group, seen = events[0].definition.group, set()
    for number, event in enumerate(events):
        if event.event.id in seen:
            raise InvalidRequest(f"$.holds[{number}].event_id", "an event can be there only once")
        if group is None or event.definition.group != group:
            raise InvalidRequest(f"$.holds[{number}].event_id", "only events of one group can be held together")
        seen.add(event.event.id)


def resolve_claim(event: SellableEvent, claim: ClaimRequest, number: int | None) -> Any:
    """The claim's places; in a group, errors name the claim's *number*.

    Raises:
        InvalidRequest: The claim names what the event does not have.
    """
    try:
        return resolve_places(event.layout, claim.items, claim.from_, claim.to)
    except InvalidRequest as error:
        if number is None:
            raise
        raise InvalidRequest(f"$.holds[{number}]{error.path.removeprefix('$')}", error.reason) from None
