"""Bringing the database up to date, from settings."""

from holdfast.settings import Settings
from persistence.database import open_database
from persistence.revision import HEAD, current_revision

STATEMENT_TIMEOUT_MS = 5_000


async def migrate_database(settings: Settings) -> list[str]:
    """Apply what is missing; returns the revisions applied. Several processes may do so at once.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    assert settings.database_url is not None  # holdfast.servers has filled it in
    database = open_database(settings.database_url, pool_size=2, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
    try:
        if await current_revision(database) == HEAD:
            return []
        from persistence.migrate import migrate  # here: Alembic takes a third of a second to import

        return await migrate(database)
    finally:
        await database.dispose()
