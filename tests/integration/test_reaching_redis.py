"""What ``serve`` lets pass before it starts workers: a Redis that answers, though it may not be ready yet."""

import asyncio
from pathlib import Path

import pytest
from transport_servers import free_port, opened, running_valkey

from engine.transport.errors import NotSent
from holdfast.reaching_redis import require_redis

KEYS = 100
LOADS_SLOWLY = ("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")  # 0.1 s a key


async def test_redis_that_still_loads_its_data_is_left_to_the_workers(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        for number in range(KEYS):
            server.call("SET", f"key {number}", "x" * 1024)
        server.call("CONFIG", "SET", "rdbcompression", "no")
        server.call("SAVE")
        server.kill()
        server.start(*LOADS_SLOWLY)
        with pytest.raises(NotSent, match="is loading its data"):
            async with opened(server.url):
                pass
        await require_redis(server.url)


async def test_replica_that_may_take_over_is_left_to_the_workers(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        server.call("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(NotSent, match="is a read only replica"):
            async with opened(server.url):
                pass
        await require_redis(server.url)


async def test_redis_that_comes_back_in_a_moment_is_waited_for(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        server.kill()
        waiting = asyncio.create_task(require_redis(server.url))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        server.start()
        await waiting


async def test_redis_that_refuses_the_password_is_told_of_without_it(tmp_path: Path) -> None:
    with running_valkey(tmp_path, "--requirepass", "right") as server:
        with pytest.raises(NotSent, match=f"it leads to 127.0.0.1:{server.port}$") as refused:
            await require_redis(f"redis://:hunter2@127.0.0.1:{server.port}")
        assert "hunter2" not in str(refused.value)
        await require_redis(f"redis://:right@127.0.0.1:{server.port}")
