"""Heartbeats: every reconciler says every few seconds that it lives, and what it has found and done."""

import datetime as dt
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from persistence.database import fetch_rows, outside_transaction
from persistence.schema import reconcilers

FORGET_AFTER_S = 600  # a reconciler not seen for this long is of no interest to anybody; the next one deletes its row
ALIVE_WITHIN_S = 30.0  # ten missed beats: something is wrong with it


class Figures(msgspec.Struct):
    """What a reconciler has found and done since it started, and at the end how things are with it now.

    ``repaired``, ``found`` and ``unresolved`` count differences by kind, ``failures`` what a duty could not do.
    """

    drained: int = 0
    buried: int = 0
    reaped: int = 0
    audited: int = 0
    rebuilt: int = 0
    archived: int = 0
    regressed: int = 0
    clock_jumps: int = 0
    server_changes: int = 0
    found: dict[str, int] = {}
    repaired: dict[str, int] = {}
    unresolved: dict[str, int] = {}
    done: dict[str, int] = {}
    """By duties that count one thing only: what they have done."""
    failures: dict[str, int] = {}
    events: int = 0
    """Events of its partitions that are in Redis."""
    oldest_audit_s: float = 0.0
    """How long ago the event that waits longest was audited, or first seen."""

    def count(self, field: str, kinds: "dict[str, int]") -> None:
        """Add *kinds* to those of ``found``, ``repaired``, ``unresolved``, ``done`` or ``failures``."""
        counted = getattr(self, field)
        for kind, number in kinds.items():
            counted[kind] = counted.get(kind, 0) + number


class Heartbeat(msgspec.Struct, frozen=True):
    """One reconciler; ``age_s`` is how long ago it was seen, by Postgres's clock."""

    id: UUID
    host: str
    pid: int
    started_at: dt.datetime
    seen_at: dt.datetime
    age_s: float
    partitions: int
    figures: Figures

    @property
    def alive(self) -> bool:
        """Whether it was seen lately."""
        return self.age_s <= ALIVE_WITHIN_S


async def read_heartbeats(engine: AsyncEngine) -> list[Heartbeat]:
    """The reconcilers known, the one seen last first; those not seen for ten minutes are forgotten by and by.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    age = sa.extract("epoch", sa.func.clock_timestamp() - reconcilers.c.seen_at)
    query = sa.select(reconcilers, age.label("age_s")).order_by(reconcilers.c.seen_at.desc())
    return [
        Heartbeat(
            id=row["id"],
            host=row["host"],
            pid=row["pid"],
            started_at=row["started_at"],
            seen_at=row["seen_at"],
            age_s=max(0.0, float(row["age_s"])),
            partitions=row["partitions"],
            figures=msgspec.json.decode(row["figures"], type=Figures),
        )
        for row in await fetch_rows(engine, query)
    ]


async def write_heartbeat(
    engine: AsyncEngine, reconciler_id: UUID, *, host: str, pid: int, partitions: int, figures: Figures
) -> None:
    """Say that a reconciler lives.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    now = sa.func.clock_timestamp()
    beat = {"seen_at": now, "partitions": partitions, "figures": msgspec.json.encode(figures).decode()}
    row = insert(reconcilers).values(id=reconciler_id, host=host, pid=pid, started_at=now, **beat)
    upsert = row.on_conflict_do_update(index_elements=[reconcilers.c.id], set_=beat)
    await outside_transaction(engine, lambda connection: connection.execute(upsert))


async def forget_stale(engine: AsyncEngine) -> None:
    """Delete the rows of reconcilers that have not been seen for long.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    limit = sa.func.clock_timestamp() - sa.func.make_interval(0, 0, 0, 0, 0, 0, FORGET_AFTER_S)
    stale = sa.delete(reconcilers).where(reconcilers.c.seen_at < limit)
    await outside_transaction(engine, lambda connection: connection.execute(stale))


async def forget(engine: AsyncEngine, reconciler_id: UUID) -> None:
    """Delete the row of a reconciler that ends in good order.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    own = sa.delete(reconcilers).where(reconcilers.c.id == reconciler_id)
    await outside_transaction(engine, lambda connection: connection.execute(own))
