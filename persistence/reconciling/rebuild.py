"""The duty to rebuild: events that should be in Redis and are not are loaded from the ledger, under a new epoch.

Which events those are, the ledger says: once loaded, open or closed, and not over for longer than the margin of the
archive. It is looked through page by page, and the states of a page are asked for in one round trip, so that to find
nothing missing among ten thousand events takes a fraction of a second.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from engine.errors import EventNotFound, EventNotOpen, Unavailable
from engine.keys import partition_of
from engine.loader import TOGETHER_MAX
from persistence.database import Row, fetch_rows
from persistence.partition_leases import Territory
from persistence.reconciling.duty import Duty
from persistence.reconciling.equipment import Equipment
from persistence.reconciling.findings import Findings
from persistence.reconciling.partitions import Unreached, for_each
from persistence.reconciling.roster import Roster, Sighting, look_at
from persistence.reconciling.watch import Suspicions
from persistence.schema import events

SWEEP_S = 60.0  # between two looks through the whole ledger when nothing is suspected
SWEEP_AGAIN_S = 5.0  # the same after one that could not load all that was missing
PAGE = 500  # events of the ledger, and states asked for in one round trip
AT_ONCE_MAX = 2  # loads under way, of many events each: the third that the loader allows is a caller's


class Expected(msgspec.Struct, frozen=True):
    """An event that should be in Redis, under this epoch."""

    event_id: str
    partition: int
    epoch: int


Found = TypeVar("Found", Expected, Sighting)


class Rebuild(Duty):
    """Looks for missing events: where something is suspected at once, elsewhere in rotation."""

    name = "rebuild"
    pause_s = 1.0

    def __init__(self, equipment: Equipment, roster: Roster, suspicions: Suspicions, findings: Findings) -> None:
        super().__init__()
        self._equipment = equipment
        self._roster = roster
        self._suspicions = suspicions
        self._findings = findings
        self._sweep_at = 0.0
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)
        self._built: list[Sighting] = []
        suspicions.bells.append(self.bell)

    async def work(self, territory: Territory) -> None:
        suspected = self._suspicions.partitions.intersection(territory.partitions)
        due = bool(territory.partitions) and time.monotonic() >= self._sweep_at
        if not suspected and not due:
            return
        self._suspicions.partitions.clear()
        failures, unreached = 0, Unreached()
        self._built.clear()
        try:
            async for page in self.known_pages(self._hottest(suspected), unreached=unreached):
                failures += await self.mend(page, unreached)
            async for page in self.ledger_pages(territory.partitions if due else suspected):
                failures += await self.mend(page, unreached)
        except BaseException:
            self._suspicions.partitions |= suspected
            raise
        finally:
            self._have_audited()
        self._suspicions.partitions |= {partition for partition in suspected if partition in unreached}
        if due or failures:
            self._sweep_at = time.monotonic() + (SWEEP_AGAIN_S if failures or unreached else SWEEP_S)
        unreached.tell()

    async def known_pages(
        self, sightings: Sequence[Sighting], *, tidy: bool = True, unreached: Unreached | None = None
    ) -> AsyncIterator[list[Expected]]:
        """Those of *sightings* that should be in Redis, in that order; with *tidy*, others that are gone are forgotten.

        Raises:
            StoreUnavailable, LedgerUnavailable: A server does not answer.
        """
        for start in range(0, len(sightings), PAGE):
            batch = sightings[start : start + PAGE]
            ids = [sighting.event_id for sighting in batch]
            rows = await fetch_rows(self._equipment.database, self._expectations().where(events.c.id.in_(ids)))
            found = {row["id"]: self._expected(row) for row in rows}
            if tidy:
                await self._forget_gone([sighting for sighting in batch if sighting.event_id not in found], unreached)
            yield [found[event_id] for event_id in ids if event_id in found]

    async def ledger_pages(self, partitions: Iterable[int]) -> AsyncIterator[list[Expected]]:
        """All events of *partitions* that should be in Redis.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        wanted, after = frozenset(partitions), ""
        query = self._expectations().order_by(events.c.id).limit(PAGE)
        while True:
            rows = await fetch_rows(self._equipment.database, query.where(events.c.id > after))
            yield [event for event in map(self._expected, rows) if event.partition in wanted]
            if len(rows) < PAGE:
                return
            after = rows[-1]["id"]

    async def mend(self, expected: Sequence[Expected], unreached: Unreached) -> int:
        """Load those that are missing, in that order, except of partitions *unreached*; how many could not be loaded.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        parted = by_partition(expected)
        found = await for_each(parted, lambda partition: self.find_missing(parted[partition]), unreached=unreached)
        missing = {event.event_id for part in found for event in part}
        wanted = [event for event in expected if event.event_id in missing]

        async def load(start: int) -> int:
            events = [event for event in wanted[start : start + TOGETHER_MAX] if event.partition not in unreached]
            left_out = len(wanted[start : start + TOGETHER_MAX]) - len(events)
            return left_out + await self._load_together(events, unreached)

        return sum(await for_each(range(0, len(wanted), TOGETHER_MAX), load))

    async def find_missing(self, expected: Sequence[Expected], *, tidy: bool = True) -> list[Expected]:
        """Those that are not in Redis, or under another epoch; with *tidy*, one that its index lacks is put there."""
        kernel = self._equipment.kernel
        epochs = await asyncio.gather(
            *[kernel.event_command_in(event.partition, event.event_id, "HGET", "state", "epoch") for event in expected]
        )
        missing = []
        for event, epoch in zip(expected, epochs, strict=True):
            if epoch is None or int(epoch) != event.epoch:
                missing.append(event)
            elif tidy and event.partition in self._roster.synced:
                await self._mend_index(event)
                self._note_epoch(event)
        return missing

    async def _mend_index(self, event: Expected) -> None:
        """Put an event into its partition's index if it is not there: nobody would audit it."""
        sighting = self._roster.of(event.partition).get(event.event_id)
        if sighting is None or not sighting.indexed:
            args = [event.event_id.encode(), b"%d" % event.epoch]
            await self._equipment.kernel.run_in_partition("finish_load", event.partition, args, event_id=event.event_id)
            self._roster.see(event.partition, event.event_id).indexed = True

    def _note_epoch(self, event: Expected) -> None:
        """Note an event that somebody else has built since it was last looked at: a caller could not wait for us."""
        sighting = self._roster.of(event.partition).get(event.event_id)
        if sighting is not None and sighting.mark[0] < event.epoch:
            self._built.append(sighting)

    async def _forget_gone(self, sightings: Sequence[Sighting], unreached: Unreached | None) -> None:
        parted = by_partition(sightings)

        async def step(partition: int) -> None:
            for sighting in await look_at(self._equipment.kernel, parted[partition]):
                event_id = sighting.event_id
                # It says NOT_LOADED and clears the indexes, or that somebody has loaded it just now.
                reply = await self._equipment.kernel.run_in_partition(
                    "archive_event", partition, [event_id.encode(), b"0", b"0"], event_id=event_id
                )
                if reply[0] == b"NOT_LOADED":
                    self._roster.forget(partition, event_id)

        await for_each(parted, step, unreached=unreached)

    async def _load_together(self, events: Sequence[Expected], unreached: Unreached) -> int:
        """Load some events; those that fail are tried once more by themselves. Returns how many could not be loaded."""
        loader, failures = self._equipment.loader, 0
        async with self._turns:
            outcomes = await loader.load_together([event.event_id for event in events])
            for event in events:
                outcome = outcomes[event.event_id]
                if isinstance(outcome, Exception) and len(events) > 1 and event.partition not in unreached:
                    # Perhaps for another one's sake: one event that cannot be loaded must not keep the others from it.
                    outcome = (await loader.load_together([event.event_id]))[event.event_id]
                is_there = False
                with unreached.noting(event.partition):
                    is_there = await self._is_there(event, outcome)
                failures += not is_there
        return failures

    async def _is_there(self, event: Expected, outcome: bool | BaseException) -> bool:
        """Note what became of a load; returns whether there is nothing left to do.

        Raises:
            StoreUnavailable, LedgerUnavailable: A server does not answer at all.
        """
        if isinstance(outcome, EventNotFound | EventNotOpen):
            return True  # it is not to be sold any more, since just now
        if isinstance(outcome, BaseException):
            if isinstance(outcome, Unavailable):
                await self._equipment.check(event.partition)
            if not isinstance(outcome, Exception):
                raise outcome
            self._findings.failed(event.event_id, outcome)
            return False
        sighting = self._roster.see(event.partition, event.event_id)
        if outcome:
            self._findings.rebuilt(event.event_id)
        self._built.append(sighting)
        return True

    def _have_audited(self) -> None:
        """Have what was built audited before its turn, now that all of it is there: customers wait for that, first."""
        for sighting in self._built:
            sighting.urgent = True
        if self._built:
            self._built.clear()
            self._suspicions.ring()

    def _hottest(self, partitions: Iterable[int]) -> list[Sighting]:
        """Events known of *partitions*, those that changed most often first: there, customers are waiting."""
        known = [sighting for partition in partitions for sighting in self._roster.of(partition).values()]
        return sorted(known, key=lambda sighting: -sighting.heat)

    def _expectations(self) -> sa.Select[tuple[str, str | None, int]]:
        return sa.select(events.c.id, events.c.group_id, events.c.epoch).where(
            events.c.epoch > 0, events.c.status.in_(("open", "closed")), ~over_for(self._equipment.archive_after_s)
        )

    def _expected(self, row: Row) -> Expected:
        partition = partition_of(row["id"], row["group_id"], self._equipment.kernel.partitions)
        return Expected(row["id"], partition, row["epoch"])


def by_partition(found: Iterable[Found]) -> dict[int, list[Found]]:
    """The same by partition, in the same order."""
    parted: dict[int, list[Found]] = {}
    for one in found:
        parted.setdefault(one.partition, []).append(one)
    return parted


def over_for(seconds: float) -> sa.ColumnElement[bool]:
    """Whether an event ended so long ago; one that does not say when it ends lasts for a day."""
    end = sa.func.coalesce(events.c.ends_at, events.c.starts_at + sa.func.make_interval(0, 0, 0, 1))
    return end < sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
