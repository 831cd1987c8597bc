"""The history of holds: who held which places when, kept for a while after the fact.

Scripts leave a *trail* in Redis; it is stored here in batches, off the path of any request. Lines may come twice, late
and out of order, from several processes at once: a row knows how far it has got, and a line that is not further than
that changes nothing. So nobody needs a lock, and a crash between storing and dropping only stores again.

What is lost is counted. Lines trimmed from a trail that nobody stored for too long leave a row of their own, a *gap*,
under a name that no event can have.
"""

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.ids import claim_id_of, parse_claim_id
from engine.kernel import Kernel
from engine.trail import ENTRIES_MAX, TrailLine, TrailPart, begin_trail, end_trail, forget_trail, read_trail
from persistence.database import driver_connection, ledger_errors

logger = structlog.get_logger("holdfast.persistence")

BATCHES_MAX = (
    100  # of one call: 100 000 lines or some more, so that one partition's backlog does not hold up the others
)
PURGED_AT_ONCE = 5_000  # rows, some 50 ms: deleting must not hold locks, nor keep vacuum waiting, for long

# How far a hold has got. A booking that the ledger refused was `confirmed` before; a hold that was given up for lost
# when its event was `rebuilt` may turn out, by a line that comes late, to have ended properly before.
RANKS = {"active": 0, "rebuilt": 1, "expired": 2, "released": 2, "confirmed": 2, "refused": 3}
_RANK = "CASE {0} " + " ".join(f"WHEN '{word}' THEN {rank}" for word, rank in RANKS.items()) + " ELSE 0 END"

_COLUMNS = {
    "id": "uuid",
    "event_id": "text",
    "customer_id": "text",
    "places": "text",
    "made_at": "timestamptz",
    "until_at": "timestamptz",
    "outcome": "text",
}
# Of two deadlines of a living hold the later one stands: an extension may come to be stored before what it extends.
_STORE_ROWS = f"""
    INSERT INTO hold_history AS kept ({", ".join(_COLUMNS)})
    SELECT * FROM unnest({", ".join(f"${n}::{kind}[]" for n, kind in enumerate(_COLUMNS.values(), start=1))})
    ON CONFLICT (id) DO UPDATE SET until_at = excluded.until_at, outcome = excluded.outcome
     WHERE {_RANK.format("excluded.outcome")} > {_RANK.format("kept.outcome")}
        OR (excluded.outcome IS NULL AND kept.outcome IS NULL AND excluded.until_at > kept.until_at)
    RETURNING {", ".join(_COLUMNS)}
"""  # noqa: S608 - made of the constants above
# Subscribers hear of a hold that lapsed once, when its row says so for the first time; and only if one of them wants
# to: in a rush more holds lapse than bookings are made.
_STORE = f"""
    WITH stored AS ({_STORE_ROWS}), wanted AS MATERIALIZED (
        SELECT EXISTS (SELECT FROM sinks WHERE disabled_at IS NULL AND types && '{{hold.expired,hold.*}}') AS so
    )
    INSERT INTO outbox (booking_id, event_id, type, payload, created_at)
    SELECT id, event_id, 'hold.expired',
           jsonb_build_object('customer_id', customer_id, 'places', places, 'made_at', made_at, 'expired_at', until_at),
           until_at
      FROM stored, wanted WHERE so AND outcome = 'expired' ORDER BY until_at
"""  # noqa: S608 - made of the constant above
_REBUILT = """
    UPDATE hold_history SET outcome = 'rebuilt', until_at = LEAST(until_at, $2)
     WHERE event_id = $1 AND made_at < $2 AND outcome IS NULL
"""
# By the primary key, which is in order of time: each page goes on where the last one ended.
_PURGE = """
    WITH page AS (
        SELECT id, until_at FROM hold_history WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3
    ), purged AS (
        DELETE FROM hold_history USING page WHERE hold_history.id = page.id AND page.until_at < $4 RETURNING 1
    )
    SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last, (SELECT count(*) FROM purged) AS purged
"""


class HoldRow(msgspec.Struct, frozen=True):
    """A row of ``hold_history``; ``outcome`` is ``None`` for a hold that is not known to have ended."""

    id: uuid.UUID
    event_id: str
    customer_id: str
    places: str
    made_at: dt.datetime
    until_at: dt.datetime
    outcome: str | None

    @property
    def progress(self) -> tuple[int, float]:
        """How far the hold has got: of two rows, the greater one is the truth."""
        return RANKS[self.outcome or "active"], self.until_at.timestamp() if self.outcome is None else 0.0

    def merged(self, other: "HoldRow | None") -> "HoldRow":
        """The row of whichever has got further, as the database would have it."""
        if other is None:
            return self
        return max(self, other, key=lambda row: row.progress)


async def store_trail(kernel: Kernel, engine: AsyncEngine, partition: int, *, keep: bool = True) -> int:
    """Move the trail of a partition to the history, a bounded number of lines; returns how many entries they stood in.

    Meant to be called every few seconds, by one process or several. Where there is no trail it is begun; with *keep*
    off it is ended once it is empty, and what was held from then on will not be known.

    Raises:
        StoreUnavailable, LedgerUnavailable: Redis or Postgres does not answer; no line that was not stored is dropped.
    """
    stored = 0
    for _ in range(BATCHES_MAX):
        part = await read_trail(kernel, partition)
        if part is None:
            if keep:
                await begin_trail(kernel, partition)
            return stored
        if not part.ids:
            break
        await _store(engine, partition, part)
        await forget_trail(kernel, partition, part)
        stored += len(part.ids)
    if not keep:
        await end_trail(kernel, partition)
    return stored


async def purge_hold_history(engine: AsyncEngine, *, older_than: dt.timedelta) -> int:
    """Delete the rows of holds that ended more than *older_than* ago; returns how many.

    Raises:
        LedgerUnavailable: Postgres does not answer; what was deleted until then stays deleted.
    """
    cutoff = dt.datetime.now(dt.UTC) - older_than
    last, purged = uuid.UUID(int=0), 0
    async with driver_connection(engine) as connection:
        while True:  # each page begins behind the last
            with ledger_errors():
                page = await connection.fetchrow(_PURGE, last, first_id_at(cutoff), PURGED_AT_ONCE, cutoff)
            if page["last"] is None:
                return purged
            last, purged = page["last"], purged + page["purged"]


def first_id_at(moment: dt.datetime, tail: int = 0) -> uuid.UUID:
    """The least UUIDv7 of *moment*; with *tail* another of the same millisecond."""
    return uuid.UUID(int=round(moment.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | tail)


def gap_name(partition: int) -> str:
    """What gaps of a partition have instead of an event's id."""
    return f"partition:{partition}"


def fold_lines(lines: Iterable[TrailLine], known: Iterable[HoldRow] = ()) -> dict[uuid.UUID, HoldRow]:
    """One row for each hold that *lines* speak of, as far as it has got by them and by what is *known*."""
    rows = {row.id: row for row in known}
    rebuilt = []
    for line in lines:
        if line.word == "rebuilt":
            rebuilt.append(line)
        elif (row := _row_of(line)) is not None:
            rows[row.id] = row.merged(rows.get(row.id))
    for line in rebuilt:
        at = moment(line.until_ms)
        for row in rows.values():
            if row.outcome is None and row.event_id == line.event_id and row.made_at < at:
                rows[row.id] = msgspec.structs.replace(row, outcome="rebuilt", until_at=min(row.until_at, at))
    return rows


def moment(ms: int) -> dt.datetime:
    """Milliseconds of the Unix clock as a moment, exactly."""
    return dt.datetime.fromtimestamp(ms // 1000, dt.UTC) + dt.timedelta(milliseconds=ms % 1000)


async def _store(engine: AsyncEngine, partition: int, part: TrailPart) -> None:
    rows = list(fold_lines(part.lines).values())
    if part.lost:
        rows.append(_gap(partition, part))
        logger.warning("hold history has a gap", partition=partition, entries=part.lost, trail_max=ENTRIES_MAX)
    if part.unreadable:
        logger.error("unreadable lines in the trail", partition=partition, lines=part.unreadable)
    rebuilt = [(line.event_id, moment(line.until_ms)) for line in part.lines if line.word == "rebuilt"]
    async with driver_connection(engine) as connection:
        with ledger_errors():
            async with connection.transaction():
                if rows:
                    await connection.execute(_STORE, *_columns_of(rows))
                for event_id, at in rebuilt:
                    await connection.execute(_REBUILT, event_id, at)


def _columns_of(rows: Sequence[HoldRow]) -> list[list[object]]:
    """In order of ids: of several that store the same rows, none waits for another in a circle."""
    ordered = sorted(rows, key=lambda row: row.id)
    return [[getattr(row, name) for row in ordered] for name in _COLUMNS]


def _row_of(line: TrailLine) -> HoldRow | None:
    key = parse_claim_id(claim_id_of(line.key, line.event_id))
    if key is None:
        return None
    outcome = None if line.word == "active" else line.word
    return HoldRow(
        key.uuid, line.event_id, line.customer_id, line.places, moment(line.made_ms), moment(line.until_ms), outcome
    )


def _gap(partition: int, part: TrailPart) -> HoldRow:
    """From the last line that was stored to the first that is there."""
    until_ms = int(part.ids[0].split(b"-")[0])
    row_id = first_id_at(moment(until_ms), partition << 48 | part.first_number & (1 << 48) - 1)
    since = moment(part.lost_since_ms)
    return HoldRow(row_id, gap_name(partition), "", str(part.lost), since, moment(until_ms), "gap")
