"""Pages of a listing by keyset: a cursor names the last row seen, so that rows arriving meanwhile move nothing."""

import base64
import binascii
import datetime as dt
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from engine.errors import InvalidRequest

T = TypeVar("T")
K = TypeVar("K")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Part of a listing; ``next_cursor`` is ``None`` on the last one."""

    items: tuple[T, ...]
    next_cursor: str | None


class NumberKey(msgspec.Struct, frozen=True, array_like=True):
    """The place of a row in a listing by booking number."""

    number: int


class MomentKey(msgspec.Struct, frozen=True, array_like=True):
    """The place of a row in a listing by a moment, and by the id or number behind it."""

    at: dt.datetime
    id: str | int


def encode_cursor(key: msgspec.Struct) -> str:
    """The key as a text that clients hand back and never look into."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def decode_cursor(cursor: str, key_type: type[K]) -> K:
    """The key of a cursor.

    Raises:
        InvalidRequest: It is no cursor of this listing.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(text, type=key_type)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise InvalidRequest("cursor", "is none of this listing") from None


def cut_page(found: Sequence[T], keys: Sequence[msgspec.Struct], *, limit: int) -> Page[T]:
    """The page of *limit* from one row more than that, and the key of each: the one more tells that more is there."""
    if len(found) <= limit:
        return Page(tuple(found), None)
    return Page(tuple(found[:limit]), encode_cursor(keys[limit - 1]))
