"""What a loader reads of an event, and how it makes sure that nothing is sold behind its back meanwhile.

::

    commit of a booking                         loading of its event
    -------------------                         --------------------
    events row FOR KEY SHARE, epoch 7 = 7
    writes, …                                   events row FOR UPDATE: waits
    COMMIT                                      goes on; epoch := 8; COMMIT
                                                snapshot: sees the booking
    next commit: epoch 7 <> 8: refused          fills Redis, under epoch 8

Either a booking of the old epoch was committed before the epoch rose, and the snapshot has it, or it never will be.
The epoch is durable before Redis hears of it, so that no crash can bring an old one back; and no booking of the new
one can be committed before Redis has been filled, so that the snapshot, taken later, is still exact.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from engine.errors import EventNotFound
from engine.events import Event
from engine.ports import ActiveBooking
from persistence.bookings import read_active
from persistence.database import ledger_errors, retrying
from persistence.event_rows import event_from_row

_LOCK_EVENT = "SELECT 1 FROM events WHERE id = $1 FOR UPDATE"
_RAISE_EPOCH = "UPDATE events SET epoch = epoch + 1 WHERE id = $1"
_READ_EVENT = "SELECT * FROM events WHERE id = $1"


class PostgresTurn:
    """The right to load one event, for as long as *connection* holds its advisory lock."""

    def __init__(self, connection: Any, event_id: str) -> None:
        self._connection = connection
        self._event_id = event_id
        self._snapshot: Any = None

    async def find_event(self) -> Event:
        """The event as it stands now.

        Raises:
            EventNotFound: There is no such event.
            LedgerUnavailable: Postgres does not answer.
        """
        with ledger_errors():
            row = await self._connection.fetchrow(_READ_EVENT, self._event_id)
        if row is None:
            raise EventNotFound(self._event_id)
        return event_from_row(row)

    async def begin(self) -> "PostgresLoadedEvent":
        """Raise the event's epoch, durably, and read what the ledger knows; begun again, it starts anew.

        The snapshot lasts until all bookings are read or the turn ends. A loader that pauses between two batches for
        more than five seconds (``idle_in_transaction_session_timeout``) loses its turn.

        Raises:
            EventNotFound: There is no such event.
            LedgerUnavailable: Postgres does not answer.
        """
        await self.end()
        await retrying(self._raise_epoch)
        with ledger_errors():
            self._snapshot = self._connection.transaction(isolation="repeatable_read", readonly=True)
            await self._snapshot.start()
            row = await self._connection.fetchrow(_READ_EVENT, self._event_id)
        return PostgresLoadedEvent(self, self._connection, event_from_row(row))

    async def end(self) -> None:
        """Let the snapshot go, which would hold back vacuum; harmless when there is none."""
        if self._snapshot is not None:
            snapshot, self._snapshot = self._snapshot, None
            with ledger_errors():
                await snapshot.commit()

    async def _raise_epoch(self) -> None:
        async with self._connection.transaction():
            # FOR UPDATE waits for the FOR KEY SHARE of group commits; the UPDATE alone would not.
            if await self._connection.fetchval(_LOCK_EVENT, self._event_id) is None:
                raise EventNotFound(self._event_id)
            await self._connection.execute(_RAISE_EPOCH, self._event_id)


class PostgresLoadedEvent:
    """One event as one snapshot shows it."""

    def __init__(self, turn: PostgresTurn, connection: Any, event: Event) -> None:
        self.event = event
        self._turn = turn
        self._connection = connection

    async def active_bookings(self, *, batch_size: int) -> AsyncIterator[Sequence[ActiveBooking]]:
        """The bookings that own places, in batches; memory is bounded by *batch_size*. To be read once."""
        last_number = -1
        while True:
            page, last_number = await read_active(self._connection, self.event.id, after=last_number, limit=batch_size)
            if page:
                yield page
            if len(page) < batch_size:
                await self._turn.end()
                return
