"""The duty to settle: payments that somebody left in between, and bookings that were not paid for in time."""

import asyncio
import time

import structlog

from engine.payments import PROVIDER_TIMEOUT_S
from persistence.partition_leases import Territory
from persistence.reconciling.duty import Duty
from persistence.reconciling.equipment import Equipment
from persistence.reconciling.findings import Findings

DUE_MAX = 100  # bookings of one step
AT_ONCE_MAX = 8  # each may wait for a provider that does not answer, and keep a connection of the pool now and then
# Then a step ends, whatever is under way: those bookings are due again after a minute. It is longer than a provider may
# take that does not answer at all, or the step would end each time before that is known, and put off.
STEP_MAX_S = PROVIDER_TIMEOUT_S + 5.0
LOOK_EVERY_S = 60.0  # for overdue payments of providers that are not configured here
TELL_EVERY_S = 600.0  # while there are any

logger = structlog.get_logger("holdfast.reconciler")


class Settle(Duty):
    """Takes what is due, by the ledger's clock, and settles it. Several may: what one has taken no other is given."""

    name = "settle"
    pause_s = 1.0

    def __init__(self, equipment: Equipment, findings: Findings) -> None:
        super().__init__()
        self._equipment = equipment
        self._findings = findings
        self._look_at = time.monotonic()

    async def work(self, territory: Territory) -> None:  # noqa: ARG002 - who has partition 0 may lack the provider
        await self.settle_due()
        if time.monotonic() >= self._look_at:
            await self.tell_stranded()

    async def tell_stranded(self) -> None:
        """Say so when payments are overdue which this process cannot settle, and others seem not to."""
        stranded = await self._equipment.payments.find_stranded()
        if stranded:
            logger.error("payments are overdue whose provider is not configured here", providers=stranded)
        self._look_at = time.monotonic() + (TELL_EVERY_S if stranded else LOOK_EVERY_S)

    async def count(self) -> int:
        """How many bookings' payments are due."""
        return await self._equipment.payments.count_due()

    async def settle_due(self) -> int:
        """Settle what is due; how many bookings that was."""
        due = await self._equipment.payments.take_due(limit=DUE_MAX)
        if not due:
            return 0
        turns = asyncio.Semaphore(AT_ONCE_MAX)

        async def step(booking_id: str) -> None:
            async with turns:
                await self._equipment.settle(booking_id)

        tasks = [asyncio.create_task(step(booking_id)) for booking_id in due]
        try:
            done, _ = await asyncio.wait(tasks, timeout=STEP_MAX_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        self._findings.settled(len(done))
        if len(due) == DUE_MAX:
            self.bell.set()
        return len(done)
