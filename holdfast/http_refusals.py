"""The problem ``overloaded``: as an answer like all others, and as bytes for requests that are not parsed first.

A request that is turned away behind the parser of its connection has a scope, and a task, by then. What
:mod:`holdfast.http_whole` finds to be one whole request is answered in front of it. As bytes, too, goes what is wrong
with a request that cannot be parsed.
"""

import functools
from collections.abc import Sequence

import msgspec
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.answers import PROBLEM_JSON, Answer, Header, send_answer
from api.call import base_url_of, request_id
from api.clients import Proxies
from api.errors import ApiError
from api.problems import problem_body
from engine.errors import Overloaded
from holdfast.http_lines import common_lines

_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\n%bx-content-type-options: nosniff\r\nx-request-id: %b\r\nretry-after: %d\r\n"
    b"content-type: " + PROBLEM_JSON + b"\r\ncontent-length: %d\r\n%b\r\n"
)

_LAST_HEAD = (
    b"%bx-content-type-options: nosniff\r\nx-request-id: %b\r\nconnection: close\r\ncontent-type: "
    + PROBLEM_JSON
    + b"\r\n"
    b"content-length: %d\r\n\r\n"
)

Server = tuple[str, int | None] | None
Client = tuple[str, int] | None


class Asker(msgspec.Struct, frozen=True):
    """Who is refused: what of a request the answer repeats, and how it reached us."""

    host: bytes = b""
    given_id: bytes | None = None
    is_head: bool = False
    scheme: str = "http"
    server: Server = None


def refusal_bytes(asker: Asker, retry_after_s: int, default_headers: Sequence[Header], *, close: bool = False) -> bytes:
    """The answer as it goes over the wire."""
    name = request_id(asker.given_id)
    body = _body(asker, name)
    head = _HEAD % (
        common_lines(default_headers),
        name,
        retry_after_s,
        len(body),
        b"connection: close\r\n" if close else b"",
    )
    return head if asker.is_head else head + body


def last_words(error: ApiError, asker: Asker, default_headers: Sequence[Header]) -> bytes:
    """The problem as the last answer of a connection, whose bytes are no request that an application could be given."""
    name = request_id(asker.given_id)
    base_url = base_url_of(asker.host, asker.scheme, asker.server)
    kind, body = problem_body(error, base_url=base_url, request_id=name)
    common = common_lines(default_headers)
    return STATUS_LINE[kind.status] + _LAST_HEAD % (common, name, len(body)) + body


class Refusing:
    """The ASGI application of requests that are refused behind the parser; their bodies are not read."""

    def __init__(self, retry_after_s: int, proxies: Proxies) -> None:
        self._proxies = proxies
        self._retry_after = (b"retry-after", b"%d" % retry_after_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Refuse."""
        asker = asker_of(scope, self._proxies)
        name = request_id(asker.given_id)
        answer = Answer(503, _body(asker, name), PROBLEM_JSON, (self._retry_after,))
        await send_answer(answer, send, request_id=name, with_body=not asker.is_head)


def asker_of(scope: Scope, proxies: Proxies) -> Asker:
    """Who sent a request that has been parsed."""
    headers = dict(scope["headers"])
    return Asker(
        headers.get(b"host", b""),
        headers.get(b"x-request-id"),
        scope["method"] == "HEAD",
        proxies.scheme_of(headers.get(b"x-forwarded-proto", b""), scope["client"], scope["scheme"]),
        scope["server"],
    )


def _body(asker: Asker, name: bytes) -> bytes:
    before, after = _halves(asker.host, asker.scheme, asker.server)
    return before + name + after


@functools.lru_cache(maxsize=64)
def _halves(host: bytes, scheme: str, server: Server) -> tuple[bytes, bytes]:
    """The document before and after the request's id."""
    mark = b"request-id-goes-here"
    _, body = problem_body(Overloaded(), base_url=base_url_of(host, scheme, server), request_id=mark)
    before, _, after = body.rpartition(mark)
    return before, after
