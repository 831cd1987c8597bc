"""Bookings of the ledger on their way into Redis: the arguments of ``load_bookings``, and of ``load_places`` at last.

Redis needs a record of each booking, and its customer's count: these are sent in batches. Cells and counters, which
are of all bookings together, are added up here, a bit for each cell, and written once. To take a million places apart
was most of Redis's work in a load, with everybody else waiting; here it costs this process two microseconds for each.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from engine.blocks import BLOCKED_OWNER, MARK
from engine.ids import claim_keys
from engine.layout import Layout
from engine.places import NumberedPlaces, Places, parse_places
from engine.ports import BookingRow

PIECE_BYTES = 32_768  # of the bitmap in one call: a quarter of a million cells, some ten microseconds of Redis's time
FIELDS_PER_CALL = 4_000  # names and values of counters: a millisecond of Redis's time
COUNTED_TEXTS_MAX = 10_000  # different claims on nothing but counted sections that are remembered; mostly a handful is
_BIT = tuple(0x80 >> cell for cell in range(8))


class BookingBatches:
    """The bookings of one event, batch by batch, and what those own that have been seen."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._cells = bytearray((len(layout.seats) * layout.legs + 7) // 8)
        self._sold: Counter[tuple[int, int]] = Counter()  # by section and leg
        # Claims on nothing but counted sections come again and again: counted as text, and taken apart once.
        self._counted: dict[str, int] = {}
        self._quantities: dict[str, int] = {}
        self._heads: dict[str, tuple[int, int, int]] = {}  # `0:1;1` of `0:1;1#100`: legs and section
        self._seats: Counter[tuple[int, int, int]] = Counter()  # one by one, by the same
        self._marks: list[bytes] = []  # names and values of the fields that tell what is off sale

    def add(self, rows: Sequence[BookingRow]) -> list[bytes]:
        """Count *rows*, one at least; returns what ``load_bookings`` is told of them, but for the epoch.

        Raises:
            ValueError, IndexError: A booking claims what is no place of the event.
        """
        ids, times, texts, customers = zip(*rows, strict=True)
        quantities = [self._count(text) for text in texts]
        totals: dict[str, int] = {}
        for customer_id, quantity in zip(customers, quantities, strict=True):
            totals[customer_id] = totals.get(customer_id, 0) + quantity
        keys = claim_keys(ids)
        if BLOCKED_OWNER in totals:
            for key, text, customer_id in zip(keys, texts, customers, strict=True):
                if customer_id == BLOCKED_OWNER:
                    self._marks += (f"{MARK}{key}".encode(), text.encode())
        records = [
            f"{key}{confirmed_ms}|{confirmed_ms}|||{quantity}|{text}|{customer_id}\0"
            for key, confirmed_ms, quantity, text, customer_id in zip(
                keys, times, quantities, texts, customers, strict=True
            )
        ]
        users = [f"{total}|{customer_id}\0" for customer_id, total in totals.items()]
        return [b"%d" % len(rows), "".join(records).encode(), "".join(users).encode()]

    def pieces(self) -> Iterator[list[bytes]]:
        """What ``load_places`` is told of all that was added, but for the epoch: a call each; none if nothing was."""
        fields = [*self._counters(), *self._marks]
        for start in range(0, len(fields), FIELDS_PER_CALL):
            yield [b"0", b"", *fields[start : start + FIELDS_PER_CALL]]
        for start in range(0, len(self._cells), PIECE_BYTES):
            piece = bytes(self._cells[start : start + PIECE_BYTES])
            if any(piece):
                yield [b"%d" % start, piece]

    def _count(self, text: str) -> int:
        """Count the places of one booking; returns how many they are."""
        if (quantity := self._quantities.get(text)) is not None:
            self._counted[text] += 1
            return quantity
        head, _, claim = text.rpartition("#")
        if (shape := self._heads.get(head)) is not None and claim.isdecimal():  # one seat, as most are
            self._seats[shape] += 1
            self._take(int(claim), shape[0], shape[1])
            return 1
        return self._count_any(text, head)

    def _count_any(self, text: str, head: str) -> int:
        places = parse_places(text)
        if head.count(";") == 1 and len(places.items) == 1:
            self._heads[head] = (places.first_leg, places.last_leg, places.items[0].section)
        if not head and len(self._quantities) < COUNTED_TEXTS_MAX:
            self._quantities[text], self._counted[text] = places.quantity, 1
            return places.quantity
        self._add_sold(places, 1)
        for item in places.items:
            if isinstance(item, NumberedPlaces):
                for seat in item.seats:
                    self._take(seat, places.first_leg, places.last_leg)
        return places.quantity

    def _take(self, seat: int, first_leg: int, last_leg: int) -> None:
        base = seat * self._layout.legs
        for cell in range(base + first_leg, base + last_leg):
            self._cells[cell >> 3] |= _BIT[cell & 7]

    def _add_sold(self, places: Places, times: int) -> None:
        for item in places.items:
            for leg in range(places.first_leg, places.last_leg):
                self._sold[item.section, leg] += times * item.quantity

    def _counters(self) -> Iterator[bytes]:
        """Names and values of the counters of every section and leg that anything is sold of."""
        for text, times in self._counted.items():
            self._add_sold(parse_places(text), times)
        self._counted = dict.fromkeys(self._counted, 0)
        for (first_leg, last_leg, section), count in self._seats.items():
            for leg in range(first_leg, last_leg):
                self._sold[section, leg] += count
        self._seats.clear()
        for (section, leg), sold in self._sold.items():
            yield b"free:%d:%d" % (section, leg)
            yield b"%d" % (self._layout.sections[section].capacity - sold)
            yield b"sold:%d:%d" % (section, leg)
            yield b"%d" % sold
