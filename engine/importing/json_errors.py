"""What msgspec says of wrong JSON, as the refusal that the rest of the engine raises."""

import re

import msgspec

from engine.errors import InvalidRequest

_AT_PATH = re.compile(r"(?s)(?P<reason>.*) - at `(?P<path>\$.*)`\Z")
_AT_KEY = re.compile(r"(?s)(?P<reason>.*) - at `key` in `(?P<path>\$.*)`\Z")


def invalid_json(error: msgspec.DecodeError | UnicodeDecodeError | RecursionError) -> InvalidRequest:
    """The refusal for what the decoder could not accept; the path is ``$`` where it names none."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest("$", "is not UTF-8")
    if isinstance(error, RecursionError):
        return InvalidRequest("$", "is nested too deeply")
    text = str(error)
    match = _AT_KEY.fullmatch(text) or _AT_PATH.fullmatch(text)
    return InvalidRequest(match["path"], match["reason"]) if match else InvalidRequest("$", text)
