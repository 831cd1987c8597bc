"""An answer as a value: status, headers, body; it is sent in one place, so that nothing has to wrap ``send``."""

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


async def send_answer(answer: Answer, send: Send, *, request_id: bytes, with_body: bool) -> None:
    """Send the answer; a ``HEAD`` request gets the headers of the body it does not get."""
    headers = [_NOSNIFF, (b"x-request-id", request_id), *answer.headers]
    if answer.status not in _BODILESS:
        headers.append((b"content-type", answer.content_type))
        if answer.content_type != EVENT_STREAM:
            headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if answer.stream is None:
        await send({"type": "http.response.body", "body": answer.body if with_body else b""})
