"""The ledger's half of an audit: bookings looked up for comparison, and the guards checked against the bookings."""

import itertools
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.errors import EventNotFound
from engine.events import SellableEvent
from engine.ids import BookingId, claim_id, claim_id_of, claim_keys, parse_claim_id
from engine.lifecycle import OWNING_STATUSES
from engine.places import CountedPlaces, NumberedPlaces, Places, parse_places
from engine.ports import ActiveBooking
from persistence.database import driver_connection, ledger_errors
from persistence.differences import Difference, name_seat

PAGE = 500  # bookings read at once, and compared: a few milliseconds of ours
ORPHANS_MAX = 1_000  # rows of claims without a booking that are named one by one
GUARD_DIFFERENCES_MAX = 10_000  # of one event; the rest is found when these are repaired

_ACTIVE_COLUMNS = "id, customer_id, COALESCE(confirmed_at, created_at) AS confirmed_at, places"
# Without an order, and not page by page: whatever plan there is, it reads each row once.
_OWNING = f"SELECT {_ACTIVE_COLUMNS} FROM bookings WHERE event_id = $1 AND status = ANY($2::text[])"  # noqa: S608
_FEW_OWNING = f"{_OWNING} LIMIT $3"
_OWNING_OF = f"""
    SELECT {_ACTIVE_COLUMNS} FROM bookings WHERE id = ANY($1::uuid[]) AND event_id = $2 AND status = ANY($3::text[])
"""  # noqa: S608 - made of the constant above
_ENDED_OF = """
    SELECT id FROM bookings
     WHERE id = ANY($1::uuid[]) AND event_id = $2 AND status <> 'payment_initiated' AND NOT status = ANY($3::text[])
"""
_CLAIMS_OF = "SELECT booking_id, seat, leg FROM claims WHERE booking_id = ANY($1::uuid[]) AND event_id = $2"
_TOTALS = """
    SELECT epoch, version, status, (SELECT count(*) FROM claims WHERE event_id = $1) AS claims FROM events WHERE id = $1
"""
_ORPHANS = """
    SELECT seat, leg, booking_id FROM claims
     WHERE event_id = $1
       AND NOT EXISTS (SELECT FROM bookings WHERE id = claims.booking_id AND status = ANY($2::text[]))
     ORDER BY seat, leg LIMIT $3
"""
_USAGE = "SELECT section, leg, sold FROM usage WHERE event_id = $1 ORDER BY section, leg"


async def find_owning(engine: AsyncEngine, event_id: str, keys: Iterable[str]) -> dict[str, ActiveBooking]:
    """Those of an event's bookings *keys* that own places, by key."""
    wanted = _uuids_of(event_id, keys)
    rows = await _fetch_of(engine, _OWNING_OF, event_id, wanted)
    return {(key := wanted[row["id"]]): _active(row, key, event_id) for row in rows}


async def find_ended(engine: AsyncEngine, event_id: str, keys: Iterable[str]) -> set[str]:
    """Those of an event's bookings *keys* that the ledger has, and that will never own places (again)."""
    wanted = _uuids_of(event_id, keys)
    return {wanted[row["id"]] for row in await _fetch_of(engine, _ENDED_OF, event_id, wanted)}


def _uuids_of(event_id: str, keys: Iterable[str]) -> dict[uuid.UUID, str]:
    return {claim.uuid: key for key in keys if (claim := parse_claim_id(f"{key}~{event_id}")) is not None}


async def _fetch_of(engine: AsyncEngine, query: str, event_id: str, wanted: Mapping[uuid.UUID, str]) -> Sequence[Any]:
    if not wanted:
        return []
    async with driver_connection(engine) as connection:
        with ledger_errors():
            rows: Sequence[Any] = await connection.fetch(query, list(wanted), event_id, OWNING_STATUSES)
    return rows


class LedgerEvent(msgspec.Struct, frozen=True):
    """What the ledger says of an event itself."""

    epoch: int
    version: int
    status: str


async def read_ledger(
    engine: AsyncEngine, sellable: SellableEvent, compare: Callable[[Sequence[ActiveBooking]], Awaitable[None]]
) -> tuple[LedgerEvent, list[Difference]]:
    """Hand the bookings that own places to *compare*, in batches, and hold ``claims`` and ``usage`` against them.

    All of it is as one snapshot shows it: a few seconds long per million bookings. Returns what the event is
    now, and what is wrong with the guards: the first ``GUARD_DIFFERENCES_MAX``. *compare* must not wait for another
    connection of the pool: everybody here has one already.

    Raises:
        EventNotFound: The ledger has no such event.
    """
    async with driver_connection(engine) as connection:
        with ledger_errors():
            snapshot = connection.transaction(isolation="repeatable_read", readonly=True)
            await snapshot.start()
        guards = _Guards(sellable)
        async for page in _owning_bookings(connection, sellable.event.id):
            with ledger_errors():
                await guards.compare(connection, page)
            await compare([booking for _, booking in page])
        with ledger_errors():
            event = await guards.finish(connection)
            await snapshot.rollback()  # it has written nothing
    return event, guards.found[:GUARD_DIFFERENCES_MAX]


class _Guards:
    """The two tables that keep places from being sold twice, held against the bookings."""

    def __init__(self, sellable: SellableEvent) -> None:
        self.found: list[Difference] = []
        self._sellable = sellable
        self._event_id = sellable.event.id
        self._sold: Counter[tuple[int, int]] = Counter()
        self._claimed_count = 0

    async def compare(self, connection: Any, page: Sequence[tuple[Any, ActiveBooking]]) -> None:
        claims: dict[Any, set[tuple[int, int]]] = {number: set() for number, _ in page}
        for row in await connection.fetch(_CLAIMS_OF, list(claims), self._event_id):
            claims[row["booking_id"]].add((row["seat"], row["leg"]))
        for number, booking in page:
            count_sold(booking.places, self._sold)
            cells, claimed = set(cells_of(booking.places)), claims[number]
            self._claimed_count += len(claimed)
            if cells != claimed and len(self.found) < GUARD_DIFFERENCES_MAX:
                self._note("claim_missing", sorted(cells - claimed), number)
                self._note("claim_not_owned", sorted(claimed - cells), number)

    async def finish(self, connection: Any) -> LedgerEvent:
        """What concerns all bookings together; returns what the event is now."""
        totals = await connection.fetchrow(_TOTALS, self._event_id)
        if totals is None:
            raise EventNotFound(self._event_id)
        if totals["claims"] != self._claimed_count:
            for row in await connection.fetch(_ORPHANS, self._event_id, OWNING_STATUSES, ORPHANS_MAX):
                self._note("claim_not_owned", [(row["seat"], row["leg"])], row["booking_id"])
        for row in await connection.fetch(_USAGE, self._event_id):
            expected = self._sold[row["section"], row["leg"]]
            if row["sold"] != expected:
                section = self._sellable.layout.sections[row["section"]].id
                self.found.append(
                    Difference(
                        self._event_id,
                        "usage_wrong",
                        section=section,
                        leg=row["leg"],
                        ledger=row["sold"],
                        expected=expected,
                    )
                )
        return LedgerEvent(totals["epoch"], totals["version"], totals["status"])

    def _note(
        self, kind: Literal["claim_missing", "claim_not_owned"], cells: Iterable[tuple[int, int]], booking: Any
    ) -> None:
        for seat, leg in cells:
            section, label = name_seat(self._sellable.layout, seat)
            subject = claim_id(booking.int, self._event_id)
            self.found.append(Difference(self._event_id, kind, section=section, seat=label, leg=leg, subject=subject))


async def _owning_bookings(connection: Any, event_id: str) -> AsyncIterator[list[tuple[Any, ActiveBooking]]]:
    with ledger_errors():
        # Most events are small, and one statement saves the round trips of a cursor.
        rows: Sequence[Any] = await connection.fetch(_FEW_OWNING, event_id, OWNING_STATUSES, PAGE + 1)
    if len(rows) <= PAGE:
        if rows:
            yield _active_of(rows, event_id)
        return
    with ledger_errors():
        cursor = await connection.cursor(_OWNING, event_id, OWNING_STATUSES)
    while True:
        with ledger_errors():
            rows = await cursor.fetch(PAGE)
        if rows:
            yield _active_of(rows, event_id)
        if len(rows) < PAGE:
            return


def _active_of(rows: Sequence[Any], event_id: str) -> list[tuple[Any, ActiveBooking]]:
    keys = claim_keys([row["id"].bytes for row in rows])
    return [(row["id"], _active(row, key, event_id)) for row, key in zip(rows, keys, strict=True)]


def _active(row: Any, key: str, event_id: str) -> ActiveBooking:
    return ActiveBooking(
        BookingId(claim_id_of(key, event_id)),
        row["customer_id"],
        round(row["confirmed_at"].timestamp() * 1000),
        parse_places(row["places"]),
    )


def cells_of(places: Places) -> Iterable[tuple[int, int]]:
    """Every seat and leg that *places* take."""
    for item in places.items:
        if isinstance(item, NumberedPlaces):
            yield from itertools.product(item.seats, range(places.first_leg, places.last_leg))


def count_sold(places: Places, sold: Counter[tuple[int, int]]) -> None:
    """Add the counted ones of *places* to what is sold by section and leg."""
    for item in places.items:
        if isinstance(item, CountedPlaces):
            for leg in range(places.first_leg, places.last_leg):
                sold[item.section, leg] += item.quantity
