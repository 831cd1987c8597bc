"""The duty to watch: notices within a second that Redis has lost something, though nobody asks for it.

Every second, in one round trip over all partitions: how many events the index ``live`` has; and then one event's state
of some of them. A flushed or replaced database shows in the first, one that went back in time in the second, and
another server behind the same address is told of by the transport. What is suspected is looked through at once: missing
events are loaded, the others audited before their turn.
"""

import asyncio
import random
import time
from collections.abc import Sequence

import structlog

from engine.figures import SERVER_CHANGES
from engine.kernel import Kernel
from engine.keys import partition_key
from engine.transport.servers import ServerChange
from engine.transport.wire import pack_keys
from persistence.partition_leases import Territory
from persistence.reconciling.duty import Duty
from persistence.reconciling.findings import Findings
from persistence.reconciling.partitions import for_each
from persistence.reconciling.roster import Roster, Sighting, live_events, look_at

WATCH_PAUSE_S = 1.0
SAMPLES = 16  # partitions of which one event is looked at; with 64, each has its turn within seconds
SYNCS_AT_ONCE = 4  # each asks for hundreds of states at a time
RESYNC_S = 15.0  # an index that lost one event and gained another has the same length: it is read anyway now and then

logger = structlog.get_logger("holdfast.reconciler")


class Suspicions:
    """Partitions of which something seems to be missing, for the rebuild to take up; bells ring when one is added."""

    def __init__(self) -> None:
        self.partitions: set[int] = set()
        self.bells: list[asyncio.Event] = []

    def add(self, *partitions: int) -> None:
        self.partitions.update(partitions)
        if partitions:
            self.ring()

    def ring(self) -> None:
        for bell in self.bells:
            bell.set()


class Watch(Duty):
    """Keeps the roster in step with Redis, and suspects what should not be so."""

    name = "watch"
    pause_s = WATCH_PAUSE_S

    def __init__(self, kernel: Kernel, roster: Roster, suspicions: Suspicions, findings: Findings) -> None:
        super().__init__()
        self._kernel = kernel
        self._roster = roster
        self._suspicions = suspicions
        self._findings = findings
        self._resync_at = 0.0
        self._replaced: set[int] = set()

    def note_server_change(self, change: ServerChange) -> None:
        """Called by the transport before anything is sent there."""
        replaced = [
            partition
            for partition in range(self._kernel.partitions)
            if change.covers(pack_keys([partition_key(partition, "live")]).slot)
        ]
        self._replaced.update(replaced)
        self._findings.figures.server_changes += 1
        SERVER_CHANGES.add()
        logger.warning("another server answers", node=str(change.node), partitions=len(replaced))
        self.bell.set()

    async def work(self, territory: Territory) -> None:
        partitions = territory.partitions
        self._roster.keep_only(partitions)
        turns = asyncio.Semaphore(SYNCS_AT_ONCE)
        sampled = set(random.sample(partitions, min(SAMPLES, len(partitions))))
        if resync := (now := time.monotonic()) > self._resync_at:
            self._resync_at = now + RESYNC_S

        async def step(partition: int) -> None:
            gained = partition not in self._roster.synced
            count = await self._kernel.partition_command(partition, "SCARD", "live")
            if gained or resync or count != len(self._roster.of(partition)):
                async with turns:
                    await self.sync([partition])
            if gained:
                self._suspicions.add(partition)  # nobody may have looked after it for a while
            if partition in sampled:
                await self._sample(partition)
            if partition in self._replaced:
                self._replaced.discard(partition)
                self._suspect(partition)

        try:
            await for_each(partitions, step)
        finally:
            self._findings.figures.events = len(self._roster)

    async def sync(self, partitions: Sequence[int]) -> None:
        """Read the index of *partitions*; events that were there and are not are suspected to be missing."""
        for partition in partitions:
            known = self._roster.of(partition)
            live = await live_events(self._kernel, partition)
            for sighting in known.values():
                sighting.indexed = sighting.event_id in live
            if known.keys() - live:
                self._suspicions.add(partition)
            added = [self._roster.see(partition, event_id) for event_id in live - known.keys()]
            if await look_at(self._kernel, added):
                self._suspicions.add(partition)
            self._roster.synced.add(partition)

    async def _sample(self, partition: int) -> None:
        """Look at one event of a partition: after a restore, most of them have gone back."""
        sighting = self._roster.sample(partition)
        if sighting is None or not await look_at(self._kernel, [sighting]):
            return
        if sighting.mark != (0, 0) and sighting.event_id in self._roster.of(partition):
            await self._examine(sighting)

    async def _examine(self, sighting: Sighting) -> None:
        """Tell an event that is missing, which the rebuild looks for, from one that has gone back."""
        state = await self._kernel.event_command_in(sighting.partition, sighting.event_id, "HGET", "state", "epoch")
        if state is not None:
            self._findings.regressed(sighting.event_id)
            sighting.mark = (0, 0)  # told once; from here on it is as new
        self._suspect(sighting.partition)

    def _suspect(self, partition: int) -> None:
        """Have everything of a partition looked for, and audited at once."""
        for sighting in self._roster.of(partition).values():
            sighting.urgent = True
        self._suspicions.add(partition)
