"""The server the demo sells on: ``holdfast serve`` as a child process, the very one that anybody starts by hand."""

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from holdfast.children import Child, Stage, describe_exit, start_child
from holdfast.demo.errors import DemoFailed

T = TypeVar("T")

WORKERS = 2
# An interrupt, because the server unwinds at it from its first moment on; SIGTERM it handles once workers run.
STAGES = (Stage(signal=signal.SIGINT, grace_s=15.0),)
OUTPUT_LINES_MAX = 20  # of what it says beside its address: enough for an error and its reason
_LISTENING = re.compile(r"listening on (?P<url>http://\S+)")
_CONFIGURED = re.compile(r"(?:HOLDFAST_.*|(?:REDIS|DATABASE)_URL(?:_FILE)?)")


class DemoServer:
    """A running ``holdfast serve``; ``said`` are its last lines beside the one with its address."""

    def __init__(self, child: Child, output: int) -> None:
        self.url = ""
        self.said: deque[str] = deque(maxlen=OUTPUT_LINES_MAX)
        self.ready = asyncio.Event()
        self._child = child
        self._listening = asyncio.create_task(self._listen(output))
        self._stopping = False

    @property
    def guard_pid(self) -> int:
        """The process that everything of the server descends from."""
        return self._child.guard_pid

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        """Do *work*, which makes sense only while the server runs.

        Raises:
            DemoFailed: The server has ended by itself; the work was cancelled.
        """
        working = asyncio.create_task(work)
        ending = asyncio.create_task(self._child.wait())
        try:
            await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await self._listening  # to its last lines, which say why
                reason = f"the server has ended: {describe_exit(ending.result())}"
                raise DemoFailed("\n".join([reason, *self.said]))
            return working.result()
        finally:
            for task in (working, ending):
                task.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

    async def stop(self) -> None:
        """End it, and with it all that it started."""
        self._stopping = True
        await self._child.stop()
        await self._listening

    def hurry(self) -> None:
        """Make a stop that is under way a quick one: the workers are killed, the servers still end in order."""
        if self._stopping:
            self._child.send(signal.SIGINT)

    async def _listen(self, output: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
        )
        try:
            while line := await reader.readline():
                text = line.decode(errors="replace").rstrip()
                if not self.url and (match := _LISTENING.fullmatch(text)):
                    self.url = match["url"]
                    self.ready.set()
                else:
                    self.said.append(text)
        finally:
            transport.close()


@asynccontextmanager
async def running_server(data_dir: Path, *, port: int, workers: int = WORKERS) -> AsyncIterator[DemoServer]:
    """Serve on embedded servers under *data_dir* until the end of the block, or of this process.

    Raises:
        DemoFailed: It did not get as far as being ready.
    """
    readable, writable = os.pipe()
    command = [sys.executable, "-m", "holdfast", "--log-level", "warning", "serve", "--data-dir", str(data_dir)]
    try:
        child = await start_child(
            [*command, "--port", str(port), "--workers", str(workers)],
            stages=STAGES,
            env=without_configuration(os.environ),
            output=writable,
        )
    except BaseException:
        os.close(readable)
        raise
    finally:
        os.close(writable)
    server = DemoServer(child, readable)
    try:
        await server.beside(server.ready.wait())
        yield server
    finally:
        await server.stop()


def without_configuration(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what configures Holdfast: nothing here may sell on somebody's real servers."""
    return {name: value for name, value in environ.items() if _CONFIGURED.fullmatch(name) is None}
