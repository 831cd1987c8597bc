"""Postgres's own guards, made anew from the bookings: rows of ``claims`` and ``usage`` that somebody lost or put there.

One transaction holds the event's row FOR UPDATE, for which the group commit takes FOR KEY SHARE: no booking of the
event is written meanwhile. Locks are taken in the order of ``persistence.ledger_batch``: events, claims, usage.
Nothing is done because an audit said so: what it found says only where to look, and everything is looked at again
under the lock. So several may do this at once, and a second time changes nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from engine.events import SellableEvent
from engine.ids import parse_claim_id
from engine.lifecycle import OWNING_STATUSES
from engine.places import parse_places
from persistence.audit_ledger import cells_of
from persistence.database import driver_connection, retrying
from persistence.differences import GUARD_KINDS, Difference

BATCH = 500  # claims looked at by one transaction: bookings of the event wait for it
TIMEOUT_S = 5  # of a statement: usage is summed over all bookings of the event

_LOCK_EVENT = "SELECT 1 FROM events WHERE id = $1 FOR UPDATE"
_PLACES_OF = "SELECT id, places FROM bookings WHERE id = ANY($1::uuid[]) AND event_id = $2 AND status = ANY($3::text[])"
_GIVEN = "unnest($2::int[], $3::smallint[], $4::uuid[]) AS given(seat, leg, booking_id)"
_DELETE_CLAIMS = f"""
    DELETE FROM claims USING {_GIVEN}
     WHERE claims.event_id = $1
       AND (claims.seat, claims.leg, claims.booking_id) = (given.seat, given.leg, given.booking_id)
"""  # noqa: S608 - made of the constant above
# In ascending order, as everybody who writes claims does. What another booking has stays: that is for a person.
_INSERT_CLAIMS = f"""
    INSERT INTO claims (event_id, seat, leg, booking_id)
    SELECT $1, seat, leg, booking_id FROM {_GIVEN} ORDER BY seat, leg ON CONFLICT DO NOTHING
"""  # noqa: S608 - made of the constant above
_PUT_USAGE_RIGHT = """
    WITH owned AS (
        SELECT substring(places FROM '^[0-9]+')::int AS first_leg,
               substring(places FROM '^[0-9]+:([0-9]+)')::int AS last_leg, places
          FROM bookings WHERE event_id = $1 AND status = ANY($2::text[])
    ), sums AS (
        SELECT part[1]::smallint AS section, leg::smallint AS leg, sum(part[2]::bigint) AS sold
          FROM owned, regexp_matches(places, '([0-9]+)[*]([0-9]+)', 'g') AS part,
               generate_series(first_leg, last_leg - 1) AS leg
         GROUP BY 1, 2
    )
    UPDATE usage SET sold = COALESCE(sums.sold, 0)
      FROM usage AS kept LEFT JOIN sums USING (section, leg)
     WHERE kept.event_id = $1 AND (usage.event_id, usage.section, usage.leg) = (kept.event_id, kept.section, kept.leg)
       AND usage.sold <> COALESCE(sums.sold, 0) AND COALESCE(sums.sold, 0) <= usage.capacity
"""

Claim = tuple[int, int, Any]  # seat, leg, booking's uuid


async def repair_guards(engine: AsyncEngine, sellable: SellableEvent, found: Iterable[Difference]) -> None:
    """Put right what *found* says of ``claims`` and ``usage``, as far as one booking does not stand against another.

    Raises:
        LedgerUnavailable: Postgres does not answer, or the event is written to without a pause.
    """
    wrong = [difference for difference in found if difference.kind in GUARD_KINDS]
    claims = sorted(
        claim for one in wrong if one.kind != "usage_wrong" and (claim := _claim_of(sellable, one)) is not None
    )
    for start in range(0, len(claims), BATCH):
        await _in_event(engine, sellable, _repair_claims, claims[start : start + BATCH])
    if any(one.kind == "usage_wrong" for one in wrong):
        await _in_event(engine, sellable, _repair_usage)


async def _in_event(engine: AsyncEngine, sellable: SellableEvent, work: Any, *args: object) -> None:
    async def attempt() -> None:
        async with driver_connection(engine) as connection, connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'")
            await connection.fetchval(_LOCK_EVENT, sellable.event.id)
            await work(connection, sellable.event.id, *args)

    await retrying(attempt)


async def _repair_claims(connection: Any, event_id: str, suspects: Sequence[Claim]) -> None:
    ids = list({booking for _, _, booking in suspects})
    rows = await connection.fetch(_PLACES_OF, ids, event_id, OWNING_STATUSES)
    owned = {(seat, leg, row["id"]) for row in rows for seat, leg in cells_of(parse_places(row["places"]))}
    for statement, claims in (
        (_DELETE_CLAIMS, [claim for claim in suspects if claim not in owned]),
        (_INSERT_CLAIMS, [claim for claim in suspects if claim in owned]),
    ):
        if claims:
            await connection.execute(statement, event_id, *map(list, zip(*claims, strict=True)))


async def _repair_usage(connection: Any, event_id: str) -> None:
    await connection.execute(_PUT_USAGE_RIGHT, event_id, OWNING_STATUSES, timeout=TIMEOUT_S + 1)


def _claim_of(sellable: SellableEvent, difference: Difference) -> Claim | None:
    """The row of ``claims`` that a difference is about."""
    assert difference.subject is not None
    assert difference.seat is not None
    booking = parse_claim_id(difference.subject)
    if booking is None or difference.leg is None:
        return None
    if difference.seat.startswith("#") and difference.section is None:
        seat: int | None = int(difference.seat[1:])
    else:
        section = sellable.layout.section_index[difference.section or ""]
        seat = sellable.layout.seat_index[section].get(difference.seat)
    return None if seat is None else (seat, difference.leg, booking.uuid)
