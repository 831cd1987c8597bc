"""Which of two representations a client prefers, by its ``Accept`` header (RFC 9110, section 12.5.1)."""

import functools
import re
from collections.abc import Iterator

_QUALITY = re.compile(rb"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_ELSE = b"application/json"  # what is answered to whoever asks for nothing in particular


@functools.lru_cache(maxsize=64)  # clients of one kind ask in the same words
def prefers(accept: bytes, media_type: bytes) -> bool:
    """Whether *media_type* is asked for by its name, and JSON no more than that; ranges with ``*`` name nothing."""
    qualities = dict(_qualities(accept))
    asked = qualities.get(media_type, 0.0)
    ranges = (_ELSE, b"application/*", b"*/*")
    return asked > 0 and asked >= next((qualities[name] for name in ranges if name in qualities), 0.0)


def _qualities(accept: bytes) -> Iterator[tuple[bytes, float]]:
    """Media types and ranges in lower case, each with its weight; one whose weight is none counts as not wanted."""
    for element in accept.lower().split(b","):
        name, *parameters = (part.strip() for part in element.split(b";"))
        weights = [text[2:] for text in parameters if text.startswith(b"q=")]
        well = all(_QUALITY.fullmatch(weight) for weight in weights)
        yield name, min(map(float, weights), default=1.0) if well else 0.0
