"""Repair of an event that several processes sell as fast as they can: damage goes, and no rightful claim with it."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from invariants import assert_consistent
from ledger_lab import STARTS_AT, Lab
from script_runner import PARTITIONS
from shops import Shop, open_shops

from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.definition import EventDefinition, Policy, RowDefinition, SectionDefinition
from engine.errors import Refusal, Unavailable
from engine.events import SellableEvent
from engine.ids import new_claim_id, parse_claim_id
from engine.keys import event_key, partition_of
from engine.layout import compile_layout
from persistence.audit import audit_event
from persistence.repair import repair_event

pytest_plugins = ("ledger_fixtures",)

SHOPS, SELLERS = 3, 6  # processes' worth of engine, and customers at once in each
SEATS = 4_000
CLAIM = ClaimRequest([ItemRequest("floor", quantity=1), ItemRequest("stalls", best=2)])


async def open_event(lab: Lab) -> SellableEvent:
    sections = [
        SectionDefinition("floor", capacity=100_000, price=1),
        SectionDefinition("stalls", rows=[RowDefinition(str(row), "1-100") for row in range(SEATS // 100)], price=1),
    ]
    policy = Policy(max_places_per_customer=1_000_000)
    draft = await lab.events.create(
        EventDefinition("Busy", STARTS_AT, "EUR", sections, id="busy", policy=policy), organizer_id="olga"
    )
    event = await lab.events.transition(draft.id, "open")
    return SellableEvent(event, compile_layout(event.definition))


class Sale:
    """Sellers that hold, and then confirm or release; ``booked`` are the bookings they were told they have."""

    def __init__(self, shops: list[Shop]) -> None:
        self.booked: list[str] = []
        self.refused = 0
        self._shops = shops

    async def sell(self, number: int) -> None:
        reservations, customer = self._shops[number % SHOPS].reservations, f"customer-{number}"
        for turn in itertools.count():
            try:
                held = await reservations.hold("busy", CLAIM, customer_id=customer)
                if turn % 3:
                    booked = await reservations.confirm(held.hold.id, BookingDetails(), customer_id=customer)
                    assert booked.booking.status == "confirmed"
                    self.booked.append(booked.booking.id)
                else:
                    await reservations.release(held.hold.id, customer_id=customer)
            except (Refusal, Unavailable):  # the damage does cost holds, and servers are busy: nobody was told 201
                self.refused += 1

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        sellers = [asyncio.create_task(self.sell(number)) for number in range(SHOPS * SELLERS)]
        try:
            yield
        finally:
            for seller in sellers:
                seller.cancel()
            ends = await asyncio.gather(*sellers, return_exceptions=True)
        assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []


class Vandal:
    """Does every kind of harm, at random places."""

    def __init__(self, client: Any, event: SellableEvent, sale: Sale) -> None:
        self._client = client
        self._partition = partition_of(event.event.id, event.definition.group, PARTITIONS)
        self._sale = sale
        self._chance = random.Random(11)

    def strike(self) -> None:
        chance = self._chance
        for bitmap in ("held", "sold"):
            for _ in range(5):
                self._client.setbit(self._key(bitmap), chance.randrange(SEATS), chance.randrange(2))
        for field in ("free:0:0", "held:1:0", "sold:0:0", "free:1:0"):
            self._client.hincrby(self._key("state"), field, chance.randint(-5, 5))
        for booking_id in chance.sample(self._sale.booked, min(3, len(self._sale.booked))):
            self._client.hdel(self._key("bookings"), _key(booking_id))
        record = f"1800000000000|1800000000000|||3|0:1;0*1;1#{chance.randrange(SEATS // 2, SEATS)},0|eve"
        self._client.hset(self._key("bookings"), _key(new_claim_id("busy")), record)

    def _key(self, name: str) -> bytes:
        return event_key(self._partition, "busy", name)


def _key(booking_id: str) -> str:
    claim = parse_claim_id(booking_id)
    assert claim is not None
    return claim.key


async def test_damage_to_an_event_on_sale_is_repaired_and_no_rightful_claim_with_it(
    redis_url: str, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.audit.SETTLE_S", 0.02)
    event = await open_event(lab)
    client = redis.Redis.from_url(redis_url)
    async with open_shops(redis_url, lab, SHOPS) as shops:
        sale = Sale(shops)
        vandal = Vandal(client, event, sale)
        repaired = 0
        async with sale.under_way():
            await asyncio.sleep(0.3)
            for _ in range(6):
                vandal.strike()
                done = await asyncio.gather(
                    *[repair_event(shop.kernel, lab.bookings, shop.loader, event) for shop in shops[:2]]
                )
                repaired += sum(len(one.repaired) for one in done)
                assert not any(one.rebuilt for one in done)
            for _ in range(5):  # a booking that lost its seat to the damage is undone when its commit is refused
                quiet = await repair_event(shops[0].kernel, lab.bookings, shops[0].loader, event)
                if not quiet.found and quiet.audit.exact:
                    break
            assert (quiet.found, quiet.audit.exact) == ((), True)
        # What a seller was confirming when it was cancelled, and nobody waited for, is in the journal by then.
        for shop in shops:
            await shop.kernel.epoch_in_store(event)
        await shops[0].drainer.drain_now(shops[0].kernel.partition_of(event))
        for shop in shops:
            await shop.settlement.close()
        # The last repair may have come before the last loser was undone, and customers' totals wait for a quiet moment.
        last = await repair_event(shops[0].kernel, lab.bookings, shops[0].loader, event)
        assert last.unresolved == ()
        audit = await audit_event(shops[0].kernel, lab.bookings, event)
        assert (audit.differences, audit.exact, audit.steady) == ((), True, True)
        stored = assert_consistent(client, event, partitions=PARTITIONS)

    assert repaired > 50
    assert len(sale.booked) > 100
    assert {_key(booking_id) for booking_id in sale.booked} <= stored.bookings.keys()
    rows = await lab.fetch("SELECT count(*) FROM bookings WHERE status = 'confirmed'")
    assert rows[0][0] == len(stored.bookings) >= len(sale.booked)
    claims = await lab.fetch("SELECT count(*), count(DISTINCT booking_id) FROM claims")
    assert tuple(claims[0]) == (2 * len(stored.bookings), len(stored.bookings))
