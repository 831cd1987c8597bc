"""Journal entries that can never be written: they are set aside, and everything else flows past them."""

from collections.abc import Callable
from typing import Any

import pytest
from checker import check, fault
from crowd import WARM_UP, crowd_buying
from rig import PARTITIONS, Rig

from engine.keys import partition_key

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]


async def test_poison_goes_to_the_dead_letters_and_the_others_flow(rig: Rig, report: Callable[..., None]) -> None:
    async with crowd_buying(rig, "poison") as crowd:
        await crowd.until_operations(WARM_UP)
        with fault() as window:
            for partition in range(PARTITIONS):
                rig.store.call("XADD", partition_key(partition, "journal"), "*", "event", "nobody-knows", "epoch", "x")
        await crowd.until_operations(WARM_UP)

    figures = await check(rig, crowd, window)  # which waits for the journal to be empty
    letters = _letters(rig)
    report(15, "poison in every journal", figures, f"{len(letters)} dead letters, {figures.whole_s:.0f} s to set aside")
    assert len(letters) == PARTITIONS

    for letter in letters:
        # By partition as well: of eight journals two may have got an entry in the same millisecond.
        rig.command.ok("dead-letters", "discard", f"{letter['partition']}/{letter['id']}", "--yes")
    assert _letters(rig) == []


def _letters(rig: Rig) -> Any:
    return rig.command.json("dead-letters", "list")
