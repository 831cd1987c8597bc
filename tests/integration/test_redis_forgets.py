"""Redis has lost something that was promised, and the ledger still knows it: what clients are told then."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
from ledger_lab import Lab
from script_runner import PARTITIONS
from shops import Shop, claim, open_shops

import lua
from engine.bookings import BookingDetails
from engine.definition import Policy
from engine.errors import (
    BookingRefused,
    EventNotOpen,
    HoldNotFound,
    LedgerUnavailable,
    LimitExceeded,
    PlacesUnavailable,
)
from engine.events import SellableEvent
from engine.keys import event_key, partition_of
from engine.loader import EventLoader
from engine.once import Once
from persistence.loading import PostgresTurn

pytest_plugins = ["ledger_fixtures"]

DETAILS = BookingDetails(guest={"name": "Ana"})
ONCE = Once(b"a" * 32, b"b" * 32)


@pytest.fixture
async def shops(redis_url: str, lab: Lab) -> AsyncIterator[list[Shop]]:
    async with open_shops(redis_url, lab, 2) as opened:
        yield opened


@pytest.fixture
def client(redis_url: str) -> "redis.Redis":
    return redis.Redis.from_url(redis_url)


async def test_repeated_booking_gets_the_first_answer_though_the_limit_is_used_up(
    shops: list[Shop], lab: Lab, client: "redis.Redis"
) -> None:
    event = await lab.event(policy=Policy(max_places_per_customer=2))
    seats = claim(section="stalls", seats=["A-1", "A-2"])
    reservations = shops[0].reservations
    first = await reservations.book(event.event.id, seats, DETAILS, customer_id="ana", once=ONCE)
    client.flushall()

    again = await reservations.book(event.event.id, seats, DETAILS, customer_id="ana", once=ONCE)

    assert (again.booking.id, again.replayed) == (first.booking.id, True)


async def test_repeated_confirm_gets_the_first_answer_though_redis_thinks_that_the_hold_has_lapsed(
    shops: list[Shop], lab: Lab, client: "redis.Redis"
) -> None:
    event = await lab.event()
    reservations = shops[0].reservations
    seats = claim(section="stalls", seats=["A-1"], ttl=1)
    hold = (await reservations.hold(event.event.id, seats, customer_id="ana")).hold
    as_a_replica_knows_it: dict[bytes, Any] = {key: client.dump(key) for key in client.scan_iter()}
    first = await reservations.confirm(hold.id, DETAILS, customer_id="ana", once=ONCE)
    await shops[0].settlement.close()
    client.flushall()
    for key, value in as_a_replica_knows_it.items():
        client.restore(key, 0, value)
    await asyncio.sleep(1.1)

    again = await reservations.confirm(hold.id, DETAILS, customer_id="ana", once=ONCE)

    assert (again.booking.id, again.replayed) == (first.booking.id, True)


def forget_what_came_after(client: "redis.Redis", kept: dict[bytes, Any], event: SellableEvent) -> None:
    """Redis is back, as another server, without its last second."""
    client.flushall()
    for key, value in kept.items():
        client.restore(key, 0, value)
    client.hset(event_key(partition_of(event.event.id, None, PARTITIONS), event.event.id, "state"), "audited", "0" * 40)


async def test_limit_of_a_customer_is_passed_by_what_redis_has_forgotten_and_no_further(
    shops: list[Shop], lab: Lab, client: "redis.Redis"
) -> None:
    """As docs/events.md says: the one way past it. Bookings are not lost for it, nor places sold twice."""
    event = await lab.event(policy=Policy(max_places_per_customer=2))
    reservations = shops[0].reservations
    await shops[0].loader.load(event.event.id)
    kept: dict[bytes, Any] = {key: client.dump(key) for key in client.scan_iter()}
    await reservations.book(event.event.id, claim(section="stalls", seats=["A-1", "A-2"]), DETAILS, customer_id="ana")
    await shops[0].settlement.close()
    forget_what_came_after(client, kept, event)

    more = claim(section="stalls", seats=["A-3", "A-4"])
    held = await reservations.hold(event.event.id, more, customer_id="ana")
    again = await reservations.confirm(held.hold.id, DETAILS, customer_id="ana")

    assert again.booking.status == "confirmed"
    with pytest.raises(LimitExceeded):
        await reservations.hold(event.event.id, claim(section="stalls", seats=["A-5"]), customer_id="ana")


async def test_one_booking_of_a_customer_stays_one_whatever_redis_has_forgotten(
    shops: list[Shop], lab: Lab, client: "redis.Redis"
) -> None:
    event = await lab.event(policy=Policy(one_booking_per_customer=True))
    reservations = shops[0].reservations
    await shops[0].loader.load(event.event.id)
    kept: dict[bytes, Any] = {key: client.dump(key) for key in client.scan_iter()}
    await reservations.book(event.event.id, claim(section="stalls", seats=["A-1"]), DETAILS, customer_id="ana")
    await shops[0].settlement.close()
    forget_what_came_after(client, kept, event)

    held = await reservations.hold(event.event.id, claim(section="stalls", seats=["A-2"]), customer_id="ana")
    with pytest.raises(LimitExceeded):
        await reservations.confirm(held.hold.id, DETAILS, customer_id="ana")


async def test_booking_refused_for_its_epoch_is_told_as_refused_after_the_event_was_built_anew(
    shops: list[Shop], lab: Lab
) -> None:
    event = await lab.event()
    reservations = shops[0].reservations
    hold = (await reservations.hold(event.event.id, claim(section="stalls", seats=["A-1"]), customer_id="ana")).hold
    await lab.fetch("UPDATE events SET epoch = epoch + 1")
    with pytest.raises(PlacesUnavailable):
        await reservations.confirm(hold.id, DETAILS, customer_id="ana")

    await shops[0].settlement.close()  # the event is built anew behind the answer

    with pytest.raises(BookingRefused):
        await reservations.find_booking(hold.id, customer_id="ana")
    assert await shops[0].kernel.epoch_in_store(event) == 3


async def test_booking_refused_for_its_epoch_is_not_made_by_a_copy_of_its_call_that_comes_late(
    shops: list[Shop], lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await lab.event()
    transport, calls = shops[0].kernel.transport, []
    send = transport.evalsha

    async def remember(script: lua.Script, *args: Any) -> Any:
        if script.name == "book_places":
            calls.append((script, *args))
        return await send(script, *args)

    monkeypatch.setattr(transport, "evalsha", remember)
    seat = claim(section="stalls", seats=["A-1"])
    await shops[0].loader.load(event.event.id)
    await lab.fetch("UPDATE events SET epoch = epoch + 1")
    with pytest.raises(PlacesUnavailable):
        await shops[0].reservations.book(event.event.id, seat, DETAILS, customer_id="ana")
    await shops[0].settlement.close()  # the event is built anew, and would take it

    assert await send(*calls[0]) == [b"REFUSED"]

    assert await shops[0].kernel.event_command(event, "HLEN", "bookings") == 0
    again = await shops[0].reservations.book(event.event.id, seat, DETAILS, customer_id="ana")
    assert again.booking.status == "confirmed"  # whoever asks once more makes another call


async def test_event_closed_while_its_state_is_built_anew_is_closed_afterwards(
    shops: list[Shop], lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The organizer's word reaches the old state, just before the loader replaces it by what it read earlier."""
    event = await lab.event()
    seat = claim(section="stalls", seats=["A-1"])
    await shops[0].reservations.hold(event.event.id, seat, customer_id="ana")
    begin = PostgresTurn.begin

    async def begin_and_be_overtaken(turn: PostgresTurn, event_ids: Sequence[str]) -> Any:
        loaded = await begin(turn, event_ids)
        closed = await lab.events.transition(event.event.id, "closed")
        await shops[1].reservations.publish(closed)
        return loaded

    monkeypatch.setattr(PostgresTurn, "begin", begin_and_be_overtaken)
    await lab.fetch("UPDATE events SET epoch = epoch + 1")
    loader: EventLoader = shops[0].loader

    await loader.load(event.event.id)

    assert await shops[0].kernel.event_command(event, "HGET", "state", "status") == b"closed"
    with pytest.raises(EventNotOpen):
        await shops[0].reservations.hold(event.event.id, seat, customer_id="bea")


@pytest.mark.parametrize("fails", [False, True], ids=["that is finished", "that fails"])
async def test_event_that_is_opened_behind_a_rebuild_sells_nothing_before_it_is_loaded(
    shops: list[Shop], lab: Lab, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The organizer's word comes when no script may book any more, and the new epoch has not begun."""
    event = await lab.event()
    here, there = shops
    seats = [claim(section="stalls", seats=[f"A-{number}"]) for number in (1, 2, 3)]
    held = await there.reservations.hold(event.event.id, seats[0], customer_id="ana")
    begin = PostgresTurn.begin
    words: list[asyncio.Task[Any]] = []

    async def begin_and_be_overtaken(turn: PostgresTurn, event_ids: Sequence[str]) -> Any:
        monkeypatch.undo()
        for status in ("closed", "open"):
            changed = await lab.events.transition(event.event.id, status)
            words.append(asyncio.create_task(there.reservations.publish(changed)))
        await asyncio.sleep(0.1)
        words.append(asyncio.create_task(there.reservations.confirm(held.hold.id, DETAILS, customer_id="ana")))
        words.append(asyncio.create_task(there.reservations.book(event.event.id, seats[1], DETAILS, customer_id="bea")))
        words.append(asyncio.create_task(there.reservations.hold(event.event.id, seats[2], customer_id="cem")))
        await asyncio.sleep(0.1)
        if fails:
            raise LedgerUnavailable("Postgres has gone away")
        return await begin(turn, event_ids)

    monkeypatch.setattr(PostgresTurn, "begin", begin_and_be_overtaken)
    with contextlib.suppress(LedgerUnavailable):
        await here.loader.rebuild(event.event.id, seen_epoch=1)
    *published, confirmed, booked, held_anew = await asyncio.gather(*words, return_exceptions=True)

    assert published == [None, None]
    assert isinstance(confirmed, HoldNotFound)  # it has ended with the old state
    assert booked.booking.status == "confirmed"
    again = await here.reservations.confirm(held_anew.hold.id, DETAILS, customer_id="cem")
    assert again.booking.status == "confirmed"
    assert await here.kernel.epoch_in_store(event) == 2
