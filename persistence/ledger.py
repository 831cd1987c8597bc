"""The ledger as the engine knows it: commits go through the group commit, lookups straight to Postgres.

Commits have a pool of their own. Lookups come with every request that carries a key and every look at a booking; in one
pool a rush of them would keep the next batch waiting for a connection, and turn 201s into 202s.
"""

import asyncio
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.bookings import Booking, BookingDetails, JournalEntry
from engine.errors import BookingNotFound
from engine.events import SellableEvent
from engine.ids import BookingId
from engine.lifecycle import SYSTEM
from engine.ports import Committed, Refused, Sealer, Standing, UnwritableEntry
from persistence.bookings import Bookings
from persistence.database import in_transaction
from persistence.group_commit import GroupCommit
from persistence.known_keys import KnownKeys
from persistence.steps import Step, lock_booking, take_step

GIVEN_UP_REASON = "it could not be written, and was given up"


class PostgresLedger:
    """Implements ``engine.ports.Ledger``."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer, *, commits: AsyncEngine) -> None:
        self._bookings = Bookings(engine, sealer)
        self._keys = KnownKeys(engine)
        self._commits = GroupCommit(commits, sealer)

    def commit(
        self, entry: JournalEntry, sellable: SellableEvent, details: BookingDetails | None = None
    ) -> "asyncio.Future[Committed | Refused]":
        """See :meth:`persistence.group_commit.GroupCommit.commit`."""
        return self._commits.commit(entry, sellable, details)

    async def commit_all(
        self, entries: Sequence[tuple[JournalEntry, SellableEvent]]
    ) -> list[Refused | UnwritableEntry | None]:
        """See :meth:`persistence.group_commit.GroupCommit.commit_all`."""
        return await self._commits.commit_all(entries)

    async def find_booking(self, booking_id: BookingId) -> Booking | None:
        """See :meth:`persistence.bookings.Bookings.find_booking`."""
        return await self._bookings.find_booking(booking_id)

    async def find_standing(self, booking_id: BookingId) -> Standing:
        """See :meth:`persistence.bookings.Bookings.find_standing`."""
        return await self._bookings.find_standing(booking_id)

    async def end_waiting(self, booking_id: BookingId) -> bool:
        """End a booking that waits for its payment; its money is due to be let go then. Whether it did wait."""

        async def work(connection: AsyncConnection) -> bool:
            try:
                row = await lock_booking(connection, booking_id)
            except BookingNotFound:
                return False
            if row["status"] != "payment_initiated":
                return False
            step = Step(to_status="failed", reason=GIVEN_UP_REASON, changes={"payment_status": "failed"})
            await take_step(connection, row, step, SYSTEM)
            return True

        return await in_transaction(self._bookings.engine, work)

    async def find_replay(self, once: bytes, body_digest: bytes) -> Booking | None:
        """See :meth:`persistence.bookings.Bookings.find_replay`; that nothing is known is known at little cost."""
        if not await self._keys.is_known(once):
            return None
        return await self._bookings.find_replay(once, body_digest)

    @property
    def waiting(self) -> int:
        """How many bookings wait to be written."""
        return self._commits.waiting

    async def close(self) -> None:
        """Wait for the commits under way."""
        await self._commits.close()
