"""Which schema this version needs and which one a database has, told without Alembic, which is slow to import."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from persistence.database import outside_transaction

HEAD = "0011"  # the latest of migrations/versions; a test compares the two

_HAS_REVISION = sa.text("SELECT to_regclass('alembic_version') IS NOT NULL")
_REVISION = sa.text("SELECT version_num FROM alembic_version")


async def current_revision(engine: AsyncEngine) -> str | None:
    """The revision the database is at; ``None`` when it is empty.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    return await outside_transaction(engine, _read_revision)


async def _read_revision(connection: AsyncConnection) -> str | None:
    if not (await connection.execute(_HAS_REVISION)).scalar_one():
        return None
    revision: str | None = (await connection.execute(_REVISION)).scalar_one_or_none()
    return revision
