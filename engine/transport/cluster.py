"""The transport to a Redis Cluster: one multiplexer per master, commands routed by slot, redirections followed.

The map of slots is kept as two lists of 16 384 entries, so that routing is one index. It is fetched anew after a
``MOVED``, and after every lost connection or failed attempt at one (one fetch at a time, a few a second at most): so a
failover is noticed even though the dead master answers nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import AskError, MovedError, NoScriptError, RedisError

from engine.transport.connection import ConnectionSettings, ask_once
from engine.transport.errors import NotSent
from engine.transport.multiplexer import Multiplexer, ScriptLike
from engine.transport.recovery import Budget, recover
from engine.transport.servers import (
    SLOT_COUNT,
    LinkReport,
    NodeAddress,
    ServerChange,
    ServerIdentity,
    ServerWatch,
    SlotRange,
    slot_ranges,
)
from engine.transport.single import dial_server
from engine.transport.wire import PackedKeys, pack_evalsha, pack_shared_command

REFRESH_INTERVAL_S = 0.2  # a failover takes seconds, a storm of MOVED milliseconds
MAP_TIMEOUT_S = 0.5  # for one node to say what it knows; then the next one is asked
ASKED_KEEP_S = 30.0  # a node that only receives a slot's keys is not in the map; keep its connection between two ASKs

_log = logging.getLogger(__name__)


class ClusterTransport:
    """Sends every command to the master of its slot."""

    def __init__(
        self,
        seeds: Sequence[NodeAddress],
        settings: ConnectionSettings,
        *,
        connect_timeout_s: float,
        reply_timeout_s: float,
    ) -> None:
        self._seeds = tuple(seeds)
        self._settings = settings
        self._connect_timeout_s = connect_timeout_s
        self._reply_timeout_s = reply_timeout_s
        self._loop = asyncio.get_running_loop()
        self._watch = ServerWatch()
        self._identities: dict[NodeAddress, ServerIdentity] = {}
        self._multiplexers: dict[NodeAddress, Multiplexer] = {}
        self._asked_at: dict[NodeAddress, float] = {}
        self._node_of_slot: list[NodeAddress | None] = [None] * SLOT_COUNT
        self._owners: list[Multiplexer | None] = [None] * SLOT_COUNT
        self._refresher: asyncio.Task[None] | None = None
        self._refreshed_at = 0.0
        self._draining: dict[asyncio.Task[None], Multiplexer] = {}
        self._closed = False

    async def connect(self) -> None:
        """Learn the map from any seed; the masters are connected to in the background.

        Raises:
            NotSent: No seed answers, or none is part of a cluster with slots.
        """
        try:
            self._adopt(await self._fetch_map())
        except (RedisError, OSError) as error:
            raise NotSent(f"cannot connect: {error}") from error

    async def evalsha(self, script: ScriptLike, keys: PackedKeys, args: Sequence[bytes]) -> Any:
        owner = self._owners[keys.slot] or self._owner(keys.slot)
        return await self._run(owner, pack_evalsha(script.sha, keys, args), keys.slot, script)

    def begin_evalsha(self, script: ScriptLike, keys: PackedKeys, args: Sequence[bytes]) -> asyncio.Future[Any]:
        owner = self._owners[keys.slot] or self._owner(keys.slot)
        return owner.submit_now(pack_evalsha(script.sha, keys, args))

    async def command(self, *parts: bytes | str | int, slot: int | None = None, node: NodeAddress | None = None) -> Any:
        wire = pack_shared_command(*parts)
        if node is None:
            return await self._run(self._any_owner() if slot is None else self._owner(slot), wire, slot, None)
        if node not in self._multiplexers:
            raise NotSent(f"{node} is not a master of the cluster, or no longer")
        return await self._run(self._multiplexers[node], wire, None, None)

    async def packed(self, wires: Sequence[bytes], *, slot: int) -> Sequence[Any]:
        owner = self._owner(slot)
        return await asyncio.gather(*[self._run(owner, wire, slot, None) for wire in wires])

    def nodes(self) -> Sequence[NodeAddress]:
        return sorted({node for node in self._node_of_slot if node is not None})

    def reports(self) -> Sequence[LinkReport]:
        return [self._multiplexers[node].report() for node in self.nodes()]

    def on_server_change(self, callback: Callable[[ServerChange], None]) -> None:
        self._watch.on_change(callback)

    async def aclose(self) -> None:
        self._closed = True
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.wait([self._refresher])
        everything = [*self._multiplexers.values(), *self._draining.values()]
        await asyncio.gather(*(multiplexer.aclose() for multiplexer in everything))
        if self._draining:
            await asyncio.wait(self._draining)

    async def _run(self, multiplexer: Multiplexer, wire: bytes, slot: int | None, script: ScriptLike | None) -> Any:
        try:
            reply = await multiplexer.submit(wire)
        except NotSent as problem:
            return await self._persist(multiplexer, wire, slot, script, problem)
        if isinstance(reply, RedisError):
            return await self._persist(multiplexer, wire, slot, script, reply)
        return reply

    async def _persist(
        self,
        multiplexer: Multiplexer,
        wire: bytes,
        slot: int | None,
        script: ScriptLike | None,
        problem: NotSent | RedisError,
    ) -> Any:
        """Send again, to whom the answers point, as long as they prove that nothing ran."""
        budget = Budget()
        asking = False
        while True:
            match problem:
                case NotSent():
                    if slot is None or self._owner(slot) is multiplexer:
                        raise problem
                    await budget.redirect(problem)  # it waited for a master that has been replaced
                    multiplexer, asking = self._owner(slot), False
                case MovedError() if slot is not None:
                    await budget.redirect(problem)
                    multiplexer, asking = self._follow_moved(slot, _address(problem, multiplexer)), False
                case AskError() if slot is not None:
                    await budget.redirect(problem)
                    multiplexer, asking = self._follow_ask(_address(problem, multiplexer)), True
                case NoScriptError():
                    await recover(multiplexer, problem, script=script, budget=budget)
                case RedisError():
                    self._refresh_soon()
                    await recover(multiplexer, problem, script=script, budget=budget)
                    if slot is not None:
                        multiplexer, asking = self._owner(slot), False
            try:
                reply = await (multiplexer.asking(wire) if asking else multiplexer.submit(wire))
            except NotSent as error:
                problem = error
                continue
            if not isinstance(reply, RedisError):
                return reply
            problem = reply

    def _owner(self, slot: int) -> Multiplexer:
        owner = self._owners[slot]
        if owner is None:
            self._refresh_soon()
            raise NotSent(f"no master serves slot {slot}")
        return owner

    def _any_owner(self) -> Multiplexer:
        for owner in self._owners:
            if owner is not None:
                return owner
        raise NotSent("no master is known")

    def _follow_moved(self, slot: int, node: NodeAddress) -> Multiplexer:
        multiplexer = self._multiplexer(node)
        if self._owners[slot] is not multiplexer:
            self._note_owner(node, ((slot, slot),))
            self._node_of_slot[slot] = node
            self._owners[slot] = multiplexer
            self._refresh_soon()
        return multiplexer

    def _follow_ask(self, node: NodeAddress) -> Multiplexer:
        self._asked_at[node] = self._loop.time()
        return self._multiplexer(node)

    def _multiplexer(self, node: NodeAddress) -> Multiplexer:
        multiplexer = self._multiplexers.get(node)
        if multiplexer is None:
            if self._closed:
                raise NotSent("the transport is closed")
            multiplexer = self._multiplexers[node] = Multiplexer(
                dial_server(node, self._settings),
                on_server=self._see_server,
                on_trouble=self._refresh_soon,
                connect_timeout_s=self._connect_timeout_s,
                reply_timeout_s=self._reply_timeout_s,
            )
            multiplexer.connect_in_background()
        return multiplexer

    def _see_server(self, node: NodeAddress, identity: ServerIdentity) -> None:
        self._watch.observe(node, identity, _ranges_of(node, self._node_of_slot))
        self._identities[node] = identity

    def _note_owner(self, node: NodeAddress, slots: tuple[SlotRange, ...]) -> None:
        """Tell of slots that a node took over which we are connected to already; with others, connecting tells."""
        identity = self._identities.get(node)
        if identity is None:
            return
        try:
            self._watch.observe(node, identity, slots)
        except Exception as error:  # a callback's; until it takes note, nothing may be sent there
            raise NotSent(f"the change of server could not be noted: {error}") from error

    def _refresh_soon(self) -> None:
        if not self._closed and (self._refresher is None or self._refresher.done()):
            self._refresher = self._loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        await asyncio.sleep(self._refreshed_at + REFRESH_INTERVAL_S - self._loop.time())
        try:
            self._adopt(await self._fetch_map())
        except (RedisError, OSError, NotSent) as error:
            _log.warning("redis cluster: the map of slots stays as it is: %s", error)
            self._loop.call_later(REFRESH_INTERVAL_S, self._refresh_soon)
        finally:
            self._refreshed_at = self._loop.time()

    async def _fetch_map(self) -> list[NodeAddress | None]:
        problems = []
        for node in dict.fromkeys([*self.nodes(), *self._seeds]):
            try:
                async with asyncio.timeout(MAP_TIMEOUT_S):
                    node_of_slot = _parse_slots(await ask_once(node, self._settings, "CLUSTER SLOTS"), node)
            except (RedisError, OSError) as error:
                problems.append(f"{node}: {str(error) or type(error).__name__}")
                continue
            if any(node_of_slot):
                return node_of_slot
            problems.append(f"{node}: it knows of no slots")
        raise ConnectionError(f"no node describes the cluster ({'; '.join(problems)})")

    def _adopt(self, node_of_slot: list[NodeAddress | None]) -> None:
        """Route by a new map, after telling of the slots that changed hands."""
        nodes = {node for node in node_of_slot if node is not None}
        for node in nodes:
            self._note_owner(node, _ranges_of(node, node_of_slot))
        self._node_of_slot = node_of_slot
        for node in nodes:
            self._multiplexer(node)
        self._owners = [None if node is None else self._multiplexers[node] for node in node_of_slot]
        recently = self._loop.time() - ASKED_KEEP_S
        for node in self._multiplexers.keys() - nodes:
            if self._asked_at.get(node, 0.0) <= recently:
                self._drain(node)

    def _drain(self, node: NodeAddress) -> None:
        self._asked_at.pop(node, None)
        self._identities.pop(node, None)
        multiplexer = self._multiplexers.pop(node)
        draining = self._loop.create_task(multiplexer.drain())
        self._draining[draining] = multiplexer
        draining.add_done_callback(self._draining.pop)


def _ranges_of(node: NodeAddress, node_of_slot: list[NodeAddress | None]) -> tuple[SlotRange, ...]:
    return slot_ranges(slot for slot, owner in enumerate(node_of_slot) if owner == node)


def _parse_slots(reply: Any, answering: NodeAddress) -> list[NodeAddress | None]:
    """The master of every slot, from ``CLUSTER SLOTS``: ``[first, last, [host, port, …], replica…]`` per range."""
    node_of_slot: list[NodeAddress | None] = [None] * SLOT_COUNT
    for first, last, master, *_ in reply:
        host = master[0].decode() if master[0] else ""
        node = NodeAddress(host=answering.host if host in _UNKNOWN_HOSTS else host, port=int(master[1]))
        node_of_slot[first : last + 1] = [node] * (last + 1 - first)
    return node_of_slot


def _address(redirection: AskError, answering: Multiplexer) -> NodeAddress:
    host: str = redirection.host
    if host in _UNKNOWN_HOSTS and answering.node is not None:
        host = answering.node.host
    return NodeAddress(host=host, port=redirection.port)


_UNKNOWN_HOSTS = ("", "?")  # a node that was not told its own name means: the same host as mine
