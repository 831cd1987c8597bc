"""Handlers of what is free: counts per section, and every numbered seat."""

import base64
from typing import Annotated, Final, Literal

import msgspec

from api.answers import Answer, Header, encode_json
from api.call import Call
from api.decoding import decode_query, of_query
from api.negotiation import prefers
from api.versions import tagged_answer
from engine.availability import seat_bits, set_bits
from engine.errors import EventNotFound
from engine.snapshots import View
from engine.views import availability

SEATMAP_MEDIA_TYPE: Final = "application/vnd.holdfast.seatmap+json"

_SEATMAP = SEATMAP_MEDIA_TYPE.encode("ascii")
_BY_ACCEPT: Header = (b"vary", b"accept")

SeatStatus = Literal["free", "held", "sold", "blocked"]


class RangeQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of legs by its stops or clock times; the whole event where one is left out."""

    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None


class SeatQuery(RangeQuery, frozen=True, forbid_unknown_fields=True):
    """The same, and how many people a table must have room for."""

    party: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None


class SeatState(msgspec.Struct, frozen=True, omit_defaults=True):
    """One seat: free only when it is free on all legs of the range, blocked when it is off sale on any.

    ``fits``: a table has room for so many.
    """

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
    """The same as bitmaps in base64: bit ``seat index x legs + leg``, the most significant bit of a byte first.

    What is ``blocked`` is among the ``sold``; that bitmap is empty where no seat is off sale. ``layout`` is the digest
    of the layout that gives seats their indices: in order of section, row and position.
    """

    seq: int
    legs: int
    layout: str
    held: str
    sold: str
    blocked: str


async def show_availability(call: Call) -> Answer:
    """``GET /v1/events/{event_id}/availability`` → 200, 304."""
    query = decode_query(call.query_string, RangeQuery)
    view = await call.services.reservations.counts(await visible_event(call))
    with of_query():
        legs = view.event.layout.leg_range(query.from_, query.to)
    encoded = view.answer(("availability", *legs), lambda: encode_json(availability(view, *legs)))
    return tagged_answer(call, encoded)


async def show_seats(call: Call) -> Answer:
    """``GET /v1/events/{event_id}/seats`` → 200, 304, as a list or as bitmaps, which are always of the whole event."""
    query = decode_query(call.query_string, SeatQuery)
    view = await call.services.reservations.seats(await visible_event(call))
    with of_query():
        legs = view.event.layout.leg_range(query.from_, query.to)
    if prefers(call.headers.get(b"accept", b""), _SEATMAP):
        encoded = view.answer("bitmaps", lambda: encode_json(_bitmaps(view)))
        return tagged_answer(call, encoded, content_type=_SEATMAP, headers=(_BY_ACCEPT,))
    encoded = view.answer(("seats", *legs, query.party), lambda: encode_json(seat_list(view, *legs, party=query.party)))
    return tagged_answer(call, encoded, headers=(_BY_ACCEPT,))


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


def seat_list(view: View, first_leg: int, last_leg: int, *, party: int | None) -> SeatList:
    """Every seat of the view over the legs ``[first_leg, last_leg)``, or every one that has room for *party*."""
    layout, snapshot = view.event.layout, view.snapshot
    held, sold, blocked = (
        set(set_bits(seat_bits(cells, layout, first_leg, last_leg)))
        for cells in (snapshot.held, snapshot.sold, view.off_sale.cells)
    )
    states = []
    for section in layout.sections:
        if not section.seated:
            continue
        for number in range(section.first_seat, section.first_seat + section.capacity):
            seat = layout.seats[number]
            fits = seat.definition.fits
            if party is not None and (fits is None or fits < party):
                continue
            status: SeatStatus = "sold" if number in sold else "held" if number in held else "free"
            if number in blocked:
                status = "blocked"
            states.append(SeatState(section.id, seat.label, status, fits))
    return SeatList(snapshot.seq, layout.legs, states)


def _bitmaps(view: View) -> SeatBitmaps:
    layout, snapshot = view.event.layout, view.snapshot
    return SeatBitmaps(
        seq=snapshot.seq,
        legs=layout.legs,
        layout=layout.digest,
        held=base64.b64encode(snapshot.held).decode("ascii"),
        sold=base64.b64encode(snapshot.sold).decode("ascii"),
        blocked=base64.b64encode(view.off_sale.cells).decode("ascii"),
    )
