"""Servers that die, freeze, load, change role, or answer too late: what is known of a command is what is said of it."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transport_servers import INCREMENT, Proxy, Valkey, eventually, free_port, opened, running_valkey

from engine.transport import link
from engine.transport.connection import connection_settings
from engine.transport.errors import NotSent, OutcomeUnknown
from engine.transport.multiplexer import Multiplexer
from engine.transport.open import open_transport
from engine.transport.servers import NodeAddress
from engine.transport.single import dial_server
from engine.transport.wire import pack_keys

COUNTER = pack_keys([b"{t}:counter"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    with running_valkey(tmp_path / "valkey") as valkey:
        yield valkey


async def until_answered(transport: Any) -> float:
    """Seconds until a PING is answered."""
    start = time.monotonic()
    while time.monotonic() - start < 10:
        try:
            await transport.command("PING")
        except (NotSent, OutcomeUnknown):
            await asyncio.sleep(0.01)
        else:
            return time.monotonic() - start
    raise TimeoutError


async def test_commands_in_flight_are_unknown_when_the_server_is_killed(server: Valkey) -> None:
    async with opened(server.url) as transport:
        server.freeze()
        calls = [asyncio.create_task(transport.evalsha(INCREMENT, COUNTER, [])) for _ in range(100)]
        await asyncio.sleep(0.05)
        server.kill()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {OutcomeUnknown}
        server.start()
        assert await until_answered(transport) < 2
        assert await transport.evalsha(INCREMENT, COUNTER, []) == 1


async def test_commands_wait_for_a_server_that_is_back_within_the_patience(server: Valkey) -> None:
    async with opened(server.url) as transport:
        await transport.command("PING")
        server.kill()
        await asyncio.sleep(0.05)
        calls = [asyncio.create_task(transport.evalsha(INCREMENT, COUNTER, [])) for _ in range(100)]
        await asyncio.sleep(0.05)
        server.start()
        assert sorted(await asyncio.gather(*calls)) == list(range(1, 101))


async def test_callers_are_refused_within_a_second_when_the_server_is_gone(server: Valkey) -> None:
    async with opened(server.url) as transport:
        server.kill()
        start = time.monotonic()
        with pytest.raises((NotSent, OutcomeUnknown)):
            await transport.command("PING")
        with pytest.raises(NotSent, match="no connection"):
            await transport.command("PING")
        assert time.monotonic() - start < 1.5
        start = time.monotonic()
        for _ in range(100):
            with pytest.raises(NotSent, match="no connection"):
                await transport.command("PING")
        assert time.monotonic() - start < 0.1  # by now it is known, and nobody waits any more
        server.start()
        assert await until_answered(transport) < 2


async def test_reply_that_does_not_come_in_time_is_unknown_and_the_waiting_go_on(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "IN_FLIGHT_MAX", 1)
    async with Proxy(server.port) as proxy, opened(proxy.url, reply_timeout_s=0.2) as transport:
        await transport.command("PING")
        proxy.mute()
        start = time.monotonic()
        in_flight, *waiting = [asyncio.create_task(transport.command("INCR", f"k{n}")) for n in range(10)]
        with pytest.raises(OutcomeUnknown, match=r"no reply within 0\.2 s"):
            await in_flight
        assert 0.15 < time.monotonic() - start < 1
        assert await asyncio.gather(*waiting) == [1] * 9


async def test_waiting_commands_are_refused_within_a_second_when_a_frozen_server_accepts_connections(
    server: Valkey,
) -> None:
    async with opened(server.url, reply_timeout_s=0.2) as transport:
        server.freeze()
        with pytest.raises(OutcomeUnknown):
            await transport.command("PING")
        start = time.monotonic()
        with pytest.raises(NotSent):
            await transport.command("PING")
        assert time.monotonic() - start < 1.2
        server.thaw()
        assert await until_answered(transport) < 2


async def test_script_is_never_run_twice_when_its_reply_is_lost(server: Valkey) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url, reply_timeout_s=0.1) as transport:
        await transport.evalsha(INCREMENT, COUNTER, [])
        for turn in range(5):
            keys = pack_keys([b"{t}:once:%d" % turn])
            proxy.mute()
            with pytest.raises(OutcomeUnknown):
                await transport.evalsha(INCREMENT, keys, [])
            await until_answered(transport)
            assert server.call("GET", keys.keys[0]) == b"1"


async def test_script_is_never_run_twice_when_a_frozen_server_wakes_up(server: Valkey) -> None:
    async with opened(server.url, reply_timeout_s=0.1) as transport:
        await transport.evalsha(INCREMENT, COUNTER, [])
        server.freeze()
        calls = [transport.evalsha(INCREMENT, pack_keys([b"{t}:once:%d" % n]), []) for n in range(200)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {OutcomeUnknown}
        server.thaw()
        await until_answered(transport)
        counts = server.call("MGET", *[b"{t}:once:%d" % n for n in range(200)])
        assert set(counts) <= {None, b"1"}


async def test_commands_count_up_exactly_while_connections_break_under_load(server: Valkey) -> None:
    """Every acknowledged call ran once; every refused one not at all; only unknown ones may be either."""
    outcomes = {"done": 0, "unknown": 0}
    finished = asyncio.Event()

    async def call(transport: Any) -> None:
        while not finished.is_set():
            try:
                await transport.evalsha(INCREMENT, COUNTER, [])
                outcomes["done"] += 1
            except OutcomeUnknown:
                outcomes["unknown"] += 1
            except NotSent:
                await asyncio.sleep(0.01)

    async with Proxy(server.port) as proxy, opened(proxy.url) as transport:
        callers = [asyncio.create_task(call(transport)) for _ in range(50)]
        for cuts in range(10):
            await eventually(lambda seen=cuts: proxy.connection_count > seen, "nobody has connected again")
            await asyncio.sleep(0.05)
            proxy.cut()
        finished.set()
        await asyncio.gather(*callers)
    ran = int(server.call("GET", "{t}:counter"))
    assert outcomes["unknown"] > 0
    assert outcomes["done"] <= ran <= outcomes["done"] + outcomes["unknown"]


async def test_server_change_is_reported_before_any_waiting_command_is_sent(server: Valkey) -> None:
    commands_seen: list[int] = []
    changes = []

    def note(change: Any) -> None:
        changes.append(change)
        commands_seen.append(int(server.call("EXISTS", "{t}:counter")))

    async with opened(server.url) as transport:
        transport.on_server_change(note)
        await transport.evalsha(INCREMENT, COUNTER, [])
        server.kill()
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(transport.evalsha(INCREMENT, COUNTER, []))
        await asyncio.sleep(0.02)
        server.start()
        assert await waiting == 1
        assert commands_seen == [0]
        (change,) = changes
        assert change.node == transport.nodes()[0]
        assert change.old.run_id != change.new.run_id
        assert change.new.run_id == server.call("INFO")["run_id"]
        assert change.covers(0)
        assert change.covers(16383)


async def test_no_change_is_reported_when_only_the_connection_was_lost(server: Valkey) -> None:
    changes: list[Any] = []
    async with Proxy(server.port) as proxy, opened(proxy.url) as transport:
        transport.on_server_change(changes.append)
        await transport.command("PING")
        proxy.cut()
        await asyncio.sleep(0.05)
        assert await transport.command("PING") == b"PONG"
        assert proxy.connection_count == 2
    assert changes == []


async def test_server_is_not_used_until_a_failing_callback_has_accepted_the_change(server: Valkey) -> None:
    seen: list[Any] = []

    def fail_once(change: Any) -> None:
        seen.append(change)
        if len(seen) == 1:
            raise RuntimeError("cannot mark events for audit just now")

    async with opened(server.url) as transport:
        transport.on_server_change(fail_once)
        server.kill()
        server.start()
        await until_answered(transport)
        assert len(seen) == 2
        assert seen[0] == seen[1]


async def test_command_refused_by_a_replica_runs_once_the_server_is_master_again(
    server: Valkey, tmp_path: Path
) -> None:
    changes: list[Any] = []
    with running_valkey(tmp_path / "other") as other:
        async with opened(server.url) as transport:
            transport.on_server_change(changes.append)
            await transport.evalsha(INCREMENT, COUNTER, [])
            server.call("REPLICAOF", "127.0.0.1", other.port)
            call = asyncio.create_task(transport.evalsha(INCREMENT, pack_keys([b"{t}:other"]), []))
            await asyncio.sleep(0.2)
            assert not call.done()
            server.call("REPLICAOF", "NO", "ONE")
            assert await call == 1
            (change,) = changes
            assert change.new.run_id == change.old.run_id
            assert change.new.replication_id != change.old.replication_id


async def test_command_is_not_sent_in_the_end_when_the_server_stays_a_replica(server: Valkey, tmp_path: Path) -> None:
    with running_valkey(tmp_path / "other") as other:
        async with opened(server.url) as transport:
            server.call("REPLICAOF", "127.0.0.1", other.port)
            start = time.monotonic()
            with pytest.raises(NotSent, match="read only replica"):
                await transport.command("SET", "k", "v")
            assert time.monotonic() - start < 4


async def test_commands_wait_while_the_server_loads_its_data(server: Valkey) -> None:
    for n in range(300):
        server.call("SET", f"key{n}", "x" * 2000)
    server.call("SAVE")
    async with opened(server.url) as transport:
        server.kill()
        server.start("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
        assert server.call("INFO", "persistence")["loading"] == 1
        assert await until_answered(transport) > 0.2
        assert await transport.command("DBSIZE") == 300


async def test_opening_fails_at_once_when_nobody_listens() -> None:
    start = time.monotonic()
    with pytest.raises(NotSent, match="cannot connect"):
        await open_transport(f"redis://127.0.0.1:{free_port()}")
    assert time.monotonic() - start < 1


async def test_opening_fails_within_its_time_when_the_server_does_not_answer(server: Valkey) -> None:
    server.freeze()
    start = time.monotonic()
    with pytest.raises(NotSent):
        await open_transport(server.url, connect_timeout_s=0.3)
    assert time.monotonic() - start < 1


async def test_opening_is_refused_when_the_server_is_a_replica(server: Valkey, tmp_path: Path) -> None:
    options = ("--replicaof", f"127.0.0.1 {server.port}")
    with running_valkey(tmp_path / "replica", *options) as replica, pytest.raises(NotSent, match="read only replica"):
        await open_transport(replica.url)


async def test_closing_in_the_middle_of_connecting_leaves_no_connection_behind(server: Valkey) -> None:
    settings = connection_settings({}, tls=False, client_name="left-behind", timeout_s=2.0)
    for turn in range(60):
        multiplexer = Multiplexer(
            dial_server(NodeAddress(host="127.0.0.1", port=server.port), settings),
            on_server=lambda node, identity: None,
            connect_timeout_s=2.0,
            reply_timeout_s=2.0,
        )
        multiplexer.connect_in_background()
        for _ in range(turn // 2):
            await asyncio.sleep(0)
        if turn % 2:
            await asyncio.sleep(0.0005)
        await multiplexer.aclose()
    assert server.stat("total_connections_received") > 30
    await eventually(lambda: b"left-behind" not in server.call("CLIENT", "LIST"), "a connection is left")


async def test_idle_node_that_is_no_longer_in_use_is_drained(server: Valkey) -> None:
    settings = connection_settings({}, tls=False, client_name="drained", timeout_s=2.0)
    multiplexer = Multiplexer(
        dial_server(NodeAddress(host="127.0.0.1", port=server.port), settings),
        on_server=lambda node, identity: None,
        connect_timeout_s=2.0,
        reply_timeout_s=2.0,
    )
    await multiplexer.connect()
    await multiplexer.drain()
    await eventually(lambda: b"drained" not in server.call("CLIENT", "LIST"), "a connection is left")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_opening_is_refused_when_the_password_is_wrong(server: Valkey, kind: str) -> None:
    server.call("CONFIG", "SET", "requirepass", "right")
    with_password = (server.url if kind == "tcp" else server.unix_url).replace("://", "://:{}@")
    with pytest.raises(NotSent, match=r"(?i)password|auth") as failure:
        await open_transport(with_password.format("wrong"))
    assert "wrong" not in str(failure.value).replace("WRONGPASS", "")
    async with opened(with_password.format("right")) as transport:
        assert await transport.command("PING") == b"PONG"


async def test_access_control_list_user_is_logged_in_with_name_and_password(server: Valkey) -> None:
    server.call("ACL", "SETUSER", "app", "on", ">p@ss", "~*", "+@all")
    async with opened(server.url.replace("://", "://app:p%40ss@")) as transport:
        assert await transport.command("ACL", "WHOAMI") == b"app"
