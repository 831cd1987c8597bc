"""``holdfast reconcile``: a round for cron with its exit codes, and daemons that share the work and stop in order."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND
from reconciling import Installation, until
from warm_commands import WarmCommandLine

from holdfast.compose import open_parts
from holdfast.settings import load_settings
from persistence.database import driver_connection, open_database

pytest_plugins = ("ledger_fixtures",)

PARTITIONS = 8


@pytest.fixture
def cli(redis_url: str, fresh_database: Callable[..., str], migrated_database: str, tmp_path: Path) -> WarmCommandLine:
    return WarmCommandLine(
        REDIS_URL=redis_url,
        DATABASE_URL=fresh_database(template=migrated_database),
        HOLDFAST_DATA_DIR=tmp_path,
        HOLDFAST_PARTITIONS=str(PARTITIONS),
    )


@pytest.fixture
async def shop(cli: WarmCommandLine) -> AsyncIterator[Installation]:
    settings = load_settings(cli.environment)
    async with open_parts(settings) as parts:
        yield Installation(parts, settings)


async def run(cli: WarmCommandLine, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(cli.run, "reconcile", *arguments, **variables)


async def test_a_round_has_an_exit_code_for_each_verdict(cli: WarmCommandLine, shop: Installation) -> None:
    event = await shop.open_event("gig")
    shop.redis.delete(shop.key(event, "state"))

    dry, wrong = await asyncio.gather(run(cli, "--once", "--dry-run", "--json"), run(cli, "--dry-run"))
    found: dict[str, Any] = json.loads(dry.stdout)
    assert (dry.returncode, found["verdict"], found["events"][0]["missing"]) == (1, "repaired", True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("Usage: ")
    assert "Error: --dry-run, --event and --json go with --once" in wrong.stderr

    repaired = await run(cli, "--once")
    assert (repaired.returncode, repaired.stderr) == (1, "")
    assert "rebuilt" in repaired.stdout
    assert "What was wrong was put right" in repaired.stdout

    clean, unknown, away = await asyncio.gather(
        run(cli, "--once", "--event", "gig"),
        run(cli, "--once", "--event", "nothing"),
        run(cli, "--once", REDIS_URL="redis://127.0.0.1:1"),
    )
    assert (clean.returncode, clean.stderr) == (0, "")
    assert "Nothing was wrong" in clean.stdout
    assert (unknown.returncode, unknown.stderr) == (2, "Error: there is no event 'nothing'\n")
    assert (away.returncode, away.stderr.count("\n")) == (2, 1)


async def test_two_share_the_partitions_and_one_takes_over_when_the_other_is_killed(
    cli: WarmCommandLine, shop: Installation
) -> None:
    event, command = await shop.open_event("gig"), [*COMMAND, "reconcile"]
    daemons = [await asyncio.to_thread(subprocess.Popen, command, env=cli.environment) for _ in range(2)]
    try:
        await until_leases(cli, [4, 4])
        daemons[0].kill()
        await until_leases(cli, [8])
        shop.redis.flushall()
        await until(lambda: shop.is_loaded(event), within_s=8)

        began = time.monotonic()
        daemons[1].send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(daemons[1].wait, 10) == 0
        assert time.monotonic() - began < 4
        await until_leases(cli, [])
        assert await shop.postgres("SELECT FROM reconcilers WHERE pid = $1", daemons[1].pid) == []
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.wait()


async def until_leases(cli: WarmCommandLine, wanted: list[int]) -> None:
    """Wait until the sessions of Postgres have so many partitions each."""
    engine = open_database(cli.environment["DATABASE_URL"])
    query = """
        SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database AND d.datname = current_database()
         WHERE locktype = 'advisory' AND objsubid = 2 AND mode = 'ExclusiveLock' AND granted GROUP BY pid ORDER BY 1
    """
    found: list[int] = []
    async with driver_connection(engine) as connection:
        for _ in range(400):
            found = [row[0] for row in await connection.fetch(query)]
            if found == wanted:
                break
            await asyncio.sleep(0.05)
    await engine.dispose()
    assert found == wanted
