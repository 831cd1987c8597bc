"""Changing and transferring bookings, script by script: sent twice, too late, or beside somebody else's mark."""

import pytest
from invariants import StoredState, assert_consistent
from script_runner import PARTITIONS, TTL_MS, Runner, Venue, new_id

OLD, NEW, GAINED, LOST = "0:1;0*2;1#0,1", "0:1;0*3;1#1,2", "0:1;0*1;1#2", "0:1;1#0"


@pytest.fixture
def runner(redis_url: str) -> Runner:
    return Runner(redis_url)


def consistent(venue: Venue) -> StoredState:
    return assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def booked(runner: Runner) -> tuple[Venue, str]:
    venue = Venue(runner)
    return venue, venue.booked(OLD)


def test_change_moves_only_what_differs_and_the_trail_tells_of_it(runner: Runner) -> None:
    venue, booking_id = booked(runner)
    venue.reserve(booking_id, OLD, 5, GAINED)
    assert (venue.counts(0), venue.counts(1)) == ((7, 1, 2), (17, 1, 2))
    assert consistent(venue).users == {"ana": 6}

    venue.advance(5)
    assert venue.apply(booking_id, NEW, gained=[GAINED], lost=[LOST])[0] == "APPLIED"

    assert (venue.counts(0), venue.counts(1)) == ((7, 0, 3), (18, 0, 2))
    stored = consistent(venue)
    assert (stored.users, stored.holds, stored.bookings[booking_id].quantity) == ({"ana": 5}, {}, 5)
    lines = [line.split("|")[:2] for _, fields in venue.trail() for line in fields.values()]
    assert lines[-2:] == [["c1.0", "active"], ["c1.0", "confirmed"]]
    assert venue.state("undone") == 1
    [(_, gone)] = venue.redis.xrange(venue.key("removed"))
    assert gone[booking_id.encode()].split(b"|", 2)[2] == OLD.encode()


def test_everything_that_is_sent_twice_is_done_once(runner: Runner) -> None:
    venue, booking_id = booked(runner)
    first = venue.reserve(booking_id, OLD, 6, GAINED, "0:1;1?1")
    assert first == ["RESERVED", "1", GAINED, "0:1;1#3"]
    with runner.writes_nothing():
        assert venue.reserve(booking_id, OLD, 6, GAINED, "0:1;1?1") == first
    new, gained = "0:1;0*3;1#1,2;1#3", [GAINED, "0:1;1#3"]
    applied = venue.apply(booking_id, new, gained=gained, lost=[LOST])
    with runner.writes_nothing():
        assert venue.apply(booking_id, new, gained=gained, lost=[LOST]) == applied
    given = venue.transfer(booking_id, "bea")
    with runner.writes_nothing():
        assert venue.transfer(booking_id, "bea") == given
    assert consistent(venue).users == {"bea": 6}


def test_abandoned_change_leaves_the_booking_as_it_was_and_free_for_another(runner: Runner) -> None:
    venue, booking_id = booked(runner)
    venue.reserve(booking_id, OLD, 5, GAINED)
    venue.abandon(booking_id)
    assert (venue.counts(0), venue.counts(1)) == ((8, 0, 2), (18, 0, 2))
    assert venue.reserve(booking_id, OLD, 5, GAINED, change="c2")[0] == "RESERVED"
    venue.abandon(booking_id)  # the first one again: it has no business with the second
    assert venue.apply(booking_id, NEW, gained=[GAINED], lost=[LOST], change="c2")[0] == "APPLIED"
    consistent(venue)


def test_change_that_nobody_finished_is_in_nobody_s_way_after_its_deadline(runner: Runner) -> None:
    venue, booking_id = booked(runner)
    venue.reserve(booking_id, OLD, 5, GAINED)
    venue.advance(2 * TTL_MS)
    assert venue.reserve(booking_id, OLD, 5, GAINED, change="c2")[0] == "RESERVED"
    assert venue.apply(booking_id, NEW, gained=[GAINED], lost=[LOST])[0] == "SUPERSEDED"
    assert venue.apply(booking_id, NEW, gained=[GAINED], lost=[LOST], change="c2")[0] == "APPLIED"
    consistent(venue)


def test_change_that_comes_after_a_load_changes_nothing(runner: Runner) -> None:
    venue, booking_id = booked(runner)
    venue.reserve(booking_id, OLD, 5, GAINED)
    venue.load(epoch=2, bookings=[(booking_id, OLD, "ana")])
    assert venue.apply(booking_id, NEW, gained=[GAINED], lost=[LOST])[0] == "SUPERSEDED"
    assert (consistent(venue).bookings[booking_id].quantity, venue.counts(0)) == (4, (8, 0, 2))


def test_best_seats_are_none_that_the_change_names_itself(runner: Runner) -> None:
    venue = Venue(runner, stops=["A", "B", "C"])
    booking_id = venue.booked("0:1;1#5")
    reply = venue.reserve(booking_id, "0:1;1#5", 3, "1:2;1#0,1", "1:2;1?1")
    assert reply == ["RESERVED", "1", "1:2;1#0,1", "1:2;1#2"]
    consistent(venue)


def test_dropping_places_needs_none_and_is_possible_after_the_sale(runner: Runner) -> None:
    venue, booking_id = booked(runner)
    venue.set_status("closed")
    assert venue.reserve(booking_id, OLD, 3) == ["RESERVED", "1"]
    assert venue.apply(booking_id, "0:1;0*2;1#1", lost=[LOST])[0] == "APPLIED"
    assert venue.reserve(booking_id, "0:1;0*2;1#1", 4, "0:1;1#9", change="c2") == ["NOT_OPEN", "closed"]
    assert venue.reserve(booking_id, "0:1;0*2;1#1", 4, "0:1;1#9", change="c2", sale_only=False)[0] == "RESERVED"
    consistent(venue)


def test_transfer_is_undone_only_by_itself(runner: Runner) -> None:
    venue, booking_id = booked(runner)
    venue.transfer(booking_id, "bea")
    venue.transfer(booking_id, "cem", owner="bea", transfer="t2")
    assert venue.transfer(booking_id, "bea", owner="cem", transfer="t1", mode="undo") == ["DIFFERS"]
    assert venue.transfer(booking_id, "bea", owner="cem", transfer="t2", mode="undo")[0] == "TRANSFERRED"
    assert consistent(venue).users == {"bea": 4}
    assert venue.transfer(new_id(), "bea") == ["DIFFERS"]


def test_lapsed_holds_of_the_receiver_do_not_count_however_many_have_lapsed(runner: Runner) -> None:
    venue = Venue(
        runner,
        {"id": "floor", "price": 1, "capacity": 90},
        policy={"max_places_per_hold": 90, "max_places_per_customer": 80},
    )
    booking_id = venue.booked("0:1;0*5")
    for _ in range(80):
        venue.held("0:1;0*1", owner="bea")
    assert venue.transfer(booking_id, "bea") == ["LIMIT", "max_places_per_customer", 80]
    venue.advance(TTL_MS)
    assert venue.transfer(booking_id, "bea") == ["CONTINUE"]
    assert venue.transfer(booking_id, "bea")[0] == "TRANSFERRED"
    while venue.reap()[1]:
        pass
    assert consistent(venue).users == {"bea": 5}
