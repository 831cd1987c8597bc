"""Sealing everything anew with the first data key, so that the others can be dropped.

Safe beside a sale, to repeat, and to break off: each page of bookings is one statement, a booking that was changed
since it was read is left as it is and met in the next pass, and what it says is the same before and after. Nobody is
told of it, for nothing has happened to a booking.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.dead_letters import scan_letters
from engine.ids import BookingId, claim_id
from engine.journal import parse_entry, read_journal
from engine.kernel import Kernel
from persistence.database import Row, driver_connection, fetch_rows, retrying
from persistence.publishing.sinks import Sinks
from persistence.schema import bookings
from persistence.sealing import KEY_ID_BYTES, AesSealer

PAGE = 500  # bookings looked at, and locked for some milliseconds, by one statement
ENTRIES = 500  # of the journal read at once

_WRITE = """
    WITH anew AS (
        SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS anew (id, seen, sealed)
    ), locked AS MATERIALIZED (
        SELECT bookings.id, anew.sealed FROM bookings JOIN anew ON anew.id = bookings.id
         WHERE bookings.sealed = anew.seen ORDER BY bookings.id FOR NO KEY UPDATE OF bookings
    )
    UPDATE bookings SET sealed = locked.sealed FROM locked WHERE bookings.id = locked.id
    RETURNING bookings.id
"""


class Resealed(msgspec.Struct, frozen=True, kw_only=True):
    """What was sealed anew, and what still has another key than the first.

    ``unopened_bookings`` and ``unopened_webhooks`` open with no key that is here. ``journal`` entries are on their way
    to the ledger, ``dead_letters`` wait for a person.
    """

    bookings: int
    webhooks: int
    unopened_bookings: int
    unopened_webhooks: int
    journal: int
    dead_letters: int

    @property
    def left(self) -> int:
        """How much would be lost if all keys but the first were dropped now."""
        return self.unopened_bookings + self.unopened_webhooks + self.journal + self.dead_letters


class Resealer:
    """Seals anew. Every method raises ``LedgerUnavailable`` or ``StoreUnavailable`` when a server does not answer."""

    def __init__(self, engine: AsyncEngine, kernel: Kernel, sinks: Sinks, sealer: AesSealer) -> None:
        self._engine = engine
        self._kernel = kernel
        self._sinks = sinks
        self._sealer = sealer

    async def count(self) -> int:
        """How many bookings there are to look at."""
        rows = await fetch_rows(self._engine, sa.select(sa.func.count().label("count")).select_from(bookings))
        return int(rows[0]["count"])

    async def run(self, on_progress: Callable[[int], None]) -> Resealed:
        """Seal everything anew that has another key; *on_progress* is told how many bookings were looked at so far.

        Redis is looked at first: what leaves the journal meanwhile is in the ledger when that is read. Letters are
        counted on both sides of the journal, between which they may be moved.
        """
        letters, journal = await self._count_letters(), await self._count_entries()
        letters = max(letters, await self._count_letters())
        done, unopened, missed = 0, 0, 1
        while missed:  # each of those was changed by somebody in between, and sealed anew by that as a rule
            passed, unopened, missed = await self._pass(on_progress)
            done += passed
        webhooks, unopened_webhooks = await self._sinks.reseal()
        return Resealed(
            bookings=done,
            webhooks=webhooks,
            unopened_bookings=unopened,
            unopened_webhooks=unopened_webhooks,
            journal=journal,
            dead_letters=letters,
        )

    async def _pass(self, on_progress: Callable[[int], None]) -> tuple[int, int, int]:
        """How many were sealed anew, do not open, and were changed in between."""
        last, seen, done, unopened, missed = 0, 0, 0, 0, 0
        while True:
            page = await self._page(last)
            others = [row for row in page if row["sealed"] is not None]
            anew = [(row["id"], bytes(row["sealed"]), sealed) for row in others if (sealed := self._seal(row))]
            written = await self._write(anew) if anew else 0
            done, missed = done + written, missed + len(anew) - written
            unopened += len(others) - len(anew)
            seen += len(page)
            on_progress(seen)
            if len(page) < PAGE:
                return done, unopened, missed
            last = page[-1]["number"]

    async def _page(self, after: int) -> Sequence[Row]:
        """The next bookings in the order of their numbers; ``sealed`` is of those alone that have another key."""
        key_id = sa.func.substring(bookings.c.sealed, 1, KEY_ID_BYTES, type_=sa.LargeBinary)
        sealed = sa.case((key_id != self._sealer.first_key_id, bookings.c.sealed)).label("sealed")
        query = sa.select(bookings.c.number, bookings.c.id, bookings.c.event_id, sealed)
        return await fetch_rows(
            self._engine, query.where(bookings.c.number > after).order_by(bookings.c.number).limit(PAGE)
        )

    def _seal(self, row: Row) -> bytes | None:
        booking_id = BookingId(claim_id(row["id"].int, row["event_id"]))
        try:
            return self._sealer.seal(self._sealer.unseal(bytes(row["sealed"]), booking_id), booking_id)
        except ValueError:  # told as what is left
            return None

    async def _write(self, anew: Sequence[tuple[Any, bytes, bytes]]) -> int:
        async def attempt() -> int:
            async with driver_connection(self._engine) as connection:
                return len(await connection.fetch(_WRITE, *(list(column) for column in zip(*anew, strict=True))))

        return await retrying(attempt)

    async def _count_entries(self) -> int:
        count = 0
        for partition in range(self._kernel.partitions):
            last, page = "0", None
            while page is None or len(page) == ENTRIES:  # what comes later than the last page is sealed by now's key
                page = await read_journal(self._kernel, partition, after=last, until="+", limit=ENTRIES)
                count += sum(self._is_other(journal_id, fields) for journal_id, fields in page)
                last = page[-1][0].decode() if page else last
        return count

    async def _count_letters(self) -> int:
        count = 0
        for partition in range(self._kernel.partitions):
            async for dead in scan_letters(self._kernel, partition):
                count += self._is_other(dead.journal_id.encode(), dead.flat_fields)
        return count

    def _is_other(self, journal_id: bytes, fields: list[bytes]) -> bool:
        try:
            return not self._sealer.is_sealed_with_first_key(parse_entry(journal_id, fields).details)
        except ValueError:  # it is no entry at all, and nothing in it is to be opened
            return False
