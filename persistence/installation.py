"""What is decided once for an installation and must never be guessed again: the number of partitions."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from persistence.database import fetch_rows, in_transaction
from persistence.schema import installation

PARTITIONS_DEFAULT = 64
_PARTITIONS = "partitions"


class PartitionsDiffer(Exception):
    """The number asked for is not the one this installation's keys were made with."""

    def __init__(self, installed: int, wanted: int) -> None:
        super().__init__(
            f"this installation was made with {installed} partitions and cannot be run with {wanted}:"
            f" set HOLDFAST_PARTITIONS={installed}, or leave it unset"
        )
        self.installed = installed
        self.wanted = wanted


async def ensure_partitions(engine: AsyncEngine, wanted: int | None) -> int:
    """The installation's number of partitions, fixed now to *wanted* (64 when ``None``) if it never was.

    Raises:
        PartitionsDiffer: It was fixed to another number.
        LedgerUnavailable: Postgres does not answer.
    """

    stored = sa.select(installation.c.value).where(installation.c.key == _PARTITIONS)

    async def write_or_read(connection: AsyncConnection) -> int:
        first = insert(installation).values(key=_PARTITIONS, value=str(wanted or PARTITIONS_DEFAULT))
        await connection.execute(first.on_conflict_do_nothing())
        return int((await connection.execute(stored)).scalar_one())

    # Nearly always it is there, and reading it needs neither a transaction nor the right to write.
    rows = await fetch_rows(engine, stored)
    installed = int(rows[0]["value"]) if rows else await in_transaction(engine, write_or_read)
    if wanted is not None and wanted != installed:
        raise PartitionsDiffer(installed, wanted)
    return installed


async def require_partitions(engine: AsyncEngine, expected: int) -> None:
    """Look that the installation still has the number of partitions that this process works with.

    Raises:
        PartitionsDiffer: It has another: the database is not the one it was.
        LedgerUnavailable: Postgres does not answer.
    """
    stored = sa.select(installation.c.value).where(installation.c.key == _PARTITIONS)
    for row in await fetch_rows(engine, stored):
        if int(row["value"]) != expected:
            raise PartitionsDiffer(int(row["value"]), expected)
