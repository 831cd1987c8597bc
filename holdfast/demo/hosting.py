"""A server of one's own for a piece of work: started and stopped with it, in a directory that may go."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from holdfast.demo.progress import print_step
from holdfast.demo.server import DemoServer, running_server


class Hosting:
    """Runs a server beside a piece of work, and tells *console* about it."""

    def __init__(self, console: Console, *, workers: int, port: int = 0) -> None:
        self._console = console
        self._workers = workers
        self._port = port
        self._server: DemoServer | None = None

    def hurry(self) -> None:
        """Make a stop that is under way a quick one."""
        if self._server is not None:
            self._server.hurry()

    async def run(self, data_dir: Path, work: Callable[[DemoServer], Coroutine[Any, Any, int]]) -> int:
        """What *work* returns, given a server on embedded servers under *data_dir*; both end together.

        Raises:
            DemoFailed: The server does not start, or ended before the work did.
        """
        what = f"Valkey, Postgres and {self._workers} API worker{'' if self._workers == 1 else 's'}"
        began_s = time.monotonic()
        async with AsyncExitStack() as stack:
            with self._console.status(f"Starting {what}"):
                starting = running_server(data_dir, port=self._port, workers=self._workers)
                server = self._server = await stack.enter_async_context(starting)
            print_step(self._console, "Server", f"{what}, ready in {time.monotonic() - began_s:.1f} s")
            try:
                return await server.beside(work(server))
            except asyncio.CancelledError:
                self._console.print("\nStopping.")
                raise


@contextmanager
def temporary_data_dir(prefix: str) -> Iterator[Path]:
    """A directory for servers that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        yield Path(name)
