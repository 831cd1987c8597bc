"""Handlers of what is free: counts per section, and every numbered seat."""

import base64
from typing import Annotated, Final, Literal

import msgspec

from api.answers import Answer, encode_json, json_answer
from api.call import Call
from api.decoding import decode_query
from engine.availability import SeatMap
from engine.errors import EventNotFound

SEATMAP_MEDIA_TYPE: Final = "application/vnd.holdfast.seatmap+json"

SeatStatus = Literal["free", "held", "sold", "blocked"]


class RangeQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of legs by its stops or clock times; the whole event where one is left out."""

    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None


class SeatQuery(RangeQuery, frozen=True, forbid_unknown_fields=True):
    """The same, and how many people a table must have room for."""

    party: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None


class SeatState(msgspec.Struct, frozen=True, omit_defaults=True):
    """One seat: free only when it is free on all legs of the range. ``fits``: a table has room for so many."""

    section: str
    seat: str
    status: SeatStatus
    fits: int | None = None


class SeatList(msgspec.Struct, frozen=True):
    """Every numbered seat of an event, as of change ``seq``."""

    seq: int
    legs: int
    seats: list[SeatState]


class SeatBitmaps(msgspec.Struct, frozen=True):
    """The same as two bitmaps in base64: bit ``seat index x legs + leg``, the most significant bit of a byte first.

    ``layout`` is the digest of the layout that gives seats their indices: in order of section, row and position.
    """

    seq: int
    legs: int
    layout: str
    held: str
    sold: str


async def show_availability(call: Call) -> Answer:
    """``GET /v1/events/{event_id}/availability`` → 200."""
    query = decode_query(call.query_string, RangeQuery)
    event_id = await visible_event(call)
    availability = await call.services.reservations.availability(event_id, from_stop=query.from_, to_stop=query.to)
    return json_answer(availability)


async def show_seats(call: Call) -> Answer:
    """``GET /v1/events/{event_id}/seats`` → 200, as a list or as bitmaps, which are always of the whole event."""
    query = decode_query(call.query_string, SeatQuery)
    seat_map = await call.services.reservations.seats(await visible_event(call))
    vary = (b"vary", b"accept")
    if SEATMAP_MEDIA_TYPE.encode("ascii") in call.headers.get(b"accept", b""):
        body = encode_json(_bitmaps(seat_map))
        return Answer(200, body, SEATMAP_MEDIA_TYPE.encode("ascii"), (vary,))
    return json_answer(_list(seat_map, query), headers=(vary,))


async def visible_event(call: Call) -> str:
    """The id of the path's event, unless it is a draft of somebody else.

    This process may not have heard yet that a draft was opened by another one, so a draft is looked at again.

    Raises:
        EventNotFound: There is no such event for this caller.
    """
    event = await call.services.reservations.find_event(call.params["event_id"])
    if event.status == "draft" and not call.caller.organizes(event.organizer_id):
        event = await call.services.events.find_event(event.id)
        if event.status == "draft":
            raise EventNotFound(event.id, is_foreign=True)
    return event.id


def _list(seat_map: SeatMap, query: SeatQuery) -> SeatList:
    layout, legs = seat_map.layout, seat_map.legs
    wanted = range(*layout.leg_range(query.from_, query.to))
    held, sold = _taken(seat_map.held, legs, wanted), _taken(seat_map.sold, legs, wanted)
    states = []
    for section in layout.sections:
        if not section.seated:
            continue
        for number in range(section.first_seat, section.first_seat + section.capacity):
            seat = layout.seats[number]
            fits = seat.definition.fits
            if query.party is not None and (fits is None or fits < query.party):
                continue
            status: SeatStatus = "sold" if number in sold else "held" if number in held else "free"
            states.append(SeatState(section.id, seat.label, status, fits))
    return SeatList(seat_map.seq, legs, states)


def _taken(bitmap: bytes, legs: int, wanted: range) -> set[int]:
    """The seats with a bit set on any leg of *wanted*; empty bytes, the usual case, cost next to nothing."""
    cells = (
        (position << 3) + bit
        for position, byte in enumerate(bitmap)
        if byte
        for bit in range(8)
        if byte & (0x80 >> bit)
    )
    return {cell // legs for cell in cells if cell % legs in wanted}


def _bitmaps(seat_map: SeatMap) -> SeatBitmaps:
    return SeatBitmaps(
        seq=seat_map.seq,
        legs=seat_map.legs,
        layout=seat_map.layout_digest,
        held=base64.b64encode(seat_map.held).decode("ascii"),
        sold=base64.b64encode(seat_map.sold).decode("ascii"),
    )
