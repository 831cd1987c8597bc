"""How much waits to be written: the journals of all partitions, and what was set aside as unwritable."""

import asyncio
import time

import msgspec

from engine.journal import entry_order, parse_entry
from engine.kernel import Kernel

AT_ONCE = 500  # partitions asked in one go: an installation may have thousands, and the queue is everybody's
FRESH_S = 1.5  # a reading this old will do: Prometheus, probes and people ask every few seconds, of every process


class Backlog(msgspec.Struct, frozen=True):
    """Bookings in the journals, the age in seconds of the one that waits longest, and dead letters.

    After Redis's clock was set back an entry's age may be told as 0 until its event's clock has followed.
    """

    entries: int
    oldest_age_s: float | None
    dead_letters: int


async def read_backlog(kernel: Kernel) -> Backlog:
    """What waits now. Ages are by Redis's own clock.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    entries = dead_letters = 0
    ages: list[float] = []
    for first in range(0, kernel.partitions, AT_ONCE):
        partitions = range(first, min(first + AT_ONCE, kernel.partitions))
        lengths, dead = await asyncio.gather(
            asyncio.gather(*[kernel.partition_command(partition, "XLEN", "journal") for partition in partitions]),
            asyncio.gather(*[kernel.partition_command(partition, "HLEN", "dead") for partition in partitions]),
        )
        waiting = [partition for partition, length in zip(partitions, lengths, strict=True) if length]
        ages += await asyncio.gather(*[_oldest_age(kernel, partition) for partition in waiting])
        entries += sum(lengths)
        dead_letters += sum(dead)
    return Backlog(entries=entries, oldest_age_s=max(ages, default=None), dead_letters=dead_letters)


class BacklogWatch:
    """The backlog for those who ask often: read at most every :data:`FRESH_S`, by one of them for all."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._reading = asyncio.Lock()
        self._latest: tuple[float, Backlog] | None = None

    async def read(self) -> Backlog:
        """A reading that is no older than :data:`FRESH_S`.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        async with self._reading:
            if self._latest is None or time.monotonic() - self._latest[0] > FRESH_S:
                self._latest = None
                self._latest = (time.monotonic(), await read_backlog(self._kernel))
            return self._latest[1]


async def _oldest_age(kernel: Kernel, partition: int) -> float:
    first, now_ms = await asyncio.gather(
        kernel.partition_command(partition, "XRANGE", "journal", "-", "+", "COUNT", 1), kernel.time_ms(partition)
    )
    if not first:  # written in between
        return 0.0
    return max(0, now_ms - _made_ms(first[0][0], first[0][1], now_ms)) / 1000


def _made_ms(journal_id: bytes, fields: list[bytes], now_ms: int) -> int:
    """When an entry was made. Its id tells, unless Redis's clock has been set back: then the booking itself."""
    made_ms, _ = entry_order(journal_id.decode())
    if made_ms <= now_ms:
        return made_ms
    try:
        return parse_entry(journal_id, fields).confirmed_at_ms
    except (ValueError, IndexError):  # none of ours
        return made_ms
