"""The transport to one logical server: a fixed address, or a master that sentinels point out."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from engine.transport.connection import ConnectionSettings, open_connection
from engine.transport.multiplexer import Dial, Multiplexer, ScriptLike
from engine.transport.recovery import Budget, recover
from engine.transport.servers import LinkReport, NodeAddress, ServerChange, ServerIdentity, ServerWatch
from engine.transport.wire import PackedKeys, pack_evalsha, pack_shared_command


class SingleTransport:
    """Sends everything to the one server it is connected to."""

    def __init__(self, dial: Dial, *, connect_timeout_s: float, reply_timeout_s: float) -> None:
        self._watch = ServerWatch()
        self._multiplexer = Multiplexer(
            dial,
            on_server=self._see_server,
            connect_timeout_s=connect_timeout_s,
            reply_timeout_s=reply_timeout_s,
        )

    async def connect(self) -> None:
        """Raises ``NotSent`` when there is no usable server."""
        await self._multiplexer.connect()

    async def evalsha(self, script: ScriptLike, keys: PackedKeys, args: Sequence[bytes]) -> Any:
        wire = pack_evalsha(script.sha, keys, args)
        reply = await self._multiplexer.submit(wire)
        if isinstance(reply, RedisError):
            return await self._persist(wire, script, reply)
        return reply

    def begin_evalsha(self, script: ScriptLike, keys: PackedKeys, args: Sequence[bytes]) -> asyncio.Future[Any]:
        return self._multiplexer.submit_now(pack_evalsha(script.sha, keys, args))

    async def command(
        self,
        *parts: bytes | str | int,
        slot: int | None = None,  # noqa: ARG002 - of interest in a cluster only
        node: NodeAddress | None = None,  # noqa: ARG002 - the same
    ) -> Any:
        wire = pack_shared_command(*parts)
        reply = await self._multiplexer.submit(wire)
        if isinstance(reply, RedisError):
            return await self._persist(wire, None, reply)
        return reply

    async def packed(
        self,
        wires: Sequence[bytes],
        *,
        slot: int,  # noqa: ARG002 - of interest in a cluster only
    ) -> Sequence[Any]:
        replies = await asyncio.gather(*[self._multiplexer.submit(wire) for wire in wires])
        return [
            await self._persist(wire, None, reply) if isinstance(reply, RedisError) else reply
            for wire, reply in zip(wires, replies, strict=True)
        ]

    def nodes(self) -> Sequence[NodeAddress]:
        node = self._multiplexer.node
        return () if node is None else (node,)

    def reports(self) -> Sequence[LinkReport]:
        return (self._multiplexer.report(),)

    def on_server_change(self, callback: Callable[[ServerChange], None]) -> None:
        self._watch.on_change(callback)

    async def aclose(self) -> None:
        await self._multiplexer.aclose()

    async def _persist(self, wire: bytes, script: ScriptLike | None, error: RedisError) -> Any:
        """Send again as long as the answers prove that nothing ran."""
        budget = Budget()
        while True:
            await recover(self._multiplexer, error, script=script, budget=budget)
            reply = await self._multiplexer.submit(wire)
            if not isinstance(reply, RedisError):
                return reply
            error = reply

    def _see_server(self, node: NodeAddress, identity: ServerIdentity) -> None:
        self._watch.observe(node, identity)


def dial_server(node: NodeAddress, settings: ConnectionSettings) -> Dial:
    """Always the same address."""

    async def dial() -> tuple[NodeAddress, AbstractConnection]:
        return node, await open_connection(node, settings)

    return dial
