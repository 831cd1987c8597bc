"""Audits and repairs of events that something speaks against: each of an event by one process at a time."""

import asyncio
from contextlib import AbstractAsyncContextManager

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.loader import EventLoader
from persistence.advisory import advisory_lock
from persistence.audit_journal import JournalWatch
from persistence.bookings import Bookings
from persistence.repair import EventRepair, repair_event

AUDITS_AT_ONCE = 2  # in a process: each keeps two connections of the pool, which requests need as well
REPAIRS_AT_ONCE = 1  # beside them, so that no confirm waits for an event that nobody waits for
LOCK_WAIT_S = 60.0  # another process audits the same event; of a million seats that takes some seconds

logger = structlog.get_logger("holdfast.persistence")


class LedgerAuditor:
    """Implements ``engine.ports.Auditor``."""

    def __init__(
        self, engine: AsyncEngine, kernel: Kernel, bookings: Bookings, loader: EventLoader, journals: JournalWatch
    ) -> None:
        self._engine = engine
        self._journals = journals
        self._kernel = kernel
        self._bookings = bookings
        self._loader = loader
        self._turns = asyncio.Semaphore(AUDITS_AT_ONCE)
        self._repair_turns = asyncio.Semaphore(REPAIRS_AT_ONCE)

    async def audit(self, sellable: SellableEvent, *, epoch: bytes, server: bytes) -> None:
        """See :meth:`engine.ports.Auditor.audit`.

        Raises:
            StoreUnavailable: Redis does not answer.
            LedgerUnavailable: Postgres does not answer, or another process has audited the event for a minute.
        """
        async with self._turns, self._lock("audit", sellable):
            if await self._kernel.event_command(sellable, "HGET", "state", "audited") == server:
                return  # whoever had the lock before has done it
            repair = await self._repair(sellable)
            reply = await self._kernel.run("mark_audited", sellable, [epoch, server])
            if reply[0] == b"MARKED":
                _tell("audited after a change of server", repair)

    async def repair(self, sellable: SellableEvent) -> bool:
        """See :meth:`engine.ports.Auditor.repair`.

        Raises:
            StoreUnavailable, LedgerUnavailable, EventNotFound: As in :meth:`audit`.
        """
        async with self._repair_turns, self._lock("repair", sellable):
            repair = await self._repair(sellable)
            _tell("audited after a refusal by the ledger", repair)
            return repair.complete

    def _lock(self, what: str, sellable: SellableEvent) -> AbstractAsyncContextManager[object]:
        # One name for each: a confirm waits for the audit, and must not wait for a crowd of repairs as well.
        return advisory_lock(self._engine, f"holdfast {what} {sellable.event.id}", wait_s=LOCK_WAIT_S)

    async def _repair(self, sellable: SellableEvent) -> EventRepair:
        return await repair_event(self._kernel, self._bookings, self._loader, sellable, journals=self._journals)


def _tell(what: str, repair: EventRepair) -> None:
    logger.warning(
        what,
        event_id=repair.event_id,
        repaired=len(repair.repaired),
        unresolved=len(repair.unresolved),
        complete=repair.complete,
    )
