"""A whole installation of a test's own: servers behind proxies, several API processes, commands, and an organizer."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from command_line import COMMAND, CommandLine
from http_calls import Answer, Connection, NoAnswer
from own_servers import POSTGRES_SOCKET, Database, Store, running_database, running_store
from proxy import Proxy

from holdfast.children import Child, Stage, start_child
from holdfast.settings import Settings, load_settings
from holdfast.tokens import make_token

PARTITIONS = 8  # fewer than usual: a look into all of them is quick, and every one has something to do
CONFIRM_TIMEOUT_S = 2.0
READY_WAIT_S = 60.0
COMPLAINTS_MAX = 40
STAGES = (Stage(signal=signal.SIGTERM, grace_s=15.0),)
_LISTENING = "listening on "
SECRETS = {"HOLDFAST_JWT_SECRET": "k" * 40, "HOLDFAST_DATA_KEY": "A" * 43}


class Process:
    """A ``holdfast`` command that runs until it is stopped or killed; what it prints is in *log*."""

    def __init__(self, child: Child, log: Path) -> None:
        self._child = child
        self.log = log
        self.url = ""

    @property
    def has_ended(self) -> bool:
        """Whether it has come to its end, whichever."""
        return not psutil.pid_exists(self._child.guard_pid)

    def tree(self) -> list[psutil.Process]:
        """Itself and all that it has started."""
        try:
            return psutil.Process(self._child.guard_pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The API processes of a ``serve``, without their guards."""
        found = []
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.cmdline()[-2:] == ["-m", "holdfast.worker"] and "-I" not in process.cmdline():
                    found.append(process)
        return found

    def kill(self) -> None:
        """End it, and with it all that it has started, as the loss of its machine would."""
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    async def wait(self, within_s: float = READY_WAIT_S) -> int:
        """Its exit status."""
        async with asyncio.timeout(within_s):
            return await self._child.wait()

    async def stop(self) -> None:
        """End it in order, and see that nothing of it is left."""
        left = self.tree()
        await self._child.stop()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def said(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text(errors="replace")


class Rig:
    """What one test works with. ``urls`` are those of its API processes, each a ``serve`` of one or more workers."""

    def __init__(self, directory: Path, store: Store, database: Database, proxies: tuple[Proxy, Proxy]) -> None:
        self.directory = directory
        self.database = database
        self.store_proxy, self.database_proxy = proxies
        self.apis: list[Process] = []
        self._processes: list[Process] = []
        self.use_store(store)

    def use_store(self, store: Store) -> None:
        """Make *store* the one that the API processes and commands reach from now on, and the checker looks at."""
        self.store = store
        self.store_proxy.upstream = store.port
        self.command = CommandLine(
            REDIS_URL=store.url,
            DATABASE_URL=self.database.url,
            HOLDFAST_DATA_DIR=self.directory / "data",
            HOLDFAST_PARTITIONS=str(PARTITIONS),
            HOLDFAST_CONFIRM_TIMEOUT=str(CONFIRM_TIMEOUT_S),
            **SECRETS,
        )
        self.settings: Settings = load_settings(self.command.environment)

    @property
    def urls(self) -> list[str]:
        return [api.url for api in self.apis]

    def token(self, subject: str, *roles: str) -> str:
        """A bearer token."""
        return make_token(self.settings, subject, roles or ("customer",))

    async def serve(
        self, *, workers: int = 1, proxies: tuple[Proxy, Proxy] | None = None, public: bool = True, **variables: str
    ) -> Process:
        """Start a ``serve`` behind *proxies*, else behind the common ones, and wait until it is ready.

        Unless *public*, the crowd does not know of it.
        """
        store, database = proxies or (self.store_proxy, self.database_proxy)
        process = await self.start(
            *("serve", "--port", "0", "--workers", str(workers)),
            REDIS_URL=_redis_url(store),
            DATABASE_URL=_database_url(database),
            **variables,
        )
        deadline = time.monotonic() + READY_WAIT_S
        while not process.url:
            lines = [line for line in process.said().splitlines() if line.startswith(_LISTENING)]
            if lines:
                process.url = lines[0].removeprefix(_LISTENING)
            assert time.monotonic() < deadline, process.said()
            assert not process.has_ended, process.said()
            await asyncio.sleep(0.02)
        if public:
            self.apis.append(process)
        return process

    async def reconcile(self, proxies: tuple[Proxy, Proxy]) -> Process:
        """Start a reconciler of its own, behind *proxies*."""
        return await self.start("reconcile", REDIS_URL=_redis_url(proxies[0]), DATABASE_URL=_database_url(proxies[1]))

    async def start(self, *arguments: str, **variables: str) -> Process:
        """Start any command of ``holdfast`` that runs on."""
        log = self.directory / f"{arguments[0]}-{len(self._processes)}.log"
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            child = await start_child(
                [*COMMAND, *arguments], stages=STAGES, env=self.command.environment | variables, output=descriptor
            )
        finally:
            os.close(descriptor)
        self._processes.append(Process(child, log))
        return self._processes[-1]

    async def stop_processes(self) -> None:
        """End all commands, so that only the servers are left."""
        for process in self._processes:
            for stopped in process.tree():
                with contextlib.suppress(psutil.NoSuchProcess):
                    stopped.resume()  # a frozen one would not hear of it
        await asyncio.gather(*(process.stop() for process in self._processes))
        self._processes.clear()
        self.apis.clear()

    def complaints(self) -> list[str]:
        """The last errors that API processes and commands have logged."""
        lines = [line for process in self._processes for line in process.said().splitlines()]
        return [line for line in lines if '"error"' in line or "Error" in line][-COMPLAINTS_MAX:]

    async def organize(self, method: str, path: str, body: Any = None) -> Any:
        """A request of the organizer's that must succeed."""
        connection = Connection(self.urls[0])
        try:
            answer = await connection.call(method, path, token=self.token("olga", "organizer", "admin"), body=body)
        finally:
            connection.close()
        assert answer.status in (200, 201), (method, path, answer.status, answer.body)
        return answer.json()

    async def ask(self, method: str, path: str, *, customer: str, body: Any = None, key: str | None = None) -> Answer:
        """A single request of a customer's to whichever API process answers.

        Raises:
            NoAnswer: None of them does.
        """
        for url in self.urls:
            connection = Connection(url)
            try:
                return await connection.call(method, path, token=self.token(customer), body=body, key=key)
            except NoAnswer:
                continue
            finally:
                connection.close()
        raise NoAnswer("no API process answers")

    async def put_on_sale(self, definitions: Sequence[dict[str, Any]]) -> None:
        """Create and open events."""
        for definition in definitions:
            await self.organize("POST", "/v1/events", definition)
            await self.organize("POST", f"/v1/events/{definition['id']}/open")

    @contextlib.asynccontextmanager
    async def proxied(self, name: str) -> AsyncIterator[tuple[Proxy, Proxy]]:
        """Proxies of its own for one API process, in front of the same servers."""
        async with _proxies(self.directory, name, self.store, self.database) as proxies:
            yield proxies


@contextlib.asynccontextmanager
async def open_rig(directory: Path, *, shared_dir: Path, workers: int = 2, **variables: str) -> AsyncIterator[Rig]:
    """Servers, and ``holdfast serve`` with *workers* API processes and a reconciler, until the end of the block."""
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(running_store(directory / "store"))
        database = await stack.enter_async_context(running_database(directory / "database", shared_dir=shared_dir))
        proxies = await stack.enter_async_context(_proxies(directory, "p", store, database))
        rig = Rig(directory, store, database, proxies)
        stack.push_async_callback(rig.stop_processes)
        await rig.serve(workers=workers, **variables)
        yield rig


@contextlib.asynccontextmanager
async def _proxies(directory: Path, name: str, store: Store, database: Database) -> AsyncIterator[tuple[Proxy, Proxy]]:
    sockets = directory / name
    sockets.mkdir()
    async with (
        Proxy(sockets / "valkey", store.port) as store_proxy,
        Proxy(sockets / POSTGRES_SOCKET, database.socket) as database_proxy,
    ):
        yield store_proxy, database_proxy


def _redis_url(proxy: Proxy) -> str:
    return f"unix://{proxy.listen}"


def _database_url(proxy: Proxy) -> str:
    assert isinstance(proxy.listen, Path)
    return f"postgresql://holdfast@/holdfast?host={proxy.listen.parent}"
