"""What ``/readyz`` makes of an installation: real servers, and one thing wrong at a time."""

import datetime as dt
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
import sqlalchemy as sa
from api_app import connected

from engine import backlog
from engine.keys import partition_key
from holdfast import readiness
from holdfast.compose import open_services
from holdfast.settings import load_settings
from persistence.database import in_transaction, open_database
from persistence.installation import ensure_partitions
from persistence.migrate import migrate
from persistence.schema import installation, reconcilers

MINUTE_MS = 60_000
ALIVE = 3.0
DEAD = 31.0


class Doctored:
    """An installation, the page of its readiness, and hands on what it looks at."""

    def __init__(self, client: httpx2.AsyncClient, redis_url: str, database_url: str) -> None:
        self._client = client
        self.store = redis.Redis.from_url(redis_url, protocol=2)
        self._database = open_database(database_url)

    async def readiness(self) -> tuple[int, str, dict[str, Any]]:
        """Status code, status, and the checks that failed."""
        response = await self._client.get("/readyz")
        document = response.json()
        failed = {name: verdict for name, verdict in document["checks"].items() if not verdict["ok"]}
        return response.status_code, document["status"], failed

    async def execute(self, statement: sa.Executable) -> None:
        await in_transaction(self._database, lambda connection: connection.execute(statement))

    async def beat(self, *, age_s: float) -> None:
        seen_at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age_s)
        row = {"id": uuid.uuid4(), "host": "here", "pid": 1, "partitions": 4, "figures": "{}"}
        await self.execute(sa.insert(reconcilers).values(started_at=seen_at, seen_at=seen_at, **row))

    async def close(self) -> None:
        self.store.close()
        await self._database.dispose()


@pytest.fixture
async def installed(
    redis_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Doctored]:
    monkeypatch.setattr(backlog, "FRESH_S", 0.0)
    database = open_database(database_url)
    await migrate(database)
    await ensure_partitions(database, 4)
    await database.dispose()
    environment = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "HOLDFAST_DATA_DIR": str(tmp_path)}
    environment["HOLDFAST_DATA_KEY"] = "A" * 43  # of all tests that share the database
    async with open_services(load_settings(environment)) as services, connected(services) as client:
        doctored = Doctored(client, redis_url, database_url)
        await doctored.execute(sa.delete(reconcilers))
        yield doctored
        await doctored.close()


async def test_installation_with_a_reconciler_that_lives_is_ready(installed: Doctored) -> None:
    await installed.beat(age_s=ALIVE)
    assert await installed.readiness() == (200, "ready", {})


async def test_installation_without_a_living_reconciler_is_degraded(installed: Doctored) -> None:
    await installed.beat(age_s=DEAD)
    status_code, status, failed = await installed.readiness()
    assert (status_code, status, set(failed)) == (200, "degraded", {"reconciler"})
    assert failed["reconciler"]["reason"] == "no reconciler has been seen for 30 s"


async def test_installation_with_dead_letters_is_degraded(installed: Doctored) -> None:
    await installed.beat(age_s=ALIVE)
    installed.store.hset(partition_key(2, "dead"), "1-0", "an entry")
    status_code, status, failed = await installed.readiness()
    assert (status_code, status, set(failed)) == (200, "degraded", {"dead_letters"})
    assert failed["dead_letters"]["reason"].startswith("1 journal entry that cannot")


async def test_installation_whose_journal_is_older_than_a_minute_is_degraded(installed: Doctored) -> None:
    await installed.beat(age_s=ALIVE)
    seconds, _ = installed.store.time()
    journal = partition_key(1, "journal")
    installed.store.xadd(journal, {"event": "x"}, id=f"{seconds * 1000 - 2 * MINUTE_MS}-0")
    status_code, status, failed = await installed.readiness()
    assert (status_code, status, set(failed)) == (200, "degraded", {"journal"})
    assert failed["journal"]["reason"].startswith("1 booking waiting for Postgres, the oldest for 12")
    installed.store.delete(journal)
    installed.store.xadd(journal, {"event": "x"}, id=f"{seconds * 1000 - MINUTE_MS // 2}-0")
    assert (await installed.readiness())[1] == "ready"
    installed.store.delete(journal)


async def test_installation_whose_database_moved_on_is_unready(
    installed: Doctored, monkeypatch: pytest.MonkeyPatch
) -> None:
    await installed.beat(age_s=ALIVE)
    monkeypatch.setattr(readiness, "HEAD", "0000")
    status_code, status, failed = await installed.readiness()
    assert (status_code, status, set(failed)) == (503, "unready", {"migrations"})
    assert failed["migrations"]["reason"] == "NotMigrated"


async def test_installation_whose_database_has_other_partitions_is_unready(installed: Doctored) -> None:
    await installed.beat(age_s=ALIVE)
    partitions = sa.update(installation).where(installation.c.key == "partitions")
    await installed.execute(partitions.values(value="8"))
    try:
        status_code, status, failed = await installed.readiness()
    finally:
        await installed.execute(partitions.values(value="4"))
    assert (status_code, status, set(failed)) == (503, "unready", {"migrations"})
    assert failed["migrations"]["reason"] == "PartitionsDiffer"
