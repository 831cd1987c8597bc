"""The way in: from a URL to a transport that is connected."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from engine.transport.cluster import ClusterTransport
from engine.transport.connection import connection_settings
from engine.transport.multiplexer import ScriptLike
from engine.transport.sentinel import SENTINEL_TIMEOUT_S, dial_master
from engine.transport.servers import LinkReport, NodeAddress, ServerChange
from engine.transport.single import SingleTransport, dial_server
from engine.transport.urls import ClusterTarget, SentinelTarget, ServerTarget, parse_url
from engine.transport.wire import PackedKeys


class Transport(Protocol):
    """Scripts and commands to Redis, whatever its topology. Belongs to one event loop; many callers share it.

    A reply is ``bytes``, ``int``, ``None`` or a list of these. Every method that talks to a server raises
    ``redis.exceptions.ResponseError`` for a server's refusal, and ``NotSent`` or ``OutcomeUnknown`` when there is no
    answer. Nothing is ever sent again that may have run.
    """

    async def evalsha(self, script: ScriptLike, keys: PackedKeys, args: Sequence[bytes]) -> Any:
        """Run *script*, after loading it into the server when it is not known there."""
        ...

    def begin_evalsha(self, script: ScriptLike, keys: PackedKeys, args: Sequence[bytes]) -> asyncio.Future[Any]:
        """Send *script* at once, and once: the reply, or else an error reply as an instance, or ``OutcomeUnknown``.

        Nothing is done about an error reply: :meth:`evalsha` does, and is what to go on with.

        Raises:
            NotSent: It cannot be sent now; other commands would wait for a connection.
        """
        ...

    async def command(self, *parts: bytes | str | int, slot: int | None = None, node: NodeAddress | None = None) -> Any:
        """Run any other command, on the master of *slot*, on *node*, or on any master.

        Raises:
            ValueError: The command would block, or change the connection that everybody shares.
        """
        ...

    async def packed(self, wires: Sequence[bytes], *, slot: int) -> Sequence[Any]:
        """Run plain commands that are packed already, all on keys of *slot*, in one go and in no order."""
        ...

    def nodes(self) -> Sequence[NodeAddress]:
        """The masters known now."""
        ...

    def reports(self) -> Sequence[LinkReport]:
        """How things stand with the connection to each of them."""
        ...

    def on_server_change(self, callback: Callable[[ServerChange], None]) -> None:
        """Have *callback* called when slots are found to be served by another server, or another life of it.

        It is called before any waiting command is sent there. It must not block; when it raises, the connection is
        not used, and the change is reported again with the next one.
        """
        ...

    async def aclose(self) -> None:
        """Fail what is waiting or in flight, close all connections; may be called again."""
        ...


async def open_transport(
    url: str, *, connect_timeout_s: float = 2.0, reply_timeout_s: float = 2.0, client_name: str = "holdfast"
) -> Transport:
    """Connect to what *url* names; see :func:`engine.transport.urls.parse_url` for its forms.

    *connect_timeout_s* bounds one attempt to connect; a command waits a second at most for a lost connection to come
    back, or *connect_timeout_s* if that is less. *reply_timeout_s* is how long a reply may take before the connection
    is given up.

    Raises:
        ValueError: The URL is wrong; the message names the part.
        NotSent: There is no usable server now.
    """
    target = parse_url(url)
    settings = connection_settings(target.options, tls=target.tls, client_name=client_name, timeout_s=connect_timeout_s)
    transport: SingleTransport | ClusterTransport
    match target:
        case ServerTarget():
            transport = SingleTransport(
                dial_server(target.node, settings),
                connect_timeout_s=connect_timeout_s,
                reply_timeout_s=reply_timeout_s,
            )
        case SentinelTarget():
            dial = dial_master(
                target.sentinels,
                target.service,
                sentinel_settings=connection_settings(
                    target.sentinel_options,
                    tls=target.tls,
                    client_name=client_name,
                    timeout_s=min(SENTINEL_TIMEOUT_S, connect_timeout_s),
                ),
                settings=settings,
            )
            transport = SingleTransport(dial, connect_timeout_s=connect_timeout_s, reply_timeout_s=reply_timeout_s)
        case ClusterTarget():
            transport = ClusterTransport(
                target.seeds, settings, connect_timeout_s=connect_timeout_s, reply_timeout_s=reply_timeout_s
            )
    try:
        await transport.connect()
    except BaseException:
        await transport.aclose()
        raise
    return transport
