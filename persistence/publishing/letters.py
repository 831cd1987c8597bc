"""What persons do with the outbox: look what waits and what is dead, try it again, have the past told once more."""

import datetime as dt
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from persistence.database import Row, driver_connection, ledger_errors
from persistence.publishing.envelope import OutboxRow
from persistence.publishing.queue import WAITING_COUNTED_MAX, outbox_row

FAILURE_SOUGHT_MAX = 1_000  # deliveries of a sink: what waits longest was tried first
LISTED_MAX = 1_000  # dead letters of one listing; the counts are of all
REPLAYED_AT_ONCE = 5_000  # rows of one statement

_STATES = f"""
    SELECT sinks.id, (SELECT count(*) FROM (SELECT FROM deliveries WHERE sink_id = sinks.id AND dead_at IS NULL
                                             LIMIT {WAITING_COUNTED_MAX}) AS counted) AS waiting,
           (SELECT count(*) FROM deliveries WHERE sink_id = sinks.id AND dead_at IS NOT NULL) AS dead,
           (SELECT extract(epoch FROM clock_timestamp() - outbox.created_at)
              FROM deliveries JOIN outbox ON outbox.id = deliveries.outbox_id
             WHERE sink_id = sinks.id AND dead_at IS NULL ORDER BY outbox_id LIMIT 1)::float AS oldest_s,
           disabled_at IS NOT NULL AS disabled, failure.error, failure.attempts
      FROM sinks LEFT JOIN LATERAL (
           SELECT error, attempts
             FROM (SELECT outbox_id, error, attempts FROM deliveries WHERE sink_id = sinks.id AND dead_at IS NULL
                    ORDER BY outbox_id LIMIT {FAILURE_SOUGHT_MAX}) AS oldest
            WHERE attempts > 0 AND error IS NOT NULL ORDER BY outbox_id LIMIT 1) AS failure ON true
"""  # noqa: S608 - made of the constants above
_UNPUBLISHED = """
    SELECT extract(epoch FROM clock_timestamp() - created_at)::float AS oldest_s
      FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT 1
"""
_DEAD = """
    SELECT outbox.*, deliveries.attempts, deliveries.error, deliveries.dead_at, sinks.name AS sink
      FROM deliveries JOIN sinks ON sinks.id = deliveries.sink_id JOIN outbox ON outbox.id = deliveries.outbox_id
     WHERE dead_at IS NOT NULL AND ($1::text IS NULL OR sinks.name = $1) ORDER BY outbox_id, sink_id LIMIT $2
"""
_REVIVE = """
    UPDATE deliveries SET dead_at = NULL, due_at = now(), queued_at = now(), attempts = 0
     WHERE dead_at IS NOT NULL AND sink_id = $1 AND ($2::bigint[] IS NULL OR outbox_id = ANY($2))
"""
_REPLAY = """
    WITH page AS MATERIALIZED (
        SELECT outbox.id, booking_id FROM outbox JOIN sinks ON sinks.id = $1
         WHERE published_at IS NOT NULL AND outbox.id > $2
           AND ($3::timestamptz IS NULL OR outbox.created_at >= $3)
           AND ($4::timestamptz IS NULL OR outbox.created_at < $4)
           AND ($5::uuid IS NULL OR booking_id = $5)
           AND CASE WHEN $6::text IS NULL
                    THEN type = ANY(sinks.types) OR split_part(type, '.', 1) || '.*' = ANY(sinks.types)
                    ELSE $6 IN (type, split_part(type, '.', 1) || '.*') END
         ORDER BY outbox.id LIMIT $7
    ), queued AS (
        INSERT INTO deliveries AS kept (sink_id, outbox_id, booking_id, queued_at, due_at)
        SELECT $1, id, booking_id, now(), now() FROM page
        ON CONFLICT (sink_id, outbox_id) DO UPDATE
           SET dead_at = NULL, due_at = now(), queued_at = now(), attempts = 0 WHERE kept.dead_at IS NOT NULL
    )
    SELECT max(id) AS last, count(*) AS rows FROM page
"""


class QueueState(msgspec.Struct, frozen=True):
    """How a sink's queue stands; ``waiting`` is counted up to ten thousand.

    ``last_error`` is why the last of ``attempts`` failed to tell what waits longest of all that was tried in vain;
    ``None`` where nothing was.
    """

    sink_id: int
    waiting: int
    dead: int
    oldest_s: float | None
    disabled: bool
    last_error: str | None = None
    attempts: int = 0


class OutboxState(msgspec.Struct, frozen=True):
    """How far the outbox is behind: ``oldest_s`` is the age of what waits longest, for any sink that is not disabled.

    ``oldest_s`` is 0 when nothing waits. ``waiting`` and ``dead`` count deliveries, not events.
    """

    oldest_s: float
    waiting: int
    dead: int


class DeadDelivery(msgspec.Struct, frozen=True):
    """What a sink could not be told."""

    sink: str
    row: OutboxRow
    attempts: int
    error: str | None
    dead_at: dt.datetime


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Which events of the past are meant; without *type*, those that the sink wants."""

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    type: str | None = None
    booking: UUID | None = None


async def queue_states(database: AsyncEngine) -> dict[int, QueueState]:
    """The queue of every sink.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    rows = await _fetch(database, _STATES)
    return {row["id"]: _queue_state(row) for row in rows}


async def outbox_state(database: AsyncEngine) -> OutboxState:
    """How far the outbox is behind.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    states = [state for state in (await queue_states(database)).values() if not state.disabled]
    unpublished = await _fetch(database, _UNPUBLISHED)
    ages = [*(state.oldest_s or 0.0 for state in states), *(row["oldest_s"] for row in unpublished)]
    return OutboxState(
        max(0.0, max(ages, default=0.0)), sum(state.waiting for state in states), sum(state.dead for state in states)
    )


async def dead_deliveries(database: AsyncEngine, sink: str | None = None) -> list[DeadDelivery]:
    """The dead letters of one sink, or of all; of very many the first.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    rows = await _fetch(database, _DEAD, sink, LISTED_MAX)
    return [DeadDelivery(row["sink"], outbox_row(row), row["attempts"], row["error"], row["dead_at"]) for row in rows]


async def revive(database: AsyncEngine, sink_id: int, ids: Sequence[int] | None = None) -> int:
    """Try dead letters of a sink again, from the beginning of their hours; returns how many.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    async with driver_connection(database) as connection:
        with ledger_errors():
            done: str = await connection.execute(_REVIVE, sink_id, ids)
            return int(done.rpartition(" ")[2])


async def replay(database: AsyncEngine, sink_id: int, which: Range) -> int:
    """Have a sink told again what happened, for as long as the outbox keeps it; returns how many events.

    Those of one booking come in order, and may come behind what happened later.

    Raises:
        LedgerUnavailable: Postgres does not answer; what was queued until then is told.
    """
    last, total = 0, 0
    while True:
        arguments = (sink_id, last, which.since, which.until, which.booking, which.type, REPLAYED_AT_ONCE)
        page = (await _fetch(database, _REPLAY, *arguments))[0]
        total += int(page["rows"])
        if page["rows"] < REPLAYED_AT_ONCE:
            return total
        last = page["last"]


def _queue_state(row: Row) -> QueueState:
    return QueueState(
        row["id"],
        row["waiting"],
        row["dead"],
        row["oldest_s"],
        row["disabled"],
        last_error=row["error"],
        attempts=row["attempts"] or 0,
    )


async def _fetch(database: AsyncEngine, statement: str, *arguments: Any) -> Sequence[Row]:
    async with driver_connection(database) as connection:
        with ledger_errors():
            rows: Sequence[Row] = await connection.fetch(statement, *arguments)
            return rows
