"""What is free, held and sold, read from an event's counters and bitmaps."""

import datetime as dt
import re
from collections.abc import Iterator, Mapping

import msgspec

from engine.layout import LaidSection, Layout

_NONZERO = re.compile(rb"[^\0]")


class SectionAvailability(msgspec.Struct, frozen=True):
    """One section over the range of legs asked for: ``capacity = free + held + sold``."""

    id: str
    capacity: int
    free: int
    held: int
    sold: int


class Availability(msgspec.Struct, frozen=True):
    """An event's sections at change *seq*.

    ``next_release_at`` is when the event's next hold lapses, the earliest that any of what is ``held`` may come back;
    null where nothing is.
    """

    event_id: str
    seq: int
    sections: tuple[SectionAvailability, ...]
    next_release_at: dt.datetime | None


class Snapshot(msgspec.Struct, frozen=True):
    """One event's state as the script ``snapshot_event`` answers it; the bitmaps only if they were asked for."""

    seq: int
    epoch: int
    status: str
    next_release_ms: int
    fields: Mapping[bytes, bytes]
    held: bytes = b""
    sold: bytes = b""

    def counter(self, kind: str, section: int, leg: int) -> int:
        """The counter *kind* ('free', 'held' or 'sold') of a section's leg."""
        return int(self.fields[f"{kind}:{section}:{leg}".encode()])


def needs_cells(layout: Layout) -> bool:
    """Whether the counters alone cannot tell: with legs, a seat may be taken on one leg and free on another."""
    return layout.legs > 1 and any(section.seated for section in layout.sections)


def section_availability(
    snapshot: Snapshot, layout: Layout, first_leg: int, last_leg: int
) -> tuple[SectionAvailability, ...]:
    """Every section over the legs ``[first_leg, last_leg)``; a place counts as free if it is free on all of them."""
    return tuple(
        _seated(snapshot, layout, section, first_leg, last_leg)
        if section.seated and layout.legs > 1
        else _counted(snapshot, section, first_leg, last_leg)
        for section in layout.sections
    )


def _counted(snapshot: Snapshot, section: LaidSection, first_leg: int, last_leg: int) -> SectionAvailability:
    """The scarcest leg decides: that many places can be had on all legs of the range."""
    leg = min(range(first_leg, last_leg), key=lambda leg: snapshot.counter("free", section.index, leg))
    free, held, sold = (snapshot.counter(kind, section.index, leg) for kind in ("free", "held", "sold"))
    return SectionAvailability(section.id, section.capacity, free, held, sold)


def _seated(
    snapshot: Snapshot, layout: Layout, section: LaidSection, first_leg: int, last_leg: int
) -> SectionAvailability:
    sold = _any_leg(snapshot.sold, layout, section, first_leg, last_leg)
    held = _any_leg(snapshot.held, layout, section, first_leg, last_leg) & ~sold
    sold_count, held_count = sold.bit_count(), held.bit_count()
    free_count = section.capacity - sold_count - held_count
    return SectionAvailability(section.id, section.capacity, free_count, held_count, sold_count)


def _any_leg(bitmap: bytes, layout: Layout, section: LaidSection, first_leg: int, last_leg: int) -> int:
    """One bit per seat of the section, set when any cell of the range is; no loop over seats."""
    legs, seats = layout.legs, section.capacity
    cells = int.from_bytes(bitmap) >> (len(bitmap) * 8 - (section.first_seat + seats) * legs)
    one_per_seat = ((1 << seats * legs) - 1) // ((1 << legs) - 1)
    folded = 0
    for leg in range(first_leg, last_leg):
        folded |= cells >> (legs - 1 - leg)
    return folded & one_per_seat


def seat_bits(bitmap: bytes, layout: Layout, first_leg: int, last_leg: int) -> bytes:
    """One bit per seat of the event, the most significant of a byte first: set when the seat is on any of the legs."""
    if layout.legs == 1:
        return bitmap
    legs, seats = layout.legs, len(layout.seats)
    byte_count = (seats + 7) // 8
    bits = bytearray(byte_count)
    for byte in _NONZERO.finditer(bitmap):
        position = byte.start()
        for cell in range(position << 3, (position << 3) + 8):
            if bitmap[position] & (0x80 >> (cell & 7)) and first_leg <= cell % legs < last_leg:
                bits[cell // legs >> 3] |= 0x80 >> (cell // legs & 7)
    return bytes(bits)


def set_bits(bits: bytes) -> Iterator[int]:
    """The numbers of the bits that are set; empty bytes, the usual case, cost next to nothing."""
    for byte in _NONZERO.finditer(bits):
        position = byte.start()
        value = bits[position]
        for bit in range(8):
            if value & (0x80 >> bit):
                yield (position << 3) + bit
