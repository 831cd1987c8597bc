"""Pages of a listing by keyset: a cursor names the last row seen, so that rows arriving meanwhile move nothing."""

import base64
import binascii
import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar
from uuid import UUID

import msgspec

from engine.definition import EventId, Moment
from engine.errors import InvalidRequest

T = TypeVar("T")
K = TypeVar("K")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Part of a listing; ``next_cursor`` is ``None`` on the last one."""

    items: tuple[T, ...]
    next_cursor: str | None


Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # what Postgres's bigint holds


class BookingKey(msgspec.Struct, frozen=True, array_like=True):
    """The place of a row in a listing by booking number."""

    number: Number


class EntryKey(msgspec.Struct, frozen=True, array_like=True):
    """The place of an entry of a waitlist in a listing by id, which is by time."""

    id: UUID


class VersionKey(msgspec.Struct, frozen=True, array_like=True):
    """The place of a row in the history of one booking."""

    version: Number


class UpcomingKey(msgspec.Struct, frozen=True, array_like=True):
    """The place of a booking in a listing by its event's start, and by number behind it."""

    at: Moment
    number: Number


class EventKey(msgspec.Struct, frozen=True, array_like=True):
    """The place of an event in a listing by its start, and by id behind it."""

    at: Moment
    id: EventId


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
        key = msgspec.json.decode(text, type=key_type)
        moment = getattr(key, "at", None)
        if moment is not None:
            moment.astimezone(dt.UTC)  # the first and the last hours of the calendar overflow here, not in Postgres
    except (binascii.Error, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        raise InvalidRequest("cursor", "is none of this listing") from None
    return key


def cut_page(found: Sequence[T], keys: Sequence[msgspec.Struct], *, limit: int) -> Page[T]:
    """The page of *limit* from one row more than that, and the key of each: the one more tells that more is there."""
    if len(found) <= limit:
        return Page(tuple(found), None)
    return Page(tuple(found[:limit]), encode_cursor(keys[limit - 1]))
