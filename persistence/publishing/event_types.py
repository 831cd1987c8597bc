"""What settings and sinks say of events: which types are meant, and what a stream may be called and hold."""

import re
from collections.abc import Sequence

TYPES = (
    "booking.cancelled",
    "booking.checked_in",
    "booking.completed",
    "booking.confirmed",
    "booking.created",
    "booking.expired",
    "booking.rejected",
    "booking.status_changed",
    "booking.updated",
    "hold.expired",
    "waitlist.booked",
    "waitlist.cancelled",
    "waitlist.declined",
    "waitlist.expired",
    "waitlist.joined",
    "waitlist.offered",
    "waitlist.passed_over",
)
_MEANT = {*TYPES, *(f"{type_.partition('.')[0]}.*" for type_ in TYPES)}
ALL_OF_BOOKINGS = ("booking.*",)
STREAM_LENGTH = 100_000  # entries kept unless said otherwise: some 80 MB, for noeviction never makes room by itself
STREAM_LENGTH_MAX = 100_000_000
STREAM_NAME = re.compile(r"(?!hf:\{\d)[!-~]{1,200}")  # keys of partitions are the engine's own


class UnknownType(Exception):
    """A text is no type of an event; the message says which there are."""


def require_types(types: Sequence[str]) -> None:
    """Refuse what is no type of an event.

    Raises:
        UnknownType: One of them is none, or there are none.
    """
    for type_ in types:
        if type_ not in _MEANT:
            raise UnknownType(f"{type_!r} is no type; there are {', '.join(TYPES)}, and booking.* for all of a kind")
    if not types:
        raise UnknownType("name the types that are wanted")
