"""Listeners of events: one watcher for all who listen to the same thing, and the same bytes for each of them.

A watcher looks whether its event has changed, several times a second, and tells all listeners at once what became
otherwise since. The more listeners a process has, the longer it waits between two looks: telling them never takes more
than a small part of it. A listener that does not read is dropped, and comes back if it lives.
"""

import asyncio
import datetime as dt
import random
import time
from collections import Counter, deque
from collections.abc import Callable

import structlog
from starlette.types import Receive, Scope, Send

from api import stream_frames as frames
from api.errors import TooManyStreams
from api.identity import Caller
from engine import figures
from engine.errors import HoldfastError, Overloaded, Unavailable
from engine.events import event_end_at
from engine.reservations import Reservations
from engine.snapshots import View

POLL_S = 0.25
# A frame for one listener is some 32 us of a process (loadtests/measure_stream.py), and a look at an event that changes
# some 100: both together take less than a twentieth of it.
POLL_PER_LISTENER_S = 0.001
POLL_PER_WATCHER_S = 0.002
LISTENERS_MAX = 5_000  # of a process; each is a connection, and 5 s between two looks is hardly live any more
LISTENERS_PER_CALLER_MAX = 10  # of one customer at one process; staff and programs listen for others, too
WATCHERS_MAX = 500  # events, or ranges of their legs, that a process watches
HEARTBEAT_S = 15.0
SLICE = 50  # listeners told before others have a turn: about a millisecond
PENDING_MAX = 16  # frames that wait for a reader whose connection is full
PENDING_BYTES_MAX = 1 << 20
LAST_FRAME_S = 1.0  # for a reader to take the end
RETRY_MS = (1_000, 4_000)  # spread, so that the listeners of a process that stops do not come back all at once

logger = structlog.get_logger("holdfast.api")


class Listener:
    """One connection: what waits to be sent on it, and how it ends."""

    def __init__(self, caller: Caller, leave: Callable[["Listener"], None]) -> None:
        self.caller = caller
        self._leave = leave
        self._frames: deque[bytes] = deque([b"retry: %d\n\n" % random.randint(*RETRY_MS)])  # noqa: S311 - no secret
        self._pending_bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[object] | None = None
        self.reason: str | None = None

    def put(self, frame: bytes) -> None:
        """Have *frame* sent; whoever has too many unread is dropped."""
        if self.reason is not None:
            return
        if len(self._frames) >= PENDING_MAX or (self._frames and self._pending_bytes + len(frame) > PENDING_BYTES_MAX):
            self.drop()
            return
        self._append(frame)

    def end(self, reason: str) -> None:
        """Say why, and close; a reader that does not take that is dropped."""
        if self.reason is None:
            self.reason = reason
            self._append(frames.end_frame(reason))
            asyncio.get_running_loop().call_later(LAST_FRAME_S, self._interrupt)

    def drop(self) -> None:
        """Close at once, whatever is unread."""
        self.reason = "slow"
        self._interrupt()

    def close(self) -> None:
        """Forget it: its connection is over."""
        figures.STREAM_ENDS.add(self.reason or "gone")
        self._leave(self)

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what there is until the end, the client's or ours."""
        self._task = asyncio.current_task()
        gone = asyncio.create_task(_until_gone(receive))
        gone.add_done_callback(self._note_gone)
        try:
            while not gone.done() and (chunk := await self._next()) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            if self.reason is None or self._task is None or self._task.uncancel() > 0:
                raise  # it is not us who want this to end
            await _abort(scope)
        finally:
            self._task = None
            gone.cancel()

    async def _next(self) -> bytes | None:
        """All that waits, in one piece; ``None`` at the end."""
        while not self._frames:
            if self.reason is not None:
                return None
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        chunk = self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
        self._frames.clear()
        self._pending_bytes = 0
        return chunk

    def _append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._pending_bytes += len(frame)
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _note_gone(self, _: object) -> None:
        self.reason = self.reason or "gone"
        self._rouse()

    def _interrupt(self) -> None:
        """End a send that waits for its reader."""
        if self._task is not None:
            self._task.cancel()


class LiveMaps:
    """All watchers of this process and their listeners."""

    def __init__(self, reservations: Reservations) -> None:
        self._reservations = reservations
        self._watchers: dict[tuple[str, frames.Legs], _Watcher] = {}
        self._by_caller: Counter[str] = Counter()
        self._listener_count = 0
        self._stopping = False

    @property
    def listener_count(self) -> int:
        """How many listen now."""
        return self._listener_count

    @property
    def interval_s(self) -> float:
        """Seconds between two looks at an event."""
        cost_s = self._listener_count * POLL_PER_LISTENER_S + len(self._watchers) * POLL_PER_WATCHER_S
        return max(POLL_S, cost_s)

    async def join(
        self, event_id: str, from_stop: str | None, to_stop: str | None, *, caller: Caller, last_id: bytes | None
    ) -> Listener:
        """A listener of the event, over a range of legs, that has been given the state unless *last_id* is of it.

        Raises:
            EventNotFound, EventNotOpen, InvalidRequest: As of availability.
            TooManyStreams: The caller has as many as one may have.
            Overloaded: The process has, or it is about to stop.
        """
        view = await self._reservations.watched(event_id)
        key = (event_id, view.event.layout.leg_range(from_stop, to_stop))
        watcher = self._watchers.get(key)
        self._require_room(caller, is_watched=watcher is not None)
        if watcher is None:
            watcher = self._watchers[key] = _Watcher(self, view, key[1])
        listener = Listener(caller, watcher.remove)
        self._listener_count += 1
        self._by_caller[caller.sub] += 1
        watcher.add(listener, last_id)
        return listener

    async def look(self, event_id: str) -> View:
        """The event's state now."""
        return await self._reservations.watched(event_id)

    def forget(self, listener: Listener, watcher: "_Watcher") -> None:
        """Take a listener off the count, and a watcher that has no more of them."""
        self._listener_count -= 1
        self._by_caller[listener.caller.sub] -= 1
        if not self._by_caller[listener.caller.sub]:
            del self._by_caller[listener.caller.sub]
        if not watcher.listeners:
            watcher.stop()
            self._watchers.pop(watcher.key, None)

    async def close(self) -> None:
        """End all streams, and take no more: the process is about to stop."""
        self._stopping = True
        for watcher in list(self._watchers.values()):
            for listener in list(watcher.listeners):
                listener.end("stopping")
        until = time.monotonic() + 2 * LAST_FRAME_S
        while self._listener_count and time.monotonic() < until:  # noqa: ASYNC110 - they leave one by one
            await asyncio.sleep(0.01)

    def _require_room(self, caller: Caller, *, is_watched: bool) -> None:
        if not caller.is_trusted and self._by_caller[caller.sub] >= LISTENERS_PER_CALLER_MAX:
            raise TooManyStreams(LISTENERS_PER_CALLER_MAX)
        if self._stopping or self._listener_count >= LISTENERS_MAX:
            raise Overloaded("no more listeners here")
        if not is_watched and len(self._watchers) >= WATCHERS_MAX:
            raise Overloaded("no more events can be watched here")


class _Watcher:
    """Looks at one event, over one range of legs, for all its listeners."""

    def __init__(self, live: LiveMaps, view: View, legs: frames.Legs) -> None:
        self.key = (view.event.event.id, legs)
        self.listeners: set[Listener] = set()
        self._live = live
        self._legs = legs
        self._view = view
        self._over_at = event_end_at(view.event.definition)  # which cannot change: a watched event is no draft
        self._task = asyncio.create_task(self._watch(), name="watch an event")

    def add(self, listener: Listener, last_id: bytes | None) -> None:
        """Tell *listener* how things stand, unless it knows, and from now on what changes."""
        self.listeners.add(listener)
        if last_id != frames.snapshot_id(self._view, self._legs):
            listener.put(frames.snapshot_frame(self._view, self._legs))
        if (reason := self._end_reason()) is not None:
            listener.end(reason)

    def remove(self, listener: Listener) -> None:
        """Tell it nothing more."""
        if listener in self.listeners:
            self.listeners.discard(listener)
            self._live.forget(listener, self)

    def stop(self) -> None:
        """Look no more."""
        self._task.cancel()

    async def _watch(self) -> None:
        told_at = time.monotonic()
        while True:
            await asyncio.sleep(self._live.interval_s)
            frame = await self._look()
            if frame is None and time.monotonic() - told_at >= HEARTBEAT_S:
                frame = frames.HEARTBEAT
            if frame is not None:
                told_at = time.monotonic()
                await self._tell(frame)
            self._end_those_due()

    async def _look(self) -> bytes | None:
        """What to tell all listeners, if anything has changed."""
        try:
            fresh = await self._live.look(self.key[0])
        except Unavailable as error:  # the next look may have an answer; until then there is nothing to tell
            logger.debug("not looked at", event_id=self.key[0], reason=str(error))
            return None
        except HoldfastError as error:
            logger.info("watched no more", event_id=self.key[0], error=type(error).__name__)
            for listener in list(self.listeners):
                listener.end("gone")
            return None
        if fresh.tag == self._view.tag:
            return None
        old, self._view = self._view, fresh
        return frames.change_frame(old, fresh, self._legs)

    async def _tell(self, frame: bytes) -> None:
        """The same bytes to those who listened when they were made; who came since has begun with the new state."""
        for number, listener in enumerate(list(self.listeners), start=1):
            listener.put(frame)
            if number % SLICE == 0:
                await asyncio.sleep(0)

    def _end_those_due(self) -> None:
        reason, now_s = self._end_reason(), time.time()
        for listener in list(self.listeners):
            if reason is not None:
                listener.end(reason)
            elif listener.caller.expires_at_s <= now_s:
                listener.end("token_expired")

    def _end_reason(self) -> str | None:
        """Why nobody needs to listen any more. An event that is over may leave Redis: looking would bring it back."""
        status = self._view.snapshot.status
        if status != "open":
            return status
        return "over" if dt.datetime.now(dt.UTC) >= self._over_at else None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _abort(scope: Scope) -> None:
    """Break the connection off where the server lets us: a polite end would wait for a reader who is not there."""
    abort = scope.get("extensions", {}).get("holdfast.abort", {}).get("abort")
    if abort is not None:
        abort()
        for _ in range(3):  # the server hears of it in one of the next turns of the loop
            await asyncio.sleep(0)
