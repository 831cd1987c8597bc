"""The ledger's half of an audit: bookings looked up for comparison, and the guards checked against the bookings."""

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.events import SellableEvent
from engine.ids import BookingId, claim_id, parse_claim_id
from engine.places import CountedPlaces, NumberedPlaces, Places, parse_places
from engine.ports import ActiveBooking
from persistence.bookings import OWNING_STATUSES
from persistence.database import driver_connection, fetch_rows, ledger_errors
from persistence.differences import Difference, name_seat
from persistence.schema import bookings, events

PAGE = 1_000  # bookings read by one statement, which then takes a few milliseconds
ORPHANS_MAX = 1_000  # rows of claims without a booking that are named one by one

_PAGE_OF_BOOKINGS = """
    SELECT number, id, places FROM bookings
     WHERE event_id = $1 AND number > $2 AND status = ANY($3::text[]) ORDER BY number LIMIT $4
"""
_CLAIMS_OF = "SELECT booking_id, seat, leg FROM claims WHERE booking_id = ANY($1::uuid[]) AND event_id = $2"
_COUNT_CLAIMS = "SELECT count(*) FROM claims WHERE event_id = $1"
_ORPHANS = """
    SELECT seat, leg, booking_id FROM claims
     WHERE event_id = $1
       AND NOT EXISTS (SELECT FROM bookings WHERE id = claims.booking_id AND status = ANY($2::text[]))
     ORDER BY seat, leg LIMIT $3
"""
_USAGE = "SELECT section, leg, sold FROM usage WHERE event_id = $1 ORDER BY section, leg"


async def epoch_in_ledger(engine: AsyncEngine, event_id: str) -> int:
    """The event's epoch now."""
    rows = await fetch_rows(engine, sa.select(events.c.epoch).where(events.c.id == event_id))
    return int(rows[0]["epoch"])


async def find_owning(engine: AsyncEngine, event_id: str, keys: Iterable[str]) -> dict[str, ActiveBooking]:
    """Those of an event's bookings *keys* that own places, by key."""
    wanted = {claim.uuid: key for key in keys if (claim := parse_claim_id(f"{key}~{event_id}")) is not None}
    query = sa.select(bookings.c.id, bookings.c.customer_id, bookings.c.created_at, bookings.c.places).where(
        bookings.c.id.in_(wanted), bookings.c.event_id == event_id, bookings.c.status.in_(OWNING_STATUSES)
    )
    return {
        wanted[row["id"]]: ActiveBooking(
            BookingId(claim_id(row["id"].int, event_id)),
            row["customer_id"],
            round(row["created_at"].timestamp() * 1000),
            parse_places(row["places"]),
        )
        for row in await fetch_rows(engine, query)
    }


async def check_guards(engine: AsyncEngine, sellable: SellableEvent) -> list[Difference]:
    """Compare ``claims`` and ``usage`` with the bookings that own places, all of it as one snapshot shows it.

    The statements are short; the snapshot lasts for a few seconds per million bookings.
    """
    async with driver_connection(engine) as connection:
        with ledger_errors():
            snapshot = connection.transaction(isolation="repeatable_read", readonly=True)
            await snapshot.start()
            found = await _compare(connection, sellable)
            await snapshot.rollback()  # it has written nothing
    return found


async def _compare(connection: Any, sellable: SellableEvent) -> list[Difference]:
    event_id, layout = sellable.event.id, sellable.layout
    found: list[Difference] = []
    sold: Counter[tuple[int, int]] = Counter()
    claimed_count = 0
    async for page in _owning_bookings(connection, event_id):
        claims: dict[Any, set[tuple[int, int]]] = {number: set() for number in page}
        for row in await connection.fetch(_CLAIMS_OF, list(page), event_id):
            claims[row["booking_id"]].add((row["seat"], row["leg"]))
        for number, places in page.items():
            _count_sold(places, sold)
            cells, claimed = set(cells_of(places)), claims[number]
            claimed_count += len(claimed)
            found += [_claim(sellable, "claim_missing", cell, number) for cell in sorted(cells - claimed)]
            found += [_claim(sellable, "claim_not_owned", cell, number) for cell in sorted(claimed - cells)]
    if await connection.fetchval(_COUNT_CLAIMS, event_id) != claimed_count:
        orphans = await connection.fetch(_ORPHANS, event_id, OWNING_STATUSES, ORPHANS_MAX)
        found += [_claim(sellable, "claim_not_owned", (row["seat"], row["leg"]), row["booking_id"]) for row in orphans]
    for row in await connection.fetch(_USAGE, event_id):
        expected = sold[row["section"], row["leg"]]
        if row["sold"] != expected:
            section = layout.sections[row["section"]].id
            found.append(
                Difference(
                    event_id, "usage_wrong", section=section, leg=row["leg"], ledger=row["sold"], expected=expected
                )
            )
    return found


async def _owning_bookings(connection: Any, event_id: str) -> AsyncIterator[dict[Any, Places]]:
    last_number = -1
    while True:
        rows: Sequence[Any] = await connection.fetch(_PAGE_OF_BOOKINGS, event_id, last_number, OWNING_STATUSES, PAGE)
        if rows:
            yield {row["id"]: parse_places(row["places"]) for row in rows}
            last_number = rows[-1]["number"]
        if len(rows) < PAGE:
            return


def cells_of(places: Places) -> Iterable[tuple[int, int]]:
    """Every seat and leg that *places* take."""
    for item in places.items:
        if isinstance(item, NumberedPlaces):
            yield from itertools.product(item.seats, range(places.first_leg, places.last_leg))


def _count_sold(places: Places, sold: Counter[tuple[int, int]]) -> None:
    for item in places.items:
        if isinstance(item, CountedPlaces):
            for leg in range(places.first_leg, places.last_leg):
                sold[item.section, leg] += item.quantity


def _claim(
    sellable: SellableEvent, kind: Literal["claim_missing", "claim_not_owned"], cell: tuple[int, int], booking: Any
) -> Difference:
    section, label = name_seat(sellable.layout, cell[0])
    subject = claim_id(booking.int, sellable.event.id)
    return Difference(sellable.event.id, kind, section=section, seat=label, leg=cell[1], subject=subject)
