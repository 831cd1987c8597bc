"""The engine over the scripts: what it makes of a server that refuses, state that is not there, and late news."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import redis
from ledger_lab import GUEST, Lab
from shops import Shop, claim, open_shops

from engine.catalog import Catalog
from engine.errors import EventNotFound, EventNotOpen, HoldReleased, StoreUnavailable
from engine.events import Event
from engine.loader import EventLoader
from engine.ports import BookingColumns, LoadedEvent, LoadingTurn
from engine.reservations import Reservations
from engine.transport.errors import OutcomeUnknown
from engine.transport.wire import PackedKeys
from lua import Script
from persistence.events import Events

pytest_plugins = ["ledger_fixtures"]

FLOOR = claim(section="floor", quantity=2)


@pytest.fixture
async def shop(redis_url: str, lab: Lab) -> AsyncIterator[Shop]:
    async with open_shops(redis_url, lab, 1) as [opened]:
        yield opened


async def test_server_out_of_memory_is_unavailable_and_still_takes_places_back(
    shop: Shop, lab: Lab, redis_url: str
) -> None:
    server = redis.Redis.from_url(redis_url)
    event_id = (await lab.event()).event.id
    first, second = [
        (await shop.reservations.hold(event_id, FLOOR, customer_id=customer_id)).hold for customer_id in ("ana", "bea")
    ]
    server.config_set("maxmemory", "1")
    try:
        for refused in (
            shop.reservations.hold(event_id, FLOOR, customer_id="ana"),
            shop.reservations.book(event_id, FLOOR, GUEST, customer_id="ana"),
            shop.reservations.confirm(first.id, GUEST, customer_id="ana"),
        ):
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await refused
        await shop.reservations.release(first.id, customer_id="ana")
        [floor, _] = (await shop.reservations.availability(event_id)).sections
        assert (floor.free, floor.held) == (98, 2)
    finally:
        server.config_set("maxmemory", "0")
    assert (await shop.reservations.confirm(second.id, GUEST, customer_id="bea")).booking.status == "confirmed"
    with pytest.raises(HoldReleased):
        await shop.reservations.find_hold(first.id, customer_id="ana")


async def test_release_whose_reply_was_lost_succeeds_and_is_over_for_the_next_one(
    shop: Shop, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = (await lab.event()).event.id
    hold = (await shop.reservations.hold(event_id, FLOOR, customer_id="ana")).hold
    evalsha = shop.kernel.transport.evalsha
    lost: list[str] = []

    async def lose_the_first_reply(script: Script, keys: PackedKeys, args: Sequence[bytes]) -> object:
        reply = await evalsha(script, keys, args)
        if not lost:
            lost.append(script.name)
            raise OutcomeUnknown("connection lost")
        return reply

    monkeypatch.setattr(shop.kernel.transport, "evalsha", lose_the_first_reply)
    await shop.reservations.release(hold.id, customer_id="ana")
    assert lost == ["release_hold"]
    with pytest.raises(HoldReleased):
        await shop.reservations.release(hold.id, customer_id="ana")


CALLS: dict[str, Callable[[Reservations, str, str], Awaitable[object]]] = {
    "hold": lambda shop, event_id, _: shop.hold(event_id, FLOOR, customer_id="ana"),
    "book": lambda shop, event_id, _: shop.book(event_id, FLOOR, GUEST, customer_id="ana"),
    "availability": lambda shop, event_id, _: shop.availability(event_id),
    "find_hold": lambda shop, _, hold_id: shop.find_hold(hold_id, customer_id="ana"),
    "extend": lambda shop, _, hold_id: shop.extend(hold_id, ttl_s=9, customer_id="ana"),
    "release": lambda shop, _, hold_id: shop.release(hold_id, customer_id="ana"),
    "confirm": lambda shop, _, hold_id: shop.confirm(hold_id, GUEST, customer_id="ana"),
}


@pytest.mark.parametrize("call", CALLS)
async def test_state_that_is_gone_again_after_loading_is_unavailable(
    shop: Shop, lab: Lab, redis_url: str, call: str
) -> None:
    server = redis.Redis.from_url(redis_url)
    event_id = (await lab.event()).event.id
    hold = (await shop.reservations.hold(event_id, FLOOR, customer_id="ana")).hold

    async def load_and_lose(event_id: str) -> None:
        await shop.loader.load(event_id)
        server.flushall()

    shop.kernel.load_events_with(load_and_lose)
    server.flushall()
    with pytest.raises(StoreUnavailable):
        await CALLS[call](shop.reservations, event_id, hold.id)


@pytest.mark.parametrize("fault", ["a batch is lost", "a reply is lost"])
async def test_load_whose_batch_may_not_be_there_once_fails_and_is_begun_anew(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A batch that came twice, the second time after customers were added to, would take away what was added."""
    server = redis.Redis.from_url(redis_url)
    event_id = (await lab.event()).event.id
    for customer_id in ("ana", "bea", "ana"):
        await shop.reservations.book(event_id, FLOOR, GUEST, customer_id=customer_id)
    packed = shop.kernel.transport.packed
    sent: list[int] = []

    async def fail_at_first(wires: Sequence[bytes], *, slot: int) -> Sequence[object]:
        sent.append(len(wires))
        is_lost = fault == "a batch is lost" and len(sent) == 1
        replies = await packed(wires[1:] if is_lost else wires, slot=slot)
        if fault == "a reply is lost" and len(sent) == 1:
            raise OutcomeUnknown("connection lost")
        return replies

    monkeypatch.setattr(shop.kernel.transport, "packed", fail_at_first)
    server.flushall()
    with pytest.raises(StoreUnavailable, match="lost"):
        await shop.loader.load(event_id)
    assert len(sent) == 1
    assert await shop.loader.load(event_id)
    event = await shop.catalog.get(event_id)
    assert await shop.kernel.event_command(event, "HGETALL", "users") == [b"ana", b"4", b"bea", b"2"]
    assert await shop.kernel.event_command(event, "HLEN", "bookings") == 3


class ClosingSource:
    """The ledger's events; while one is read for loading, its organizer closes it."""

    def __init__(self, events: Events, close: Callable[[str], Awaitable[None]]) -> None:
        self._events = events
        self._close = close

    async def find_event(self, event_id: str) -> Event:
        return await self._events.find_event(event_id)

    @asynccontextmanager
    async def loading(self, event_ids: Sequence[str]) -> AsyncIterator[LoadingTurn]:
        async with self._events.loading(event_ids) as turn:
            yield _ClosingTurn(turn, self._close)


class _ClosingTurn:
    def __init__(self, turn: LoadingTurn, close: Callable[[str], Awaitable[None]]) -> None:
        self._turn = turn
        self._close = close
        self.event_ids = turn.event_ids

    async def find_events(self, event_ids: Sequence[str]) -> dict[str, Event]:
        return await self._turn.find_events(event_ids)

    async def begin(self, event_ids: Sequence[str]) -> list[LoadedEvent]:
        return [_ClosingLoad(loaded, self._close) for loaded in await self._turn.begin(event_ids)]


class _ClosingLoad:
    def __init__(self, loaded: LoadedEvent, close: Callable[[str], Awaitable[None]]) -> None:
        self._loaded = loaded
        self._close = close
        self.event = loaded.event
        self.is_small = loaded.is_small
        self.line = loaded.line

    async def bookings(self, *, page_size: int) -> AsyncGenerator[BookingColumns]:
        async for page in self._loaded.bookings(page_size=page_size):
            yield page
        await self._close(self.event.id)


async def test_event_closed_while_another_process_loads_it_is_not_sold(redis_url: str, lab: Lab) -> None:
    """The news find no state to change, and the loader has read the event before: neither may undo the other."""
    event_id = (await lab.event()).event.id
    async with open_shops(redis_url, lab, 2) as [loading, closing]:
        news: list[asyncio.Task[None]] = []

        async def close(event_id: str) -> None:
            closed = await lab.events.transition(event_id, "closed")
            news.append(asyncio.create_task(closing.reservations.publish(closed)))
            await asyncio.sleep(0.05)  # long enough for the news to find nothing

        source = ClosingSource(lab.events, close)
        await EventLoader(loading.kernel, source, Catalog(source)).load(event_id)
        await asyncio.gather(*news)
        for shop in (loading, closing):
            with pytest.raises(EventNotOpen):
                await shop.reservations.hold(event_id, FLOOR, customer_id="ana")


async def test_events_are_loaded_together_and_one_that_cannot_be_keeps_no_other_from_it(
    shop: Shop, lab: Lab, redis_url: str
) -> None:
    server = redis.Redis.from_url(redis_url)
    sold, loaded, ahead = [(await lab.event()).event.id for _ in range(3)]
    draft = (await lab.event()).event.id
    await lab.fetch("UPDATE events SET status = 'draft' WHERE id = $1", draft)
    booked = await shop.reservations.book(sold, FLOOR, GUEST, customer_id="ana")
    server.flushall()
    await shop.loader.load(loaded)
    await shop.loader.load(ahead)
    await lab.fetch("UPDATE events SET epoch = epoch - 1 WHERE id = $1", ahead)  # restored from a backup, say

    outcomes = await shop.loader.load_together([sold, loaded, ahead, draft, "nowhere"])

    assert (outcomes[sold], outcomes[loaded]) == (True, False)
    assert isinstance(outcomes[ahead], StoreUnavailable)
    assert isinstance(outcomes[draft], EventNotOpen)
    assert isinstance(outcomes["nowhere"], EventNotFound)
    assert (await shop.reservations.find_booking(booked.booking.id, customer_id="ana")).id == booked.booking.id
    assert (await shop.loader.load_together([sold, loaded])) == {sold: False, loaded: False}


async def test_event_that_somebody_else_is_loading_is_waited_for_and_holds_up_no_other(shop: Shop, lab: Lab) -> None:
    elsewhere, free = (await lab.event()).event.id, (await lab.event()).event.id
    async with lab.events.loading([elsewhere]):
        both = asyncio.create_task(shop.loader.load_together([elsewhere, free]))
        async with asyncio.timeout(5):
            assert await shop.loader.load(free)
        await asyncio.sleep(0.1)
        assert not both.done()
    assert await both == {elsewhere: True, free: True}


async def test_load_that_found_nothing_to_do_is_not_remembered_for_the_next_one(
    shop: Shop, lab: Lab, redis_url: str
) -> None:
    event_id = (await lab.event()).event.id
    assert [await shop.loader.load(event_id), await shop.loader.load(event_id)] == [True, False]
    redis.Redis.from_url(redis_url).flushall()
    assert await shop.loader.load(event_id)
