"""One embedded server: started, waited for, started again when it dies, stopped.

Every process of a server, down to a backend whose postmaster was killed, inherits one locked descriptor. So the lock
is free exactly when all of them are gone: unlike a pid file it cannot be stale, and no reused pid can deceive it.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from holdfast.children import Child, Stage, describe_exit, start_child
from holdfast.embedded.account import Account
from holdfast.embedded.errors import ServerFailed

READY_WAIT_S = 120.0  # a long journal to replay after a crash, not a normal start
PREDECESSOR_WAIT_S = 45.0  # longer than any server's stages, so that its guard has ended it by then
POLL_S = 0.01
RESTART_DELAY_MIN_S = 0.1
RESTART_DELAY_MAX_S = 5.0
STEADY_AFTER_S = 30.0  # a server that lived this long starts over with the shortest delay
LOG_BYTES_MAX = 16 * 1024 * 1024  # at a start, a longer log is set aside once
LOG_TAIL_LINES = 20

log = structlog.get_logger(__name__)


class ServerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a server needs to be run; *prepare* runs before every start, while no process of the server lives."""

    name: str
    command: Sequence[str]
    directory: Path
    stages: Sequence[Stage]
    log: Path
    lock: Path
    account: Account | None
    prepare: Callable[[], Awaitable[None]]
    is_ready: Callable[[], Awaitable[bool]]


class Server:
    """A planned server's process, at most one at a time."""

    def __init__(self, plan: ServerPlan) -> None:
        self._plan = plan
        self._child: Child | None = None

    async def start(self) -> None:
        """Start it, and return when it answers.

        Raises:
            ServerFailed: It ended, was not ready in time, or a predecessor would not end.
        """
        plan = self._plan
        log_start = _log_size(plan.log)
        try:
            async with only_process_of(plan.lock, wait_s=PREDECESSOR_WAIT_S) as lock:
                await plan.prepare()
                with open_log(plan.log) as output:
                    log_start = _log_size(plan.log)
                    self._child = await start_child(
                        plan.command,
                        stages=plan.stages,
                        env=clean_environment(),
                        cwd=plan.directory,
                        run_as=None if plan.account is None else (plan.account.uid, plan.account.gid),
                        pass_fds=(lock,),
                        output=output,
                    )
            await self._until_ready(self._child)
        except (TimeoutError, _Ended) as error:
            raise ServerFailed(plan.name, str(error), log=plan.log, log_tail=read_tail(plan.log, log_start)) from None

    async def keep_running(self) -> None:
        """Start it again whenever it ends, with growing delays; runs until cancelled."""
        delay_s = RESTART_DELAY_MIN_S
        while True:
            started = time.monotonic()
            assert self._child is not None, "keep_running comes after start"
            code = await self._child.wait()
            if time.monotonic() - started > STEADY_AFTER_S:
                delay_s = RESTART_DELAY_MIN_S
            log.error("embedded server died", server=self._plan.name, how=describe_exit(code), restart_in_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RESTART_DELAY_MAX_S)
            try:
                await self.start()
            except Exception as error:  # whatever it is, the next attempt may succeed; giving up would not help
                log.error("embedded server does not start", server=self._plan.name, reason=str(error))
            else:
                log.warning("embedded server runs again", server=self._plan.name)

    async def stop(self) -> None:
        """End it in stages, and return when it has ended; harmless when it has not been started or ended already."""
        if self._child is not None:
            await self._child.stop()

    async def _until_ready(self, child: Child) -> None:
        ended = asyncio.create_task(child.wait())
        try:
            async with asyncio.timeout(READY_WAIT_S):
                while not await self._plan.is_ready():
                    done, _ = await asyncio.wait((ended,), timeout=POLL_S)
                    if done:
                        raise _Ended(f"ended while starting ({describe_exit(ended.result())})")
        except TimeoutError:
            await child.stop()
            raise TimeoutError(f"was not ready within {READY_WAIT_S:g} s") from None
        finally:
            ended.cancel()


class _Ended(Exception):
    pass


@contextlib.asynccontextmanager
async def only_process_of(path: Path, *, wait_s: float) -> AsyncIterator[int]:
    """Hold the lock at *path*, to be inherited by the processes of one server; wait for those of a killed predecessor.

    Closing our descriptor at the end of the block does not unlock while an heir lives.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"processes of a predecessor still hold {path} after {wait_s:g} s") from None
                await asyncio.sleep(POLL_S)
        yield lock
    finally:
        os.close(lock)


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[int]:
    """Open a server's log for appending; an overlong one is set aside first, in place of the one set aside before."""
    if _log_size(path) > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_tail(path: Path, offset: int) -> str:
    """Return the last lines written to a log from *offset* on."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])


def _log_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def clean_environment() -> Mapping[str, str]:
    """Return what a server may know of our environment: not our secrets, and no PG* settings of the user's."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}
