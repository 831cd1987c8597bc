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
import struct
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from engine.events import Event
from engine.ids import claim_key
from engine.lifecycle import OWNING_STATUSES
from engine.ports import BookingColumns
from engine.waitlist import line_score
from persistence.database import COMMAND_GRACE_S, ledger_errors, retrying
from persistence.event_rows import event_from_row

SMALL_BOOKINGS_MAX = 200  # of an event whose bookings are read together with those of others
_BEFORE_ALL = 0  # numbers begin at 1

_READ_EVENTS = "SELECT * FROM events WHERE id = ANY($1::text[])"
# FOR UPDATE waits for the FOR KEY SHARE of group commits; the UPDATE alone would not.
_RAISE_EPOCHS = """
    WITH locked AS MATERIALIZED (SELECT id FROM events WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE)
    UPDATE events SET epoch = events.epoch + 1 FROM locked WHERE events.id = locked.id RETURNING events.*
"""
# A column of a whole page in one value, which costs the driver half of a row for each booking. Places have no blanks in
# them; ids of customers are printable, but for the one of blocks, which has no line end either.
_COLUMNS = """
    SELECT count(*) AS count, max(number) AS last_number, string_agg(uuid_send(id), '') AS ids,
           string_agg((date_part('epoch', COALESCE(confirmed_at, created_at)) * 1000)::bigint::text, ' ')
               AS confirmed_ms,
           string_agg(places, ' ') AS places, string_agg(customer_id, E'\\n') AS customers
"""
# Compared and ordered by both columns, though one is given: only the index on both is in that order. By the number
# alone, the index on that would do as well, which passes over every booking of every other event.
_PAGE = f"""
    {_COLUMNS} FROM (
        SELECT id, number, confirmed_at, created_at, places, customer_id FROM bookings
         WHERE (event_id, number) > ($1, $2) AND event_id <= $1 AND status = ANY($3::text[])
         ORDER BY event_id, number LIMIT $4) AS booking
"""  # noqa: S608 - made of the constant above
# Else a page may be the first ones of all that is left, read and sorted: without statistics that seems little.
_IN_ORDER_OF_THE_INDEX = "SET LOCAL enable_sort = off"
# A page passes over all that own no places any more, which may be half a million of them, and on a cold disk.
PAGE_MAX_S = 20
_AS_LONG_AS_A_PAGE_TAKES = f"SET LOCAL statement_timeout = '{PAGE_MAX_S}s'"
_FEW_BOOKINGS = f"""
    SELECT event.id AS event_id, page.*
      FROM unnest($1::text[]) AS event (id)
     CROSS JOIN LATERAL (
           {_COLUMNS} FROM (
               SELECT * FROM bookings
                WHERE (event_id, number) > (event.id, 0) AND event_id <= event.id AND status = ANY($2::text[])
                ORDER BY event_id, number LIMIT $3) AS booking
           ) AS page
"""  # noqa: S608 - made of the constant above
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
        lines: dict[str, list[bytes]] = {event.id: [] for event in events}
        await self.begin_snapshot()
        with ledger_errors():
            rows = await self._connection.fetch(_FEW_BOOKINGS, list(lines), OWNING_STATUSES, SMALL_BOOKINGS_MAX + 1)
            in_line = await self._connection.fetch(_IN_LINE, list(lines))
        await self.end()  # large ones are read later, from one of their own
        found = {row["event_id"]: row for row in rows}
        for row in in_line:
            lines[row["event_id"]].append(_line_entry(row))
        return [PostgresLoadedEvent(self, event, found[event.id], lines[event.id]) for event in events]

    async def begin_snapshot(self) -> None:
        """Have all pages that follow show one moment, until it is ended or another one is begun.

        A loader that pauses between two of them for more than five seconds (``idle_in_transaction_session_timeout``)
        loses its turn.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        await self.end()
        with ledger_errors():
            self._snapshot = self._connection.transaction(isolation="repeatable_read", readonly=True)
            await self._snapshot.start()
            await self._connection.execute(f"{_IN_ORDER_OF_THE_INDEX}; {_AS_LONG_AS_A_PAGE_TAKES}")

    async def read_page(self, event_id: str, after: int, size: int) -> Any:
        """Columns of the event's next bookings behind number *after*.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        with ledger_errors():
            return await self._connection.fetchrow(
                _PAGE, event_id, after, OWNING_STATUSES, size, timeout=PAGE_MAX_S + COMMAND_GRACE_S
            )

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

    def __init__(self, turn: PostgresTurn, event: Event, first: Any, line: Sequence[bytes]) -> None:
        self.event = event
        self.line = line
        self.is_small = first["count"] <= SMALL_BOOKINGS_MAX
        self._turn = turn
        self._few = first if self.is_small else None

    async def bookings(self, *, page_size: int) -> AsyncGenerator[BookingColumns]:
        """The bookings that own places; memory is bounded by twice *page_size*, for the next ones are read meanwhile.

        To be read once, and of one event after another.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        if self._few is not None:
            if self._few["count"]:
                yield _columns(self._few)
            return
        await self._turn.begin_snapshot()
        read = partial(self._turn.read_page, self.event.id, size=page_size)
        reading = asyncio.create_task(read(_BEFORE_ALL))
        try:
            is_last = False
            while not is_last:
                page = await reading
                is_last = page["count"] < page_size
                if not is_last:
                    reading = asyncio.create_task(read(page["last_number"]))
                if page["count"]:
                    yield _columns(page)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self._turn.end()  # also when it failed: what else is asked in this turn is about the present


def _columns(page: Any) -> BookingColumns:
    """What ``_COLUMNS`` has read, one booking at least.

    Raises:
        ValueError: A separator stands inside of a value.
    """
    size = page["count"]
    ids = struct.unpack(size * "16s", page["ids"])
    columns = ids, page["confirmed_ms"].split(" "), page["places"].split(" "), page["customers"].split("\n")
    if any(len(column) != size for column in columns):
        raise ValueError(f"of {size} bookings up to number {page['last_number']} one has a separator in a column")
    return BookingColumns(*columns)


def _line_entry(row: Any) -> bytes:
    entry, score = claim_key(int.from_bytes(row["id"])), line_score(row["priority"], row["joined_at"])
    return f"{entry}|{score}|{row['places']}|{row['customer_id']}".encode()
