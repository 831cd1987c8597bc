"""Every safety of the scripts is taken out once, and the checkers of this suite must notice; else they check nothing.

A mutant is killed by a short history that the real scripts live through: compared step by step with what was promised,
and at its end with the invariants of ``tests/invariants.py``.
"""

import hashlib
from collections.abc import Callable

import msgspec
import pytest
from invariants import assert_consistent
from script_runner import FROZEN_MS, PARTITIONS, TTL_MS, Runner, Venue, new_id

import lua
from lua import Script

History = Callable[[Venue], None]


class Mutant(msgspec.Struct, frozen=True):
    """A script with something replaced, and the history that finds it out."""

    script: str
    original: str
    replacement: str
    history: History


def lapsed_hold_is_confirmed(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*2;1#3")
    venue.advance(TTL_MS)
    assert venue.confirm(hold_id) == ["EXPIRED"]


def lapsed_hold_is_extended(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*2;1#3")
    venue.advance(TTL_MS)
    assert venue.extend(hold_id) == ["EXPIRED"]


def hold_is_extended_for_ever(venue: Venue) -> None:
    assert venue.extend(venue.held("0:1;0*2"), ttl_ms=10**9)[3] == FROZEN_MS + 900_000


def stranger_takes_over(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*2;1#3", owner="bea")
    assert venue.release(hold_id) == ["NOT_FOUND"]
    assert venue.confirm(hold_id) == ["NOT_FOUND"]


def lost_reply_is_asked_for_by_somebody_else(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*2")
    assert venue.confirm(hold_id, attempt="a1")[0] == "CONFIRMED"
    assert venue.confirm(hold_id, attempt="a2") == ["BOOKED"]


def key_is_used_for_another_request(venue: Venue) -> None:
    venue.held("0:1;0*2", once="k", body="b1")
    assert venue.hold("0:1;0*3", once="k", body="b2") == ["KEY_REUSED"]


def places_are_wanted_twice(venue: Venue) -> None:
    """The invariants alone find it: a script that thinks it did well says so."""
    venue.held("0:1;0*8;1#3,4", owner="bea")
    venue.booked("0:1;1#5,6", owner="bea")
    for places in ("0:1;0*3", "0:1;1#3", "0:1;1#5", "0:1;1#2,3", "0:1;1#6,7", "0:1;1?8", "0:1;1?4"):
        venue.hold(places, owner="cem")


def customer_wants_more_and_more(venue: Venue) -> None:
    venue.held("0:1;0*10")
    venue.booked("0:1;1?10")
    assert venue.hold("0:1;1#19") == ["LIMIT", 1, "max_places_per_customer", 20]


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
    hold_id = venue.held("0:1;0*2;1#3")
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


def booking_is_undone_twice(venue: Venue) -> None:
    booking_id = venue.booked("0:1;0*2;1#3")
    venue.unbook(booking_id)
    venue.held("0:1;0*2;1#3", owner="bea")
    assert venue.unbook(booking_id) == ["NOT_FOUND"]


def load_is_interrupted(venue: Venue) -> None:
    bookings = [(new_id(), "0:1;0*2;1#3", "ana")]
    venue.begin_load(2)
    for _ in range(2):  # the first reply was lost
        venue.load_bookings(2, bookings)
    venue.finish_load(2)


def loader_comes_late(venue: Venue) -> None:
    venue.load(epoch=3)
    assert venue.begin_load(2) == ["STALE"]
    venue.begin_load(4)
    assert venue.load_bookings(3, [(new_id(), "0:1;0*2", "ana")]) == ["STALE"]
    venue.finish_load(4)


def organizer_s_changes_overtake_each_other(venue: Venue) -> None:
    venue.set_status("closed", version=3)
    assert venue.set_status("open", version=2) == ["OLDER"]


MUTANTS = {
    "a hold is honoured after its deadline": Mutant(
        "confirm_hold", "hold.deadline <= ev.now", "false", lapsed_hold_is_confirmed
    ),
    "a lapsed hold is revived": Mutant("extend_hold", "hold.deadline <= ev.now", "false", lapsed_hold_is_extended),
    "an extension has no bound": Mutant(
        "extend_hold", "math.min(ev.now + ttl, hold.created + ev.ttl_max)", "ev.now + ttl", hold_is_extended_for_ever
    ),
    "anybody releases": Mutant("release_hold", "owner ~= '' and hold.owner ~= owner", "false", stranger_takes_over),
    "anybody confirms": Mutant("confirm_hold", "hold.owner ~= owner", "false", stranger_takes_over),
    "any attempt is taken for the first": Mutant(
        "confirm_hold", "booking.attempt ~= attempt", "false", lost_reply_is_asked_for_by_somebody_else
    ),
    "a confirmation ignores the journal's bound": Mutant(
        "confirm_hold", "if is_journal_full(keys, bytes_max)", "if false", journal_is_full
    ),
    "a booking ignores the journal's bound": Mutant(
        "book_places", "if is_journal_full(keys, bytes_max)", "if false", journal_is_full
    ),
    "a dead letter is revived and stays": Mutant(
        "revive_entry", "redis.call('HDEL', keys.dead, journal_id)", "", letter_is_revived_twice
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
        "load_bookings", "booking_id, record) == 1", "booking_id, record) >= 0", load_is_interrupted
    ),
    "an old epoch is loaded over a new one": Mutant("begin_load", "known >= epoch or", "", loader_comes_late),
    "a batch of another load is taken": Mutant("load_bookings", "or ev.epoch ~= epoch", "", loader_comes_late),
    "an older version sets the status": Mutant(
        "set_status", "tonumber(known) > version", "false", organizer_s_changes_overtake_each_other
    ),
}  # fmt: skip


def live_through(runner: Runner, history: History) -> None:
    venue = Venue(runner)
    history(venue)
    assert_consistent(runner.redis, venue.event, partitions=PARTITIONS)


def mutated(mutant: Mutant) -> Script:
    script = lua.load(mutant.script)
    source = script.source.decode()
    assert mutant.original in source, f"{mutant.script} has changed: there is nothing to replace"
    changed = source.replace(mutant.original, mutant.replacement).encode()
    return msgspec.structs.replace(script, source=changed, sha=hashlib.sha1(changed).hexdigest().encode())


@pytest.mark.parametrize("name", MUTANTS)
def test_script_without_a_safety_is_found_out(redis_url: str, name: str) -> None:
    runner = Runner(redis_url)
    live_through(runner, MUTANTS[name].history)
    runner.redis.flushall()
    changed = mutated(MUTANTS[name])
    runner.scripts[changed.name] = changed
    with pytest.raises(AssertionError):
        live_through(runner, MUTANTS[name].history)
