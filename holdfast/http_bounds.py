"""Bounds for clients: how many connections a process keeps, and how slow their senders and readers may be.

uvicorn waits for the rest of a request, and for a reader, for ever. Time limits are watched over here by one sweep a
second over all connections: timers of each would cost every request.
"""

import asyncio
import time
from typing import Any

from api.errors import HeadTooLarge
from engine import figures
from holdfast.http_protocol import LeanProtocol
from holdfast.http_refusals import Asker, refusal_bytes

RECEIVE_MAX_S = 10.0  # for a head, or the first bytes of it after connecting; a body has more by its length
HEAD_MAX = 65_536  # bytes of a request besides its body, and one read of the socket more
CHUNK_OVERHEAD = 6  # times its body is the most that a body takes: one byte a chunk
RECEIVE_RATE = 2_048  # bytes a second that a body must come at beyond that: a phone at the edge of its cell does
STALLED_MAX_S = 15.0  # without one byte of an answer being taken
SWEEP_EVERY_S = 1.0
CONNECTION = "connection"  # the class that connections above their bound are counted under
CONNECTION_RETRY_AFTER_S = 2


class Watch:
    """The connections of one process, and the sweep over them."""

    def __init__(self, connections_max: int) -> None:
        self.connections_max = connections_max
        self.open: set[BoundedProtocol] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def add(self, protocol: "BoundedProtocol") -> bool:
        """Watch over one more connection, unless there are as many as there may be."""
        if len(self.open) >= self.connections_max:
            return False
        self.open.add(protocol)
        if self._sweep is None:
            self._sweep = protocol.loop.call_later(SWEEP_EVERY_S, self._sweep_all)
        return True

    def _sweep_all(self) -> None:
        self._sweep = None
        now = time.monotonic()
        for protocol in tuple(self.open):
            protocol.end_if_slow(now)
        if self.open:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep_all)


class BoundedProtocol(LeanProtocol):
    """One connection, watched over by *watch*."""

    def __init__(self, watch: Watch, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._watch = watch
        self._receiving_since: float | None = None  # an unfinished request, or none after connecting
        self._midway = False  # between the first byte of a request and its last
        self._received = 0  # bytes of it since the read that it began in
        self._body_received = 0  # bytes of its body
        self._unread = 0  # bytes of answers that the client had not taken when it last took some
        self._unread_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or say that there are too many."""
        super().connection_made(transport)
        self._receiving_since = time.monotonic()
        if not self._watch.add(self):
            figures.SHED.add(CONNECTION)
            asker = Asker(scheme=self.scheme or "http", server=self.server)
            headers = self.server_state.default_headers
            transport.write(refusal_bytes(asker, CONNECTION_RETRY_AFTER_S, headers, close=True))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._watch.open.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Have it parsed; what takes more than its body does must end some time, for it is kept until it has ended."""
        self._received += len(data)
        super().data_received(data)
        if self._midway and self._received - CHUNK_OVERHEAD * self._body_received > HEAD_MAX:
            self._midway = False
            if not self.transport.is_closing():
                self.refuse(HeadTooLarge())

    def on_body(self, body: bytes) -> None:
        """Count it."""
        self._body_received += len(body)
        super().on_body(body)

    def handle_websocket_upgrade(self) -> None:
        """From here on another protocol has the connection."""
        self._watch.open.discard(self)
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        """Its time begins."""
        self._midway = True
        self._receiving_since = time.monotonic()
        self._received = self._body_received = 0
        super().on_message_begin()

    def on_whole_request(self) -> None:
        """Its time ends; from here on it is we who take time."""
        self._midway = False
        self._receiving_since = None
        super().on_whole_request()

    def end_if_slow(self, now: float) -> None:
        """Cut the connection of a client that sends or reads too slowly; nothing is said, for who would read it?"""
        buffered = self.transport.get_write_buffer_size()
        if not buffered or buffered < self._unread or not self._unread:
            self._unread, self._unread_since = buffered, now
        elif now - self._unread_since > STALLED_MAX_S:
            self.transport.abort()
            return
        since = self._receiving_since
        if since is None:
            return
        if self.flow is not None and self.flow.read_paused:  # it is the application that has not asked for more
            self._receiving_since = now
        elif now - since > RECEIVE_MAX_S + self._body_received / RECEIVE_RATE:
            self.transport.abort()
