"""What a process keeps of events: one check for all who wait, one answer for all who want it, and a bound on both."""

import asyncio
from typing import Any

import pytest
from script_runner import sellable_event

from engine import snapshots
from engine.errors import StoreUnavailable
from engine.snapshots import Snapshots

FLOOR = {"id": "floor", "price": 1, "capacity": 9}


class Answering:
    """In the kernel's place: answers when it is let to, and notes what callers said they had."""

    def __init__(self) -> None:
        self.tag = b"1.1"
        self.fields = [b"free:0:0", b"9"]
        self.known: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def run(self, name: str, event: object, args: list[bytes]) -> list[Any]:
        assert name == "snapshot_event"
        self.known.append(args[1])
        tag = self.tag
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if args[1] == tag:
            return [b"SAME"]
        return [b"SNAPSHOT", 1, b"1", b"open", 0, tag, self.fields, *([b"", b""] if args[0] == b"1" else [])]


@pytest.fixture
def kernel() -> Answering:
    return Answering()


def watching(kernel: Any) -> Snapshots:
    return Snapshots(kernel)


async def test_a_crowd_shares_the_check_that_begins_after_the_one_under_way(kernel: Answering) -> None:
    views, event = watching(kernel), sellable_event(FLOOR)
    kernel.gate.clear()
    first = asyncio.create_task(views.look(event, with_cells=False))
    await asyncio.sleep(0.01)
    crowd = [asyncio.create_task(views.look(event, with_cells=False)) for _ in range(50)]
    await asyncio.sleep(0.01)
    kernel.tag = b"1.2"  # after the first check was made, and after all have asked
    kernel.gate.set()
    assert (await first).tag == b"1.1"
    assert {view.tag for view in await asyncio.gather(*crowd)} == {b"1.2"}
    assert len(kernel.known) == 2


async def test_a_state_is_the_same_object_until_it_changes(kernel: Answering) -> None:
    views, event = watching(kernel), sellable_event(FLOOR)
    before = await views.look(event, with_cells=False)
    assert await views.look(event, with_cells=False) is before
    kernel.tag = b"1.2"
    assert (await views.look(event, with_cells=False)).tag == b"1.2"
    assert kernel.known == [b"", b"1.1", b"1.1"]


async def test_who_waits_for_a_check_that_fails_is_told_and_the_next_one_asks_again(kernel: Answering) -> None:
    views, event = watching(kernel), sellable_event(FLOOR)
    kernel.gate.clear()
    kernel.error = StoreUnavailable("away")
    both = []
    for _ in range(2):
        both.append(asyncio.create_task(views.look(event, with_cells=False)))
        await asyncio.sleep(0.01)
    kernel.gate.set()
    assert [type(said) for said in await asyncio.gather(*both, return_exceptions=True)] == [StoreUnavailable] * 2
    assert len(kernel.known) == 1
    kernel.error = None
    assert (await views.look(event, with_cells=False)).tag == b"1.1"


async def test_who_goes_away_takes_the_check_from_nobody(kernel: Answering) -> None:
    views, event = watching(kernel), sellable_event(FLOOR)
    kernel.gate.clear()
    gone, stays = [asyncio.create_task(views.look(event, with_cells=False)) for _ in range(2)]
    await asyncio.sleep(0.01)
    gone.cancel()
    kernel.gate.set()
    assert (await stays).tag == b"1.1"


async def test_an_answer_is_made_once_and_told_by_a_digest_of_its_bytes(kernel: Answering) -> None:
    view = await watching(kernel).look(sellable_event(FLOOR), with_cells=False)
    made: list[bytes] = []

    def make(body: bytes) -> bytes:
        made.append(body)
        return body

    one, two, again = [
        view.answer(key, lambda body=body: make(body)) for key, body in (("a", b"x"), ("b", b"x"), ("a", b"y"))
    ]
    assert made == [b"x", b"x"]
    assert one.tag == two.tag == again.tag
    assert view.answer("c", lambda: b"z").tag != one.tag


async def test_what_is_kept_is_bounded_in_events_and_bytes(kernel: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "EVENTS_MAX", 2)
    monkeypatch.setattr(snapshots, "BYTES_MAX", 1_000)
    views = watching(kernel)
    events = [sellable_event(FLOOR, event_id=f"e{number}") for number in range(3)]
    for event in events:
        await views.look(event, with_cells=False)
    view = await views.look(events[0], with_cells=False)  # had to go, and is read anew
    assert kernel.known == [b"", b"", b"", b""]
    view.answer("large", lambda: b"x" * 800)  # now there is room for one
    await views.look(events[0], with_cells=False)
    await views.look(events[2], with_cells=False)
    assert kernel.known[4:] == [b"1.1", b""]
    made = [view.answer("too large", lambda: bytes(10_000)) for _ in range(2)]
    assert made[0] is not made[1]


@pytest.mark.parametrize(("room", "asks"), [(1.5, False), (3.0, True)], ids=["as fields", "as what is off sale"])
async def test_marks_of_blocks_are_weighed_by_their_length(
    kernel: Answering, monkeypatch: pytest.MonkeyPatch, room: float, asks: bool
) -> None:
    row = {"id": "stalls", "price": 1, "rows": [{"id": "A", "seats": "1-900"}]}
    mark = b"0:1;0#" + b",".join(b"%d" % seat for seat in range(900))
    kernel.fields = [b"blocked:" + b"0" * 26, mark]
    monkeypatch.setattr(snapshots, "BYTES_MAX", int(room * len(mark)))
    views, events = watching(kernel), [sellable_event(row, event_id=f"e{number}") for number in range(2)]
    for event in events:
        view = await views.look(event, with_cells=True)
        assert not asks or view.off_sale.cells == b"\xff" * 112 + b"\xf0"
    await views.look(events[1], with_cells=True)
    assert kernel.known == [b"", b"", b"1.1"]
    await views.look(events[0], with_cells=True)  # had to go
    assert kernel.known[3:] == [b""]
