"""Brings a database to the schema of this version: Alembic, without its command line.

Migrations go forward only: taking one back would throw bookings away, and a restore does that more honestly.
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncEngine

from persistence.advisory import advisory_lock
from persistence.database import in_transaction

LOCK_WAIT_S = 60.0  # several processes start at once; one migrates and the others wait
STATEMENT_TIMEOUT_MS = 5_000


async def migrate(engine: AsyncEngine) -> list[str]:
    """Apply what is missing, all of it or nothing; returns the revisions applied, oldest first.

    Several processes may call it at once.

    Raises:
        LedgerUnavailable: Postgres does not answer, or another process migrates for more than a minute.
    """
    async with advisory_lock(engine, "holdfast migrations", wait_s=LOCK_WAIT_S):
        return await in_transaction(engine, lambda connection: connection.run_sync(_upgrade))


def head_revision() -> str:
    """The latest revision there is a migration to."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _upgrade(connection: sa.Connection) -> list[str]:
    connection.execute(sa.text(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}"))
    applied: list[str] = []
    config = _config()
    config.attributes["connection"] = connection
    config.attributes["on_version_apply"] = _recorder(applied)
    command.upgrade(config, "head")
    return applied


def _recorder(applied: list[str]) -> Callable[..., None]:
    def record(*, step: object, **_: object) -> None:
        applied.append(step.up_revision_id)  # type: ignore[attr-defined] # alembic's MigrationInfo, untyped here

    return record


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "persistence:migrations")
    config.set_main_option("path_separator", "os")
    return config
