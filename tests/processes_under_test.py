"""Programs run in processes of their own, so that tests can kill them; and a look at what is left of them."""

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


class Program:
    """A running Python program that printed one line to say it is ready."""

    def __init__(self, process: subprocess.Popen[str], said: str) -> None:
        self.process = process
        self.said = said

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_rest(self) -> str:
        """Return what it printed after the first line, once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)


@contextlib.contextmanager
def program(source: str, *arguments: str | Path) -> Iterator[Program]:
    """Run *source*, wait for its first line, and leave no process of it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    left: list[psutil.Process] = []
    try:
        running = Program(process, process.stdout.readline().strip())
        assert running.said, f"the program ended at once: {process.wait(timeout=10)}"
        left = running.descendants()
        yield running
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            left += running.descendants()
        process.kill()
        process.wait(timeout=10)
        process.stdout.close()
        for orphan in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()


def seconds_until(condition: Callable[[], object], *, within_s: float) -> float:
    """Wait for something to be true; return how long it took."""
    began = time.monotonic()
    while not _holds(condition):
        waited_s = time.monotonic() - began
        assert waited_s < within_s, f"not so after {within_s} s"
        time.sleep(0.01)
    return time.monotonic() - began


def _holds(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except psutil.NoSuchProcess:  # one of those looked at has just ended: look again
        return False


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
