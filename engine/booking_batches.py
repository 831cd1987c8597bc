"""Bookings of the ledger on their way into Redis: commands that write them, and the arguments of scripts of a load.

Redis needs a record of each booking, and its customer's count: these are sent in batches, by plain commands into keys
of this load's own. Cells and counters, which are of all bookings together, are added up here, a bit for each cell, and
written once. To take a million places apart was most of Redis's work in a load, with everybody else waiting.

A customer who was certainly not seen before is written, all others are added to, which takes a script. Who was seen is
remembered by a bit for each of some millions of hash values: of two customers who share one, the second is added to
what is not there, which comes to the same.

While a hash of a million members grows, Redis moves some of the old ones with every new one, and waits for memory: five
times as long as otherwise. By that the commands are measured.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from engine.blocks import BLOCKED_OWNER, MARK
from engine.ids import claim_keys
from engine.layout import Layout
from engine.places import NumberedPlaces, Places, parse_places
from engine.ports import BookingColumns
from engine.transport.wire import pack_command, pack_fields

PIECE_BYTES = 32_768  # of the bitmap in one call: a quarter of a million cells, some ten microseconds of Redis's time
FIELDS_PER_CALL = 4_000  # names and values of counters: a millisecond of Redis's time
COUNTED_TEXTS_MAX = 10_000  # different claims on nothing but counted sections that are remembered; mostly a handful is
FIELDS_PER_COMMAND = 250  # bookings or customers: a quarter of a millisecond of Redis's time, two while its hash grows
SEEN_MAX = 1 << 22  # bytes: of a million customers, one in seventy is added to without need
SEEN_PER_PLACE = 2  # a smaller event takes fewer
AGAIN_MAX = 250  # customers in one call of count_customers: half a millisecond of Redis's time, or two likewise
KEYS_TTL_S = 600  # since the last batch: what a loader leaves behind that has died
_BIT = tuple(1 << number for number in range(8))
FREE, TAKEN = b"01"  # a cell while bookings are added up: eight of them become a byte of the bitmap at the end


class _Seats(msgspec.Struct):
    """How many seats of this section are booked for these legs, by bookings of nothing else."""

    first_leg: int
    last_leg: int
    section: int
    count: int = 0


class BookingBatches:
    """The bookings of one event, batch by batch, and what those own that have been seen.

    They are written to *bookings_key* and *users_key*.
    """

    def __init__(self, layout: Layout, bookings_key: bytes, users_key: bytes) -> None:
        self.count = 0
        self.customer_count = 0  # who certainly differ
        self._layout = layout
        self._bookings_key = bookings_key
        self._users_key = users_key
        self._expire = [pack_command("EXPIRE", key, KEYS_TTL_S) for key in (bookings_key, users_key)]
        places = sum(section.capacity for section in layout.sections) * layout.legs
        self._seen = bytearray(min(SEEN_MAX, 1 << (SEEN_PER_PLACE * places).bit_length()))
        self._again: dict[str, int] = {}
        self._calls = 0
        self._cells = [bytearray([FREE]) * len(layout.seats) for _ in range(layout.legs)]  # by leg and seat
        self._sold: Counter[tuple[int, int]] = Counter()  # by section and leg
        # Claims on nothing but counted sections come again and again: counted as text, and taken apart once.
        self._counted: dict[str, int] = {}
        self._quantities: dict[str, str] = {}
        self._heads: dict[str, _Seats] = {}  # `0:1;1` of `0:1;1#100,101`
        self._marks: list[bytes] = []  # names and values of the fields that tell what is off sale

    def add(self, bookings: BookingColumns) -> list[bytes]:
        """Count *bookings*; returns the commands that write them, none of which may run twice.

        Raises:
            ValueError, IndexError: A booking claims what is no place of the event.
        """
        ids, times, texts, customers = bookings
        keys = claim_keys(ids)
        if BLOCKED_OWNER in customers:
            for key, text, customer in zip(keys, texts, customers, strict=True):
                if customer == BLOCKED_OWNER:
                    self._marks += (f"{MARK}{key}".encode(), text.encode())
        quantities = self._count(texts)
        # By columns from here on: a row at a time, whatever is done with it, took twice as long.
        records = [
            f"{confirmed_ms}|{confirmed_ms}|||{quantity}|{text}|{customer}"
            for confirmed_ms, quantity, text, customer in zip(times, quantities, texts, customers, strict=True)
        ]
        self.count += len(keys)
        names, counts = self._note_customers(customers, quantities)
        self.customer_count += len(names)
        return [
            *_pack_pieces(self._bookings_key, keys, records),
            *_pack_pieces(self._users_key, names, counts),
            *self._expire,
        ]

    @property
    def again_count(self) -> int:
        """How many customers are to be added to."""
        return len(self._again)

    def take_again(self) -> Iterator[list[bytes]]:
        """What ``count_customers`` is told of them, but for the epoch: a call each.

        To be sent one by one, when every command of :meth:`add` so far was answered.
        """
        while self._again:
            self._calls += 1
            args = [b"%d" % self._calls, b"%d" % KEYS_TTL_S]
            for customer in list(itertools.islice(self._again, AGAIN_MAX)):
                args += customer.encode(), b"%d" % self._again.pop(customer)
            yield args

    def pieces(self) -> Iterator[list[bytes]]:
        """What ``load_places`` is told of all that was added, but for the epoch: a call each; none if nothing was."""
        marks = [*self._marks, b"off_sale", b"%d" % (len(self._marks) // 2)] if self._marks else []
        fields = [*self._counters(), *marks]
        for start in range(0, len(fields), FIELDS_PER_CALL):
            yield [b"0", b"", *fields[start : start + FIELDS_PER_CALL]]
        cells = bytearray(len(self._cells) * len(self._layout.seats))
        for leg, of_leg in enumerate(self._cells):
            cells[leg :: len(self._cells)] = of_leg
        for start in range(0, len(cells), 8 * PIECE_BYTES):
            piece = cells[start : start + 8 * PIECE_BYTES]
            if TAKEN in piece:
                size = (len(piece) + 7) // 8
                yield [b"%d" % (start // 8), int(piece.ljust(8 * size, b"%c" % FREE), 2).to_bytes(size)]

    def _count(self, texts: Sequence[str]) -> list[str]:
        """Add up what is claimed; returns how many places each claims."""
        quantities, counted, heads, known = [], self._counted, self._heads, self._quantities
        claims: defaultdict[str, list[str]] = defaultdict(list)
        for text in texts:
            head, _, claim = text.partition("#")
            if head in heads and ";" not in claim:
                claims[head].append(claim)
                quantities.append(f"{claim.count(',') + 1}" if "," in claim else "1")
            elif text in known:
                counted[text] += 1
                quantities.append(known[text])
            else:
                quantities.append(f"{self._count_any(text, head)}")
        for head, of_head in claims.items():
            seats = [int(seat) for seat in ",".join(of_head).split(",")]
            heads[head].count += len(seats)
            self._take(seats, heads[head].first_leg, heads[head].last_leg)
        return quantities

    def _count_any(self, text: str, head: str) -> int:
        places = parse_places(text)
        items = places.items
        if len(items) == 1 and isinstance(items[0], NumberedPlaces):
            self._heads[head] = _Seats(places.first_leg, places.last_leg, items[0].section)
        elif "#" not in text and len(self._quantities) < COUNTED_TEXTS_MAX:
            self._quantities[text], self._counted[text] = f"{places.quantity}", 1
            return places.quantity
        self._add_sold(places, 1)
        for item in items:
            if isinstance(item, NumberedPlaces):
                self._take(item.seats, places.first_leg, places.last_leg)
        return places.quantity

    def _take(self, seats: Sequence[int], first_leg: int, last_leg: int) -> None:
        for leg in range(first_leg, last_leg):
            cells = self._cells[leg]
            for seat in seats:
                cells[seat] = TAKEN

    def _note_customers(self, customers: Sequence[str], quantities: Sequence[str]) -> tuple[list[str], list[str]]:
        """Returns who was certainly not seen before, and their counts; all others are to be added to."""
        seen, mask, again = self._seen, len(self._seen) - 1, self._again
        names, counts = [], []
        for customer, quantity, slot in zip(customers, quantities, map(hash, customers), strict=True):
            seen_there, bit = seen[slot & mask], _BIT[slot >> 32 & 7]
            if seen_there & bit:
                again[customer] = again.get(customer, 0) + int(quantity)
            else:
                seen[slot & mask] = seen_there | bit
                names.append(customer)
                counts.append(quantity)
        return names, counts

    def _add_sold(self, places: Places, times: int) -> None:
        for item in places.items:
            for leg in range(places.first_leg, places.last_leg):
                self._sold[item.section, leg] += times * item.quantity

    def _counters(self) -> Iterator[bytes]:
        """Names and values of the counters of every section and leg that anything is sold of."""
        for text, times in self._counted.items():
            self._add_sold(parse_places(text), times)
        self._counted = dict.fromkeys(self._counted, 0)
        for seats in self._heads.values():
            for leg in range(seats.first_leg, seats.last_leg):
                self._sold[seats.section, leg] += seats.count
            seats.count = 0
        for (section, leg), sold in self._sold.items():
            if sold:
                yield b"free:%d:%d" % (section, leg)
                yield b"%d" % (self._layout.sections[section].capacity - sold)
                yield b"sold:%d:%d" % (section, leg)
                yield b"%d" % sold


def _pack_pieces(key: bytes, names: Sequence[str], values: Sequence[str]) -> Iterator[bytes]:
    for start in range(0, len(names), FIELDS_PER_COMMAND):
        end = start + FIELDS_PER_COMMAND
        yield pack_fields(key, names[start:end], values[start:end])
