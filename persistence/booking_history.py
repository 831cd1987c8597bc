"""The history of one booking: every step, who took it, and why."""

import datetime as dt

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.bookings import BookingStatus
from engine.ids import parse_claim_id
from engine.lifecycle import Role
from persistence.database import fetch_rows
from persistence.paging import Page, VersionKey, cut_page, decode_cursor
from persistence.schema import history


class HistoryLine(msgspec.Struct, frozen=True):
    """One step. ``from`` is ``None`` where the booking was made, and the same as ``to`` where its status stayed."""

    version: int
    from_: BookingStatus | None = msgspec.field(name="from")
    to: BookingStatus
    actor: str
    role: Role
    reason: str | None
    at: dt.datetime
    request_id: str | None


async def read_history(
    database: AsyncEngine, booking_id: str, *, limit: int, cursor: str | None = None
) -> Page[HistoryLine]:
    """The steps of a booking, the first one first; of one that the ledger does not know, none.

    Raises:
        InvalidRequest: The cursor is none of this listing.
        LedgerUnavailable: Postgres does not answer.
    """
    key = parse_claim_id(booking_id)
    if key is None:
        return Page((), None)
    query = sa.select(history).where(history.c.booking_id == key.uuid).order_by(history.c.version).limit(limit + 1)
    if cursor is not None:
        query = query.where(history.c.version > decode_cursor(cursor, VersionKey).version)
    rows = await fetch_rows(database, query)
    lines = [
        HistoryLine(
            row["version"],
            row["from_status"],
            row["to_status"],
            row["actor"],
            row["role"],
            row["reason"],
            row["at"],
            row["request_id"],
        )
        for row in rows
    ]
    return cut_page(lines, [VersionKey(line.version) for line in lines], limit=limit)
