"""An answer as a value: status, headers, body; it is sent in one place, so that nothing has to wrap ``send``."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

Header = tuple[bytes, bytes]

JSON = b"application/json"
PROBLEM_JSON = b"application/problem+json"
EVENT_STREAM = b"text/event-stream"
_NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
_BODILESS = (204, 304)

encode_json = msgspec.json.Encoder().encode

WriteWhole = Callable[[int, bytes, bytes], bool]
"""Writes status, header lines and body, and says whether it has; if not, they are to be sent as ASGI has it."""


class Stream(Protocol):
    """What goes on being sent after an answer's head."""

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, until it or the client ends."""
        ...

    def close(self) -> None:
        """Called in any case, and once: nothing more will be sent."""
        ...


class Answer(msgspec.Struct, frozen=True):
    """What a handler answers; not ``memorable`` when a repetition under the same idempotency key must run again.

    With a *stream* there is no other body.
    """

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: tuple[Header, ...] = ()
    memorable: bool = True
    stream: Stream | None = None


def json_answer(value: Any, *, status: int = 200, headers: tuple[Header, ...] = ()) -> Answer:
    """*value*, which msgspec can encode, as JSON."""
    return Answer(status, encode_json(value), JSON, headers)


def write_answer(answer: Answer, send: Send, *, request_id: bytes, more: bytes = b"") -> bool:
    """Have a server that can do so write the answer, with *more* header lines, at once; ``False`` where it has not.

    It is asked through *send* itself, so that nobody who wraps that is left out.
    """
    write_whole: WriteWhole | None = getattr(getattr(send, "__self__", None), "write_whole", None)
    if write_whole is None or answer.stream is not None:
        return False
    lines = _lines(answer, request_id, more)
    return lines is not None and write_whole(answer.status, lines, answer.body)


async def send_answer(answer: Answer, send: Send, *, request_id: bytes, with_body: bool, more: bytes = b"") -> None:
    """Send the answer, with *more* header lines; a ``HEAD`` request gets the headers of the body it does not get."""
    all_headers = [_NOSNIFF, (b"x-request-id", request_id), *answer.headers, *_headers_in(more)]
    if answer.status not in _BODILESS:
        all_headers.append((b"content-type", answer.content_type))
        if answer.content_type != EVENT_STREAM:
            all_headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": all_headers})
    if answer.stream is None:
        await send({"type": "http.response.body", "body": answer.body if with_body else b""})


def _lines(answer: Answer, request_id: bytes, more: bytes) -> bytes | None:
    """The same headers as they go over the wire; ``None`` if one of the answer's own would end its line."""
    headers = answer.headers
    given = b"".join([b"%b: %b\r\n" % header for header in headers])
    if given.count(b"\n") != len(headers) or given.count(b"\r") != len(headers) or b"\0" in given:
        return None
    if answer.status in _BODILESS:
        return b"x-content-type-options: nosniff\r\nx-request-id: %b\r\n%b%b" % (request_id, given, more)
    return b"x-content-type-options: nosniff\r\nx-request-id: %b\r\n%b%bcontent-type: %b\r\ncontent-length: %d\r\n" % (
        request_id,
        given,
        more,
        answer.content_type,
        len(answer.body),
    )


def _headers_in(lines: bytes) -> Iterator[Header]:
    for line in lines.splitlines():
        name, _, value = line.partition(b": ")
        yield name, value
