"""What follows after a booking was accepted goes on whoever waits for it, or has stopped waiting."""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from ledger_lab import Lab
from shops import Shop, claim, open_shops

from engine.bookings import BookingDetails
from engine.definition import Policy
from engine.errors import PlacesUnavailable
from engine.events import SellableEvent
from engine.ids import BookingId, new_claim_id
from engine.kernel import Kernel
from engine.keys import event_key, partition_key
from engine.lifecycle import Actor
from persistence.audit import audit_event
from persistence.audit_picture import Picture, take_picture
from persistence.booking_desk import Order
from persistence.database import driver_connection

pytest_plugins = ["ledger_fixtures"]


@pytest.fixture
async def shop(redis_url: str, lab: Lab) -> AsyncIterator[Shop]:
    async with open_shops(redis_url, lab, 1) as (opened,):
        yield opened


async def journal_length(redis_url: str, shop: Shop, event: SellableEvent) -> int:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        return int(await client.xlen(partition_key(shop.kernel.partition_of(event), "journal")))


async def confirm_and_leave(redis_url: str, shop: Shop, event: SellableEvent, lab: Lab) -> BookingId:
    """Confirm a hold of seat A-1, and stop waiting for it while the ledger has not written it yet."""
    held = await shop.reservations.hold(event.event.id, claim(section="stalls", seats=["A-1"]), customer_id="ana")
    async with driver_connection(lab.engine) as connection, connection.transaction():
        await connection.execute("LOCK TABLE bookings")
        confirming = asyncio.create_task(
            shop.reservations.confirm(held.hold.id, BookingDetails(notes="window"), customer_id="ana")
        )
        while not await journal_length(redis_url, shop, event):  # noqa: ASYNC110 - another connection writes it
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)  # its caller waits for the commit by now
        confirming.cancel()
        await asyncio.wait((confirming,))
    assert confirming.cancelled()
    await shop.settlement.close()
    return BookingId(held.hold.id)


async def test_booking_is_written_and_leaves_the_journal_although_its_caller_has_gone(
    redis_url: str, shop: Shop, lab: Lab
) -> None:
    event = await lab.event()

    booking_id = await confirm_and_leave(redis_url, shop, event, lab)

    booking = await lab.ledger.find_booking(booking_id)
    assert booking is not None
    assert (booking.status, booking.notes) == ("confirmed", "window")
    assert await journal_length(redis_url, shop, event) == 0


async def test_entry_that_a_new_primary_gave_the_same_id_is_not_dropped_for_the_old_one(
    redis_url: str, shop: Shop, lab: Lab
) -> None:
    """The replica that took over lacks the first booking's entry; its clock is behind, and it gives the id again."""
    event = await lab.event()
    held = await shop.reservations.hold(event.event.id, claim(section="stalls", seats=["A-1"]), customer_id="ana")
    journal = partition_key(shop.kernel.partition_of(event), "journal")
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        async with driver_connection(lab.engine) as connection, connection.transaction():
            await connection.execute("LOCK TABLE bookings")
            confirming = asyncio.create_task(
                shop.reservations.confirm(held.hold.id, BookingDetails(), customer_id="ana")
            )
            while not await client.xlen(journal):  # noqa: ASYNC110 - another connection writes it
                await asyncio.sleep(0)
            ((journal_id, fields),) = await client.xrange(journal)
            other = fields | {b"booking": new_claim_id(event.event.id).partition("~")[0].encode()}
            await client.delete(journal)
            await client.xadd(journal, other, id=journal_id)
        assert (await confirming).booking.durable
        await shop.settlement.close()

        assert await client.xrange(journal) == [(journal_id, other)]


async def test_booking_that_the_ledger_refuses_is_undone_although_its_caller_has_gone(
    redis_url: str, shop: Shop, lab: Lab
) -> None:
    event = await lab.event()
    await shop.loader.load(event.event.id)
    seat = event.layout.seat_index[1]["A-1"]
    await lab.ledger.commit(lab.entry(event, seats=(seat,), epoch=1), event)  # which Redis hears nothing of

    booking_id = await confirm_and_leave(redis_url, shop, event, lab)

    assert await lab.ledger.find_booking(booking_id) is None
    assert await journal_length(redis_url, shop, event) == 0
    with pytest.raises(PlacesUnavailable):  # neither is it sold to the next
        await shop.reservations.hold(event.event.id, claim(section="stalls", seats=["A-1"]), customer_id="ben")


async def sell_behind_the_back_of_redis(shop: Shop, event: SellableEvent, lab: Lab, **places: Any) -> None:
    """Have places sold in the ledger that are free in Redis, as after a failover that nobody has noticed."""
    await shop.loader.load(event.event.id)
    await lab.ledger.commit(lab.entry(event, epoch=1, **places), event)


async def buy(shop: Shop, event: SellableEvent, customer_id: str, **fields: Any) -> str:
    """How it ended for one customer."""
    try:
        held = await shop.reservations.hold(event.event.id, claim(**fields), customer_id=customer_id)
    except PlacesUnavailable:
        return "none left"
    try:
        await shop.reservations.confirm(held.hold.id, BookingDetails(), customer_id=customer_id)
    except PlacesUnavailable:
        return "refused"
    return "booked"


async def cancel(shop: Shop, event: SellableEvent, booking_id: str) -> None:
    order, now = Order(admit=lambda _: Actor("olga", "organizer")), dt.datetime.now(dt.UTC)
    await shop.desk.cancel(booking_id, order, event=event.event.definition, reason=None, now=now)


async def test_seat_that_redis_has_lost_disappoints_one_customer(shop: Shop, lab: Lab) -> None:
    event = await lab.event()
    await sell_behind_the_back_of_redis(shop, event, lab, seats=(event.layout.seat_index[1]["A-1"],))

    outcomes = [await buy(shop, event, f"customer-{n}", section="stalls", best=1) for n in range(12)]

    assert outcomes == ["refused", *["booked"] * 11]


async def test_counted_places_that_redis_has_lost_disappoint_no_more_customers_than_there_are(
    shop: Shop, lab: Lab
) -> None:
    event = await lab.event(capacity=10)
    await sell_behind_the_back_of_redis(shop, event, lab, count=3)

    outcomes = Counter([await buy(shop, event, f"customer-{n}", section="floor", quantity=1) for n in range(40)])

    assert outcomes["booked"] == 7
    assert 1 <= outcomes["refused"] <= 3


async def test_what_was_booked_with_a_lost_seat_comes_back_by_itself(shop: Shop, lab: Lab) -> None:
    event = await lab.event()
    await sell_behind_the_back_of_redis(shop, event, lab, seats=(event.layout.seat_index[1]["A-1"],))
    assert await buy(shop, event, "ana", section="stalls", seats=["A-1", "A-2"]) == "refused"
    assert await buy(shop, event, "ben", section="stalls", seats=["A-2"]) == "none left"

    async with asyncio.timeout(10.0):
        while await buy(shop, event, "ben", section="stalls", seats=["A-2"]) != "booked":  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    assert await buy(shop, event, "cem", section="stalls", seats=["A-1"]) == "none left"
    audit = await audit_event(shop.kernel, lab.bookings, event)
    assert (audit.exact, audit.differences) == (True, ())


async def test_what_was_booked_with_a_lost_seat_comes_back_although_others_cancel_all_the_while(
    shop: Shop, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await lab.event(policy=Policy(max_places_per_customer=1_000_000))
    await sell_behind_the_back_of_redis(shop, event, lab, seats=(event.layout.seat_index[1]["A-1"],))

    async def take_and_cancel(kernel: Kernel, sellable: SellableEvent) -> Picture:
        booked = await shop.reservations.book(
            event.event.id, claim(section="floor", quantity=1), BookingDetails(), customer_id="eve"
        )
        picture = await take_picture(kernel, sellable)
        await cancel(shop, event, booked.booking.id)
        return picture

    monkeypatch.setattr("persistence.audit_reading.take_picture", take_and_cancel)
    assert await buy(shop, event, "ana", section="stalls", seats=["A-1", "A-2"]) == "refused"
    async with asyncio.timeout(10.0):
        while await buy(shop, event, "ben", section="stalls", seats=["A-2"]) != "booked":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("lost", [{"seats": (0,)}, {"count": 2}])
async def test_lost_booking_that_comes_back_is_counted_towards_its_customers_limit(
    redis_url: str, shop: Shop, lab: Lab, lost: dict[str, Any]
) -> None:
    event = await lab.event(capacity=3, policy=Policy(max_places_per_customer=4))
    await sell_behind_the_back_of_redis(shop, event, lab, customer_id="zoe", **lost)
    again = {"section": "stalls", "seats": ["A-1"]} if "seats" in lost else {"section": "floor", "quantity": 3}
    assert await buy(shop, event, "ana", **again) == "refused"

    async with redis.asyncio.Redis.from_url(redis_url) as client:
        users = event_key(shop.kernel.partition_of(event), event.event.id, "users")
        async with asyncio.timeout(10.0):
            while await client.hgetall(users) != {b"zoe": b"2" if "count" in lost else b"1"}:
                # Something goes on all the while: totals are only compared in a quiet moment, and must be right before.
                held = await shop.reservations.hold(
                    event.event.id, claim(section="stalls", seats=["B-1"]), customer_id="eve"
                )
                await shop.reservations.release(held.hold.id, customer_id="eve")
