"""Embedded servers: a real Valkey and a real Postgres under one data directory, for as long as a block runs."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import msgspec

from holdfast.embedded.data_dir import Owner, announce, find_owner, own_data_dir
from holdfast.embedded.postgres import plan_postgres, postgres_url
from holdfast.embedded.programs import find_programs, reachable_programs
from holdfast.embedded.server import Server
from holdfast.embedded.valkey import plan_valkey, valkey_url


class EmbeddedServers(msgspec.Struct, frozen=True, kw_only=True):
    """Where the servers of a data directory listen."""

    redis_url: str
    database_url: str
    data_dir: Path


@contextlib.asynccontextmanager
async def embedded_servers(data_dir: Path, *, durable: bool = True) -> AsyncIterator[EmbeddedServers]:
    """Run both servers until the end of the block; one that dies is started again.

    They end with this process, whatever ends it. With *durable* false they are fast and forgetful, for tests.

    Raises:
        DataDirBusy: Another process runs servers there; ``running_servers`` finds them.
        DataDirUnusable: The directory, an account or a program is not as it must be.
        ServerFailed: A server did not start.
    """
    with own_data_dir(data_dir) as home:
        programs = find_programs()
        if home.account is not None:
            programs = await asyncio.to_thread(reachable_programs, programs, home.account, home.program_copies)
        servers = (
            Server(plan_valkey(home, program=programs.valkey_server, durable=durable)),
            Server(plan_postgres(home, programs=programs, durable=durable)),
        )
        running = EmbeddedServers(redis_url=valkey_url(home), database_url=postgres_url(home), data_dir=home.root)
        monitors: list[asyncio.Task[None]] = []
        try:
            await _start_together(servers)
            monitors += [asyncio.create_task(server.keep_running()) for server in servers]
            announce(home.lock, Owner(os.getpid(), running.redis_url, running.database_url))
            yield running
        finally:
            for monitor in monitors:
                monitor.cancel()
            await asyncio.gather(*monitors, return_exceptions=True)
            await asyncio.gather(*(server.stop() for server in servers))


def running_servers(data_dir: Path) -> EmbeddedServers | None:
    """Return the servers another process runs under *data_dir*, or ``None``; for commands beside ``holdfast serve``."""
    owner = find_owner(data_dir)
    if owner is None or not owner.redis_url:
        return None
    return EmbeddedServers(redis_url=owner.redis_url, database_url=owner.database_url, data_dir=data_dir)


async def _start_together(servers: Iterable[Server]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.start())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the first to fail; the other start was cancelled for it
