"""One hold's life: extended, read, released, lapsed; who may act on it, and what is remembered of it."""

import pytest
from invariants import StoredState, assert_consistent
from script_runner import FROZEN_MS, PARTITIONS, Runner, Venue, new_id, text_of

from engine.loading import NEVER_MS


@pytest.fixture
def runner(redis_url: str) -> Runner:
    return Runner(redis_url)


def consistent(venue: Venue) -> StoredState:
    return assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def test_extension_is_bounded_by_the_events_maximum_from_creation(runner: Runner) -> None:
    venue = Venue(runner, policy={"hold_ttl_max": 150})
    hold_id = venue.held("0:1;0*1", ttl_ms=500_000)
    assert venue.read(hold_id) == ["ACTIVE", FROZEN_MS, FROZEN_MS + 150_000, "0:1;0*1"]
    assert venue.extend(hold_id, ttl_ms=1_000)[3] == FROZEN_MS + 1_000
    venue.advance(500)
    assert venue.extend(hold_id, ttl_ms=100_000)[2:] == [FROZEN_MS, FROZEN_MS + 100_500, "0:1;0*1"]
    assert venue.extend(hold_id, ttl_ms=10**9)[3] == FROZEN_MS + 150_000
    venue.advance(149_499)
    assert venue.extend(hold_id, ttl_ms=10**9)[3] == FROZEN_MS + 150_000
    assert venue.read(hold_id)[0] == "ACTIVE"
    venue.advance(1)
    assert venue.extend(hold_id, ttl_ms=10**9) == ["EXPIRED"]
    consistent(venue)


def test_wakeup_follows_the_earliest_deadline(runner: Runner) -> None:
    venue = Venue(runner)
    first, second = venue.held("0:1;0*1", ttl_ms=1_000), venue.held("0:1;0*1", ttl_ms=2_000)

    def due_in() -> int:
        return consistent(venue).wakeup - FROZEN_MS  # type: ignore[operator]

    assert due_in() == 1_000
    venue.extend(first, ttl_ms=3_000)
    assert due_in() == 2_000
    venue.extend(second, ttl_ms=500)
    assert due_in() == 500
    venue.confirm(second)
    assert due_in() == 3_000
    venue.release(first)
    assert consistent(venue).wakeup is None
    assert venue.state("due") == NEVER_MS


@pytest.mark.parametrize("act", [Venue.confirm, Venue.extend, Venue.release])
def test_acting_on_a_lapsed_hold_frees_its_places(runner: Runner, act: object) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2;1#3;1?2", ttl_ms=1_000)
    venue.advance(1_000)
    assert venue.read(hold_id) == ["EXPIRED"]
    assert act(venue, hold_id) == ["EXPIRED"]  # type: ignore[operator]
    assert act(venue, hold_id) == ["EXPIRED"]  # type: ignore[operator]
    assert (venue.counts(0), venue.counts(1)) == ((10, 0, 0), (20, 0, 0))
    consistent(venue)


def test_somebody_elses_hold_looks_like_one_that_never_was(runner: Runner) -> None:
    venue = Venue(runner)
    live, released, lapsed, booked = (venue.held("0:1;0*1", ttl_ms=ttl) for ttl in (9_000, 9_000, 1_000, 9_000))
    venue.release(released)
    venue.confirm(booked)
    venue.advance(1_000)
    venue.reap()
    with runner.writes_nothing():
        for hold_id in (live, released, lapsed, booked, new_id()):
            for act in (venue.read, venue.extend, venue.release, venue.confirm):
                assert act(hold_id, owner="bea") == ["NOT_FOUND"]


def test_administrator_acts_on_any_hold(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*1")
    assert venue.read(hold_id, owner="")[0] == "ACTIVE"
    assert venue.extend(hold_id, owner="")[0] == "EXTENDED"
    assert venue.release(hold_id, owner="")[0] == "RELEASED"
    assert venue.read(hold_id, owner="") == ["RELEASED"]


@pytest.mark.parametrize("owner", ["a|b", "Zoë 朝", "100%s %d", "x" * 200, "a|1|2|0:1;0*9|b", "-- ']]"])
def test_customers_id_may_contain_anything(runner: Runner, owner: str) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2", owner=owner)
    assert venue.read(hold_id, owner=owner)[0] == "ACTIVE"
    assert venue.confirm(hold_id, owner=owner)[0] == "CONFIRMED"
    assert venue.read(hold_id, owner=owner) == ["BOOKED"]
    other = venue.held("0:1;0*2", owner=owner)
    venue.release(other, owner=owner)
    assert venue.read(other, owner=owner) == ["RELEASED"]
    assert consistent(venue).users == {owner: 2}


def test_release_whose_answer_was_lost_is_answered_again_and_another_one_is_late(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    first = venue.release(hold_id, attempt="a1")
    assert first[0] == "RELEASED"
    with runner.writes_nothing():
        assert venue.release(hold_id, attempt="a1") == first
        assert venue.release(hold_id, attempt="a2") == ["ALREADY_RELEASED"]
        assert venue.release(hold_id, attempt="a1", owner="bea") == ["NOT_FOUND"]
        assert venue.read(hold_id) == ["RELEASED"]
    lapsed = venue.held("0:1;0*2", ttl_ms=1_000)
    venue.advance(1_000)
    assert [venue.release(lapsed, attempt="a1") for _ in range(2)] == [["EXPIRED"], ["EXPIRED"]]
    consistent(venue)


@pytest.mark.parametrize("end", ["now", "before", "by itself", "so long ago that nobody knows"])
def test_release_forgets_the_key_that_made_the_hold_and_no_other(runner: Runner, end: str) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2", ttl_ms=1_000, once="k", body="b1")
    if end == "before":
        venue.release(hold_id)
    elif end == "by itself":
        venue.advance(1_000)
    elif end != "now":
        venue.release(hold_id)
        runner.redis.delete(venue.key("ended"))
    other = venue.held("0:1;0*1", once="other", body="b1")
    with runner.writes_nothing():
        assert venue.hold("0:1;0*2", once="k", body="b1")[0] == "REPLAYED"
    venue.release(hold_id, once="k", body="b2")
    venue.release(hold_id, once="other", body="b1")
    assert venue.hold("0:1;0*2", once="k", body="b1")[0] == "REPLAYED"
    assert venue.hold("0:1;0*1", once="other", body="b1")[1][0] == other
    venue.release(hold_id, once="k", body="b1")
    anew = venue.held("0:1;0*2", once="k", body="b1")
    venue.release(hold_id, once="k", body="b1")  # its reply was lost, and it comes late
    assert venue.hold("0:1;0*2", once="k", body="b1")[1][0] == anew
    consistent(venue)


def test_release_of_what_is_booked_or_somebody_elses_leaves_the_key(runner: Runner) -> None:
    venue = Venue(runner)
    live, booked = venue.held("0:1;0*1", once="k1"), venue.held("0:1;0*1", once="k2")
    venue.confirm(booked)
    with runner.writes_nothing():
        assert venue.release(live, owner="bea", once="k1") == ["NOT_FOUND"]
        assert venue.release(booked, once="k2") == ["BOOKED"]
        assert [venue.hold("0:1;0*1", once=key)[1][0] for key in ("k1", "k2")] == [live, booked]


def test_memory_of_ended_holds_has_a_fixed_size(runner: Runner) -> None:
    venue = Venue(runner)
    early, late = "0" * 23 + "abc", "1" * 23 + "abc"
    for hold_id in (early, late):
        venue.held("0:1;0*1", hold_id=hold_id)
        venue.release(hold_id)
    assert text_of(list(venue.redis.hgetall(venue.key("ended")))) == ["abc"]
    assert (venue.read(early), venue.read(late)) == (["NOT_FOUND"], ["RELEASED"])


def test_seq_counts_every_change(runner: Runner) -> None:
    venue = Venue(runner)
    numbers = [venue.state("seq")]
    hold_id = venue.held("0:1;0*1")
    other = venue.held("0:1;0*1")
    for act in (venue.extend, venue.confirm, venue.unbook):
        assert act(hold_id)[0] in ("EXTENDED", "CONFIRMED", "UNBOOKED")
        numbers.append(venue.state("seq"))
    venue.release(other)
    venue.set_status("closed")
    assert [*numbers, venue.state("seq")] == [1, 4, 5, 6, 8]


def test_clock_never_runs_backwards(runner: Runner) -> None:
    venue = Venue(runner, frozen=False)
    hold_id = new_id()
    [_, [_, created_ms, *_]] = venue.hold("0:1;0*1", hold_id=hold_id)
    assert created_ms < FROZEN_MS
    venue.set_time(FROZEN_MS)  # as a clock that was ahead leaves it behind
    assert venue.extend(hold_id) == ["EXPIRED"]
    assert venue.hold("0:1;0*1")[1][1] == FROZEN_MS


def test_payment_moves_the_deadline_once_and_what_lives_longer_keeps_it(runner: Runner) -> None:
    venue = Venue(runner)
    short, long = venue.held("0:1;0*1", ttl_ms=1_000), venue.held("0:1;0*1", ttl_ms=90_000)

    assert venue.begin_payment(short, ttl_ms=50_000)[2:] == [FROZEN_MS, FROZEN_MS + 50_000, "0:1;0*1"]
    assert venue.begin_payment(long, ttl_ms=50_000)[3] == FROZEN_MS + 90_000
    venue.advance(10_000)
    assert venue.begin_payment(short, ttl_ms=50_000)[3] == FROZEN_MS + 50_000
    assert venue.extend(short, ttl_ms=1)[3] == FROZEN_MS + 50_000
    assert venue.read(short) == ["PAYING", FROZEN_MS, FROZEN_MS + 50_000, "0:1;0*1"]
    assert consistent(venue).wakeup == FROZEN_MS + 50_000
    assert venue.confirm(short)[0] == "CONFIRMED"
    venue.advance(80_000)
    assert venue.begin_payment(long) == ["EXPIRED"]
    consistent(venue)
