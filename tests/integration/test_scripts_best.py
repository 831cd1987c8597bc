"""Best available: what is chosen, compared with the plain rule; and that a search comes to an end in any venue."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invariants import StoredState, assert_best_choice, assert_consistent, cells_of, free_runs
from script_runner import PARTITIONS, Runner, Venue, new_id

from engine.places import parse_places

POLICY = {"max_places_per_hold": 500, "max_places_per_customer": 100_000}


@pytest.fixture
def runner(redis_url: str) -> Runner:
    return Runner(redis_url)


def consistent(venue: Venue) -> StoredState:
    return assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def rows_of(*lengths: int, **members: Any) -> dict[str, Any]:
    """A section of rows of these lengths."""
    rows = [{"id": f"R{number}", "seats": f"1-{length}"} for number, length in enumerate(lengths)]
    return {"id": "stalls", "price": 1, "rows": rows} | members


def venue_of(runner: Runner, *sections: dict[str, Any], orphans: str = "allow", **members: Any) -> Venue:
    return Venue(runner, *sections, policy=POLICY | {"orphan_seats": orphans}, **members)


def chosen(reply: list[Any]) -> list[int]:
    assert reply[0] == "HELD", reply
    return sorted({seat for seat, _ in cells_of(parse_places(reply[1][3]))})


def sell(venue: Venue, seats: Sequence[int], legs: str = "0:1", section: int = 0) -> None:
    for start in range(0, len(seats), 500):
        batch = seats[start : start + 500]
        venue.booked(f"{legs};{section}#{','.join(map(str, batch))}", owner="bea")


# --- by example ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sold", "wanted", "expected"),
    [
        ([], 3, [0, 1, 2]),
        ([1], 3, [2, 3, 4]),
        ([1, 4], 3, [6, 7, 8]),  # seats 2 and 3 are too few, and 5 has the end of its row beside it
        ([2], 8, list(range(6, 14))),
        ([0, 2, 4, 7, 9, 11], 2, [12, 13]),
        ([0, 2, 4, 7, 9, 11, 13], 3, [14, 15, 16]),
    ],
)
def test_first_stretch_of_the_definition_is_taken(
    runner: Runner, sold: list[int], wanted: int, expected: list[int]
) -> None:
    venue = venue_of(runner, rows_of(6, 8, 6))
    sell(venue, sold)
    assert chosen(venue.hold(f"0:1;0?{wanted}")) == expected


def test_neighbours_never_sit_across_an_aisle(runner: Runner) -> None:
    row = {"id": "A", "seats": "1-8", "aisles_after": ["3"]}
    venue = venue_of(runner, {"id": "stalls", "price": 1, "rows": [row]})
    assert chosen(venue.hold("0:1;0?4")) == [3, 4, 5, 6]
    assert chosen(venue.hold("0:1;0?3")) == [0, 1, 2]


def test_wish_stays_in_its_section(runner: Runner) -> None:
    venue = venue_of(runner, rows_of(3, 3), rows_of(9) | {"id": "circle"})
    assert chosen(venue.hold("0:1;0?4")) == [0, 1, 2, 3]  # two rows rather than the circle's nine
    assert chosen(venue.hold("0:1;1?4")) == [6, 7, 8, 9]


def test_single_seat_is_not_left_behind_where_another_choice_exists(runner: Runner) -> None:
    venue = venue_of(runner, rows_of(3, 2, 5), orphans="avoid")
    assert chosen(venue.hold("0:1;0?2")) == [3, 4]
    assert chosen(venue.hold("0:1;0?2")) == [5, 6]
    assert chosen(venue.hold("0:1;0?2")) == [0, 1]  # both stretches left have three: nothing better exists
    consistent(venue)


def test_seats_named_in_the_same_request_are_not_chosen_again(runner: Runner) -> None:
    venue = venue_of(runner, rows_of(4, 4))
    assert venue.hold("0:1;0#1,5;0?3")[0] == "HELD"
    assert venue.counts() == (3, 5, 0)
    consistent(venue)


def test_wish_beside_named_seats_is_refused_when_they_take_what_it_needs(runner: Runner) -> None:
    venue = venue_of(runner, rows_of(3))
    assert venue.hold("0:1;0#1;0?3") == ["UNAVAILABLE", 0, 1, 0, [1, "0*3:2"]]


# --- against the plain rule ------------------------------------------------------------------------------------------


@st.composite
def venues(draw: st.DrawFn) -> dict[str, Any]:
    rows = []
    for number in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 24))
        aisles = draw(st.lists(st.integers(1, length).map(str), max_size=2, unique=True))
        rows.append({"id": f"R{number}", "seats": f"1-{length}", "aisles_after": aisles})
    return {"id": "stalls", "price": 1, "rows": rows}


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    section=venues(),
    orphans=st.sampled_from(["allow", "avoid"]),
    legs=st.sampled_from([1, 1, 3]),
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 8),
)
def test_choice_is_the_plain_rules_and_the_index_never_hides_a_seat(
    runner: Runner, section: dict[str, Any], orphans: str, legs: int, seed: int, steps: int
) -> None:
    """Hold, release, sell and undo at random; before every wish the rule is worked out from the records alone."""
    runner.redis.flushall()
    stops = None if legs == 1 else [f"S{n}" for n in range(legs + 1)]
    venue = venue_of(runner, section, orphans=orphans, stops=stops)
    dice = random.Random(seed)
    live: list[str] = []
    stored = consistent(venue)
    for _ in range(steps):
        first = dice.randrange(legs)
        last = dice.randint(first + 1, legs)
        runs = free_runs(venue.layout, stored.held | stored.sold, range(first, last))
        free = [seat for run in runs for seat in run]
        if free and dice.random() < 0.4:  # scatter some
            some = dice.sample(free, dice.randint(1, max(1, len(free) // 3)))
            live.append(venue.held(f"{first}:{last};0#{','.join(map(str, some))}"))
        elif live and dice.random() < 0.4:
            claim = live.pop(dice.randrange(len(live)))
            if dice.random() < 0.5:
                venue.confirm(claim)
                venue.unbook(claim)
            else:
                venue.release(claim)
        else:
            wanted = dice.randint(1, max(1, min(40, len(free) + 1)))
            reply = venue.hold(f"{first}:{last};0?{wanted}")
            if wanted > len(free):
                assert reply[0] == "UNAVAILABLE"
                assert reply[4] == [1, f"0*{wanted}:{len(free)}"]
            else:
                got = chosen(reply)
                assert_best_choice(runs, wanted, got, avoids_orphans=orphans == "avoid")
                live.append(newest_hold(venue))
        stored = consistent(venue)


def newest_hold(venue: Venue) -> str:
    """The id of the newest hold."""
    return max(bytes(key).decode() for key in venue.redis.hkeys(venue.key("holds")))  # type: ignore[arg-type]


# --- large venues: the search is cut at a bound, and goes on ---------------------------------------------------------


def sold_out_but(venue: Venue, free: set[int]) -> None:
    """Every seat is sold but these, as the loader would put it: the index still believes that all is free."""
    seats = [seat for seat in range(len(venue.layout.seats)) if seat not in free]
    bookings = [
        (new_id(), "0:1;0#" + ",".join(map(str, seats[start : start + 400])), "bea")
        for start in range(0, len(seats), 400)
    ]
    venue.load(epoch=2, bookings=bookings)


def test_search_gets_further_with_every_call_until_it_finds_the_last_seats(runner: Runner) -> None:
    venue = venue_of(runner, rows_of(*[4] * 2000))
    sold_out_but(venue, {7998, 7999})
    reply, continued = venue.hold_on("0:1;0?2")
    assert (chosen(reply), continued) == ([7998, 7999], 3)
    venue.release(newest_hold(venue))
    reply, continued = venue.hold_on("0:1;0?2")
    assert (chosen(reply), continued) == ([7998, 7999], 0)  # every wrong bit is paid for once


@pytest.mark.parametrize("wanted", [2, 100, 257, 400, 500])
def test_wish_for_scattered_single_seats_comes_to_an_end(runner: Runner, wanted: int) -> None:
    venue = venue_of(runner, rows_of(*[3] * 1200))
    sold_out_but(venue, set(range(1, 3600, 3)))
    reply, _ = venue.hold_on(f"0:1;0?{wanted}")
    assert len(chosen(reply)) == wanted
    consistent(venue)


@pytest.mark.parametrize("wanted", [17, 21, 40, 100, 500])
def test_wish_longer_than_any_row_of_a_stadium_comes_to_an_end(runner: Runner, wanted: int) -> None:
    venue = venue_of(runner, rows_of(*[20] * 700))
    reply, _ = venue.hold_on(f"0:1;0?{wanted}")
    assert len(chosen(reply)) == wanted
    consistent(venue)


def test_wish_finds_the_few_long_rows_behind_many_shorter_ones(runner: Runner) -> None:
    venue = venue_of(runner, rows_of(*[17] * 500, 40))
    assert chosen(venue.hold_on("0:1;0?40")[0]) == list(range(8500, 8540))


def test_several_wishes_of_one_request_come_to_an_end(runner: Runner) -> None:
    sections = [rows_of(*[1] * 400) | {"id": f"s{number}"} for number in range(3)]
    venue = venue_of(runner, *sections)
    reply, _ = venue.hold_on("0:1;0?150;1?150;2?150")
    assert len(chosen(reply)) == 450
    consistent(venue)


def test_search_with_many_named_seats_in_the_request_comes_to_an_end(runner: Runner) -> None:
    venue = venue_of(runner, rows_of(*[2] * 1500))
    named = ",".join(str(2 * number) for number in range(300))
    reply, _ = venue.hold_on(f"0:1;0#{named};0?200")
    assert len(chosen(reply)) == 500
    consistent(venue)
