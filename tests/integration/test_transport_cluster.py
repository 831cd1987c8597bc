"""A cluster of real servers: routing, redirections, slots on the move, a master that dies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_fixture import Cluster, running_cluster
from redis.crc import key_slot
from redis.exceptions import MovedError
from transport_servers import ECHO, INCREMENT, Script, eventually, opened, running_valkey

from engine.transport.connection import connection_settings
from engine.transport.errors import NotSent, OutcomeUnknown
from engine.transport.multiplexer import Multiplexer
from engine.transport.servers import NodeAddress
from engine.transport.single import dial_server
from engine.transport.wire import PackedKeys, pack_command, pack_keys

BOTH = Script("both", b"#!lua\nreturn redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
async def transport(cluster: Cluster) -> AsyncIterator[Any]:
    for server in cluster.servers:
        server.call("FLUSHALL")
    async with opened(cluster.url()) as opened_transport:
        yield opened_transport


def tag_owned_by(cluster: Cluster, index: int, *, salt: str) -> bytes:
    """A hash tag whose slot is in the initial share of a master."""
    share = 16384 // cluster.master_count
    return next(
        tag
        for tag in (f"{{{salt}{n}}}".encode() for n in range(10_000))
        if share * index <= key_slot(tag) < share * (index + 1)
    )


def one_key(tag: bytes) -> PackedKeys:
    return pack_keys([tag + b":counter"])


async def test_scripts_of_many_slots_reach_their_masters(cluster: Cluster, transport: Any) -> None:
    async def call(n: int) -> None:
        keys, arg = pack_keys([b"{%d}:k" % n]), b"%d" % n
        for _ in range(5):
            assert await transport.evalsha(ECHO, keys, [arg]) == [keys.keys[0], arg]
        assert await transport.evalsha(INCREMENT, keys, []) == 1

    await asyncio.gather(*(call(n) for n in range(300)))
    sizes = [server.call("DBSIZE") for server in cluster.servers]
    assert sum(sizes) == 300
    assert min(sizes) > 50


async def test_nodes_are_the_masters_and_can_be_addressed(cluster: Cluster, transport: Any) -> None:
    nodes = transport.nodes()
    assert [node.port for node in nodes] == sorted(server.port for server in cluster.servers)
    for node in nodes:
        assert f"tcp_port:{node.port}".encode() in await transport.command("INFO", "server", node=node)


async def test_command_is_routed_by_its_slot(cluster: Cluster, transport: Any) -> None:
    for index, server in enumerate(cluster.servers):
        key = tag_owned_by(cluster, index, salt="s")
        assert await transport.command("SET", key, index, slot=key_slot(key)) == b"OK"
        assert server.call("GET", key) == str(index).encode()


async def test_moved_slot_is_followed_and_remembered(cluster: Cluster, transport: Any) -> None:
    source, target = cluster.servers[0], cluster.servers[1]
    tag = tag_owned_by(cluster, 0, salt="moved")
    keys = one_key(tag)
    assert await transport.evalsha(INCREMENT, keys, []) == 1
    changes: list[Any] = []
    transport.on_server_change(changes.append)
    cluster.begin_migration(keys.slot, source, target)
    cluster.migrate_keys(source, target, *keys.keys)
    cluster.end_migration(keys.slot, target)

    assert await asyncio.gather(*(transport.evalsha(INCREMENT, keys, []) for _ in range(50))) == list(range(2, 52))
    assert [(change.node.port, change.slots) for change in changes] == [(target.port, ((keys.slot, keys.slot),))]
    before = source.stat("total_error_replies")
    assert await transport.evalsha(INCREMENT, keys, []) == 52
    assert source.stat("total_error_replies") == before  # nobody was sent there again


async def test_call_that_is_begun_goes_to_whom_the_map_names_and_no_further(cluster: Cluster, transport: Any) -> None:
    source, target = cluster.servers[0], cluster.servers[1]
    keys = one_key(tag_owned_by(cluster, 0, salt="begun"))
    assert await transport.evalsha(INCREMENT, keys, []) == 1
    assert await transport.begin_evalsha(INCREMENT, keys, []) == 2
    cluster.begin_migration(keys.slot, source, target)
    cluster.migrate_keys(source, target, *keys.keys)
    cluster.end_migration(keys.slot, target)
    assert isinstance(await transport.begin_evalsha(INCREMENT, keys, []), MovedError)
    assert await transport.evalsha(INCREMENT, keys, []) == 3  # which notes where it is now
    assert await transport.begin_evalsha(INCREMENT, keys, []) == 4


async def test_ask_is_followed_while_a_slot_is_on_the_move(cluster: Cluster, transport: Any) -> None:
    source, target = cluster.servers[1], cluster.servers[2]
    tag = tag_owned_by(cluster, 1, salt="ask")
    here, there = pack_keys([tag + b":here"]), pack_keys([tag + b":there"])
    assert await transport.evalsha(INCREMENT, here, []) == 1
    assert await transport.evalsha(INCREMENT, there, []) == 1
    cluster.begin_migration(here.slot, source, target)
    cluster.migrate_keys(source, target, *there.keys)
    target.call("SCRIPT", "FLUSH")  # so that the redirected script is unknown where it arrives

    calls = [transport.evalsha(INCREMENT, keys, []) for _ in range(50) for keys in (here, there)]
    assert sorted(await asyncio.gather(*calls)) == sorted([*range(2, 52), *range(2, 52)])
    assert source.call("GET", here.keys[0]) == b"51"
    cluster.migrate_keys(source, target, *here.keys)
    cluster.end_migration(here.slot, target)
    assert target.call("GET", there.keys[0]) == b"51"
    assert await transport.evalsha(INCREMENT, here, []) == 52


async def test_asking_of_a_cancelled_caller_does_not_fall_to_the_next_one(cluster: Cluster) -> None:
    source, target = cluster.servers[0], cluster.servers[2]
    keys = one_key(tag_owned_by(cluster, 0, salt="stray"))
    cluster.begin_migration(keys.slot, source, target)
    multiplexer = Multiplexer(
        dial_server(
            NodeAddress(host="127.0.0.1", port=target.port),
            connection_settings({}, tls=False, client_name="test", timeout_s=2.0),
        ),
        on_server=lambda node, identity: None,
        connect_timeout_s=2.0,
        reply_timeout_s=2.0,
    )
    await multiplexer.connect()
    asking = asyncio.create_task(multiplexer.asking(pack_command("GET", *keys.keys)))
    await asyncio.sleep(0)  # submitted, not sent yet
    asking.cancel()
    assert isinstance(await multiplexer.submit(pack_command("GET", *keys.keys)), MovedError)
    assert await multiplexer.asking(pack_command("GET", *keys.keys)) is None
    await multiplexer.aclose()
    cluster.end_migration(keys.slot, target)


async def test_script_whose_keys_are_split_by_a_migration_is_tried_until_they_are_together(
    cluster: Cluster, transport: Any
) -> None:
    source, target = cluster.servers[2], cluster.servers[0]
    tag = tag_owned_by(cluster, 2, salt="split")
    keys = pack_keys([tag + b":a", tag + b":b"])
    assert await transport.evalsha(BOTH, keys, []) == 2
    cluster.begin_migration(keys.slot, source, target)
    cluster.migrate_keys(source, target, keys.keys[0])
    call = asyncio.create_task(transport.evalsha(BOTH, keys, []))
    await asyncio.sleep(0.1)
    assert not call.done()
    cluster.migrate_keys(source, target, keys.keys[1])
    assert await call == 4
    cluster.end_migration(keys.slot, target)


async def test_script_whose_keys_stay_split_is_not_sent_in_the_end(cluster: Cluster, transport: Any) -> None:
    source, target = cluster.servers[2], cluster.servers[0]
    tag = tag_owned_by(cluster, 2, salt="stay")
    keys = pack_keys([tag + b":a", tag + b":b"])
    await transport.evalsha(BOTH, keys, [])
    cluster.begin_migration(keys.slot, source, target)
    cluster.migrate_keys(source, target, keys.keys[0])
    with pytest.raises(NotSent, match="gave up"):
        await asyncio.wait_for(transport.evalsha(BOTH, keys, []), 4)
    cluster.migrate_keys(source, target, keys.keys[1])
    cluster.end_migration(keys.slot, target)
    assert await transport.evalsha(BOTH, keys, []) == 4


async def test_slot_moves_under_load_without_an_error_or_a_lost_count(cluster: Cluster, transport: Any) -> None:
    source, target = cluster.servers[1], cluster.servers[0]
    tag = tag_owned_by(cluster, 1, salt="load")
    keys = pack_keys([tag + b":a", tag + b":b"])
    moved = asyncio.Event()
    done_count = 0

    async def call() -> None:
        nonlocal done_count
        while not moved.is_set():
            await transport.evalsha(BOTH, keys, [])
            done_count += 1

    callers = [asyncio.create_task(call()) for _ in range(32)]
    await asyncio.sleep(0.1)
    await asyncio.to_thread(cluster.begin_migration, keys.slot, source, target)
    for key in keys.keys:
        await asyncio.to_thread(cluster.migrate_keys, source, target, key)
        await asyncio.sleep(0.05)
    await asyncio.to_thread(cluster.end_migration, keys.slot, target)
    await asyncio.sleep(0.1)
    moved.set()
    await asyncio.gather(*callers)
    assert target.call("MGET", *keys.keys) == [str(done_count).encode()] * 2


async def test_address_that_is_no_master_is_refused(transport: Any) -> None:
    with pytest.raises(NotSent, match="not a master"):
        await transport.command("PING", node=NodeAddress(host="127.0.0.1", port=1))


async def test_cluster_is_found_through_any_seed_that_answers(cluster: Cluster) -> None:
    url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.servers[1].port}"
    async with opened(url) as transport:
        assert len(transport.nodes()) == 3


async def test_server_that_is_no_cluster_is_refused_on_opening(tmp_path: Path) -> None:
    with running_valkey(tmp_path / "single") as server, pytest.raises(NotSent, match="cluster support disabled"):
        async with opened(f"redis+cluster://127.0.0.1:{server.port}"):
            pass


async def test_replica_takes_over_and_the_change_is_reported_when_a_master_is_killed(tmp_path: Path) -> None:
    with running_cluster(tmp_path, node_timeout_ms=1000) as cluster:
        await asyncio.to_thread(cluster.add_replica, cluster.servers[0])
        async with opened(cluster.url()) as transport:
            changes: list[Any] = []
            transport.on_server_change(changes.append)
            hit = one_key(tag_owned_by(cluster, 0, salt="hit"))
            spared = one_key(tag_owned_by(cluster, 1, salt="spared"))
            assert await transport.evalsha(INCREMENT, hit, []) == 1
            await transport.evalsha(INCREMENT, spared, [])
            assert cluster.servers[0].call("WAIT", 1, 5000) == 1
            cluster.servers[0].kill()

            assert await transport.evalsha(INCREMENT, spared, []) == 2  # other slots are not affected
            for _ in range(500):
                try:
                    assert await transport.evalsha(INCREMENT, hit, []) == 2
                    break
                except (NotSent, OutcomeUnknown):
                    await asyncio.sleep(0.05)
            assert cluster.servers[3].call("GET", hit.keys[0]) == b"2"
            await eventually(lambda: bool(changes), "no change was reported")
            assert {change.node.port for change in changes} == {cluster.servers[3].port}
            assert any(change.covers(hit.slot) for change in changes)
            assert not any(change.covers(spared.slot) for change in changes)
            assert cluster.servers[0].port not in [node.port for node in transport.nodes()]
