"""An event whose state was proved wrong is repaired soon, by the process that heard of it, and nobody waits."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import msgspec
import pytest

from engine.definition import EventDefinition
from engine.errors import LedgerUnavailable
from engine.events import Event, SellableEvent
from engine.layout import compile_layout
from engine.verification import Verification


def sellable(event_id: str = "gig") -> SellableEvent:
    document = {
        "id": event_id,
        "name": "A concert",
        "starts_at": "2027-05-01T19:00:00Z",
        "currency": "EUR",
        "sections": [{"id": "floor", "price": 1, "capacity": 10}],
    }
    definition, now = msgspec.convert(document, EventDefinition), dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    return SellableEvent(Event(event_id, "olga", "open", 1, 0, definition, now, now), compile_layout(definition))


class Auditor:
    """Repairs when it is let, or fails."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.failure: Exception | None = None
        self.sees_all = True
        self.turns = asyncio.Semaphore(0)

    async def audit(self, sellable: SellableEvent, *, epoch: bytes, server: bytes) -> None:
        raise AssertionError("no confirm waits here")

    async def repair(self, sellable: SellableEvent) -> bool:
        self.begun.append(sellable.event.id)
        await self.turns.acquire()
        if self.failure is not None:
            raise self.failure
        self.ended.append(sellable.event.id)
        return self.sees_all

    async def let(self, count: int) -> None:
        for _ in range(count):
            self.turns.release()
        for _ in range(10):  # turns of the loop, more than it takes
            await asyncio.sleep(0)


@pytest.fixture
def auditor() -> Auditor:
    return Auditor()


@pytest.fixture
async def verification(auditor: Auditor) -> AsyncIterator[Verification]:
    opened = Verification(auditor, wait_s=1.0, pauses_s=(0.0, 0.0))
    yield opened
    await opened.close()


async def test_what_is_suspected_during_a_repair_has_one_more_for_all(
    auditor: Auditor, verification: Verification
) -> None:
    verification.suspect(sellable())
    await auditor.let(0)
    for _ in range(3):  # of which the repair under way may have seen nothing
        verification.suspect(sellable())
    await auditor.let(5)
    assert auditor.ended == ["gig", "gig"]


async def test_events_are_repaired_independently(auditor: Auditor, verification: Verification) -> None:
    verification.suspect(sellable("one"))
    verification.suspect(sellable("two"))
    await auditor.let(2)
    assert sorted(auditor.ended) == ["one", "two"]


@pytest.mark.parametrize("failure", [LedgerUnavailable("away"), ValueError("damaged"), None])
async def test_repair_that_failed_or_could_not_see_all_is_tried_again_a_few_times(
    auditor: Auditor, verification: Verification, failure: Exception | None
) -> None:
    auditor.failure, auditor.sees_all = failure, False
    verification.suspect(sellable())
    await auditor.let(5)
    assert auditor.begun == ["gig"] * 3
    auditor.failure, auditor.sees_all = None, True
    verification.suspect(sellable())  # which it is not left out for
    await auditor.let(1)
    assert auditor.begun == ["gig"] * 4


async def test_repair_that_succeeds_at_last_is_the_last(auditor: Auditor, verification: Verification) -> None:
    auditor.failure = LedgerUnavailable("away")
    verification.suspect(sellable())
    await auditor.let(1)
    auditor.failure = None
    await auditor.let(3)
    assert (auditor.begun, auditor.ended) == (["gig", "gig"], ["gig"])


async def test_new_cause_does_not_wait_for_the_pause_after_an_older_one(auditor: Auditor) -> None:
    verification = Verification(auditor, wait_s=1.0, pauses_s=(60.0,))
    auditor.sees_all = False
    verification.suspect(sellable())
    await auditor.let(1)
    auditor.sees_all = True
    verification.suspect(sellable())
    await auditor.let(1)
    assert auditor.ended == ["gig", "gig"]
    await verification.close()


async def test_closing_gives_up_what_is_under_way(auditor: Auditor, verification: Verification) -> None:
    verification.suspect(sellable())
    await auditor.let(0)
    async with asyncio.timeout(1.0):
        await verification.close()
    await auditor.let(1)
    assert (auditor.begun, auditor.ended) == (["gig"], [])
