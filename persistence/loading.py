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

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from engine.events import Event
from engine.ids import claim_key
from engine.lifecycle import OWNING_STATUSES
from engine.ports import BookingRow
from engine.waitlist import line_score
from persistence.database import ledger_errors, retrying
from persistence.event_rows import event_from_row

SMALL_BOOKINGS_MAX = 200  # of an event whose bookings are read together with those of others

_READ_EVENTS = "SELECT * FROM events WHERE id = ANY($1::text[])"
# FOR UPDATE waits for the FOR KEY SHARE of group commits; the UPDATE alone would not.
_RAISE_EPOCHS = """
    WITH locked AS MATERIALIZED (SELECT id FROM events WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE)
    UPDATE events SET epoch = events.epoch + 1 FROM locked WHERE events.id = locked.id RETURNING events.*
"""
# Without an order, so that nothing is ever sorted: whatever plan there is, it reads each row once.
_BOOKINGS = """
    SELECT uuid_send(id), round(date_part('epoch', COALESCE(confirmed_at, created_at)) * 1000)::bigint::text,
           places, customer_id
      FROM bookings WHERE event_id = $1 AND status = ANY($2::text[])
"""
_FEW_BOOKINGS = """
    SELECT booking.id, booking.confirmed_ms, booking.places, booking.customer_id, event.id AS event_id
      FROM unnest($1::text[]) AS event (id)
     CROSS JOIN LATERAL (
           SELECT uuid_send(id) AS id,
                  round(date_part('epoch', COALESCE(confirmed_at, created_at)) * 1000)::bigint::text AS confirmed_ms,
                  places, customer_id
             FROM bookings WHERE event_id = event.id AND status = ANY($2::text[]) LIMIT $3) AS booking
"""
# Whose offer ends with the Redis that is forgotten is in line again; whose booking is there, whatever has become of it,
# is not. The snapshot is later than the new epoch, so that no booking of the old one can follow.
_IN_LINE = """
    SELECT event_id, uuid_send(id) AS id, priority, joined_at, places, customer_id
      FROM waitlist AS entry
     WHERE event_id = ANY($1::text[]) AND (status = 'waiting' OR status = 'offered' AND expires_at > now())
       AND NOT EXISTS (SELECT FROM bookings WHERE bookings.id = entry.id)
"""


class PostgresTurn:
    """The right to load *event_ids*, for as long as *connection* holds their advisory locks."""

    def __init__(self, connection: Any, event_ids: Sequence[str]) -> None:
        self.event_ids = event_ids
        self._connection = connection
        self._snapshot: Any = None

    async def find_events(self, event_ids: Sequence[str]) -> dict[str, Event]:
        """Those of *event_ids* that exist, as they stand now.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        with ledger_errors():
            rows = await self._connection.fetch(_READ_EVENTS, event_ids)
        return {row["id"]: event_from_row(row) for row in rows}

    async def begin(self, event_ids: Sequence[str]) -> "list[PostgresLoadedEvent]":
        """Raise the epochs of those that exist, durably, all in one commit, and read the bookings of small ones.

        Begun again, it starts anew.

        Raises:
            LedgerUnavailable: Postgres does not answer, or one of them is being sold without a gap.
        """
        await self.end()
        events = [event_from_row(row) for row in await retrying(lambda: self._raise_epochs(event_ids))]
        found: dict[str, list[BookingRow]] = {event.id: [] for event in events}
        with ledger_errors():
            # One statement is a snapshot of its own, and needs no transaction.
            rows = await self._connection.fetch(_FEW_BOOKINGS, list(found), OWNING_STATUSES, SMALL_BOOKINGS_MAX + 1)
            in_line = await self._connection.fetch(_IN_LINE, list(found))
        for row in rows:
            found[row["event_id"]].append(row[:4])
        lines: dict[str, list[bytes]] = {event_id: [] for event_id in found}
        for row in in_line:
            lines[row["event_id"]].append(_line_entry(row))
        return [PostgresLoadedEvent(self, event, found[event.id], lines[event.id]) for event in events]

    async def open_cursor(self, query: str, *args: object) -> Any:
        """Begin to read what one statement finds; its snapshot lasts until it is ended or another one is begun.

        A loader that pauses between two batches for more than five seconds (``idle_in_transaction_session_timeout``)
        loses its turn.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        await self.end()
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

    async def _raise_epochs(self, event_ids: Sequence[str]) -> Any:
        return await self._connection.fetch(_RAISE_EPOCHS, event_ids)


class PostgresLoadedEvent:
    """One event as it was when its epoch rose, and its bookings since then."""

    def __init__(self, turn: PostgresTurn, event: Event, first: Sequence[BookingRow], line: Sequence[bytes]) -> None:
        self.event = event
        self.line = line
        self.is_small = len(first) <= SMALL_BOOKINGS_MAX
        self._turn = turn
        self._few = first if self.is_small else ()

    async def bookings(self, *, batch_size: int) -> AsyncGenerator[Sequence[BookingRow]]:
        """The bookings that own places; memory is bounded by twice *batch_size*, for the next ones are read meanwhile.

        To be read once, and of one event after another.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        for start in range(0, len(self._few), batch_size):
            yield self._few[start : start + batch_size]
        if self.is_small:
            return
        cursor = await self._turn.open_cursor(_BOOKINGS, self.event.id, OWNING_STATUSES)
        reading = asyncio.create_task(cursor.fetch(batch_size))
        try:
            while True:
                with ledger_errors():
                    rows = await reading
                if len(rows) == batch_size:
                    reading = asyncio.create_task(cursor.fetch(batch_size))
                if rows:
                    yield rows
                if len(rows) < batch_size:
                    await self._turn.end()
                    return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def _line_entry(row: Any) -> bytes:
    entry, score = claim_key(int.from_bytes(row["id"])), line_score(row["priority"], row["joined_at"])
    return f"{entry}|{score}|{row['places']}|{row['customer_id']}".encode()
