"""Many callers, several processes, one thing to be had: whoever wins, the invariants hold and nobody is told a lie."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from invariants import StoredState, assert_consistent, cells_of
from ledger_lab import Lab
from script_runner import PARTITIONS
from shops import Shop, at_once, claim, open_shops
from stores import on_both_stores, open_client

from engine.bookings import BookingDetails
from engine.claim_requests import Booked, Held
from engine.definition import Policy
from engine.errors import HoldConfirmed, HoldRefusal, HoldReleased, LimitExceeded, PlacesUnavailable, StoreUnavailable
from engine.events import SellableEvent
from engine.ids import parse_claim_id
from engine.once import Once

pytest_plugins = ["ledger_fixtures"]
pytestmark = on_both_stores

RIVALS = 200
DETAILS = BookingDetails(guest={"name": "Ana"})
LIMITLESS = Policy(max_places_per_customer=1_000)


@pytest.fixture
async def shops(redis_url: str, lab: Lab) -> AsyncIterator[list[Shop]]:
    async with open_shops(redis_url, lab, 4) as opened:
        yield opened


class Checker:
    """What is in both stores at the end, and whether it agrees."""

    def __init__(self, redis_url: str, lab: Lab) -> None:
        self._redis = open_client(redis_url)
        self._lab = lab

    def redis_state(self, event: SellableEvent) -> StoredState:
        return assert_consistent(self._redis, event, partitions=PARTITIONS)

    async def both(self, event: SellableEvent) -> StoredState:
        """Redis is consistent and has sold exactly what the ledger has."""
        stored = self.redis_state(event)
        event_id = event.event.id
        claims = await self._lab.fetch("SELECT seat, leg, booking_id FROM claims WHERE event_id = $1", event_id)
        sold = {
            (cell, parse_claim_id(f"{key}~{event_id}").uuid)  # type: ignore[union-attr]
            for key, booking in stored.bookings.items()
            for cell in cells_of(booking.places)
        }
        assert {((row["seat"], row["leg"]), row["booking_id"]) for row in claims} == sold
        usage = await self._lab.fetch("SELECT section, leg, sold FROM usage WHERE event_id = $1", event_id)
        for row in usage:
            assert row["sold"] == int(stored.state[f"sold:{row['section']}:{row['leg']}"])
        return stored

    def flush(self) -> None:
        self._redis.flushall()


@pytest.fixture
def checker(redis_url: str, lab: Lab) -> Checker:
    return Checker(redis_url, lab)


def of_type(results: list[Any], kind: type) -> list[Any]:
    return [result for result in results if isinstance(result, kind)]


async def test_last_seat_is_held_by_exactly_one_of_many(shops: list[Shop], lab: Lab, checker: Checker) -> None:
    event = await lab.event()
    results = await at_once(
        [
            shops[n % 4].reservations.hold(event.event.id, claim(section="stalls", seats=["A-5"]), customer_id=f"c{n}")
            for n in range(RIVALS)
        ]
    )
    assert (len(of_type(results, Held)), len(of_type(results, PlacesUnavailable))) == (1, RIVALS - 1)
    stored = checker.redis_state(event)
    assert (len(stored.holds), len(stored.held)) == (1, 1)


async def test_last_seat_is_booked_by_exactly_one_of_many(shops: list[Shop], lab: Lab, checker: Checker) -> None:
    event = await lab.event()
    seat = claim(section="stalls", seats=["A-5"])
    results = await at_once(
        [shops[n % 4].reservations.book(event.event.id, seat, DETAILS, customer_id=f"c{n}") for n in range(RIVALS)]
    )
    assert (len(of_type(results, Booked)), len(of_type(results, PlacesUnavailable))) == (1, RIVALS - 1)
    assert of_type(results, Booked)[0].booking.status == "confirmed"
    await checker.both(event)
    assert (await lab.row_counts())["bookings"] == 1


async def test_last_places_of_a_counted_section_are_booked_to_the_last_and_no_further(
    shops: list[Shop], lab: Lab, checker: Checker
) -> None:
    event = await lab.event(capacity=10)
    place = claim(section="floor", quantity=1)
    results = await at_once(
        [shops[n % 4].reservations.book(event.event.id, place, DETAILS, customer_id=f"c{n}") for n in range(RIVALS)]
    )
    assert (len(of_type(results, Booked)), len(of_type(results, PlacesUnavailable))) == (10, RIVALS - 10)
    stored = await checker.both(event)
    assert stored.state["free:0:0"] == "0"


async def test_best_available_gives_every_caller_seats_of_their_own(
    shops: list[Shop], lab: Lab, checker: Checker
) -> None:
    event = await lab.event()
    pair = claim(section="stalls", best=2)
    results = await at_once(
        [shops[n % 4].reservations.hold(event.event.id, pair, customer_id=f"c{n}") for n in range(50)]
    )
    assert (len(of_type(results, Held)), len(of_type(results, PlacesUnavailable))) == (10, 40)
    seats = [item.seats for held in of_type(results, Held) for item in held.hold.items]
    assert len({seat for pair in seats for seat in pair}) == 20
    assert len(checker.redis_state(event).held) == 20


@pytest.mark.parametrize("seed", range(3))
async def test_stretches_of_a_journey_never_overlap_and_nobody_is_refused_for_nothing(
    shops: list[Shop], lab: Lab, checker: Checker, seed: int
) -> None:
    stops = [f"S{n:02d}" for n in range(12)]
    event = await lab.event(stops=stops)
    dice = random.Random(seed)
    wanted = [sorted(dice.sample(range(12), 2)) for _ in range(100)]
    results = await at_once(
        [
            shops[n % 4].reservations.hold(
                event.event.id,
                claim(section="stalls", seats=["A-5"], from_=stops[first], to=stops[last]),
                customer_id=f"c{n}",
            )
            for n, (first, last) in enumerate(wanted)
        ]
    )
    legs = [set(range(first, last)) for first, last in wanted]
    won = [legs[n] for n, result in enumerate(results) if isinstance(result, Held)]
    taken = Counter(leg for stretch in won for leg in stretch)
    assert max(taken.values()) == 1
    for n, result in enumerate(results):
        if not isinstance(result, Held):
            assert isinstance(result, PlacesUnavailable)
            assert legs[n] & taken.keys()
    assert {leg for _, leg in checker.redis_state(event).held} == taken.keys()


async def test_limit_per_customer_holds_against_a_customer_s_own_rivals(
    shops: list[Shop], lab: Lab, checker: Checker
) -> None:
    event = await lab.event(capacity=1_000)
    results = await at_once(
        [
            shops[n % 4].reservations.hold(event.event.id, claim(section="floor", quantity=1), customer_id="ana")
            for n in range(RIVALS)
        ]
    )
    assert (len(of_type(results, Held)), len(of_type(results, LimitExceeded))) == (20, RIVALS - 20)
    assert checker.redis_state(event).users == {"ana": 20}


async def test_confirm_release_and_lapse_of_one_hold_have_one_winner(
    shops: list[Shop], lab: Lab, checker: Checker
) -> None:
    event = await lab.event(policy=LIMITLESS)
    event_id = event.event.id
    winners: Counter[str] = Counter()
    dice = random.Random(1)
    for _ in range(30):
        seat = claim(section="stalls", seats=["A-5"], ttl=1)
        hold = (await shops[0].reservations.hold(event_id, seat, customer_id="ana")).hold
        deadline_ms = round(hold.expires_at.timestamp() * 1000)
        calls: list[Any] = [
            shops[1].reservations.confirm(hold.id, DETAILS, customer_id="ana"),
            shops[2].reservations.release(hold.id, customer_id="ana"),
            shops[3].kernel.event_command(event, "HSET", "state", "clock", deadline_ms),  # now it is too late
        ]
        order = dice.sample(range(3), 3)
        outcomes = await at_once([calls[n] for n in order])
        confirmed, released = (outcomes[order.index(n)] for n in (0, 1))
        with pytest.raises(HoldRefusal) as ended:
            await shops[0].reservations.find_hold(hold.id, customer_id="ana")
        end = type(ended.value)
        winners[end.__name__] += 1
        # Whoever lost was told who won; and the winner was told so.
        assert isinstance(confirmed, Booked if end is HoldConfirmed else end)
        assert released is None if end is HoldReleased else isinstance(released, end)
        if isinstance(confirmed, Booked):
            assert confirmed.booking.status == "confirmed"
            await shops[0].kernel.run("unbook_places", event, [parse_claim_id(hold.id).key.encode(), b"", b"", b""])  # type: ignore[union-attr]
            await lab.fetch("DELETE FROM claims WHERE event_id = $1", event_id)
        checker.redis_state(event)
    assert set(winners) == {"HoldConfirmed", "HoldReleased", "HoldExpired"}


async def test_two_confirmations_of_one_hold_make_one_booking(shops: list[Shop], lab: Lab, checker: Checker) -> None:
    event = await lab.event()
    for n in range(10):
        hold = (
            await shops[0].reservations.hold(
                event.event.id, claim(section="stalls", seats=[f"A-{n + 1}"]), customer_id=f"c{n}"
            )
        ).hold
        results = await at_once([shop.reservations.confirm(hold.id, DETAILS, customer_id=f"c{n}") for shop in shops])
        assert (len(of_type(results, Booked)), len(of_type(results, HoldConfirmed))) == (1, 3)
        assert of_type(results, HoldConfirmed)[0].booking_id == hold.id
    await checker.both(event)


async def test_one_request_sent_many_times_at_once_has_one_effect(
    shops: list[Shop], lab: Lab, checker: Checker
) -> None:
    event = await lab.event()
    for n in range(5):
        once = Once(scope=b"confirm-%d" % n, body=b"body")
        place = claim(section="floor", quantity=1)
        hold = (await shops[0].reservations.hold(event.event.id, place, customer_id="ana")).hold
        confirmed = await at_once(
            [shop.reservations.confirm(hold.id, DETAILS, customer_id="ana", once=once) for shop in shops * 5]
        )
        assert {result.booking.id for result in of_type(confirmed, Booked)} == {hold.id}
        assert len(of_type(confirmed, Booked)) == 20
        once = Once(scope=b"book-%d" % n, body=b"body")
        booked = await at_once(
            [shop.reservations.book(event.event.id, place, DETAILS, customer_id="ana", once=once) for shop in shops * 5]
        )
        assert len({result.booking.id for result in of_type(booked, Booked)}) == 1
        assert len(of_type(booked, Booked)) == 20
        once = Once(scope=b"hold-%d" % n, body=b"body")
        held = await at_once(
            [shop.reservations.hold(event.event.id, place, customer_id="bea", once=once) for shop in shops * 5]
        )
        assert len({result.hold.id for result in of_type(held, Held)}) == 1
        assert sorted(result.replayed for result in of_type(held, Held)) == [False] + [True] * 19
    stored = await checker.both(event)
    assert stored.state["sold:0:0"] == "10"


async def test_event_wanted_by_everybody_is_loaded_once(shops: list[Shop], lab: Lab, checker: Checker) -> None:
    event = await lab.event()
    results = await at_once(
        [
            shops[n % 4].reservations.hold(event.event.id, claim(section="floor", quantity=1), customer_id=f"c{n}")
            for n in range(100)
        ]
    )
    assert len(of_type(results, Held)) == 100
    assert await lab.value("SELECT epoch FROM events WHERE id = $1", event.event.id) == event.event.epoch + 1
    checker.redis_state(event)


async def test_redis_that_forgets_everything_in_the_middle_of_a_sale_loses_no_booking(
    shops: list[Shop], lab: Lab, checker: Checker
) -> None:
    event = await lab.event(capacity=100)
    event_id = event.event.id

    async def forget() -> None:
        for _ in range(3):
            await shops[0].reservations.hold(event_id, claim(section="floor", quantity=1), customer_id="flusher")
            checker.flush()

    results = await at_once(
        [
            *(
                shops[n % 4].reservations.book(event_id, claim(section="stalls", best=1), DETAILS, customer_id=f"c{n}")
                for n in range(60)
            ),
            *(
                shops[n % 4].reservations.book(
                    event_id, claim(section="floor", quantity=1), DETAILS, customer_id=f"c{n}"
                )
                for n in range(60)
            ),
            forget(),
        ]
    )
    # Who met two losses in a row is told to try again; the others have a booking, or know that they have none.
    assert not [r for r in results[:-1] if not isinstance(r, Booked | PlacesUnavailable | StoreUnavailable)]
    for shop in shops:
        await shop.settlement.close()
    await shops[0].reservations.hold(event_id, claim(section="floor", quantity=1), customer_id="eva")
    acknowledged = {result.booking.id for result in of_type(results, Booked) if result.booking.status == "confirmed"}
    for booking_id in acknowledged:
        assert (await shops[1].reservations.find_booking(booking_id, customer_id=None)).status == "confirmed"
    await checker.both(event)
