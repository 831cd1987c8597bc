"""Seating plans in pretix's open JSON format, turned into seated sections: one for each zone.

The format is pretix's ``seating-plan.schema.json``. It is a foreign one, so members that are not needed here (colours,
areas, uuids) are ignored. A row may be drawn in several parts, left and right of an aisle, that carry the same number:
they become one row, with an aisle at every seam. All other aisles are seen from the positions by ``engine.layout``.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from engine.definition import (
    PRICE_MAX,
    SECTIONS_MAX,
    Name,
    PlaceName,
    RowDefinition,
    SeatDefinition,
    SectionDefinition,
)
from engine.errors import InvalidRequest
from engine.importing.json_errors import invalid_json
from engine.layout import SEATS_PER_ROW_MAX

COORDINATE_MAX = 1_000_000  # pixels; a stadium drawn at a millimetre a pixel fits
_Coordinate = Annotated[float, msgspec.Meta(ge=-COORDINATE_MAX, le=COORDINATE_MAX)]
_Extent = Annotated[float, msgspec.Meta(gt=0, le=COORDINATE_MAX)]


class PlanPoint(msgspec.Struct, frozen=True):
    """A position relative to the zone's or row's; pixels, y grows downwards."""

    x: _Coordinate
    y: _Coordinate


class PlanSize(msgspec.Struct, frozen=True):
    """The size of the whole drawing, in pixels."""

    width: _Extent
    height: _Extent


class PlanCategory(msgspec.Struct, frozen=True):
    """A group of seats of one price."""

    name: PlaceName


class PlanSeat(msgspec.Struct, frozen=True):
    """One seat; ``seat_guid`` is unique in the plan, ``seat_number`` is what is written on the seat."""

    seat_guid: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    seat_number: PlaceName
    position: PlanPoint
    category: PlaceName


class PlanRow(msgspec.Struct, frozen=True):
    """A row, or the part of a row on one side of an aisle."""

    row_number: PlaceName
    seats: Annotated[list[PlanSeat], msgspec.Meta(min_length=1, max_length=SEATS_PER_ROW_MAX)]
    position: PlanPoint = PlanPoint(0, 0)


class PlanZone(msgspec.Struct, frozen=True):
    """A part of the venue: stalls, circle, balcony."""

    rows: Annotated[list[PlanRow], msgspec.Meta(min_length=1)]
    position: PlanPoint = PlanPoint(0, 0)
    name: Annotated[str, msgspec.Meta(max_length=200)] = ""


class SeatingPlan(msgspec.Struct, frozen=True):
    """A venue as pretix's editor saves it."""

    zones: Annotated[list[PlanZone], msgspec.Meta(min_length=1, max_length=SECTIONS_MAX)]
    name: Name = "Seating plan"
    categories: list[PlanCategory] = []
    size: PlanSize | None = None


class _PlacedSeat(msgspec.Struct, frozen=True):
    """A seat with its absolute position and its path in the plan."""

    x: float
    y: float
    path: str
    seat: PlanSeat


_DECODER = msgspec.json.Decoder(SeatingPlan)


def read_plan(data: bytes) -> SeatingPlan:
    """The plan in *data*, a JSON text.

    Raises:
        InvalidRequest: It is not JSON, or not a plan; names the JSON path.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json(error) from error


def sections_from_plan(plan: SeatingPlan, prices: Mapping[str, int]) -> list[SectionDefinition]:
    """One seated section for each zone of *plan*; *prices* are by category, in minor units.

    A section's id is the zone's name as a slug (``Balcony left`` becomes ``balcony-left``). Zones of one name are
    refused rather than numbered: nobody could tell from a ticket which of them it is for.

    Raises:
        InvalidRequest: The plan contradicts itself or a category has no price; names the JSON path.
    """
    _check_prices(plan, prices)
    _check_guids(plan)
    zone_of: dict[str, str] = {}
    sections = []
    for number, zone in enumerate(plan.zones):
        path = f"$.zones[{number}]"
        name = _zone_name(plan, zone)
        section_id = _slug(name)
        if not section_id:
            raise InvalidRequest(f"{path}.name", f"a zone needs a name with a letter or digit in it: {zone.name!r}")
        if section_id in zone_of:
            raise InvalidRequest(f"{path}.name", f"zone {name!r} has the name of zone {zone_of[section_id]!r}")
        zone_of[section_id] = name
        sections.append(
            SectionDefinition(id=section_id, name=name, rows=_rows(zone, path), prices=_zone_prices(zone, path, prices))
        )
    return sections


def _check_prices(plan: SeatingPlan, prices: Mapping[str, int]) -> None:
    known = {category.name for category in plan.categories}
    known.update(seat.category for zone in plan.zones for row in zone.rows for seat in row.seats)
    for category, price in prices.items():
        if category not in known:
            raise InvalidRequest(f"$.prices.{category}", "the plan has no such category")
        if not 0 <= price <= PRICE_MAX:
            raise InvalidRequest(f"$.prices.{category}", f"must be 0 to {PRICE_MAX}, in minor units: {price}")


def _check_guids(plan: SeatingPlan) -> None:
    seen: set[str] = set()
    for zone_number, zone in enumerate(plan.zones):
        for row_number, row in enumerate(zone.rows):
            for seat_number, seat in enumerate(row.seats):
                if seat.seat_guid in seen:
                    path = f"$.zones[{zone_number}].rows[{row_number}].seats[{seat_number}].seat_guid"
                    raise InvalidRequest(path, f"seat {seat.seat_guid!r} is there twice")
                seen.add(seat.seat_guid)


def _zone_name(plan: SeatingPlan, zone: PlanZone) -> str:
    name = " ".join(zone.name.split())
    return name or (plan.name if len(plan.zones) == 1 else "")


def _slug(name: str) -> str:
    """Lower case, words joined by hyphens; letters of every script stay, since an id may be any printable text."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", name).lower())
    return "-".join(words)[:64].rstrip("-")


def _zone_prices(zone: PlanZone, path: str, prices: Mapping[str, int]) -> dict[str, int]:
    used: dict[str, int] = {}
    for row_number, row in enumerate(zone.rows):
        for seat_number, seat in enumerate(row.seats):
            if seat.category not in prices:
                seat_path = f"{path}.rows[{row_number}].seats[{seat_number}].category"
                raise InvalidRequest(seat_path, f"no price for category {seat.category!r}")
            used[seat.category] = prices[seat.category]
    return used


def _rows(zone: PlanZone, path: str) -> list[RowDefinition]:
    """The zone's rows in the order of the plan, parts of one row put together where the first of them stands."""
    parts_of: dict[str, list[list[_PlacedSeat]]] = {}
    for number, row in enumerate(zone.rows):
        row_path = f"{path}.rows[{number}]"
        part = _placed_seats(zone, row, row_path)
        parts = parts_of.setdefault(row.row_number, [])
        if any(_overlap(part, other) for other in parts):
            reason = f"row {row.row_number!r} is there twice, and not side by side"
            raise InvalidRequest(f"{row_path}.row_number", reason)
        parts.append(part)
    return [_joined_row(row_id, parts) for row_id, parts in parts_of.items()]


def _placed_seats(zone: PlanZone, row: PlanRow, path: str) -> list[_PlacedSeat]:
    x, y = zone.position.x + row.position.x, zone.position.y + row.position.y
    return [
        _PlacedSeat(x + seat.position.x, y + seat.position.y, f"{path}.seats[{number}]", seat)
        for number, seat in enumerate(row.seats)
    ]


def _overlap(part: Sequence[_PlacedSeat], other: Sequence[_PlacedSeat]) -> bool:
    return max(min(s.x for s in part), min(s.x for s in other)) <= min(max(s.x for s in part), max(s.x for s in other))


def _joined_row(row_id: str, parts: list[list[_PlacedSeat]]) -> RowDefinition:
    """One row; a part's own order is kept if it is the only one, else all seats are ordered from left to right."""
    if len(parts) > 1:
        parts = sorted((sorted(part, key=lambda seat: seat.x) for part in parts), key=lambda part: part[0].x)
    seats = [seat for part in parts for seat in part]
    if len(seats) > SEATS_PER_ROW_MAX:
        raise InvalidRequest(seats[SEATS_PER_ROW_MAX].path, f"a row has at most {SEATS_PER_ROW_MAX} seats")
    seen: set[str] = set()
    for placed in seats:
        if placed.seat.seat_number in seen:
            reason = f"seat {placed.seat.seat_number!r} of row {row_id!r} is there twice"
            raise InvalidRequest(f"{placed.path}.seat_number", reason)
        seen.add(placed.seat.seat_number)
    return RowDefinition(
        id=row_id,
        seats=[SeatDefinition(s.seat.seat_number, x=s.x, y=s.y, category=s.seat.category) for s in seats],
        aisles_after=[part[-1].seat.seat_number for part in parts[:-1]],
    )
