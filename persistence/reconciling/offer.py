"""The duties for people in line: free places are offered to them, and Postgres and Redis agree on how they stand."""

import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial

import sqlalchemy as sa

from engine.errors import EventNotFound, EventNotOpen, LedgerUnavailable, StoreUnavailable
from engine.keys import partition_of
from persistence.database import Row
from persistence.heartbeats import Figures
from persistence.partition_leases import Territory
from persistence.reconciling.duty import Duty
from persistence.reconciling.equipment import Equipment
from persistence.reconciling.partitions import Unreached, for_each
from persistence.schema import waitlist
from persistence.waitlist_entries import cancel_past, rows_to_settle

LOOK_PAUSE_S = 0.25  # nobody else can have what came free; an outsider who asks has the line served at once
PAUSE_PER_LINE_S = 0.001  # with a thousand lines each is looked at once a second: a tenth of a core of ours
AT_ONCE_MAX = 8  # scripts under way, half a millisecond each
SETTLE_PAUSE_S = 2.0  # so late an entry says that its offer was accepted, or has lapsed, where nobody has told it
PAUSE_PER_ENTRY_S = 0.002  # with ten thousand offers each is looked at every twenty seconds
SWEEP_PAUSE_S = 60.0  # between two looks whether everybody who waits is in line: only drift could be found
PAGE = 500  # entries of one query
CANCEL_MAX = 500  # entries ended in one transaction, each with a row of the outbox


class OfferPlaces(Duty):
    """Has every event that has a line serve it. Goes on while Postgres is away, which hears of the offers later."""

    name = "offer"
    pause_s = LOOK_PAUSE_S

    def __init__(self, equipment: Equipment, figures: Figures) -> None:
        super().__init__()
        self._equipment = equipment
        self._figures = figures
        self._away: LedgerUnavailable | None = None

    async def work(self, territory: Territory) -> None:
        unreached, self._away = Unreached(), None
        found = await for_each(territory.latest, self._lines, unreached=unreached)
        lines = [event_id for part in found for event_id in part]
        self.pause_s = max(LOOK_PAUSE_S, len(lines) * PAUSE_PER_LINE_S)
        notices = sum(await for_each(lines, self._offer, at_once=AT_ONCE_MAX, unreached=unreached))
        if notices:
            self._figures.count("done", {self.name: notices})
            self.bell.set()  # there may be more than were told at once
        unreached.tell()
        if self._away is not None:
            raise self._away

    async def _offer(self, event_id: str) -> int:
        try:
            return await self._equipment.waitlist.offer(event_id)
        except (EventNotFound, EventNotOpen):
            return 0  # the audit tells of it
        except LedgerUnavailable as error:
            self._away = error  # the offer stands, and its notice; the next line has its turn all the same
            return 0

    async def _lines(self, partition: int) -> list[str]:
        members = await self._equipment.kernel.partition_command(partition, "SMEMBERS", "lines")
        return [member.decode() for member in members]


class SettleEntries(Duty):
    """Brings entries into line with Redis that may not be, and ends those of events that are off sale."""

    name = "entries"
    pause_s = SETTLE_PAUSE_S

    def __init__(self, equipment: Equipment) -> None:
        super().__init__()
        self._equipment = equipment
        self._sweep_at = 0.0

    async def work(self, territory: Territory) -> None:
        if not territory.partitions:
            return
        unreached, count = Unreached(), 0
        while await cancel_past(self._equipment.database, limit=CANCEL_MAX) == CANCEL_MAX:
            pass
        conditions = [~waitlist.c.settled, waitlist.c.status == "offered"]
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_PAUSE_S
            conditions.append(waitlist.c.status == "waiting")
        for condition in conditions:
            count += await self._settle_all(territory, condition, unreached)
        self.pause_s = max(SETTLE_PAUSE_S, count * PAUSE_PER_ENTRY_S)
        unreached.tell()

    async def _settle_all(self, territory: Territory, condition: sa.ColumnElement[bool], unreached: Unreached) -> int:
        after, count = uuid.UUID(int=0), 0
        while True:
            rows = await rows_to_settle(self._equipment.database, condition, after=after, limit=PAGE)
            ours = self._ours(rows, territory)
            # One that cannot be settled keeps no other waiting: what is wrong with it is told at last.
            await for_each(ours, partial(self._settle, ours, unreached), at_once=AT_ONCE_MAX, unreached=unreached)
            count += len(ours)
            if len(rows) < PAGE:
                return count
            after = rows[-1]["id"]

    async def _settle(self, rows: Mapping[uuid.UUID, Row], unreached: Unreached, entry: uuid.UUID) -> None:
        row = rows[entry]
        partition = self._partition_of(row)
        if partition in unreached:
            return
        try:
            await self._equipment.waitlist.settle_row(row)
        except StoreUnavailable:  # none of its partition need be tried in this round
            with unreached.noting(partition):
                raise

    def _ours(self, rows: Sequence[Row], territory: Territory) -> dict[uuid.UUID, Row]:
        partitions = frozenset(territory.partitions)
        return {row["id"]: row for row in rows if self._partition_of(row) in partitions}

    def _partition_of(self, row: Row) -> int:
        return partition_of(row["event_id"], row["group_id"], self._equipment.kernel.partitions)
