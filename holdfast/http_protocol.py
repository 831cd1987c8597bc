"""HTTP/1.1 for uvicorn, at half of its usual cost per request: a third of a whole hold was spent there.

uvicorn's own protocol parses, keeps the connection, limits and closes it; what differs is how an answer is written.
ASGI brings it as a head and a body, and uvicorn writes them one by one: two system calls, of which each costs as much
as the rest of it together. Here a head waits for its body when it is known to come at once, and both leave in one
write. A timer per connection, rather than one per answer, ends those that have been idle for too long; and requests
with a plain path are taken apart without a URL parser. What is rare is left to uvicorn's own code.
"""

import asyncio
import logging
import re
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, ASGIVersions, HTTPScope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.errors import ApiError, BadRequest, LengthRequired
from holdfast.http_lines import common_lines
from holdfast.http_refusals import Asker, last_words

_BODILESS = (204, 304)
_INVALID = "Invalid HTTP request received."  # as uvicorn has it
_PLAIN_URL = re.compile(rb"/(?!/)[\x00-\x22\x24\x26-\x7f]*")  # a path, and perhaps a query, that mean what they say
_OLD = "1.0"


class LeanProtocol(HttpToolsProtocol):
    """Given to uvicorn as its ``http``; the application sees plain ASGI."""

    _is_idle = False
    _idle_since = 0.0
    _is_plain = False  # the request that is being read, and so its cycle ours
    _left_out = 0  # bytes of its body that are to come, and that the parser leaves out
    _asgi: ASGIVersions
    _extensions: dict[str, Any]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Offer the ASGI extension ``holdfast.abort``: a reader that reads nothing can only be left, not seen off."""
        super().connection_made(transport)
        self._asgi = {"version": self.asgi_version, "spec_version": "2.3"}
        self._extensions = {"holdfast.abort": {"abort": transport.abort}}

    # Idle connections. uvicorn's names, its calls: it asks for the timer to go, and for a new one, at every request.

    def _unset_keepalive_if_required(self) -> None:
        """Bytes alone end no idleness: blank lines between requests are none, and could be sent for ever."""

    def on_response_complete(self) -> None:
        """The next request of the connection, or waiting for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._is_idle = True
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def answered_idle(self) -> None:
        """A request was answered between requests: the connection is as idle as it was."""
        if not self._is_idle:  # its first
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for the whole time; look again later otherwise."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        left_s = float(self.timeout_keep_alive)
        if self._is_idle:
            left_s -= self.loop.time() - self._idle_since
            if left_s <= 0:
                self.transport.close()
                return
        self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer as well, however the connection ended."""
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    # Requests.

    def data_received(self, data: bytes) -> None:
        """Have it parsed. That a request asks for another protocol, which is not offered, is no more than a wish.

        httptools leaves out the body of such a request. Java's client asks so for HTTP/2, with its first one.
        """
        rest: bytes | memoryview = data
        while rest:
            if self._left_out:
                rest = self._take_left_out(memoryview(rest))
                continue
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserError as error:
                if isinstance(error.__context__, _LengthRequiredError):
                    self.refuse(LengthRequired())
                else:
                    self.logger.warning(_INVALID)
                    self.refuse(BadRequest("The bytes that came are no HTTP request."))
            except httptools.HttpParserUpgrade as stopped:
                if not self._should_upgrade():
                    rest = memoryview(rest)[stopped.args[0] :]
                    continue
                self.handle_websocket_upgrade()
            return

    def on_message_begin(self) -> None:
        """As uvicorn does, and say what is offered besides."""
        self._is_idle = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.scope = {  # type: ignore[typeddict-item]
            "type": "http",
            "asgi": self._asgi,
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]
            "root_path": self.root_path,
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": self._extensions,
        }

    def on_headers_complete(self) -> None:
        """Begin to answer, before the body is there."""
        url, parser = self.url, self.parser
        self._is_plain = False
        if self.root_path or parser.should_upgrade() or self.limit_concurrency is not None:
            if parser.should_upgrade() and not self._should_upgrade():
                self._left_out = _announced(self.headers)
            super().on_headers_complete()
            return
        self._is_plain = True
        scope, version = self.scope, parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        if _PLAIN_URL.fullmatch(url) is not None:
            path, _, query = url.partition(b"?")
            scope["raw_path"], scope["query_string"], scope["path"] = path, query, path.decode("ascii")
        else:
            parsed = httptools.parse_url(url)
            scope["raw_path"], scope["query_string"] = parsed.path, parsed.query or b""
            scope["path"] = unquote(parsed.path.decode("ascii"))
        previous = self.cycle
        self.cycle = _Cycle(self, scope, keep_alive=version != _OLD and parser.should_keep_alive())
        if previous is None or previous.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Keep it: nearly always it comes in one piece, and as that it is handed on."""
        if not self._is_plain:
            super().on_body(body)
            return
        cycle = self.cycle
        if cycle.response_complete:
            return
        if not cycle.body:
            cycle.body = body  # type: ignore[assignment]
        elif isinstance(cycle.body, bytearray):
            cycle.body += body
        else:  # from here on pieces are added, however many a client makes of it
            cycle.body = bytearray(cycle.body) + body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """All of it is there, as far as the parser knows."""
        if not self._left_out:
            self.on_whole_request()

    def on_whole_request(self) -> None:
        """All of it is there."""
        if not self._is_plain:
            super().on_message_complete()
            return
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def refuse(self, error: ApiError) -> None:
        """Say what is wrong with what came, and close the connection: where the next request begins is not known."""
        cycle = self.cycle
        # While another request is under way, it would be taken for the answer to that one; behind half an answer, for
        # its rest.
        is_its_own = cycle is not None and cycle.more_body and not cycle.response_started and not self.pipeline
        if cycle is None or cycle.response_complete or is_its_own:
            asker = Asker(scheme=self.scheme or "http", server=self.server)
            self.transport.write(last_words(error, asker, self.server_state.default_headers))
        self.transport.close()

    def _take_left_out(self, data: memoryview) -> memoryview:
        body = bytes(data[: self._left_out])
        self._left_out -= len(body)
        self.on_body(body)
        if not self._left_out:
            self.on_whole_request()
        return data[len(body) :]


class _Cycle(RequestResponseCycle):
    """One request and its answer; holds the head of an answer back until its body comes."""

    # How a request begins; what never changes in most of them costs none of them anything.
    logger = logging.getLogger("uvicorn.error")
    access_logger = logging.getLogger("uvicorn.access")
    disconnected = False
    more_body = True
    body = b""  # type: ignore[assignment]  # its first piece, and a bytearray from the second on
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0
    _head: bytes | None = None
    _ends_with_connection = False
    _is_read = False
    _is_set = False
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, protocol: LeanProtocol, scope: HTTPScope, *, keep_alive: bool) -> None:
        """All that uvicorn's own sets, and is not set above."""
        self.scope = scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.access_log = protocol.access_log
        self.default_headers = protocol.server_state.default_headers
        self.waiting_for_100_continue = protocol.expect_100_continue
        self.keep_alive = keep_alive
        self.on_response = protocol.on_response_complete

    # As much of an asyncio.Event as uvicorn uses, at no cost until somebody waits: one may at a time, as in ASGI.

    @property
    def message_event(self) -> "_Cycle":  # type: ignore[override]
        """Is set when there is something to receive."""
        return self

    def set(self) -> None:
        """There is."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """It was received."""
        self._is_set = False

    async def wait(self) -> None:
        """Until there is."""
        while not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    # ASGI.

    async def receive(self) -> ASGIReceiveEvent:
        """The body, usually there already; waiting for it, and the end of the connection, are uvicorn's."""
        if (body := self.take_body()) is None:
            self._is_read = True  # or begun to be
            return await super().receive()
        return {"type": "http.request", "body": body, "more_body": False}

    def take_body(self) -> bytes | None:
        """The body, if all of it is there and nobody has had any of it; see ``api.call``."""
        if self._is_read or self.more_body or self.response_complete or self.disconnected:
            return None
        self._is_read = True
        self.waiting_for_100_continue = False
        self.flow.resume_reading()
        body, self.body = bytes(self.body), b""
        self._is_set = False
        return body

    async def send(self, message: ASGISendEvent) -> None:
        """Head and body of an answer whose length is known leave together; all others are uvicorn's."""
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started and not self.disconnected:
            if (head := self._plain_head(message)) is not None:
                self.response_started = True
                self.waiting_for_100_continue = False
                self.chunked_encoding = False
                self._head = head
                return
        elif self._head is not None and kind == "http.response.body":
            body: Any = message.get("body", b"")
            head = self._head
            self._head = None
            if self._is_whole(message, body):
                if self.flow.write_paused and not self.disconnected:
                    await self.flow.drain()
                self._finish(head + body)
                return
            if not self.disconnected:
                self.transport.write(head)
        if self.scope["http_version"] == _OLD:
            self._frame_by_the_end(message)
        await super().send(message)

    def write_whole(self, status: int, lines: bytes, body: bytes) -> bool:
        """Write an answer whose header lines are ready, if nothing stands in the way of that; see ``api.answers``."""
        if not self.keep_alive or self.flow.write_paused or self.disconnected:
            return False
        if self.response_started or self.access_log or self.scope["method"] == "HEAD":
            return False
        self.response_started = True
        self.waiting_for_100_continue = False
        self._finish(b"%b%b%b\r\n%b" % (STATUS_LINE[status], common_lines(self.default_headers), lines, body))
        return True

    async def run_asgi(self, app: ASGI3Application) -> None:
        """As uvicorn does; but an answer of which only the head came, and was held back, is none."""
        try:
            said = await app(self.scope, self.receive, self.send)  # type: ignore[func-returns-value]
        except BaseException as error:
            await super().run_asgi(_having_raised(error))
        else:
            if said is not None or not self.response_complete:
                await super().run_asgi(_having_said(said))
        self.on_response = _done_already
        self._head = None

    def _plain_head(self, message: Any) -> bytes | None:
        """The head of the answer to a request that keeps its connection; ``None`` where there is more to look at."""
        status, length = message["status"], None
        if not self.keep_alive or self.access_log:
            return None
        lines = [STATUS_LINE[status], common_lines(self.default_headers)]
        for name, value in message["headers"]:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" or name == b"transfer-encoding":
                return None
            lines += (name, b": ", value, b"\r\n")
        if length is None and status not in _BODILESS:
            return None
        self.expected_content_length = 0 if length is None or self.scope["method"] == "HEAD" else length
        lines.append(b"\r\n")
        head = b"".join(lines)
        # Nothing that came from outside may end a line. uvicorn looks at each name and value; here one count will do.
        ends = 2 + len(self.default_headers) + len(message["headers"])
        return head if head.count(b"\n") == head.count(b"\r") == ends and b"\0" not in head else None

    def _frame_by_the_end(self, message: ASGISendEvent) -> None:
        """An answer of no told length ends with its connection: a client of HTTP/1.0 knows of no chunks."""
        if message["type"] == "http.response.start":
            self._ends_with_connection = b"content-length" not in dict(message.get("headers", ()))
            if self._ends_with_connection:
                self.chunked_encoding = False
        elif message["type"] == "http.response.body" and self._ends_with_connection:
            self.expected_content_length = len(message.get("body", b""))

    def _is_whole(self, message: Any, body: bytes) -> bool:
        if message.get("more_body", False):
            return False
        return len(body) == self.expected_content_length or (self.scope["method"] == "HEAD" and not body)

    def _finish(self, answer: bytes) -> None:
        if self.disconnected:
            return
        self.transport.write(answer)
        self.expected_content_length = 0
        self.response_complete = True
        self.set()
        if not self.keep_alive:  # shutdown began meanwhile: the head did not say so, the end does
            self.transport.close()
        self.on_response()


class _LengthRequiredError(Exception):
    """A request asks for another protocol, and its body comes in chunks: where it ends the parser alone could tell."""


def _announced(headers: list[tuple[bytes, bytes]]) -> int:
    """How many bytes of a body follow these headers; the parser has refused a length that is no number, or there twice.

    Raises:
        _LengthRequiredError: They do not say.
    """
    told = dict(headers)
    if b"transfer-encoding" in told:
        raise _LengthRequiredError
    return int(told.get(b"content-length", 0))


def _having_raised(error: BaseException) -> ASGI3Application:
    """An application that fails as another one has."""

    async def application(*_: Any) -> None:
        raise error

    return application


def _having_said(said: object) -> ASGI3Application:
    """One that ends as another one has, which is not how it should."""

    async def application(*_: Any) -> Any:
        return said

    return application


def _done_already() -> None:
    """Nothing is left to be done when an answer has ended."""
