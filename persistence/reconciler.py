"""The reconciler: everything that must happen though nobody asks for it, shared out among any number of processes.

Each duty is a loop of its own over the partitions that this process has a lease of
(:mod:`persistence.partition_leases`), so that one that is held up holds up no other::

    watch      every second    has Redis lost something?          persistence/reconciling/watch.py
    wake       when one is due end holds whose deadline is past   …/wake.py
    offer      four times a second   free places → people in line  …/offer.py
    entries    every 2 s       what became of their offers → Postgres   the same
    drain      every second    old journal entries → ledger       …/drain.py
    rebuild    when suspected, and every minute: load what is missing   …/rebuild.py
    audit      each event every 30 s, urgent ones at once; repair what differs   …/audit.py
    archive    every 30 s      let events go that are over        …/archive.py
    expire     every second    requests nobody has approved       …/expire.py
    aftercare  every second    bookings of cancelled events, and of those that are over   the same
    clock      every second    has Redis's clock jumped?          …/clock.py
    settle     every second    payments left in between           …/settle.py
    history    every 2 s       who held what → Postgres           persistence/hold_history.py
    forgotten  every hour      what of it is too old              the same
    refusals   every hour      verdicts nobody will ask for       persistence/deadlines.py
    notices    every hour      old webhooks of settled payments   persistence/payment_notices.py
    publish    every 0.25 s    outbox → webhooks, Redis stream    …/publish.py
    published  every hour      what of it is too old              persistence/publishing/queue.py
    heartbeat  every 3 s       say so in Postgres                 persistence/heartbeats.py

All of it may be done twice, or by two at once, without harm: scripts compare before they write, the ledger takes a
booking once, and whoever loads an event waits for the turn.
"""

import asyncio
import datetime as dt
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import uuid_utils.compat

from engine.errors import LedgerUnavailable
from persistence.deadlines import purge_refusals
from persistence.heartbeats import Figures, forget, forget_stale, write_heartbeat
from persistence.hold_history import purge_hold_history, store_trail
from persistence.partition_leases import PartitionLeases, Territory
from persistence.payment_notices import Notices
from persistence.reconciling.archive import Archive
from persistence.reconciling.audit import Audit, AuditLarge
from persistence.reconciling.clock import StoreClock, WatchClock
from persistence.reconciling.drain import Drain
from persistence.reconciling.duty import Duty, EachPartition, Once, keep_doing
from persistence.reconciling.equipment import Equipment
from persistence.reconciling.expire import CareForEvents, Expire, ReleaseBlocks
from persistence.reconciling.findings import Findings
from persistence.reconciling.offer import OfferPlaces, SettleEntries
from persistence.reconciling.publish import Publish
from persistence.reconciling.rebuild import Rebuild
from persistence.reconciling.roster import Roster
from persistence.reconciling.rounds import Round
from persistence.reconciling.settle import Settle
from persistence.reconciling.single_round import Progress, SingleRound
from persistence.reconciling.wake import Wake
from persistence.reconciling.watch import Suspicions, Watch

HEARTBEAT_S = 3.0
STOP_S = 2.0  # for what is under way when it is asked to stop; a step that takes longer is cut off, and done by others
GOODBYE_S = 1.0
HISTORY_PAUSE_S = 2.0  # a rush fills a trail in a minute or two
FORGET_PAUSE_S = 3_600.0  # in small steps an hour apart rather than a day's rows at once


class Reconciler:
    """One reconciler. Making one connects to nothing."""

    def __init__(self, equipment: Equipment, leases: PartitionLeases) -> None:
        self._equipment = equipment
        self._leases = leases
        self._findings = Findings()
        self._id = uuid_utils.compat.uuid7()

    @property
    def figures(self) -> Figures:
        """What it has found and done since it was made."""
        return self._findings.figures

    @property
    def owned(self) -> Sequence[int]:
        """The partitions that it takes care of now."""
        return self._leases.partitions

    async def run_once(
        self, event_ids: Sequence[str] | None = None, *, dry_run: bool = False, on_progress: Progress | None = None
    ) -> Round:
        """One round of all duties over the events named, or over everything; with *dry_run* nothing is written.

        Raises:
            EventNotFound, EventNotOpen: One of those named does not exist, or is a draft.
            StoreUnavailable: Redis does not answer for any of their partitions.
            LedgerUnavailable: Postgres does not answer.
        """
        return await SingleRound(self._equipment, dry_run=dry_run, on_progress=on_progress).run(event_ids)

    async def run_for_ever(self, stop: asyncio.Event | None = None) -> None:
        """Do all duties until *stop* is set, or until cancelled. Servers that are away are waited for."""
        stop = stop or asyncio.Event()
        duties = self._duties(stop)
        tasks = [asyncio.create_task(self._keep_doing(duty, stop), name=duty.name) for duty in duties]
        try:
            await stop.wait()
            for duty in duties:
                duty.bell.set()
            await asyncio.wait(tasks, timeout=STOP_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(duty.close() for duty in duties), return_exceptions=True)
            await self._say_goodbye()

    async def _keep_doing(self, duty: Duty, stop: asyncio.Event) -> None:
        findings = self._findings
        await keep_doing(duty, self._leases, outages=findings.outages, figures=findings.figures, stop=stop)

    async def _store_trail(self, partition: int) -> int:
        equipment = self._equipment
        return await store_trail(equipment.kernel, equipment.database, partition, keep=equipment.history_days > 0)

    async def _forget_history(self) -> int:
        return await purge_hold_history(
            self._equipment.database, older_than=dt.timedelta(days=self._equipment.history_days)
        )

    async def _purge_refusals(self) -> int:
        return await purge_refusals(self._equipment.database)

    async def _purge_notices(self) -> int:
        return await Notices(self._equipment.database).purge()

    async def _forget_published(self) -> int:
        relay = self._equipment.relay
        return await relay.queue.purge(dt.timedelta(days=relay.options.keep_days))

    async def _say_goodbye(self) -> None:
        """Take our heartbeat away, so that nobody waits for the next one; if that cannot be done it grows stale."""
        with suppress(LedgerUnavailable, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await forget(self._equipment.database, self._id)

    def _duties(self, stop: asyncio.Event) -> list[Duty]:
        """All duties: a new one is a line here."""
        equipment, findings = self._equipment, self._findings
        kernel, roster, suspicions = equipment.kernel, Roster(), Suspicions()
        clock = StoreClock(kernel)
        watch = Watch(kernel, roster, suspicions, findings)
        kernel.transport.on_server_change(watch.note_server_change)
        return [
            KeepLeases(self._leases, stop),
            watch,
            Wake(kernel, clock, findings),
            OfferPlaces(equipment, findings.figures),
            SettleEntries(equipment),
            Drain(equipment, clock, findings),
            Rebuild(equipment, roster, suspicions, findings),
            Audit(equipment, roster, suspicions, findings),
            AuditLarge(equipment, roster, suspicions, findings),
            Archive(equipment, roster, findings),
            Settle(equipment, findings),
            Expire(equipment, findings),
            ReleaseBlocks(equipment, findings),
            CareForEvents(equipment, findings),
            WatchClock(clock, roster, suspicions, findings.figures),
            EachPartition("history", self._store_trail, findings.figures, pause_s=HISTORY_PAUSE_S),
            Once("forgotten", self._forget_history, findings.figures, pause_s=FORGET_PAUSE_S),
            Once("refusals", self._purge_refusals, findings.figures, pause_s=FORGET_PAUSE_S),
            Once("notices", self._purge_notices, findings.figures, pause_s=FORGET_PAUSE_S),
            Publish(equipment.relay, findings.figures),
            Once("published", self._forget_published, findings.figures, pause_s=FORGET_PAUSE_S),
            Heartbeat(equipment, self._id, findings.figures),
        ]


class KeepLeases(Duty):
    """The duty to hold one's share of the partitions, and to take over what others leave."""

    name = "leases"

    def __init__(self, leases: PartitionLeases, stop: asyncio.Event) -> None:
        super().__init__()
        self._leases = leases
        self._stop = stop

    async def work(self, territory: Territory) -> None:  # noqa: ARG002 - it is what makes the territory
        await self._leases.keep(self._stop)


class Heartbeat(Duty):
    """The duty to say that one lives, and what one has done; and to clear up after those that said nothing for long."""

    name = "heartbeat"
    pause_s = HEARTBEAT_S

    def __init__(self, equipment: Equipment, own_id: UUID, figures: Figures) -> None:
        super().__init__()
        self._equipment = equipment
        self._id = own_id
        self._figures = figures
        self._host = socket.gethostname()

    async def work(self, territory: Territory) -> None:
        database, partitions = self._equipment.database, len(territory.partitions)
        await write_heartbeat(
            database, self._id, host=self._host, pid=os.getpid(), partitions=partitions, figures=self._figures
        )
        await forget_stale(database)
