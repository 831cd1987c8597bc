"""What every client of a run asked for and was told, as one operation after the other: the evidence that checkers read.

A recording is a file of JSON lines, one :class:`Operation` a line, in the order in which the operations *ended*.

**One operation is one intention**, not one request: a request repeated with the same idempotency key, because an
answer was lost or was 503, is one operation from the first byte of the first attempt to the last byte of the last.

**Outcomes.** ``ok``: it took effect. ``fail``: it was refused (any 4xx), and had no effect of its own. ``unknown``: the
client gave up without an answer it can rely on; it may take effect at any time after ``invoked_at``, once or never, and
``completed_at`` is null. A booking answered 202 is asked after until it is a booking (``ok``) or refused (``fail``);
``completed_at`` is then the moment in which that was learned.

**Times** are seconds of the Unix clock, advanced by a monotonic one, and all of one process: they can be compared with
each other, and with ``expires_at``, which is the deadline by Redis's clock on the same machine.
"""

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

Op = Literal["look", "hold", "extend", "release", "confirm", "book"]
Outcome = Literal["ok", "fail", "unknown"]


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Section, seat, first leg, last leg, quantity: the last leg is excluded, ``seat`` is null for counted places.

    An event without legs has one, so that its places are of legs 0 to 1. ``quantity`` is 1 for a seat.
    """

    section: str
    seat: str | None
    first_leg: int
    last_leg: int
    quantity: int = 1


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of one client.

    ``places`` are those that were claimed (``hold``, ``book``), or those of the hold it concerns (``extend``,
    ``release``, ``confirm``). Where the client named none (best available) and got no answer they are not known: the
    list is empty and ``wish`` says how many were asked for in which section. Of a ``look`` they are the seats that were
    shown as *free*, and every other seat of ``look_sections`` was shown as taken; a counted section stands there with
    the quantity that was free.
    """

    process: int
    """The client; it has one operation under way at a time."""
    op: Op
    event: str
    customer: str
    invoked_at: float
    completed_at: float | None
    outcome: Outcome
    places: tuple[Place, ...] = ()
    wish: Place | None = None
    look_sections: tuple[str, ...] = ()
    hold_id: str | None = None
    booking_id: str | None = None
    expires_at: float | None = None
    """The deadline of the hold that was made or extended."""
    status: int | None = None
    """Of the last answer; null when there was none."""
    code: str | None = None
    """The problem's code, where it was one."""
    attempts: int = 1
    key: str | None = None
    """The idempotency key that all attempts had."""


_BEGAN = time.time() - time.perf_counter()


def now() -> float:
    """The time by which operations are recorded."""
    return _BEGAN + time.perf_counter()


class Recording:
    """The operations of one run, and numbers for its clients."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._processes = itertools.count()

    def new_process(self) -> int:
        """A number that no other client has. A client that gave up on an operation goes on under a new one."""
        return next(self._processes)

    def add(self, operation: Operation) -> None:
        """Keep one operation that has ended, or was given up."""
        self.operations.append(operation)

    def write(self, path: Path) -> None:
        """Write JSON lines."""
        write_operations(path, self.operations)


def write_operations(path: Path, operations: Iterable[Operation]) -> None:
    """Write JSON lines."""
    path.write_bytes(msgspec.json.Encoder().encode_lines(operations))


def read_operations(path: Path) -> Iterator[Operation]:
    """What :func:`write_operations` wrote.

    Raises:
        msgspec.ValidationError: A line is no operation.
    """
    with path.open("rb") as lines:
        decoder = msgspec.json.Decoder(Operation)
        for line in lines:
            yield decoder.decode(line)
