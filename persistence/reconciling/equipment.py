"""What the reconciler's duties work with."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.catalog import Catalog
from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.loader import EventLoader
from persistence.aftercare import Aftercare
from persistence.audit import EventAudit
from persistence.blocks import Blocks
from persistence.booking_desk import BookingDesk
from persistence.database import fetch_rows
from persistence.differences import Difference
from persistence.payments import PaymentsStore
from persistence.publishing.relay import Relay
from persistence.waitlist import Waitlist


class Drained(Protocol):
    """What became of the old entries of one journal: in the ledger or undone, set aside as unreadable, still there."""

    @property
    def settled(self) -> int: ...

    @property
    def buried(self) -> int: ...

    @property
    def left(self) -> int: ...


class Repaired(Protocol):
    """One event's audit and what was made of it; ``audit`` is the last reading, after the repair."""

    @property
    def found(self) -> tuple[Difference, ...]: ...

    @property
    def repaired(self) -> tuple[Difference, ...]: ...

    @property
    def unresolved(self) -> tuple[Difference, ...]: ...

    @property
    def rebuilt(self) -> bool: ...

    @property
    def audit(self) -> EventAudit: ...


class Repair(Protocol):
    """Audits an event and repairs what differs, or with *dry_run* only says what would be repaired."""

    def __call__(self, event: SellableEvent, *, dry_run: bool = False) -> Awaitable[Repaired]: ...


class Equipment(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an installation that duties use; ``archive_after_s`` is the margin behind an event's end.

    ``history_days`` is how long the history of holds is kept, 0 for not at all. ``settle`` brings the payments of a
    booking into line with it.
    """

    kernel: Kernel
    database: AsyncEngine
    catalog: Catalog
    loader: EventLoader
    waitlist: Waitlist
    drain: Callable[[int], Awaitable[Drained]]
    repair: Repair
    desk: BookingDesk
    aftercare: Aftercare
    blocks: Blocks
    archive_after_s: float
    history_days: int
    payments: PaymentsStore
    settle: Callable[[str], Awaitable[object]]
    relay: Relay

    async def check(self, partition: int) -> None:
        """Tell an event of *partition* that is in trouble from servers that are.

        Raises:
            StoreUnavailable, LedgerUnavailable: A server does not answer at all.
        """
        await self.kernel.time_ms(partition)
        await fetch_rows(self.database, sa.select(sa.literal(1)))
