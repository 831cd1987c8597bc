"""Embedded servers: what they keep, what they answer, and what they say when they cannot be had."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import asyncpg
import psutil
import pytest
import sqlalchemy
from processes_under_test import program, seconds_until
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.ext.asyncio import create_async_engine

from holdfast.embedded.data_dir import own_data_dir
from holdfast.embedded.errors import DataDirBusy, DataDirUnusable, ServerFailed
from holdfast.embedded.servers import EmbeddedServers, embedded_servers, running_servers

pytestmark = pytest.mark.usefixtures("private_tmp")

T = TypeVar("T")

OWNER = """
    import asyncio, sys
    from pathlib import Path
    from holdfast.embedded.servers import embedded_servers

    async def main():
        async with embedded_servers(Path(sys.argv[1])):
            print("ready", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
"""


async def _write(servers: EmbeddedServers) -> None:
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute("CREATE TABLE kept (word text); INSERT INTO kept VALUES ('Platz')")
    await connection.close()
    async with Redis.from_url(servers.redis_url) as redis:
        await redis.set("kept", "Platz")


async def _read(servers: EmbeddedServers) -> tuple[str, bytes]:
    connection = await asyncpg.connect(servers.database_url)
    word = await connection.fetchval("SELECT word FROM kept")
    await connection.close()
    async with Redis.from_url(servers.redis_url) as redis:
        return word, await redis.get("kept")


def _valkey_pid(servers: EmbeddedServers) -> int:
    return int((servers.data_dir / "valkey" / "valkey.pid").read_text())


def _postmaster_pid(servers: EmbeddedServers) -> int:
    return int((servers.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


async def test_servers_keep_their_data_when_they_are_stopped_and_started(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path / "data") as servers:
        await _write(servers)
    async with embedded_servers(tmp_path / "data") as servers:
        assert await _read(servers) == ("Platz", b"Platz")


async def test_servers_are_set_up_for_durability_and_order(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path / "data") as servers, Redis.from_url(servers.redis_url) as redis:
        connection = await asyncpg.connect(servers.database_url)
        names = ["fsync", "synchronous_commit", "full_page_writes", "TimeZone", "server_encoding", "listen_addresses"]
        settings = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
        version = await connection.fetchval("SHOW server_version_num")
        await connection.close()
        config = await redis.config_get("maxmemory-policy", "appendonly", "appendfsync", "port")

    assert settings == ["on", "on", "on", "UTC", "UTF8", ""]
    assert version.startswith("18")
    assert config == {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec", "port": "0"}


async def test_database_url_is_accepted_by_sqlalchemy_with_its_driver_named(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path / "data", durable=False) as servers:
        engine = create_async_engine(servers.database_url.replace("postgresql://", "postgresql+asyncpg://"))
        async with engine.connect() as connection:
            assert await connection.scalar(sqlalchemy.text("SELECT current_database()")) == "holdfast"
        await engine.dispose()


async def test_servers_never_run_as_root_and_open_no_directory_to_others(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with embedded_servers(closed / "data", durable=False) as servers:
        owners = {psutil.Process(pid).uids().effective for pid in (_valkey_pid(servers), _postmaster_pid(servers))}

        assert 0 not in owners
        assert os.geteuid() in (0, *owners)
        assert closed.stat().st_mode & 0o777 == 0o700
        assert servers.data_dir.stat().st_mode & 0o777 == 0o700


async def test_servers_use_sockets_elsewhere_when_the_path_is_too_long(tmp_path: Path) -> None:
    long_path = tmp_path / ("long" * 30)
    async with embedded_servers(long_path, durable=False) as servers, Redis.from_url(servers.redis_url) as redis:
        assert await redis.ping()
        sockets = Path(servers.redis_url.removeprefix("unix://")).parent
        assert len(os.fsencode(sockets)) < 100
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert not sockets.exists()


def test_sockets_elsewhere_that_a_killed_predecessor_left_go_with_the_next(tmp_path: Path, private_tmp: Path) -> None:
    long_path = tmp_path / ("long" * 30)
    with program(OWNER, long_path) as owner:
        servers = owner.descendants()
        owner.process.kill()
        owner.process.wait(timeout=10)
        psutil.wait_procs(servers, timeout=20)
    (left,) = private_tmp.iterdir()
    with own_data_dir(long_path) as home:
        assert home.sockets.parent == left
    assert list(private_tmp.iterdir()) == []


async def test_valkey_is_started_again_with_its_data_when_it_is_killed(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path / "data") as servers:
        await _write(servers)
        killed = _valkey_pid(servers)
        os.kill(killed, signal.SIGKILL)

        assert await _eventually(lambda: _get_when_up(servers), within_s=10) == b"Platz"
        assert _valkey_pid(servers) != killed


async def _eventually(ask: Callable[[], Awaitable[T | None]], *, within_s: float) -> T:
    async with asyncio.timeout(within_s):
        while True:
            answer = await ask()
            if answer is not None:
                return answer
            await asyncio.sleep(0.01)


async def _get_when_up(servers: EmbeddedServers) -> bytes | None:
    async with Redis.from_url(servers.redis_url) as redis:
        try:
            return await redis.get("kept")
        except RedisConnectionError:
            return None


async def test_postgres_is_started_again_with_its_data_when_its_postmaster_is_killed(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path / "data") as servers:
        await _write(servers)
        killed = _postmaster_pid(servers)
        os.kill(killed, signal.SIGKILL)

        assert await _eventually(lambda: _select_when_up(servers), within_s=20) == "Platz"
        assert _postmaster_pid(servers) != killed


async def _select_when_up(servers: EmbeddedServers) -> str | None:
    try:
        return (await _read(servers))[0]
    except (OSError, asyncpg.PostgresError):
        return None


async def test_servers_are_refused_with_the_owners_pid_when_another_instance_has_the_directory(tmp_path: Path) -> None:
    with program(OWNER, tmp_path / "data") as owner:
        with pytest.raises(DataDirBusy) as refused:
            async with embedded_servers(tmp_path / "data"):
                pass

        assert refused.value.owner_pid == owner.pid
        assert f"process {owner.pid}" in str(refused.value)
        assert "--data-dir" in str(refused.value)
        assert "REDIS_URL and DATABASE_URL" in str(refused.value)


async def test_running_servers_are_found_by_other_processes_while_they_run(tmp_path: Path) -> None:
    assert running_servers(tmp_path / "data") is None
    with program(OWNER, tmp_path / "data") as owner:
        found = running_servers(tmp_path / "data")

        assert found is not None
        async with Redis.from_url(found.redis_url) as redis:
            assert await redis.ping()
        connection = await asyncpg.connect(found.database_url)
        await connection.close()
        owner.process.kill()
        owner.process.wait(timeout=10)
        assert running_servers(tmp_path / "data") is None


async def test_servers_start_when_pid_and_socket_files_are_stale_and_the_pid_is_in_use(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with program(OWNER, data) as owner:
        servers = running_servers(data)
        assert servers is not None
        await _write(servers)
        sockets = Path(servers.redis_url.removeprefix("unix://")).parent
        servers_of_owner = owner.descendants()
        # As if the machine had lost its power, nobody tidies up. The owner dies last, and stands still until then:
        # its servers end in good order when it is gone, and it would end the others when one of them is.
        owner.process.send_signal(signal.SIGSTOP)
        for process in servers_of_owner:
            with contextlib.suppress(psutil.NoSuchProcess):  # Postgres's own processes follow their postmaster
                process.kill()
        owner.process.kill()
        owner.process.wait(timeout=10)
        psutil.wait_procs(servers_of_owner, timeout=10)
    # A pid file left behind, whose pid has since passed to another process of the same account.
    uid = (data / "postgres").stat().st_uid
    bystander = await asyncio.create_subprocess_exec("sleep", "60", user=uid)
    _replace_pid(data / "postgres" / "postmaster.pid", bystander.pid)
    _replace_pid(sockets / ".s.PGSQL.5432.lock", bystander.pid)
    try:
        assert (sockets / "valkey.sock").exists()
        async with embedded_servers(data) as servers:
            assert await _read(servers) == ("Platz", b"Platz")
    finally:
        bystander.kill()
        await bystander.wait()


def _replace_pid(path: Path, pid: int) -> None:
    _, _, rest = path.read_text().partition("\n")
    path.write_text(f"{pid}\n{rest}")


async def test_servers_start_while_those_of_a_killed_predecessor_are_still_stopping(tmp_path: Path) -> None:
    with program(OWNER, tmp_path / "data") as owner:
        found = running_servers(tmp_path / "data")
        assert found is not None
        await _write(found)
        owner.process.kill()
        owner.process.wait(timeout=10)

        async with embedded_servers(tmp_path / "data") as servers:
            assert await _read(servers) == ("Platz", b"Platz")


async def test_failed_start_tells_the_end_of_the_log_and_leaves_nothing_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with embedded_servers(data, durable=False):
        pass
    with (data / "postgres" / "postgresql.conf").open("a") as configuration:
        configuration.write("\nno_such_setting = 1\n")

    before = psutil.Process().children()
    with pytest.raises(ServerFailed) as failed:
        async with embedded_servers(data, durable=False):
            pass

    assert failed.value.server == "postgres"
    assert 'unrecognized configuration parameter "no_such_setting"' in failed.value.log_tail
    assert failed.value.log_tail.splitlines()[-1].strip() in str(failed.value)
    seconds_until(lambda: set(psutil.Process().children()) <= set(before), within_s=10)


async def test_cluster_of_another_postgres_version_is_refused_with_a_remedy(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path / "data", durable=False):
        pass
    (tmp_path / "data" / "postgres" / "PG_VERSION").write_text("17\n")

    with pytest.raises(DataDirUnusable, match=r"made by Postgres 17.* dump it"):
        async with embedded_servers(tmp_path / "data", durable=False):
            pass


async def test_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DataDirUnusable, match="file/data cannot be used as data directory"):
        async with embedded_servers(tmp_path / "file" / "data"):
            pass


async def test_directory_of_someone_elses_is_refused(tmp_path: Path) -> None:
    async with embedded_servers(tmp_path / "data", durable=False):
        pass
    (tmp_path / "data" / "logs").rename(tmp_path / "data" / "elsewhere")
    (tmp_path / "data" / "logs").symlink_to(tmp_path / "data" / "elsewhere")

    with pytest.raises(DataDirUnusable, match="must be a directory of uid"):
        async with embedded_servers(tmp_path / "data", durable=False):
            pass


async def test_interrupted_initialisation_is_done_again_from_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "data" / "postgres.new" / "base").mkdir(parents=True)

    async with embedded_servers(tmp_path / "data", durable=False) as servers:
        await _write(servers)
    assert not (tmp_path / "data" / "postgres.new").exists()
