"""The problem ``overloaded``: as an answer like all others, and as bytes for requests that are not parsed first.

A request that is turned away behind the parser has been parsed, and made a task of, by then. In front of it there is
a look at its first line, and a few searches. Only what is plainly one whole request is answered so: whatever two
readers could understand in two ways is left to the parser.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from api.answers import PROBLEM_JSON, Answer, Header, send_answer
from api.call import base_url_of, request_id
from api.clients import Proxies
from api.problems import problem_body
from engine.errors import Overloaded

LENGTH_DIGITS_MAX = 9
_TOLD = frozenset((b"host", b"content-length", b"connection", b"x-request-id", b"x-forwarded-proto"))
# What no reader takes for more lines, or for other names, than another: tokens, and values without control characters.
_PLAIN_HEAD = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.1(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*)*")
_UNUSUAL = frozenset((b"transfer-encoding", b"expect", b"upgrade"))
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


def plain_target(data: bytes) -> tuple[str, str] | None:
    """Method and path of the request that *data* begins with, if its path is a plain one; the rest is not looked at."""
    method, _, target = data[: data.find(b" HTTP/1.1\r\n")].partition(b" ")
    if not target.startswith(b"/") or b" " in target or b"%" in target or b"\r" in target:
        return None
    return method.decode("latin-1"), target.partition(b"?")[0].decode("latin-1")


def plain_asker(data: bytes, proxies: Proxies, ours: str, server: Server, client: Client) -> Asker | None:
    """Who sent *data*; ``None`` if that is not plainly one whole request that keeps its connection.

    *ours* is the scheme of the connection, *server* and *client* are its ends.
    """
    head, _, body = data.partition(b"\r\n\r\n")
    if not _PLAIN_HEAD.fullmatch(head):
        return None
    lines = head.split(b"\r\n")
    told: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in _TOLD:
            if name in told:
                return None
            told[name] = value.strip(b" \t")
        elif name in _UNUSUAL:
            return None
    length, keeps = told.get(b"content-length", b"0"), told.get(b"connection", b"keep-alive")
    if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX or len(body) != int(length) or b"host" not in told:
        return None
    if keeps.lower() != b"keep-alive":
        return None
    scheme = proxies.scheme_of(told.get(b"x-forwarded-proto", b""), client, ours)
    return Asker(told[b"host"], told.get(b"x-request-id"), data.startswith(b"HEAD "), scheme, server)


def refusal_bytes(asker: Asker, retry_after_s: int, default_headers: Sequence[Header], *, close: bool = False) -> bytes:
    """The answer as it goes over the wire."""
    name = request_id(asker.given_id)
    body = _body(asker, name)
    common = b"".join([b"%b: %b\r\n" % header for header in default_headers])
    head = _HEAD % (common, name, retry_after_s, len(body), b"connection: close\r\n" if close else b"")
    return head if asker.is_head else head + body


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
