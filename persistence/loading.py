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
from engine.ids import claim_key
from engine.lifecycle import OWNING_STATUSES
from engine.waitlist import line_score
from persistence.database import ledger_errors, retrying
from persistence.event_rows import event_from_row

_READ_EVENT = "SELECT * FROM events WHERE id = $1"
# FOR UPDATE waits for the FOR KEY SHARE of group commits; the UPDATE alone would not.
_RAISE_EPOCH = """
    WITH locked AS MATERIALIZED (SELECT id FROM events WHERE id = $1 FOR UPDATE)
    UPDATE events SET epoch = events.epoch + 1 FROM locked WHERE events.id = locked.id RETURNING events.*
"""
# All but the key, which Postgres cannot write in our base32. Without an order, so that nothing is ever sorted: whatever
# plan there is, it reads each row once.
_LINES = """
    SELECT uuid_send(id) AS id,
           round(date_part('epoch', COALESCE(confirmed_at, created_at)) * 1000)::bigint
               || '|' || places || '|' || customer_id AS line
      FROM bookings WHERE event_id = $1 AND status = ANY($2::text[])
"""
_FEW_LINES = f"{_LINES} LIMIT $3"
# Whose offer ends with the Redis that is forgotten is in line again; whose booking is there, whatever has become of it,
# is not. The snapshot is later than the new epoch, so that no booking of the old one can follow.
_IN_LINE = """
    SELECT uuid_send(id) AS id, priority, joined_at, places, customer_id
      FROM waitlist AS entry
     WHERE event_id = $1 AND (status = 'waiting' OR status = 'offered' AND expires_at > now())
       AND NOT EXISTS (SELECT FROM bookings WHERE bookings.id = entry.id)
"""


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

        Raises:
            EventNotFound: There is no such event.
            LedgerUnavailable: Postgres does not answer.
        """
        await self.end()
        return PostgresLoadedEvent(self, self._connection, event_from_row(await retrying(self._raise_epoch)))

    async def open_cursor(self, query: str, *args: object) -> Any:
        """Begin to read what one statement finds; its snapshot lasts until the turn ends or begins anew.

        A loader that pauses between two batches for more than five seconds (``idle_in_transaction_session_timeout``)
        loses its turn.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        with ledger_errors():
            self._snapshot = self._connection.transaction(readonly=True)
            await self._snapshot.start()
            return await self._connection.cursor(query, *args)

    async def end(self) -> None:
        """Let the snapshot go, which would hold back vacuum; harmless when there is none."""
        if self._snapshot is not None:
            snapshot, self._snapshot = self._snapshot, None
            with ledger_errors():
                await snapshot.commit()

    async def _raise_epoch(self) -> Any:
        row = await self._connection.fetchrow(_RAISE_EPOCH, self._event_id)
        if row is None:
            raise EventNotFound(self._event_id)
        return row


class PostgresLoadedEvent:
    """One event as it was when its epoch rose, and its bookings since then."""

    def __init__(self, turn: PostgresTurn, connection: Any, event: Event) -> None:
        self.event = event
        self._turn = turn
        self._connection = connection

    async def booking_lines(self, *, batch_size: int) -> AsyncIterator[Sequence[bytes]]:
        """The bookings that own places, as arguments of ``load_bookings``; memory is bounded by *batch_size*.

        To be read once.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        with ledger_errors():
            # Most events are small: one statement is a snapshot of its own, and needs no transaction.
            rows = await self._connection.fetch(_FEW_LINES, self.event.id, OWNING_STATUSES, batch_size + 1)
        if len(rows) <= batch_size:
            if rows:
                yield _lines(rows)
            return
        cursor = await self._turn.open_cursor(_LINES, self.event.id, OWNING_STATUSES)
        while True:
            with ledger_errors():
                rows = await cursor.fetch(batch_size)
            if rows:
                yield _lines(rows)
            if len(rows) < batch_size:
                await self._turn.end()
                return

    async def line_entries(self) -> Sequence[bytes]:
        """The people in line, as arguments of ``load_line``.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        with ledger_errors():
            rows = await self._connection.fetch(_IN_LINE, self.event.id)
        return [_line_entry(row) for row in rows]


def _line_entry(row: Any) -> bytes:
    entry, score = claim_key(int.from_bytes(row["id"])), line_score(row["priority"], row["joined_at"])
    return f"{entry}|{score}|{row['places']}|{row['customer_id']}".encode()


def _lines(rows: Sequence[Any]) -> list[bytes]:
    return [f"{claim_key(int.from_bytes(number))}|{line}".encode() for number, line in rows]
