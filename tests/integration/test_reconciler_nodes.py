"""A reconciler over a cluster of which one primary, without a replica, is down: the others' events are looked after."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_fixture import Cluster, running_cluster
from command_line import CommandLine
from reconciling import Installation, reconciling, until
from redis.crc import key_slot
from structlog.testing import capture_logs
from transport_servers import Valkey, eventually, wait_until

from engine.errors import StoreUnavailable
from engine.events import SellableEvent
from engine.keys import partition_key, partition_of
from holdfast.compose import make_equipment, open_parts
from holdfast.settings import Settings, load_settings
from persistence.partition_leases import Everywhere
from persistence.reconciling.audit import Audit
from persistence.reconciling.clock import StoreClock
from persistence.reconciling.duty import BACKOFF_MAX_S
from persistence.reconciling.findings import Findings
from persistence.reconciling.roster import Roster
from persistence.reconciling.watch import Suspicions

pytest_plugins = ("ledger_fixtures",)

PARTITIONS = 8
NODE_TIMEOUT_MS = 1_000
SERVE_ON = ("cluster-require-full-coverage", "no")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries that serve what they have though others are down."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), node_timeout_ms=NODE_TIMEOUT_MS) as cluster:
        for server in cluster.servers:
            server.call("CONFIG", "SET", *SERVE_ON)
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    """The same, empty and whole."""
    for server in running.servers:
        if not server.is_listening():
            server.start(f"--{SERVE_ON[0]}", SERVE_ON[1])
    pairs = [(server, other) for server in running.servers for other in running.servers]
    wait_until(lambda: not any("fail" in flags_of(server, by=other) for server, other in pairs), "it is not whole")
    running.wait_until_formed()
    running.flush()
    return running


@pytest.fixture
def settings(cluster: Cluster, fresh_database: Callable[..., str], migrated_database: str, tmp_path: Path) -> Settings:
    return load_settings(
        {
            "REDIS_URL": cluster.url(),
            "DATABASE_URL": fresh_database(template=migrated_database),
            "HOLDFAST_DATA_DIR": str(tmp_path / "data"),
            "HOLDFAST_PARTITIONS": str(PARTITIONS),
        }
    )


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[Installation]:
    async with open_parts(settings) as parts:
        yield Installation(parts, settings)


@pytest.fixture
def command(settings: Settings) -> CommandLine:
    return CommandLine(
        REDIS_URL=str(settings.redis_url),
        DATABASE_URL=str(settings.database_url),
        HOLDFAST_DATA_DIR=settings.data_dir,
        HOLDFAST_PARTITIONS=str(PARTITIONS),
    )


def server_of(cluster: Cluster, partition: int) -> Valkey:
    share = 16384 // cluster.master_count
    return cluster.servers[min(key_slot(partition_key(partition, "live")) // share, cluster.master_count - 1)]


def name_on(cluster: Cluster, server: Valkey, *, salt: str = "gig") -> str:
    """The id of an event that lives on *server*."""
    names = (f"{salt}-{number}" for number in range(1_000))
    return next(name for name in names if server_of(cluster, partition_of(name, None, PARTITIONS)) is server)


async def take_down(server: Valkey, cluster: Cluster) -> None:
    """Kill a primary, and wait until the others have given it up."""
    server.kill()
    others = [other for other in cluster.servers if other is not server]
    await eventually(lambda: all("fail" in flags_of(server, by=other) for other in others), "nobody has noticed")


def flags_of(server: Valkey, *, by: Valkey) -> list[str]:
    """What one node says of another: ``master``, ``fail`` and the like."""
    lines = [line.split() for line in by.call("CLUSTER", "NODES").decode().splitlines()]
    return next(line[2].split(",") for line in lines if line[1].startswith(f"127.0.0.1:{server.port}@"))


def told(logs: list[Any]) -> dict[str, list[str]]:
    """What was said of outages, by duty."""
    words: dict[str, list[str]] = {}
    for log in logs:
        if log["event"] in ("reconciler is held up", "reconciler has failed", "reconciler goes on"):
            words.setdefault(log["subject"], []).append(log["event"].removeprefix("reconciler "))
    return words


async def expect(shop: Installation, statement: str, *arguments: object) -> None:
    """Wait until Postgres has a row that it asks for."""
    for _ in range(100):
        if await shop.postgres(statement, *arguments):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"no row within 5 s: {statement}")


async def expect_all_duties(shop: Installation, event: SellableEvent) -> None:
    """Holds end, what was left behind is drained, histories are stored, what is lost is loaded."""
    name = event.event.id
    booking_id = await shop.leave_behind(event, age_s=20)
    await shop.hold(name, ttl_s=1)
    await until(lambda: shop.counter(event, "held:0:0") == 0, within_s=1 + BACKOFF_MAX_S + 1)
    await expect(shop, "SELECT 1 FROM bookings WHERE event_id = $1 AND status = 'confirmed'", name)
    assert await shop.status_of(booking_id) == "confirmed"
    await expect(shop, "SELECT 1 FROM hold_history WHERE event_id = $1 AND outcome = 'expired'", name)
    shop.redis.delete(shop.key(event, "state"))
    await until(lambda: shop.is_loaded(event), within_s=1 + BACKOFF_MAX_S + 1)


async def test_a_node_that_is_down_holds_up_its_own_partitions_and_no_others(
    cluster: Cluster, shop: Installation
) -> None:
    dead = server_of(cluster, 0)
    lost = await shop.open_event(name_on(cluster, dead))
    events = [await shop.open_event(name_on(cluster, server)) for server in cluster.servers if server is not dead]
    with capture_logs() as logs:
        async with reconciling(shop.settings) as reconciler:
            await until(lambda: reconciler.figures.events == 3, within_s=5)
            await take_down(dead, cluster)

            await asyncio.gather(*[expect_all_duties(shop, event) for event in events])
            assert {"watch", "wake", "drain", "history", "clock"} <= told(logs).keys()
            assert all(words == ["is held up"] for words in told(logs).values()), told(logs)

            dead.start(f"--{SERVE_ON[0]}", SERVE_ON[1])
            await until(lambda: dead.call("DBSIZE"), within_s=10)
            await until(lambda: all(words[-1] == "goes on" for words in told(logs).values()), within_s=10)
            await until(lambda: shop.is_loaded(lost), within_s=5)

    assert all(words == ["is held up", "goes on"] for words in told(logs).values()), told(logs)


async def test_events_of_a_node_that_is_down_keep_no_others_from_being_audited_and_their_time_from_being_known(
    cluster: Cluster, shop: Installation
) -> None:
    dead, living = cluster.servers[1], cluster.servers[2]
    roster, findings, territory = Roster(), Findings(), Everywhere(range(PARTITIONS))
    lost, event = await shop.open_event(name_on(cluster, dead)), await shop.open_event(name_on(cluster, living))
    for waits_longer in (lost, event):
        roster.see(shop.parts.kernel.partition_of(waits_longer), waits_longer.event.id)
    shop.redis.hincrby(shop.key(event, "state"), "free:0:0", -7)
    await take_down(dead, cluster)

    audit = Audit(make_equipment(shop.parts, shop.settings), roster, Suspicions(), findings)
    with pytest.raises(StoreUnavailable):
        await audit.work(territory)

    assert shop.counter(event, "free:0:0") == 100
    assert (findings.figures.audited, findings.figures.failures) == (1, {})

    clock = StoreClock(shop.parts.kernel)  # which has heard of no node yet

    assert abs(await clock.now_ms() - time.time() * 1000) < 1_000
    with pytest.raises(StoreUnavailable):
        await clock.look()


async def test_a_single_round_does_what_it_can_and_names_the_partitions_it_could_not_reach(
    cluster: Cluster, shop: Installation, command: CommandLine
) -> None:
    dead = server_of(cluster, 0)
    living = [server for server in cluster.servers if server is not dead]
    away = [number for number in range(PARTITIONS) if server_of(cluster, number) is dead]
    await shop.open_event(name_on(cluster, dead))
    first, second = [await shop.open_event(name_on(cluster, server)) for server in living]
    booking_id = await shop.leave_behind(first, age_s=20)
    shop.redis.delete(shop.key(second, "state"))
    await take_down(dead, cluster)

    dry = await asyncio.to_thread(command.run, "reconcile", "--once", "--dry-run", "--json")
    assert dry.returncode == 2, dry.stderr
    would = json.loads(dry.stdout)
    assert [one["partition"] for one in would["unreached"]] == away
    assert (would["drained"], would["events"][0]["missing"], would["rebuilt"]) == (1, True, 0)

    done = await asyncio.to_thread(command.run, "reconcile", "--once", "--json")
    assert done.returncode == 2, done.stderr
    found = json.loads(done.stdout)
    assert [one["partition"] for one in found["unreached"]] == away
    assert all(one["error"].startswith("StoreUnavailable: ") for one in found["unreached"])
    assert (found["verdict"], found["drained"], found["rebuilt"], found["audited"]) == ("person", 1, 1, 2)
    assert await shop.status_of(booking_id) == "confirmed"
    assert shop.is_loaded(second)

    table = await asyncio.to_thread(command.run, "reconcile", "--once")
    assert table.returncode == 2
    assert f"not reached: partition {', '.join(map(str, away))}: StoreUnavailable" in table.stdout


async def test_doctor_warns_where_one_node_that_is_down_would_stop_all(cluster: Cluster, command: CommandLine) -> None:
    first = cluster.servers[0]
    first.call("CONFIG", "SET", SERVE_ON[0], "yes")
    try:
        said = await asyncio.to_thread(command.run, "doctor", "--json")
    finally:
        first.call("CONFIG", "SET", *SERVE_ON)

    found = [one for one in json.loads(said.stdout)["findings"] if one["subject"].startswith("coverage of ")]
    assert sorted(one["verdict"] for one in found) == ["ok", "ok", "warning"]
    (warning,) = [one for one in found if one["verdict"] == "warning"]
    assert warning["subject"] == f"coverage of 127.0.0.1:{first.port}"
    assert "cluster-require-full-coverage no" in warning["remedy"]
