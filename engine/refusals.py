"""From what a script answers to what the caller is told: the one place where statuses become refusals."""

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from engine.errors import (
    BookingRefused,
    EventNotOpen,
    HoldConfirmed,
    HoldExpired,
    HoldNotFound,
    HoldRefusal,
    HoldReleased,
    IdempotencyKeyReused,
    JournalFull,
    LimitExceeded,
    PlacesUnavailable,
    StoreUnavailable,
    UnavailablePlace,
)
from engine.events import SellableEvent, sales_end_at


@lru_cache(maxsize=1024)  # of a rush, sixteen holds or refusals tell of the same millisecond
def moment(milliseconds: int) -> dt.datetime:
    """A time of Redis's clock as a datetime in UTC."""
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def hold_refusal(status: bytes, hold_id: str) -> HoldRefusal | BookingRefused | StoreUnavailable:
    """Why a hold cannot be acted on any more."""
    match status:
        case b"EXPIRED":
            return HoldExpired(hold_id)
        case b"RELEASED" | b"ALREADY_RELEASED":
            return HoldReleased(hold_id)
        case b"BOOKED":
            return HoldConfirmed(hold_id, hold_id)  # a booking keeps the id of its hold
        case b"NOT_FOUND":
            return HoldNotFound(hold_id)
        case b"REFUSED":
            return BookingRefused(hold_id)
        case b"NOT_LOADED":
            return _being_built()
    raise AssertionError(f"a script answered {status!r}")


def claim_refusal(reply: list[Any], events: Sequence[SellableEvent]) -> Exception:
    """Why ``hold_places`` claimed nothing."""
    if reply[0] == b"UNAVAILABLE":  # before all others: it is what most of a rush hear
        several, places = len(events) > 1, []
        for of_event in reply[4:]:
            event = events[of_event[0] - 1]
            for text in of_event[1:]:
                places.append(_missing(text, event, several=several))  # noqa: PERF401 - most often it is one
        return _unavailable(places, reply[1], reply[2], reply[3])
    match reply:
        case [b"NOT_OPEN", number, status]:
            return not_open(events[number - 1], status)
        case [b"LIMIT", _, limit, maximum]:
            return LimitExceeded(limit.decode(), maximum)
        case [b"KEY_REUSED"]:
            return IdempotencyKeyReused()
        case [b"NOT_LOADED", *_] | [b"STALE_LAYOUT", *_]:
            return _being_built()
    raise AssertionError(f"a script answered {reply!r}")


def places_taken(
    event: SellableEvent, held: int, sold: int, next_release_ms: int, *missing: bytes
) -> PlacesUnavailable:
    """Why places of *event* cannot be had, by the four and more values that scripts tell of it."""
    return _unavailable([_missing(text, event, several=False) for text in missing], held, sold, next_release_ms)


def booking_refusal(reply: list[Any], event: SellableEvent, booking_id: str) -> Exception:
    """Why ``confirm_hold`` or ``book_places`` booked nothing."""
    match reply:
        case [b"NOT_OPEN", status]:
            return not_open(event, status)
        case [b"LIMIT", limit, maximum]:
            return LimitExceeded(limit.decode(), maximum)
        case [b"UNAVAILABLE", *places]:
            return places_taken(event, *places)
        case [b"JOURNAL_FULL"]:
            return JournalFull("too many bookings wait for Postgres")
        case [b"KEY_REUSED"] | [b"NOT_LOADED"] | [b"STALE_LAYOUT"]:
            return claim_refusal(reply, [event])
    return hold_refusal(reply[0], booking_id)


def not_open(event: SellableEvent, status: bytes) -> EventNotOpen:
    """Scripts call an event closed that is past the end of its sale; which of the two it is, its definition tells."""
    ended_at = sales_end_at(event.definition)
    if status != b"closed" or ended_at > dt.datetime.now(dt.UTC):
        return EventNotOpen(event.event.id, status.decode())
    return EventNotOpen(event.event.id, status.decode(), sales_ended_at=ended_at, starts_at=event.definition.starts_at)


def _being_built() -> StoreUnavailable:
    return StoreUnavailable("the event's state is being built anew")


def _unavailable(places: list[UnavailablePlace], held: int, sold: int, next_release_ms: int) -> PlacesUnavailable:
    # Scripts know when the event's next hold lapses, not which one holds these places: no earlier do they come back.
    release_at = moment(next_release_ms) if held and next_release_ms else None
    return PlacesUnavailable(tuple(places), held=held, sold=sold, next_release_at=release_at)


def _missing(text: bytes, event: SellableEvent, *, several: bool) -> UnavailablePlace:
    """``1#100`` is a taken seat; ``0*5:2`` five places wanted of which two are free."""
    event_id = event.event.id if several else None  # a single event is known from the URL
    layout = event.layout
    section, _, seat = text.partition(b"#")
    if seat:
        return UnavailablePlace(layout.sections[int(section)].id, layout.seats[int(seat)].label, None, None, event_id)
    section, _, numbers = text.partition(b"*")
    requested, _, free = numbers.partition(b":")
    return UnavailablePlace(layout.sections[int(section)].id, None, int(requested), int(free), event_id)
