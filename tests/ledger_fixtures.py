"""Fixtures of the ledger's tests: to be named in ``pytest_plugins`` of a test module."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from ledger_lab import Lab
from servers import LocalServers

from persistence.database import open_database
from persistence.migrate import migrate


@pytest.fixture(scope="session")
def migrated_database(servers: LocalServers) -> Iterator[str]:
    """A database with the current schema and no rows, for copies of it."""
    with servers.database() as url:

        async def prepare() -> None:
            engine = open_database(url)
            await migrate(engine)
            await engine.dispose()

        asyncio.run(prepare())
        yield url


@pytest.fixture
async def lab(fresh_database: Callable[..., str], migrated_database: str) -> AsyncIterator[Lab]:
    """A ledger on an empty database of its own."""
    lab = Lab(fresh_database(template=migrated_database))
    yield lab
    await lab.close()
