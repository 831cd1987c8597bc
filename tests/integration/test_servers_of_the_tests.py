"""The fixtures other tests rely on: real servers, clean at the beginning of every test."""

from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from command_line import CommandLine
from in_memory import roomy_memory
from redis.asyncio import Redis
from warm_commands import WarmCommandLine


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


@pytest.mark.parametrize(
    "arguments", [["--version"], ["events", "list"], ["events", "list", "--limit", "none"], ["token", "--sub", "ana"]]
)
def test_warm_command_answers_as_a_cold_one(tmp_path: Path, arguments: list[str]) -> None:
    nobody_answers = {"REDIS_URL": "redis://127.0.0.1:1", "DATABASE_URL": "postgresql://127.0.0.1:1/nothing"}
    settings = nobody_answers | {"HOLDFAST_DATA_DIR": str(tmp_path), "HOLDFAST_JWT_SECRET": "k" * 40}
    warm, cold = (kind(**settings).run(*arguments) for kind in (WarmCommandLine, CommandLine))
    assert (warm.returncode, warm.stderr) == (cold.returncode, cold.stderr)
    if "token" not in arguments:  # each has a moment of its own
        assert warm.stdout == cold.stdout
    assert warm.stdout or warm.stderr


def test_warm_command_has_the_environment_it_is_given_and_no_other(tmp_path: Path) -> None:
    warm = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path)
    assert warm.run("events", "list", DATABASE_URL="no url").returncode == 1
    assert "HOLDFAST_WORKERS" in warm.run("events", "list", HOLDFAST_WORKERS="many").stderr
    assert "HOLDFAST_WORKERS" not in warm.run("events", "list", DATABASE_URL="no url").stderr


def test_memory_is_used_only_where_it_is_there_and_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert roomy_memory(tmp_path / "missing") is None
    monkeypatch.setattr("in_memory.NEEDED_BYTES", 0)
    assert roomy_memory(tmp_path) == tmp_path
    monkeypatch.setattr("in_memory.NEEDED_BYTES", 1 << 60)
    assert roomy_memory(tmp_path) is None
