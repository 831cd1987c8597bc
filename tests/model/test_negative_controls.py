"""Every safety of the scripts is taken out once, and the checkers of this suite must notice; else they check nothing.

A mutant is killed by a short history that the real scripts live through: compared step by step with what was promised,
and at its end with the invariants of ``tests/invariants.py``.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis
from invariants import assert_consistent
from script_mutants import mutated
from script_runner import FROZEN_MS, PARTITIONS, TTL_MS, ManyClaim, ManyConfirmation, Runner, Venue, new_id

History = Callable[[Venue], None]


class Mutant(msgspec.Struct, frozen=True):
    """A script with something replaced, and the history that finds it out."""

    script: str
    original: str
    replacement: str
    history: History


def lapsed_hold_is_confirmed(venue: Venue) -> None:
    hold_ids = [venue.held("0:1;0*2"), venue.held("0:1;0*2;1#3")]
    venue.advance(TTL_MS)
    for hold_id in hold_ids:
        assert venue.confirm(hold_id) == ["EXPIRED"]


def lapsed_hold_is_extended(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*2;1#3")
    venue.advance(TTL_MS)
    assert venue.extend(hold_id) == ["EXPIRED"]


def hold_is_extended_for_ever(venue: Venue) -> None:
    assert venue.extend(venue.held("0:1;0*2"), ttl_ms=10**9)[3] == FROZEN_MS + 900_000


def stranger_takes_over(venue: Venue) -> None:
    for places in ("0:1;0*2", "0:1;0*2;1#3"):
        hold_id = venue.held(places, owner="bea")
        assert venue.release(hold_id) == ["NOT_FOUND"]
        assert venue.confirm(hold_id) == ["NOT_FOUND"]


def lost_reply_is_asked_for_by_somebody_else(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*2")
    assert venue.confirm(hold_id, attempt="a1")[0] == "CONFIRMED"
    assert venue.confirm(hold_id, attempt="a2") == ["BOOKED"]


def key_is_used_for_another_request(venue: Venue) -> None:
    venue.held("0:1;0*2", once="k", body="b1")
    assert venue.hold("0:1;0*3", once="k", body="b2") == ["KEY_REUSED"]


def key_confirms_another_hold(venue: Venue) -> None:
    first, second = venue.held("0:1;0*2"), venue.held("0:1;0*1")
    assert venue.confirm(first, once="k", body="b1")[0] == "CONFIRMED"
    assert venue.confirm(second, once="k", body="b2") == ["KEY_REUSED"]


def event_is_cancelled(venue: Venue) -> None:
    hold_ids = [venue.held("0:1;0*2"), venue.held("0:1;0*2;1#3")]
    venue.set_status("cancelled")
    for hold_id in hold_ids:
        assert venue.confirm(hold_id) == ["NOT_OPEN", "cancelled"]


def refused_booking_is_sent_once_more(venue: Venue) -> None:
    booking_id = venue.booked("0:1;0*2")
    venue.unbook(booking_id, venue.journal()[0][0], refused_owner="ana")
    assert venue.book("0:1;0*2", booking_id=booking_id) == ["REFUSED"]


def rebuild_has_closed_the_state(venue: Venue) -> None:
    """As it does before it drains the journal for the last time: what is held or booked behind that is lost."""
    hold_id = venue.held("0:1;0*1")
    removed = {name: venue.redis.hget(venue.key("state"), name) for name in ("status", "epoch")}
    venue.redis.hdel(venue.key("state"), *removed)
    venue_is_not_loaded(venue, hold_id)
    venue.redis.hset(venue.key("state"), "status", "open")  # as scripts of an earlier version do, and nothing else may
    venue_is_not_loaded(venue, hold_id)
    venue.redis.hset(venue.key("state"), mapping=removed)


def venue_is_not_loaded(venue: Venue, hold_id: str) -> None:
    before = venue.runner.dump()
    with contextlib.suppress(redis.ResponseError):
        assert venue.confirm(hold_id) == ["NOT_LOADED"]
        assert venue.set_status("open") == ["NOT_LOADED"]
        assert [venue.hold(places)[0] for places in ("0:1;0*1", "0:1;0*1;1#3")] == ["NOT_LOADED"] * 2
        assert venue.book("0:1;0*1") == ["NOT_LOADED"]
    assert venue.runner.dump() == before


def places_are_wanted_twice(venue: Venue) -> None:
    """The invariants alone find it: a script that thinks it did well says so."""
    venue.held("0:1;0*8;1#3,4", owner="bea")
    venue.booked("0:1;1#5,6", owner="bea")
    for places in ("0:1;0*3", "0:1;0*3;1#0", "0:1;1#3", "0:1;1#5", "0:1;1#2,3", "0:1;1#6,7", "0:1;1?8", "0:1;1?4"):
        venue.hold(places, owner="cem")


def places_are_booked_twice(venue: Venue) -> None:
    venue.held("0:1;0*8;1#3,4", owner="bea")
    venue.booked("0:1;1#5", owner="bea")
    for places in ("0:1;0*3", "0:1;1#3", "0:1;1#5", "0:1;1?9"):
        venue.book(places, owner="cem")


def sale_has_ended(venue: Venue) -> None:
    venue.held("0:1;0*1")  # there is a deadline before that of the next hold, which is then a usual claim
    venue.set_status("closed")
    for places in ("0:1;1#3", "0:1;1#4,5"):
        assert venue.hold(places) == ["NOT_OPEN", 1, "closed"]
        assert venue.book(places) == ["NOT_OPEN", "closed"]


def every_call_is_sent_twice(venue: Venue) -> None:
    hold_id, booking_id, wanted = new_id(), new_id(), "0:1;0*2"
    for _ in range(2):
        venue.hold(wanted, hold_id=hold_id)
        venue.hold("0:1;0*1;1#3", hold_id="h" + hold_id[1:])
    for _ in range(2):
        venue.book(wanted, booking_id=booking_id)


def customer_wants_more_and_more(venue: Venue) -> None:
    venue.held("0:1;0*10")
    venue.booked("0:1;1?10")
    assert venue.hold("0:1;1#19") == ["LIMIT", 1, "max_places_per_customer", 20]


def line_is_overtaken(venue: Venue) -> None:
    venue.held("0:1;0*8", owner="bea")
    holds = [venue.held("0:1;0*1", owner="bea") for _ in range(2)]
    first, second = venue.joined("0:1;0*1", owner="fay"), venue.joined("0:1;0*1", owner="sid")
    assert venue.offered() == []
    for hold_id in holds:
        venue.release(hold_id, owner="bea")
        assert venue.hold("0:1;0*1", owner="cem") == ["LINE", 1]
        assert venue.book("0:1;0*1", owner="cem") == ["LINE"]
        venue.offer()
    assert [venue.read(entry, owner="")[0] for entry in (first, second)] == ["ACTIVE"] * 2
    venue.leave(first)
    assert venue.read(first, owner="") == ["RELEASED"]


def batch_wants_a_seat_twice(venue: Venue) -> None:
    reply = venue.hold_many(("a", TTL_MS, "0:1;1#3"), ("b", TTL_MS, "0:1;1#3"))
    assert (reply[0], isinstance(reply[3], int)) == ("HELD", False)


def batch_wants_what_is_gone(venue: Venue) -> None:
    venue.held("0:1;0*8;1#3", owner="bea")
    venue.booked("0:1;1#4", owner="bea")
    reply = venue.hold_many(*((f"c{number}", TTL_MS, text) for number, text in enumerate(("0:1;0*3", "0:1;1#4"))))
    assert not any(isinstance(answer, int) for answer in reply[2:])
    assert [answer[:2] for answer in reply[2:]] == [[1, 0], [0, 1]]


def batch_of_strangers_has_one_customer_s_limit(venue: Venue) -> None:
    venue.held("0:1;0*9", owner="bea")
    venue.booked("0:1;1?10", owner="bea")
    asked = (ManyClaim("a", TTL_MS, "0:1;1#19", "bea"), ManyClaim("b", TTL_MS, "0:1;1#18", "bea"))
    assert [answer == "GENERAL" for answer in venue.hold_crowd(*asked)[2:]] == [False, True]


def batch_makes_two_holds_of_a_key(venue: Venue) -> None:
    claims = [ManyClaim(name, TTL_MS, f"0:1;1#{seat}", "ana", "k", "b1") for name, seat in (("a", 1), ("b", 2))]
    assert venue.hold_crowd(*claims)[3] == "GENERAL"
    assert venue.hold_crowd(claims[1]) == ["GENERAL"]


def batch_is_refused_what_has_lapsed(venue: Venue) -> None:
    venue.held("0:1;1#3", owner="bea")
    venue.advance(TTL_MS)
    assert venue.hold_many(("a", TTL_MS, "0:1;1#3"))[2:] == [venue.now() + TTL_MS]


def confirmations_of_a_crowd(venue: Venue, *requests: ManyConfirmation) -> list[bool]:
    reply = venue.confirm_many(*requests)
    return [False] * len(requests) if reply == ["GENERAL"] else [answer != "GENERAL" for answer in reply[2:]]


def crowd_confirms_what_it_may(venue: Venue) -> None:
    for hold_id, ttl_ms in (("a", TTL_MS), ("late", 500), ("b", TTL_MS)):
        venue.held("0:1;0*1", hold_id=hold_id, ttl_ms=ttl_ms)
    stranger = ManyConfirmation(venue.held("0:1;0*1", owner="bea"), owner="ana")
    venue.advance(500)
    asked = ["a", "a", "late", "b"]
    requests = [ManyConfirmation(hold_id, attempt=f"a{number}") for number, hold_id in enumerate(asked)]
    assert confirmations_of_a_crowd(venue, *requests, stranger) == [True, False, False, True, False]


def crowd_s_keys_confirm_another_hold(venue: Venue) -> None:
    holds = [venue.held("0:1;0*1") for _ in range(3)]
    requests = [ManyConfirmation(hold_id, once="k") for hold_id in holds]
    assert confirmations_of_a_crowd(venue, *requests[:2]) == [True, False]
    assert confirmations_of_a_crowd(venue, requests[2]) == [False]


def crowd_is_in_the_way_of_the_event(venue: Venue) -> None:
    request = ManyConfirmation(venue.held("0:1;0*1"))
    state = venue.key("state")
    for field, value in (("status", "cancelled"), ("audited", "f" * 40), ("status", ""), ("epoch", "")):
        kept: Any = venue.redis.hget(state, field)
        if value:
            venue.redis.hset(state, field, value)
        else:
            venue.redis.hdel(state, field)
        before = venue.runner.dump()
        with contextlib.suppress(redis.ResponseError):
            assert confirmations_of_a_crowd(venue, request) == [False]
        assert venue.runner.dump() == before
        venue.redis.hset(state, field, kept)


def crowd_fills_the_journal(venue: Venue) -> None:
    requests = [ManyConfirmation(venue.held("0:1;0*1")) for _ in range(3)]
    reply = venue.confirm_many(*requests, journal_max=2 * 80 * 1024 - 1)
    assert reply == ["GENERAL"]


def batch_comes_before_the_line(venue: Venue) -> None:
    venue.held("0:1;0*9", owner="bea")
    hold_id = venue.held("0:1;0*1", owner="bea")
    venue.joined("0:1;0*1", owner="fay")
    venue.release(hold_id, owner="bea")
    assert venue.hold_many(("a", TTL_MS, "0:1;0*1")) == ["GENERAL"]


def customer_comes_and_goes(venue: Venue) -> None:
    for _ in range(3):
        venue.release(venue.held("0:1;0*10"))


def everything_lapses_and_is_wanted_again(venue: Venue) -> None:
    venue.held("0:1;0*10", owner="bea")
    venue.advance(TTL_MS)
    assert venue.hold("0:1;0*10")[0] == "HELD"


def rows_fill_and_empty(venue: Venue) -> None:
    first = venue.held("0:1;1?9", owner="bea")
    second = venue.held("0:1;1?10", owner="cem")
    assert venue.hold("0:1;1?2")[0] == "UNAVAILABLE"
    assert venue.hold("0:1;1?1")[0] == "HELD"
    venue.release(first, owner="bea")
    venue.release(second, owner="cem")
    assert venue.hold("0:1;1?10")[0] == "HELD"


def journal_is_full(venue: Venue) -> None:
    venue.booked("0:1;0*1")
    for places in ("0:1;1#4", "0:1;0*2;1#3"):
        hold_id = venue.held(places)
        with venue.runner.writes_nothing():
            assert venue.confirm(hold_id, journal_max=1) == ["JOURNAL_FULL"]
            assert venue.book("0:1;0*2", journal_max=1) == ["JOURNAL_FULL"]
        assert venue.confirm(hold_id)[0] == "CONFIRMED"


def letter_is_revived_twice(venue: Venue) -> None:
    booking_id = venue.booked("0:1;0*2")
    ((journal_id, _),) = venue.journal()
    venue.bury(journal_id)
    assert venue.revive(journal_id, booking_id, event="gig")[0] == "REVIVED"
    assert venue.revive(journal_id, booking_id, event="gig") == ["NOT_FOUND"]
    assert len(venue.journal()) == 1


def letter_is_booked_again_twice(venue: Venue) -> None:
    venue.booked("0:1;0*2")
    ((journal_id, _),) = venue.journal()
    venue.bury(journal_id)
    letter = (journal_id, "letter")
    assert venue.book("0:1;0*2", letter=letter)[0] == "CONFIRMED"
    assert venue.discard(journal_id) == ["NOT_FOUND"]
    assert venue.book("0:1;0*2", letter=letter) == ["GONE"]


def letter_is_booked_again_after_it_was_discarded(venue: Venue) -> None:
    venue.booked("0:1;0*2")
    ((journal_id, _),) = venue.journal()
    venue.bury(journal_id)
    assert venue.discard(journal_id) == ["DISCARDED"]
    assert venue.book("0:1;0*2", letter=(journal_id, "letter")) == ["GONE"]


def booking_is_undone_twice(venue: Venue) -> None:
    booking_id = venue.booked("0:1;0*2;1#3")
    venue.unbook(booking_id)
    venue.held("0:1;0*2;1#3", owner="bea")
    assert venue.unbook(booking_id) == ["NOT_FOUND"]


def another_server_has_taken_over(venue: Venue) -> None:
    hold_ids = [venue.held("0:1;0*2"), venue.held("0:1;0*2;1#3")]
    venue.come_from_another_server()
    for hold_id in hold_ids:
        assert venue.confirm(hold_id)[0] == "UNAUDITED"
    assert venue.book("0:1;0*2")[0] == "UNAUDITED"


def server_changes_during_an_audit(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*2")
    venue.come_from_another_server()
    venue.mark_audited(1, server="the one before")
    assert venue.confirm(hold_id)[0] == "UNAUDITED"


def two_reconcilers_have_read_the_same(venue: Venue) -> None:
    venue.held("0:1;0*2")
    venue.redis.hincrby(venue.key("state"), "free:0:0", -3)
    for _ in range(2):
        venue.repair("count|free:0:0|3", repairs=0)


def hold_is_confirmed_before_it_is_repaired_away(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*2;1#3")
    record = venue.redis.hget(venue.key("holds"), hold_id).decode()  # type: ignore[union-attr]
    venue.confirm(hold_id)
    venue.repair(f"end_hold|{hold_id}|{record}", "clear_held|3", "count|held:0:0|-2", "count|free:0:0|2")


def load_is_interrupted(venue: Venue) -> None:
    bookings = [(new_id(), "0:1;0*2;1#3", "ana"), (new_id(), "0:1;0*1", "ana")]
    venue.begin_load(2)
    venue.load_bookings(2, bookings, times=2)  # the first reply was lost
    for _ in range(2):
        venue.adopt_bookings(2)
    venue.load_places(2, bookings)
    venue.finish_load(2)


def loader_comes_late(venue: Venue) -> None:
    venue.load(epoch=3)
    assert venue.begin_load(2) == ["STALE"]
    venue.begin_load(4)
    assert venue.load_bookings(3, [(new_id(), "0:1;0*2", "ana"), (new_id(), "0:1;0*1", "ana")]) == ["STALE"]
    assert venue.adopt_bookings(3) == ["STALE"]
    venue.finish_load(4)


def load_loses_what_was_sent(venue: Venue, name: str, member: int) -> None:
    bookings = [(new_id(), "0:1;0*2;1#3", "ana"), (new_id(), "0:1;0*1", "bea")]
    venue.begin_load(2)
    venue.load_bookings(2, bookings)
    venue.redis.hdel(venue.load_key(name, 2), bookings[0][member])
    if venue.adopt_bookings(2)[0] == "INCOMPLETE":
        venue.load(epoch=3, bookings=bookings)
    else:
        venue.load_places(2, bookings)
        venue.finish_load(2)


def server_has_lost_a_booking(venue: Venue) -> None:
    load_loses_what_was_sent(venue, "new_bookings", 0)


def server_has_lost_a_customer(venue: Venue) -> None:
    load_loses_what_was_sent(venue, "new_users", 2)


def organizer_s_changes_overtake_each_other(venue: Venue) -> None:
    venue.set_status("closed", version=3)
    assert venue.set_status("open", version=2) == ["OLDER"]


MUTANTS = {
    "a hold is honoured after its deadline": Mutant(
        "confirm_hold", "hold.deadline <= ev.now", "false", lapsed_hold_is_confirmed
    ),
    "a lapsed hold is revived": Mutant("extend_hold", "hold.deadline <= ev.now", "false", lapsed_hold_is_extended),
    "an extension has no bound": Mutant(
        "extend_hold", "math.min(ev.now + ttl, math.max", "math.max(ev.now + ttl, math.max", hold_is_extended_for_ever
    ),
    "a release lets anybody in before the line": Mutant(
        "release_hold", "if to == 'free' and ev.waiting and ev.waiting ~= '0' then", "if false then", line_is_overtaken
    ),
    "a claim does not ask whether a line comes first": Mutant(
        "hold_places", "elseif line_is_first(ev) then", "elseif false then", line_is_overtaken
    ),
    "the usual claim does not ask whether there is a line": Mutant(
        "hold_places", "and not waiting then", "then", line_is_overtaken
    ),
    "a batch does not ask whether a line comes first": Mutant(
        "hold_many", " or waiting or", " or", batch_comes_before_the_line
    ),
    "a batch does not see what it has taken": Mutant(
        "hold_many", "held[byte] = held[byte] + bits[i]", "held[byte] = held[byte]", batch_wants_a_seat_twice
    ),
    "a batch does not see what is sold": Mutant(
        "hold_many", "local is_sold = byte and bit.band(sold[byte], bits[i]) > 0", "local is_sold = false",
        batch_wants_what_is_gone,
    ),
    "a batch takes more than there is": Mutant(
        "hold_many", "and (byte or quantity <= free) then", "then", batch_wants_what_is_gone
    ),
    "a batch forgets what its customers have taken in it": Mutant(
        "hold_many", "totals[customer] = total + quantity", "totals[customer] = total",
        batch_of_strangers_has_one_customer_s_limit,
    ),
    "a batch does not look for its keys": Mutant(
        "hold_many", "answered[once] or ", "", batch_makes_two_holds_of_a_key
    ),
    "a batch takes a key twice": Mutant(
        "hold_many", " or taken[key]", "", batch_makes_two_holds_of_a_key
    ),
    "a batch leaves lapsed holds where they are": Mutant(
        "hold_many", "  end_lapsed(keys, time, count)\n", "", batch_is_refused_what_has_lapsed
    ),
    "a shared confirmation is anybody's": Mutant(
        "confirm_many", "whose == ARGV[FIRST + (i - 1) * ARGUMENTS + 1] and", "whose and", crowd_confirms_what_it_may
    ),
    "a shared confirmation honours a hold after its deadline": Mutant(
        "confirm_many", "and now < deadline ", "", crowd_confirms_what_it_may
    ),
    "a shared call books a hold twice": Mutant(
        "confirm_many", "and not taken[id]", "", crowd_confirms_what_it_may
    ),
    "a shared confirmation does not look for its key": Mutant(
        "confirm_many", "answered[once] or ", "", crowd_s_keys_confirm_another_hold
    ),
    "a shared call of confirmations takes a key twice": Mutant(
        "confirm_many", " or taken[key]", "", crowd_s_keys_confirm_another_hold
    ),
    "a shared confirmation is of a cancelled event": Mutant(
        "confirm_many", " or status == 'cancelled'", "", crowd_is_in_the_way_of_the_event
    ),
    "a shared confirmation is of a state that a rebuild has closed": Mutant(
        "confirm_many", "(status and epoch and", "(epoch and", crowd_is_in_the_way_of_the_event
    ),
    "a shared confirmation goes on after a change of server": Mutant(
        "confirm_many", " or audited ~= server_id()", "", crowd_is_in_the_way_of_the_event
    ),
    "a shared call does not count its own entries against the journal's bound": Mutant(
        "confirm_many", "bytes_max, count - 1)", "bytes_max, 0)", crowd_fills_the_journal
    ),
    "a booking does not ask whether a line comes first": Mutant(
        "book_places", "if is_sale and not limit and line_is_first(ev) then", "if false then", line_is_overtaken
    ),
    "whoever leaves the line keeps the offer": Mutant(
        "leave_line", "local hold = find_hold(ev, entry)", "local hold", line_is_overtaken
    ),
    "anybody releases": Mutant("release_hold", "owner ~= '' and hold.owner ~= owner", "false", stranger_takes_over),
    "anybody confirms": Mutant("confirm_hold", "hold.owner ~= owner", "false", stranger_takes_over),
    "the usual confirmation is anybody's": Mutant("confirm_hold", "if whose == ARGV[2] and", "if", stranger_takes_over),
    "the usual confirmation honours a hold after its deadline": Mutant(
        "confirm_hold", "and now < deadline", "", lapsed_hold_is_confirmed
    ),
    "the usual confirmation is of a cancelled event": Mutant(
        "confirm_hold", "and status ~= 'cancelled'", "", event_is_cancelled
    ),
    "the usual confirmation is of a state that a rebuild has closed": Mutant(
        "confirm_hold", "if status and epoch and", "if", rebuild_has_closed_the_state
    ),
    "the usual claim is of a state that a rebuild has closed": Mutant(
        "hold_places", "and epoch and layout", "and layout", rebuild_has_closed_the_state
    ),
    "a booking is of a state that a rebuild has closed": Mutant(
        "book_places", "if not values[1] or not values[2] then", "if not values[1] then", rebuild_has_closed_the_state
    ),
    "the organizer opens what a rebuild has closed": Mutant(
        "set_status", " or not has_status or not epoch then", " then", rebuild_has_closed_the_state
    ),
    "the usual confirmation ignores the journal's bound": Mutant(
        "confirm_hold", "and not is_journal_full(KEYS[10], tonumber(ARGV[8]), 0)", "", journal_is_full
    ),
    "the usual confirmation goes on after a change of server": Mutant(
        "confirm_hold",
        "and audited == string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')",
        "",
        another_server_has_taken_over,
    ),
    "the usual confirmation does not look at the key": Mutant(
        "confirm_hold", "not (KEYS[13] and redis.call('EXISTS', KEYS[13]) == 1) and", "", key_confirms_another_hold
    ),
    "any attempt is taken for the first": Mutant(
        "confirm_hold", "booking.attempt ~= attempt", "false", lost_reply_is_asked_for_by_somebody_else
    ),
    "a confirmation ignores the journal's bound": Mutant(
        "confirm_hold", "if is_journal_full(keys.journal, bytes_max, 0)", "if false", journal_is_full
    ),
    "a booking ignores the journal's bound": Mutant(
        "book_places", "if is_journal_full(keys.journal, bytes_max, 0)", "if false", journal_is_full
    ),
    "a confirmation goes on after a change of server": Mutant(
        "confirm_hold", "'audited') ~= server", "'audited') == ''", another_server_has_taken_over
    ),
    "a booking goes on after a change of server": Mutant(
        "book_places", "'audited') ~= server", "'audited') == ''", another_server_has_taken_over
    ),
    "an audit of one server counts on another": Mutant(
        "mark_audited",
        "or server ~= server_id() then",
        "then return { 'STALE' } end server = server_id() if false then",
        server_changes_during_an_audit,
    ),
    "a reading is acted upon twice": Mutant(
        "repair_event", "or (repaired or '0') ~= repairs", "", two_reconcilers_have_read_the_same
    ),
    "a repair does not look again": Mutant(
        "repair_event",
        "verb.holds_true and not verb.holds_true(unpack(fields))",
        "false",
        hold_is_confirmed_before_it_is_repaired_away,
    ),
    "a dead letter is revived and stays": Mutant(
        "revive_entry", "redis.call('HDEL', keys.dead, journal_id)", "", letter_is_revived_twice
    ),
    "a refused booking is made after all by a late copy of its call": Mutant(
        "book_places", "elseif not buried_id and status_of_ended(ev, booking_id, owner) == 'REFUSED' then",
        "elseif false then", refused_booking_is_sent_once_more,
    ),
    "a dead letter is booked again and stays": Mutant(
        "book_places", "redis.call('HDEL', keys.dead, buried_id)", "", letter_is_booked_again_twice
    ),
    "a dead letter is booked again that is gone": Mutant(
        "book_places",
        "buried_id and redis.call('HGET', keys.dead, buried_id) ~= letter",
        "false",
        letter_is_booked_again_after_it_was_discarded,
    ),
    "the body of a key is not compared": Mutant(
        "hold_places", "first_body ~= body", "false", key_is_used_for_another_request
    ),
    "what is sold is not looked at": Mutant("hold_places", "if sold[i] then", "if false then", places_are_wanted_twice),
    "what is held is not looked at": Mutant(
        "hold_places", "elseif held[i] then", "elseif false then", places_are_wanted_twice
    ),
    "counts are not looked at": Mutant(
        "hold_places", "if free < item.quantity then", "if false then", places_are_wanted_twice
    ),
    "the usual claim does not look at what is sold": Mutant(
        "hold_places", "redis.call('GETBIT', KEYS[3], cell) == 1", "false", places_are_wanted_twice
    ),
    "the usual claim does not look at what is held": Mutant(
        "hold_places", "redis.call('GETBIT', KEYS[2], cell) == 1", "false", places_are_wanted_twice
    ),
    "the usual claim does not look at counts": Mutant(
        "hold_places", "if not is_seat and quantity > free then", "if false then", places_are_wanted_twice
    ),
    "the usual claim has no limit": Mutant(
        "hold_places", "<= tonumber(max_customer)", "< 1000", customer_wants_more_and_more
    ),
    "the usual claim goes on when sale has ended": Mutant(
        "hold_places", "if status == 'open' and", "if", sale_has_ended
    ),
    "the usual claim sent twice holds twice": Mutant(
        "hold_places",
        "redis.call('HSETNX', KEYS[4], hold_id, 'a|' .. deadline - now .. rest) == 1",
        "redis.call('HSET', KEYS[4], hold_id, 'a|' .. deadline - now .. rest) >= 0",
        every_call_is_sent_twice,
    ),
    "a hold sent twice holds twice": Mutant(
        "hold_places",
        "claim.again = find_hold(ev, claim.hold_id)",
        "claim.again = nil",
        every_call_is_sent_twice,
    ),
    "a booking sent twice books twice": Mutant(
        "book_places", "or find_booking(ev, booking_id, owner, attempt)", "", every_call_is_sent_twice
    ),
    "a booking does not look at what is sold": Mutant(
        "book_places", "if sold[i] then", "if false then", places_are_booked_twice
    ),
    "a booking does not look at what is held": Mutant(
        "book_places", "elseif held[i] then", "elseif false then", places_are_booked_twice
    ),
    "a booking does not look at counts": Mutant(
        "book_places", "if free < item.quantity then", "if false then", places_are_booked_twice
    ),
    "holds go on when sale has ended": Mutant(
        "hold_places", "if ev.status ~= 'open' or ev.now >= ev.closes then", "if false then", sale_has_ended
    ),
    "bookings go on when sale has ended": Mutant(
        "book_places",
        "elseif is_sale and (ev.status ~= 'open' or ev.now >= ev.closes) then",
        "elseif false then",
        sale_has_ended
    ),
    "neighbours are chosen that are sold": Mutant(
        "hold_places", "not held[i] and not sold[i] and", "not held[i] and", places_are_wanted_twice
    ),
    "neighbours are chosen that are held": Mutant(
        "hold_places", "not held[i] and not sold[i] and", "not sold[i] and", places_are_wanted_twice
    ),
    "customers have no limit": Mutant(
        "hold_places", "claimed + places.quantity > ev.max_customer", "false", customer_wants_more_and_more
    ),
    "released places still count for the customer": Mutant(
        "release_hold", "ev.keys.users, owner, -quantity", "ev.keys.users, owner, 0", customer_comes_and_goes
    ),
    "lapsed holds block a sale": Mutant(
        "hold_places", "if ev.due > ev.now then\n    return 0", "if true then\n    return 0",
        everything_lapses_and_is_wanted_again,
    ),
    "the index hides a seat": Mutant(
        "hold_places", "for run = longest + 1, RUNS do", "for run = longest, RUNS do", rows_fill_and_empty
    ),
    "freed seats stay hidden": Mutant("release_hold", "if #freed > 0 then", "if false then", rows_fill_and_empty),
    "an undone booking can be undone again": Mutant(
        "unbook_places", "redis.call('HDEL', ev.keys.bookings, booking_id)", "", booking_is_undone_twice
    ),
    "a batch sent twice counts twice": Mutant(
        "count_customers", "number <= tonumber(known[2] or 0)", "false", load_is_interrupted
    ),
    "an old epoch is loaded over a new one": Mutant("begin_load", "known >= epoch or", "", loader_comes_late),
    "customers of another load are counted": Mutant("count_customers", "known[1] ~= epoch", "false", loader_comes_late),
    "bookings of another load are adopted": Mutant(
        "adopt_bookings", "redis.call('HGET', keys.loading, 'epoch') ~= epoch", "false", loader_comes_late
    ),
    "a load that has lost bookings is put on sale": Mutant(
        "adopt_bookings", "here ~= count or", "", server_has_lost_a_booking
    ),
    "a load that has lost customers is put on sale": Mutant(
        "adopt_bookings", "or owners ~= customers + added", "", server_has_lost_a_customer
    ),
    "an older version sets the status": Mutant(
        "set_status", "tonumber(known) > version", "false", organizer_s_changes_overtake_each_other
    ),
}  # fmt: skip


def live_through(runner: Runner, history: History) -> None:
    venue = Venue(runner)
    history(venue)
    assert_consistent(runner.redis, venue.event, partitions=PARTITIONS)


@pytest.mark.parametrize("name", MUTANTS)
def test_script_without_a_safety_is_found_out(redis_url: str, name: str) -> None:
    runner = Runner(redis_url)
    live_through(runner, MUTANTS[name].history)
    runner.redis.flushall()
    mutant = MUTANTS[name]
    changed = mutated(mutant.script, (mutant.original, mutant.replacement))
    runner.scripts[changed.name] = changed
    with pytest.raises(AssertionError):
        live_through(runner, MUTANTS[name].history)
