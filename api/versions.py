"""Optimistic concurrency: versions as strong entity tags (RFC 9110, section 13)."""

import re

import msgspec

from api.answers import JSON, Answer, Header, json_answer
from api.call import Call
from engine.errors import VersionConflict
from engine.snapshots import Encoded

# The tag of a representation that somebody may look at again is checked anew every time; shared caches stay out of it.
_PRIVATE: Header = (b"cache-control", b"private, no-cache")
# Strong: a weak tag names no version that could be changed. What follows the version is no matter of changes.
_VERSION_TAG = re.compile(rb'(?<!W/)"([0-9]+)(?:-[0-9]+)*"')


def versioned_answer(
    call: Call,
    value: msgspec.Struct,
    version: int,
    *beside: int,
    status: int = 200,
    headers: tuple[Header, ...] = (),
) -> Answer:
    """*value* with its entity tag; 304 when the client of a ``GET`` has this representation already.

    *beside* are figures in *value* that change without its version; the tag has them too, and changes ignore them.
    """
    tag = b'"%b"' % b"-".join(b"%d" % number for number in (version, *beside))
    tagged = ((b"etag", tag), _PRIVATE, *headers)
    if call.scope["method"] in ("GET", "HEAD") and _names(call.headers.get(b"if-none-match"), tag, weak=True):
        return Answer(304, headers=tagged)
    return json_answer(value, status=status, headers=tagged)


def tagged_answer(
    call: Call, encoded: Encoded, *, content_type: bytes = JSON, headers: tuple[Header, ...] = ()
) -> Answer:
    """*encoded* with its entity tag; 304 when the client has these very bytes already."""
    tagged = ((b"etag", encoded.tag), _PRIVATE, *headers)
    if _names(call.headers.get(b"if-none-match"), encoded.tag, weak=True):
        return Answer(304, headers=tagged)
    return Answer(200, encoded.body, content_type, tagged)


def expected_version(
    call: Call, in_body: int | msgspec.UnsetType | None, *, current: int, formerly: int | None = None
) -> int | None:
    """The version a change must find, by ``If-Match`` or the body's ``expected_version``; ``None`` when any will do.

    *formerly* is another number under which clients may know *current*, of a representation that was told before.

    Raises:
        VersionConflict: *current*, as just read, is not the one.
    """
    known_as = (current,) if formerly is None else (current, formerly)
    if_match = call.headers.get(b"if-match")
    if if_match is not None:
        versions = _VERSION_TAG.sub(rb'"\1"', if_match)
        if not any(_names(versions, b'"%d"' % version, weak=False) for version in known_as):
            raise VersionConflict(current, not_a_version=_VERSION_TAG.search(if_match) is None)
    if isinstance(in_body, int):
        if in_body not in known_as:
            raise VersionConflict(current)
        return current
    return None if if_match is None or if_match.strip() == b"*" else current


def _names(header: bytes | None, tag: bytes, *, weak: bool) -> bool:
    """Whether a list of entity tags names *tag*; weak tags never match where the comparison is strong."""
    if header is None:
        return False
    tags = [candidate.strip() for candidate in header.split(b",")]
    return b"*" in tags or tag in tags or (weak and b"W/" + tag in tags)
