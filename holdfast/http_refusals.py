"""The problem ``overloaded``: as an answer like all others, and as bytes for requests that are not parsed first.

A request that is turned away behind the parser has been parsed, and made a task of, by then. In front of it there is
a look at its first line, and a few searches. Only what is plainly one whole request is answered so: whatever two
readers could understand in two ways is left to the parser.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from api.answers import PROBLEM_JSON, Answer, Header, encode_json, send_answer
from api.call import base_url_of, request_id, scheme_of
from api.problems import problem_document
from engine.errors import Overloaded

LENGTH_DIGITS_MAX = 9
_UNUSUAL = (b"\r\ntransfer-encoding", b"\r\nexpect", b"\r\nupgrade", b"\r\ncontent-length ", b"\r\n ", b"\r\n\t")
_CONNECTION, _KEEP_ALIVE = b"\r\nconnection", b"\r\nconnection: keep-alive\r\n"
_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\n%bx-content-type-options: nosniff\r\nx-request-id: %b\r\nretry-after: %d\r\n"
    b"content-type: " + PROBLEM_JSON + b"\r\ncontent-length: %d\r\n%b\r\n"
)

Server = tuple[str, int | None] | None
Client = tuple[str, int] | None


class Asker(NamedTuple):
    """Who is refused: what of a request the answer repeats, and how it reached us."""

    host: bytes = b""
    given_id: bytes | None = None
    is_head: bool = False
    scheme: str = "http"
    server: Server = None


class PlainRequest(NamedTuple):
    """One whole request, as far as is known of it before it is parsed."""

    method: str
    path: str
    data: bytes

    def asker(self, ours: str, server: Server, client: Client) -> Asker | None:
        """Who sent it; ``None`` if it is not plainly one whole request that keeps its connection.

        *ours* is the scheme of the connection, *server* and *client* are its ends.
        """
        data = self.data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        head = data[: end - 2]
        fields = head.lower()  # searches for constants in it are faster than one regular expression
        if any(name in fields for name in _UNUSUAL) or fields.count(_CONNECTION) != fields.count(_KEEP_ALIVE):
            return None
        length = _only_value(head, fields, b"\r\ncontent-length:", b"0")
        if length is None or not length.isdigit() or len(length) > LENGTH_DIGITS_MAX or len(data) != end + int(length):
            return None
        if (host := _only_value(head, fields, b"\r\nhost:", None)) is None:
            return None
        said = _only_value(head, fields, b"\r\nx-forwarded-proto:", b"") or b""
        given = _only_value(head, fields, b"\r\nx-request-id:", b"") or None
        return Asker(host, given, self.method == "HEAD", scheme_of(said, client, ours), server)


def plain_request(data: bytes) -> PlainRequest | None:
    """What *data* begins with, if that is the first line of a request with a plain path; of the rest see ``asker``."""
    first = data[: data.find(b"\r\n")].split(b" ")
    if len(first) != 3 or first[2] != b"HTTP/1.1" or not first[1].startswith(b"/") or b"%" in first[1]:
        return None
    return PlainRequest(first[0].decode("latin-1"), first[1].partition(b"?")[0].decode("latin-1"), data)


def refusal_bytes(asker: Asker, retry_after_s: int, default_headers: Sequence[Header], *, close: bool = False) -> bytes:
    """The answer as it goes over the wire."""
    name = request_id(asker.given_id)
    body = _body(asker, name)
    common = b"".join([b"%b: %b\r\n" % header for header in default_headers])
    head = _HEAD % (common, name, retry_after_s, len(body), b"connection: close\r\n" if close else b"")
    return head if asker.is_head else head + body


class Refusing:
    """The ASGI application of requests that are refused behind the parser; their bodies are not read."""

    def __init__(self, retry_after_s: int) -> None:
        self._retry_after = (b"retry-after", b"%d" % retry_after_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Refuse."""
        asker = asker_of(scope)
        name = request_id(asker.given_id)
        answer = Answer(503, _body(asker, name), PROBLEM_JSON, (self._retry_after,))
        await send_answer(answer, send, request_id=name, with_body=not asker.is_head)


def asker_of(scope: Scope) -> Asker:
    """Who sent a request that has been parsed."""
    headers = dict(scope["headers"])
    return Asker(
        headers.get(b"host", b""),
        headers.get(b"x-request-id"),
        scope["method"] == "HEAD",
        scheme_of(headers.get(b"x-forwarded-proto", b""), scope["client"], scope["scheme"]),
        scope["server"],
    )


def _body(asker: Asker, name: bytes) -> bytes:
    before, after = _halves(asker.host, asker.scheme, asker.server)
    return before + name + after


@functools.lru_cache(maxsize=64)
def _halves(host: bytes, scheme: str, server: Server) -> tuple[bytes, bytes]:
    """The document before and after the request's id."""
    mark = "request-id-goes-here"
    _, document = problem_document(Overloaded(), base_url=base_url_of(host, scheme, server), request_id=mark)
    before, _, after = encode_json(document).rpartition(mark.encode())
    return before, after


def _only_value(head: bytes, fields: bytes, name: bytes, absent: bytes | None) -> bytes | None:
    """The value in *head* of a header whose *name* stands in *fields*; ``None`` when it is there more than once."""
    if (at := fields.find(name)) < 0:
        return absent
    if fields.find(name, at + 1) >= 0:
        return None
    at += len(name)
    return head[at : head.find(b"\r\n", at)].strip(b" \t")
