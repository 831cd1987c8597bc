"""Draining: what processes have left behind in the journal goes into the ledger, or to the dead letters."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from engine import figures
from engine.bookings import JournalEntry
from engine.catalog import Catalog
from engine.dead_letters import bury
from engine.errors import EventNotFound, EventNotOpen, LedgerUnavailable
from engine.events import SellableEvent
from engine.journal import booking_of, drop_entries, entry_order, journal_tail, parse_entry, read_journal
from engine.kernel import Kernel
from engine.ports import Ledger, Refused, UnwritableEntry
from engine.settlement import Settlement

GRACE_MS = 10_000  # an entry this old is no longer being committed by the process that made it
AHEAD_MS = 1_000  # an id this far in the future is of a clock that has been set back since
PAGE = 500  # entries read at once, and written in one transaction: see BATCH_MAX of the group commit
PAGES_AHEAD = 2  # one is being written while the next is made ready; this bounds memory whatever the backlog

logger = structlog.get_logger("holdfast.engine")


class Drained(msgspec.Struct, frozen=True):
    """What one round did: entries settled (written or refused), entries buried, and entries ``left``.

    ``left`` is 0 unless the ledger stopped answering; then it counts all that the journal still has, those included
    that are too young to be drained.
    """

    settled: int = 0
    buried: int = 0
    left: int = 0

    def __add__(self, other: "Drained") -> "Drained":
        """Both together."""
        return Drained(self.settled + other.settled, self.buried + other.buried, self.left + other.left)


class Drainer:
    """Drains partitions of the journal. Several of them, in several processes, get along: every step is idempotent."""

    def __init__(
        self, kernel: Kernel, settlement: Settlement, catalog: Catalog, ledger: Ledger, *, grace_ms: int = GRACE_MS
    ) -> None:
        self._kernel = kernel
        self._settlement = settlement
        self._catalog = catalog
        self._ledger = ledger
        self._grace_ms = grace_ms

    async def drain(self, partition: int, *, grace_ms: int | None = None) -> Drained:
        """Settle what has been in the partition's journal for longer than the grace, the oldest first.

        Bounded in memory, not in time: it ends when it has seen what was old enough when it began. Entries whose age
        nobody can tell, because Redis's clock was set back, are old enough.

        Raises:
            StoreUnavailable: Redis does not answer; what was settled is settled.
        """
        until = await last_old_id(self._kernel, partition, self._grace_ms if grace_ms is None else grace_ms)
        if until is None:
            return Drained()
        pages: list[asyncio.Task[Drained]] = []
        total, after = Drained(), "0-0"
        try:
            while raw := await read_journal(self._kernel, partition, after=after, until=until, limit=PAGE):
                after = raw[-1][0].decode()
                pages.append(asyncio.create_task(self._settle_page(partition, raw)))
                if len(pages) == PAGES_AHEAD:
                    total += await pages[0]
                    del pages[0]
            while pages:
                total += await pages[0]
                del pages[0]
        except LedgerUnavailable:
            left = int(await self._kernel.partition_command(partition, "XLEN", "journal"))
            return total + Drained(left=left)
        finally:
            await asyncio.gather(*pages, return_exceptions=True)  # also when one before them has failed
        return total

    async def drain_now(self, partition: int) -> Drained:
        """The same for all that is in the journal, also what its own process is just about to commit: twice is once.

        No clock is asked what that is.

        Raises:
            LedgerUnavailable: Some of it could not be written, and would be refused under another epoch.
            StoreUnavailable: Redis does not answer; what was settled is settled.
        """
        drained = await self.drain(partition, grace_ms=0)
        if drained.left:
            raise LedgerUnavailable(f"{drained.left} entries of partition {partition} could not be written")
        return drained

    async def drain_all(self) -> Drained:
        """Drain one partition after another, until the ledger stops answering."""
        total = Drained()
        for partition in range(self._kernel.partitions):
            total += await self.drain(partition)
            if total.left:
                break
        return total

    async def _settle_page(self, partition: int, raw: Sequence[Any]) -> Drained:
        """Write a page together; refusals and poison, which are few, are seen to one by one."""
        known: list[tuple[JournalEntry, SellableEvent]] = []
        poison: list[tuple[str, bytes, str]] = []
        for journal_id, fields in raw:
            try:
                entry = parse_entry(journal_id, fields)
                known.append((entry, await self._catalog.get(entry.event_id)))
            except (ValueError, IndexError) as error:
                poison.append((journal_id.decode(), booking_of(fields), f"it cannot be read: {error}"))
            except (EventNotFound, EventNotOpen) as error:
                reason = f"the ledger has no event {error.event_id!r} on sale"
                poison.append((journal_id.decode(), booking_of(fields), reason))
        outcomes = await self._ledger.commit_all(known)
        written: list[JournalEntry] = []
        for (entry, event), outcome in zip(known, outcomes, strict=True):
            match outcome:
                case None:
                    written.append(entry)
                case Refused():
                    await self._settlement.undo(entry, event, outcome)
                case UnwritableEntry():
                    poison.append((entry.journal_id, entry.booking_key, str(outcome)))
        if written:
            await drop_entries(self._kernel, partition, written)
        for journal_id, booking, reason in poison:
            await bury(self._kernel, partition, journal_id, booking=booking, reason=reason)
        settled, buried = len(raw) - len(poison), len(poison)
        figures.DRAINED.add(count=settled)
        figures.BURIED.add(count=buried)
        return Drained(settled=settled, buried=buried)


async def last_old_id(kernel: Kernel, partition: int, grace_ms: int) -> str | None:
    """The id up to which entries are older than the grace, for :func:`read_journal`; ``None`` for an empty journal.

    Where ids are ahead of the clock, and where there is no grace, that is the last one of now.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    last_id, count = await journal_tail(kernel, partition)
    if not count:
        return None
    if grace_ms > 0 and not is_ahead(last_id, now_ms := await kernel.time_ms(partition)):
        return str(now_ms - grace_ms)
    return last_id


def is_ahead(journal_id: str, now_ms: int) -> bool:
    """Whether an entry seems to be made in the future, so that its id says nothing of its age.

    Ids never go back. After the clock has, or after a failover to a server whose clock is behind, entries are numbered
    on from the last one before, until the clock has come there again. To wait for that could be to wait for ever, and
    who writes an entry while its own process does only does it twice.
    """
    return entry_order(journal_id)[0] > now_ms + AHEAD_MS
