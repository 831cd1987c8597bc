"""Connections made by redis-py (TCP, TLS, unix socket, AUTH, SELECT), and the taking over of their sockets.

The only module that touches private parts of redis-py: the streams of a connection, its table of errors. Reading
replies through redis-py costs a time-out context and several coroutines per reply, which is most of what a command
costs; after the handshake the socket is given to a protocol of ours instead.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from redis._parsers import BaseParser
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    RedisSSLContext,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from engine.transport.servers import NodeAddress


class ConnectionSettings(msgspec.Struct, frozen=True):
    """Everything about a connection but its address; made by :func:`connection_settings`."""

    arguments: Mapping[str, Any]
    tls: RedisSSLContext | None


def connection_settings(
    options: Mapping[str, Any], *, tls: bool, client_name: str, timeout_s: float
) -> ConnectionSettings:
    """Check the options of a URL; *timeout_s* is for connecting, and for each reply of the handshake.

    Raises:
        ValueError: An option has a value redis-py refuses, or names a certificate that cannot be read.
    """
    arguments: dict[str, Any] = {
        **options,
        "client_name": client_name,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),  # a repeated script runs twice; the default repeats
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),  # Valkey answers it with an error
        "protocol": 2,  # replies are bytes, int, list or None on every server; RESP3 adds maps, floats and pushes
    }
    if not tls:
        return ConnectionSettings(arguments=arguments, tls=None)
    try:
        context = SSLConnection(**arguments).ssl_context
        context.get()  # reads the certificates once, rather than again for every connection
    except (RedisError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"Redis URL: an ssl_ option is wrong: {error}") from error
    arguments = {name: value for name, value in arguments.items() if not name.startswith("ssl_")}
    return ConnectionSettings(arguments=arguments, tls=context)


async def open_connection(node: NodeAddress, settings: ConnectionSettings) -> AbstractConnection:
    """A connection ready for commands."""
    connection: AbstractConnection
    if not node.port:
        arguments = {name: value for name, value in settings.arguments.items() if name != "socket_keepalive"}
        connection = UnixDomainSocketConnection(path=node.host, **arguments)
    elif settings.tls is None:
        connection = Connection(host=node.host, port=node.port, **settings.arguments)
    else:
        connection = SSLConnection(host=node.host, port=node.port, **settings.arguments)
        connection.ssl_context = settings.tls
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def ask(connection: AbstractConnection, *parts: str) -> Any:
    """One command and its reply on a connection that has not been handed over."""
    await connection.send_command(*parts)
    return await connection.read_response()


async def ask_once(node: NodeAddress, settings: ConnectionSettings, *parts: str) -> Any:
    """One command over a connection of its own: for what is asked rarely, and of servers not otherwise talked to."""
    connection = await open_connection(node, settings)
    try:
        return await ask(connection, *parts)
    finally:
        await connection.disconnect(nowait=True)


def hand_over(
    connection: AbstractConnection, protocol: asyncio.Protocol
) -> tuple[asyncio.WriteTransport, asyncio.BaseProtocol]:
    """Let *protocol* receive what *connection*'s socket receives from now on; answer its transport and old protocol.

    The caller keeps *connection* (its stream reader would abort the socket when collected), passes ``connection_lost``
    on to the old protocol, which waits for it, and disconnects *connection* at the end.

    Raises:
        ConnectionError: The connection was lost meanwhile, or the server sent something nobody asked for.
    """
    reader, writer = connection._reader, connection._writer
    if reader is None or writer is None or writer.transport.is_closing() or reader.at_eof():
        raise ConnectionError("the connection was lost during its handshake")
    if reader._buffer:  # type: ignore[attr-defined]  # no public way to ask without reading
        raise ConnectionError("the server sent something nobody asked for during the handshake")
    transport = writer.transport
    previous = transport.get_protocol()
    transport.set_protocol(protocol)
    return transport, previous


def error_of_reply(text: str) -> RedisError:
    """The exception redis-py has for an error reply."""
    try:
        error: RedisError = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    except ValueError:  # a script's own error that begins like a redirection, but is none
        return ResponseError(text)
    return error
