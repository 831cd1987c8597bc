"""Servers that a test may kill, freeze, empty and start again: each of them with a data directory of its own."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import redis
from servers import copy_cluster

from holdfast.embedded.data_dir import Home, own_data_dir
from holdfast.embedded.postgres import PID_FILE as POSTGRES_PID_FILE
from holdfast.embedded.postgres import plan_postgres, postgres_url
from holdfast.embedded.programs import Programs, find_programs, reachable_programs
from holdfast.embedded.server import Server
from holdfast.embedded.valkey import PID_FILE as VALKEY_PID_FILE
from holdfast.embedded.valkey import plan_valkey

POSTGRES_SOCKET = ".s.PGSQL.5432"


class OwnServer:
    """One server process, which is started again only when the test says so."""

    def __init__(self, server: Server, pid_file: Path) -> None:
        self._server = server
        self._pid_file = pid_file

    @property
    def pid(self) -> int:
        return int(self._pid_file.read_text().split()[0])

    async def start(self) -> None:
        """Start it, and return when it answers."""
        await self._server.start()

    async def stop(self) -> None:
        """End it in order."""
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            self.thaw()
        await self._server.stop()

    def kill(self) -> None:
        """As a crash does: nothing is flushed, nothing is said."""
        os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class Store(OwnServer):
    """A Valkey with its append-only file, on a unix socket and a port."""

    def __init__(self, home: Home, program: Path) -> None:
        self.port = _free_port()
        plan = plan_valkey(home, program=program, durable=True)
        command = [*plan.command, "--port", str(self.port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"]
        super().__init__(Server(msgspec.structs.replace(plan, command=command)), home.valkey / VALKEY_PID_FILE)
        self._files = home.valkey
        self.url = f"redis://127.0.0.1:{self.port}/0"

    async def start_empty(self) -> None:
        """Start it without what it had; it must have ended, or just been killed."""
        await self._server.stop()
        for path in self._files.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        await self.start()

    def call(self, *parts: bytes | str | int) -> Any:
        """One command, behind everybody's back."""
        with redis.Redis(host="127.0.0.1", port=self.port, protocol=2, socket_timeout=10) as client:
            return client.execute_command(*parts)

    def info(self) -> dict[str, Any]:
        with redis.Redis(host="127.0.0.1", port=self.port, protocol=2, socket_timeout=10) as client:
            return dict(client.info("everything"))


class Database(OwnServer):
    """A Postgres that keeps what it was told to keep."""

    def __init__(self, home: Home, programs: Programs) -> None:
        plan = plan_postgres(home, programs=programs, durable=True)
        super().__init__(Server(plan), home.postgres / POSTGRES_PID_FILE)
        self.socket = home.sockets / POSTGRES_SOCKET
        self.url = postgres_url(home)

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """Rows, read or written behind everybody's back."""
        connection = await asyncpg.connect(self.url, timeout=10)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    async def value(self, statement: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        return (await self.fetch(statement, *arguments))[0][0]


@contextlib.asynccontextmanager
async def running_store(directory: Path) -> AsyncIterator[Store]:
    """A Valkey of this test's, until the end of the block."""
    with own_data_dir(directory) as home:
        store = Store(home, (await _programs(home)).valkey_server)
        await store.start()
        try:
            yield store
        finally:
            await store.stop()


@contextlib.asynccontextmanager
async def running_database(directory: Path, *, shared_dir: Path) -> AsyncIterator[Database]:
    """A Postgres of this test's, until the end of the block; its cluster is a copy of the run's template."""
    await asyncio.to_thread(copy_cluster, shared_dir, directory)
    with own_data_dir(directory) as home:
        database = Database(home, await _programs(home))
        await database.start()
        try:
            yield database
        finally:
            await database.stop()


async def _programs(home: Home) -> Programs:
    programs = find_programs()
    if home.account is not None:
        programs = await asyncio.to_thread(reachable_programs, programs, home.account, home.program_copies)
    return programs


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
