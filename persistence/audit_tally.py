"""What the records of an event add up to, and where bitmaps and counters say something else. No input or output.

A booking that Redis and the ledger do not agree on is *disputed*: it is a difference by itself, and whether bitmaps
and counters follow the one side or the other makes no further difference. So every cause is reported once.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from engine.layout import LaidSection, Layout
from engine.places import NumberedPlaces, Places
from persistence.differences import Difference, Kind, name_seat

CHUNK = 65_536  # bytes of the bitmaps compared at once, as one large integer

Counters = Mapping[str, int]  # by field of the state hash: `sold:<section>:<leg>`
Owner = Literal["held", "sold", "disputed"]


class Tally:
    """Bitmaps and counters as the records make them; memory is that of three bitmaps."""

    def __init__(self, event_id: str, layout: Layout) -> None:
        self._event_id = event_id
        self._layout = layout
        size = (len(layout.seats) * layout.legs + 7) // 8
        self._cells = {"held": bytearray(size), "sold": bytearray(size), "disputed": bytearray(size)}
        self._counts: Counter[tuple[str, int, int]] = Counter()

    def add(self, owner: Owner, places: Places) -> list[tuple[int, int]]:
        """Count *places* in; returns the seats and legs that an earlier record of the same kind has already.

        Raises:
            ValueError: The layout has no such places.
        """
        self._check(places)
        layout, bitmap, twice = self._layout, self._cells[owner], []
        for item in places.items:
            for leg in range(places.first_leg, places.last_leg):
                self._counts[owner, item.section, leg] += item.quantity
                for seat in item.seats if isinstance(item, NumberedPlaces) else ():
                    byte, bit = divmod(seat * layout.legs + leg, 8)
                    if bitmap[byte] & 0x80 >> bit:
                        twice.append((seat, leg))
                    bitmap[byte] |= 0x80 >> bit
        return twice

    def _check(self, places: Places) -> None:
        layout = self._layout
        if not 0 <= places.first_leg < places.last_leg <= layout.legs:
            raise ValueError(f"there are no legs {places.first_leg} to {places.last_leg}")
        for item in places.items:
            if not 0 <= item.section < len(layout.sections):
                raise ValueError(f"there is no section {item.section}")
            if isinstance(item, NumberedPlaces) and not all(0 <= seat < len(layout.seats) for seat in item.seats):
                raise ValueError(f"there are no such seats: {item.seats}")

    def compare_cells(self, held: tuple[bytes, bytes], sold: tuple[bytes, bytes]) -> Iterator[Difference]:
        """Differences of the bitmaps, each read before the records and once more after them.

        A cell counts as set or clear only if it was so both times: what changed in between changed while records did.
        """
        for start in range(0, len(self._cells["held"]), CHUNK):
            held_a, held_b, sold_a, sold_b = (_number(bitmap, start) for bitmap in (*held, *sold))
            owned_by = {owner: _number(bitmap, start) for owner, bitmap in self._cells.items()}
            by_hold, by_booking, disputed = owned_by["held"], owned_by["sold"], owned_by["disputed"]
            taken_twice = by_hold & by_booking & held_a & held_b & sold_a & sold_b
            yield from self._cell_differences("cell_not_owned", held_a & held_b & ~by_hold, start, "held", "free")
            yield from self._cell_differences(
                "cell_not_owned", sold_a & sold_b & ~by_booking & ~disputed, start, "sold", "free"
            )
            yield from self._cell_differences("cell_not_set", by_hold & ~(held_a | held_b), start, "free", "held")
            yield from self._cell_differences(
                "cell_not_set", by_booking & ~(sold_a | sold_b | disputed), start, "free", "sold"
            )
            yield from self._cell_differences("claimed_twice", taken_twice, start, "held and sold", None)

    def compare_counters(self, first: Counters, last: Counters | None) -> Iterator[Difference]:
        """Differences of the counters *first*, read together with the holds and before the bookings.

        *last* are the counters after the bookings were read, if anything changed meanwhile: bookings only become more
        then (but for those undone), so what was read of them lies between.
        """
        for section in self._layout.sections:
            for leg in range(self._layout.legs):
                yield from self._compare_leg(section, leg, first, last or first, is_steady=last is None)

    def _compare_leg(
        self, section: LaidSection, leg: int, first: Counters, last: Counters, *, is_steady: bool
    ) -> Iterator[Difference]:
        held = self._counts["held", section.index, leg]
        sold_min = self._counts["sold", section.index, leg]
        sold_max = sold_min + self._counts["disputed", section.index, leg]
        suffix = f"{section.index}:{leg}"
        if first[f"sold:{suffix}"] > sold_max or last[f"sold:{suffix}"] < sold_min:
            yield self._counter("sold", section, leg, last, sold_min)
        if first[f"held:{suffix}"] != held:
            yield self._counter("held", section, leg, first, held)
        if not is_steady:
            sold_min = sold_max = first[f"sold:{suffix}"]
        free = section.capacity - held
        if not free - sold_max <= first[f"free:{suffix}"] <= free - sold_min:
            yield self._counter("free", section, leg, first, free - sold_min)
        if sold_min > free:
            yield Difference(
                self._event_id, "oversold", section.id, leg=leg, redis=held + sold_min, ledger=section.capacity
            )

    def _counter(self, kind: str, section: LaidSection, leg: int, counters: Counters, ledger: int) -> Difference:
        field = f"{kind}:{section.index}:{leg}"
        return Difference(
            self._event_id, "counter_wrong", section.id, leg=leg, subject=field, redis=counters[field], ledger=ledger
        )

    def _cell_differences(
        self, kind: Kind, cells: int, start: int, redis: str, ledger: str | None
    ) -> Iterator[Difference]:
        for cell in _set_bits(cells, start):
            seat, leg = divmod(cell, self._layout.legs)
            section, label = name_seat(self._layout, seat)
            yield Difference(self._event_id, kind, section, label, leg, redis=redis, ledger=ledger)


def _number(bitmap: bytes | bytearray, start: int) -> int:
    """A chunk as a number of fixed width, whatever the bitmap's length."""
    return int.from_bytes(bitmap[start : start + CHUNK].ljust(CHUNK, b"\0"))


def _set_bits(cells: int, start: int) -> Iterable[int]:
    """The cells of a chunk whose bits are set; the work is in proportion to how many they are."""
    top = CHUNK * 8 - 1
    while cells:
        position = cells.bit_length() - 1
        yield start * 8 + top - position
        cells ^= 1 << position
