"""Redis's clock jumps ten minutes ahead and, later, back.

Scripts take the later of ``TIME`` and the event's own ``clock``; so a clock that has jumped is that field, moved ahead.
Whoever asks for ``TIME`` by itself is answered through the proxy, with the same jump. Ids of the journals, which a
server makes of its clock and which never go back, are as after an entry that was made meanwhile.
"""

import asyncio
import re
import time
from collections.abc import Callable

import pytest
from checker import check, fault
from crowd import AFTER, WARM_UP, Crowd, crowd_buying
from recording import now
from rig import PARTITIONS, Rig

from engine.keys import event_key, partition_key, partition_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

JUMP_S = 600
ALARM = "Redis's clock has jumped"
AT_WORK = "partitions owned"
LOOK_S = 2.0  # twice the time between two looks
SAID_WITHIN_S = 20.0
_TIME_REPLY = re.compile(rb"\*2\r\n\$10\r\n(\d{10})\r\n(?=\$\d\r\n)")


def _ahead(replies: bytes) -> bytes:
    return _TIME_REPLY.sub(lambda match: match[0].replace(match[1], b"%d" % (int(match[1]) + JUMP_S)), replies)


async def test_no_place_is_sold_twice_when_the_clock_jumps_ahead_and_back(
    rig: Rig, report: Callable[..., None]
) -> None:
    async with crowd_buying(rig, "clock") as crowd:
        await crowd.until_operations(WARM_UP)
        await _until_said(rig, AT_WORK)
        await asyncio.sleep(LOOK_S)  # a clock that was never looked at cannot be seen to jump
        with fault() as window:
            rig.store_proxy.rewrite = _ahead
            _move_clocks(rig, crowd)
            _move_journals(rig)
            await crowd.until_operations(AFTER)
            await _until_said(rig, ALARM)
            rig.store_proxy.rewrite = None  # and back: the events' clocks follow when they are audited
            _leave_entries(rig)  # that must not wait until the clock has come to their ids; see `check`
        await crowd.until_operations(WARM_UP)

    ended = crowd.codes["410 hold-expired"]
    report(8, f"clock {JUMP_S} s ahead, and back", await check(rig, crowd, window), f"{ended} holds ended early")


async def _until_said(rig: Rig, text: str) -> None:
    """Until the reconciler of ``serve`` has said so, which is bounded."""
    give_up_at = now() + SAID_WITHIN_S
    while text not in rig.apis[0].said():
        assert now() < give_up_at, rig.complaints()
        await asyncio.sleep(0.05)


def _move_clocks(rig: Rig, crowd: Crowd) -> None:
    for event_id in crowd.events:
        key = event_key(partition_of(event_id, None, PARTITIONS), event_id, "state")
        clock = int(rig.store.call("HGET", key, "clock"))
        rig.store.call("HSET", key, "clock", clock + JUMP_S * 1000)


def _move_journals(rig: Rig) -> None:
    for partition in range(PARTITIONS):
        ahead = f"{int((time.time() + JUMP_S) * 1000)}-0"
        rig.store.call("XADD", partition_key(partition, "journal"), ahead, "made", "meanwhile")
        rig.store.call("XDEL", partition_key(partition, "journal"), ahead)


def _leave_entries(rig: Rig) -> None:
    """Entries that no process of theirs sees to any more; nobody can write them, so that nobody else does either."""
    for partition in range(PARTITIONS):
        rig.store.call("XADD", partition_key(partition, "journal"), "*", "event", "nobody-knows", "epoch", "x")
