"""The headers that uvicorn gives every answer, as they go over the wire."""

from collections.abc import Sequence

Header = tuple[bytes, bytes]

_made: tuple[Sequence[Header], bytes] = ((), b"")


def common_lines(headers: Sequence[Header]) -> bytes:
    """Header lines of *headers*: uvicorn's list of them, of which it makes a new one every second, and changes none."""
    global _made  # every connection of a process has the same
    known, lines = _made
    if headers is not known:
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        _made = (headers, lines)
    return lines
