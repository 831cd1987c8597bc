"""Fixtures of the tests of drift: to be named in ``pytest_plugins`` of a test module."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from drift_scene import Scene, claim, open_event
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.compose import open_parts
from holdfast.settings import load_settings
from persistence.database import in_transaction, open_database
from persistence.migrate import migrate
from persistence.schema import metadata

DATA_KEY = "A" * 43  # of all tests that share the tables


@pytest.fixture(scope="module")
def tables(database_url: str) -> str:
    """A migrated database for the tests of this module."""

    async def prepare() -> None:
        engine = open_database(database_url)
        await migrate(engine)
        await engine.dispose()

    asyncio.run(prepare())
    return database_url


@pytest.fixture
async def scene(redis_url: str, tables: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr("persistence.audit.SETTLE_S", 0.02)
    servers = {"REDIS_URL": redis_url, "DATABASE_URL": tables}
    settings = load_settings({**servers, "HOLDFAST_DATA_DIR": str(tmp_path), "HOLDFAST_DATA_KEY": DATA_KEY})
    async with open_parts(settings) as parts:
        await in_transaction(parts.database, _empty)
        scene = Scene(parts, settings, await open_event(parts, "ride", stops=["A", "B", "C"]))
        held = await parts.reservations.hold(scene.id, claim("A-1", "A-2", floor=2), customer_id="ana")
        scene.hold_id = held.hold.id
        scene.booking_id = await scene.book("B-1", floor=3)
        yield scene


async def _empty(connection: AsyncConnection) -> None:
    names = ", ".join(table.name for table in metadata.sorted_tables if table.name != "installation")
    await connection.execute(sa.text(f"TRUNCATE {names}"))
