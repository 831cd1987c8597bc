"""What every measurement works with: real servers of its own, started as ``holdfast serve`` starts them."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import redis
from harness import Plan
from pipe import Pipe
from venues import Venue, sellable

from holdfast.collector import spare_the_collector
from holdfast.embedded.servers import embedded_servers
from holdfast.migrating import migrate_database
from holdfast.settings import Settings, load_settings


class Bench(msgspec.Struct, frozen=True):
    """Servers, connections to Valkey, and how long to measure."""

    plan: Plan
    settings: Settings
    socket_path: str
    client: redis.Redis
    pipe: Pipe
    scratch: Path

    def venue(self, document: dict[str, Any]) -> Venue:
        """A venue for the event of *document*, not yet loaded."""
        return Venue(self.client, self.pipe, sellable(document))

    def server_cpu_s(self) -> float:
        """CPU seconds of Valkey's main thread so far."""
        return self.pipe.cpu_s()

    def dataset_bytes(self) -> int:
        """Bytes that Valkey has allocated for data; its buffers and script cache are not among them."""
        return int(self.client.info("memory")["used_memory_dataset"])


@contextlib.asynccontextmanager
async def open_bench(plan: Plan) -> AsyncIterator[Bench]:
    """Start Valkey and Postgres, as durable as they are by default; they end with this process, however it ends."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o711)  # servers started by root run as another account, which must pass through here
        scratch = Path(name)
        async with embedded_servers(scratch / "data") as servers:
            environment = {"REDIS_URL": servers.redis_url, "DATABASE_URL": servers.database_url}
            settings = load_settings(environment, data_dir=scratch / "data", log_level="warning", workers=1)
            await migrate_database(settings)
            client = redis.Redis.from_url(servers.redis_url)
            socket_path = client.connection_pool.connection_kwargs["path"]
            pipe = Pipe(socket_path)
            spare_the_collector()  # as every worker does: a round of it in the middle of a run would count
            try:
                yield Bench(plan, settings, socket_path, client, pipe, scratch)
            finally:
                pipe.close()
                client.close()


def find_program(*names: str) -> str | None:
    """The first of *names* that is installed."""
    return next((path for name in names if (path := shutil.which(name))), None)
