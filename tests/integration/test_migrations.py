"""A database comes to the schema of this version, whoever starts first."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from persistence.database import open_database
from persistence.installation import PARTITIONS_DEFAULT, PartitionsDiffer, ensure_partitions
from persistence.migrate import head_revision, migrate
from persistence.revision import HEAD, current_revision
from persistence.schema import metadata


@pytest.fixture
async def engine(fresh_database: Callable[..., str]) -> AsyncIterator[AsyncEngine]:
    engine = open_database(fresh_database())
    yield engine
    await engine.dispose()


async def test_migrate_brings_an_empty_database_to_the_head_and_then_has_nothing_to_do(engine: AsyncEngine) -> None:
    assert await current_revision(engine) is None

    applied = await migrate(engine)

    assert applied[-1] == head_revision()
    assert await current_revision(engine) == head_revision()
    assert await migrate(engine) == []


def test_head_is_the_latest_migration() -> None:
    assert head_revision() == HEAD


async def test_migrate_is_done_once_when_many_processes_start_together(fresh_database: Callable[..., str]) -> None:
    url = fresh_database()
    engines = [open_database(url, pool_size=2) for _ in range(4)]

    applied = await asyncio.gather(*map(migrate, engines))

    assert sorted(filter(None, applied)) == [max(applied)]
    assert await current_revision(engines[0]) == head_revision()
    for engine in engines:
        await engine.dispose()


async def test_migrate_leaves_nothing_behind_when_a_statement_fails(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE outbox (in_the_way int)"))

    with pytest.raises(sa.exc.ProgrammingError):
        await migrate(engine)

    async with engine.connect() as connection:
        tables = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
    assert tables == ["outbox"]


async def test_migrated_schema_is_what_the_code_believes(fresh_database: Callable[..., str]) -> None:
    url = fresh_database()
    ours = open_database(url)
    await migrate(ours)
    await ours.dispose()

    def compare(connection: sa.Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.connect() as connection:
        assert await connection.run_sync(compare) == []
    await engine.dispose()


async def test_partitions_are_fixed_by_whoever_comes_first(engine: AsyncEngine) -> None:
    await migrate(engine)

    outcomes = await asyncio.gather(
        *(ensure_partitions(engine, wanted) for wanted in (16, 32, 16, 32)), return_exceptions=True
    )

    (installed,) = {outcome for outcome in outcomes if isinstance(outcome, int)}
    refused = [outcome for outcome in outcomes if isinstance(outcome, PartitionsDiffer)]
    assert len(refused) == 2
    assert all("16" in str(refusal) and "32" in str(refusal) for refusal in refused)
    assert await ensure_partitions(engine, installed) == await ensure_partitions(engine, None) == installed


async def test_partitions_are_64_when_nobody_asked_for_a_number(engine: AsyncEngine) -> None:
    await migrate(engine)

    assert await ensure_partitions(engine, None) == PARTITIONS_DEFAULT == 64
