"""The duties to end what nobody asks to be ended: requests whose deadline has passed, blocks whose time is over, and
bookings of events that are cancelled or over.
"""

import math
from collections.abc import Sequence

from engine.errors import LedgerUnavailable
from persistence.aftercare import STEP_S
from persistence.deadlines import LapsedRequests, count_lapsed
from persistence.partition_leases import Territory
from persistence.reconciling.duty import Duty
from persistence.reconciling.equipment import Equipment
from persistence.reconciling.findings import Findings

EVENTS_MAX = 20  # due events of one round, five seconds of each at most: the others come with the next


class Expire(Duty):
    """Ends requests that nobody has approved in time. It falls to whoever has the first partition."""

    name = "expire"
    pause_s = 1.0

    def __init__(self, equipment: Equipment, findings: Findings) -> None:
        super().__init__()
        self._equipment = equipment
        self._findings = findings
        self._requests = LapsedRequests(equipment.database, equipment.desk)

    async def work(self, territory: Territory) -> None:
        if 0 in territory.partitions:
            self._findings.lapsed(await self._requests.end_some())

    async def finish(self) -> None:
        """End all that have lapsed, however many."""
        self._findings.lapsed(await self._requests.end_some(pages_max=math.inf))

    async def count(self) -> int:
        """How many requests have lapsed."""
        return await count_lapsed(self._equipment.database)


class ReleaseBlocks(Duty):
    """Gives places back that were to be off sale for a time. It falls to whoever has the first partition."""

    name = "blocks"
    pause_s = 1.0

    def __init__(self, equipment: Equipment, findings: Findings) -> None:
        super().__init__()
        self._blocks = equipment.blocks
        self._findings = findings

    async def work(self, territory: Territory) -> None:
        if 0 in territory.partitions:
            self._findings.unblocked(await self._blocks.release_due())

    async def finish(self) -> None:
        """Give back all that are due, however many."""
        self._findings.unblocked(await self._blocks.release_due(pages_max=math.inf))

    async def count(self) -> int:
        """How many blocks are due."""
        return await self._blocks.count_due()


class CareForEvents(Duty):
    """Looks through the bookings of events that are cancelled or over; leases keep several reconcilers apart."""

    name = "aftercare"
    pause_s = 1.0

    def __init__(self, equipment: Equipment, findings: Findings) -> None:
        super().__init__()
        self._care = equipment.aftercare
        self._findings = findings

    async def work(self, territory: Territory) -> None:  # noqa: ARG002 - leases share the work, event by event
        for event_id in await self._care.find_due(limit=EVENTS_MAX):
            await self._one(event_id, at_most_s=STEP_S)

    async def finish(self, event_ids: Sequence[str] | None, *, dry_run: bool) -> None:
        """Go through all that are due, those named or all, to their end; with *dry_run* only count what is left."""
        seen: set[str] = set()
        while fresh := [one for one in await self._care.find_due(limit=EVENTS_MAX + len(seen)) if one not in seen]:
            for event_id in fresh:
                if event_ids is None or event_id in event_ids:
                    if dry_run:
                        self._findings.cared_for(event_id, await self._care.count_left(event_id))
                    else:
                        await self._one(event_id, at_most_s=math.inf)
            seen.update(fresh)

    async def _one(self, event_id: str, *, at_most_s: float) -> None:
        """Look through the bookings of one event; what is wrong with it keeps no other waiting.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        try:
            self._findings.cared_for(event_id, await self._care.take_care(event_id, at_most_s=at_most_s))
        except LedgerUnavailable:
            raise
        except Exception as error:
            self._findings.failed(event_id, error)
