"""Running scripts: keys, retries, loading on demand. What a reply means is its caller's business."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

import lua
from engine.errors import Overloaded, StoreUnavailable
from engine.events import SellableEvent
from engine.keys import KeyRing, event_key, partition_key, partition_of
from engine.transport.errors import NotSent, OutcomeUnknown
from engine.transport.open import Transport
from engine.transport.servers import NodeAddress
from engine.transport.wire import pack_keys

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

    def __init__(self, transport: Transport, *, partitions: int) -> None:
        self.transport = transport
        self.partitions = partitions
        self._keys = KeyRing()
        self._load: Callable[[str], Awaitable[object]] | None = None

    def load_events_with(self, load: Callable[[str], Awaitable[object]]) -> None:
        """Have events whose state is not in Redis put there by *load*."""
        self._load = load

    def partition_of(self, event: SellableEvent) -> int:
        """The partition that all keys of *event* are in."""
        return partition_of(event.event.id, event.definition.group, self.partitions)

    async def run(
        self, name: str, event: SellableEvent, args: Sequence[bytes], *, once: bytes | None = None, load: bool = True
    ) -> list[Any]:
        """Run a script on one event, with ``CONTINUE`` followed up and, unless *load* is off, ``NOT_LOADED`` mended.

        Raises:
            StoreUnavailable: Redis gave no answer, or cannot write now; repeating the request is safe.
        """
        return await self.run_over(name, [event], args, once=once, load=load)

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
        script = lua.load(name)
        partition = self.partition_of(events[0])
        if len(events) == 1:
            keys = self._keys.for_event(script, events[0].event.id, partition, once)
        else:
            keys = self._keys.for_events(script, [event.event.id for event in events], partition, once)

        async def call() -> Any:
            return await self.transport.evalsha(script, keys, args)

        reply = await self._send_until_done(call)
        if self._load is None or not load:
            return reply
        for _ in range(len(events) + LOADS_AGAIN_MAX):
            if reply[0] != b"NOT_LOADED":
                break
            missing = events[int(reply[1]) - 1] if len(reply) > 1 else events[0]
            await self._load(missing.event.id)
            reply = await self._send_until_done(call)
        return reply

    async def run_in(self, name: str, partition: int, event_id: str, args: Sequence[bytes]) -> list[Any]:
        """Run a script on an event of which no more than id and partition are known; nothing is loaded for it.

        Raises:
            StoreUnavailable: Redis gave no answer, or cannot write now; repeating the call is safe.
        """
        script = lua.load(name)
        keys = self._keys.for_event(script, event_id, partition)
        return await self._send_until_done(lambda: self.transport.evalsha(script, keys, args))

    async def time_ms(self, partition: int) -> int:
        """Redis's clock, on the node that has the partition."""
        slot = pack_keys([partition_key(partition, "journal")]).slot
        return _ms(await self._send(lambda: self.transport.command("TIME", slot=slot)))

    async def node_time_ms(self, node: NodeAddress) -> int:
        """The clock of one node."""
        return _ms(await self._send(lambda: self.transport.command("TIME", node=node)))

    async def epoch_in_store(self, event: SellableEvent) -> int | None:
        """The epoch of the event's state in Redis; ``None`` when there is none."""
        epoch = await self.event_command(event, "HGET", "state", "epoch")
        return None if epoch is None else int(epoch)

    async def event_command(self, event: SellableEvent, verb: str, key: str, *args: bytes | str | int) -> Any:
        """A plain command on one key of an event."""
        name = event_key(self.partition_of(event), event.event.id, key)
        return await self.command(verb, name, *args)

    async def event_command_in(
        self, partition: int, event_id: str, verb: str, key: str, *args: bytes | str | int
    ) -> Any:
        """The same of an event of which no more than id and partition are known."""
        return await self.command(verb, event_key(partition, event_id, key), *args)

    async def partition_command(self, partition: int, verb: str, key: str, *args: bytes | str | int) -> Any:
        """A plain command on one key of a partition."""
        return await self.command(verb, partition_key(partition, key), *args)

    async def command(self, verb: str, key: bytes, *args: bytes | str | int) -> Any:
        """A plain command whose first argument is its key; it must be one that may safely run twice."""
        slot = pack_keys([key]).slot
        return await self._send(lambda: self.transport.command(verb, key, *args, slot=slot))

    async def _send_until_done(self, call: Callable[[], Awaitable[Any]]) -> list[Any]:
        """Call again while the script answers that it only cleaned up, for a bounded time."""
        reply: list[Any] = await self._send(call)
        if reply[0] != b"CONTINUE":
            return reply
        give_up_at = time.monotonic() + CONTINUE_MAX_S
        while reply[0] == b"CONTINUE":
            if time.monotonic() > give_up_at:
                raise Overloaded("lapsed holds are still being ended")
            reply = await self._send(call)
        return reply

    async def _send(self, call: Callable[[], Awaitable[Any]]) -> Any:
        for attempt in range(1, SENDS_MAX + 1):
            try:
                return await call()
            except NotSent as error:
                raise StoreUnavailable(str(error)) from error
            except OutcomeUnknown as error:
                if attempt == SENDS_MAX:
                    raise StoreUnavailable(str(error)) from error
            except ResponseError as error:
                if _code(error) in REFUSALS_OF_SERVERS:
                    raise StoreUnavailable(str(error)) from error
                raise
            await asyncio.sleep(0)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _ms(time: tuple[bytes, bytes]) -> int:
    """A reply of ``TIME`` in ms."""
    seconds, microseconds = time
    return int(seconds) * 1000 + int(microseconds) // 1000


def _code(error: ResponseError) -> str:
    """The first word of an error reply; redis-py takes it off where it has an exception class for it."""
    return error.status_code or str(error).partition(" ")[0]
