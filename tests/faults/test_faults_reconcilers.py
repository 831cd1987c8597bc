"""Two reconcilers share the work, and one of them is killed in the middle of writing a batch."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from checker import check, fault
from crowd import WARM_UP, crowd_buying
from rig import Rig, open_rig

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

AWAY_S = 11.0  # longer than the grace for which the entries of an API process are left to it


@pytest_asyncio.fixture(loop_scope="module")
async def rig(directory: Path, shared_dir: Path) -> AsyncIterator[Rig]:
    """As usual, but for the reconciler that ``serve`` would run: this test brings its own."""
    async with open_rig(directory, shared_dir=shared_dir, HOLDFAST_RECONCILER="off") as opened:
        yield opened


async def test_each_booking_is_written_once_when_one_of_two_reconcilers_is_killed_in_a_batch(
    rig: Rig, report: Callable[..., None]
) -> None:
    async with rig.proxied("a") as first, rig.proxied("b") as second:
        victim, _ = await rig.reconcile(first), await rig.reconcile(second)
        async with crowd_buying(rig, "reconcilers") as crowd:
            await crowd.until_operations(WARM_UP)
            batch = first[1].catch_next(b'"epoch":', forward=True)
            with fault() as window:
                rig.database_proxy.refusing = (
                    True  # the API's bookings stay in the journal; the reconcilers' way is open
                )
                rig.database_proxy.cut()
                await asyncio.sleep(AWAY_S)
                await batch.wait()
                victim.kill()
                first[1].cut()
                batch.open()
                rig.database_proxy.refusing = False
            await crowd.until_operations(WARM_UP)

        figures = await check(rig, crowd, window)
        latest_s = max(crowd.late_s, default=0.0)
        besides = f"{figures.late} answers 202, known after {latest_s:.0f} s at most"
        report(12, "one of two reconcilers killed in a batch", figures, besides)
        assert figures.late > 0
        await rig.stop_processes()
