"""Changes that are cut short, refused by the ledger, or overtaken: in the end it is the old booking or the new one."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from drift_scene import Scene, claim

from engine import place_changes
from engine.bookings import Booking
from engine.claim_requests import Held
from engine.errors import LedgerUnavailable, LimitExceeded, PlacesUnavailable
from engine.ids import parse_claim_id
from engine.lifecycle import Actor
from engine.places import Places
from engine.price_changes import Priced, price_of
from persistence import place_desk
from persistence.booking_desk import Order
from persistence.database import driver_connection
from persistence.place_desk import PlaceWish

pytest_plugins = ("drift_fixtures",)

LAPSE_MS = 40
BEN = Actor("ben", "customer")
ORDER = Order(admit=lambda _: BEN)


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


def wish(*seats: str, floor: int = 0) -> PlaceWish:
    return PlaceWish(items=claim(*seats, floor=floor).items)


async def change(scene: Scene, *seats: str, floor: int = 0) -> Booking:
    """Give Ben's booking, which has B-1 and three places on the floor, these instead."""
    now = dt.datetime.now(dt.UTC)
    return (await scene.parts.places.change(scene.booking_id, ORDER, wish(*seats, floor=floor), now=now)).booking


async def places_of(scene: Scene) -> tuple[str, str]:
    """What the booking has: in Redis, and in the ledger."""
    key = parse_claim_id(scene.booking_id)
    assert key is not None
    record = scene.redis.hget(scene.key("bookings"), key.key)
    assert isinstance(record, bytes)
    rows = await scene.parts.bookings.find_booking(scene.booking_id)  # type: ignore[arg-type]
    assert rows is not None
    texts = [",".join(item.seats) if item.seats else f"{item.quantity}" for item in rows.items]
    return record.decode().split("|")[5], " ".join(texts)


def die_before_the_ledger(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(*_: Any) -> Priced:
        raise Killed

    monkeypatch.setattr(scene.parts.places, "_price", die)


def die_before_redis_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(place_changes.PlaceChanges, "apply", die)


def before_the_ledger(scene: Scene, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[object]]) -> None:
    """Have *act* happen once, when the new places are held and the ledger has not been asked."""
    pending = [act]

    async def price(event: Any, places: Places, customer_id: str) -> Priced:
        if pending:
            await pending.pop()()
        return await price_of(event, places, customer_id)

    monkeypatch.setattr(scene.parts.places, "_price", price)


async def lapse(scene: Scene) -> None:
    await asyncio.sleep(2 * LAPSE_MS / 1000)
    await scene.parts.kernel.run("reap_event", scene.event, [])


OLD = ("0:2;1#10;0*3", "B-1 3")
NEW = ("0:2;1#10,11;0*1", "B-1,B-2 1")


async def test_process_that_dies_before_the_ledger_is_asked_leaves_the_old_booking(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_changes, "RESERVED_MS", LAPSE_MS)
    die_before_the_ledger(scene, monkeypatch)
    with pytest.raises(Killed):
        await change(scene, "B-1", "B-2", floor=1)

    assert len((await scene.assert_whole()).holds) == 2
    await lapse(scene)
    assert len((await scene.assert_whole()).holds) == 1
    assert await places_of(scene) == OLD
    monkeypatch.setattr(scene.parts.places, "_price", price_of)
    await change(scene, "B-1", "B-2", floor=1)
    assert await places_of(scene) == NEW
    await scene.assert_whole()


async def test_process_that_dies_before_redis_hears_leaves_the_new_booking_to_the_audit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_before_redis_hears(monkeypatch)
    with pytest.raises(Killed):
        await change(scene, "B-1", "B-2", floor=1)
    assert await scene.kinds() == {"booking_differs": 1}

    await scene.repair()

    assert await places_of(scene) == NEW
    assert len((await scene.assert_whole()).holds) == 1


@pytest.mark.parametrize("taken", ["held", "booked", "cancelled"])
async def test_audit_gives_the_booking_what_the_ledger_says_whatever_has_happened_since(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    monkeypatch.setattr(place_changes, "RESERVED_MS", LAPSE_MS)
    die_before_redis_hears(monkeypatch)
    with pytest.raises(Killed):
        await change(scene, "B-1", "B-2", floor=1)
    await lapse(scene)
    if taken == "held":
        await scene.parts.reservations.hold(scene.id, claim("B-2"), customer_id="eve")
    elif taken == "booked":
        with pytest.raises(PlacesUnavailable):  # the ledger has it
            await scene.book("B-2", customer_id="eve")
    else:
        now = dt.datetime.now(dt.UTC)
        definition = scene.event.definition
        await scene.parts.desk.cancel(scene.booking_id, ORDER, event=definition, reason=None, now=now)

    await scene.repair()

    stored = await scene.assert_whole()
    assert len(stored.holds) == 1
    if taken == "cancelled":
        assert not stored.bookings
    else:
        assert await places_of(scene) == NEW


async def test_apply_that_comes_after_the_audit_changes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = place_changes.PlaceChanges.apply

    async def late(self: Any, event: Any, reserved: Any) -> None:
        await scene.repair()
        await apply(self, event, reserved)
        await apply(self, event, reserved)

    monkeypatch.setattr(place_changes.PlaceChanges, "apply", late)
    await change(scene, "B-1", "B-2", floor=1)
    assert await places_of(scene) == NEW
    await scene.assert_whole()


async def test_apply_sent_twice_applies_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = place_changes.PlaceChanges.apply

    async def twice(self: Any, event: Any, reserved: Any) -> None:
        await apply(self, event, reserved)
        await apply(self, event, reserved)

    monkeypatch.setattr(place_changes.PlaceChanges, "apply", twice)
    await change(scene, "B-1", "B-2", floor=1)
    assert await places_of(scene) == NEW
    await scene.assert_whole()


async def test_holds_that_lapsed_before_redis_heard_are_taken_while_they_are_free(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_changes, "RESERVED_MS", LAPSE_MS)
    before_the_ledger(scene, monkeypatch, lambda: lapse(scene))
    await change(scene, "B-1", "B-2", floor=1)
    assert await places_of(scene) == NEW
    await scene.assert_whole()


async def test_hold_that_took_a_lapsed_place_meanwhile_gives_way_to_the_ledger(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_changes, "RESERVED_MS", LAPSE_MS)

    async def interfere() -> Held:
        await lapse(scene)
        return await scene.parts.reservations.hold(scene.id, claim("B-2"), customer_id="eve")

    before_the_ledger(scene, monkeypatch, interfere)
    await change(scene, "B-1", "B-2", floor=1)
    assert await scene.kinds() == {"booking_differs": 1}
    await scene.repair()
    assert await places_of(scene) == NEW
    assert len((await scene.assert_whole()).holds) == 1


@pytest.mark.parametrize(("behind", "named"), [("0:2;1#11", "B-2"), ("0:2;0*15", "floor")])
async def test_ledger_that_has_another_booking_refuses_and_nothing_stays_held(
    scene: Scene, behind: str, named: str
) -> None:
    await scene.book_behind_redis(behind)
    with pytest.raises(PlacesUnavailable) as refused:
        await change(scene, "B-1", "B-2", floor=6)
    assert {place.seat or place.section for place in refused.value.unavailable} == {named}
    assert await places_of(scene) == OLD
    async with asyncio.timeout(10.0):  # by itself, so that nobody else is refused the same
        while await scene.kinds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    stored = await scene.assert_whole()
    assert (len(stored.holds), len(stored.bookings)) == (1, 2)


async def test_event_built_anew_before_the_ledger_is_asked_begins_the_change_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_the_ledger(scene, monkeypatch, lambda: scene.parts.loader.rebuild(scene.id, seen_epoch=1))
    await change(scene, "B-1", "B-2", floor=1)
    assert await places_of(scene) == NEW
    assert not (await scene.assert_whole()).holds


async def test_event_built_anew_before_redis_hears_has_the_new_places(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = place_changes.PlaceChanges.apply

    async def late(self: Any, event: Any, reserved: Any) -> None:
        await scene.parts.loader.rebuild(scene.id, seen_epoch=1)
        await apply(self, event, reserved)

    monkeypatch.setattr(place_changes.PlaceChanges, "apply", late)
    await change(scene, "B-1", "B-2", floor=1)
    assert await places_of(scene) == NEW
    await scene.assert_whole()


async def test_another_server_is_audited_before_it_changes_anything(scene: Scene) -> None:
    scene.redis.hset(scene.key("state"), "audited", "another")
    await change(scene, "B-1", "B-2", floor=1)
    assert scene.redis.hget(scene.key("state"), "audited") != b"another"
    assert await places_of(scene) == NEW
    await scene.assert_whole()


@pytest.mark.parametrize("was_done", [True, False])
async def test_ledger_whose_answer_was_lost_is_asked_what_became_of_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, was_done: bool
) -> None:
    calls = []

    async def deaf(engine: Any, work: Any) -> Any:
        calls.append(work)
        if len(calls) == 1:
            if was_done:
                await in_transaction(engine, work)
            raise LedgerUnavailable("the answer was lost")
        return await in_transaction(engine, work)

    in_transaction = place_desk.in_transaction
    monkeypatch.setattr(place_desk, "in_transaction", deaf)
    if was_done:
        await change(scene, "B-1", "B-2", floor=1)
        assert await places_of(scene) == NEW
    else:
        with pytest.raises(LedgerUnavailable):
            await change(scene, "B-1", "B-2", floor=1)
        assert await places_of(scene) == OLD
    assert len((await scene.assert_whole()).holds) == 1


async def test_booking_cancelled_before_redis_hears_of_its_change_owns_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = place_changes.PlaceChanges.apply

    async def late(self: Any, event: Any, reserved: Any) -> None:
        now = dt.datetime.now(dt.UTC)
        await scene.parts.desk.cancel(scene.booking_id, ORDER, event=event.definition, reason=None, now=now)
        await apply(self, event, reserved)

    monkeypatch.setattr(place_changes.PlaceChanges, "apply", late)
    await change(scene, "B-1", "B-2", floor=1)
    stored = await scene.assert_whole()
    assert (stored.bookings, len(stored.holds)) == ({}, 1)


async def test_entry_that_is_drained_after_the_change_disturbs_nothing(scene: Scene) -> None:
    async with driver_connection(scene.parts.database) as connection:
        sealed = await connection.fetchval("SELECT sealed FROM bookings WHERE event_id = $1", scene.id)
    key = parse_claim_id(scene.booking_id)
    assert key is not None
    entry = {"event": scene.id, "epoch": "1", "booking": key.key, "owner": "ben", "places": OLD[0], "details": sealed}
    entry |= {"created": "1800000000000", "confirmed": "1800000000000", "once": "", "body": ""}
    await change(scene, "B-1", "B-2", floor=1)

    scene.redis.xadd(scene.journal, entry)  # as if its process had died before it took it out
    await scene.parts.drainer.drain_now(scene.partition)

    assert scene.redis.xlen(scene.journal) == 0
    assert await places_of(scene) == NEW
    await scene.assert_whole()


async def test_holds_of_the_receiver_that_have_lapsed_are_in_no_transfer_s_way(scene: Scene) -> None:
    seats = claim(*(f"A-{number}" for number in range(3, 11)), floor=2)
    for wanted in (seats, claim(floor=10)):
        await scene.parts.reservations.hold(scene.id, msgspec.structs.replace(wanted, ttl=1), customer_id="zoe")
    with pytest.raises(LimitExceeded):
        await scene.parts.places.transfer(scene.booking_id, ORDER, "zoe")
    await asyncio.sleep(1.1)  # nobody has swept

    await scene.parts.places.transfer(scene.booking_id, ORDER, "zoe")

    assert (await scene.assert_whole()).users == {"ana": 4, "zoe": 4}


async def test_transfer_that_dies_before_the_ledger_is_asked_is_taken_back_by_the_audit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: Any) -> Any:
        raise Killed

    monkeypatch.setattr(scene.parts.places, "_decide", die)
    with pytest.raises(Killed):
        await scene.parts.places.transfer(scene.booking_id, ORDER, "eve")
    assert await scene.kinds() == {"booking_differs": 1}
    await scene.repair()
    assert (await scene.assert_whole()).users == {"ana": 4, "ben": 4}
