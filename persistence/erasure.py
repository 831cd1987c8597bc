"""Erasing what a customer's bookings say about people; the bookings, their money and their places stay.

Each page of bookings is one transaction, so that a customer with thousands of them holds up nobody; one that is cut
off half-way is completed by asking again. What is erased is gone from the tables; dead rows, the write-ahead log and
backups keep it until they are vacuumed, recycled and overwritten (``docs/operations.md``).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.bookings import BookingDetails
from engine.ids import BookingId, claim_id
from engine.lifecycle import SYSTEM, Actor
from engine.ports import Sealer
from persistence.database import Row, fetch_rows, in_transaction
from persistence.schema import bookings, history
from persistence.steps import PLACES_CHANGED, TRANSFERRED, Step, take_step

PAGE = 100  # bookings of one transaction: a fifth of a second in which nobody else can change them
ERASED = "personal data erased"
_KEPT_REASONS = (ERASED, PLACES_CHANGED, TRANSFERRED)  # of people's steps, but in Holdfast's words, which it acts on


class Eraser:
    """Erases. Every method raises ``LedgerUnavailable`` when Postgres does not answer."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer) -> None:
        self._engine = engine
        self._sealer = sealer

    async def erase(self, customer_id: str, actor: Actor) -> int:
        """Erase what the bookings of *customer_id* say about people; how many bookings there are.

        Safe to repeat: what has nothing to erase is left as it is. A booking that is not in the ledger yet is not seen.
        """
        last, count = 0, 0
        while True:
            query = (
                sa.select(bookings.c.number, bookings.c.id)
                .where(bookings.c.customer_id == customer_id, bookings.c.number > last)
                .order_by(bookings.c.number)
                .limit(PAGE)
            )
            page = await fetch_rows(self._engine, query)
            if page:
                ids = [row["id"] for row in page]
                await in_transaction(self._engine, partial(self._erase_page, customer_id, ids=ids, actor=actor))
                last, count = page[-1]["number"], count + len(page)
            if len(page) < PAGE:
                return count

    async def _erase_page(
        self, customer_id: str, connection: AsyncConnection, *, ids: Sequence[Any], actor: Actor
    ) -> None:
        # What was given away since the page was read is another customer's, and theirs to keep.
        theirs = sa.select(bookings).where(bookings.c.id.in_(ids), bookings.c.customer_id == customer_id)
        locked = theirs.order_by(bookings.c.id).with_for_update(key_share=True)
        rows = (await connection.execute(locked)).mappings().all()
        ids = [row["id"] for row in rows]
        said = (
            sa.update(history)
            .where(history.c.booking_id.in_(ids), history.c.role != SYSTEM.role)
            .where(history.c.reason.not_in(_KEPT_REASONS))
            .values(reason=None)
            .returning(history.c.booking_id)
        )
        had_reasons = set((await connection.execute(said)).scalars())
        for row in rows:
            changes = self._changes(row)
            if changes or row["id"] in had_reasons:
                await take_step(connection, row, Step(reason=ERASED, changes=changes), actor)

    def _changes(self, row: Row) -> dict[str, Any]:
        """The columns that say something, as they are when they do not."""
        changes: dict[str, Any] = {}
        booking_id = BookingId(claim_id(row["id"].int, row["event_id"]))
        sealed = bytes(row["sealed"])
        try:
            details = self._sealer.unseal(sealed, booking_id)
        except ValueError:  # sealed with a key that is lost: nobody can read it, and it goes all the same
            changes["sealed"] = self._sealer.seal(BookingDetails(), booking_id)
        else:
            kept = msgspec.structs.replace(details, guest=None, attendees=[], notes=None, metadata={})
            if kept != details:
                changes["sealed"] = self._sealer.seal(kept, booking_id)
        if row["organizer_notes"] is not None:
            changes["organizer_notes"] = None
        if row["cancellation_reason"] is not None and row["cancelled_by"] != SYSTEM.id:
            changes["cancellation_reason"] = None
        return changes
