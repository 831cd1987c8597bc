"""Redis dies, forgets, or is emptied in the middle of a sale."""

import asyncio
from collections.abc import Callable

import pytest
from checker import check, fault
from crowd import Crowd
from on_sale import events_on_sale
from rig import Rig

WARM_UP = 150  # operations before the fault, so that it meets a sale under way
AFTER = 300  # and after it


@pytest.mark.short
async def test_nothing_is_lost_when_redis_is_killed_and_comes_back_with_its_file(
    rig: Rig, report: Callable[..., None]
) -> None:
    events = events_on_sale()
    await rig.put_on_sale([event.definition for event in events])
    crowd = Crowd(rig, events)
    async with crowd.buying():
        await crowd.until_operations(WARM_UP)
        with fault() as window:
            rig.store.kill()
            await asyncio.sleep(1.5)  # longer than callers are let wait for: some must be told
            await rig.store.start()
        await crowd.until_operations(AFTER)
    figures = await check(rig, crowd, window)
    report(1, "Redis killed, back with its file", figures, f"{crowd.codes['503 store-unavailable']} answers 503")
