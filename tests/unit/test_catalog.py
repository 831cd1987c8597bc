"""A process reads and compiles an event once, and never keeps what has been overtaken."""

import asyncio
import datetime as dt

import msgspec
import pytest

from engine.catalog import Catalog
from engine.definition import EventDefinition
from engine.errors import EventNotFound, EventNotOpen
from engine.events import Event, SellableEvent

DEFINITION = {
    "id": "concert",
    "name": "A concert",
    "starts_at": "2027-05-01T19:00:00Z",
    "currency": "EUR",
    "sections": [{"id": "floor", "price": 1, "capacity": 10}],
}


def event(**changes: object) -> Event:
    now = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    definition = msgspec.convert(DEFINITION, EventDefinition)
    made = Event("concert", "olga", "open", 1, 0, definition, now, now)
    return msgspec.structs.replace(made, **changes)


class Source:
    """A ledger with one event, which answers when it is let."""

    def __init__(self) -> None:
        self.event: Event | None = event()
        self.reads = 0
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def find_event(self, event_id: str) -> Event:
        self.reads += 1
        said = self.event
        self.was_asked.set()
        await self.may_answer.wait()
        if said is None:
            raise EventNotFound(event_id)
        return said


@pytest.fixture
def source() -> Source:
    return Source()


async def ask(catalog: Catalog, times: int) -> list[object]:
    asking = asyncio.gather(*[catalog.get("concert") for _ in range(times)], return_exceptions=True)
    await asyncio.sleep(0)
    return await asking


async def being_read(catalog: Catalog, source: Source) -> "asyncio.Task[SellableEvent]":
    asking = asyncio.create_task(catalog.get("concert"))
    await source.was_asked.wait()
    return asking


async def test_event_is_read_once_when_a_crowd_asks_for_it(source: Source) -> None:
    catalog = Catalog(source)
    source.may_answer.set()

    answers = await ask(catalog, 100)

    assert len({id(answer) for answer in answers}) == 1
    assert source.reads == 1


async def test_crowd_hears_that_there_is_no_event_and_the_next_one_asks_again(source: Source) -> None:
    catalog = Catalog(source)
    source.event = None
    source.may_answer.set()
    assert {type(answer) for answer in await ask(catalog, 10)} == {EventNotFound}

    source.event = event(status="draft")
    with pytest.raises(EventNotOpen):
        await catalog.get("concert")
    assert source.reads == 2


async def test_reading_goes_on_for_the_others_when_the_first_caller_gives_up(source: Source) -> None:
    catalog = Catalog(source)
    first, second = (asyncio.create_task(catalog.get("concert")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    source.may_answer.set()

    assert (await second).event == source.event
    assert source.reads == 1


async def test_event_read_before_it_was_forgotten_is_not_kept(source: Source) -> None:
    catalog = Catalog(source)
    early = await being_read(catalog, source)
    source.event = event(version=2)
    catalog.forget("concert")
    source.may_answer.set()

    assert (await early).event.version == 1
    assert (await catalog.get("concert")).event.version == 2


async def test_event_read_before_a_newer_one_was_kept_does_not_replace_it(source: Source) -> None:
    catalog = Catalog(source)
    early = await being_read(catalog, source)
    await catalog.keep(event(version=2))
    source.may_answer.set()
    await early

    assert (await catalog.get("concert")).event.version == 2
    assert source.reads == 1
