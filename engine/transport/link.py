"""One live connection: writes batches of commands, gives replies to their callers in order, notices silence."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection

from engine.transport.connection import error_of_reply, hand_over
from engine.transport.errors import OutcomeUnknown

IN_FLIGHT_MAX = 2048  # commands without a reply, ~20 ms of server time: what one lost connection can leave unknown
_NO_MORE = object()


class LinkOwner(Protocol):
    """Whoever sends over a link, and is told what becomes of it."""

    def link_has_room(self) -> None: ...

    def link_lost(self, link: "Link", reason: str) -> None: ...


class Link(asyncio.Protocol):
    """The socket of a redis-py connection after its handshake.

    Replies come in the order of the commands; so a queue of futures is all the bookkeeping there is. A caller that
    went away leaves its cancelled future in that queue, and its reply is dropped when it comes.
    """

    def __init__(self, connection: AbstractConnection, *, owner: LinkOwner, reply_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._reply_timeout_s = reply_timeout_s
        self._replies = hiredis.Reader(replyError=error_of_reply, notEnoughData=_NO_MORE)
        self._in_flight: deque[asyncio.Future[Any]] = deque()
        self._sent_count = 0
        self._batches: deque[tuple[int, float]] = deque()  # number of its last command, deadline
        self._watchdog: asyncio.TimerHandle | None = None
        self.heard_count = 0  # how often anything has come
        self._paused = False
        self._retirement: str | None = None
        self._lost = False
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.connection = connection
        self._transport, self._handshake_protocol = hand_over(connection, self)

    @property
    def room(self) -> int:
        """How many commands may be sent now."""
        if self._paused or self._retirement is not None or self._lost:
            return 0
        return IN_FLIGHT_MAX - len(self._in_flight)

    @property
    def unanswered(self) -> int:
        """How many commands are without a reply."""
        return len(self._in_flight)

    def send(self, wires: Sequence[bytes], futures: Sequence[asyncio.Future[Any]]) -> None:
        """Write commands as one batch; each future gets its reply, or ``OutcomeUnknown``.

        An error reply is a *result* (an exception instance), so that a reply nobody waits for leaves no noise.
        """
        self._in_flight.extend(futures)
        self._sent_count += len(futures)
        deadline = self._loop.time() + self._reply_timeout_s
        self._batches.append((self._sent_count, deadline))
        if self._watchdog is None:
            self._watchdog = self._loop.call_at(deadline, self._check_silence)
        self._transport.write(b"".join(wires))

    def retire(self, reason: str) -> None:
        """Send nothing more, and close once everything in flight is answered."""
        self._retirement = reason
        if not self._in_flight:
            self.close(reason)

    def close(self, reason: str) -> None:
        """Close at once; what is in flight becomes ``OutcomeUnknown``."""
        if self._lost:
            return
        self._lost = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._transport.abort()
        for future in self._in_flight:
            if not future.done():
                future.set_exception(OutcomeUnknown(reason))
        self._in_flight.clear()
        self.closed.set_result(None)
        self._owner.link_lost(self, reason)

    # Called by the event loop.

    def data_received(self, data: bytes) -> None:
        if self._lost:
            return
        self.heard_count += 1
        next_reply = self._replies.gets
        next_future = self._in_flight.popleft
        try:
            self._replies.feed(data)
            while (reply := next_reply()) is not _NO_MORE:
                future = next_future()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.close(f"the server's replies make no sense: {error}")
            return
        self._forget_answered_batches()
        if self._retirement is not None and not self._in_flight:
            self.close(self._retirement)
        else:
            self._owner.link_has_room()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._owner.link_has_room()

    def connection_lost(self, error: Exception | None) -> None:
        self._handshake_protocol.connection_lost(error)
        self.close(f"connection lost: {error}" if error else "connection closed by the server")

    def _forget_answered_batches(self) -> None:
        answered_count = self._sent_count - len(self._in_flight)
        while self._batches and self._batches[0][0] <= answered_count:
            self._batches.popleft()

    def _check_silence(self) -> None:
        # One timer per link rather than per command: it wakes at the oldest deadline it knew, and looks again.
        self._watchdog = None
        if not self._batches:
            return
        deadline = self._batches[0][1]
        if deadline <= self._loop.time():
            self.close(f"no reply within {self._reply_timeout_s:g} s")
        else:
            self._watchdog = self._loop.call_at(deadline, self._check_silence)
