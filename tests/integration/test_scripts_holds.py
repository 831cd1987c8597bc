"""Holding places: what is taken, what is refused and why, alone and in groups; lapsed holds are in nobody's way."""

from collections.abc import Callable
from typing import Any

import pytest
from invariants import StoredState, assert_consistent
from script_runner import FROZEN_MS, ONCE_TTL_MS, PARTITIONS, TTL_MS, Runner, Venue, hold_together, new_id


@pytest.fixture
def runner(redis_url: str) -> Runner:
    return Runner(redis_url)


def consistent(venue: Venue) -> StoredState:
    return assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


# --- what a hold takes, and what is refused --------------------------------------------------------------------------


def test_hold_takes_counts_seats_and_best_in_one_step(runner: Runner) -> None:
    venue = Venue(runner)
    assert venue.hold("0:1;0*2;1#0,3;1?2") == [
        "HELD",
        [2, FROZEN_MS, FROZEN_MS + TTL_MS, "0:1;0*2;1#0,3;1#1,2"],
    ]
    assert (venue.counts(0), venue.counts(1)) == ((8, 2, 0), (16, 4, 0))
    assert consistent(venue).users == {"ana": 6}


def test_refusal_names_every_missing_place_and_tells_held_from_sold(runner: Runner) -> None:
    venue = Venue(runner)
    venue.booked("0:1;0*7;1#1", owner="bea")
    venue.held("0:1;0*1;1#2,3", owner="cem", ttl_ms=9_000)
    with runner.writes_nothing():
        reply = venue.hold("0:1;0*4;1#0,1,2,3")
    # Of the two floor places that lack, one is only held; of the three seats, two are.
    assert reply == ["UNAVAILABLE", 3, 2, FROZEN_MS + 9_000, [1, "1#1", "1#2", "1#3", "0*4:2"]]


def test_refused_wish_says_how_many_seats_are_free_on_all_legs(runner: Runner) -> None:
    rows = {"id": "car", "price": 1, "rows": [{"id": "1", "seats": "1-3"}]}
    venue = Venue(runner, rows, stops=["A", "B", "C"])
    venue.booked("0:1;0#0", owner="bea")
    venue.booked("1:2;0#1", owner="bea")
    assert venue.hold("0:2;0?2") == ["UNAVAILABLE", 0, 1, 0, [1, "0*2:1"]]  # two are free on each leg, but not the same
    assert venue.hold("0:1;0?2")[1][3] == "0:1;0#1,2"


def test_next_release_is_zero_when_nothing_is_held(runner: Runner) -> None:
    venue = Venue(runner)
    venue.booked("0:1;0*10", owner="bea")
    assert venue.hold("0:1;0*1") == ["UNAVAILABLE", 0, 1, 0, [1, "0*1:0"]]


def test_same_call_again_holds_once(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id = new_id()
    first = venue.hold("0:1;0*2;1?2", hold_id=hold_id)
    venue.advance(1)
    with runner.writes_nothing():
        assert venue.hold("0:1;0*2;1?2", hold_id=hold_id) == first


def test_seat_is_sold_for_each_leg_on_its_own(runner: Runner) -> None:
    car = {"id": "car", "price": 1, "rows": [{"id": "1", "seats": "1-2"}]}
    venue = Venue(runner, car, stops=["A", "B", "C"])
    venue.booked("0:1;0#0")
    venue.held("1:2;0#0", owner="bea")
    assert [venue.counts(0, leg) for leg in (0, 1)] == [(1, 0, 1), (1, 1, 0)]
    assert venue.hold("0:2;0#0,1", owner="cem") == ["UNAVAILABLE", 0, 1, FROZEN_MS + TTL_MS, [1, "0#0"]]
    consistent(venue)


def test_counted_places_are_counted_on_every_leg(runner: Runner) -> None:
    venue = Venue(runner, {"id": "car", "price": 1, "capacity": 3}, stops=["A", "B", "C", "D"])
    venue.held("0:2;0*2")
    venue.held("1:3;0*1")
    assert venue.hold("0:3;0*1") == ["UNAVAILABLE", 1, 0, FROZEN_MS + TTL_MS, [1, "0*1:0"]]
    venue.held("2:3;0*2")
    consistent(venue)


@pytest.mark.parametrize("legs", [63, 64, 127, 199])
def test_stretch_of_many_legs_is_taken_and_freed_whole(runner: Runner, legs: int) -> None:
    car = {"id": "car", "price": 1, "rows": [{"id": "1", "seats": "1-3"}]}
    venue = Venue(runner, car, {"id": "bar", "price": 1, "capacity": 9}, stops=[f"S{n}" for n in range(legs + 1)])
    hold_id = venue.held(f"1:{legs};0#1,2;1*2")
    consistent(venue)
    assert venue.hold(f"{legs - 1}:{legs};0#1", owner="bea")[0] == "UNAVAILABLE"
    assert venue.hold("0:1;0#1", owner="bea")[0] == "HELD"
    assert venue.hold(f"0:{legs};0#0,2", owner="cem") == ["UNAVAILABLE", 1, 0, FROZEN_MS + TTL_MS, [1, "0#2"]]
    assert venue.confirm(hold_id)[0] == "CONFIRMED"
    consistent(venue)
    venue.unbook(hold_id)
    assert len(consistent(venue).held) == 1


def test_hold_of_the_most_places_there_may_be_is_one_step(runner: Runner) -> None:
    rows = [{"id": f"R{n}", "seats": "1-100"} for n in range(6)]
    stops = [f"S{n}" for n in range(200)]
    policy = {"max_places_per_hold": 500, "max_places_per_customer": 1000}
    venue = Venue(runner, {"id": "car", "price": 1, "rows": rows}, stops=stops, policy=policy)
    hold_id = venue.held("0:199;0#" + ",".join(map(str, range(500))))  # 2 000 operations of BITFIELD
    assert venue.hold("198:199;0#" + ",".join(map(str, range(500))), owner="bea")[1] == 500
    consistent(venue)
    assert venue.release(hold_id)[0] == "RELEASED"
    assert consistent(venue).held == set()


# --- limits and the end of sale --------------------------------------------------------------------------------------


def test_limit_per_hold_counts_all_items(runner: Runner) -> None:
    venue = Venue(runner, policy={"max_places_per_hold": 4})
    assert venue.hold("0:1;0*2;1#0;1?2") == ["LIMIT", 1, "max_places_per_hold", 4]
    venue.held("0:1;0*2;1#0;1?1")


def test_limit_per_customer_counts_holds_and_bookings(runner: Runner) -> None:
    venue = Venue(runner, policy={"max_places_per_customer": 5})
    hold_id = venue.held("0:1;0*2")
    venue.booked("0:1;1#0,1")
    assert venue.hold("0:1;0*2") == ["LIMIT", 1, "max_places_per_customer", 5]
    assert venue.book("0:1;0*2") == ["LIMIT", "max_places_per_customer", 5]
    venue.held("0:1;0*2", owner="bea")
    venue.release(hold_id)
    venue.held("0:1;0*3")
    consistent(venue)


def test_lapsed_hold_does_not_count_for_the_limit(runner: Runner) -> None:
    venue = Venue(runner, policy={"max_places_per_customer": 5})
    venue.held("0:1;0*5", ttl_ms=1_000)
    venue.advance(999)
    assert venue.hold("0:1;1#0")[0] == "LIMIT"
    venue.advance(1)
    venue.held("0:1;1?5")
    assert consistent(venue).users == {"ana": 5}


def test_nothing_is_held_after_the_end_of_sale(runner: Runner) -> None:
    venue = Venue(runner)
    venue.set_status("open", closes_ms=FROZEN_MS + 1)
    hold_id = venue.held("0:1;0*1")
    venue.advance(1)
    assert venue.hold("0:1;0*1") == ["NOT_OPEN", 1, "closed"]
    assert venue.book("0:1;0*1") == ["NOT_OPEN", "closed"]
    assert venue.confirm(hold_id)[0] == "CONFIRMED"  # what was held in time may still be paid


@pytest.mark.parametrize("status", ["closed", "cancelled"])
def test_refusal_names_the_status_of_an_event_that_is_not_open(runner: Runner, status: str) -> None:
    venue = Venue(runner)
    venue.set_status(status)
    assert venue.hold("0:1;0*1") == ["NOT_OPEN", 1, status]
    assert venue.book("0:1;0*1") == ["NOT_OPEN", status]


# --- idempotency keys ------------------------------------------------------------------------------------------------


def test_key_is_answered_as_the_first_time_even_after_the_hold_has_ended(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id = new_id()
    [_, held] = venue.hold("0:1;0*2;1?2", hold_id=hold_id, once="k")
    first = ["REPLAYED", [hold_id, *held[1:]]]
    assert venue.hold("0:1;0*2;1?2", once="k") == first
    venue.release(hold_id)
    with runner.writes_nothing():
        assert venue.hold("0:1;0*2;1?2", once="k") == first
    assert 0 < runner.redis.pttl(f"hf:{{{venue.partition}}}:once:k") <= ONCE_TTL_MS


def test_key_of_a_refused_hold_is_not_used_up(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*10", owner="bea")
    assert venue.hold("0:1;0*1", once="k")[0] == "UNAVAILABLE"
    venue.release(hold_id, owner="bea")
    assert venue.hold("0:1;0*1", once="k")[0] == "HELD"


def test_key_of_a_group_brings_every_hold_again(runner: Runner) -> None:
    venues = [Venue(runner, event_id=name, group="trip") for name in ("out", "back")]
    ids = [new_id(), new_id()]
    reply = hold_together(venues, ["0:1;0*1", "0:1;1?2"], once="k", ids=ids)
    expected = ["REPLAYED", *([hold_id, *held[1:]] for hold_id, held in zip(ids, reply[1:], strict=True))]
    assert hold_together(venues, ["0:1;0*1", "0:1;1?2"], once="k") == expected


# --- several events, all or nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_group_is_held_together(runner: Runner, count: int) -> None:
    venues = [Venue(runner, event_id=f"e{n}", group="trip") for n in range(count)]
    reply = hold_together(venues, [f"0:1;0*{n + 1};1?2" for n in range(count)])
    assert [held[3] for held in reply[1:]] == [f"0:1;0*{n + 1};1#0,1" for n in range(count)]
    for venue in venues:
        consistent(venue)


REFUSING = {
    "NOT_LOADED": lambda venue: venue.redis.delete(venue.key("state")),
    "NOT_OPEN": lambda venue: venue.set_status("closed"),
    "LIMIT": lambda venue: venue.held("0:1;0*5;1#8,9;1?3"),
    "UNAVAILABLE": lambda venue: venue.held("0:1;1#7", owner="bea"),
    "STALE_LAYOUT": lambda venue: venue.redis.hset(venue.key("state"), "layout", "sha256:new"),
}


@pytest.mark.parametrize("refusing", range(3))
@pytest.mark.parametrize("status", REFUSING)
def test_group_is_refused_whole_when_one_event_refuses(runner: Runner, status: str, refusing: int) -> None:
    policy = {"max_places_per_customer": 12}
    venues = [Venue(runner, event_id=f"e{n}", group="trip", policy=policy) for n in range(3)]
    REFUSING[status](venues[refusing])
    with runner.writes_nothing():
        reply = hold_together(venues, ["0:1;0*1;1#7,6"] * 3, once="k")
    assert reply[0] == status
    assert reply[1 if status != "UNAVAILABLE" else -1] in (refusing + 1, [refusing + 1, "1#7"])


def test_refused_group_names_what_is_missing_in_every_event(runner: Runner) -> None:
    venues = [Venue(runner, event_id=f"e{n}", group="trip") for n in range(3)]
    venues[0].held("0:1;1#3", owner="bea", ttl_ms=9_000)
    venues[2].held("0:1;0*10", owner="bea", ttl_ms=8_000)
    reply = hold_together(venues, ["0:1;1#2,3", "0:1;0*1", "0:1;0*2"])
    assert reply == ["UNAVAILABLE", 3, 0, FROZEN_MS + 8_000, [1, "1#3"], [3, "0*2:0"]]


# --- lapsed holds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", ["0:1;0*10", "0:1;1#0,19", "0:1;1?20", "0:1;0*10;1#5;1?19"])
@pytest.mark.parametrize("step", ["hold", "book"])
def test_lapsed_holds_never_block_a_sale(runner: Runner, places: str, step: str) -> None:
    policy = {"max_places_per_hold": 30, "max_places_per_customer": 30}
    venue = Venue(runner, policy=policy)
    for number in range(10):
        venue.held(f"0:1;0*1;1#{number},{19 - number}", owner=f"c{number}", ttl_ms=1_000)
    venue.advance(999)
    assert venue.hold(places)[0] == "UNAVAILABLE"
    venue.advance(1)
    reply = venue.hold(places) if step == "hold" else venue.book(places)
    assert reply[0] in ("HELD", "CONFIRMED")
    consistent(venue)


def test_reaping_restores_everything_but_the_memories_of_how_it_ended(runner: Runner) -> None:
    venue = Venue(runner, stops=["A", "B", "C"])
    venue.booked("0:2;0*1;1#4", owner="bea")
    before = runner.dump()
    for number in range(3):
        venue.held(f"{number % 2}:2;0*1;1#{5 + number},{19 - number};1?1", owner=f"c{number}", ttl_ms=1_000)
    venue.advance(1_000)
    assert venue.reap() == ["REAPED", 3, 0]
    after = runner.dump()
    assert len(after.pop(venue.key("ended"))) == 3
    assert len(after.pop(venue.partition_key("trail"))) == 1 + 3 * 2
    assert len(before.pop(venue.partition_key("trail"))) == 1
    for dump in (before, after):
        state = dump[venue.key("state")]
        del state[b"seq"], state[b"clock"]
    assert after == before


def test_reaping_ends_a_bounded_number_and_says_what_is_next(runner: Runner) -> None:
    venue = Venue(runner, {"id": "floor", "price": 1, "capacity": 200})
    for number in range(130):
        venue.held("0:1;0*1", owner=f"c{number}", ttl_ms=1_000)
    venue.held("0:1;0*1", ttl_ms=5_000)
    venue.advance(2_000)
    assert [venue.reap()[:2] for _ in range(3)] == [["REAPED", 64], ["REAPED", 64], ["REAPED", 2]]
    assert venue.reap() == ["REAPED", 0, FROZEN_MS + 5_000]
    assert venue.counts() == (199, 1, 0)
    consistent(venue)


@pytest.mark.parametrize("places", ["0:1;0*200", "0:1;1#0,149", "0:1;1?150"])
def test_more_lapsed_holds_than_one_call_ends_are_ended_by_calling_again(runner: Runner, places: str) -> None:
    seats = {"id": "stalls", "price": 1, "rows": [{"id": "A", "seats": "1-150"}]}
    policy = {"max_places_per_hold": 500, "max_places_per_customer": 500}
    venue = Venue(runner, {"id": "floor", "price": 1, "capacity": 200}, seats, policy=policy)
    for number in range(150):
        venue.held(f"0:1;0*1;1#{149 - number}", owner=f"c{number}", ttl_ms=1_000)
    venue.advance(1_000)
    reply, continued = venue.hold_on(places)
    assert reply[0] == "HELD"
    assert continued == 2  # each call ends 4, and 64 more when these stand in the way, and looks again
    consistent(venue)


@pytest.mark.parametrize(
    ("claim", "ended"),
    [
        (lambda venue: venue.hold("0:1;0*1"), 4),
        (lambda venue: venue.book("0:1;0*1"), 4),
        (lambda venue: venue.hold_many(("a", 1_000, "0:1;0*1")), 4),
        (lambda venue: venue.hold_many(*[(f"a{n}", 1_000, "0:1;0*1") for n in range(3)]), 12),
        (lambda venue: venue.hold_many(*[(f"a{n}", 1_000, "0:1;0*1") for n in range(20)]), 64),
    ],
    ids=["hold", "book", "one of many", "three of many", "twenty of many"],
)
def test_who_gets_their_places_waits_for_few_of_the_lapsed_holds(
    runner: Runner, claim: Callable[[Venue], list[Any]], ended: int
) -> None:
    """Else a crowd of lapsed holds makes each claim of a rush so slow that the next ones come before it is through."""
    venue = Venue(runner, {"id": "floor", "price": 1, "capacity": 200}, policy={"max_places_per_customer": 20})
    for number in range(70):
        venue.held("0:1;0*1", owner=f"c{number}", ttl_ms=1_000)
    venue.advance(1_000)
    reply = claim(venue)
    assert reply[0] in ("HELD", "CONFIRMED")
    assert "GENERAL" not in reply
    assert venue.reap()[1] == min(70 - ended, 64)
    consistent(venue)


def test_deadline_whose_hold_is_gone_stops_nothing(runner: Runner) -> None:
    """No script leaves one behind; if something else did, the event must go on."""
    venue = Venue(runner)
    venue.held("0:1;0*3", ttl_ms=1_000)
    venue.redis.zadd(venue.key("expiries"), {"ghost": FROZEN_MS + 500})
    venue.advance(1_000)
    assert venue.hold("0:1;0*10")[0] == "HELD"
    consistent(venue)


def test_snapshot_does_not_count_lapsed_holds(runner: Runner) -> None:
    venue = Venue(runner)
    venue.held("0:1;0*3;1#0", ttl_ms=1_000)
    venue.held("0:1;0*1;1#9", ttl_ms=5_000)
    venue.advance(1_000)
    _, seq, epoch, status, next_release_ms, _, pairs, held, sold = venue.snapshot(cells=True)
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    assert (epoch, status, next_release_ms) == ("1", "open", FROZEN_MS + 5_000)
    assert (fields["free:0:0"], fields["held:0:0"], fields["seq"]) == ("9", "1", str(seq))
    assert (held.encode(errors="surrogateescape"), sold) == (b"\x00\x40\x00", "\x00\x00\x00")
