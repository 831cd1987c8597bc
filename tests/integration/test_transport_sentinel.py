"""A master followed through real sentinels."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transport_servers import INCREMENT, Valkey, free_port, opened, running_valkey, wait_until

from engine.transport.errors import NotSent, OutcomeUnknown
from engine.transport.open import open_transport
from engine.transport.wire import pack_keys

COUNTER = pack_keys([b"{t}:counter"])


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Valkey, Valkey, Valkey]]:
    """A master, its replica, and the sentinel of the service ``tickets``."""
    with running_valkey(tmp_path / "master", "--repl-diskless-sync-delay", "0") as master:
        replica_options = ("--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0")
        with running_valkey(tmp_path / "replica", *replica_options) as replica:
            wait_until(lambda: replica.call("INFO")["master_link_status"] == "up", "the replica does not sync")
            configuration = tmp_path / "sentinel.conf"
            configuration.write_text(
                f"sentinel monitor tickets 127.0.0.1 {master.port} 1\n"
                "sentinel down-after-milliseconds tickets 300\n"
                "sentinel failover-timeout tickets 2000\n"
            )
            sentinel = Valkey(tmp_path / "sentinel", arguments=(str(configuration), "--sentinel"))
            sentinel.start()
            try:
                wait_until(lambda: len(_replicas(sentinel)) == 1, "the sentinel does not see the replica")
                yield master, replica, sentinel
            finally:
                sentinel.kill()


def _replicas(sentinel: Valkey) -> Any:
    return sentinel.call("SENTINEL", "REPLICAS", "tickets")


async def test_master_is_followed_to_its_replica_when_it_dies(servers: tuple[Valkey, Valkey, Valkey]) -> None:
    master, replica, sentinel = servers
    async with opened(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/tickets") as transport:
        changes: list[Any] = []
        transport.on_server_change(changes.append)
        assert [node.port for node in transport.nodes()] == [master.port]
        assert await transport.evalsha(INCREMENT, COUNTER, []) == 1
        assert master.call("WAIT", 1, 5000) == 1
        master.kill()
        for _ in range(500):
            try:
                assert await transport.evalsha(INCREMENT, COUNTER, []) == 2
                break
            except (NotSent, OutcomeUnknown):
                await asyncio.sleep(0.05)
        assert [node.port for node in transport.nodes()] == [replica.port]
        (change,) = changes
        assert change.node.port == replica.port
        assert change.new.run_id == replica.call("INFO")["run_id"]


async def test_opening_names_the_service_the_sentinels_do_not_know(servers: tuple[Valkey, Valkey, Valkey]) -> None:
    with pytest.raises(NotSent, match="no service 'other'"):
        await open_transport(f"redis+sentinel://127.0.0.1:{servers[2].port}/other")
