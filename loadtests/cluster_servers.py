"""Primaries of a Redis Cluster for a measurement: those of the tests, in a process of their own that ends them.

``python cluster_servers.py <directory> <primaries>`` prints where they listen; told to end, it ends them. Its guard
tells it so when the measurement has ended, whatever ended that.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import redis
from harness import Void

from holdfast.children import start_child

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from cluster_fixture import running_cluster  # the tests' own servers, which are no package
from stores import open_client

# As durable as ``holdfast serve`` has its Valkey.
OPTIONS = ("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")
START_WAIT_S = 30.0


class Primaries(msgspec.Struct, frozen=True):
    """A running cluster."""

    url: str

    def cpu_s(self) -> float:
        """CPU seconds of all main threads so far."""
        return sum(_main_thread_cpu_s(port) for port in self._ports())

    def count_held(self, state_keys: Iterable[bytes]) -> int:
        """Places of the first sections of these events that their counters say are held."""
        with self.open_client() as client:
            return sum(int(client.hget(key, "held:0:0")) for key in state_keys)

    def forget(self) -> None:
        """Empty them all."""
        for port in self._ports():
            with redis.Redis(port=port) as client:
                client.flushall()

    def open_client(self) -> Any:
        """A client that finds its way to every key."""
        return open_client(self.url)

    def _ports(self) -> Iterator[int]:
        return (int(node.rpartition(":")[2]) for node in self.url.split(","))


def _main_thread_cpu_s(port: int) -> float:
    with redis.Redis(port=port) as client:
        spent: Any = client.info("cpu")
        return float(spent["used_cpu_user_main_thread"]) + float(spent["used_cpu_sys_main_thread"])


@contextlib.asynccontextmanager
async def running_primaries(directory: Path, count: int) -> AsyncIterator[Primaries]:
    """*count* primaries with equal shares of the slots, until the block ends, or this process.

    Raises:
        Void: They did not start; what they said is in the error.
    """
    readable, writable = os.pipe()
    with os.fdopen(readable) as output:
        try:
            child = await start_child([sys.executable, __file__, str(directory), str(count)], output=writable)
        finally:
            os.close(writable)
        try:
            async with asyncio.timeout(START_WAIT_S):
                said = await asyncio.to_thread(output.readline)
            if not said.startswith("redis+cluster://"):
                raise Void(f"the cluster did not start: {said}{await asyncio.to_thread(output.read)}")
            yield Primaries(said.strip())
        finally:
            await child.stop()


def main(directory: Path, count: int) -> None:
    """Run them until told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running_cluster(directory, master_count=count, options=OPTIONS) as cluster:
        print(cluster.url(), flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
