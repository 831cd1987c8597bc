"""The duty to audit: every event in Redis in rotation, the one that waits longest first; what differs is repaired.

Large events have a lane of their own, so that one of a million seats does not keep a thousand small ones waiting.
"""

import asyncio
import time

from engine.errors import EventNotFound, EventNotOpen, Unavailable
from persistence.partition_leases import Territory
from persistence.reconciling.duty import Duty
from persistence.reconciling.equipment import Equipment
from persistence.reconciling.findings import Findings
from persistence.reconciling.partitions import Unreached
from persistence.reconciling.roster import SEATS_PER_BOOKING, Roster, Sighting
from persistence.reconciling.watch import Suspicions

ROTATION_S = 30.0  # from one audit of an event to its next, so that drift is found within 60 s with time to spare
ROUND_S = 2.0  # one step; then leases, heartbeats and what became urgent are looked at
RETRY_S = 5.0  # before an event is tried again that could not be audited


class Audit(Duty):
    """Audits the events whose turn it is, a few at a time; urgent ones before all others."""

    name = "audit"
    large = False
    at_once = 3  # each keeps a connection of the pool for a while

    def __init__(self, equipment: Equipment, roster: Roster, suspicions: Suspicions, findings: Findings) -> None:
        super().__init__()
        self._equipment = equipment
        self._roster = roster
        self._suspicions = suspicions
        self._findings = findings
        suspicions.bells.append(self.bell)

    async def work(self, territory: Territory) -> None:
        queue = self._due()
        stop_at, unreached = time.monotonic() + ROUND_S, Unreached()

        async def lane() -> None:
            while queue and time.monotonic() < stop_at:
                sighting = queue.pop()
                if sighting.partition in territory.partitions and sighting.partition not in unreached:
                    with unreached.noting(sighting.partition):
                        await self.audit(sighting)

        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(self.at_once):
                    lanes.create_task(lane())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # they all say the same
        if queue:
            self.bell.set()
        self._note_oldest()
        unreached.tell()

    async def audit(self, sighting: Sighting, *, dry_run: bool = False) -> None:
        """Audit one event, and repair it unless *dry_run*.

        Raises:
            StoreUnavailable, LedgerUnavailable: A server does not answer.
        """
        try:
            event = await self._equipment.catalog.get(sighting.event_id)
            repaired = await self._equipment.repair(event, dry_run=dry_run)
        except (EventNotFound, EventNotOpen):
            self._findings.unknown(sighting)
        except Exception as error:  # damaged beyond reading, say: it must keep no other event from its audit
            if isinstance(error, Unavailable):
                await self._equipment.check(sighting.partition)
            self._findings.failed(sighting.event_id, error)
            sighting.since, sighting.audited, sighting.urgent = time.monotonic() - ROTATION_S + RETRY_S, True, False
            return
        else:
            self._findings.audited(sighting, repaired)
            reading = repaired.audit
            if not reading.loaded:
                self._suspicions.add(sighting.partition)
            elif reading.epoch is not None and reading.seq is not None:
                sighting.note((reading.epoch, reading.seq))
                seats = len(event.layout.seats) // SEATS_PER_BOOKING
                sighting.weight = reading.holds + reading.bookings + seats
        sighting.since, sighting.audited, sighting.urgent = time.monotonic(), True, False

    def _due(self) -> list[Sighting]:
        """The events of this lane whose turn it is, the first to be audited last."""
        before = time.monotonic() - ROTATION_S
        due = [
            sighting
            for sighting in self._roster
            if sighting.large == self.large and (sighting.urgent or not sighting.audited or sighting.since < before)
        ]
        return sorted(due, key=lambda sighting: (sighting.urgent, not sighting.audited, -sighting.since))

    def _note_oldest(self) -> None:
        oldest = min((sighting.since for sighting in self._roster), default=time.monotonic())
        self._findings.figures.oldest_audit_s = round(time.monotonic() - oldest, 1)


class AuditLarge(Audit):
    """The lane of large events."""

    name = "audit of large events"
    large = True
    at_once = 1
