"""uvicorn's HTTP protocol with what it lacks: bounds for slow clients, and refusals that cost little.

A request that is turned away in the application has been parsed, made a task of and answered through ASGI by then:
half the price of a hold. Here it costs a look at its first line and one write. Only what is plainly one whole request
is answered so; everything else goes the usual way, and the application turns it away.

Time limits are watched over by one sweep a second over all connections, not by timers of each.
"""

import asyncio
import time
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from api.admission import Admission, class_of
from api.call import request_id

RECEIVE_MAX_S = 10.0  # for a head, or the first bytes of it after connecting; a body has more by its length
RECEIVE_RATE = 2_048  # bytes a second that a body must come at beyond that: a phone at the edge of its cell does
STALLED_MAX_S = 15.0  # without one byte of an answer being taken
SWEEP_EVERY_S = 1.0

LENGTH_DIGITS_MAX = 9
_UNUSUAL = (b"\r\ntransfer-encoding", b"\r\nexpect", b"\r\nupgrade", b"\r\ncontent-length ", b"\r\n ", b"\r\n\t")
_CONNECTION, _KEEP_ALIVE = b"\r\nconnection", b"\r\nconnection: keep-alive\r\n"
_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\nx-content-type-options: nosniff\r\nx-request-id: %s\r\nretry-after: %d\r\n"
    b"content-type: application/problem+json\r\ncontent-length: %d\r\n%s\r\n"
)
_BODY = (
    b'{"type":"/problems/overloaded","title":"Overloaded","status":503,'
    b'"detail":"More is under way than can be served; nothing was done.","code":"overloaded","request_id":"%s"}'
)


def refusal(given_id: bytes | None, retry_after_s: int, *, close: bool = False, with_body: bool = True) -> bytes:
    """The problem ``overloaded`` as it goes over the wire. Its ``type`` is relative: the host has not been read."""
    name = request_id(given_id)
    body = _BODY % name
    head = _HEAD % (name, retry_after_s, len(body), b"connection: close\r\n" if close else b"")
    return head + body if with_body else head


class Gate:
    """What the protocols of one process share: admission, the bound of connections, and the sweep over them."""

    def __init__(self, admission: Admission | None, *, connections_max: int) -> None:
        self.admission = admission
        self.connections_max = connections_max
        self.open: set[GuardedProtocol] = set()
        self.arriving = 0
        self._sweep: asyncio.TimerHandle | None = None

    def forget_arriving(self) -> None:
        """The requests read in one pass of the loop are begun in the next, and counted by admission from then on.

        Without this count, a pass that reads a thousand requests would let all of them in, for none of them waits yet.
        """
        self.arriving = 0

    def protocol(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **rest: Any) -> Any:
        """What uvicorn calls for every connection; ``uvicorn.Config(http=gate.protocol)``."""
        return GuardedProtocol(self, config, server_state, app_state, **rest)

    def add(self, protocol: "GuardedProtocol") -> None:
        """Watch over one more connection."""
        self.open.add(protocol)
        if self._sweep is None:
            self._sweep = protocol.loop.call_later(SWEEP_EVERY_S, self._sweep_all)

    def _sweep_all(self) -> None:
        self._sweep = None
        now = time.monotonic()
        for protocol in tuple(self.open):
            protocol.end_if_slow(now)
        if self.open:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep_all)


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, gate: Gate, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._gate = gate
        self._receiving_since: float | None = None  # an unfinished request, or none after connecting
        self._midway = False  # between the first byte of a request and its last
        self._received = 0  # bytes of it, more or less
        self._unread = 0  # bytes of answers that the client had not taken when it last took some
        self._unread_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are as many as there may be."""
        super().connection_made(transport)
        self._receiving_since = time.monotonic()
        if len(self._gate.open) >= self._gate.connections_max:
            retry_after_s = 1 if self._gate.admission is None else self._gate.admission.retry_after_s()
            transport.write(refusal(None, retry_after_s, close=True))
            transport.close()
            return
        self._gate.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._gate.open.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Turn a request away where it stands, or have it parsed."""
        admission = self._gate.admission
        arriving = self._gate.arriving
        if admission is not None and admission.may_refuse(arriving) and self._is_between_requests:
            answer = _refusal_of(data, admission, arriving)
            if answer is not None:
                self._receiving_since = None
                self._renew_keep_alive()
                self.transport.write(answer)
                return
        if not arriving:
            self.loop.call_soon(self._gate.forget_arriving)
        self._gate.arriving = arriving + 1
        self._received += len(data)
        super().data_received(data)

    def handle_websocket_upgrade(self) -> None:
        """From here on another protocol has the connection."""
        self._gate.open.discard(self)
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        """Its time begins."""
        self._midway = True
        self._receiving_since = time.monotonic()
        self._received = 0
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Its time ends; from here on it is we who take time."""
        self._midway = False
        self._receiving_since = None
        super().on_message_complete()

    def end_if_slow(self, now: float) -> None:
        """Cut the connection of a client that sends or reads too slowly; nothing is said, for who would read it?"""
        buffered = self.transport.get_write_buffer_size()
        if not buffered or buffered < self._unread or not self._unread:
            self._unread, self._unread_since = buffered, now
        elif now - self._unread_since > STALLED_MAX_S:
            self.transport.abort()
            return
        since = self._receiving_since
        # While reading is paused, it is the application that has not asked for more.
        if since is None or (self.flow is not None and self.flow.read_paused):
            return
        if now - since > RECEIVE_MAX_S + self._received / RECEIVE_RATE:
            self.transport.abort()

    @property
    def _is_between_requests(self) -> bool:
        return not self._midway and (self.cycle is None or self.cycle.response_complete)

    def _renew_keep_alive(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one whose answer is still being read is not idle."""
        if self.transport.get_write_buffer_size():
            self._renew_keep_alive()  # the sweep ends it if nothing moves
            return
        super().timeout_keep_alive_handler()


def _refusal_of(data: bytes, admission: Admission, arriving: int) -> bytes | None:
    """The answer to *data*, if that is one whole plain request whose class has no room; else ``None``."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    first = data[: data.find(b"\r\n")].split(b" ")
    if len(first) != 3 or first[2] != b"HTTP/1.1":
        return None
    urgency = class_of(first[0].decode("latin-1"), first[1].partition(b"?")[0].decode("latin-1"))
    if urgency is None or not admission.would_refuse(urgency, arriving=arriving):
        return None
    head = data[: end - 2]
    fields = head.lower()  # searches for constants in it are several times as fast as one regular expression
    if any(name in fields for name in _UNUSUAL) or fields.count(_CONNECTION) != fields.count(_KEEP_ALIVE):
        return None
    if (length := _only_value(fields, fields, b"\r\ncontent-length:", b"0")) is None or not length.isdigit():
        return None
    if len(length) > LENGTH_DIGITS_MAX or len(data) != end + int(length):
        return None
    admission.count_refused(urgency)
    given = _only_value(head, fields, b"\r\nx-request-id:", b"")
    return refusal(given or None, admission.retry_after_s(), with_body=first[0] != b"HEAD")


def _only_value(head: bytes, fields: bytes, name: bytes, absent: bytes) -> bytes | None:
    """The value in *head* of a header whose *name* stands in *fields*; ``None`` when it is there more than once."""
    if (at := fields.find(name)) < 0:
        return absent
    if fields.find(name, at + 1) >= 0:
        return None
    at += len(name)
    return head[at : head.find(b"\r\n", at)].strip(b" \t")
