"""The cars of a train as a person writes them on a command line, and the sections that they become."""

import re
from collections.abc import Sequence

import msgspec

from engine.definition import CAPACITY_MAX, RowDefinition, SectionDefinition
from engine.errors import InvalidRequest

ACROSS_MAX = 10  # seats abreast; the widest aeroplanes have ten
CAR_SEATS_MAX = 2_000
_CAR = re.compile(r"(?P<id>[^\x00-\x20\x7f:]{1,64}):(?P<places>[0-9]{1,8})(?:x(?P<across>[0-9]{1,2}))?")


class Car(msgspec.Struct, frozen=True):
    """A car of *places* seats, *across* of them abreast; counted places where *across* is ``None``."""

    id: str
    places: int
    across: int | None = None


def parse_car(text: str) -> Car:
    """``A1:80x4`` is a car of 80 seats in rows of four, ``standing:120`` one of 120 counted places.

    Raises:
        InvalidRequest: It is neither.
    """
    match = _CAR.fullmatch(text)
    if match is None:
        raise InvalidRequest("$.cars", f"a car is written like 'A1:80x4' (seats) or 'B:120' (counted): {text!r}")
    places, across = int(match["places"]), int(match["across"]) if match["across"] else None
    if across is None and not 1 <= places <= CAPACITY_MAX:
        raise InvalidRequest("$.cars", f"a counted car has 1 to {CAPACITY_MAX} places: {text!r}")
    if across is not None and not 1 <= across <= ACROSS_MAX:
        raise InvalidRequest("$.cars", f"a row has 1 to {ACROSS_MAX} seats: {text!r}")
    if across is not None and not 1 <= places <= CAR_SEATS_MAX:
        raise InvalidRequest("$.cars", f"a car has 1 to {CAR_SEATS_MAX} seats: {text!r}")
    return Car(match["id"], places, across)


def sections_of_cars(
    cars: Sequence[Car], *, price: int | None = None, leg_prices: Sequence[int] | None = None
) -> list[SectionDefinition]:
    """One section for each car, all of them at the same price."""
    prices = list(leg_prices) if leg_prices is not None else None
    return [
        SectionDefinition(id=car.id, price=price, leg_prices=prices, capacity=car.places)
        if car.across is None
        else SectionDefinition(id=car.id, price=price, leg_prices=prices, rows=_rows(car.places, car.across))
        for car in cars
    ]


def _rows(places: int, across: int) -> list[RowDefinition]:
    """Rows ``1``, ``2``, ... of seats ``A``, ``B``, ... an aisle in the middle; of three, two are left of it."""
    rows = []
    for number, first in enumerate(range(0, places, across), start=1):
        letters = [chr(ord("A") + position) for position in range(min(across, places - first))]
        left = (across + 1) // 2
        rows.append(RowDefinition(str(number), list(letters), letters[left - 1 : left] if len(letters) > left else []))
    return rows
