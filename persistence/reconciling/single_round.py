"""Every duty once, for ``holdfast reconcile --once`` and for whoever asks for a round over the API.

Of a cluster, a node that is down keeps no other's partitions from their round: its own are left alone from there on,
and told of at the end.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager

from engine.errors import LedgerUnavailable
from persistence.partition_leases import Everywhere
from persistence.reconciling.archive import Archive
from persistence.reconciling.audit import Audit
from persistence.reconciling.clock import StoreClock
from persistence.reconciling.drain import Drain
from persistence.reconciling.equipment import Equipment
from persistence.reconciling.expire import CareForEvents, Expire, ReleaseBlocks
from persistence.reconciling.offer import OfferPlaces, SettleEntries
from persistence.reconciling.partitions import Unreached, for_each
from persistence.reconciling.rebuild import Expected, Rebuild, by_partition
from persistence.reconciling.roster import Roster
from persistence.reconciling.rounds import Collected, Round
from persistence.reconciling.settle import Settle
from persistence.reconciling.wake import Wake
from persistence.reconciling.watch import SYNCS_AT_ONCE, Suspicions, Watch

AUDITS_AT_ONCE = 4
PUBLISH_MAX_S = 30.0  # for webhooks and stream: cron comes again, and receivers may be slow

Progress = Callable[[int, int], None]
"""Is told how many events are audited, of how many."""


class SingleRound:
    """One round over all partitions, or a few events; it waits for nobody, for doing things twice does no harm."""

    def __init__(self, equipment: Equipment, *, dry_run: bool, on_progress: Progress | None = None) -> None:
        self._equipment = equipment
        self._dry_run = dry_run
        self._on_progress = on_progress
        self._findings = Collected(dry_run=dry_run)
        kernel, suspicions, clock = equipment.kernel, Suspicions(), StoreClock(equipment.kernel)
        self._roster, self._unreached = Roster(), Unreached()
        self._watch = Watch(kernel, self._roster, suspicions, self._findings)
        self._drain = Drain(equipment, clock, self._findings)
        self._wake = Wake(kernel, clock, self._findings)
        self._entries = SettleEntries(equipment)
        self._offer = OfferPlaces(equipment, self._findings.figures)
        self._expire = Expire(equipment, self._findings)
        self._blocks = ReleaseBlocks(equipment, self._findings)
        self._care = CareForEvents(equipment, self._findings)
        self._settle = Settle(equipment, self._findings)
        self._rebuild = Rebuild(equipment, self._roster, suspicions, self._findings)
        self._audit = Audit(equipment, self._roster, suspicions, self._findings)
        self._archive = Archive(equipment, self._roster, self._findings)

    async def run(self, event_ids: Sequence[str] | None = None) -> Round:
        """Do it, for the events named or for all.

        Raises:
            EventNotFound, EventNotOpen: One of those named does not exist, or is a draft.
            StoreUnavailable: Redis does not answer for any of their partitions.
            LedgerUnavailable: Postgres does not answer.
        """
        began = time.monotonic()
        if event_ids is None:
            territory = Everywhere(range(self._equipment.kernel.partitions))
            await self._reach(territory)
            await for_each(territory.partitions, self._sync, at_once=SYNCS_AT_ONCE, unreached=self._unreached)
        else:
            territory = Everywhere(sorted({await self._name(event_id) for event_id in event_ids}))
            await self._reach(territory)
        await self._drain_journals(territory)
        await self._wake_due(territory, event_ids)
        await self._end_bookings(event_ids)
        async for page in self._expected(territory, event_ids):
            await self._mend(page)
        await self._audit_all()
        if event_ids is None and not self._dry_run:
            await self._offer_places(territory)
        for sighting in await self._archive.find_over(list(self._roster)):
            if sighting.partition in self._unreached:
                continue
            if self._dry_run:
                self._findings.archived(sighting.event_id)
                continue
            with self._unreached.noting(sighting.partition):
                await self._archive.archive(sighting)
        if not self._dry_run and event_ids is None:
            with self._going_on("publish"):
                self._findings.round.published = await self._equipment.relay.run_once(within_s=PUBLISH_MAX_S)
            for sink in self._equipment.relay.lost:
                self._findings.held_up(f"webhook {sink.name}", ValueError(sink.lost))
        return self._findings.finish(time.monotonic() - began, self._unreached)

    async def _reach(self, territory: Everywhere) -> None:
        """Find out, in one round trip, which partitions can be reached.

        Raises:
            StoreUnavailable: None of them can.
        """
        times = await for_each(territory.partitions, self._equipment.kernel.time_ms, unreached=self._unreached)
        if not times:
            self._unreached.tell()

    async def _sync(self, partition: int) -> None:
        await self._watch.sync([partition])

    @contextmanager
    def _going_on(self, duty: str) -> Iterator[None]:
        """Have the round go on though *duty*, which is not a matter of one partition, could not be done in full.

        It has met a partition that is away, or something that it cannot end, which is a matter for a person.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        try:
            yield
        except LedgerUnavailable:
            raise
        except Exception as error:
            self._findings.held_up(duty, error)

    async def _name(self, event_id: str) -> int:
        """Put an event that was named on the roster, whether or not it is in Redis; returns its partition."""
        partition = self._equipment.kernel.partition_of(await self._equipment.catalog.get(event_id))
        self._roster.see(partition, event_id)
        return partition

    async def _drain_journals(self, territory: Everywhere) -> None:
        if not self._dry_run:
            await self._drain.drain_all(territory, self._unreached)
            return
        for partition in await self._drain.find_old(territory, self._unreached):
            with self._unreached.noting(partition):
                self._findings.round.drained += await self._drain.count_old(partition)

    async def _wake_due(self, territory: Everywhere, event_ids: Sequence[str] | None) -> None:
        for partition, event_id in await self._wake.find_due(territory, self._unreached):
            if partition in self._unreached or (event_ids is not None and event_id not in event_ids):
                continue
            with self._unreached.noting(partition):
                if self._dry_run:
                    self._findings.reaped(event_id, await self._wake.count_due(partition, event_id))
                else:
                    await self._wake.reap(partition, event_id)

    async def _offer_places(self, territory: Everywhere) -> None:
        """Serve the lines with what this round has freed, too."""
        with self._going_on(self._entries.name):
            await self._entries.work(territory)
        with self._going_on(self._offer.name):
            await self._offer.work(territory)
        self._findings.round.offered = self._findings.figures.done.get(self._offer.name, 0)

    async def _end_bookings(self, event_ids: Sequence[str] | None) -> None:
        if event_ids is None and self._dry_run:
            self._findings.lapsed(await self._expire.count())
            self._findings.unblocked(await self._blocks.count())
        elif event_ids is None:
            with self._going_on(self._expire.name):
                await self._expire.finish()
            with self._going_on(self._blocks.name):
                await self._blocks.finish()
        with self._going_on(self._care.name):
            await self._care.finish(event_ids, dry_run=self._dry_run)
        if event_ids is None and self._dry_run:
            self._findings.settled(await self._settle.count())
        elif event_ids is None:
            with self._going_on(self._settle.name):
                await self._settle.settle_due()

    async def _expected(self, territory: Everywhere, event_ids: Sequence[str] | None) -> AsyncIterator[list[Expected]]:
        """Pages of events that should be in Redis: those known of first, then all of the ledger."""
        async for page in self._rebuild.known_pages(
            list(self._roster), tidy=not self._dry_run, unreached=self._unreached
        ):
            yield page
        if event_ids is None:
            async for page in self._rebuild.ledger_pages(territory.partitions):
                yield page

    async def _mend(self, page: Sequence[Expected]) -> None:
        if not self._dry_run:
            await self._rebuild.mend(page, self._unreached)
            return
        parted = by_partition(page)

        async def look(partition: int) -> None:
            for event in await self._rebuild.find_missing(parted[partition], tidy=False):
                self._findings.missing(event.event_id)

        await for_each(parted, look, unreached=self._unreached)

    async def _audit_all(self) -> None:
        queue = [sighting for sighting in self._roster if not self._findings.is_missing(sighting.event_id)]
        total = len(queue)

        async def lane() -> None:
            while queue:
                sighting = queue.pop()
                if sighting.partition not in self._unreached:
                    with self._unreached.noting(sighting.partition):
                        await self._audit.audit(sighting, dry_run=self._dry_run)
                if self._on_progress is not None:
                    self._on_progress(total - len(queue), total)

        await asyncio.gather(*[lane() for _ in range(AUDITS_AT_ONCE)])
