"""What a hold or booking claims, as a value and as the one line of text that the scripts, records and journal carry.

``0:1;0*2;1#100,101`` reads: legs 0 up to (not including) 1; two places of section 0; seats 100 and 101, which are of
section 1. A request may also say ``1?3``: the best three together in section 1; the script answers with the seats.
"""

from typing import Literal

import msgspec

# ``gc=False``, here and of holds: they are made by the thousand and cannot be part of a cycle, so that Python's
# collector need not look at them. With batches of 1 000 it took 5 of the 14 us of a hold.


class CountedPlaces(msgspec.Struct, frozen=True, gc=False, tag="counted"):
    """A number of places of a counted section (by its index)."""

    section: int
    quantity: int


class NumberedPlaces(msgspec.Struct, frozen=True, gc=False, tag="numbered"):
    """Seats by their dense index, all of one seated section."""

    section: int
    seats: tuple[int, ...]

    @property
    def quantity(self) -> int:
        """How many places these are."""
        return len(self.seats)


class BestPlaces(msgspec.Struct, frozen=True, gc=False, tag="best"):
    """A wish: the best *quantity* seats of a section, together where possible."""

    section: int
    quantity: int


class Places(msgspec.Struct, frozen=True, gc=False):
    """Claims on one event over the legs ``[first_leg, last_leg)``."""

    first_leg: int
    last_leg: int
    items: tuple[CountedPlaces | NumberedPlaces | BestPlaces, ...]

    @property
    def quantity(self) -> int:
        """How many places these are; a place over several legs counts once."""
        return sum(item.quantity for item in self.items)


def format_places(places: Places) -> str:
    """The line of text for *places*."""
    if len(places.items) == 1:  # as nearly all have
        return f"{places.first_leg}:{places.last_leg};{_format_item(places.items[0])}"
    return ";".join([f"{places.first_leg}:{places.last_leg}", *map(_format_item, places.items)])


def parse_places(text: str) -> Places:
    """The places of a line that a script wrote.

    Raises:
        ValueError: It is no such line.
    """
    legs, *items = text.split(";")
    first_leg, last_leg = legs.split(":")
    return Places(int(first_leg), int(last_leg), tuple(map(_parse_item, items)))


def _format_item(item: CountedPlaces | NumberedPlaces | BestPlaces) -> str:
    if isinstance(item, CountedPlaces):
        return f"{item.section}*{item.quantity}"
    if isinstance(item, BestPlaces):
        return f"{item.section}?{item.quantity}"
    if len(item.seats) == 1:
        return f"{item.section}#{item.seats[0]}"
    return f"{item.section}#{','.join(map(str, item.seats))}"


def _parse_item(text: str) -> CountedPlaces | NumberedPlaces:
    kind: Literal["*", "#"] = "#" if "#" in text else "*"
    section, claim = text.split(kind)
    if kind == "*":
        return CountedPlaces(int(section), int(claim))
    return NumberedPlaces(int(section), tuple(map(int, claim.split(","))))
