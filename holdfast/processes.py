"""Keep a number of worker processes running behind one listening socket, until asked to stop."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from holdfast.children import GRACEFUL, Child, Stage, describe_exit, start_child

LISTEN_BACKLOG = 2048
FAILED_STARTS_MAX = 5  # of one worker, while none is ready yet; then the fault is not passing
LASTED_S = 3.0  # a worker that ran for so long is started again without much delay
RESTART_DELAY_MIN_S = 0.1
RESTART_DELAY_MAX_S = 2.0
COMPANION_DELAY_MAX_S = 10.0  # of one that keeps failing: the workers serve without it meanwhile

log = structlog.get_logger(__name__)


class ListenFailed(Exception):
    """The address cannot be listened on; the message says why."""

    def __init__(self, where: str, reason: str, *, chosen_by: str) -> None:
        super().__init__(f"cannot listen on {where}: {reason}; {chosen_by} choose another")


class WorkersFailed(Exception):
    """A worker keeps ending and none has ever been ready; carries its last exit status."""

    def __init__(self, index: int, exit_code: int) -> None:
        self.index = index
        self.exit_code = exit_code
        super().__init__(
            f"worker {index} ended {FAILED_STARTS_MAX} times before the server was ready"
            f" ({describe_exit(exit_code)}); its own messages are above"
        )


def bind_listener(host: str, port: int) -> socket.socket:
    """Bind one socket for all workers to inherit; port 0 takes a free one (ask ``getsockname``).

    One shared socket rather than one per worker: connections that wait when a worker dies go to its siblings.

    Raises:
        ListenFailed: The address is in use, not ours, or unknown.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ListenFailed(f"{host} port {port}", reason, chosen_by="--port or HOLDFAST_PORT") from error


@contextlib.contextmanager
def bind_unix_listener(path: Path) -> Iterator[socket.socket]:
    """Bind a unix socket for all workers to inherit; its file is gone afterwards.

    A socket file that nobody listens on any more, left by a server that was killed, is replaced. Who may connect is
    who may write to the file: the umask and the directory decide.

    Raises:
        ListenFailed: A server listens there, something else is there, or the path cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        try:
            if _is_abandoned(path):
                path.unlink()
            listener.bind(str(path))
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            raise ListenFailed(str(path), error.strerror or str(error), chosen_by="--uds or HOLDFAST_UDS") from error
        bound = path.stat()
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                now = path.stat()
                if (now.st_dev, now.st_ino) == (bound.st_dev, bound.st_ino):  # not that of somebody who replaced it
                    path.unlink()


def _is_abandoned(path: Path) -> bool:
    """Whether a socket is at *path* on which nobody listens."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)  # a full queue is somebody, too
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            return False
    return False


async def supervise(
    argv: Sequence[str],
    *,
    count: int,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    ready: Callable[[], Coroutine[Any, Any, None]],
    companion: Sequence[str] | None = None,
    beside: Sequence[Sequence[str]] = (),
    stages: Sequence[Stage] = GRACEFUL,
) -> None:
    """Run *count* workers until SIGTERM or SIGINT; start again those that die.

    A worker finds its number, from 0, in ``HOLDFAST_WORKER``. *ready* runs beside them from the start: it waits for
    one of them to answer, and may then tell the world. *companion* is one process more, started when *ready* has
    returned so that it costs the workers no time, and again and again if need be: its failing ends nothing. What runs
    *beside* is kept running the same way. The first signal stops the workers in *stages*, a second
    kills them. They end with this process, whatever ends it. Must run in the main thread, which receives the signals.

    Raises:
        WorkersFailed: One keeps ending while *ready* has not returned; all have been stopped.
        Exception: Whatever *ready* raised; the workers have been stopped.
    """
    crew = _Crew(argv, env=os.environ if env is None else env, pass_fds=pass_fds, stages=stages)
    with _stop_signals(on_second=crew.kill) as stop:
        stopped = asyncio.create_task(stop.wait())
        is_ready = asyncio.create_task(ready())
        tasks = [is_ready, *(asyncio.create_task(crew.keep_running(index, ready=is_ready)) for index in range(count))]
        others = (*beside, companion) if companion is not None else beside
        tasks += [asyncio.create_task(crew.keep_beside(each, after=is_ready)) for each in others]
        try:
            await _until_stopped_or_failed(stopped, tasks)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)


class _Crew:
    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], pass_fds: Sequence[int], stages: Sequence[Stage]
    ) -> None:
        self._argv = argv
        self._env = env
        self._pass_fds = pass_fds
        self._stages = stages
        self._running: dict[int | str, Child] = {}

    async def keep_running(self, index: int, *, ready: "asyncio.Task[None]") -> None:
        """Run one worker, again and again, until cancelled; then stop it.

        Once any worker was *ready*, what fails is most likely a server that is away for a while: giving up would take
        down the workers that are well, and the last one would not come back by itself. How long a worker has lived
        tells nothing of that: a slow machine takes seconds to find out that it cannot start.
        """
        failed_starts = 0
        delay_s = RESTART_DELAY_MIN_S
        while True:
            began = time.monotonic()
            code = await self._run_once(index)
            failed_starts += 1
            if failed_starts >= FAILED_STARTS_MAX and not ready.done():
                raise WorkersFailed(index, code)
            if time.monotonic() - began > LASTED_S:
                delay_s = RESTART_DELAY_MIN_S
            log.error("worker died", worker=index, how=describe_exit(code), restart_in_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RESTART_DELAY_MAX_S)

    async def keep_beside(self, argv: Sequence[str], *, after: "asyncio.Task[None]") -> None:
        """Run the companion when *after* is done, again and again, until cancelled; then stop it."""
        await asyncio.wait([after])
        if after.cancelled() or after.exception() is not None:
            return  # whoever waits for *after* has heard of it
        delay_s = RESTART_DELAY_MIN_S
        while True:
            began = time.monotonic()
            code = await self._run(argv[-1], argv, self._env)
            if time.monotonic() - began > LASTED_S:
                delay_s = RESTART_DELAY_MIN_S
            log.error("companion died", what=argv[-1], how=describe_exit(code), restart_in_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, COMPANION_DELAY_MAX_S)

    async def _run_once(self, index: int) -> int:
        return await self._run(index, self._argv, {**self._env, "HOLDFAST_WORKER": str(index)})

    async def _run(self, name: int | str, argv: Sequence[str], env: Mapping[str, str]) -> int:
        child = await start_child(argv, stages=self._stages, env=env, pass_fds=self._pass_fds)
        self._running[name] = child
        try:
            return await child.wait()
        finally:
            await child.stop()
            del self._running[name]

    def kill(self) -> None:
        for child in self._running.values():
            child.send(signal.SIGKILL)


async def _until_stopped_or_failed(stopped: asyncio.Task[bool], tasks: Sequence[asyncio.Task[None]]) -> None:
    waiting: set[asyncio.Task[None] | asyncio.Task[bool]] = {stopped, *tasks}
    while stopped in waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # raises what failed; only *ready* may just have finished


@contextlib.contextmanager
def _stop_signals(*, on_second: Callable[[], None]) -> Iterator[asyncio.Event]:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def received(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("killing the workers", signal=number.name)
            on_second()
        else:
            log.info("stopping the workers", signal=number.name)
            stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, received, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
