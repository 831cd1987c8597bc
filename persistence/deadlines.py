"""What ends by the clock in the ledger: requests that nobody has decided on, and verdicts that nobody will ask for."""

import datetime as dt
import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.figures import ENDED
from persistence.booking_desk import BookingDesk
from persistence.database import Row, fetch_rows, in_transaction
from persistence.ending import PAGE, end_all
from persistence.schema import bookings, refused_bookings

PAGES_MAX = 5  # of one call: a thousand requests, two seconds or so
LAPSED_REASON = "nobody approved it in time"
# A verdict must outlive every journal entry that may come for it again; one that waited this long has been buried.
REFUSALS_KEPT_FOR = dt.timedelta(days=7)

# As text, not as parameters, so that Postgres sees that the index of what is expiring has them.
_IS_LAPSED = sa.text("status = 'pending' AND expires_at < now()")


class LapsedRequests:
    """Expires requests whose ``expires_at`` has passed, in rotation: those that cannot be keep no others waiting."""

    def __init__(self, database: AsyncEngine, desk: BookingDesk) -> None:
        self._database = database
        self._desk = desk
        self._after: tuple[dt.datetime, uuid.UUID] | None = None

    async def end_some(self, *, pages_max: float = PAGES_MAX) -> int:
        """Go on behind those that were looked at last, for a bounded number of them; returns how many were expired.

        Raises:
            LedgerUnavailable: Postgres does not answer.
            Exception: What was wrong with the first of those that could not be expired, when the others have been.
        """
        lapsed, pages, problem = 0, 0, None
        while pages < pages_max:
            page = await self._next_page()
            self._after = (page[-1]["expires_at"], page[-1]["id"]) if len(page) == PAGE else None
            count, error = await end_all(self._desk, page, {"pending": "expire"}, event=None, reason=LAPSED_REASON)
            ENDED.add("approval_lapsed", count=count)
            lapsed, pages, problem = lapsed + count, pages + 1, problem or error
            if self._after is None:
                break
        if problem is not None:
            raise problem
        return lapsed

    async def _next_page(self) -> Sequence[Row]:
        key = (bookings.c.expires_at, bookings.c.id)
        query = sa.select(*key, bookings.c.event_id, bookings.c.status).where(_IS_LAPSED)
        if self._after is not None:
            query = query.where(sa.tuple_(*key) > sa.tuple_(*map(sa.literal, self._after)))
        return await fetch_rows(self._database, query.order_by(*key).limit(PAGE))


async def count_lapsed(database: AsyncEngine) -> int:
    """How many requests would be expired now.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    query = sa.select(sa.func.count().label("count")).select_from(bookings).where(_IS_LAPSED)
    return int((await fetch_rows(database, query))[0]["count"])


async def purge_refusals(database: AsyncEngine) -> int:
    """Delete verdicts that are older than any journal entry; returns how many.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    old = sa.delete(refused_bookings).where(refused_bookings.c.at < sa.func.now() - REFUSALS_KEPT_FOR)

    async def work(connection: AsyncConnection) -> int:
        return int((await connection.execute(old)).rowcount)

    return await in_transaction(database, work)
