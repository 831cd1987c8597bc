"""What a process refuses to start with, and what it says about it."""

import asyncio

import pytest
from proxy import Proxy
from recording import now
from rig import PARTITIONS, READY_WAIT_S, Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _as_redis_6(reply: bytes) -> bytes:
    """The reply of INFO as an old Redis would give it, of the same length: there is no such program in the wheels."""
    return reply.replace(b"redis_version:7.", b"redis_version:6.").replace(b"valkey_version:", b"walkie_version:")


async def test_process_does_not_start_on_a_redis_that_evicts(rig: Rig) -> None:
    rig.store.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        said = await _refusal(rig)
    finally:
        rig.store.call("CONFIG", "SET", "maxmemory-policy", "noeviction")

    assert "maxmemory-policy is allkeys-lru" in said
    assert "Set it to noeviction" in said


async def test_process_does_not_start_with_another_number_of_partitions(rig: Rig) -> None:
    said = await _refusal(rig, HOLDFAST_PARTITIONS=str(PARTITIONS * 2))

    assert f"made with {PARTITIONS} partitions and cannot be run with {PARTITIONS * 2}" in said


async def test_process_does_not_start_on_a_redis_that_is_too_old(rig: Rig) -> None:
    async with rig.proxied("old") as proxies:
        proxies[0].rewrite = _as_redis_6
        said = await _refusal(rig, proxies[0])

    assert "Redis 6." in said
    assert "Use Redis 7.0 or newer" in said


async def _refusal(rig: Rig, store: Proxy | None = None, **variables: str) -> str:
    """What a ``serve`` says whose workers cannot start; it tries them again a few times before it gives up itself."""
    address = {"REDIS_URL": f"unix://{store.listen}"} if store is not None else {}
    process = await rig.start("serve", "--port", "0", "--workers", "1", **(address | variables))
    give_up_at = now() + READY_WAIT_S
    while "cannot serve" not in process.said():
        assert now() < give_up_at, process.said()
        await asyncio.sleep(0.05)
    await process.stop()
    assert "listening on" not in process.said()
    return process.said()
