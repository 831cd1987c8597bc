"""Which numbered seats are off sale, worked out of the marks that an event's state has of its blocks.

Marks change seldom and states change often, so what is known of one state is the beginning of the next: mostly the
same bitmap, and after new blocks these alone are added.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec
import structlog

from engine.blocks import MARK
from engine.layout import Layout
from engine.places import NumberedPlaces, parse_places

MARK_BYTES = 160  # of a mark in a dictionary, beside its places

MARK_SHOWN = 80  # bytes of one that cannot be read

_MARK = MARK.encode()

logger = structlog.get_logger("holdfast.engine")


class OffSale(msgspec.Struct, frozen=True):
    """The marks of a state, and what they say as a bitmap like the one of sold cells: empty where no seat is off sale.

    The same marks keep the same bitmap: whoever asks whether it has changed need not compare bytes.
    """

    marks: Mapping[bytes, bytes]
    cells: bytes

    @property
    def byte_count(self) -> int:
        """What it takes of memory, with marks that may be of a state that is gone."""
        return len(self.cells) + MARK_BYTES * len(self.marks) + sum(map(len, self.marks.values()))


NOTHING = OffSale({}, b"")


def off_sale(fields: Mapping[bytes, bytes], layout: Layout, before: OffSale) -> OffSale:
    """What a state with these *fields* has off sale; *before* is what an earlier one of the same layout had."""
    marks = {field: places for field, places in fields.items() if field.startswith(_MARK)}
    if marks == before.marks:
        return OffSale(marks, before.cells)
    if marks.items() >= before.marks.items():
        added = [places for field, places in marks.items() if field not in before.marks]
        return OffSale(marks, _with(before.cells, added, layout))
    return OffSale(marks, _with(b"", marks.values(), layout))


def _with(cells: bytes, marked: Iterable[bytes], layout: Layout) -> bytes:
    """*cells* and those that are *marked*."""
    changed = bytearray(cells)
    for text in marked:
        try:
            taken = [*_cells_of(text, layout)]
        except ValueError as error:  # damage, which the audit repairs: no reason to show nobody any seat
            logger.warning("the mark of a block cannot be read", mark=text[:MARK_SHOWN], reason=str(error))
            continue
        if taken:
            changed = changed or bytearray((len(layout.seats) * layout.legs + 7) // 8)
        for cell in taken:
            changed[cell >> 3] |= 0x80 >> (cell & 7)
    return bytes(changed)


def _cells_of(mark: bytes, layout: Layout) -> Iterator[int]:
    """Raises ``ValueError`` for what is no mark of this layout."""
    places = parse_places(mark.decode())
    for item in places.items:
        if isinstance(item, NumberedPlaces):
            is_of_layout = min(item.seats) >= 0 and max(item.seats) < len(layout.seats)
            if not is_of_layout or places.first_leg < 0 or places.last_leg > layout.legs:
                raise ValueError("it names a seat or a leg that is not there")
            for seat in item.seats:
                yield from range(seat * layout.legs + places.first_leg, seat * layout.legs + places.last_leg)
