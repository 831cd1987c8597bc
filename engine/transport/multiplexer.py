"""The queue in front of one Redis node: every caller of the process shares one connection, batched and kept alive.

Commands submitted within one turn of the event loop leave in one ``write``, or sixteen at a time when they are more:
else 64 callers who were answered together ask together, and Redis waits while we work, and we while Redis does. Single
holds over HTTP gained a quarter by that. Several batches may be on their way: waiting for the answers to one before
sending the next gave 64 to 256 callers a fifth to a quarter less on asyncio's own loop, for the same CPU, and 1 to 16
callers nothing more. Nor does a lone caller gain by writing before the turn ends.

What happens to a command when the connection is lost::

    waiting   ──> goes out over the next connection, or NotSent when there is none within the patience
    in flight ──> OutcomeUnknown; never sent again from here

An outage older than the patience is answered ``NotSent`` at once, so that callers do not queue up behind a server that
is gone; reconnecting goes on in the background.
"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError, ResponseError

from engine.transport.connection import ask
from engine.transport.errors import NotSent, TransportError
from engine.transport.link import Link
from engine.transport.servers import LinkReport, NodeAddress, ServerIdentity, parse_report
from engine.transport.wire import pack_command

QUEUE_MAX = 50_000  # waiting commands, about a second of work: past it, refusing is kinder than queueing
SENT_AT_ONCE = 16  # commands for which the end of the turn is not waited for: a third of a millisecond of Redis's time
BATCH_BYTES_MAX = 256 * 1024  # one write; keeps a burst of large commands from being joined into one huge string
PATIENCE_S = 1.0  # how long a command waits for a connection: a restart or a short failover goes unnoticed
BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 0.5  # how much later than the server itself we can be back

Dial = Callable[[], Awaitable[tuple[NodeAddress, AbstractConnection]]]
"""Finds the server; answers its address and a connected connection."""

OnServer = Callable[[NodeAddress, ServerIdentity], None]
"""Is told who answers, before any command is sent; raises to refuse the server."""

_log = logging.getLogger(__name__)


class ScriptLike(Protocol):
    """A Lua script as the transport needs it."""

    @property
    def name(self) -> str: ...

    @property
    def sha(self) -> bytes: ...

    @property
    def source(self) -> bytes: ...


class Multiplexer:
    """One node's queue, link, and reconnection."""

    def __init__(
        self,
        dial: Dial,
        *,
        on_server: OnServer,
        connect_timeout_s: float,
        reply_timeout_s: float,
        on_trouble: Callable[[], None] = lambda: None,
    ) -> None:
        self._dial = dial
        self._on_server = on_server
        self._on_trouble = on_trouble
        self._connect_timeout_s = connect_timeout_s
        self._reply_timeout_s = reply_timeout_s
        self._loop = asyncio.get_running_loop()
        # Two lists in step rather than pairs: a flush hands them over whole, at no cost per command.
        self._wires: list[bytes] = []
        self._futures: list[asyncio.Future[Any]] = []
        self._flush_scheduled = False
        self._link: Link | None = None
        self._refusal: str | None = None  # why submit() refuses at once, while it does
        self._connected_at = -math.inf
        self._trouble = ""  # what is wrong with the connection, as last seen
        self._closed = False
        self._reconnector: asyncio.Task[None] | None = None
        self._disconnecting: set[asyncio.Task[None]] = set()
        self._patience: asyncio.TimerHandle | None = None
        self.node: NodeAddress | None = None  # where the latest connection leads
        self._loads: dict[bytes, asyncio.Future[Any]] = {}

    # For callers.

    def submit(self, wire: bytes) -> asyncio.Future[Any]:
        """Queue one packed command; the future's result is its reply, an error reply an exception *instance*.

        Raises:
            NotSent: The queue is full, the server has been away for long, or the transport is closed.
        """
        if self._refusal is not None:
            raise NotSent(self._refusal)
        if len(self._wires) >= QUEUE_MAX:
            raise NotSent(f"{QUEUE_MAX} commands are waiting already")
        future = self._loop.create_future()
        self._wires.append(wire)
        self._futures.append(future)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        elif len(self._wires) == SENT_AT_ONCE:
            self._send()
        return future

    def submit_now(self, wire: bytes) -> asyncio.Future[Any]:
        """The same, sent without waiting for the end of the turn, and with it whatever waits already.

        Raises:
            NotSent: It would have to wait.
        """
        if self._link is None or self._link.room <= len(self._wires):
            raise NotSent("the connection takes no more for now")
        future = self.submit(wire)
        self._send()
        if self._wires:  # what went before it has filled the socket; it is the last in the queue
            self._wires.pop()
            self._futures.pop()
            raise NotSent("the connection takes no more for now")
        return future

    async def asking(self, wire: bytes) -> Any:
        """The reply to *wire*, sent right behind ``ASKING``, which holds for the next command of the connection only.

        Shielded: were a cancelled caller's command left out, ``ASKING`` would fall to a stranger's.
        """
        if len(self._wires) + 2 > QUEUE_MAX:  # both or none
            raise NotSent(f"{QUEUE_MAX} commands are waiting already")
        self.submit(_ASKING).add_done_callback(_retrieve)
        reply = self.submit(wire)
        reply.add_done_callback(_retrieve)
        return await asyncio.shield(reply)

    async def load(self, script: ScriptLike) -> None:
        """Load *script* into this node; callers that ask for the same one meanwhile share the answer.

        Raises:
            ResponseError: The server refuses the script.
            ValueError: The server computes another digest than *script* claims.
        """
        loading = self._loads.get(script.sha)
        if loading is None:
            loading = self._loads[script.sha] = self.submit(pack_command("SCRIPT", "LOAD", script.source))
            loading.add_done_callback(_retrieve)
            loading.add_done_callback(lambda _: self._loads.pop(script.sha))
        try:
            reply = await asyncio.shield(loading)
        except TransportError as error:
            raise NotSent(f"script {script.name} could not be loaded: {error}") from error
        if isinstance(reply, ResponseError):
            raise reply
        if isinstance(reply, RedisError):
            raise NotSent(f"script {script.name} could not be loaded: {reply}") from reply
        if reply != script.sha:
            raise ValueError(f"script {script.name}: its digest is {reply!r}, not {script.sha!r}")

    def leave_replica(self) -> None:
        """Look for the master over a new connection, once everything in flight on this one is answered."""
        if self._link is not None:
            self._link.retire("it has become a replica")

    # For whoever owns it.

    async def connect(self) -> None:
        """Connect once, now.

        Raises:
            NotSent: There is no usable server.
        """
        try:
            await self._connect()
        except (RedisError, OSError) as error:
            raise NotSent(f"cannot connect: {_describe(error)}") from error

    def connect_in_background(self) -> None:
        """Begin to connect; what is submitted meanwhile waits for it."""
        self._begin_outage("not connected yet")

    async def aclose(self) -> None:
        """Fail what is waiting, close the connection. May be called again."""
        self._take_no_more("the transport is closed")
        if self._patience is not None:
            self._patience.cancel()
        if self._link is not None:
            self._link.close("the transport was closed")
        if self._reconnector is not None:
            self._reconnector.cancel()
            await asyncio.wait([self._reconnector])
        if self._disconnecting:
            await asyncio.wait(self._disconnecting)

    async def drain(self) -> None:
        """Refuse what waits, let what is in flight be answered, then close."""
        self._take_no_more("this node is no longer in use")
        link = self._link  # an idle one closes as it retires, and is forgotten
        if link is not None:
            link.retire("no longer in use")
            await asyncio.wait([link.closed], timeout=self._reply_timeout_s)
        await self.aclose()

    def report(self) -> LinkReport:
        """How things stand with the connection."""
        link, waiting = self._link, len(self._wires)
        if link is None:
            return LinkReport(connected=False, waiting=waiting, unanswered=0, heard_count=0)
        return LinkReport(connected=True, waiting=waiting, unanswered=link.unanswered, heard_count=link.heard_count)

    # For the link.

    def link_has_room(self) -> None:
        # Behind the callers woken by these very replies, so that what they submit next travels along.
        if self._wires and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def link_lost(self, link: Link, reason: str) -> None:
        self._link = None
        disconnecting = self._loop.create_task(link.connection.disconnect(nowait=True))
        self._disconnecting.add(disconnecting)
        disconnecting.add_done_callback(self._disconnecting.discard)
        if not self._closed:
            _log.warning("redis %s: %s", self.node, reason)
            self._begin_outage(reason)
            self._on_trouble()

    def _flush(self) -> None:
        self._flush_scheduled = False
        self._send()

    def _send(self) -> None:
        link = self._link
        if link is None or not self._wires:
            return
        room = link.room
        while room > 0 and self._wires:
            wires, futures = self._take(room)
            if futures:
                link.send(wires, futures)
            room = link.room

    def _take(self, room: int) -> tuple[list[bytes], list[asyncio.Future[Any]]]:
        """The next batch, without the commands nobody waits for any more."""
        if len(self._wires) <= room and sum(map(len, self._wires)) <= BATCH_BYTES_MAX:
            wires, futures = self._wires, self._futures
            self._wires, self._futures = [], []
        else:
            count = self._count_for_batch(room)
            wires, futures = self._wires[:count], self._futures[:count]
            del self._wires[:count], self._futures[:count]
        if any([future.done() for future in futures]):  # noqa: C419 - a list is twice as fast here
            wanted = [(w, f) for w, f in zip(wires, futures, strict=True) if not f.done()]
            wires, futures = [w for w, _ in wanted], [f for _, f in wanted]
        return wires, futures

    def _count_for_batch(self, room: int) -> int:
        count = size = 0
        for wire in self._wires[:room]:
            size += len(wire)
            if count and size > BATCH_BYTES_MAX:
                break
            count += 1
        return count

    async def _connect(self) -> None:
        async with asyncio.timeout(self._connect_timeout_s):
            node, connection = await self._dial()
            try:
                report = parse_report(await ask(connection, "INFO"))
                if report.loading:
                    raise BusyLoadingError(f"{node} is loading its data")
                if report.role != "master":
                    # A replica promoted under our eyes would have changed without a reconnect to notice it by.
                    raise ReadOnlyError(f"{node} is a read only replica")
                if self._closed:  # Python 3.11's wait_for, under redis-py's handshake, can swallow a cancellation
                    raise NotSent("the transport is closed")
                self._on_server(node, report.identity)
                self.node = node
                self._link = Link(connection, owner=self, reply_timeout_s=self._reply_timeout_s)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
        self._connected_at = self._loop.time()
        if self._patience is not None:
            self._patience.cancel()
        if not self._closed:
            self._refusal = None
        self._flush()

    def _begin_outage(self, reason: str) -> None:
        patience_s = min(PATIENCE_S, self._connect_timeout_s)
        self._patience = self._loop.call_later(patience_s, self._lose_patience)
        self._trouble = reason
        self._reconnector = self._loop.create_task(self._reconnect())

    def _lose_patience(self) -> None:
        self._refusal = f"no connection: {self._trouble}"
        self._refuse_waiting(self._refusal)

    def _take_no_more(self, reason: str) -> None:
        self._closed = True
        self._refusal = reason
        self._refuse_waiting(reason)

    def _refuse_waiting(self, reason: str) -> None:
        futures, self._wires, self._futures = self._futures, [], []
        for future in futures:
            if not future.done():
                future.set_exception(NotSent(reason))

    def _note_trouble(self, error: Exception) -> None:
        if self._closed:
            return
        trouble = _describe(error)
        if trouble != self._trouble:  # rather than twice a second for as long as it lasts
            _log.warning("redis %s: cannot connect: %s", self.node, trouble, exc_info=not _is_expected(error))
        self._trouble = trouble
        if self._refusal is not None:
            self._refusal = f"no connection: {trouble}"
        self._on_trouble()

    async def _reconnect(self) -> None:
        pause_s = BACKOFF_FIRST_S
        if self._loop.time() - self._connected_at < BACKOFF_MAX_S:  # connected, and lost at once: do not spin
            await asyncio.sleep(pause_s)
        while not self._closed:
            try:
                await self._connect()
                return
            except Exception as error:  # whatever it is (a callback's too), giving up would end the transport for good
                self._note_trouble(error)
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause_s)  # noqa: S311 - spreads processes, hides nothing
            pause_s = min(2 * pause_s, BACKOFF_MAX_S)


_ASKING = pack_command("ASKING")


def _is_expected(error: Exception) -> bool:
    """No server or not the right one, rather than a bug; failed logins are ``RedisError``s, time-outs ``OSError``s."""
    return isinstance(error, RedisError | OSError | TransportError)


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark the exception of a future as seen that nobody may come to await."""
    if not future.cancelled():
        future.exception()
