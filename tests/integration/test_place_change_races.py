"""Changes against changes, buyers and cancellations, from several processes: nobody loses what they had."""

import datetime as dt
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from invariants import StoredState, assert_consistent
from ledger_lab import Lab
from script_runner import PARTITIONS
from shops import Shop, at_once, claim, open_shops
from stores import on_both_stores, open_client

from engine.bookings import BookingDetails
from engine.claims import ItemRequest
from engine.definition import Policy
from engine.errors import HoldRefusal, InvalidTransition, PlacesUnavailable, StoreUnavailable, Unavailable
from engine.events import SellableEvent
from engine.lifecycle import Actor
from persistence.audit import audit_events
from persistence.booking_desk import Order, Stepped
from persistence.place_desk import PlaceWish

pytest_plugins = ["ledger_fixtures"]
pytestmark = on_both_stores

SHOPS = 3
SWAPS = 200
BOOKINGS = 12
SEED = 20260
LABELS = [f"{row}-{number}" for row in "AB" for number in range(1, 11)]
STOPS = ["A", "B", "C", "D"]
LIMITLESS = Policy(max_places_per_customer=1_000)


@pytest.fixture
async def shops(redis_url: str, lab: Lab) -> AsyncIterator[list[Shop]]:
    async with open_shops(redis_url, lab, SHOPS) as opened:
        yield opened


def order(customer_id: str) -> Order:
    return Order(admit=lambda _: Actor(customer_id, "customer"))


def seats(*labels: str) -> PlaceWish:
    return PlaceWish(items=[ItemRequest("stalls", seats=list(labels))])


async def book(shop: Shop, event: SellableEvent, customer_id: str, **fields: Any) -> str:
    booked = await shop.reservations.book(event.event.id, claim(**fields), BookingDetails(), customer_id=customer_id)
    return booked.booking.id


async def change(shop: Shop, booking_id: str, customer_id: str, wish: PlaceWish) -> Stepped:
    return await shop.places.change(booking_id, order(customer_id), wish, now=dt.datetime.now(dt.UTC))


async def agreed(shop: Shop, redis_url: str, event: SellableEvent) -> StoredState:
    """Redis agrees with itself and with the ledger."""
    audit = await audit_events(shop.kernel, shop.bookings, shop.catalog, [event.event.id])
    assert audit.differences == ()
    return assert_consistent(open_client(redis_url), event, partitions=PARTITIONS)


async def test_seat_that_is_wanted_by_a_change_and_by_buyers_goes_to_exactly_one(
    shops: list[Shop], lab: Lab, redis_url: str
) -> None:
    event = await lab.event(policy=LIMITLESS)
    mine = [await book(shops[0], event, f"c{n}", section="stalls", seats=[LABELS[n]]) for n in range(5)]
    for wanted in LABELS[5:10]:
        buyers = [book(shops[n % SHOPS], event, f"d{n}", section="stalls", seats=[wanted]) for n in range(5)]
        changers = [change(shops[n % SHOPS], one, f"c{n}", seats(wanted)) for n, one in enumerate(mine)]

        results = await at_once([*changers, *buyers])

        won = [result for result in results if not isinstance(result, PlacesUnavailable)]
        assert len(won) == 1, results
        assert isinstance(won[0], Stepped | str)
    stored = await agreed(shops[0], redis_url, event)
    assert {f"c{n}" for n in range(5)} <= {booking.owner for booking in stored.bookings.values()}
    assert all(booking.quantity == 1 for booking in stored.bookings.values())


async def test_change_and_cancellation_at_once_leave_nothing_taken(shops: list[Shop], lab: Lab, redis_url: str) -> None:
    event = await lab.event(policy=LIMITLESS)
    for number in range(10):
        booking_id = await book(shops[0], event, "ana", section="stalls", seats=["A-1", "A-2"])
        results: list[Any] = await at_once(
            [
                change(shops[number % SHOPS], booking_id, "ana", seats("A-2", "A-3")),
                shops[1].desk.cancel(
                    booking_id, order("ana"), event=event.definition, reason=None, now=dt.datetime.now(dt.UTC)
                ),
            ]
        )
        assert isinstance(results[0], Stepped | InvalidTransition)
        assert isinstance(results[1], Stepped)
        stored = await agreed(shops[0], redis_url, event)
        assert (stored.bookings, stored.holds, stored.sold, stored.users) == ({}, {}, set(), {})


async def test_changes_of_one_booking_at_once_are_made_one_after_another(
    shops: list[Shop], lab: Lab, redis_url: str
) -> None:
    event = await lab.event(policy=LIMITLESS)
    booking_id = await book(shops[0], event, "ana", section="stalls", seats=["A-1"])
    results: list[Any] = await at_once(
        [change(shops[n % SHOPS], booking_id, "ana", seats(LABELS[n + 1])) for n in range(4)]
    )
    made = [result for result in results if isinstance(result, Stepped)]
    assert made
    assert all(isinstance(result, Stepped | StoreUnavailable) for result in results)
    stored = await agreed(shops[0], redis_url, event)
    (booking,) = stored.bookings.values()
    last = max(made, key=lambda stepped: stepped.booking.version)
    assert (last.booking.version, booking.quantity) == (1 + len(made), 1)
    assert await shops[0].bookings.find_booking(last.booking.id) == last.booking


async def test_random_changes_among_holds_never_sell_a_place_twice_nor_lose_one(
    shops: list[Shop], lab: Lab, redis_url: str
) -> None:
    rng = random.Random(SEED)
    event = await lab.event(capacity=12, stops=STOPS, policy=LIMITLESS)
    owned = {
        await book(shops[0], event, f"c{n}", section="stalls", seats=[LABELS[n]], to="C"): f"c{n}"
        for n in range(BOOKINGS)
    }

    async def swap(number: int) -> object:
        booking_id = rng.choice(list(owned))
        return await change(shops[number % SHOPS], booking_id, owned[booking_id], random_wish(rng))

    async def hold(number: int) -> object:
        reservations = shops[number % SHOPS].reservations
        wanted = claim(section="stalls", seats=rng.sample(LABELS, 2))
        held = await reservations.hold(event.event.id, wanted, customer_id=f"h{number}")
        if rng.random() < 0.5:
            await reservations.release(held.hold.id, customer_id=f"h{number}")
            return held
        return await reservations.confirm(held.hold.id, BookingDetails(), customer_id=f"h{number}")

    made = 0
    for start in range(0, SWAPS, 20):
        results = await at_once(
            [*(swap(n) for n in range(start, start + 20)), *(hold(n) for n in range(start, start + 5))]
        )
        refused = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(one, PlacesUnavailable | HoldRefusal | Unavailable) for one in refused), refused
        made += sum(isinstance(result, Stepped) for result in results)
        stored = await agreed(shops[0], redis_url, event)
        assert set(owned) <= {f"{key}~{event.event.id}" for key in stored.bookings}
    assert made > SWAPS / 10


def random_wish(rng: random.Random) -> PlaceWish:
    """One or two seats by name, the best ones, or places on the floor; over any part of the journey."""
    first = rng.randrange(len(STOPS) - 1)
    last = rng.randrange(first + 1, len(STOPS))
    items = rng.choice(
        [
            [ItemRequest("stalls", seats=rng.sample(LABELS, rng.choice((1, 2))))],
            [ItemRequest("stalls", best=rng.choice((1, 2)))],
            [ItemRequest("floor", quantity=rng.choice((1, 2, 3)))],
            [ItemRequest("stalls", seats=rng.sample(LABELS, 1)), ItemRequest("floor", quantity=1)],
            [ItemRequest("stalls", seats=rng.sample(LABELS, 1)), ItemRequest("stalls", best=1)],
        ]
    )
    return PlaceWish(items=items, from_=STOPS[first], to=STOPS[last])
