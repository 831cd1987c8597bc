"""From what a script answers to what the caller is told: the one place where statuses become refusals."""

import datetime as dt
from collections.abc import Sequence
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
    match reply:
        case [b"NOT_OPEN", number, status]:
            return _not_open(events[number - 1], status)
        case [b"LIMIT", _, limit, maximum]:
            return LimitExceeded(limit.decode(), maximum)
        case [b"KEY_REUSED"]:
            return IdempotencyKeyReused()
        case [b"UNAVAILABLE", held, sold, next_release_ms, *missing]:
            places = [place for number, *texts in missing for place in _missing(texts, events[number - 1], events)]
            return _unavailable(places, held, sold, next_release_ms)
        case [b"NOT_LOADED", *_] | [b"STALE_LAYOUT", *_]:
            return _being_built()
    raise AssertionError(f"a script answered {reply!r}")


def booking_refusal(reply: list[Any], event: SellableEvent, booking_id: str) -> Exception:
    """Why ``confirm_hold`` or ``book_places`` booked nothing."""
    match reply:
        case [b"NOT_OPEN", status]:
            return _not_open(event, status)
        case [b"LIMIT", limit, maximum]:
            return LimitExceeded(limit.decode(), maximum)
        case [b"UNAVAILABLE", held, sold, next_release_ms, *missing]:
            return _unavailable(_missing(missing, event, [event]), held, sold, next_release_ms)
        case [b"JOURNAL_FULL"]:
            return JournalFull("too many bookings wait for Postgres")
        case [b"KEY_REUSED"] | [b"NOT_LOADED"] | [b"STALE_LAYOUT"]:
            return claim_refusal(reply, [event])
    return hold_refusal(reply[0], booking_id)


def _not_open(event: SellableEvent, status: bytes) -> EventNotOpen:
    """Scripts call an event closed that is past the end of its sale; which of the two it is, its definition tells."""
    ended_at = sales_end_at(event.definition)
    over = status == b"closed" and ended_at <= dt.datetime.now(dt.UTC)
    return EventNotOpen(event.event.id, status.decode(), sales_ended_at=ended_at if over else None)


def _being_built() -> StoreUnavailable:
    return StoreUnavailable("the event's state is being built anew")


def _unavailable(places: list[UnavailablePlace], held: int, sold: int, next_release_ms: int) -> PlacesUnavailable:
    release_at = moment(next_release_ms) if next_release_ms else None
    return PlacesUnavailable(tuple(places), held=held, sold=sold, next_release_at=release_at)


def _missing(texts: list[bytes], event: SellableEvent, events: Sequence[SellableEvent]) -> list[UnavailablePlace]:
    """``1#100`` is a taken seat; ``0*5:2`` five places wanted of which two are free."""
    places = []
    event_id = event.event.id if len(events) > 1 else None  # a single event is known from the URL
    for text in map(bytes.decode, texts):
        if "#" in text:
            section, seat = text.split("#")
            label = event.layout.seats[int(seat)].label
            places.append(UnavailablePlace(_section_id(event, section), seat=label, event_id=event_id))
        else:
            section, numbers = text.split("*")
            requested, free = map(int, numbers.split(":"))
            place = UnavailablePlace(_section_id(event, section), requested=requested, free=free, event_id=event_id)
            places.append(place)
    return places


def _section_id(event: SellableEvent, number: str) -> str:
    return event.layout.sections[int(number)].id
