"""The duty to drain: journal entries of processes that died, or of a time when Postgres was away, into the ledger."""

import asyncio

from engine.draining import GRACE_MS
from engine.journal import read_journal
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
        turns, until_ms = asyncio.Semaphore(AT_ONCE_MAX), await self._until_ms()

        async def drain(partition: int) -> None:
            if await self._is_old(partition, until_ms):
                async with turns:
                    self._findings.drained(partition, await self._equipment.drain(partition))

        await for_each(territory.partitions, drain, unreached=unreached)

    async def find_old(self, territory: Territory, unreached: Unreached) -> list[int]:
        """The partitions whose first journal entry is older than the grace."""
        until_ms = await self._until_ms()

        async def look(partition: int) -> list[int]:
            return [partition] if await self._is_old(partition, until_ms) else []

        return [one for found in await for_each(territory.partitions, look, unreached=unreached) for one in found]

    async def count_old(self, partition: int) -> int:
        """How many entries of a journal are older than the grace; of many, a thousand."""
        until_ms, kernel = await self._until_ms(), self._equipment.kernel
        return len(await read_journal(kernel, partition, after="0-0", until_ms=until_ms, limit=COUNTED_MAX))

    async def _until_ms(self) -> int:
        return await self._clock.now_ms() - GRACE_MS

    async def _is_old(self, partition: int, until_ms: int) -> bool:
        first_ms = await _first_ms(self._equipment.kernel, partition)
        return first_ms is not None and first_ms <= until_ms


async def _first_ms(kernel: Kernel, partition: int) -> int | None:
    """When the first entry of a journal was made."""
    entries = await kernel.partition_command(partition, "XRANGE", "journal", "-", "+", "COUNT", 1)
    return int(entries[0][0].partition(b"-")[0]) if entries else None
