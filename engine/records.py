"""The records of holds and bookings in an event's hashes, as ``lua/include/hold.lua`` and ``book.lua`` write them.

Scripts read and write these by themselves; whoever looks from outside (the audit, ``holdfast inspect``) reads them
here, and is as strict as the scripts are: what passes here they can read. A repair writes the record of a booking that
Redis has lost.
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.places import Places, format_places, parse_places

_PLACES = r"\d+:\d+(?:;\d+(?:\*\d+|#\d+(?:,\d+)*))+"
_HOLD = re.compile(rf"[ap]\|(\d+)\|({_PLACES})\|(.*)", re.ASCII | re.DOTALL)
_OLD_HOLD = re.compile(rf"[A-Za-z]{{2,}}\|(\d+)\|(\d+)\|(\d+)\|({_PLACES})\|(.*)", re.ASCII | re.DOTALL)
_BOOKING = re.compile(rf"(\d+)\|(\d+)\|((?:\d+-\d+)?)\|[^|]*\|(\d+)\|({_PLACES})\|(.*)", re.ASCII | re.DOTALL)
SCAN_COUNT = 500  # members of a hash that one step asks for; well under a millisecond of the server's time


class HoldRecord(msgspec.Struct, frozen=True):
    """``phase|lifetime_ms|places|owner``; *key* is the hold's name inside the event's hashes.

    Both times are 0 where its deadline is not known.
    """

    key: str
    created_ms: int
    deadline_ms: int
    quantity: int
    places: Places
    owner: str


class BookingRecord(msgspec.Struct, frozen=True):
    """``confirmed_ms|created_ms|journal_id|attempt|quantity|places|owner``.

    ``journal_id`` is empty where the booking was loaded from the ledger.
    """

    key: str
    confirmed_ms: int
    created_ms: int
    journal_id: str
    quantity: int
    places: Places
    owner: str


def parse_hold_record(key: bytes, record: bytes, deadline_ms: int | None = None) -> HoldRecord:
    """The record of a live hold; *deadline_ms* as ``expiries`` has it.

    Records of old say ``phase|created_ms|deadline_ms|quantity|places|owner``, and their own deadline counts.

    Raises:
        ValueError: No script wrote this.
    """
    if record[1:2] != b"|":
        created, deadline, quantity, places, owner = _fields(_OLD_HOLD, record)
        return HoldRecord(key.decode(), int(created), int(deadline), int(quantity), _named(quantity, places), owner)
    lifetime, places, owner = _fields(_HOLD, record)
    claimed, until_ms = parse_places(places), deadline_ms or 0
    return HoldRecord(key.decode(), max(until_ms - int(lifetime), 0), until_ms, claimed.quantity, claimed, owner)


def parse_booking_record(key: bytes, record: bytes) -> BookingRecord:
    """The record of a booking.

    Raises:
        ValueError: No script wrote this.
    """
    confirmed, created, journal_id, quantity, places, owner = _fields(_BOOKING, record)
    return BookingRecord(
        key.decode(), int(confirmed), int(created), journal_id, int(quantity), _named(quantity, places), owner
    )


def booking_text(record: BookingRecord) -> bytes:
    """The record as ``lua/include/book.lua`` writes it, of no attempt that could be repeated."""
    places = format_places(record.places)
    fields = (record.confirmed_ms, record.created_ms, record.journal_id, "", record.quantity, places, record.owner)
    return "|".join(map(str, fields)).encode()


async def scan_hash(kernel: Kernel, event: SellableEvent, key: str) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
    """The members of one of an event's hashes, in batches.

    What is there from beginning to end comes at least once; what comes or goes meanwhile may or may not.
    """
    cursor = b"0"
    while True:
        cursor, flat = await kernel.event_command(event, "HSCAN", key, cursor, "COUNT", SCAN_COUNT)
        if flat:
            yield pairs(flat)
        if cursor == b"0":
            return


def _fields(pattern: re.Pattern[str], record: bytes) -> Sequence[str]:
    match = pattern.fullmatch(record.decode())
    if match is None:
        raise ValueError(f"no script wrote this: {record[:80]!r}")
    return match.groups()


def _named(quantity: str, text: str) -> Places:
    places = parse_places(text)
    if int(quantity) != places.quantity:
        raise ValueError(f"it says {quantity} places and names {places.quantity}")
    return places


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """A reply of alternating names and values, as pairs."""
    return list(zip(flat[::2], flat[1::2], strict=True))
