"""The protocol that lets requests in, or refuses them: counts in :mod:`holdfast.admission`, words in ``http_refusals``.

A request counts as under way from when it is there as a whole and may begin until its answer begins. Hundreds of them
may be read in one pass of the event loop, before the first is begun: so it is counted here, where its bytes are seen,
and no client can prolong it, by sending or reading slowly. Streams and pipelined requests that wait for those before
them do not count.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from api.clients import Proxies
from engine import figures
from holdfast.admission import Admission, class_of
from holdfast.http_bounds import BoundedProtocol, Watch
from holdfast.http_refusals import Refusing, asker_of, refusal_bytes
from holdfast.http_runners import Runners
from holdfast.http_whole import WholeRequests, asker_in, plain_target


class Gate:
    """What the connections of one process share; ``uvicorn.Config(http=gate.protocol)``."""

    def __init__(self, admission: Admission, *, connections_max: int, proxies: Proxies) -> None:
        self.admission = admission
        self.proxies = proxies
        self.watch = Watch(connections_max)
        self.whole = WholeRequests()
        self._runners: Runners | None = None

    def protocol(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], **rest: Any
    ) -> asyncio.Protocol:
        """What uvicorn calls for every connection."""
        return GatedProtocol(self, config, server_state, app_state, **rest)

    def runners_of(self, loop: asyncio.AbstractEventLoop, tasks: "set[asyncio.Task[None]]") -> Runners:
        """Those of the server whose *tasks* these are."""
        if self._runners is None or self._runners.busy is not tasks or self._runners.loop is not loop:
            self._runners = Runners(loop, tasks)
        return self._runners


class GatedProtocol(BoundedProtocol):
    """One connection."""

    def __init__(self, gate: Gate, *args: Any, **rest: Any) -> None:
        super().__init__(gate.watch, *args, **rest)
        self._admission = gate.admission
        self._proxies = gate.proxies
        self._whole = gate.whole
        self._runners = gate.runners_of(self.loop, self.tasks)
        self._turn: _Turn | None = None  # of the request that was begun last

    def data_received(self, data: bytes) -> None:
        """Refuse a request where it stands, or have it parsed."""
        # A client that does not read is not written to: behind the parser its answers wait until it does.
        if self._admission.is_pressed and self._is_between_requests and not self.flow.write_paused:
            answer = self._refusal(data)
            if answer is not None:
                self._receiving_since = None
                self.transport.write(answer)
                self.answered_idle()
                return
        super().data_received(data)

    def on_whole_request(self) -> None:
        """Count a request that has begun; it may have to be refused even now, if its body came later than its head."""
        super().on_whole_request()
        turn = self._turn
        if turn is None or turn.cycle is not self.cycle or turn.is_over or turn.counts:
            return
        if self._admission.has_room(turn.name):
            turn.begin()
        else:
            self._refuse_late(turn)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        scope = cycle.scope
        self._turn = None
        name = class_of(scope["method"], scope["path"])
        if name is None:
            super()._start_asgi_task(cycle, app)
            return
        if not self._admission.has_room(name):
            figures.SHED.add(name)
            super()._start_asgi_task(cycle, Refusing(self._admission.retry_after_s(), self._proxies))  # type: ignore[arg-type]
            return
        turn = self._turn = _Turn(self._admission, name, cycle, app)
        # It has waited behind another one of the same connection, or waits for no body, even if one is announced.
        if not cycle.more_body or cycle.scope["method"] in ("GET", "HEAD"):
            turn.begin()
        self._runners.run(cycle.run_asgi(turn), turn.end)  # type: ignore[arg-type]

    @property
    def _is_between_requests(self) -> bool:
        return not self._midway and (self.cycle is None or self.cycle.response_complete)

    def _refusal(self, data: bytes) -> bytes | None:
        target, admission = plain_target(data), self._admission
        if target is None:
            return None
        name = class_of(*target)
        if name is None or admission.has_room(name):
            return None
        length = self._whole.head_length(data)
        if not length:
            return None
        asker = asker_in(data, length, self._proxies, self.scheme or "http", self.server, self.client)
        if asker is None:
            return None
        figures.SHED.add(name)
        return refusal_bytes(asker, admission.retry_after_s(), self.server_state.default_headers)

    def _refuse_late(self, turn: "_Turn") -> None:
        """Answer for an application that still waits for the body; to it the client has gone."""
        cycle = turn.cycle
        turn.end()
        if self.flow.write_paused:  # it sends and sends, and reads nothing
            self.transport.abort()
            return
        figures.SHED.add(turn.name)
        close = not cycle.keep_alive
        asker = asker_of(cycle.scope, self._proxies)  # type: ignore[arg-type]
        headers = self.server_state.default_headers
        self.transport.write(refusal_bytes(asker, self._admission.retry_after_s(), headers, close=close))
        cycle.response_started = cycle.response_complete = cycle.disconnected = True
        cycle.message_event.set()
        if close:
            self.transport.close()
        self.on_response_complete()


class _Turn:
    """One request that was let in: the application around it, which sees when its answer begins."""

    __slots__ = ("_admission", "_app", "counts", "cycle", "is_over", "name")

    def __init__(self, admission: Admission, name: str, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._admission = admission
        self._app = app
        self.counts = False
        self.cycle = cycle
        self.name = name
        self.is_over = False

    def begin(self) -> None:
        """Count it, from now until :meth:`end`."""
        assert not self.counts
        self.counts = True
        self._admission.begin(self.name)

    def end(self) -> None:
        """Count it no longer; may be called again."""
        self.is_over = True
        if self.counts:
            self.counts = False
            self._admission.end(self.name)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # noqa: ARG002 - ours is given on
        """Run the application."""
        return self._app(scope, receive, self.send)  # type: ignore[arg-type]

    async def send(self, message: Any) -> None:
        """Whatever is sent, the work is done: how long it takes to leave is the client's doing."""
        self.end()
        await self.cycle.send(message)

    def write_whole(self, status: int, lines: bytes, body: bytes) -> bool:
        """The short way of ``api.answers``, where the protocol has it."""
        self.end()
        write_whole = getattr(self.cycle, "write_whole", None)
        return write_whole is not None and write_whole(status, lines, body)
