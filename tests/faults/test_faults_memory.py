"""Redis has no memory left: what takes more is refused before it writes anything, what gives back still works."""

from collections.abc import Callable

import pytest
from checker import check, fault
from crowd import WARM_UP, crowd_buying
from http_calls import Connection
from rig import Rig

from holdfast.compose import open_parts
from persistence.audit import audit_events

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOM = 100_000  # bytes left: some dozens of holds


async def test_nothing_is_half_written_when_memory_is_used_up_and_it_goes_on_when_there_is_more(
    rig: Rig, report: Callable[..., None]
) -> None:
    async with crowd_buying(rig, "memory") as crowd:
        await crowd.until_operations(WARM_UP)
        hold = await _hold(rig, next(iter(crowd.events)))
        with fault() as window:
            rig.store.call("CONFIG", "SET", "maxmemory", int(rig.store.info()["used_memory"]) + ROOM)
            refused = await crowd.until_answered("503 store-unavailable", 100)
            async with open_parts(rig.settings) as parts:  # beside the shortage: nobody has cleaned up anything
                partial = (await audit_events(parts.kernel, parts.bookings, parts.catalog, list(crowd.events))).drift
            released = await rig.ask("DELETE", f"/v1/holds/{hold}", customer="early")
            rig.store.call("CONFIG", "SET", "maxmemory", 0)
        await crowd.until_operations(WARM_UP)

    besides = f"{refused} answers 503, {partial} partial writes"
    report(5, "maxmemory reached", await check(rig, crowd, window), besides)
    assert partial == 0
    assert released.status == 204


async def _hold(rig: Rig, event_id: str) -> str:
    """A hold of somebody's who is not of the crowd."""
    body = {"items": [{"section": "floor", "quantity": 1}]}
    connection = Connection(rig.urls[0])
    answer = await connection.call("POST", f"/v1/events/{event_id}/holds", token=rig.token("early"), body=body)
    connection.close()
    assert answer.status == 201, answer
    return str(answer.json()["id"])
