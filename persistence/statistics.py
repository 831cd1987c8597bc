"""How one event sells, by the ledger: counts, money, and shares, each in one pass over its bookings."""

from typing import Annotated

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.definition import EventDefinition
from engine.events import Event
from engine.lifecycle import BLOCK_STATUSES, SYSTEM, UPCOMING_STATUSES
from persistence.database import driver_connection, fetch_rows, ledger_errors
from persistence.schema import sections

# What was said yes to, by the organizer or by the policy, and was not cancelled since.
APPROVED = ("confirmed", "checked_in", "completed", "no_show")

_TALLY = """
    SELECT count(*) AS total_requests,
           count(*) FILTER (WHERE status = 'pending') AS pending,
           count(*) FILTER (WHERE status = ANY($2::text[])) AS approved,
           count(*) FILTER (WHERE status = 'rejected') AS rejected,
           count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE status = 'completed') AS completed,
           count(*) FILTER (WHERE confirmed_at IS NOT NULL) AS confirmed,
           COALESCE(sum(quantity) FILTER (WHERE status = ANY($2::text[])), 0)::bigint AS seats_booked,
           COALESCE(sum(quantity * (last_leg - first_leg)) FILTER (WHERE status = ANY($2::text[])), 0)::bigint AS cells,
           COALESCE(sum(amount - refunded) FILTER (WHERE status = ANY($2::text[]) OR status = 'cancelled'), 0)::bigint
               AS revenue,
           COALESCE(
               sum(refunded) FILTER (WHERE confirmed_at IS NOT NULL OR payment_status NOT IN ('pending', 'failed')), 0
           )::bigint AS refunded
      FROM bookings
     CROSS JOIN LATERAL (
               SELECT sum((item ->> 'quantity')::int) AS quantity FROM jsonb_array_elements(items) AS item
           ) AS counted
     WHERE event_id = $1 AND NOT status = ANY($3::text[])
"""
_APPROVED = (
    "Bookings that are `confirmed`, `checked_in`, `completed` or `no_show` now, whether somebody approved them or "
    "nobody had to; one that was cancelled since is among the `cancelled` alone."
)
_CANCELLATION = """
    SELECT count(*) FILTER (WHERE status = ANY($2::text[])) AS left,
           count(*) FILTER (WHERE status = 'cancelled' AND cancelled_by = $3) AS done
      FROM bookings WHERE event_id = $1
"""


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """An event's figures by the ledger; money in minor units of its currency.

    ``approved`` are confirmed, checked in, completed or not come; ``seats_booked`` their places. ``revenue`` is what
    was charged for them and for cancelled ones, without what was granted back, whether it is paid through Holdfast or
    elsewhere (``payment_status`` none). ``occupancy_percent`` is the share of all places that may be sold, each on each
    leg, that is sold to approved bookings; ``conversion_percent`` the share of all requests that was ever confirmed.
    Blocks are not among any of these.
    """

    total_requests: int
    pending: int
    approved: Annotated[int, msgspec.Meta(description=_APPROVED)]
    rejected: int
    cancelled: int
    completed: int
    seats_booked: int
    revenue: int
    refunded: int
    occupancy_percent: float
    conversion_percent: float


class Cancellation(msgspec.Struct, frozen=True):
    """How far the cancelling of an event's bookings has come: ``done`` of ``bookings``."""

    bookings: int
    done: int


async def read_statistics(database: AsyncEngine, event: Event) -> Statistics:
    """The figures of an event as they are now.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    async with driver_connection(database) as connection:
        with ledger_errors():
            row = await connection.fetchrow(_TALLY, event.id, APPROVED, BLOCK_STATUSES)
    capacity = sa.select(sa.func.coalesce(sa.func.sum(sections.c.capacity), 0).label("capacity"))
    places: int = (await fetch_rows(database, capacity.where(sections.c.event_id == event.id)))[0]["capacity"]
    told = {name: row[name] for name in Statistics.__struct_fields__ if not name.endswith("_percent")}
    return Statistics(
        **told,
        occupancy_percent=_percent(row["cells"], places * _leg_count(event.definition)),
        conversion_percent=_percent(row["confirmed"], row["total_requests"]),
    )


async def read_cancellation(database: AsyncEngine, event_id: str) -> Cancellation:
    """How far the cancelling of a cancelled event's bookings has come.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    async with driver_connection(database) as connection:
        with ledger_errors():
            row = await connection.fetchrow(_CANCELLATION, event_id, UPCOMING_STATUSES, SYSTEM.id)
    return Cancellation(bookings=row["left"] + row["done"], done=row["done"])


def _percent(part: int, whole: int) -> float:
    """A share with two decimals; of nothing, none."""
    return round(100 * part / whole, 2) if whole else 0.0


def _leg_count(definition: EventDefinition) -> int:
    if definition.stops is not None:
        return len(definition.stops) - 1
    return definition.slots.count if definition.slots is not None else 1
