"""What settings and sinks say of events: which types are meant, and what a stream may be called and hold."""

import re
from collections.abc import Sequence

TYPE = re.compile(r"[a-z]+\.(\*|[a-z_]+)")
ALL_OF_BOOKINGS = ("booking.*",)
STREAM_LENGTH = 100_000  # entries kept unless said otherwise: some 80 MB, for noeviction never makes room by itself
STREAM_LENGTH_MAX = 100_000_000
STREAM_NAME = re.compile(r"(?!hf:\{\d)[!-~]{1,200}")  # keys of partitions are the engine's own


class UnknownType(Exception):
    """A text is no type of an event; the message says what one looks like."""


def require_types(types: Sequence[str]) -> None:
    """Refuse what can be no type of an event.

    Raises:
        UnknownType: One of them is none, or there are none.
    """
    for type_ in types:
        if TYPE.fullmatch(type_) is None:
            raise UnknownType(f"{type_!r} is no type: booking.confirmed, say, or booking.* for all of them")
    if not types:
        raise UnknownType("name the types that are wanted")
