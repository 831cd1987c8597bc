"""A replica is promoted that lacks the last writes of its primary."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from checker import check, fault
from crowd import AFTER, WARM_UP, crowd_buying
from own_servers import Store, running_store
from proxy import Proxy
from recording import now
from rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

SYNC_WAIT_S = 20.0


@pytest_asyncio.fixture(loop_scope="module")
async def replica(rig: Rig, directory: Path) -> AsyncIterator[tuple[Store, Proxy]]:
    """A Valkey that follows the rig's, and the proxy between the two."""
    async with running_store(directory / "replica") as store, Proxy(0, rig.store.port) as between:
        store.call("REPLICAOF", "127.0.0.1", int(str(between.listen)))
        async with asyncio.timeout(SYNC_WAIT_S):
            while store.info()["master_link_status"] != "up":  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.05)
        yield store, between


async def test_no_place_is_sold_twice_when_a_replica_is_promoted_that_lacks_the_last_writes(
    rig: Rig, replica: tuple[Store, Proxy], report: Callable[..., None]
) -> None:
    store, between = replica
    async with crowd_buying(rig, "failover") as crowd:
        await crowd.until_operations(WARM_UP)
        between.silent = True
        cut_off_at = now()
        await crowd.until_operations(WARM_UP // 2)
        missing = crowd.count("confirm", since=cut_off_at) + crowd.count("book", since=cut_off_at)
        with fault() as window:
            rig.store.kill()
            store.call("REPLICAOF", "NO", "ONE")
            rig.use_store(store)
            rig.store_proxy.cut()
        await crowd.until_operations(AFTER)

    figures = await check(rig, crowd, window)
    bookings = [one for one in crowd.recording.operations if one.op in ("confirm", "book")]
    conflicts = sum(1 for one in bookings if one.outcome == "fail" and one.invoked_at > window.began)
    report(3, "lagging replica promoted", figures, f"{missing} bookings it lacked; {conflicts} refused afterwards")
    assert missing > 0
