"""What listeners of an event are sent: Server-Sent Events of its state, of its changes, and of the end."""

import base64
import datetime as dt

import msgspec

from api.answers import encode_json
from api.seats import SeatStatus
from engine.availability import SectionAvailability, seat_bits, set_bits
from engine.snapshots import Encoded, View
from engine.views import availability

CHANGED_SEATS_MAX = 1_000  # told one by one; of more, the bitmaps anew are shorter
HEARTBEAT = b":\n\n"  # a comment: proxies that cut silent connections see that this one is not

Legs = tuple[int, int]


class SeatBits(msgspec.Struct, frozen=True):
    """Every numbered seat, one bit each in base64: bit *n* is the *n*-th of the list at ``/seats``, most significant
    first, set when the seat is held (sold, off sale) on any leg of the range.

    What is ``blocked`` is among the ``sold``; that bitmap is empty where no seat is off sale.
    """

    layout: str
    held: str
    sold: str
    blocked: str


class StreamSnapshot(msgspec.Struct, frozen=True):
    """The data of a ``snapshot``: all there is; ``seats`` is null where no seat has a number."""

    event_id: str
    seq: int
    status: str
    sections: tuple[SectionAvailability, ...]
    next_release_at: dt.datetime | None
    seats: SeatBits | None


class ChangedSeat(msgspec.Struct, frozen=True):
    """What a seat is from here on."""

    section: str
    seat: str
    status: SeatStatus


class StreamChange(msgspec.Struct, frozen=True):
    """The data of a ``change``: sections and seats that are not as they were, as they are at change ``seq``."""

    seq: int
    sections: tuple[SectionAvailability, ...]
    seats: list[ChangedSeat]
    next_release_at: dt.datetime | None


class StreamEnd(msgspec.Struct, frozen=True):
    """The data of ``end``: why nothing more will come."""

    reason: str


def snapshot_id(view: View, legs: Legs) -> bytes:
    """The id of a state: epoch and seq, and a digest, because a Redis that has lost changes may count up again."""
    digest = _state(view, legs).tag.strip(b'"')[:8]
    return b"%d.%d.%s" % (view.snapshot.epoch, view.snapshot.seq, digest)


def snapshot_frame(view: View, legs: Legs) -> bytes:
    """All that is to be known at this state."""
    return _frame(b"snapshot", _state(view, legs).body, snapshot_id(view, legs))


def change_frame(old: View, new: View, legs: Legs) -> bytes:
    """What became otherwise between two states; a snapshot where they are not of one count, or differ in much."""
    before, after = old.snapshot, new.snapshot
    if (before.epoch, old.event.layout.digest) != (after.epoch, new.event.layout.digest) or after.seq < before.seq:
        return snapshot_frame(new, legs)
    seats = _changed_seats(old, new, legs)
    if len(seats) > CHANGED_SEATS_MAX:
        return snapshot_frame(new, legs)
    was, now = availability(old, *legs), availability(new, *legs)
    sections = tuple(section for section, past in zip(now.sections, was.sections, strict=True) if section != past)
    change = StreamChange(after.seq, sections, seats, now.next_release_at)
    return _frame(b"change", encode_json(change), snapshot_id(new, legs))


def end_frame(reason: str) -> bytes:
    """The last frame of a stream."""
    return _frame(b"end", encode_json(StreamEnd(reason)))


def _frame(kind: bytes, data: bytes, number: bytes | None = None) -> bytes:
    head = b"" if number is None else b"id: %s\n" % number
    return b"%sevent: %s\ndata: %s\n\n" % (head, kind, data)


def _state(view: View, legs: Legs) -> Encoded:
    return view.answer(("stream", *legs), lambda: encode_json(_snapshot(view, legs)))


def _snapshot(view: View, legs: Legs) -> StreamSnapshot:
    seen, layout = availability(view, *legs), view.event.layout
    seats = None
    if layout.seats:
        held, sold, blocked = _bits(view, legs)
        seats = SeatBits(layout.digest, _base64(held), _base64(sold), _base64(blocked))
    return StreamSnapshot(seen.event_id, seen.seq, view.snapshot.status, seen.sections, seen.next_release_at, seats)


def _bits(view: View, legs: Legs) -> tuple[bytes, bytes, bytes]:
    """Which seats are held, sold and off sale on any of the legs; the last is empty where none is."""
    layout, snapshot, cells = view.event.layout, view.snapshot, view.off_sale.cells
    held, sold = seat_bits(snapshot.held, layout, *legs), seat_bits(snapshot.sold, layout, *legs)
    blocked = seat_bits(cells, layout, *legs) if cells else b""
    return held, sold, blocked if blocked.strip(b"\0") else b""


def _changed_seats(old: View, new: View, legs: Legs) -> list[ChangedSeat]:
    layout = new.event.layout
    if not layout.seats:
        return []
    (old_held, old_sold, old_blocked), (held, sold, blocked) = _bits(old, legs), _bits(new, legs)
    differing = _xor(old_held, held) | _xor(old_sold, sold) | _xor(old_blocked, blocked)
    changed = []
    for number in set_bits(differing.to_bytes(len(held))):
        mask, position = 0x80 >> (number & 7), number >> 3
        status: SeatStatus = "sold" if sold[position] & mask else "held" if held[position] & mask else "free"
        if blocked and blocked[position] & mask:
            status = "blocked"
        changed.append(ChangedSeat(layout.section_of_seat(number).id, layout.seats[number].label, status))
        if len(changed) > CHANGED_SEATS_MAX:
            break
    return changed


def _base64(bits: bytes) -> str:
    return base64.b64encode(bits).decode("ascii")


def _xor(one: bytes, other: bytes) -> int:
    """The bits that differ; empty bytes have none that is set."""
    return 0 if one == other else int.from_bytes(one) ^ int.from_bytes(other)
