"""The queue in front of every sink: what it has still to be told, one row each, in order for each booking.

::

    outbox row          written by the transaction that it tells of
      ↓ fan out         a row of ``deliveries`` for each sink that wants it; ``published_at`` is set
    due                 ``due_at`` is past, and nothing earlier of its booking waits
      ↓ claim           ``due_at`` moves to the end of a lease: nobody else takes it until then
    delivered           the row goes
    failed              ``due_at`` moves to the next attempt, and that of all later rows of its booking with it
    dead                after hours of failures; a person retries it, or nobody does

Nothing is skipped: rows are found by having no ``published_at``, and not by a number that they come after. Numbers are
given before their transactions commit, and so appear out of order::

    A  insert, number 7                        commit
    B                    insert, number 8, commit
    relay                                 sees 8      sees 7: it has no published_at

Of one booking they do appear in order: its row is locked from before a number is taken until the commit.

**Order for each booking**, whoever else is at work: one at a time fans out, oldest first, so no delivery is queued
before an earlier one of its booking; one at a time claims for a sink, and claims nothing while something earlier of the
same booking is claimed, waits for another attempt, or is left out of the same claim. Whoever holds a claim tells its
deliveries of one booking one after the other. A lease that ends while its holder is still at it can bring repetitions,
with the same id, and never a delivery before one that it must come after.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from persistence.advisory import lock_key
from persistence.database import Row, driver_connection, ledger_errors
from persistence.publishing.attempt import Delivery
from persistence.publishing.envelope import OutboxRow

FAN_OUT_AT_ONCE = 1_000  # rows, some 20 ms
CONNECTIONS_MAX = 4  # of the process's pool: however many couriers there are, audits and drains have the others
PURGED_AT_ONCE = 5_000  # rows: deleting must not hold locks, nor keep vacuum waiting, for long
WAITING_COUNTED_MAX = 10_000  # of a sink; past it nobody needs to know how many more

# The two-number form of advisory locks, as those of partitions are; the second number is 0 for fanning out.
_LOCKS = abs(lock_key("holdfast sinks")) % 2**31
_TRY = "SELECT pg_try_advisory_xact_lock($1, $2)"
_WAIT = "SELECT pg_advisory_xact_lock($1, $2)"

_LOOK = """
    SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL) AS unpublished,
           ARRAY(SELECT id FROM sinks
                  WHERE disabled_at IS NULL
                    AND EXISTS (SELECT FROM deliveries
                                 WHERE sink_id = sinks.id AND dead_at IS NULL AND due_at <= now())) AS due
"""
_WANTED = "(outbox.type = ANY(sinks.types) OR split_part(outbox.type, '.', 1) || '.*' = ANY(sinks.types))"
_FAN_OUT = f"""
    WITH page AS MATERIALIZED (
        SELECT id, booking_id, type FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT $1
    ), queued AS (
        INSERT INTO deliveries (sink_id, outbox_id, booking_id, queued_at, due_at)
        SELECT sinks.id, outbox.id, outbox.booking_id, now(), now()
          FROM page AS outbox JOIN sinks ON sinks.disabled_at IS NULL AND {_WANTED}
        ON CONFLICT DO NOTHING
        RETURNING sink_id
    ), told AS (
        UPDATE outbox SET published_at = now() WHERE id IN (SELECT id FROM page)
    )
    SELECT (SELECT count(*) FROM page) AS rows, ARRAY(SELECT DISTINCT sink_id FROM queued) AS sinks
"""  # noqa: S608 - made of the constants above
# `behind`: the latest moment that something earlier of the same booking waits for. A row that is behind is put off
# until then, so that it is not looked at again and again before; when that is the end of a lease, whoever has the lease
# moves it back. The sum keeps the planner from looking for the maximum along the index of what is due.
_CLAIM = """
    WITH due AS MATERIALIZED (
        SELECT outbox_id, booking_id FROM deliveries
         WHERE sink_id = $1 AND dead_at IS NULL AND due_at <= now() ORDER BY due_at, outbox_id LIMIT $2
    ), judged AS MATERIALIZED (
        SELECT outbox_id, (SELECT max(earlier.due_at + interval '0') FROM deliveries AS earlier
                            WHERE earlier.sink_id = $1 AND earlier.booking_id = due.booking_id
                              AND earlier.outbox_id < due.outbox_id AND earlier.dead_at IS NULL
                              AND earlier.outbox_id NOT IN (SELECT outbox_id FROM due)) AS behind
          FROM due
    ), taken AS (
        UPDATE deliveries
           SET due_at = COALESCE(judged.behind, now() + make_interval(secs => $3))
          FROM judged
         WHERE deliveries.sink_id = $1 AND deliveries.outbox_id = judged.outbox_id
        RETURNING deliveries.outbox_id, deliveries.attempts, deliveries.due_at, judged.behind IS NULL AS ours
    )
    SELECT outbox.*, taken.attempts, taken.due_at, taken.ours
      FROM taken JOIN outbox ON outbox.id = taken.outbox_id ORDER BY outbox.id
"""
_DELIVERED = "DELETE FROM deliveries WHERE sink_id = $1 AND outbox_id = ANY($2::bigint[])"
# What was claimed and not tried, and what waits for it: both have the lease's end as their moment.
_END_LEASE = "UPDATE deliveries SET due_at = clock_timestamp() WHERE sink_id = $1 AND due_at = $2 AND dead_at IS NULL"
# The lease is the token: whoever has lost it has no say any more in when the next attempt is, or whether.
_FAIL = """
    UPDATE deliveries
       SET due_at = clock_timestamp() + make_interval(secs => $4), error = $5, attempts = attempts + 1,
           dead_at = CASE WHEN queued_at < clock_timestamp() - make_interval(secs => $6) THEN clock_timestamp() END
     WHERE sink_id = $1 AND outbox_id = $2 AND due_at = $3
    RETURNING due_at, dead_at
"""
_FOLLOW = """
    UPDATE deliveries SET due_at = $4
     WHERE sink_id = $1 AND booking_id = $2 AND outbox_id > $3 AND dead_at IS NULL AND due_at <> $4
"""
_PURGE = """
    WITH page AS MATERIALIZED (
        SELECT id FROM outbox
         WHERE published_at IS NOT NULL AND created_at < $1
           AND NOT EXISTS (SELECT FROM sinks JOIN deliveries ON deliveries.sink_id = sinks.id
                            WHERE deliveries.outbox_id = outbox.id AND dead_at IS NULL AND disabled_at IS NULL)
         ORDER BY id LIMIT $2
    ), undelivered AS (
        DELETE FROM deliveries USING page, sinks
         WHERE deliveries.sink_id = sinks.id AND deliveries.outbox_id = page.id
    ), purged AS (
        DELETE FROM outbox WHERE id IN (SELECT id FROM page) RETURNING 1
    )
    SELECT count(*) FROM purged
"""
_FORGET = """
    DELETE FROM deliveries WHERE (sink_id, outbox_id) IN (
        SELECT sink_id, outbox_id FROM deliveries WHERE sink_id NOT IN (SELECT id FROM sinks) LIMIT $1)
    RETURNING 1
"""


class Look(msgspec.Struct, frozen=True):
    """What there is to do: rows that wait for being fanned out, and the sinks that something is due for."""

    unpublished: bool
    due: tuple[int, ...]


class Queue:
    """The deliveries of all sinks. Every method raises ``LedgerUnavailable`` when Postgres does not answer."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._turns = asyncio.Semaphore(CONNECTIONS_MAX)

    async def look(self) -> Look:
        """One query, cheap enough to be asked several times a second."""
        row = (await self._fetch(_LOOK))[0]
        return Look(row["unpublished"], tuple(row["due"]))

    async def fan_out(self) -> tuple[int, tuple[int, ...]]:
        """Queue the oldest rows of the outbox; returns how many, and for which sinks. None while another is at it."""
        async with self._connection() as connection, connection.transaction():
            if not await connection.fetchval(_TRY, _LOCKS, 0):
                return 0, ()
            row = await connection.fetchrow(_FAN_OUT, FAN_OUT_AT_ONCE)
        return row["rows"], tuple(row["sinks"])

    async def claim(self, sink_id: int, *, limit: int, lease_s: float) -> tuple[list[Delivery], int]:
        """Deliveries of a sink that are ours for *lease_s* seconds, in order, and how many were looked at for it.

        None are looked at while another process claims for the same sink.
        """
        async with self._connection() as connection, connection.transaction():
            if not await connection.fetchval(_TRY, _LOCKS, sink_id):
                return [], 0
            rows = await connection.fetch(_CLAIM, sink_id, limit, lease_s)
        ours = [Delivery(outbox_row(row), row["attempts"] + 1, row["due_at"]) for row in rows if row["ours"]]
        return ours, len(rows)

    async def delivered(self, sink_id: int, ids: Sequence[int]) -> None:
        """They were told; safe to say twice."""
        await self._fetch(_DELIVERED, sink_id, ids)

    async def end_lease(self, sink_id: int, lease_until: dt.datetime) -> None:
        """Give back what of a claim was not tried, and let go what waited behind it.

        It takes turns with those who claim: one of them may just be putting something off until our lease ends.
        """
        async with self._connection() as connection, connection.transaction():
            await connection.fetchval(_WAIT, _LOCKS, sink_id)
            await connection.execute(_END_LEASE, sink_id, lease_until)

    async def failed(self, sink_id: int, delivery: Delivery, reason: str, *, wait_s: float, retry_for_s: float) -> bool:
        """Put it off, and what comes after it of its booking, or give it up for dead; returns whether it is dead."""
        async with self._connection() as connection, connection.transaction():
            await connection.fetchval(_WAIT, _LOCKS, sink_id)  # both would lock rows of many bookings
            row = await connection.fetchrow(
                _FAIL, sink_id, delivery.row.id, delivery.lease_until, wait_s, reason, retry_for_s
            )
            if row is None:
                return False
            is_dead = row["dead_at"] is not None
            until = row["dead_at"] if is_dead else row["due_at"]
            await connection.execute(_FOLLOW, sink_id, delivery.booking_id, delivery.row.id, until)
        return is_dead

    async def purge(self, older_than: dt.timedelta) -> int:
        """Delete the rows of the outbox that were published and are older; returns how many.

        What is still tried is kept, however old it is: it will be taken, or dead. With the others goes what was never
        told of them: of dead letters, and of sinks that are disabled.
        """
        cutoff, total = dt.datetime.now(dt.UTC) - older_than, 0
        while True:
            purged = int((await self._fetch(_PURGE, cutoff, PURGED_AT_ONCE))[0][0])
            total += purged
            if purged < PURGED_AT_ONCE:
                return total + await self.forget_removed()

    async def forget_removed(self) -> int:
        """Delete what was still to be told to sinks that are no more; returns how many deliveries."""
        total = 0
        while True:
            forgotten = len(await self._fetch(_FORGET, PURGED_AT_ONCE))
            total += forgotten
            if forgotten < PURGED_AT_ONCE:
                return total

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Row]:
        async with self._connection() as connection:
            rows: Sequence[Row] = await connection.fetch(statement, *arguments)
            return rows

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        async with self._turns, driver_connection(self._database) as connection:
            with ledger_errors():
                yield connection


def outbox_row(row: Row) -> OutboxRow:
    """A row of the outbox as asyncpg has read it."""
    booking_id = UUID(int=row["booking_id"].int)
    return OutboxRow(
        row["id"], booking_id, row["number"], row["event_id"], row["type"], row["payload"], row["created_at"]
    )
