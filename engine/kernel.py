"""Running scripts: keys, retries, loading on demand. What a reply means is its caller's business."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import ResponseError

import lua
from engine import figures
from engine.errors import Overloaded, StoreUnavailable
from engine.events import SellableEvent
from engine.keys import KeyRing, event_key, partition_key, partition_of
from engine.time_limits import TimeLimit
from engine.transport.errors import NotSent, OutcomeUnknown
from engine.transport.open import Transport
from engine.transport.servers import NodeAddress
from engine.transport.wire import pack_keys

T = TypeVar("T")

ANSWER_MAX_S = 0.7  # of one call, repetition included: a request is told of an outage within a second, HTTP and all
PATIENT_MAX_S = 5.0  # the same for work nobody waits for: longer than the transport's own limits for both sends
CONTINUE_MAX_S = 2.0  # how long one request may go on cleaning up after others before it gives up
LOADS_AGAIN_MAX = 2  # a state may be lost again just after it was loaded, or a load joined that came too early
SENDS_MAX = 2  # a lost reply is asked for once more, then the caller is told
# Answers by which a server says that it will not do it now; everything else is a bug of ours and stays an error.
REFUSALS_OF_SERVERS = frozenset(
    ("OOM", "LOADING", "BUSY", "MISCONF", "READONLY", "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN")
)


class Kernel:
    """Scripts of one installation, over one transport.

    Every script can be run again with the same arguments without a second effect: its effects hang on ids that the
    caller chose. That is what makes it right to repeat a call whose reply was lost.
    """

    def __init__(self, transport: Transport, *, partitions: int, answer_max_s: float = ANSWER_MAX_S) -> None:
        self.transport = transport
        self.partitions = partitions
        self._limit = TimeLimit(answer_max_s, stands_still=self._any_server_is_silent, late_max_s=PATIENT_MAX_S)
        self._heard: list[int] = []
        self._keys = KeyRing()
        self._load: Callable[[str], Awaitable[object]] | None = None

    def patient(self) -> "Kernel":
        """The same for audits, loads and repairs: a server that is slow but alive is waited for."""
        return Kernel(self.transport, partitions=self.partitions, answer_max_s=PATIENT_MAX_S)

    def load_events_with(self, load: Callable[[str], Awaitable[object]]) -> None:
        """Have events whose state is not in Redis put there by *load*."""
        self._load = load

    def partition_of(self, event: SellableEvent) -> int:
        """The partition that all keys of *event* are in."""
        return partition_of(event.event.id, event.definition.group, self.partitions)

    async def run(
        self,
        name: str,
        event: SellableEvent,
        args: Sequence[bytes],
        *,
        once: bytes | None = None,
        onces: Sequence[bytes] = (),
        load: bool = True,
        epoch: int | None = None,
    ) -> list[Any]:
        """Run a script on one event; ``CONTINUE``, ``LINE`` and, unless *load* is off, ``NOT_LOADED`` are followed up.

        *onces* is for scripts that take many idempotency keys, *epoch* for those with keys of one load.

        Raises:
            StoreUnavailable: Redis gave no answer in time, or cannot write now; repeating the request is safe.
        """
        script, partition = lua.load(name), self.partition_of(event)
        keys = self._keys.for_event(script, event.event.id, partition, once, epoch)
        if onces:
            keys = self._keys.with_onces(keys, partition, onces)
        call = partial(self.transport.evalsha, script, keys, args)
        reply = await self._send_until_done(name, call)
        if reply[0] != b"NOT_LOADED" and reply[0] != b"LINE":
            return reply
        return await self._send_once_ready(name, call, reply, [event], load=load)

    def begin(
        self, name: str, event: SellableEvent, args: Sequence[bytes], *, onces: Sequence[bytes] = ()
    ) -> asyncio.Future[Any]:
        """Send a script's call at once, and once. The reply may be an error as an instance: :meth:`run` goes on then.

        Raises:
            NotSent: It cannot be sent now.
        """
        script, partition = lua.load(name), self.partition_of(event)
        keys = self._keys.with_onces(self._keys.for_event(script, event.event.id, partition), partition, onces)
        began = time.perf_counter()
        reply = self.transport.begin_evalsha(script, keys, args)
        reply.add_done_callback(partial(_observe, name, began))
        return reply

    async def within_limit(self, work: Awaitable[T]) -> T:
        """The result of *work*, calls and all, if it comes as soon as that of one call must.

        Raises:
            StoreUnavailable: It does not.
        """
        wait = self._limit.begin()
        try:
            return await work
        except asyncio.CancelledError:
            if not wait.is_over():
                raise
            raise self._too_late() from None
        finally:
            wait.end()

    async def run_over(
        self,
        name: str,
        events: Sequence[SellableEvent],
        args: Sequence[bytes],
        *,
        once: bytes | None = None,
        load: bool = True,
    ) -> list[Any]:
        """The same for several events, all of one partition."""
        if len(events) == 1:
            return await self.run(name, events[0], args, once=once, load=load)
        script, partition = lua.load(name), self.partition_of(events[0])
        keys = self._keys.for_events(script, [event.event.id for event in events], partition, once)
        call = partial(self.transport.evalsha, script, keys, args)
        reply = await self._send_until_done(name, call)
        if reply[0] != b"NOT_LOADED" and reply[0] != b"LINE":
            return reply
        return await self._send_once_ready(name, call, reply, events, load=load)

    async def run_in_partition(
        self,
        name: str,
        partition: int,
        args: Sequence[bytes],
        *,
        event_id: str | None = None,
        once: bytes | None = None,
    ) -> list[Any]:
        """Run a script that concerns a partition, or an event of it that need not be known otherwise.

        Raises:
            StoreUnavailable: Redis gave no answer, or cannot write now; repeating the request is safe.
        """
        script = lua.load(name)
        if event_id is None:
            keys = self._keys.for_partition(script, partition)
        else:
            keys = self._keys.for_event(script, event_id, partition, once)
        return await self._send_until_done(name, partial(self.transport.evalsha, script, keys, args))

    async def time_ms(self, partition: int) -> int:
        """Redis's clock, on the node that has the partition."""
        slot = pack_keys([partition_key(partition, "journal")]).slot
        return _ms(await self._send(lambda: self.transport.command("TIME", slot=slot)))

    async def node_time_ms(self, node: NodeAddress) -> int:
        """The clock of one node."""
        return _ms(await self._send(lambda: self.transport.command("TIME", node=node)))

    async def epoch_in_store(self, event: SellableEvent) -> int | None:
        """The epoch of the event's state in Redis; ``None`` when there is none, or none that can be read."""
        epoch = await self.event_command(event, "HGET", "state", "epoch")
        return int(epoch) if epoch is not None and epoch.isdigit() else None

    async def event_command(self, event: SellableEvent, verb: str, key: str, *args: bytes | str | int) -> Any:
        """A plain command on one key of an event."""
        name = event_key(self.partition_of(event), event.event.id, key)
        return await self.command(verb, name, *args)

    async def event_subcommand(self, event: SellableEvent, verb: str, about: str, key: str) -> Any:
        """A plain command of two words (``XINFO STREAM``) on one key of an event."""
        return await self._subcommand(verb, about, event_key(self.partition_of(event), event.event.id, key))

    async def event_command_in(
        self, partition: int, event_id: str, verb: str, key: str, *args: bytes | str | int
    ) -> Any:
        """The same of an event of which no more than id and partition are known."""
        return await self.command(verb, event_key(partition, event_id, key), *args)

    async def partition_command(self, partition: int, verb: str, key: str, *args: bytes | str | int) -> Any:
        """A plain command on one key of a partition."""
        return await self.command(verb, partition_key(partition, key), *args)

    async def partition_subcommand(self, partition: int, verb: str, about: str, key: str) -> Any:
        """A plain command of two words (``XINFO STREAM``) on one key of a partition."""
        return await self._subcommand(verb, about, partition_key(partition, key))

    async def _subcommand(self, verb: str, about: str, name: bytes) -> Any:
        slot = pack_keys([name]).slot
        return await self._send(lambda: self.transport.command(verb, about, name, slot=slot))

    async def command(self, verb: str, key: bytes, *args: bytes | str | int) -> Any:
        """A plain command whose first argument is its key; it must be one that may safely run twice."""
        slot = pack_keys([key]).slot
        return await self._send(lambda: self.transport.command(verb, key, *args, slot=slot))

    async def send_once(self, key: bytes, wires: Sequence[bytes]) -> None:
        """Plain commands on keys of *key*'s slot, packed already, of which none ever runs twice.

        Raises:
            StoreUnavailable: A reply is missing, or a server refuses; which of them have run is not known.
        """
        slot = pack_keys([key]).slot
        await self._send(lambda: self.transport.packed(wires, slot=slot), once=True)

    async def _send_until_done(self, name: str, call: Callable[[], Awaitable[Any]]) -> list[Any]:
        """Call again while the script answers that it only cleaned up, for a bounded time."""
        began = time.perf_counter()
        status = b"unavailable"
        try:
            reply: list[Any] = await self._send(call)
            while reply[0] == b"CONTINUE":
                if time.perf_counter() - began > CONTINUE_MAX_S:
                    raise Overloaded("lapsed holds are still being ended")
                reply = await self._send(call)
            status = reply[0]
            return reply
        finally:
            figures.SCRIPTS.observe(time.perf_counter() - began, name, status)

    async def _send_once_ready(
        self,
        name: str,
        call: Callable[[], Awaitable[Any]],
        reply: list[Any],
        events: Sequence[SellableEvent],
        *,
        load: bool,
    ) -> list[Any]:
        """Call again once what stands in the way is done: an event put into Redis, people in line asked first."""
        until, loads = time.perf_counter() + CONTINUE_MAX_S, 0
        while reply[0] in (b"NOT_LOADED", b"LINE"):
            concerned = events[int(reply[1]) - 1] if len(reply) > 1 else events[0]
            if reply[0] == b"NOT_LOADED":
                if self._load is None or not load or loads == len(events) + LOADS_AGAIN_MAX:
                    break
                loads += 1
                await self._load(concerned.event.id)
            elif time.perf_counter() > until:
                raise Overloaded("people in line are still being asked")
            else:
                await self.run("offer_places", concerned, offer_args(concerned))
            reply = await self._send_until_done(name, call)
        return reply

    def _any_server_is_silent(self) -> bool:
        """Whether a server is away, or has owed replies and sent nothing since this was asked last."""
        links = self.transport.reports()
        before, self._heard = self._heard, [link.heard_count for link in links]
        if len(before) != len(links):
            before = [-1] * len(links)
        return any(
            not link.connected or (link.unanswered and link.heard_count == heard)
            for link, heard in zip(links, before, strict=True)
        )

    async def _send(self, call: Callable[[], Awaitable[Any]], *, once: bool = False) -> Any:
        wait = self._limit.begin()
        try:
            try:
                return await call()
            except (NotSent, OutcomeUnknown, ResponseError) as error:
                return await _send_again(call, error, 1 if once else SENDS_MAX)
        except asyncio.CancelledError:
            if not wait.is_over():
                raise
            raise self._too_late() from None
        finally:
            wait.end()

    def _too_late(self) -> StoreUnavailable:
        return StoreUnavailable(f"no answer within {self._limit.limit_s:g} s")


def _observe(name: str, began: float, answer: asyncio.Future[Any]) -> None:
    """Count a call by what came of it, as ``_send_until_done`` does."""
    is_answered = not answer.cancelled() and answer.exception() is None and isinstance(answer.result(), list)
    status = answer.result()[0] if is_answered else b"unavailable"
    figures.SCRIPTS.observe(time.perf_counter() - began, name, status)


async def _send_again(call: Callable[[], Awaitable[Any]], error: Exception, sends_max: int) -> Any:
    """Send once more when the reply was lost; whatever else *error* is, it stands."""
    for _ in range(1, sends_max):
        if not isinstance(error, OutcomeUnknown):
            break
        await asyncio.sleep(0)
        try:
            return await call()
        except (NotSent, OutcomeUnknown, ResponseError) as next_error:
            error = next_error
    if isinstance(error, ResponseError) and _code(error) not in REFUSALS_OF_SERVERS:
        raise error
    raise StoreUnavailable(str(error)) from error


def offer_args(event: SellableEvent) -> list[bytes]:
    """The arguments of ``offer_places``, to be run before anybody claims places while people in line come first."""
    return [event.event.id.encode(), b"%d" % (event.definition.policy.offer_ttl * 1000)]


def _ms(time: tuple[bytes, bytes]) -> int:
    """A reply of ``TIME`` in ms."""
    seconds, microseconds = time
    return int(seconds) * 1000 + int(microseconds) // 1000


def _code(error: ResponseError) -> str:
    """The first word of an error reply; redis-py takes it off where it has an exception class for it."""
    return error.status_code or str(error).partition(" ")[0]
