"""What is said gets lost on its way: between the API and Redis, and between the clients and the API."""

import asyncio
from collections.abc import Callable

import pytest
from checker import check, fault
from crowd import AFTER, WARM_UP, crowd_buying
from rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.short
async def test_a_repetition_has_the_same_result_when_replies_of_scripts_are_lost(
    rig: Rig, report: Callable[..., None]
) -> None:
    proxy = rig.store_proxy
    async with crowd_buying(rig, "lost-replies") as crowd:
        await crowd.until_operations(WARM_UP)
        lost = proxy.lost
        with fault() as window:
            for _ in range(20):
                proxy.losing_replies = True  # the scripts run, and nobody hears of it
                await asyncio.sleep(0.03)
                proxy.cut()
                proxy.losing_replies = False
                await asyncio.sleep(0.15)
        lost = proxy.lost - lost
        await crowd.until_operations(WARM_UP)

    figures = await check(rig, crowd, window, holds_are_kept=True)
    report(10, "replies of scripts dropped", figures, f"{lost} batches of replies dropped")
    assert lost > 0


async def test_a_reply_that_is_cut_in_the_middle_is_no_reply(rig: Rig, report: Callable[..., None]) -> None:
    async with crowd_buying(rig, "cut-replies") as crowd:
        await crowd.until_operations(WARM_UP)
        with fault() as window:
            for count in range(1, 40):
                rig.store_proxy.cut_after(count)
                await asyncio.sleep(0.05)
        await crowd.until_operations(WARM_UP)

    report(10, "replies cut in the middle", await check(rig, crowd, window), "39 times")


async def test_a_silent_redis_is_given_up_and_found_again(rig: Rig, report: Callable[..., None]) -> None:
    async with crowd_buying(rig, "silent-redis") as crowd:
        await crowd.until_operations(WARM_UP)
        with fault() as window:
            rig.store_proxy.silent = True
            await asyncio.sleep(4.0)  # twice what a reply may take
            rig.store_proxy.silent = False
            rig.store_proxy.cut()  # as a firewall that has forgotten its connections
        await crowd.until_operations(AFTER)

    report(10, "Redis cut off for 4 s", await check(rig, crowd, window), f"{crowd.codes['503 store-unavailable']} 503")


async def test_a_slow_redis_makes_it_slow_and_nothing_else(rig: Rig, report: Callable[..., None]) -> None:
    async with crowd_buying(rig, "slow-redis") as crowd:
        await crowd.until_operations(WARM_UP)
        with fault() as window:
            rig.store_proxy.delay_s = 0.1
            await crowd.until_operations(WARM_UP)
            rig.store_proxy.delay_s = 0.0
        await crowd.until_operations(WARM_UP)

    report(10, "Redis 100 ms away", await check(rig, crowd, window))


async def test_clients_that_vanish_in_the_middle_get_one_result_when_they_come_back(
    rig: Rig, report: Callable[..., None]
) -> None:
    async with crowd_buying(rig, "vanishing", vanishing=0.5) as crowd:
        with fault() as window:
            await crowd.until_operations(AFTER)
        crowd.vanishing = 0.0
        await crowd.until_operations(WARM_UP)

    vanished = sum(1 for one in crowd.recording.operations if one.attempts > 1)
    report(12, "clients hang up in the middle", await check(rig, crowd, window), f"{vanished} requests repeated")
    assert vanished > 100
