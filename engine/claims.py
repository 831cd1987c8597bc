"""From what a client asks for to places by number, and back to what a client understands."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from engine.definition import PLACES_PER_HOLD_MAX, PlaceName
from engine.errors import InvalidRequest
from engine.layout import SEATS_PER_ROW_MAX, LaidSeat, LaidSection, Layout
from engine.places import BestPlaces, CountedPlaces, NumberedPlaces, Places

SECTIONS_TOLD_MAX = 20  # of a refusal; a stadium has hundreds
ROWS_TOLD_MAX = 5  # of a refusal: enough to show how they are called
BLOCKS_LOOKED_AT_MAX = 200  # for the row of a seat that does not exist, in 0.1 ms: a section may have a million

_ANY = -1  # in the place of a seat's number: some of the section's

Quantity = Annotated[int, msgspec.Meta(ge=1, le=PLACES_PER_HOLD_MAX)]


class ItemRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a request; exactly one of ``quantity``, ``seats`` and ``best`` is given."""

    section: PlaceName
    quantity: Quantity | None = None
    seats: Annotated[list[str], msgspec.Meta(min_length=1, max_length=PLACES_PER_HOLD_MAX)] | None = None
    best: Quantity | None = None


class ClaimedItem(msgspec.Struct, frozen=True, gc=False):
    """One line of a hold or booking; ``price`` is per place over the whole range of legs, in minor units."""

    section: str
    quantity: int
    seats: tuple[str, ...] | None
    price: int
    amount: int


def resolve_places(layout: Layout, items: Sequence[ItemRequest], from_stop: str | None, to_stop: str | None) -> Places:
    """The places that *items* ask for, by number.

    Raises:
        InvalidRequest: A section, seat or stop is unknown, a place is asked for twice, or an item is ambiguous.
    """
    first_leg, last_leg = layout.leg_range(from_stop, to_stop)
    seen: set[tuple[int, int]] = set()
    return Places(first_leg, last_leg, tuple([_resolve_item(layout, item, n, seen) for n, item in enumerate(items)]))


def unknown_section(layout: Layout, name: str) -> str:
    """Why *name* is refused: with the sections that there are, where they are few enough to be read."""
    told = f"unknown section: {name!r}"
    return told if len(layout.sections) > SECTIONS_TOLD_MAX else f"{told}; there are {', '.join(layout.section_index)}"


def unknown_seat(layout: Layout, section: LaidSection, label: str) -> str:
    """Why *label* is refused: with the seats of its row, or, where that is not found either, with some of the rows."""
    told = f"section {section.id!r} has no seat {label!r}"
    blocks = min(section.block_count, BLOCKS_LOOKED_AT_MAX)
    starts = dict[str, int]()  # of rows; a row has several blocks where it has aisles
    for start in layout.block_starts[section.first_block : section.first_block + blocks]:
        starts.setdefault(_row_of(layout.seats[start]), start)
    row = max((row for row in starts if label.startswith(f"{row}-")), key=len, default=None)
    if row is None:
        rows = ", ".join(list(starts)[:ROWS_TOLD_MAX]) + (" and more" if len(starts) > ROWS_TOLD_MAX else "")
        return f"{told}; its first seat is {layout.seats[section.first_seat].label!r}, its rows are {rows}"
    end = min(starts[row] + SEATS_PER_ROW_MAX, section.first_seat + section.capacity)
    labels = [seat.label for seat in layout.seats[starts[row] : end] if _row_of(seat) == row]
    seats = f"one seat, {labels[0]!r}" if len(labels) == 1 else f"{len(labels)} seats, {labels[0]!r} to {labels[-1]!r}"
    return f"{told}; row {row!r} has {seats}"


def _row_of(seat: LaidSeat) -> str:
    return seat.label.removesuffix(f"-{seat.definition.id}")


def describe_places(layout: Layout, places: Places) -> tuple[tuple[ClaimedItem, ...], int]:
    """The lines and the amount of *places*; seats of different prices get lines of their own."""
    lines: list[ClaimedItem] = []
    for item in places.items:
        section = layout.sections[item.section]
        if not isinstance(item, NumberedPlaces):
            price = layout.price_of(section, None, places.first_leg, places.last_leg)
            lines.append(ClaimedItem(section.id, item.quantity, None, price, price * item.quantity))
            continue
        if len(item.seats) == 1:  # as nearly all have: nothing to sort by price
            price = layout.price_of(section, item.seats[0], places.first_leg, places.last_leg)
            lines.append(ClaimedItem(section.id, 1, (layout.seats[item.seats[0]].label,), price, price))
            continue
        by_price: dict[int, list[str]] = {}
        for seat in item.seats:
            price = layout.price_of(section, seat, places.first_leg, places.last_leg)
            by_price.setdefault(price, []).append(layout.seats[seat].label)
        lines.extend(
            ClaimedItem(section.id, len(labels), tuple(labels), price, price * len(labels))
            for price, labels in by_price.items()
        )
    return tuple(lines), sum(line.amount for line in lines)


def _resolve_item(
    layout: Layout, item: ItemRequest, n: int, seen: set[tuple[int, int]]
) -> CountedPlaces | NumberedPlaces | BestPlaces:
    number = layout.section_index.get(item.section)
    if number is None:
        raise InvalidRequest(f"$.items[{n}].section", unknown_section(layout, item.section))
    if (item.quantity is not None) + (item.seats is not None) + (item.best is not None) != 1:
        raise InvalidRequest(f"$.items[{n}]", "exactly one of quantity, seats and best is needed")
    section = layout.sections[number]
    if item.quantity is not None:
        if section.seated:
            raise InvalidRequest(f"$.items[{n}].quantity", f"section {section.id!r} is seated: ask for seats or best")
        if _is_claimed(seen, number, _ANY):
            raise InvalidRequest(f"$.items[{n}].section", f"section {section.id!r} is asked for twice")
        return CountedPlaces(number, item.quantity)
    if not section.seated:
        field = "seats" if item.seats is not None else "best"
        raise InvalidRequest(f"$.items[{n}].{field}", f"section {section.id!r} is counted: ask for a quantity")
    if item.seats is not None:
        return NumberedPlaces(number, _resolve_seats(layout, section, item.seats, n, seen))
    assert item.best is not None  # as one of the three is given
    if _is_claimed(seen, number, _ANY):
        raise InvalidRequest(f"$.items[{n}].section", f"best of section {section.id!r} is asked for twice")
    return BestPlaces(number, item.best)


def _resolve_seats(
    layout: Layout, section: LaidSection, labels: Sequence[str], n: int, seen: set[tuple[int, int]]
) -> tuple[int, ...]:
    seats, index = [], layout.seat_index[section.index]
    for position, label in enumerate(labels):
        seat = index.get(label)
        if seat is None:
            raise InvalidRequest(f"$.items[{n}].seats[{position}]", unknown_seat(layout, section, label))
        if _is_claimed(seen, section.index, seat):
            raise InvalidRequest(f"$.items[{n}].seats[{position}]", f"seat {label!r} is asked for twice")
        seats.append(seat)
    return tuple(seats)


def _is_claimed(seen: set[tuple[int, int]], section: int, seat: int) -> bool:
    """Whether an item before has claimed the same; from here on one has."""
    place = (section, seat)
    if place in seen:
        return True
    seen.add(place)
    return False
