"""What ends by the clock in the ledger: requests that nobody has decided on, and verdicts that nobody will ask for."""

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.figures import ENDED
from persistence.booking_desk import BookingDesk
from persistence.database import fetch_rows, in_transaction
from persistence.ending import PAGE, end_all
from persistence.schema import bookings, refused_bookings

PAGES_MAX = 5  # of one call: a thousand requests, two seconds or so
LAPSED_REASON = "nobody approved it in time"
# A verdict must outlive every journal entry that may come for it again; one that waited this long has been buried.
REFUSALS_KEPT_FOR = dt.timedelta(days=7)

# As text, not as parameters, so that Postgres sees that the index of what is expiring has them.
_IS_LAPSED = sa.text("status = 'pending' AND expires_at < now()")


async def lapse_requests(database: AsyncEngine, desk: BookingDesk) -> int:
    """Expire requests whose ``expires_at`` has passed, a bounded number of them; returns how many.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    query = sa.select(bookings.c.id, bookings.c.event_id, bookings.c.status).where(_IS_LAPSED)
    lapsed = 0
    for _ in range(PAGES_MAX):
        page = await fetch_rows(database, query.order_by(bookings.c.expires_at).limit(PAGE))
        if page:
            count = await end_all(desk, page, {"pending": "expire"}, event=None, reason=LAPSED_REASON)
            ENDED.add("approval_lapsed", count=count)
            lapsed += count
        if len(page) < PAGE:
            break
    return lapsed


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
