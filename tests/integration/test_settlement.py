"""What follows after a booking was accepted goes on whoever waits for it, or has stopped waiting."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from ledger_lab import Lab
from shops import Shop, claim, open_shops

from engine.bookings import BookingDetails
from engine.events import SellableEvent
from engine.ids import BookingId
from engine.keys import partition_key
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
    again = await shop.reservations.hold(event.event.id, claim(section="stalls", seats=["A-1"]), customer_id="ben")
    assert again.hold.items[0].seats == ("A-1",)
