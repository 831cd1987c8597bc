"""A Redis Cluster of real servers on the loopback interface: started, formed, its slots moved about."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from transport_servers import Valkey, free_port, wait_until

SLOT_COUNT = 16384


class Cluster:
    """Masters with equal shares of the slots, in order; replicas come behind them. *options* are every server's."""

    def __init__(
        self, directory: Path, *, master_count: int, node_timeout_ms: int, options: Sequence[str] = ()
    ) -> None:
        self._directory = directory
        self._options = options
        self._node_timeout_ms = node_timeout_ms
        self.master_count = master_count
        self._bus_ports: dict[int, int] = {}
        self.servers: list[Valkey] = []
        self._started: list[Valkey] = []

    def start(self) -> None:
        for _ in range(self.master_count):
            self.add_server()
        share = SLOT_COUNT // self.master_count
        for index, server in enumerate(self.servers):
            last = SLOT_COUNT - 1 if index == self.master_count - 1 else (index + 1) * share - 1
            server.call("CLUSTER", "ADDSLOTSRANGE", index * share, last)
        self.wait_until_formed()

    def add_server(self) -> Valkey:
        bus_port = free_port()
        server = Valkey(
            self._directory / str(len(self.servers)),
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", str(bus_port)),
            *("--cluster-node-timeout", str(self._node_timeout_ms), "--repl-diskless-sync-delay", "0"),
            *self._options,
        )
        self._started.append(server)  # before it is: whatever comes in between, it is stopped
        server.start()
        self._bus_ports[server.port] = bus_port
        if self.servers:
            first = self.servers[0]
            server.call("CLUSTER", "MEET", "127.0.0.1", first.port, self._bus_ports[first.port])
        self.servers.append(server)
        return server

    def add_replicas(self) -> None:
        """One more server for each master, as its replica; quicker than one after the other."""
        masters = self.servers[:]
        for replica, master in [(self.add_server(), master) for master in masters]:
            self.wait_until_formed()
            replica.call("CLUSTER", "REPLICATE", self.id_of(master))
        for replica, master in zip(self.servers[len(masters) :], masters, strict=True):
            self._wait_until_followed(replica, master)

    def add_replica(self, master: Valkey) -> Valkey:
        replica = self.add_server()
        self.wait_until_formed()
        replica.call("CLUSTER", "REPLICATE", self.id_of(master))
        self._wait_until_followed(replica, master)
        return replica

    def flush(self) -> None:
        """Empty it, the masters of the beginning being those of now."""
        for master in self.servers[: self.master_count]:
            master.call("FLUSHALL")

    def _wait_until_followed(self, replica: Valkey, master: Valkey) -> None:
        wait_until(
            lambda: replica.call("INFO", "replication").get("master_link_status") == "up", "the replica does not sync"
        )
        master_id = self.id_of(master)
        wait_until(
            lambda: all(len(server.call("CLUSTER", "REPLICAS", master_id)) == 1 for server in self.servers),
            "the replica is not known everywhere",
        )

    def id_of(self, server: Valkey) -> str:
        return _text(server.call("CLUSTER", "MYID"))

    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def wait_until_formed(self) -> None:
        wait_until(lambda: all(self._is_formed(server) for server in self.servers), "the cluster does not form")

    def begin_migration(self, slot: int, source: Valkey, target: Valkey) -> None:
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def migrate_keys(self, source: Valkey, target: Valkey, *keys: bytes) -> None:
        source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_migration(self, slot: int, target: Valkey) -> None:
        target_id = self.id_of(target)
        for server in [target, *(server for server in self.servers if server is not target)]:
            if server.call("ROLE")[0] == b"master":  # replicas hear of it from their masters
                server.call("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def stop(self) -> None:
        for server in self._started:
            server.kill()

    def _is_formed(self, server: Valkey) -> bool:
        info = _text(server.call("CLUSTER", "INFO"))
        return "cluster_state:ok" in info and f"cluster_known_nodes:{len(self.servers)}\r" in info


@contextlib.contextmanager
def running_cluster(
    directory: Path, *, master_count: int = 3, node_timeout_ms: int = 5000, options: Sequence[str] = ()
) -> Iterator[Cluster]:
    cluster = Cluster(directory, master_count=master_count, node_timeout_ms=node_timeout_ms, options=options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _text(reply: bytes | str) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply
