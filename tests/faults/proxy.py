"""A proxy between Holdfast and a server, by which tests do to single messages what networks do: delay, lose, cut, hide.

It listens on a unix socket or on a port of the loopback interface, and forwards to another one, which may be changed
while it runs. What it does applies to every connection, also to those that exist.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

Endpoint = Path | int
"""A unix socket, or a port of the loopback interface."""

CHUNK = 65_536
CATCH_WAIT_S = 30.0  # longer than anything a test waits for before it sends what is to be caught
SETTLE_S = 0.05  # a caught message's server has done its work by then


class Catch:
    """A trap for the next message to the server that contains *pattern*, on a connection that has named *about*.

    With *forward* false the message never arrives while the trap is shut. With *forward* true the server gets it and
    acts on it, and whatever it replies on that connection is withheld.
    """

    def __init__(self, pattern: bytes, *, about: bytes, forward: bool) -> None:
        self.pattern = pattern
        self.about = about
        self.forward = forward
        self._caught = asyncio.Event()
        self._opened = asyncio.Event()

    async def wait(self) -> None:
        """Until something is caught."""
        async with asyncio.timeout(CATCH_WAIT_S):
            await self._caught.wait()
        await asyncio.sleep(SETTLE_S)

    def open(self) -> None:
        """Let it and all that is behind it go on its way."""
        self._opened.set()

    def catches(self, chunk: bytes, connection: "_Connection") -> bool:
        """For the proxy: whether this is it. Others may send the same on connections of theirs, a ``COMMIT`` say."""
        if self.about in chunk:
            connection.about = self
        return connection.about is self and self.pattern in chunk

    async def hold(self) -> None:
        """For the proxy: something is in the trap, and stays there until it is opened."""
        self._caught.set()
        await self._opened.wait()


class _Connection:
    """Both directions of one connection."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.about: Catch | None = None
        """The trap for what this connection has spoken of."""
        self.catch: Catch | None = None
        """The trap that it is in."""

    def abort(self) -> None:
        """A reset, as far as a unix socket knows one."""
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """One listening address in front of one server at a time."""

    def __init__(self, listen: Endpoint, upstream: Endpoint) -> None:
        self.listen = listen
        self.upstream = upstream
        self.refusing = False
        """New connections are closed at once."""
        self.silent = False
        """Bytes of either direction vanish; connections stay as they are."""
        self.losing_replies = False
        """What the server says vanishes; what it is told arrives."""
        self.delay_s = 0.0
        """Every chunk of replies is this late."""
        self.rewrite: Callable[[bytes], bytes] | None = None
        """Makes other replies of the server's."""
        self.lost = 0
        """Chunks of replies that have vanished."""
        self._cut_after: int | None = None
        self._catch: Catch | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Proxy":
        if isinstance(self.listen, Path):
            self._server = await asyncio.start_unix_server(self._accept, self.listen)
            self.listen.chmod(0o777)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.listen)
            self.listen = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection that exists."""
        for connection in tuple(self._connections):
            connection.abort()

    def cut_after(self, count: int) -> None:
        """Let *count* more bytes of replies through, then reset the connection in the middle of a message."""
        self._cut_after = count

    def catch_next(self, pattern: bytes, *, forward: bool, about: bytes = b"") -> Catch:
        """Set a trap, in place of the one before."""
        self._catch = Catch(pattern, about=about, forward=forward)
        return self._catch

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.refusing:
                raise ConnectionRefusedError
            if isinstance(self.upstream, Path):
                upstream = await asyncio.open_unix_connection(self.upstream)
            else:
                upstream = await asyncio.open_connection("127.0.0.1", self.upstream)
            await self._serve((reader, writer), upstream)
        except (OSError, asyncio.CancelledError):  # only __aexit__ cancels; the stream's callback would complain of it
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _serve(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        connection = _Connection(client[1], server[1])
        self._connections.add(connection)
        pumps = (
            asyncio.create_task(self._pump_requests(connection, client[0])),
            asyncio.create_task(self._pump_replies(connection, server[0])),
        )
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._connections.discard(connection)
            connection.client.close()
            connection.server.close()

    async def _pump_requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(CHUNK):
            if self.silent:
                continue
            catch = self._catch
            if catch is not None and catch.catches(chunk, connection):
                self._catch = None
                if catch.forward:
                    connection.catch = catch
                else:
                    await catch.hold()
            connection.server.write(chunk)
            await connection.server.drain()

    async def _pump_replies(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(CHUNK):
            if connection.catch is not None:
                await connection.catch.hold()
                connection.catch = None
            if self.silent or self.losing_replies:
                self.lost += 1
                continue
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.rewrite is not None:
                chunk = self.rewrite(chunk)
            if self._cut_after is not None and len(chunk) > self._cut_after:
                connection.client.write(chunk[: self._cut_after])
                await connection.client.drain()
                self._cut_after = None
                return
            if self._cut_after is not None:
                self._cut_after -= len(chunk)
            connection.client.write(chunk)
            await connection.client.drain()
