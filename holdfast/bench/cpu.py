"""CPU time of the API's workers, as Linux tells it; elsewhere it is not known."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_WORKER = b"\0-m\0holdfast.worker\0"


def workers_cpu_s(ancestor_pid: int) -> float | None:
    """CPU seconds that the workers among the descendants of *ancestor_pid* have spent so far."""
    ticks = [_ticks(directory) for directory in _descendants(ancestor_pid) if _is_worker(directory)]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def _descendants(pid: int) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # it has ended, or this is not Linux
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield Path("/proc", child)
                yield from _descendants(int(child))


def _is_worker(directory: Path) -> bool:
    """A guard of one has the same words, but spends nothing."""
    try:
        return _WORKER in (directory / "cmdline").read_bytes()
    except OSError:
        return False


def _ticks(directory: Path) -> int:
    try:
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])  # utime and stime, of proc(5)
