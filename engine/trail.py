"""The trail: what became of every hold, a stream per partition, on its way to the history in Postgres."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Literal, get_args

import msgspec

from engine.kernel import Kernel
from engine.keys import event_of_key

# `active`: made, or extended. `rebuilt`: not of a hold but of the event, whose state was begun anew; none of its holds
# from before lives on.
TrailWord = Literal["active", "expired", "released", "confirmed", "refused", "rebuilt"]
_WORDS = frozenset(get_args(TrailWord))
_BEGUN = b"begun"  # the first line of a trail, so that there is one; it tells nothing
ENTRIES_MAX = 250_000  # as in lua/include/bounds.lua
LINES_AT_ONCE = 1_000  # in one reading, twice as many at most: about a millisecond of the server's time
_ENTRIES_AT_ONCE = 100  # of a walk, with a thousand lines at most
_READINGS_MAX = 2 * ENTRIES_MAX // _ENTRIES_AT_ONCE  # of one walk: a trail that grows meanwhile does not go on for ever


class TrailLine(msgspec.Struct, frozen=True):
    """What became of a hold: all that is known of it. Of an event that was ``rebuilt`` only ``until_ms`` says anything.

    ``until_ms`` is the deadline while the hold lives, and when it ended afterwards.
    """

    event_id: str
    key: str
    word: TrailWord
    made_ms: int
    until_ms: int
    places: str
    customer_id: str


class TrailPart(msgspec.Struct, frozen=True):
    """The oldest entries of a trail, which have one line each, or up to ten where a batch of holds was made.

    ``lost`` entries, from ``lost_since_ms`` on, were trimmed before they were stored. Lines that no script can have
    written are left out of ``lines`` and counted as ``unreadable``.
    """

    first_number: int
    lost: int
    lost_since_ms: int
    ids: tuple[bytes, ...]
    lines: tuple[TrailLine, ...]
    unreadable: int

    @property
    def last_number(self) -> int:
        """The number of the last entry, as ``first_number`` is of the first."""
        return self.first_number + len(self.ids) - 1


async def read_trail(kernel: Kernel, partition: int, *, limit: int = LINES_AT_ONCE) -> TrailPart | None:
    """The oldest lines; ``None`` where there is no trail: history is switched off, or has not begun.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    reply = await kernel.run_in_partition("read_trail", partition, [b"%d" % limit])
    if reply[0] == b"NO_TRAIL":
        return None
    number, lost, since_ms, *entries = reply[1:]
    told = [pair for _, fields in entries if fields[0] != _BEGUN for pair in _pairs(fields)]
    lines = [line for pair in told if (line := _line_of(*pair)) is not None]
    return TrailPart(
        first_number=number,
        lost=lost,
        lost_since_ms=since_ms,
        ids=tuple(entry_id for entry_id, _ in entries),
        lines=tuple(lines),
        unreadable=len(told) - len(lines),
    )


async def forget_trail(kernel: Kernel, partition: int, part: TrailPart) -> None:
    """Drop the lines of *part*, which are stored. Safe to repeat, and to do for lines that are gone."""
    last_ms, sequence = part.ids[-1].split(b"-")
    next_id = b"%b-%d" % (last_ms, int(sequence) + 1)
    await kernel.run_in_partition("forget_trail", partition, [b"%d" % part.last_number, last_ms, next_id])


async def walk_trail(kernel: Kernel, partition: int) -> AsyncIterator[TrailLine]:
    """Every line there is, the oldest first, without dropping any."""
    start = "-"
    for _ in range(_READINGS_MAX):
        reply = await kernel.partition_command(partition, "XRANGE", "trail", start, "+", "COUNT", _ENTRIES_AT_ONCE)
        for _, fields in reply:
            for pair in _pairs(fields):
                if (line := _line_of(*pair)) is not None:
                    yield line
        if len(reply) < _ENTRIES_AT_ONCE:
            return
        start = f"({reply[-1][0].decode()}"


async def begin_trail(kernel: Kernel, partition: int) -> None:
    """Have scripts leave a trail from now on. What is loaded into an empty Redis has one anyway."""
    await kernel.partition_command(partition, "XADD", "trail", "*", _BEGUN, b"")


async def end_trail(kernel: Kernel, partition: int) -> None:
    """Have scripts leave no trail any more."""
    for name in ("trail", "stored"):
        await kernel.partition_command(partition, "DEL", name)


def _pairs(fields: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(fields[::2], fields[1::2], strict=True)


def _line_of(name: bytes, text: bytes) -> TrailLine | None:
    """A line of an entry; ``None`` for what no script has written."""
    try:
        key, word, made, until, _, places, owner = text.decode().split("|", 6)
        if word not in _WORDS:
            return None
        return TrailLine(event_of_key(name), key, word, int(made), int(until), places, owner)  # type: ignore[arg-type]
    except ValueError:
        return None
