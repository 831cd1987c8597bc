"""The fixtures other tests rely on: real servers, clean at the beginning of every test."""

from collections.abc import Callable

import asyncpg
import pytest
from redis.asyncio import Redis


@pytest.mark.parametrize("attempt", [1, 2])
async def test_redis_is_empty_at_the_beginning_of_each_test(redis_url: str, attempt: int) -> None:
    async with Redis.from_url(redis_url) as redis:
        assert await redis.dbsize() == 0
        await redis.set("left", "behind")


async def test_fresh_database_is_empty_or_a_copy_of_its_template(fresh_database: Callable[..., str]) -> None:
    original = fresh_database()
    connection = await asyncpg.connect(original)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await connection.execute("CREATE TABLE migrated (n int); INSERT INTO migrated VALUES (42)")
    await connection.close()

    connection = await asyncpg.connect(fresh_database(template=original))
    assert await connection.fetchval("SELECT n FROM migrated") == 42
    await connection.close()


async def test_database_of_the_module_is_not_the_one_of_a_test(
    database_url: str, fresh_database: Callable[..., str]
) -> None:
    assert database_url != fresh_database()
    connection = await asyncpg.connect(database_url)
    assert (await connection.fetchval("SELECT current_database()")) in database_url
    await connection.close()
