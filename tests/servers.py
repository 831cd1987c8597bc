"""Real Valkey and Postgres for the tests of one pytest process, run on a thread of their own."""

import asyncio
import contextlib
import fcntl
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import redis

from holdfast.embedded.servers import EmbeddedServers, embedded_servers

T = TypeVar("T")


class LocalServers:
    """Running servers, with what tests need to start from a clean state; its methods may be called from any thread."""

    def __init__(self, running: EmbeddedServers, loop: asyncio.AbstractEventLoop) -> None:
        self.redis_url = running.redis_url
        self.data_dir = running.data_dir
        self._maintenance_url = running.database_url
        self._loop = loop
        self._redis = redis.Redis.from_url(running.redis_url)

    def flush_redis(self) -> None:
        self._redis.flushall()

    @contextlib.contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """Lend a new database as a URL; *template* is the URL or name of one to copy, which nobody is connected to."""
        name = f"test_{uuid4().hex}"
        source = urlsplit(template).path.lstrip("/")
        # Copying files takes 12 ms; through the write-ahead log, as is usual, it takes 100.
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}" STRATEGY file_copy')
        try:
            yield urlsplit(self._maintenance_url)._replace(path=f"/{name}").geturl()
        finally:
            self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self._maintenance_url)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=60)


@contextlib.contextmanager
def local_servers(data_dir: Path, *, shared_dir: Path) -> Iterator[LocalServers]:
    """Run servers under *data_dir* until the end of the block; *shared_dir* is common to all pytest processes of a run.

    They end with this process even when it is killed: see ``holdfast/guard.py``.
    """
    copy_cluster(shared_dir, data_dir)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test servers", daemon=True)
    thread.start()

    def call(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=60)

    servers = embedded_servers(data_dir, durable=False)
    running = call(servers.__aenter__())
    try:
        yield LocalServers(running, loop)
    finally:
        call(servers.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


def copy_cluster(shared_dir: Path, data_dir: Path) -> None:
    """Copy a cluster made once per run, which is several times faster than ``initdb``."""
    template = shared_dir / "cluster-template"
    with (shared_dir / "cluster-template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            made = shared_dir / "cluster-template.new"
            asyncio.run(_make_cluster(made))
            made.rename(template)
    data_dir.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", template / "postgres", data_dir], check=True)  # -a keeps the owner when we are root


async def _make_cluster(data_dir: Path) -> None:
    async with embedded_servers(data_dir, durable=False):
        pass
