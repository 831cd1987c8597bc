"""What the records of an event add up to, and where bitmaps and counters say something else. No input or output.

A booking that Redis and the ledger do not agree on is *disputed*: it is a difference by itself, and whether bitmaps
and counters follow the one side or the other makes no further difference. So every cause is reported once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from engine.layout import LaidSection, Layout
from engine.places import CountedPlaces, NumberedPlaces, Places
from persistence.differences import Difference, Kind, name_seat

CHUNK = 65_536  # bytes of the bitmaps compared at once, as one large integer

Owner = Literal["held", "sold", "disputed"]
Cell = tuple[int, int]  # seat, leg
Bitmap = bytes | bytearray


class Exact(msgspec.Struct, frozen=True):
    """Which sums are of one moment: those of the holds, of the bookings."""

    held: bool
    sold: bool


class Tally:
    """Bitmaps and counters as the records make them; memory is that of three bitmaps."""

    def __init__(self, event_id: str, layout: Layout) -> None:
        self._event_id = event_id
        self._layout = layout
        size = (len(layout.seats) * layout.legs + 7) // 8
        self.cells = {owner: bytearray(size) for owner in ("held", "sold", "disputed")}
        self.counts: Counter[tuple[str, int, int]] = Counter()  # by owner, section and leg

    def add(self, owner: Owner, places: Places) -> list[Cell]:
        """Count *places* in; returns the seats and legs that an earlier record of the same kind has already.

        Raises:
            ValueError: The layout has no such places.
        """
        self._check(places)
        layout, bitmap, twice = self._layout, self.cells[owner], []
        for item in places.items:
            for leg in range(places.first_leg, places.last_leg):
                self.counts[owner, item.section, leg] += item.quantity
                for seat in item.seats if isinstance(item, NumberedPlaces) else ():
                    byte, bit = divmod(seat * layout.legs + leg, 8)
                    if bitmap[byte] & 0x80 >> bit:
                        twice.append((seat, leg))
                    bitmap[byte] |= 0x80 >> bit
        return twice

    def has(self, owner: Owner, places: Places) -> bool:
        """Whether any of the numbered *places* is claimed by *owner*'s kind."""
        bitmap, legs = self.cells[owner], self._layout.legs
        return any(
            bitmap[(seat * legs + leg) >> 3] & 0x80 >> (seat * legs + leg & 7)
            for item in places.items
            if isinstance(item, NumberedPlaces)
            for seat in item.seats
            for leg in range(places.first_leg, places.last_leg)
        )

    def _check(self, places: Places) -> None:
        layout = self._layout
        if not 0 <= places.first_leg < places.last_leg <= layout.legs:
            raise ValueError(f"there are no legs {places.first_leg} to {places.last_leg}")
        seats: list[int] = []
        for item in places.items:
            if not 0 <= item.section < len(layout.sections):
                raise ValueError(f"there is no section {item.section}")
            section = layout.sections[item.section]
            if section.seated != isinstance(item, NumberedPlaces):
                raise ValueError(f"section {item.section} is not sold like this")
            if isinstance(item, NumberedPlaces):
                last_seat = section.first_seat + section.capacity
                if not all(section.first_seat <= seat < last_seat for seat in item.seats):
                    raise ValueError(f"there are no such seats: {item.seats}")
                seats += item.seats
            else:
                assert isinstance(item, CountedPlaces), "a record never contains a wish"
        if len(set(seats)) < len(seats):
            raise ValueError("a seat is there twice")

    def compare_cells(self, held: bytes, sold: bytes, exact: Exact) -> Iterator[Difference]:
        """Differences of the bitmaps, read at the moment that the records are counted at."""
        for start in range(0, len(self.cells["held"]), CHUNK):
            is_held, is_sold = _number(held, start), _number(sold, start)
            owned_by = {owner: _number(bitmap, start) for owner, bitmap in self.cells.items()}
            by_hold, by_booking, disputed = owned_by["held"], owned_by["sold"], owned_by["disputed"]
            if exact.held:
                yield from self._cells("cell_not_owned", is_held & ~by_hold, start, "held", "free")
                yield from self._cells("cell_not_set", by_hold & ~is_held, start, "free", "held")
            if exact.sold:
                yield from self._cells("cell_not_owned", is_sold & ~by_booking & ~disputed, start, "sold", "free")
                yield from self._cells("cell_not_set", by_booking & ~is_sold & ~disputed, start, "free", "sold")
            if exact.held and exact.sold:
                yield from self._cells("claimed_twice", by_hold & by_booking, start, "held and sold", None)

    def compare_counters(
        self, counter: Callable[[str], int], kept: Callable[[int, int], int], exact: Exact
    ) -> Iterator[Difference]:
        """Differences of the counters, read at the moment that the records are counted at.

        *kept* says how many places of a section's leg are sold to nobody. They are none of the records', so that
        ``sold`` is too high as long as there are any.
        """
        for section in self._layout.sections:
            for leg in range(self._layout.legs):
                yield from self._compare_leg(section, leg, counter, exact)
                if exact.sold and (said := kept(section.index, leg)):
                    yield self._counter(f"kept:{section.index}:{leg}", section, leg, said, 0)

    def _compare_leg(
        self, section: LaidSection, leg: int, counter: Callable[[str], int], exact: Exact
    ) -> Iterator[Difference]:
        suffix = f"{section.index}:{leg}"
        held = self.counts["held", section.index, leg]
        sold_min = self.counts["sold", section.index, leg]
        sold_max = sold_min + self.counts["disputed", section.index, leg]
        if exact.sold and not sold_min <= (said := counter(f"sold:{suffix}")) <= sold_max:
            yield self._counter(f"sold:{suffix}", section, leg, said, sold_min)
        if exact.held and (said := counter(f"held:{suffix}")) != held:
            yield self._counter(f"held:{suffix}", section, leg, said, held)
        if not (exact.held and exact.sold):
            return
        free = section.capacity - held
        if not free - sold_max <= (said := counter(f"free:{suffix}")) <= free - sold_min:
            yield self._counter(f"free:{suffix}", section, leg, said, free - sold_min)
        if sold_min > free:
            yield Difference(
                self._event_id, "oversold", section.id, leg=leg, redis=held + sold_min, ledger=section.capacity
            )

    def _counter(self, field: str, section: LaidSection, leg: int, said: int, should: int) -> Difference:
        return Difference(
            self._event_id, "counter_wrong", section.id, leg=leg, subject=field, redis=said, ledger=should
        )

    def _cells(self, kind: Kind, cells: int, start: int, redis: str, ledger: str | None) -> Iterator[Difference]:
        for cell in _set_bits(cells, start):
            seat, leg = divmod(cell, self._layout.legs)
            section, label = name_seat(self._layout, seat)
            yield Difference(self._event_id, kind, section, label, leg, redis=redis, ledger=ledger)


def cells_without(one: Bitmap, *others: Bitmap) -> Iterator[int]:
    """The cells that are set in *one* and in none of the *others*, in no order."""
    for start in range(0, len(one), CHUNK):
        cells = _number(one, start)
        for other in others:
            cells &= ~_number(other, start)
        yield from _set_bits(cells, start)


def _number(bitmap: Bitmap, start: int) -> int:
    """A chunk as a number of fixed width, whatever the bitmap's length."""
    return int.from_bytes(bitmap[start : start + CHUNK].ljust(CHUNK, b"\0"))


def _set_bits(cells: int, start: int) -> Iterable[int]:
    """The cells of a chunk whose bits are set; the work is in proportion to how many they are."""
    top = CHUNK * 8 - 1
    while cells:
        position = cells.bit_length() - 1
        yield start * 8 + top - position
        cells ^= 1 << position
