"""Confirming, booking and undoing; and building an event from the ledger, which is where bookings come back from."""

from functools import partial
from typing import Any

import msgspec
import pytest
from invariants import StoredState, assert_consistent
from redis.exceptions import OutOfMemoryError
from script_runner import FROZEN_MS, ONCE_TTL_MS, PARTITIONS, TTL_MS, Runner, Venue, new_id

from engine.booking_batches import KEYS_TTL_S
from engine.dead_letters import Letter, LetterField


@pytest.fixture
def runner(redis_url: str) -> Runner:
    return Runner(redis_url)


def consistent(venue: Venue) -> StoredState:
    return assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


# --- confirm and book ------------------------------------------------------------------------------------------------


def test_confirmed_hold_becomes_a_booking_of_the_same_places(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2;1#3;1?2")
    venue.advance(5)
    reply = venue.confirm(hold_id, once="k")
    [(journal_id, entry)] = venue.journal()
    assert reply == ["CONFIRMED", "1", FROZEN_MS, FROZEN_MS + 5, journal_id, "0:1;0*2;1#3;1#0,1"]
    assert entry == {
        "event": "gig",
        "epoch": "1",
        "booking": hold_id,
        "owner": "ana",
        "places": "0:1;0*2;1#3;1#0,1",
        "created": str(FROZEN_MS),
        "confirmed": str(FROZEN_MS + 5),
        "details": "sealed",
        "once": "k",
        "body": "b1",
    }
    assert (venue.counts(0), venue.counts(1)) == ((8, 0, 2), (17, 0, 3))
    stored = consistent(venue)
    assert (stored.holds, stored.users) == ({}, {"ana": 5})


def test_booking_at_once_is_like_holding_and_confirming(runner: Runner) -> None:
    venue = Venue(runner)
    booking_id = new_id()
    reply = venue.book("0:1;0*2;1#3;1?2", booking_id=booking_id)
    [(journal_id, entry)] = venue.journal()
    assert reply == ["CONFIRMED", "1", FROZEN_MS, FROZEN_MS, journal_id, "0:1;0*2;1#3;1#0,1"]
    assert (entry["booking"], entry["places"]) == (booking_id, "0:1;0*2;1#3;1#0,1")
    assert (venue.counts(0), venue.counts(1)) == ((8, 0, 2), (17, 0, 3))
    consistent(venue)


def test_same_attempt_is_answered_as_the_first_time(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id, booking_id = venue.held("0:1;0*2;1?2"), new_id()
    first = venue.confirm(hold_id, attempt="a1")
    booked = venue.book("0:1;0*2;1?2", booking_id=booking_id, attempt="a2")
    venue.advance(10 * TTL_MS)
    with runner.writes_nothing():
        assert venue.confirm(hold_id, attempt="a1") == first
        assert venue.book("0:1;0*2;1?2", booking_id=booking_id, attempt="a2") == booked
        assert venue.confirm(hold_id, attempt="other") == ["BOOKED"]
        assert venue.book("0:1;0*2;1?2", booking_id=booking_id, attempt="other") == ["BOOKED"]


@pytest.mark.parametrize("step", ["confirm", "book"])
def test_key_is_answered_as_the_first_time_even_after_the_booking_is_undone(runner: Runner, step: str) -> None:
    venue = Venue(runner)
    booking_id = venue.held("0:1;0*2") if step == "confirm" else new_id()

    def act(body: str) -> list[object]:
        if step == "confirm":
            return venue.confirm(booking_id, once="k", body=body)
        return venue.book("0:1;0*2", booking_id=booking_id, once="k", body=body)

    assert act("b1")[0] == "CONFIRMED"
    assert act("b1") == ["REPLAYED", booking_id]
    assert 0 < runner.redis.pttl(f"hf:{{{venue.partition}}}:once:k") <= ONCE_TTL_MS
    venue.unbook(booking_id)
    with runner.writes_nothing():
        assert act("b1") == ["REPLAYED", booking_id]
        assert act("b2") == ["KEY_REUSED"]


def test_key_of_a_refused_confirmation_is_not_used_up(runner: Runner) -> None:
    venue = Venue(runner)
    venue.set_status("cancelled")
    assert venue.confirm(new_id(), once="k") == ["NOT_FOUND"]
    assert runner.redis.exists(f"hf:{{{venue.partition}}}:once:k") == 0


def test_confirming_a_lapsed_hold_frees_its_places(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*10", ttl_ms=1_000)
    venue.advance(1_000)
    assert venue.confirm(hold_id) == ["EXPIRED"]
    assert venue.journal() == []
    assert venue.hold("0:1;0*10", owner="bea")[0] == "HELD"
    assert venue.confirm(hold_id) == ["EXPIRED"]
    consistent(venue)


@pytest.mark.parametrize("reaped", [False, True])
def test_lapsed_hold_of_a_cancelled_event_has_lapsed_whether_it_was_reaped_or_not(runner: Runner, reaped: bool) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*1", ttl_ms=1_000)
    venue.set_status("cancelled")
    venue.advance(1_000)
    if reaped:
        venue.reap()
    assert venue.confirm(hold_id) == ["EXPIRED"]


def test_hold_may_be_confirmed_until_the_last_millisecond_and_when_sale_is_closed(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*1", ttl_ms=1_000)
    venue.set_status("closed")
    venue.advance(999)
    assert venue.confirm(hold_id)[0] == "CONFIRMED"


# --- undoing ---------------------------------------------------------------------------------------------------------


def test_unbooking_frees_only_what_that_booking_owns(runner: Runner) -> None:
    venue = Venue(runner, stops=["A", "B", "C"])
    mine = venue.booked("0:1;0*2;1#0,1")
    others = [venue.booked("1:2;0*2;1#0,1", owner="bea"), venue.held("0:1;0*1;1#2")]
    assert venue.unbook(mine)[0] == "UNBOOKED"
    stored = consistent(venue)
    assert [*stored.bookings, *stored.holds] == others
    venue.held("0:1;1#0,1", owner="cem")
    with runner.writes_nothing():
        assert venue.unbook(mine) == ["NOT_FOUND"]  # though somebody else holds these seats by now
    consistent(venue)


def test_places_of_an_undone_booking_may_stay_off_sale(runner: Runner) -> None:
    venue = Venue(runner)
    undone = venue.booked("0:1;0*2;1#0,1")
    free, sold = venue.state("free:0:0"), venue.state("sold:0:0")
    assert venue.unbook(undone, keep="keep")[0] == "UNBOOKED"
    assert venue.read_booking(undone) == ["NOT_FOUND"]
    assert (venue.state("free:0:0"), venue.state("sold:0:0"), sold) == (free, sold, 2)
    assert venue.hold("0:1;1#1", owner="bea")[0] == "UNAVAILABLE"
    assert venue.redis.hgetall(venue.key("users")) == {}  # nobody has them
    assert (venue.state("kept:0:0"), venue.state("kept:1:0")) == (2, 2)


def test_audits_can_read_which_bookings_have_gone(runner: Runner) -> None:
    venue = Venue(runner)
    freed, kept = venue.booked("0:1;0*2;1#0,1"), venue.booked("0:1;1#5")
    entries = [entry_id for entry_id, _ in venue.journal()]
    venue.unbook(freed, entries[0])
    venue.unbook(kept, entries[1], keep="keep")
    venue.unbook(kept)  # it has gone already
    assert [fields for _, fields in venue.redis.xrange(venue.key("removed"))] == [
        {freed.encode(): f"1|{entries[0]}|0:1;0*2;1#0,1".encode()},
        {kept.encode(): f"2|{entries[1]}|0:1;1#5".encode()},
    ]
    assert 0 < venue.redis.ttl(venue.key("removed")) <= 600  # nobody sweeps it
    assert venue.state("undone") == 2


def test_booking_is_undone_although_the_number_of_those_that_went_was_lost(runner: Runner) -> None:
    venue = Venue(runner)
    first, second = venue.booked("0:1;1#0"), venue.booked("0:1;1#1")
    venue.unbook(first)
    venue.redis.hdel(venue.key("state"), "undone")
    assert venue.unbook(second)[0] == "UNBOOKED"
    assert not consistent(venue).bookings


def test_unbooking_drops_the_journal_entry_even_when_nothing_else_is_left_to_do(runner: Runner) -> None:
    venue = Venue(runner)
    kept, first, second = (venue.booked("0:1;0*1") for _ in range(3))
    [_, (first_entry, _), (second_entry, _)] = venue.journal()
    assert venue.unbook(first, first_entry)[0] == "UNBOOKED"
    venue.redis.delete(venue.key("state"))
    assert venue.unbook(second, second_entry) == ["NOT_LOADED"]
    assert [entry["booking"] for _, entry in venue.journal()] == [kept]


def test_settled_entries_are_dropped_together_and_once(runner: Runner) -> None:
    venue = Venue(runner)
    first, kept, second = (venue.booked("0:1;0*1") for _ in range(3))
    ids = {entry["booking"]: journal_id for journal_id, entry in venue.journal()}
    assert venue.drop((ids[first], first), (ids[second], second)) == ["DROPPED", 2]
    assert venue.drop((ids[first], first), (ids[second], second)) == ["DROPPED", 0]
    assert [entry["booking"] for _, entry in venue.journal()] == [kept]
    assert venue.drop() == ["DROPPED", 0]


def test_entry_that_has_the_id_of_one_that_a_failover_lost_is_left_alone(runner: Runner) -> None:
    venue = Venue(runner)
    lost = venue.booked("0:1;0*1")
    ((journal_id, entry),) = venue.journal()
    other = entry | {"booking": new_id()}
    venue.redis.delete(venue.partition_key("journal"))
    venue.redis.xadd(venue.partition_key("journal"), other, id=journal_id)  # type: ignore[arg-type]

    assert venue.drop((journal_id, lost)) == ["DROPPED", 0]
    assert venue.bury(journal_id, booking_id=lost) == ["NOT_FOUND"]
    assert venue.unbook(lost, journal_id)[0] == "UNBOOKED"

    assert venue.journal() == [(journal_id, other)]
    assert venue.bury(journal_id) == ["BURIED"]
    nameless: Any = venue.redis.xadd(venue.partition_key("journal"), {"nonsense": "yes"})
    assert venue.bury(nameless.decode(), booking_id="") == ["BURIED"]
    assert venue.journal() == []


def test_undone_booking_can_be_found_neither_as_hold_nor_as_booking(runner: Runner) -> None:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*1")
    venue.unbook(booking_id, venue.journal()[0][0])
    assert (venue.read(booking_id), venue.read_booking(booking_id)) == (["NOT_FOUND"], ["NOT_FOUND"])


def test_owner_of_a_refused_booking_is_told_and_may_use_the_key_again(runner: Runner) -> None:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*1", once="k")
    assert venue.unbook(booking_id, refused_owner="ana", once="k", body="other")[0] == "UNBOOKED"
    assert venue.book("0:1;0*1", once="k") == ["REPLAYED", booking_id]  # the key was somebody else's
    assert venue.unbook(booking_id, refused_owner="ana", once="k") == ["NOT_FOUND"]
    assert (venue.read(booking_id), venue.read_booking(booking_id)) == (["REFUSED"], ["REFUSED"])
    assert venue.read_booking(booking_id, owner="bea") == ["NOT_FOUND"]
    assert venue.book("0:1;0*1", once="k")[0] == "CONFIRMED"
    consistent(venue)


def test_booking_is_journaled_until_its_entry_is_dropped(runner: Runner) -> None:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*1")
    [(journal_id, entry)] = venue.journal()
    _, found_id, fields = venue.read_booking(booking_id)
    assert (found_id, dict(zip(fields[::2], fields[1::2], strict=True))) == (journal_id, entry)
    venue.redis.xdel(venue.partition_key("journal"), journal_id)
    assert venue.read_booking(booking_id) == ["RECORDED"]


# --- loading ---------------------------------------------------------------------------------------------------------

LEDGER = [
    (new_id(), "0:1;0*3;1#0,1,2", "ana"),
    (new_id(), "0:1;1#19", "bea"),
    (new_id(), "0:1;0*1", "ana"),
]


def test_loaded_event_has_what_the_ledger_has_and_nothing_else(runner: Runner) -> None:
    venue = Venue(runner)
    venue.held("0:1;0*5;1#5", ttl_ms=1_000)
    venue.booked("0:1;1#6")
    venue.load(epoch=2, bookings=LEDGER, batch_size=2)
    stored = consistent(venue)
    assert stored.users == {"ana": 7, "bea": 1}
    assert (stored.holds, list(stored.bookings)) == ({}, [booking_id for booking_id, _, _ in LEDGER])
    assert (venue.counts(0), venue.counts(1)) == ((6, 0, 4), (16, 0, 4))
    assert venue.book("0:1;0*1")[1] == "2"
    assert venue.confirm(LEDGER[0][0], attempt="a1") == ["BOOKED"]


def test_event_is_not_on_sale_while_it_is_loaded(runner: Runner) -> None:
    venue = Venue(runner)
    assert venue.begin_load(2) == ["LOADING"]
    venue.load_bookings(2, LEDGER)
    assert venue.adopt_bookings(2) == ["ADOPTED"]
    venue.load_places(2, LEDGER)
    assert venue.hold("0:1;0*1") == ["NOT_LOADED", 1]
    assert venue.redis.smembers(venue.partition_key("live")) == set()
    venue.finish_load(2)
    assert venue.hold("0:1;0*1")[0] == "HELD"
    consistent(venue)


def test_steps_of_a_load_sent_twice_count_once(runner: Runner) -> None:
    venue = Venue(runner)
    assert [venue.begin_load(2), venue.begin_load(2)] == [["LOADING"]] * 2
    assert venue.load_bookings(2, LEDGER, times=2) == ["COUNTED"] * 2
    for _ in range(2):
        assert venue.adopt_bookings(2) == ["ADOPTED"]
        venue.load_places(2, LEDGER)
    first = venue.finish_load(2)
    assert first[0] == "READY"
    with runner.writes_nothing():
        assert venue.finish_load(2) == first
        assert venue.begin_load(2) == ["STALE"]
        assert venue.adopt_bookings(2) == ["STALE"]
        assert runner.run("load_places", [venue.event], [2, 0, "", "sold:0:0", 9]) == ["STALE"]
    consistent(venue)
    assert venue.counts(0) == (6, 0, 4)


def test_batches_of_one_customer_add_up_in_whatever_order_they_come_and_come_again(runner: Runner) -> None:
    venue = Venue(runner)
    venue.begin_load(2)
    for booking in (LEDGER[2], LEDGER[0], LEDGER[1]):
        venue.load_bookings(2, [booking], times=2)
    venue.adopt_bookings(2)
    venue.load_places(2, LEDGER)
    venue.finish_load(2)
    assert consistent(venue).users == {"ana": 7, "bea": 1}
    assert (venue.counts(0), venue.counts(1)) == ((6, 0, 4), (16, 0, 4))


def test_long_batch_of_bookings_over_any_legs_is_added_up_rightly(runner: Runner) -> None:
    """Longer than what one command takes; some claim several sections at once, some one place or a list of seats."""
    floor = {"id": "floor", "capacity": 2_000, "price": 1}
    stalls = {"id": "stalls", "rows": [{"id": "A", "seats": "1-600"}], "price": 1}
    venue = Venue(runner, floor, stalls, stops=["A", "B", "C"])
    texts = [("0:1;1#{}", "1:2;0*2", "0:2;1#{}", "0:2;0*1;1#{}")[seat % 4].format(seat) for seat in range(600)]
    bookings = [(new_id(), text, f"customer-{number % 7}") for number, text in enumerate(texts)]
    venue.load(epoch=2, bookings=bookings, batch_size=600, twice=True)
    stored = consistent(venue)
    assert sum(stored.users.values()) == 150 * (1 + 2 + 1 + 2)
    assert [venue.state(f"sold:{section}:{leg}") for section in (0, 1) for leg in (0, 1)] == [150, 450, 450, 300]


def test_begin_of_a_load_that_comes_twice_throws_nothing_away(runner: Runner) -> None:
    venue = Venue(runner)
    venue.begin_load(2)
    venue.load_bookings(2, LEDGER)
    venue.adopt_bookings(2)
    venue.load_places(2, LEDGER)
    with runner.writes_nothing():
        assert venue.begin_load(2) == ["LOADING"]
    venue.finish_load(2)
    assert venue.counts(0) == (6, 0, 4)


def test_later_load_ends_an_earlier_one_that_is_under_way(runner: Runner) -> None:
    venue = Venue(runner)
    venue.begin_load(2)
    venue.load_bookings(2, LEDGER[:1])
    assert venue.begin_load(3) == ["LOADING"]
    with runner.writes_nothing():
        assert venue.begin_load(2) == ["STALE"]
        assert venue.adopt_bookings(2) == ["STALE"]
        assert venue.finish_load(2) == ["STALE"]
    venue.load_bookings(3, LEDGER)
    assert venue.load_bookings(2, LEDGER[1:]) == ["STALE"]
    assert venue.adopt_bookings(3) == ["ADOPTED"]
    venue.load_places(3, LEDGER)
    assert venue.finish_load(3)[0] == "READY"
    consistent(venue)
    assert venue.load_bookings(2, [(new_id(), "0:1;0*1", "zoe")]) in ([], ["STALE"])  # who shares a bit is added to
    consistent(venue)


def test_load_of_which_a_part_was_lost_is_not_adopted(runner: Runner) -> None:
    venue = Venue(runner)
    venue.begin_load(2)
    venue.load_bookings(2, LEDGER[:1])
    runner.redis.delete(venue.load_key("new_users", 2))
    venue.load_bookings(2, LEDGER[1:2])
    with runner.writes_nothing():
        assert venue.adopt_bookings(2) == ["INCOMPLETE", 2, 1]
    runner.redis.delete(venue.load_key("new_bookings", 2))
    assert venue.adopt_bookings(2) == ["INCOMPLETE", 0, 1]


def test_what_a_loader_leaves_behind_goes_away_and_what_it_has_finished_stays(runner: Runner) -> None:
    venue = Venue(runner)
    names = [venue.load_key(name, 2) for name in ("new_bookings", "new_users")]
    venue.begin_load(2)
    venue.load_bookings(2, LEDGER)
    assert all(0 < runner.redis.ttl(name) <= KEYS_TTL_S for name in names)  # type: ignore[operator]
    venue.adopt_bookings(2)
    assert [runner.redis.ttl(venue.key(name)) for name in ("bookings", "users")] == [-1, -1]
    assert runner.redis.exists(*names) == 0


def test_customers_are_told_apart_by_their_bytes(runner: Runner) -> None:
    venue = Venue(runner)
    customers = ("Żaneta", "ana|x", "ana\r\nx", "名")
    venue.load(epoch=2, bookings=[(new_id(), "0:1;0*1", customer) for customer in customers])
    assert consistent(venue).users == dict.fromkeys(customers, 1)


def test_seq_goes_on_over_loads_even_when_one_was_left_in_the_middle(runner: Runner) -> None:
    venue = Venue(runner)
    venue.booked("0:1;0*1")
    seq = venue.state("seq")
    venue.begin_load(2)
    venue.load(epoch=3)
    assert venue.state("seq") > seq


def test_loaded_event_may_be_oversold_but_sells_no_more(runner: Runner) -> None:
    """As when the ledger's capacity was larger: what it sold stands."""
    venue = Venue(runner)
    venue.load(epoch=2, bookings=[(new_id(), "0:1;0*12", "bea")])
    assert venue.counts(0) == (-2, 0, 12)
    assert venue.hold("0:1;0*1") == ["UNAVAILABLE", 0, 1, 0, [1, "0*1:0"]]


def test_event_of_counted_places_alone_can_be_loaded(runner: Runner) -> None:
    venue = Venue(runner, {"id": "floor", "price": 1, "capacity": 3})
    venue.load(epoch=2, bookings=[(new_id(), "0:1;0*1", "bea")])
    venue.held("0:1;0*2")
    consistent(venue)


def test_status_of_an_older_version_changes_nothing(runner: Runner) -> None:
    venue = Venue(runner)
    assert venue.set_status("closed", version=3)[0] == "SET"
    assert venue.set_status("closed", version=3)[0] == "SET"
    assert venue.set_status("open", version=2) == ["OLDER"]
    assert venue.hold("0:1;0*1")[0] == "NOT_OPEN"
    assert venue.set_status("open", version=4)[0] == "SET"
    assert venue.hold("0:1;0*1")[0] == "HELD"


# --- memory ----------------------------------------------------------------------------------------------------------


def test_server_out_of_memory_refuses_claims_before_the_first_write_and_still_gives_back(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id, lapsing, booking_id = (
        venue.held("0:1;0*1;1#0"),
        venue.held("0:1;0*1;1#1", ttl_ms=1),
        venue.booked("0:1;1#2"),
    )
    venue.advance(1)
    runner.redis.config_set("maxmemory", "1")
    try:
        with runner.writes_nothing():
            for claim in (
                partial(venue.hold, "0:1;0*1"),
                partial(venue.book, "0:1;0*1"),
                partial(venue.confirm, hold_id),
                partial(venue.begin_load, 2),
            ):
                with pytest.raises(OutOfMemoryError):
                    claim()
            assert venue.read(hold_id)[0] == "ACTIVE"
            assert venue.read_booking(booking_id)[0] == "JOURNALED"
        assert venue.snapshot()[0] == "SNAPSHOT"
        assert venue.read(lapsing) == ["EXPIRED"]
        assert venue.reap()[0] == "REAPED"
        assert venue.release(hold_id)[0] == "RELEASED"
        assert venue.unbook(booking_id, venue.journal()[0][0])[0] == "UNBOOKED"
    finally:
        runner.redis.config_set("maxmemory", "0")
    stored = consistent(venue)
    assert (stored.users, stored.held, stored.sold) == ({}, set(), set())


# --- the journal's bound, and dead letters ---------------------------------------------------------------------------


@pytest.mark.parametrize("details", [b"x" * 100, b"x" * 60_000])
def test_journal_takes_no_more_than_its_bound_and_one_entry(runner: Runner, details: bytes) -> None:
    venue = Venue(runner, {"id": "floor", "price": 1, "capacity": 10_000}, policy={"max_places_per_customer": 10_000})
    journal, bound = venue.partition_key("journal"), 1 << 20
    entry = dict.fromkeys(("event", "booking", "owner", "places", "once", "body"), "x" * 26) | {"details": details}
    for _ in range(100):
        pipeline = runner.redis.pipeline()
        for _ in range(1 if len(details) > 1_000 else 100):
            pipeline.xadd(journal, entry)  # type: ignore[arg-type]
        pipeline.execute()
        answer = venue.book("0:1;0*1", journal_max=bound)
        is_full = runner.redis.memory_usage(journal, samples=0) > bound  # type: ignore[operator]
        assert answer[0] == ("JOURNAL_FULL" if is_full else "CONFIRMED")
        if is_full:
            break
    else:
        raise AssertionError("the journal was never full")
    runner.redis.xtrim(journal, 0)  # as a drain would, once Postgres is back
    assert venue.book("0:1;0*1", journal_max=bound)[0] == "CONFIRMED"


def test_answers_of_before_come_again_when_the_journal_is_full(runner: Runner) -> None:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    first = venue.confirm(hold_id, attempt="a1", once="k")
    venue.redis.delete(f"hf:{{{venue.partition}}}:once:k")
    assert venue.confirm(hold_id, attempt="a1", journal_max=1) == first
    other = venue.booked("0:1;0*2", once="k2")
    assert venue.book("0:1;0*2", once="k2", journal_max=1) == ["REPLAYED", other]


def test_revived_entry_is_the_one_that_the_booking_names(runner: Runner) -> None:
    venue = Venue(runner)
    booking_id = new_id()
    first = venue.book("0:1;0*2", booking_id=booking_id)
    [(journal_id, fields)] = venue.journal()
    venue.bury(journal_id)
    assert venue.read_booking(booking_id) == ["BURIED", journal_id, "letter"]
    status, revived_id = venue.revive(journal_id, booking_id, **fields)
    assert (status, venue.journal()) == ("REVIVED", [(revived_id, fields)])
    assert venue.read_booking(booking_id)[:2] == ["JOURNALED", revived_id]
    assert venue.book("0:1;0*2", booking_id=booking_id) == [*first[:4], revived_id, first[5]]
    assert not runner.redis.exists(venue.partition_key("dead"))
    consistent(venue)


def test_revived_entry_of_a_booking_that_redis_has_forgotten_is_in_the_journal_alone(runner: Runner) -> None:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2")
    [(journal_id, fields)] = venue.journal()
    venue.bury(journal_id)
    venue.load(epoch=2)
    assert venue.revive(journal_id, booking_id, **fields)[0] == "REVIVED"
    assert (len(venue.journal()), venue.read_booking(booking_id)) == (1, ["NOT_FOUND"])
    consistent(venue)


# --- archive_event ---------------------------------------------------------------------------------------------------


def test_archived_event_leaves_no_key_but_what_the_partition_keeps_of_others(runner: Runner) -> None:
    other = Venue(runner, event_id="gig-4")  # of the same partition
    trail = other.partition_key("trail")  # what became of holds is the history's, and stays for it
    kept = runner.dump() | {trail: None}
    venue = Venue(runner)
    assert venue.partition == other.partition
    venue.load(epoch=2, bookings=[(new_id(), "0:1;0*2;1#4", "ana")])
    venue.release(venue.held("0:1;1#0"))

    assert venue.archive() == ["ARCHIVED"]

    assert runner.dump() | {trail: None} == kept


def test_event_is_archived_beside_entries_of_others_but_not_beside_a_long_journal(runner: Runner) -> None:
    venue, other = Venue(runner), Venue(runner, event_id="gig-4")
    journal = other.partition_key("journal")
    other.booked("0:1;0*1")
    for _ in range(256):
        runner.redis.xadd(journal, {"event": "gig-4"})
    assert venue.archive() == ["JOURNALED"], "more entries than one call may look through"
    runner.redis.xtrim(journal, maxlen=256, approximate=False)

    assert venue.archive() == ["ARCHIVED"]


def test_event_with_a_dead_letter_is_not_archived(runner: Runner) -> None:
    venue, other = Venue(runner), Venue(runner, event_id="gig-4")
    venue.booked("0:1;0*2")
    journal_id = venue.journal()[0][0]
    fields = (LetterField("event", text=venue.id), LetterField("owner", text="ana"))
    letter = msgspec.json.encode(Letter("nobody knows", 1, fields)).decode()
    venue.bury(journal_id, letter)

    assert venue.archive() == ["JOURNALED"]
    for count in range(256):
        runner.redis.hset(venue.partition_key("dead"), f"9-{count}", "gibberish")
    assert other.archive() == ["JOURNALED"], "more letters than one call may look through"
    runner.redis.hdel(venue.partition_key("dead"), "9-0")
    assert other.archive() == ["ARCHIVED"]
    assert venue.discard(journal_id, letter) == ["DISCARDED"]
    assert venue.archive() == ["ARCHIVED"]


def test_discarding_a_letter_with_its_booking_frees_only_what_its_entry_took(runner: Runner) -> None:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2;1#4", once="k")
    journal_id = venue.journal()[0][0]
    venue.bury(journal_id)
    assert venue.discard_booking(journal_id, booking_id, "another letter", once="k") == ["NOT_FOUND"]
    assert venue.read_booking(booking_id)[0] == "BURIED"
    assert venue.discard_booking(journal_id, booking_id, once="k")[0] == "UNBOOKED"
    assert venue.read_booking(booking_id, owner="ana") == ["REFUSED"]
    venue.booked("0:1;0*2;1#4", once="k")  # the key is as new, and so are the places
    consistent(venue)

    venue.bury(journal_id := venue.journal()[0][0])
    venue.load(epoch=2, bookings=[(booking_id, "0:1;0*2;1#4", "ana")])
    assert venue.discard_booking(journal_id, booking_id) == ["DISCARDED"]
    assert venue.read_booking(booking_id) == ["RECORDED"]
    consistent(venue)


def test_finish_load_that_comes_twice_mends_the_index_of_live_events(runner: Runner) -> None:
    venue = Venue(runner)
    runner.redis.srem(venue.partition_key("live"), venue.id)

    assert venue.finish_load(epoch=1)[0] == "READY"

    assert runner.redis.smembers(venue.partition_key("live")) == {venue.id.encode()}
