"""The world that tests of a booking's life begin in: to be named in ``pytest_plugins`` of a test module."""

from collections.abc import AsyncIterator

import pytest
from api_app import composed, connected
from life_world import World


@pytest.fixture
async def world(redis_url: str, database_url: str) -> AsyncIterator[World]:
    """An application over empty servers."""
    async with composed(redis_url, database_url) as services, connected(services) as client:
        yield World(services, client)
