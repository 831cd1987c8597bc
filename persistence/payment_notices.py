"""Webhooks that tell nothing new, as most do: what a provider has answered it tells once more, right afterwards.

They are written down in one statement, and nobody waits for the disk: nothing is lost with them. One that comes while
somebody is about to learn the same from the provider's answer is *early*: it is written down, and looked at a moment
later, when it mostly tells nothing new any more. Until then its payment stays due, so that a crash forgets nothing.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncEngine

from engine.ids import claim_id
from engine.payments import Notice
from persistence.database import driver_connection, ledger_errors
from persistence.payments import CHECK_FIRST, FROM

EARLY_WAIT_S = 1.0  # a request is done with its payment by then, unless its provider is slow
# For which whoever has brought a payment where it is may be expected to go on with it. One that is ``pending`` has been
# left to webhooks.
IN_HAND_S = 2.0
# Providers repeat a webhook for days, and people ask about one for weeks.
NOTICES_KEPT_FOR = dt.timedelta(days=90)
PURGED_AT_ONCE = 5_000  # rows of one transaction, a tenth of a second or so
PURGED_MAX = 100_000  # of one round: with one an hour, 28 webhooks a second for ever

_IS_NEWS = "(state = ANY($3::text[]) OR (state = 'captured' AND captured < $4::bigint))"
_WRITE_DOWN = f"""
    WITH soon AS MATERIALIZED (
        SELECT set_config('synchronous_commit', 'off', true)
    ), mine AS MATERIALIZED (
        SELECT id, check_at, {_IS_NEWS} AS is_news,
               state IN ('initiated', 'authorized')
               AND updated_at > now() - interval '{IN_HAND_S} seconds' AS is_in_hand
          FROM payments, soon WHERE id = $1 AND provider = $2
    ), due AS (
        UPDATE payments SET check_at = now() + $7::interval, tries = 0
          FROM mine WHERE payments.id = mine.id AND is_news AND is_in_hand AND mine.check_at IS NULL
    ), kept AS (
        INSERT INTO payment_events (provider, id, payment_id, outcome, key, received_at)
        SELECT $2, $5, id, $6, $1::uuid::text, now() FROM mine WHERE is_in_hand OR NOT is_news
        ON CONFLICT DO NOTHING
        RETURNING id
    )
    SELECT is_news, is_in_hand, EXISTS (SELECT FROM kept) AS is_first FROM mine
"""  # noqa: S608 - made of the constants above
# One that comes again when it has been deleted tells nothing new: the payment's state says what may follow it.
_PURGE = """
    DELETE FROM payment_events WHERE (provider, id) IN (
        SELECT provider, id FROM payment_events
         WHERE received_at < now() - $1::interval
           AND NOT EXISTS (SELECT FROM payments WHERE payments.id = payment_id AND check_at IS NOT NULL)
         LIMIT $2)
"""
_FIND_STATES = "SELECT id, booking_id, event_id, state, captured FROM payments WHERE id = ANY($1::uuid[])"


class Notices:
    """Every method raises ``LedgerUnavailable`` when Postgres does not answer."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database

    async def write_down(self, provider: str, notice: Notice) -> Literal["known", "early", "news"]:
        """Write *notice* down unless it is news, which is written down with what it changes, by somebody else."""
        if (payment_id := _uuid_of(notice.key)) is None:
            return "news"
        said = notice.said
        values = (payment_id, provider, FROM.get(said.outcome, ()), _captured(notice), notice.id, said.outcome)
        with ledger_errors():
            async with driver_connection(self._database) as connection:
                rows = await connection.fetch(_WRITE_DOWN, *values, CHECK_FIRST)
        if not rows or (rows[0]["is_news"] and not rows[0]["is_in_hand"]):
            return "news"
        return "early" if rows[0]["is_news"] and rows[0]["is_first"] else "known"

    async def find_news(self, notices: Sequence[Notice]) -> list[tuple[str, Notice]]:
        """Those of *notices* that tell something new now, with the ids of their bookings."""
        ids = {key for notice in notices if (key := _uuid_of(notice.key)) is not None}
        with ledger_errors():
            async with driver_connection(self._database) as connection:
                rows = {row["id"]: row for row in await connection.fetch(_FIND_STATES, list(ids))}
        news = []
        for notice in notices:
            row = rows.get(_uuid_of(notice.key))
            if row is not None and (
                row["state"] in FROM.get(notice.said.outcome, ())
                or (row["state"] == "captured" and row["captured"] < _captured(notice))
            ):
                news.append((claim_id(row["booking_id"].int, row["event_id"]), notice))
        return news

    async def purge(self) -> int:
        """Delete what is older than :data:`NOTICES_KEPT_FOR`, unless its payment is not settled yet; returns how many.

        At most :data:`PURGED_MAX` of them: the others come with the next call.
        """
        total = 0
        while total < PURGED_MAX:
            with ledger_errors():
                async with driver_connection(self._database) as connection:
                    done = await connection.execute(_PURGE, NOTICES_KEPT_FOR, min(PURGED_AT_ONCE, PURGED_MAX - total))
            purged = int(done.rpartition(" ")[2])
            total += purged
            if purged < PURGED_AT_ONCE:
                break
        return total


def _captured(notice: Notice) -> int:
    return notice.said.captured if notice.said.outcome == "captured" else 0


def _uuid_of(key: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(key)
    except ValueError:
        return None
