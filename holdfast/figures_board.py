"""Where the processes of one ``holdfast serve`` leave their figures, so that any of them can tell those of all.

A file without a name, made by ``serve`` and inherited by its processes as a descriptor, cut into one slot for each: so
there is nothing to clean up, whatever ends them, and nobody else can read or write it. A process that takes over a slot
counts on from where its predecessor stopped: totals never go backwards, and there are never more slots than processes.
"""

import contextlib
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping

import msgspec
import structlog

from engine.figures import FiguresState

BOARD_VARIABLE = "HOLDFAST_FIGURES"
SLOT_BYTES = 512 * 1024  # all routes with all statuses are about 60 kB; what is not written takes no room
READS_MAX = 3  # a slot may be read in the middle of a write: it is read again, then its last good reading stands
LIVE_S = 5.0  # a process that has not written for this long is gone, or hangs: what it said of its state is not told

_HEAD = struct.Struct("<II")  # length and CRC-32 of what follows

logger = structlog.get_logger("holdfast.metrics")


class ProcessReport(msgspec.Struct, frozen=True):
    """What one process tells of itself; ``at_s`` is by the machine's monotonic clock, 0 when it has ended in order."""

    process: str
    at_s: float
    gauges: dict[str, float]
    figures: FiguresState

    @property
    def is_live(self) -> bool:
        """Whether it wrote this lately."""
        return time.monotonic() - self.at_s < LIVE_S


class FiguresBoard:
    """The slots of all processes, over a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.slots = os.fstat(descriptor).st_size // SLOT_BYTES
        self._latest: dict[int, ProcessReport] = {}

    def write(self, slot: int, report: ProcessReport) -> None:
        """Put *report* in place of what is in *slot*; only the slot's own process may."""
        body = msgspec.msgpack.encode(report)
        if _HEAD.size + len(body) > SLOT_BYTES:
            logger.error("figures do not fit", process=report.process, size=len(body))
            return
        os.pwrite(self.descriptor, _HEAD.pack(len(body), zlib.crc32(body)) + body, slot * SLOT_BYTES)

    def read(self, slot: int) -> ProcessReport | None:
        """What the slot's process wrote last; ``None`` when none has."""
        for _ in range(READS_MAX):
            length, checksum = _HEAD.unpack(os.pread(self.descriptor, _HEAD.size, slot * SLOT_BYTES))
            if not length:
                return None
            body = os.pread(self.descriptor, min(length, SLOT_BYTES), slot * SLOT_BYTES + _HEAD.size)
            if len(body) == length and zlib.crc32(body) == checksum:
                self._latest[slot] = msgspec.msgpack.decode(body, type=ProcessReport)
                break
        return self._latest.get(slot)

    def read_all(self) -> list[ProcessReport]:
        """The reports of all processes that ever wrote one."""
        return [report for slot in range(self.slots) if (report := self.read(slot)) is not None]


class Seat(msgspec.Struct, frozen=True):
    """A process's place on the board of its ``serve``."""

    board: FiguresBoard
    slot: int
    process: str


@contextlib.contextmanager
def open_board(*, workers: int) -> Iterator[FiguresBoard]:
    """A fresh board with a slot for each of *workers*, and one for the reconciler."""
    with tempfile.TemporaryFile(prefix="holdfast-figures-") as file:
        file.truncate((workers + 1) * SLOT_BYTES)
        yield FiguresBoard(file.fileno())


def worker_seat(environ: Mapping[str, str]) -> Seat | None:
    """The seat of the worker that *environ* was made for; ``None`` when there is no board."""
    return _seat(environ, int(environ.get("HOLDFAST_WORKER", "0")), "worker")


def reconciler_seat(environ: Mapping[str, str]) -> Seat | None:
    """The seat of the reconciler; ``None`` when there is no board."""
    return _seat(environ, -1, "reconciler")


def _seat(environ: Mapping[str, str], slot: int, kind: str) -> Seat | None:
    if (descriptor := environ.get(BOARD_VARIABLE)) is None:
        return None
    board = FiguresBoard(int(descriptor))
    return Seat(board, board.slots - 1, kind) if slot < 0 else Seat(board, slot, f"{kind}-{slot}")
