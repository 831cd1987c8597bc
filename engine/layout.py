"""A definition compiled for selling: dense seat indices, blocks of neighbours, legs, prices.

Seats are numbered 0..n-1 in the order of the definition (section, row, position), so neighbours are consecutive. A
*block* is the longest stretch of a row without an aisle; "best available together" never leaves a block. Both the
scripts in Redis and the ledger speak of places by these numbers, and ``digest`` is how they make sure that they mean
the same ones.
"""

import hashlib
import itertools
import math
import re
import statistics
from collections.abc import Sequence

import msgspec

from engine.definition import EventDefinition, RowDefinition, SeatDefinition, SectionDefinition, SlotsDefinition
from engine.errors import InvalidRequest

SEATS_MAX = 1_000_000  # of one event; its labels are kept in every API process
SEATS_PER_ROW_MAX = 1_000  # a row is read in one step when neighbours are looked for
SEATS_WITH_LEGS_MAX = 5_000  # with legs, a search for neighbours may look at every seat: about 10 ms of Redis's time
FIRST_YEAR, LAST_YEAR = 1970, 2200  # outside of these somebody made a mistake, and arithmetic overflows at the ends
AISLE_FACTOR = 1.75  # a gap this many times the usual distance between neighbours is an aisle
_SEAT_RANGE = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")


class LaidSection(msgspec.Struct, frozen=True):
    """One section as the scripts know it; ``capacity`` counts what may be sold, overbooking included.

    ``fits_max`` is how many people its largest seat has room for: 1, but for tables.
    """

    index: int
    id: str
    seated: bool
    capacity: int
    first_seat: int
    first_block: int
    block_count: int
    price: int | None
    leg_prices: tuple[int, ...] | None
    fits_max: int


class LaidSeat(msgspec.Struct, frozen=True):
    """What is known of one seat besides whether it is taken."""

    label: str
    price: int | None
    definition: SeatDefinition


class Layout(msgspec.Struct, frozen=True, eq=False):
    """The compiled form of an event's sections and legs; made by :func:`compile_layout`."""

    digest: str
    sections: tuple[LaidSection, ...]
    seats: tuple[LaidSeat, ...]
    block_starts: tuple[int, ...]
    legs: int
    stops: tuple[str, ...]
    section_index: dict[str, int]
    seat_index: tuple[dict[str, int], ...]

    def leg_range(self, from_stop: str | None, to_stop: str | None) -> tuple[int, int]:
        """The legs ``[first, last)`` between two stops or clock times; the whole event where a side is ``None``.

        Raises:
            InvalidRequest: A stop is unknown, or ``to`` does not come after ``from``.
        """
        first = 0 if from_stop is None else self._stop_number(from_stop, "$.from")
        last = self.legs if to_stop is None else self._stop_number(to_stop, "$.to")
        if first == self.legs:
            raise InvalidRequest("$.from", f"nothing leaves from the last stop or time: {from_stop!r}")
        if first >= last:
            raise InvalidRequest("$.to", f"must come after from: {to_stop or self.stop_name(self.legs)!r}")
        return first, last

    def stop_name(self, number: int) -> str | None:
        """The stop or clock time before leg *number*; ``None`` for an event without legs."""
        return self.stops[number] if self.stops else None

    def price_of(self, section: LaidSection, seat: int | None, first_leg: int, last_leg: int) -> int:
        """The price of one place over ``[first_leg, last_leg)``, in minor units."""
        if section.leg_prices is not None:
            return sum(section.leg_prices[first_leg:last_leg])
        if seat is not None and (price := self.seats[seat].price) is not None:
            return price
        assert section.price is not None  # compile_layout saw to it
        return section.price

    def section_of_seat(self, seat: int) -> LaidSection:
        """The section that the seat of dense index *seat* belongs to."""
        return next(s for s in self.sections if s.seated and s.first_seat <= seat < s.first_seat + s.capacity)

    def _stop_number(self, name: str, path: str) -> int:
        if not self.stops:
            raise InvalidRequest(path, "the event has neither stops nor slots")
        try:
            return self.stops.index(name)
        except ValueError:
            raise InvalidRequest(path, f"unknown stop or time: {name!r}") from None


def compile_layout(definition: EventDefinition) -> Layout:
    """Number the places of *definition* and check what its fields say of each other.

    Raises:
        InvalidRequest: Something does not fit together; names the JSON path.
    """
    _check_times(definition)
    stops = _stop_names(definition)
    legs = max(len(stops) - 1, 1)
    sections: list[LaidSection] = []
    seats: list[LaidSeat] = []
    block_starts: list[int] = []
    seat_index: list[dict[str, int]] = []
    for number, section in enumerate(definition.sections):
        path = f"$.sections[{number}]"
        _check_section(section, path, legs)
        first_seat, first_block = len(seats), len(block_starts)
        labels = _lay_rows(section, path, seats, block_starts)
        capacity = len(seats) - first_seat
        if section.capacity is not None:
            capacity = section.capacity * (100 + definition.policy.overbooking_percent) // 100
        seat_index.append(labels)
        sections.append(
            LaidSection(
                index=number,
                id=section.id,
                seated=section.rows is not None,
                capacity=capacity,
                first_seat=first_seat,
                first_block=first_block,
                block_count=len(block_starts) - first_block,
                price=section.price,
                leg_prices=tuple(section.leg_prices) if section.leg_prices is not None else None,
                fits_max=max((seat.definition.fits or 1 for seat in seats[first_seat:]), default=1),
            )
        )
    _check_size(len(seats), legs)
    section_index = {section.id: section.index for section in sections}
    if len(section_index) < len(sections):
        _refuse_twice([section.id for section in sections], "$.sections", "section")
    return Layout(
        digest=_digest(sections, seats, block_starts, stops),
        sections=tuple(sections),
        seats=tuple(seats),
        block_starts=tuple(block_starts),
        legs=legs,
        stops=stops,
        section_index=section_index,
        seat_index=tuple(seat_index),
    )


def _check_times(definition: EventDefinition) -> None:
    for field in ("starts_at", "ends_at"):
        moment = getattr(definition, field)
        if moment is not None and not FIRST_YEAR <= moment.year <= LAST_YEAR:
            raise InvalidRequest(f"$.{field}", f"must lie in the years {FIRST_YEAR} to {LAST_YEAR}")
    if definition.ends_at is not None and definition.ends_at <= definition.starts_at:
        raise InvalidRequest("$.ends_at", "must be after starts_at")
    if definition.policy.hold_ttl > definition.policy.hold_ttl_max:
        raise InvalidRequest("$.policy.hold_ttl", "must not be above hold_ttl_max")


def _stop_names(definition: EventDefinition) -> tuple[str, ...]:
    if definition.stops is not None and definition.slots is not None:
        raise InvalidRequest("$.slots", "an event has stops or slots, not both")
    if definition.stops is not None:
        _refuse_twice(definition.stops, "$.stops", "stop")
        return tuple(definition.stops)
    if definition.slots is not None:
        return slot_times(definition.slots)
    return ()


def slot_times(slots: SlotsDefinition) -> tuple[str, ...]:
    """The clock times between which the slots lie, one more than there are slots; ``24:30`` is past midnight."""
    start = int(slots.start[:2]) * 60 + int(slots.start[3:])
    if start + slots.minutes * slots.count > 48 * 60:
        raise InvalidRequest("$.slots", "the slots must end within the following day")
    times = (start + slots.minutes * number for number in range(slots.count + 1))
    return tuple(f"{minute // 60:02d}:{minute % 60:02d}" for minute in times)


def _check_section(section: SectionDefinition, path: str, legs: int) -> None:
    if (section.capacity is None) == (section.rows is None):
        raise InvalidRequest(path, "a section has either capacity (counted) or rows (seated)")
    if section.leg_prices is not None:
        if len(section.leg_prices) != legs:
            raise InvalidRequest(f"{path}.leg_prices", f"must have one price for each of the {legs} legs")
        if section.prices is not None:
            raise InvalidRequest(f"{path}.prices", "prices by category and leg_prices exclude each other")
    if section.prices is not None and section.rows is None:
        raise InvalidRequest(f"{path}.prices", "prices by category need numbered seats")
    if section.price is None and section.leg_prices is None and section.prices is None:
        raise InvalidRequest(f"{path}.price", "required: a section has a price, in minor units of the currency")


def _lay_rows(section: SectionDefinition, path: str, seats: list[LaidSeat], block_starts: list[int]) -> dict[str, int]:
    """Append the section's seats and blocks; returns the dense index of every label."""
    labels: dict[str, int] = {}
    rows = section.rows or []
    _refuse_twice([row.id for row in rows], f"{path}.rows", "row")
    for row_number, row in enumerate(rows):
        row_path = f"{path}.rows[{row_number}]"
        row_seats = _row_seats(row, row_path)
        _check_seat_count(len(seats) + len(row_seats))  # now: a megabyte of ranges would make millions of seats
        aisles = _aisles(row, row_seats, row_path)
        block_starts.append(len(seats))
        for position, seat in enumerate(row_seats):
            label = f"{row.id}-{seat.id}"
            if label in labels:
                raise InvalidRequest(f"{row_path}.seats[{position}]", f"seat {label!r} is there twice")
            labels[label] = len(seats)
            seats.append(LaidSeat(label, _seat_price(section, seat, f"{row_path}.seats[{position}]"), seat))
            if position in aisles:
                block_starts.append(len(seats))
    return labels


def _row_seats(row: RowDefinition, path: str) -> list[SeatDefinition]:
    if isinstance(row.seats, str):
        match = _SEAT_RANGE.fullmatch(row.seats)
        if match is None:
            raise InvalidRequest(f"{path}.seats", f"must be a range like '1-20' or a list: {row.seats!r}")
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise InvalidRequest(f"{path}.seats", f"a range begins with the lower number: {row.seats!r}")
        if last - first >= SEATS_PER_ROW_MAX:
            raise InvalidRequest(f"{path}.seats", f"a row has at most {SEATS_PER_ROW_MAX} seats")
        return [SeatDefinition(str(number)) for number in range(first, last + 1)]
    if not 1 <= len(row.seats) <= SEATS_PER_ROW_MAX:
        raise InvalidRequest(f"{path}.seats", f"a row has 1 to {SEATS_PER_ROW_MAX} seats")
    return [SeatDefinition(seat) if isinstance(seat, str) else seat for seat in row.seats]


def _aisles(row: RowDefinition, seats: Sequence[SeatDefinition], path: str) -> set[int]:
    """Positions behind which an aisle runs, declared or seen in the drawing; never behind the last seat."""
    position_of = {seat.id: position for position, seat in enumerate(seats)}
    aisles = set()
    for number, seat_id in enumerate(row.aisles_after):
        if seat_id not in position_of:
            raise InvalidRequest(f"{path}.aisles_after[{number}]", f"row {row.id!r} has no seat {seat_id!r}")
        aisles.add(position_of[seat_id])
    points = [(seat.x, seat.y or 0.0) for seat in seats if seat.x is not None]
    if len(points) == len(seats) > 2:
        gaps = [math.dist(a, b) for a, b in itertools.pairwise(points)]
        usual = statistics.median(gaps)
        aisles.update(position for position, gap in enumerate(gaps) if usual and gap > AISLE_FACTOR * usual)
    aisles.discard(len(seats) - 1)
    return aisles


def _seat_price(section: SectionDefinition, seat: SeatDefinition, path: str) -> int | None:
    price = (section.prices or {}).get(seat.category or "", section.price)
    if price is None and section.leg_prices is None:
        raise InvalidRequest(path, f"no price for category {seat.category!r}, and the section has none of its own")
    return price if section.prices is not None else None


def _check_seat_count(seat_count: int) -> None:
    if seat_count > SEATS_MAX:
        raise InvalidRequest("$.sections", f"an event has at most {SEATS_MAX} seats")


def _check_size(seat_count: int, legs: int) -> None:
    if legs > 1 and seat_count > SEATS_WITH_LEGS_MAX:
        raise InvalidRequest(
            "$.sections", f"with legs, an event has at most {SEATS_WITH_LEGS_MAX} seats, not {seat_count}"
        )


def _refuse_twice(names: Sequence[str], path: str, what: str) -> None:
    seen: set[str] = set()
    for number, name in enumerate(names):
        if name in seen:
            raise InvalidRequest(f"{path}[{number}]", f"{what} {name!r} is there twice")
        seen.add(name)


def _digest(
    sections: Sequence[LaidSection], seats: Sequence[LaidSeat], block_starts: Sequence[int], stops: Sequence[str]
) -> str:
    """What whoever speaks of these places must agree on: their numbers and prices. 71 characters, see docs/keys.md."""
    geometry = [
        [(s.id, s.capacity, s.first_seat, s.first_block, s.price, s.leg_prices) for s in sections],
        [(seat.label, seat.price) for seat in seats],
        block_starts,
        stops,
    ]
    return "sha256:" + hashlib.sha256(msgspec.json.encode(geometry)).hexdigest()
