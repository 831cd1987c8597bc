"""The places that bookings had in the past, where they were changed since: from what the outbox has told of each step.

A row of ``bookings`` has the places of now, and the history says when something was changed and not what. The outbox
has the places after every step, for as long as it is kept (``HOLDFAST_OUTBOX_DAYS``); of a booking whose steps it has
forgotten it can only be said that it was changed.
"""

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.layout import Layout
from persistence.steps import PLACES_CHANGED, TRANSFERRED

UNKNOWN_MAX = 1_000  # bookings counted of which the outbox has forgotten too much
_BOOKING_TYPES = "booking.%"
_REASONS = [PLACES_CHANGED, TRANSFERRED]

_TOLD = """
    WITH changed AS MATERIALIZED (
        SELECT DISTINCT booking_id FROM history JOIN bookings ON bookings.id = booking_id
         WHERE event_id = $1 AND reason = ANY($4)
    ), told AS MATERIALIZED (
        SELECT id, booking_id, created_at, payload FROM outbox
         WHERE event_id = $1 AND type LIKE $2 AND booking_id IN (SELECT booking_id FROM changed)
    )
    SELECT booking_id, created_at, payload FROM told
     WHERE booking_id IN (SELECT booking_id FROM told WHERE payload @> $3::jsonb) ORDER BY id
"""
_UNKNOWN = """
    SELECT id FROM bookings
     WHERE event_id = $1 AND created_at <= $2
       AND EXISTS (SELECT FROM history WHERE booking_id = bookings.id AND at <= $2)
       AND EXISTS (SELECT FROM history WHERE booking_id = bookings.id AND at > $2 AND reason = ANY($5))
       AND NOT EXISTS (SELECT FROM outbox WHERE outbox.event_id = $1 AND outbox.booking_id = bookings.id
                          AND type LIKE $3 AND created_at <= $2)
     LIMIT $4
"""


class _Item(msgspec.Struct, frozen=True):
    section: str
    seats: tuple[str, ...] | None = None


class _Told(msgspec.Struct, frozen=True):
    customer_id: str
    items: tuple[_Item, ...]
    from_: str | None = msgspec.field(name="from", default=None)
    to: str | None = None


class Stay(msgspec.Struct, frozen=True):
    """For how long a customer had a seat on a leg through one booking: ``None`` is as long as the booking did."""

    leg: int
    customer_id: str
    since: dt.datetime | None
    until: dt.datetime | None
    ended: str | None


class _State(msgspec.Struct, frozen=True):
    """Whose a booking was from a moment on, and on which legs it had the seat."""

    at: dt.datetime
    customer_id: str
    legs: range


class PastPlaces(msgspec.Struct, frozen=True):
    """Of one seat: what is known of bookings that were changed, and how many there are of which it is not."""

    states: Mapping[uuid.UUID, Sequence[_State]]
    unknown: frozenset[uuid.UUID]

    def stays(self, booking_id: uuid.UUID, at: dt.datetime) -> list[Stay] | None:
        """Where a booking had the seat at a moment, by leg; ``None``: as far as is known here, where it has it now."""
        states = self.states.get(booking_id, ())
        then = max((n for n, state in enumerate(states) if state.at <= at), default=None)
        return None if then is None else [_stay(states, then, leg) for leg in states[then].legs]


async def read_past_places(
    connection: Any, layout: Layout, event_id: str, seat: int, at: dt.datetime, *, timeout_s: float
) -> PastPlaces:
    """What the outbox tells of *seat*, by its index, over a connection of asyncpg."""
    section, label = layout.section_of_seat(seat).id, layout.seats[seat].label
    has_seat = msgspec.json.encode({"items": [{"section": section, "seats": [label]}]}).decode()
    states: dict[uuid.UUID, list[_State]] = {}
    for row in await connection.fetch(_TOLD, event_id, _BOOKING_TYPES, has_seat, _REASONS, timeout=timeout_s):
        told = msgspec.json.decode(row["payload"], type=_Told)
        has = any(item.section == section and label in (item.seats or ()) for item in told.items)
        legs = range(*layout.leg_range(told.from_, told.to)) if has else range(0)
        states.setdefault(row["booking_id"], []).append(_State(row["created_at"], told.customer_id, legs))
    unknown = await connection.fetch(_UNKNOWN, event_id, at, _BOOKING_TYPES, UNKNOWN_MAX, _REASONS, timeout=timeout_s)
    return PastPlaces(states, frozenset(row["id"] for row in unknown))


def _stay(states: Sequence[_State], then: int, leg: int) -> Stay:
    customer_id = states[then].customer_id
    first = then
    while first > 0 and leg in states[first - 1].legs and states[first - 1].customer_id == customer_id:
        first -= 1
    since = states[first].at if first else None
    for later in states[then + 1 :]:
        if leg not in later.legs:
            return Stay(leg, customer_id, since, later.at, "changed")
        if later.customer_id != customer_id:
            return Stay(leg, customer_id, since, later.at, "transferred")
    return Stay(leg, customer_id, since, None, None)
