"""The duty to wake: holds whose deadline has passed are ended on time, though nobody asks about their event."""

import asyncio
import time
from functools import partial

from engine.kernel import Kernel
from engine.records import pairs
from persistence.partition_leases import Territory
from persistence.reconciling.clock import StoreClock
from persistence.reconciling.duty import Duty
from persistence.reconciling.findings import Findings
from persistence.reconciling.partitions import Unreached, for_each

# A hold lives for a second at least, so that one which is made after a look is seen by the next before it is due.
LOOK_AHEAD_MS = 900
PAUSE_MIN_S = 0.1  # what lapses in between waits for the next look: a deadline is noticed within a quarter of a second
DUE_MAX = 64  # events of one partition that one look asks for; more of them come with the next, at once
COUNTED_MAX = 1_000
AT_ONCE_MAX = 8  # scripts under way, half a millisecond each: other callers wait four at most
FUTILE_PAUSE_S = 5.0  # before an event is tried again whose wake-up is due and which has nothing due: that is drift
FUTILE_MAX = 10_000  # such events remembered; past it they are all tried again


class Wake(Duty):
    """Asks all partitions in one write which events are due, or soon will be, and reaps these when they are.

    Needs nothing of Postgres, and goes on while it is away: two who wake the same event do no harm.
    """

    name = "wake"
    pause_s = PAUSE_MIN_S

    def __init__(self, kernel: Kernel, clock: StoreClock, findings: Findings) -> None:
        super().__init__()
        self._kernel = kernel
        self._clock = clock
        self._findings = findings
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)
        self._futile: dict[str, float] = {}
        self._next_ms = 0

    async def work(self, territory: Territory) -> None:
        now_ms = await self._begin_look()

        async def step(partition: int) -> int:
            due = await self._due(partition, now_ms)
            await for_each(due, partial(self.reap, partition))
            return len(due)

        counts = await for_each(territory.latest, step)
        self.pause_s = max(PAUSE_MIN_S, (self._next_ms - now_ms) / 1000)
        if sum(counts) >= DUE_MAX:
            self.bell.set()

    async def find_due(self, territory: Territory, unreached: Unreached) -> list[tuple[int, str]]:
        """Partition and id of the events that have something due."""
        now_ms = await self._begin_look()

        async def look(partition: int) -> list[tuple[int, str]]:
            return [(partition, event_id) for event_id in await self._due(partition, now_ms)]

        return [one for due in await for_each(territory.latest, look, unreached=unreached) for one in due]

    async def reap(self, partition: int, event_id: str) -> None:
        """End what is due of one event."""
        now_ms = await self._clock.now_ms()
        total = 0
        while True:
            async with self._turns:
                status, *rest = await self._kernel.run_in_partition("reap_event", partition, [], event_id=event_id)
            count, due_ms = rest if status == b"REAPED" else (0, 0)
            total += count
            if not count or not due_ms or due_ms > now_ms:
                break
        if total:
            self._findings.reaped(event_id, total)
        elif (not due_ms or due_ms > now_ms) and len(self._futile) < FUTILE_MAX:
            # Not loaded, or its index says otherwise than it does: the audit will see to it. Were it due by its own
            # word, its server's clock would only be behind the one we went by.
            self._futile[event_id] = time.monotonic() + FUTILE_PAUSE_S

    async def count_due(self, partition: int, event_id: str) -> int:
        """How many holds of an event are due; of many, a thousand."""
        now_ms = await self._clock.now_ms()
        due = await self._kernel.event_command_in(
            partition, event_id, "ZRANGEBYSCORE", "expiries", "-inf", now_ms, "LIMIT", 0, COUNTED_MAX
        )
        return len(due)

    async def _begin_look(self) -> int:
        """The time by which a look goes."""
        now_ms, now = await self._clock.now_ms(), time.monotonic()
        if self._futile:
            self._futile = {event_id: until for event_id, until in self._futile.items() if until > now}
        self._next_ms = now_ms + LOOK_AHEAD_MS
        return now_ms

    async def _due(self, partition: int, now_ms: int) -> list[str]:
        """The events of one partition that have something due; the next look is set to when others will."""
        due = []
        for name, score in pairs(await self._soon(partition, now_ms)):
            if (event_id := name.decode()) in self._futile:
                continue
            if int(score) <= now_ms:
                due.append(event_id)
            else:
                self._next_ms = min(self._next_ms, int(score))
        return due

    async def _soon(self, partition: int, now_ms: int) -> list[bytes]:
        """Events and their deadlines by turns, those included that are due before the next look."""
        limit, until_ms = DUE_MAX + len(self._futile), now_ms + LOOK_AHEAD_MS
        found: list[bytes] = await self._kernel.partition_command(
            partition, "ZRANGEBYSCORE", "wakeups", "-inf", until_ms, "WITHSCORES", "LIMIT", 0, limit
        )
        return found
