"""The duty to drain: journal entries of processes that died, or of a time when Postgres was away, into the ledger."""

import asyncio

from engine.draining import GRACE_MS, is_ahead, last_old_id
from engine.journal import FIRST_ID, entry_order, read_journal
from engine.kernel import Kernel
from persistence.partition_leases import Territory
from persistence.reconciling.clock import StoreClock
from persistence.reconciling.duty import Duty
from persistence.reconciling.equipment import Equipment
from persistence.reconciling.findings import Findings
from persistence.reconciling.partitions import Unreached, for_each

COUNTED_MAX = 1_000
AT_ONCE_MAX = 4  # partitions drained beside each other: their entries meet in the same group commits anyway


class Drain(Duty):
    """Looks which journals begin with an old entry, all in one round trip, and drains these."""

    name = "drain"
    pause_s = 1.0

    def __init__(self, equipment: Equipment, clock: StoreClock, findings: Findings) -> None:
        super().__init__()
        self._equipment = equipment
        self._clock = clock
        self._findings = findings

    async def work(self, territory: Territory) -> None:
        unreached = Unreached()
        await self.drain_all(territory, unreached)
        unreached.tell()

    async def drain_all(self, territory: Territory, unreached: Unreached) -> None:
        """Drain what is old of every partition but those *unreached*.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        turns, now_ms = asyncio.Semaphore(AT_ONCE_MAX), await self._clock.now_ms()

        async def drain(partition: int) -> None:
            if await self._begins_old(partition, now_ms):
                async with turns:
                    self._findings.drained(partition, await self._equipment.drain(partition))

        await for_each(territory.partitions, drain, unreached=unreached)

    async def find_old(self, territory: Territory, unreached: Unreached) -> list[int]:
        """The partitions whose first journal entry is older than the grace."""
        now_ms = await self._clock.now_ms()

        async def look(partition: int) -> list[int]:
            return [partition] if await self._begins_old(partition, now_ms) else []

        return [one for found in await for_each(territory.partitions, look, unreached=unreached) for one in found]

    async def count_old(self, partition: int) -> int:
        """How many entries of a journal are older than the grace; of many, a thousand."""
        kernel = self._equipment.kernel
        until = await last_old_id(kernel, partition, GRACE_MS)
        if until is None:
            return 0
        return len(await read_journal(kernel, partition, after=FIRST_ID, until=until, limit=COUNTED_MAX))

    async def _begins_old(self, partition: int, now_ms: int) -> bool:
        """Whether there is something to drain; of entries that are too young, the drain itself lets go."""
        first_id = await _first_id(self._equipment.kernel, partition)
        if first_id is None:
            return False
        return is_ahead(first_id, now_ms) or entry_order(first_id)[0] <= now_ms - GRACE_MS


async def _first_id(kernel: Kernel, partition: int) -> str | None:
    """The id of the first entry of a journal."""
    entries = await kernel.partition_command(partition, "XRANGE", "journal", "-", "+", "COUNT", 1)
    return entries[0][0].decode() if entries else None
