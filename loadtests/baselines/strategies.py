"""Three ways to sell places with Postgres alone, none of which oversells: tables, actions, a count of what is taken.

What all three leave out, to be no slower than they need: limits per customer, idempotency keys, history, a reaper that
runs by itself (places of lapsed holds are found when somebody wants them). Every deadline is by Postgres' clock.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

# What changes often stays out of indexes, and pages keep room, so that updates are heap-only.
_EVENTS = """
    CREATE TABLE events (id text PRIMARY KEY, capacity int NOT NULL, free int NOT NULL CHECK (free >= 0))
        WITH (fillfactor = 10);
"""
_HOLDS = """
    CREATE TABLE holds (
        id uuid PRIMARY KEY, event_id text NOT NULL, customer_id text NOT NULL, quantity int NOT NULL,
        deadline timestamptz NOT NULL, sold boolean NOT NULL DEFAULT false
    ) WITH (fillfactor = 80);
    CREATE INDEX ON holds (event_id, deadline);
"""
_UNITS = """
    CREATE TABLE units (
        event_id text NOT NULL, number int NOT NULL, hold_id uuid, customer_id text, quantity int,
        deadline timestamptz, sold boolean NOT NULL DEFAULT false, PRIMARY KEY (event_id, number)
    ) WITH (fillfactor = 50);
    CREATE INDEX ON units (event_id, number) WHERE hold_id IS NULL;
    CREATE INDEX ON units (hold_id) WHERE hold_id IS NOT NULL;
"""
_STOCK_EVENTS = "INSERT INTO events SELECT id, $2::int, $2::int FROM unnest($1::text[]) AS id"
_STOCK_UNITS = (
    "INSERT INTO units SELECT id, number FROM unnest($1::text[]) AS id, generate_series(1, $2::int) AS number"
)
_IN_HOLDS = """
    SELECT coalesce(sum(quantity) FILTER (WHERE NOT sold), 0)::int AS held,
        coalesce(sum(quantity) FILTER (WHERE sold), 0)::int AS sold,
        (SELECT count(*) FROM (
            SELECT FROM holds JOIN events ON events.id = event_id
            WHERE sold OR deadline > clock_timestamp() GROUP BY event_id, capacity HAVING sum(quantity) > capacity
        ) AS oversold)::int AS oversold
    FROM holds
"""
# The same, and what is free and what is taken must make the capacity of every event.
_IN_HOLDS_AND_COUNTERS = """
    SELECT coalesce(sum(quantity) FILTER (WHERE NOT sold), 0)::int AS held,
        coalesce(sum(quantity) FILTER (WHERE sold), 0)::int AS sold,
        (SELECT count(*) FROM events WHERE free + (
            SELECT coalesce(sum(quantity), 0) FROM holds WHERE event_id = events.id
        ) <> capacity)::int AS oversold
    FROM holds
"""
# A unit is one row, so it cannot be taken twice; a hold that has fewer units than it was granted has lost one.
_IN_UNITS = """
    SELECT (count(*) FILTER (WHERE hold_id IS NOT NULL AND NOT sold))::int AS held,
        (count(*) FILTER (WHERE sold))::int AS sold,
        (SELECT count(*) FROM (
            SELECT FROM units WHERE hold_id IS NOT NULL
            GROUP BY hold_id HAVING bool_or(sold) AND count(*) <> max(quantity)
        ) AS torn)::int AS oversold
    FROM units
"""


class Wish(msgspec.Struct, frozen=True):
    """Who wants how many places of which event, for how long."""

    hold_id: str
    event_id: str
    customer_id: str
    quantity: int
    ttl_s: float


class Strategy(msgspec.Struct, frozen=True):
    """One way; ``hold`` and ``confirm`` tell whether they did it, and it is committed when they return.

    ``taken`` counts places ``held`` (lapsed or not) and ``sold``, and events or holds that are wrong (``oversold``).
    ``pool_size`` connections are at its disposal.
    """

    name: str
    schema: str
    tables: str
    stock: str
    hold: Callable[[Any, Wish], Awaitable[bool]]
    confirm: Callable[[Any, str, str], Awaitable[bool]]
    taken: str
    pool_size: int


async def _hold_under_row_lock(connection: Any, wish: Wish) -> bool:
    """Whoever has the row of the event counts alone: in a statement of its own, to see what the one before has done."""
    async with connection.transaction():
        await connection.fetchval("SELECT capacity FROM events WHERE id = $1 FOR UPDATE", wish.event_id)
        return bool(
            await connection.fetchval(
                """
                INSERT INTO holds (id, event_id, customer_id, quantity, deadline)
                SELECT $1, id, $3, $4::int, clock_timestamp() + $5::float8 * interval '1 s' FROM events
                WHERE id = $2 AND $4::int <= capacity - (
                    SELECT coalesce(sum(quantity), 0) FROM holds
                    WHERE event_id = $2 AND (sold OR deadline > clock_timestamp())
                )
                RETURNING true
                """,
                *_values(wish),
            )
        )


async def _confirm_under_row_lock(connection: Any, hold_id: str, customer_id: str) -> bool:
    """Under the same lock, or a hold that lapses just now could be confirmed while its places are counted as free."""
    async with connection.transaction():
        await connection.fetchval(
            "SELECT 1 FROM events WHERE id = (SELECT event_id FROM holds WHERE id = $1) FOR UPDATE", hold_id
        )
        return await _mark_sold(connection, hold_id, customer_id)


async def _hold_by_counter(connection: Any, wish: Wish) -> bool:
    """One statement; only when it finds too few, lapsed holds are looked for, and it is tried once more."""
    if await _take_from_counter(connection, wish):
        return True
    freed = await connection.fetchval(
        """
        WITH lapsed AS (
            DELETE FROM holds WHERE event_id = $1 AND deadline <= clock_timestamp() AND NOT sold RETURNING quantity
        )
        UPDATE events SET free = free + (SELECT sum(quantity) FROM lapsed)
        WHERE id = $1 AND EXISTS (SELECT FROM lapsed) RETURNING true
        """,
        wish.event_id,
    )
    return bool(freed) and await _take_from_counter(connection, wish)


async def _take_from_counter(connection: Any, wish: Wish) -> bool:
    return bool(
        await connection.fetchval(
            """
            WITH taken AS (UPDATE events SET free = free - $4::int WHERE id = $2 AND free >= $4::int RETURNING id)
            INSERT INTO holds (id, event_id, customer_id, quantity, deadline)
            SELECT $1, id, $3, $4::int, clock_timestamp() + $5::float8 * interval '1 s' FROM taken
            RETURNING true
            """,
            *_values(wish),
        )
    )


async def _mark_sold(connection: Any, hold_id: str, customer_id: str) -> bool:
    """Whoever locks the row of the hold first, this or what deletes it because it has lapsed, has it."""
    return bool(
        await connection.fetchval(
            """
            UPDATE holds SET sold = true
            WHERE id = $1 AND customer_id = $2 AND NOT sold AND deadline > clock_timestamp() RETURNING true
            """,
            hold_id,
            customer_id,
        )
    )


async def _hold_units(connection: Any, wish: Wish) -> bool:
    """All of them or none; units of lapsed holds are taken when too few are free."""
    return await _take_units(connection, wish, _FREE) or await _take_units(connection, wish, _LAPSED)


_FREE = "hold_id IS NULL"
_LAPSED = "(hold_id IS NULL OR NOT sold AND deadline <= clock_timestamp())"


async def _take_units(connection: Any, wish: Wish, which: str) -> bool:
    return bool(
        await connection.fetchval(
            f"""
            WITH found AS MATERIALIZED (
                SELECT event_id, number FROM units WHERE event_id = $2 AND {which}
                ORDER BY event_id, number LIMIT $4::int FOR UPDATE SKIP LOCKED
            ), taken AS (
                UPDATE units SET hold_id = $1, customer_id = $3, quantity = $4::int,
                    deadline = clock_timestamp() + $5::float8 * interval '1 s'
                FROM found
                WHERE units.event_id = found.event_id AND units.number = found.number
                    AND (SELECT count(*) FROM found) = $4::int
                RETURNING 1
            )
            SELECT count(*) > 0 FROM taken
            """,
            *_values(wish),
        )
    )


async def _confirm_units(connection: Any, hold_id: str, customer_id: str) -> bool:
    """All units of the hold or none: those of one that has lapsed may be gone one by one."""
    return bool(
        await connection.fetchval(
            """
            WITH mine AS MATERIALIZED (
                SELECT event_id, number, quantity FROM units
                WHERE hold_id = $1 AND customer_id = $2 AND NOT sold AND deadline > clock_timestamp()
                FOR UPDATE
            ), marked AS (
                UPDATE units SET sold = true FROM mine
                WHERE units.event_id = mine.event_id AND units.number = mine.number
                    AND (SELECT count(*) FROM mine) = mine.quantity
                RETURNING 1
            )
            SELECT count(*) > 0 FROM marked
            """,
            hold_id,
            customer_id,
        )
    )


def _values(wish: Wish) -> tuple[str, str, str, int, float]:
    return wish.hold_id, wish.event_id, wish.customer_id, wish.quantity, wish.ttl_s


ROW_LOCK = Strategy(
    name="row lock and sum",
    schema="baseline_row_lock",
    tables=_EVENTS + _HOLDS,
    stock=_STOCK_EVENTS,
    hold=_hold_under_row_lock,
    confirm=_confirm_under_row_lock,
    taken=_IN_HOLDS,
    pool_size=16,
)
CONDITIONAL_UPDATE = Strategy(
    name="conditional update",
    schema="baseline_conditional_update",
    tables=_EVENTS + _HOLDS,
    stock=_STOCK_EVENTS,
    hold=_hold_by_counter,
    confirm=_mark_sold,
    taken=_IN_HOLDS_AND_COUNTERS,
    pool_size=16,
)
UNIT_ROWS = Strategy(
    name="unit rows",
    schema="baseline_unit_rows",
    tables=_UNITS,
    stock=_STOCK_UNITS,
    hold=_hold_units,
    confirm=_confirm_units,
    taken=_IN_UNITS,
    pool_size=16,
)
STRATEGIES = {strategy.schema: strategy for strategy in (ROW_LOCK, CONDITIONAL_UPDATE, UNIT_ROWS)}
