"""``repair_event``, operation by operation: what each changes, what each must have seen, and that calls count once."""

from typing import Any

import pytest
from invariants import assert_consistent
from redis.exceptions import ResponseError
from script_runner import PARTITIONS, TTL_MS, Runner, Venue, new_id

from engine.loading import NEVER_MS


@pytest.fixture
def venue(redis_url: str) -> Venue:
    return Venue(Runner(redis_url))


def record(venue: Venue, hash_name: str, key: str) -> str:
    text: Any = venue.redis.hget(venue.key(hash_name), key)
    decoded: str = text.decode()
    return decoded


def assert_whole(venue: Venue) -> None:
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def test_every_repair_raises_repairs_and_seq(venue: Venue) -> None:
    seq = venue.state("seq")
    assert venue.repair() == ["REPAIRED", 1, seq + 1]
    assert venue.repair() == ["REPAIRED", 2, seq + 2]
    assert (venue.state("repairs"), venue.state("seq")) == (2, seq + 2)


def test_state_of_a_version_that_did_not_count_repairs_can_be_repaired(venue: Venue) -> None:
    venue.redis.hdel(venue.key("state"), "repairs", "undone")
    assert venue.repair(repairs=0)[:2] == ["REPAIRED", 1]


def test_delta_of_a_reading_is_applied_once(venue: Venue) -> None:
    venue.redis.hincrby(venue.key("state"), "free:0:0", -4)
    assert venue.repair("count|free:0:0|4", repairs=0)[0] == "REPAIRED"
    assert venue.repair("count|free:0:0|4", repairs=0) == ["STALE"]
    assert_whole(venue)


def test_counters_are_added_to_while_the_event_sells(venue: Venue) -> None:
    venue.redis.hincrby(venue.key("state"), "free:0:0", -4)
    venue.redis.hincrby(venue.key("state"), "held:1:0", 1)
    seen = venue.state("repairs")
    venue.held("0:1;0*3;1#5")
    assert venue.repair("count|free:0:0|4", "count|held:1:0|-1", repairs=seen)[0] == "REPAIRED"
    assert_whole(venue)


def test_one_operation_that_does_not_fit_keeps_all_others_back(venue: Venue) -> None:
    hold_id = venue.held("0:1;1#3")
    seen = record(venue, "holds", hold_id)
    venue.extend(hold_id, ttl_ms=2 * TTL_MS)
    with venue.runner.writes_nothing():
        assert venue.repair("clear_held|3", "count|free:0:0|1", f"end_hold|{hold_id}|{seen}") == ["CHANGED", 3]


@pytest.mark.parametrize("operation", ["burn|3", "clear_sold|three", "count|seq|4", "", "end_hold"])
def test_operation_that_is_none_is_an_error_and_writes_nothing(venue: Venue, operation: str) -> None:
    with venue.runner.writes_nothing(), pytest.raises(ResponseError, match="HF_BADARG"):
        venue.repair("count|free:0:0|1", operation)


@pytest.mark.parametrize("bitmap", ["held", "sold"])
def test_cell_that_nobody_has_is_cleared_and_can_be_found_again(venue: Venue, bitmap: str) -> None:
    for seat in range(10):
        venue.redis.setbit(venue.key(bitmap), seat, 1)
    assert venue.hold("0:1;1?10")[0] == "HELD"  # in row B: the search has seen that row A is full
    venue.repair(*(f"clear_{bitmap}|{seat}" for seat in range(10)))
    assert_whole(venue)
    assert venue.hold("0:1;1?10")[0] == "HELD"


def test_cell_behind_the_last_seat_is_cleared(venue: Venue) -> None:
    venue.redis.setbit(venue.key("sold"), 23, 1)
    venue.repair("clear_sold|23")
    assert venue.redis.getbit(venue.key("sold"), 23) == 0


def test_cell_of_a_hold_is_set_if_the_hold_is_as_it_was_seen(venue: Venue) -> None:
    hold_id = venue.held("0:1;1#3")
    venue.redis.setbit(venue.key("held"), 3, 0)
    assert venue.repair(f"set_held|3|{hold_id}|a|1") == ["CHANGED", 1]
    assert venue.repair(f"set_held|3|{hold_id}|{record(venue, 'holds', hold_id)}")[0] == "REPAIRED"
    assert_whole(venue)


def test_cell_of_a_booking_is_set_if_the_booking_is_as_it_was_seen(venue: Venue) -> None:
    booking_id = venue.booked("0:1;1#3")
    seen = record(venue, "bookings", booking_id)
    venue.redis.setbit(venue.key("sold"), 3, 0)
    assert venue.repair(f"set_sold|3|{booking_id}|{seen}")[0] == "REPAIRED"
    assert_whole(venue)
    venue.unbook(booking_id)
    assert venue.repair(f"set_sold|3|{booking_id}|{seen}") == ["CHANGED", 1]


def test_lost_bitmap_gets_its_full_size_again(venue: Venue) -> None:
    venue.redis.delete(venue.key("held"))
    venue.repair()
    assert_whole(venue)


def test_booking_that_the_ledger_does_not_have_is_undone_and_its_customer_told(venue: Venue) -> None:
    booking_id = venue.booked("0:1;0*2;1#3")
    text = record(venue, "bookings", booking_id)
    counts = ("count|free:0:0|2", "count|sold:0:0|-2", "count|free:1:0|1", "count|sold:1:0|-1")
    assert venue.repair(f"unbook|{booking_id}|1|{text}", "clear_sold|3", *counts)[0] == "REPAIRED"
    assert venue.read(booking_id) == ["REFUSED"]
    assert venue.state("undone") == 1
    assert venue.repair(f"unbook|{booking_id}|1|{text}") == ["CHANGED", 1]
    assert_whole(venue)


def test_booking_that_redis_does_not_have_is_written(venue: Venue) -> None:
    booking_id, text = new_id(), "1800000000000|1800000000000|||3|0:1;0*2;1#3|ana|with a bar"
    counts = ("count|free:0:0|-2", "count|sold:0:0|2", "count|free:1:0|-1", "count|sold:1:0|1")
    assert venue.repair(f"book|{booking_id}|1|{text}", *counts)[0] == "REPAIRED"
    assert_whole(venue)
    assert venue.repair(f"book|{booking_id}|1|{text}") == ["CHANGED", 1]
    assert venue.hold("0:1;1#3")[0] == "UNAVAILABLE"


def test_booking_that_is_in_its_customer_s_total_is_not_counted_again(venue: Venue) -> None:
    booking_id = venue.booked("0:1;0*2;1#3")
    text = record(venue, "bookings", booking_id)
    venue.redis.hdel(venue.key("bookings"), booking_id)
    assert venue.repair(f"book|{booking_id}|0|{text}")[0] == "REPAIRED"
    assert_whole(venue)
    other = "1|1|||1|0:1;1#4|ana"
    venue.redis.hset(venue.key("bookings"), "other", other)
    assert venue.repair(f"unbook|other|0|{other}")[0] == "REPAIRED"
    assert_whole(venue)


def test_booking_of_which_the_ledger_says_something_else_is_rewritten(venue: Venue) -> None:
    booking_id = venue.booked("0:1;1#3", owner="eve")
    old, new = record(venue, "bookings", booking_id), "1800000000000|1800000000000|||2|0:1;1#4,5|ana"
    counts = ("count|free:1:0|-1", "count|sold:1:0|1")
    operation = f"rebook|{booking_id}|{len(old)}|{old}{new}"
    assert venue.repair(operation, "clear_sold|3", *counts)[0] == "REPAIRED"
    assert record(venue, "bookings", booking_id) == new
    assert_whole(venue)
    assert venue.repair(operation) == ["CHANGED", 1]


def test_hold_that_lost_its_places_ends_as_refused(venue: Venue) -> None:
    hold_id = venue.held("0:1;1#3")
    text = record(venue, "holds", hold_id)
    counts = ("count|free:1:0|1", "count|held:1:0|-1")
    assert venue.repair(f"end_hold|{hold_id}|{text}", "clear_held|3", *counts)[0] == "REPAIRED"
    assert venue.read(hold_id) == ["REFUSED"]
    assert venue.state("due") == NEVER_MS
    assert_whole(venue)


def test_hold_whose_booking_is_there_ends_without_a_word(venue: Venue) -> None:
    hold_id = venue.held("0:1;1#3")
    text = record(venue, "holds", hold_id)
    counts = ("count|held:1:0|-1", "count|sold:1:0|1", "total|1|2|ana")
    booking = f"book|{hold_id}|0|1800000000000|1800000000000|||1|0:1;1#3|ana"
    assert venue.repair(booking, f"end_hold|{hold_id}|{text}", "clear_held|3", *counts)[0] == "REPAIRED"
    assert venue.read(hold_id)[0] == "BOOKED"
    assert_whole(venue)


@pytest.mark.parametrize(("hash_name", "verb"), [("holds", "drop_hold"), ("bookings", "drop_booking")])
def test_record_that_cannot_be_read_is_dropped(venue: Venue, hash_name: str, verb: str) -> None:
    key = new_id()
    venue.redis.hset(venue.key(hash_name), key, "non|sense")
    venue.redis.zadd(venue.key("expiries"), {key: 5} if hash_name == "holds" else {"other": 5})
    assert venue.repair(f"{verb}|{key}|sense") == ["CHANGED", 1]
    assert venue.repair(f"{verb}|{key}|non|sense")[0] == "REPAIRED"
    venue.redis.zrem(venue.key("expiries"), "other")
    venue.repair()
    assert_whole(venue)


def test_hold_whose_deadline_was_lost_lapses_with_the_repair(venue: Venue) -> None:
    hold_id = venue.held("0:1;1#3")
    venue.redis.zrem(venue.key("expiries"), hold_id)
    text = record(venue, "holds", hold_id)
    assert venue.repair(f"index|{hold_id}|{text}")[0] == "REPAIRED"
    assert_whole(venue)
    assert venue.reap()[:2] == ["REAPED", 1]
    assert venue.read(hold_id) == ["EXPIRED"]
    assert_whole(venue)
    assert venue.repair(f"index|{hold_id}|{text}") == ["CHANGED", 1]


def test_deadline_without_a_hold_leaves_the_index(venue: Venue) -> None:
    hold_id = venue.held("0:1;1#3")
    venue.redis.zadd(venue.key("expiries"), {"gone": 5})
    assert venue.repair(f"unindex|{hold_id}") == ["CHANGED", 1]
    assert venue.repair("unindex|gone")[0] == "REPAIRED"
    assert_whole(venue)


@pytest.mark.parametrize("wrong", [5, 1, None])
def test_customer_s_total_is_set_if_it_is_as_it_was_seen(venue: Venue, wrong: int | None) -> None:
    venue.held("0:1;0*2", owner="a|b")
    venue.redis.hdel(venue.key("users"), "a|b")
    if wrong is not None:
        venue.redis.hset(venue.key("users"), "a|b", wrong)
    assert venue.repair("total|2|2|a|b") == ["CHANGED", 1]
    assert venue.repair(f"total|{wrong or 0}|2|a|b")[0] == "REPAIRED"
    assert_whole(venue)


def test_total_of_a_customer_without_places_is_removed(venue: Venue) -> None:
    venue.redis.hset(venue.key("users"), "zoe", 2)
    venue.repair("total|2|0|zoe")
    assert_whole(venue)


def test_earliest_deadline_is_put_right_by_every_repair(venue: Venue) -> None:
    venue.held("0:1;1#3")
    venue.redis.hset(venue.key("state"), "due", 5)
    venue.redis.zrem(venue.partition_key("wakeups"), venue.id)
    venue.repair()
    assert_whole(venue)


def test_mark_names_the_server_and_so_does_a_load(venue: Venue) -> None:
    seq = venue.state("seq")
    venue.come_from_another_server()
    assert venue.mark_audited(1) == ["MARKED"]
    assert venue.redis.hget(venue.key("state"), "audited") == venue.server_id().encode()
    assert venue.state("seq") == seq
    venue.come_from_another_server()
    venue.load(epoch=2)
    assert venue.redis.hget(venue.key("state"), "audited") == venue.server_id().encode()


def test_mark_is_refused_when_the_audit_began_on_another_server(venue: Venue) -> None:
    venue.come_from_another_server()
    assert venue.mark_audited(1, "another") == ["STALE"]
