"""The duty to archive: events that are over leave Redis, once a clean audit has seen that the ledger has all of them.

Their bookings stay where they are read from, in the ledger. Whoever asks for such an event's availability has it loaded
again, and it is archived again: the ledger has forgotten nothing.
"""

import time
from collections.abc import Sequence

import sqlalchemy as sa

from engine.errors import EventNotFound, EventNotOpen, Unavailable
from persistence.database import fetch_rows
from persistence.partition_leases import Territory
from persistence.reconciling.duty import Duty
from persistence.reconciling.equipment import Equipment
from persistence.reconciling.findings import Findings
from persistence.reconciling.partitions import Unreached
from persistence.reconciling.rebuild import over_for
from persistence.reconciling.roster import Roster, Sighting
from persistence.schema import events

ROTATION_S = 30.0  # an event that is over is in nobody's way
PAGE = 500  # events of which one query asks whether they are over


class Archive(Duty):
    """Asks the ledger which of the events in Redis are over, audits these, and lets them go if all is well."""

    name = "archive"
    pause_s = 1.0

    def __init__(self, equipment: Equipment, roster: Roster, findings: Findings) -> None:
        super().__init__()
        self._equipment = equipment
        self._roster = roster
        self._findings = findings
        self._next_at = 0.0

    async def work(self, territory: Territory) -> None:
        ready = territory.partitions and self._roster.synced.issuperset(territory.partitions)
        if not ready or time.monotonic() < self._next_at:
            return
        self._next_at = stop_at = time.monotonic() + ROTATION_S
        unreached = Unreached()
        for sighting in await self.find_over(list(self._roster)):
            ours = sighting.partition in territory.partitions and sighting.partition not in unreached
            if ours and time.monotonic() < stop_at:
                with unreached.noting(sighting.partition):
                    await self.archive(sighting)
        unreached.tell()

    async def find_over(self, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Those that have been over for longer than the margin."""
        over = []
        for start in range(0, len(sightings), PAGE):
            page = {sighting.event_id: sighting for sighting in sightings[start : start + PAGE]}
            query = sa.select(events.c.id).where(events.c.id.in_(page), over_for(self._equipment.archive_after_s))
            over += [page[row["id"]] for row in await fetch_rows(self._equipment.database, query)]
        return over

    async def archive(self, sighting: Sighting) -> None:
        """Let one event go, unless something is not as it should be; then it is tried again the next time.

        Raises:
            StoreUnavailable, LedgerUnavailable: A server does not answer.
        """
        try:
            event = await self._equipment.catalog.get(sighting.event_id)
            repaired = await self._equipment.repair(event)
        except (EventNotFound, EventNotOpen):
            return  # the audit tells of it
        except Exception as error:  # as in the audit
            if isinstance(error, Unavailable):
                await self._equipment.check(sighting.partition)
            self._findings.failed(sighting.event_id, error)
            return
        self._findings.audited(sighting, repaired)
        reading = repaired.audit
        if not reading.loaded or reading.differences or repaired.unresolved:
            return
        args = [sighting.event_id.encode(), b"%d" % (reading.epoch or 0), b"%d" % (reading.seq or 0)]
        reply = await self._equipment.kernel.run("archive_event", event, args, load=False)
        if reply[0] == b"ARCHIVED":
            self._findings.archived(sighting.event_id)
            self._roster.forget(sighting.partition, sighting.event_id)
            self._equipment.catalog.forget(sighting.event_id)
