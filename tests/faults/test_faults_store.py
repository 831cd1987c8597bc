"""Redis dies, forgets, or is emptied in the middle of a sale."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from checker import check, fault
from crowd import AFTER, WARM_UP, crowd_buying
from rig import Rig

import lua

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.short
async def test_nothing_is_lost_when_redis_is_killed_and_comes_back_with_its_file(
    rig: Rig, report: Callable[..., None]
) -> None:
    async with crowd_buying(rig, "killed") as crowd:
        await crowd.until_operations(WARM_UP)
        with fault() as window:
            rig.store.kill()
            await asyncio.sleep(1.5)  # longer than callers are let wait for: some must be told
            await rig.store.start()
        await crowd.until_operations(AFTER)

    figures = await check(rig, crowd, window)
    refused = crowd.codes["503 store-unavailable"]
    report(1, "Redis killed, back with its file", figures, f"{refused} answers 503")
    assert refused > 0


async def _restart_empty(rig: Rig) -> None:
    rig.store.kill()
    await rig.store.start_empty()


async def _flush(rig: Rig) -> None:
    rig.store.call("FLUSHALL")


async def _swap(rig: Rig) -> None:
    rig.store.call("SWAPDB", 0, 1)


@pytest.mark.parametrize(
    ("name", "lose"),
    [
        ("Redis killed, back empty", _restart_empty),
        pytest.param("FLUSHALL", _flush, marks=pytest.mark.short),
        ("SWAPDB", _swap),
    ],
    ids=["restart", "flushall", "swapdb"],
)
async def test_state_is_built_anew_and_no_booking_lost_when_redis_forgets(
    rig: Rig, report: Callable[..., None], name: str, lose: Callable[[Rig], Awaitable[None]]
) -> None:
    async with crowd_buying(rig, lose.__name__.strip("_").replace("_", "-")) as crowd:
        await crowd.until_operations(WARM_UP)
        epochs = await _epochs(rig, crowd.events)
        with fault() as window:
            await lose(rig)
        await crowd.until_operations(AFTER)

    report(2, name, await check(rig, crowd, window))
    assert all(after > before for before, after in zip(epochs, await _epochs(rig, crowd.events), strict=True))


async def test_an_old_memory_that_comes_back_sells_nothing_twice(rig: Rig, report: Callable[..., None]) -> None:
    async with crowd_buying(rig, "old-memory") as crowd:
        await crowd.until_operations(WARM_UP)
        await _swap(rig)
        await crowd.until_operations(WARM_UP)
        with fault() as window:
            await _swap(rig)
        await crowd.until_operations(AFTER)

    refused = sum(1 for one in crowd.recording.operations if one.op in ("confirm", "book") and one.outcome == "fail")
    report(2, "SWAPDB, and back", await check(rig, crowd, window), f"{refused} bookings refused")


@pytest.mark.short
async def test_scripts_are_loaded_again_unnoticed_after_script_flush(rig: Rig, report: Callable[..., None]) -> None:
    flushes = 3
    async with crowd_buying(rig, "script-flush") as crowd:
        await crowd.until_operations(WARM_UP)
        loads = _script_loads(rig)
        with fault() as window:
            for _ in range(flushes):
                rig.store.call("SCRIPT", "FLUSH")
                await crowd.until_operations(100)
        await crowd.until_operations(WARM_UP)
        loads = _script_loads(rig) - loads

    figures = await check(rig, crowd, window, holds_are_kept=True)
    report(4, f"SCRIPT FLUSH, {flushes} times", figures, f"{loads} scripts loaded again")
    assert 0 < loads <= flushes * 2 * len(lua.names())  # each process loads what it needs, once
    assert not [code for code in crowd.codes if code.startswith(("5", "no answer"))]


async def _epochs(rig: Rig, event_ids: object) -> list[int]:
    rows = await rig.database.fetch("SELECT epoch FROM events WHERE id = ANY($1::text[]) ORDER BY id", list(event_ids))
    return [row["epoch"] for row in rows]


def _script_loads(rig: Rig) -> int:
    return int(rig.store.info().get("cmdstat_script|load", {}).get("calls", 0))
