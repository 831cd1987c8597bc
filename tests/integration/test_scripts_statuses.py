"""Every status that a script's header declares, from a situation that leads to it; and refusals write nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from invariants import assert_consistent
from script_runner import OFFER_MS, PARTITIONS, TTL_MS, ManyConfirmation, Runner, Venue, hold_together, new_id

import lua

Act = Callable[[], list[Any]]
Situation = Callable[[Runner], tuple[Venue, Act]]
SITUATIONS: dict[tuple[str, str], Situation] = {}

# Refusals in whose course lapsed holds are ended.
MAY_CLEAN_UP = {"EXPIRED", "CONTINUE"}
DONE = {
    "ADOPTED",
    "COUNTED",
    "ARCHIVED",
    "MARKED",
    "HELD",
    "EXTENDED",
    "RELEASED",
    "CONFIRMED",
    "UNBOOKED",
    "DROPPED",
    "REAPED",
    "SET",
    "LOADING",
    "LOADED",
    "READY",
    "BURIED",
    "REVIVED",
    "DISCARDED",
    "REPAIRED",
    "FORGOTTEN",
    "JOINED",
    "LEFT",
    "ASKED",
    "BEGUN",
    "TAKEN",
    "RESERVED",
    "APPLIED",
    "SUPERSEDED",
    "ABANDONED",
    "TRANSFERRED",
    "QUEUED",
}
DECLARED = [(name, status) for name in lua.names() for status in sorted(lua.load(name).statuses)]


def situation(script: str, *statuses: str) -> Callable[[Situation], Situation]:
    def register(function: Situation) -> Situation:
        for status in statuses:
            SITUATIONS[script, status] = function
        return function

    return register


@pytest.mark.parametrize(("script", "status"), DECLARED)
def test_every_declared_status_is_answered_and_a_refusal_writes_nothing(
    redis_url: str, script: str, status: str
) -> None:
    runner = Runner(redis_url)
    venue, act = SITUATIONS[script, status](runner)
    before = runner.dump()
    reply = act()
    assert reply[0] == status
    if status not in MAY_CLEAN_UP | DONE:
        assert runner.dump() == before
    if venue.is_loaded():
        assert_consistent(runner.redis, venue.event, partitions=PARTITIONS)


def test_every_situation_belongs_to_a_declared_status() -> None:
    assert set(SITUATIONS) == set(DECLARED)


# What read_booking tells of bookings stays true until the state is gone.
@pytest.mark.parametrize(
    "script", [name for name, status in DECLARED if status == "NOT_LOADED" and name != "read_booking"]
)
@pytest.mark.parametrize("status", ["", "open"])
def test_state_that_a_rebuild_has_closed_counts_as_not_loaded(redis_url: str, script: str, status: str) -> None:
    """It removes status and epoch. Scripts of an earlier version may put the status back, while some still run them."""
    venue = Venue(Runner(redis_url))
    venue.redis.hdel(venue.key("state"), "status", "epoch")
    if status:
        venue.redis.hset(venue.key("state"), "status", status)
    before = venue.redis.hgetall(venue.key("state"))
    reply = venue.take_ticket("ana") if script == "take_ticket" else _ON_AN_EVENT[script](venue)
    assert reply[0] == "NOT_LOADED"
    assert venue.redis.hgetall(venue.key("state")) == before


# --- the trail -------------------------------------------------------------------------------------------------------


@situation("read_trail", "READ")
def _trail_is_read(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.read_trail()


@situation("forget_trail", "FORGOTTEN")
def _trail_is_forgotten(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.forget_trail(1, venue.trail()[0][0])


@situation("read_trail", "NO_TRAIL")
def _no_trail_to_read(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.redis.delete(venue.partition_key("trail"))
    return venue, lambda: venue.read_trail()


@situation("forget_trail", "NO_TRAIL")
def _no_trail_to_forget(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.redis.delete(venue.partition_key("trail"))
    return venue, lambda: venue.forget_trail(1, "5-0")


# --- take_ticket -----------------------------------------------------------------------------------------------------


@situation("take_ticket", "QUEUED")
def _ticket_is_taken(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.take_ticket("ana")


@situation("take_ticket", "FULL")
def _queue_is_full(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.take_ticket("ben")
    return venue, lambda: venue.take_ticket("ana", most=1)


@situation("take_ticket", "NOT_OPEN")
def _no_ticket_for_a_closed_event(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.set_status("closed")
    return venue, lambda: venue.take_ticket("ana")


@situation("take_ticket", "NOT_LOADED")
def _no_ticket_without_state(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    runner.redis.flushall()
    return venue, lambda: venue.take_ticket("ana")


# --- take_tokens -----------------------------------------------------------------------------------------------------


@situation("take_tokens", "COUNTED")
def _tokens_are_taken(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.take_tokens(("c1:ana", "a1:home"))


# --- hold_places -----------------------------------------------------------------------------------------------------


@situation("hold_places", "HELD")
def _held(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.hold("0:1;0*2;1#0,3;1?2")


@situation("hold_places", "REPLAYED")
def _held_before(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.held("0:1;0*2", once="k")
    return venue, lambda: venue.hold("0:1;0*2", once="k")


@situation("hold_places", "KEY_REUSED")
def _held_with_another_body(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.held("0:1;0*2", once="k")
    return venue, lambda: venue.hold("0:1;0*2", once="k", body="b2")


@situation("hold_places", "STALE_LAYOUT")
def _held_by_an_old_layout(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.hold("0:1;0*2", layout="sha256:old")


@situation("hold_places", "NOT_OPEN")
def _held_when_closed(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.set_status("closed")
    return venue, lambda: venue.hold("0:1;0*2")


@situation("hold_places", "LIMIT")
def _held_beyond_the_limit(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner, policy={"max_places_per_hold": 3})
    return venue, lambda: venue.hold("0:1;0*2;1#1,2")


@situation("hold_places", "UNAVAILABLE")
def _held_by_somebody_else(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.held("0:1;1#5", owner="bea")
    return venue, lambda: venue.hold("0:1;0*2;1#4,5")


def _crowd_of_lapsed(runner: Runner) -> Venue:
    """Seventy holds of one place each have lapsed, and nobody has noticed: more than one call ends."""
    venue = Venue(
        runner,
        {"id": "floor", "price": 1, "capacity": 90},
        policy={"max_places_per_hold": 90, "max_places_per_customer": 90},
    )
    for number in range(90):
        venue.held("0:1;0*1", owner=f"c{number}")
    venue.advance(TTL_MS)
    return venue


@situation("hold_places", "CONTINUE")
def _held_behind_a_crowd(runner: Runner) -> tuple[Venue, Act]:
    venue = _crowd_of_lapsed(runner)
    return venue, lambda: venue.hold("0:1;0*85")


# --- hold_many -------------------------------------------------------------------------------------------------------


@situation("hold_many", "HELD")
def _held_with_others(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.hold_many((new_id(), TTL_MS, "0:1;0*1"), (new_id(), TTL_MS, "0:1;1#3"))


@situation("hold_many", "GENERAL")
def _held_with_others_after_the_sale(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.set_status("closed")
    return venue, lambda: venue.hold_many((new_id(), TTL_MS, "0:1;0*1"), (new_id(), TTL_MS, "0:1;1#3"))


# --- confirm_many ----------------------------------------------------------------------------------------------------


@situation("confirm_many", "CONFIRMED")
def _confirmed_with_others(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    holds = [venue.held("0:1;0*2"), venue.held("0:1;1#3")]
    return venue, lambda: venue.confirm_many(*map(ManyConfirmation, holds))


@situation("confirm_many", "GENERAL")
def _confirmed_with_others_when_cancelled(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    holds = [venue.held("0:1;0*2"), venue.held("0:1;1#3")]
    venue.set_status("cancelled")
    return venue, lambda: venue.confirm_many(*map(ManyConfirmation, holds))


# --- extend, release, read, reap -------------------------------------------------------------------------------------


@situation("extend_hold", "EXTENDED")
def _extended(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    return venue, lambda: venue.extend(hold_id, ttl_ms=2 * TTL_MS)


@situation("extend_hold", "PAYING")
def _extended_while_paying(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    venue.begin_payment(hold_id)
    return venue, lambda: venue.extend(hold_id, ttl_ms=2 * TTL_MS)


@situation("begin_payment", "BEGUN")
def _paying(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    return venue, lambda: venue.begin_payment(hold_id)


@situation("begin_payment", "NOT_OPEN")
def _payment_of_a_cancelled_event(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    venue.set_status("cancelled")
    return venue, lambda: venue.begin_payment(hold_id)


@situation("read_hold", "PAYING")
def _read_while_paying(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    venue.begin_payment(hold_id)
    return venue, lambda: venue.read(hold_id)


@situation("release_hold", "RELEASED")
def _released(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2;1#0,9")
    return venue, lambda: venue.release(hold_id)


@situation("read_hold", "ACTIVE")
def _active(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    return venue, lambda: venue.read(hold_id)


@situation("reap_event", "REAPED")
def _reaped(runner: Runner) -> tuple[Venue, Act]:
    venue = _crowd_of_lapsed(runner)
    return venue, venue.reap


_ON_A_HOLD: dict[str, Callable[[Venue, str], list[Any]]] = {
    "extend_hold": Venue.extend,
    "begin_payment": Venue.begin_payment,
    "release_hold": Venue.release,
    "read_hold": Venue.read,
    "confirm_hold": Venue.confirm,
}


def _register_ended_holds() -> None:
    """How a hold ended is told alike by every script that is asked to act on it."""

    def lapsed(venue: Venue) -> str:
        hold_id = venue.held("0:1;0*2;1#0,9")
        venue.advance(TTL_MS)
        return hold_id

    def released(venue: Venue) -> str:
        hold_id = venue.held("0:1;0*2")
        venue.release(hold_id)
        return hold_id

    def booked(venue: Venue) -> str:
        hold_id = venue.held("0:1;0*2")
        venue.confirm(hold_id, attempt="another")
        return hold_id

    def somebody_elses(venue: Venue) -> str:
        return venue.held("0:1;0*2", owner="bea")

    def refused(venue: Venue) -> str:
        booking_id = venue.booked("0:1;0*2")
        venue.unbook(booking_id, refused_owner="ana")
        return booking_id

    for script, act in _ON_A_HOLD.items():
        for prepare, status in (
            (lapsed, "EXPIRED"),
            (released, "ALREADY_RELEASED" if script == "release_hold" else "RELEASED"),
            (booked, "BOOKED"),
            (refused, "REFUSED"),
            (somebody_elses, "NOT_FOUND"),
        ):

            def arrange(
                runner: Runner,
                prepare: Callable[[Venue], str] = prepare,
                act: Callable[[Venue, str], list[Any]] = act,
            ) -> tuple[Venue, Act]:
                venue = Venue(runner)
                hold_id = prepare(venue)
                return venue, lambda: act(venue, hold_id)

            SITUATIONS[script, status] = arrange


_register_ended_holds()


# --- confirm_hold, book_places, unbook_places, read_booking ----------------------------------------------------------


@situation("confirm_hold", "CONFIRMED")
def _confirmed(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2;1#0,9")
    return venue, lambda: venue.confirm(hold_id)


@situation("confirm_hold", "REPLAYED")
def _confirmed_before(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    venue.confirm(hold_id, once="k")
    return venue, lambda: venue.confirm(hold_id, once="k")


@situation("confirm_hold", "KEY_REUSED")
def _confirmed_with_another_body(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    venue.confirm(hold_id, once="k")
    return venue, lambda: venue.confirm(hold_id, once="k", body="b2")


@situation("confirm_hold", "NOT_OPEN")
def _confirmed_when_cancelled(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    venue.set_status("cancelled")
    return venue, lambda: venue.confirm(hold_id)


@situation("confirm_hold", "UNAUDITED")
def _confirmed_on_another_server(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*2")
    venue.come_from_another_server()
    return venue, lambda: venue.confirm(hold_id)


@situation("confirm_hold", "JOURNAL_FULL")
def _confirmed_when_too_many_wait(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.booked("0:1;0*2")
    hold_id = venue.held("0:1;0*2")
    return venue, lambda: venue.confirm(hold_id, journal_max=1)


@situation("book_places", "JOURNAL_FULL")
def _booked_when_too_many_wait(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.booked("0:1;0*2")
    return venue, lambda: venue.book("0:1;0*2", journal_max=1)


@situation("book_places", "CONFIRMED")
def _booked(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.book("0:1;0*2;1#0,3;1?2")


@situation("book_places", "REPLAYED")
def _booked_before(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.booked("0:1;0*2", once="k")
    return venue, lambda: venue.book("0:1;0*2", once="k")


@situation("book_places", "KEY_REUSED")
def _booked_with_another_body(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.booked("0:1;0*2", once="k")
    return venue, lambda: venue.book("0:1;0*2", once="k", body="b2")


@situation("book_places", "BOOKED")
def _booked_by_another_attempt(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2")
    return venue, lambda: venue.book("0:1;0*2", booking_id=booking_id, attempt="a2")


@situation("book_places", "NOT_FOUND")
def _booked_by_somebody_else(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2", owner="bea")
    return venue, lambda: venue.book("0:1;0*2", booking_id=booking_id)


@situation("book_places", "GONE")
def _booked_for_a_letter_that_is_another_by_now(runner: Runner) -> tuple[Venue, Act]:
    venue, _, journal_id = _buried(runner)
    return venue, lambda: venue.book("0:1;0*2", letter=(journal_id, "another letter"))


@situation("book_places", "STALE_LAYOUT")
def _booked_by_an_old_layout(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.book("0:1;0*2", layout="sha256:old")


@situation("book_places", "UNAUDITED")
def _booked_on_another_server(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.come_from_another_server()
    return venue, lambda: venue.book("0:1;0*2")


@situation("mark_audited", "MARKED")
def _audited(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.come_from_another_server()
    return venue, lambda: venue.mark_audited(1)


@situation("mark_audited", "STALE")
def _audited_before_it_was_built_anew(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.load(epoch=2)
    return venue, lambda: venue.mark_audited(1)


@situation("book_places", "NOT_OPEN")
def _booked_when_closed(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.set_status("closed")
    return venue, lambda: venue.book("0:1;0*2")


@situation("book_places", "LIMIT")
def _booked_beyond_the_limit(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner, policy={"max_places_per_customer": 3})
    venue.held("0:1;0*2")
    return venue, lambda: venue.book("0:1;0*2")


@situation("book_places", "UNAVAILABLE")
def _booked_when_held(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.held("0:1;1#5", owner="bea")
    return venue, lambda: venue.book("0:1;0*2;1#4,5")


@situation("book_places", "CONTINUE")
def _booked_behind_a_crowd(runner: Runner) -> tuple[Venue, Act]:
    venue = _crowd_of_lapsed(runner)
    return venue, lambda: venue.book("0:1;0*85")


@situation("book_places", "REFUSED")
def _booked_by_a_copy_of_a_call_that_was_refused_since(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2")
    venue.unbook(booking_id, venue.journal()[0][0], refused_owner="ana")
    return venue, lambda: venue.book("0:1;0*2", booking_id=booking_id)


@situation("unbook_places", "UNBOOKED")
def _unbooked(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2;1#0,9")
    return venue, lambda: venue.unbook(booking_id, venue.journal()[0][0])


@situation("unbook_places", "NOT_FOUND")
def _unbooked_twice(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2")
    venue.unbook(booking_id)
    return venue, lambda: venue.unbook(booking_id)


@situation("read_booking", "JOURNALED")
def _journaled(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2")
    return venue, lambda: venue.read_booking(booking_id)


def _buried(runner: Runner) -> tuple[Venue, str, str]:
    """A booking that the ledger can never take, and the id of its entry."""
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2")
    journal_id = venue.journal()[0][0]
    assert venue.bury(journal_id) == ["BURIED"]
    return venue, booking_id, journal_id


@situation("read_booking", "BURIED")
def _known_though_buried(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id, _ = _buried(runner)
    return venue, lambda: venue.read_booking(booking_id)


@situation("drop_entries", "DROPPED")
def _dropped(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2")
    return venue, lambda: venue.drop((venue.journal()[0][0], booking_id))


@situation("bury_entry", "BURIED")
def _buried_once(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.booked("0:1;0*2")
    return venue, lambda: venue.bury(venue.journal()[0][0])


@situation("bury_entry", "NOT_FOUND")
def _buried_twice(runner: Runner) -> tuple[Venue, Act]:
    venue, _, journal_id = _buried(runner)
    return venue, lambda: venue.bury(journal_id, "another letter")


@situation("revive_entry", "REVIVED")
def _revived(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id, journal_id = _buried(runner)
    return venue, lambda: venue.revive(journal_id, booking_id, event="gig")


@situation("revive_entry", "NOT_FOUND")
def _revived_after_it_was_buried_again(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id, journal_id = _buried(runner)
    return venue, lambda: venue.revive(journal_id, booking_id, "another letter", event="gig")


@situation("discard_entry", "DISCARDED")
def _discarded(runner: Runner) -> tuple[Venue, Act]:
    venue, _, journal_id = _buried(runner)
    return venue, lambda: venue.discard(journal_id)


@situation("discard_entry", "NOT_FOUND")
def _discarded_after_it_was_buried_again(runner: Runner) -> tuple[Venue, Act]:
    venue, _, journal_id = _buried(runner)
    return venue, lambda: venue.discard(journal_id, "another letter")


@situation("discard_booking", "UNBOOKED")
def _discarded_with_its_booking(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id, journal_id = _buried(runner)
    return venue, lambda: venue.discard_booking(journal_id, booking_id)


@situation("discard_booking", "DISCARDED")
def _discarded_after_its_booking_was_forgotten(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id, journal_id = _buried(runner)
    venue.load(epoch=2)
    return venue, lambda: venue.discard_booking(journal_id, booking_id)


@situation("discard_booking", "NOT_FOUND")
def _discarded_after_it_was_put_back(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id, journal_id = _buried(runner)
    venue.revive(journal_id, booking_id, event="gig")
    return venue, lambda: venue.discard_booking(journal_id, booking_id)


@situation("read_booking", "RECORDED")
def _recorded(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2")
    runner.redis.xtrim(venue.partition_key("journal"), maxlen=0)
    return venue, lambda: venue.read_booking(booking_id)


@situation("read_booking", "REFUSED")
def _refused(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    booking_id = venue.booked("0:1;0*2")
    venue.unbook(booking_id, refused_owner="ana")
    return venue, lambda: venue.read_booking(booking_id, owner="ana")


@situation("read_booking", "NOT_FOUND")
def _not_booked(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.read_booking(new_id())


# --- loading, status, snapshot ---------------------------------------------------------------------------------------


@situation("begin_load", "LOADING")
def _loading(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.begin_load(2)


@situation("begin_load", "STALE")
def _loading_an_old_epoch(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.begin_load(1)


TWO_OF_ANA = [(new_id(), "0:1;0*2;1#3", "ana"), (new_id(), "0:1;0*1", "ana")]


@situation("count_customers", "COUNTED")
def _counted_again(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(2)
    return venue, lambda: venue.load_bookings(2, TWO_OF_ANA)


@situation("count_customers", "STALE")
def _counted_by_an_old_loader(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(2)
    venue.begin_load(3)
    return venue, lambda: runner.run("count_customers", [venue.event], [2, 1, 600, "ana", 1], epoch=2)


@situation("adopt_bookings", "ADOPTED")
def _adopted(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(2)
    venue.load_bookings(2, TWO_OF_ANA)
    return venue, lambda: venue.adopt_bookings(2)


@situation("adopt_bookings", "INCOMPLETE")
def _adopted_in_part(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(2)
    venue.load_bookings(2, TWO_OF_ANA)
    runner.redis.hdel(venue.load_key("new_bookings", 2), TWO_OF_ANA[0][0])
    return venue, lambda: venue.adopt_bookings(2)


@situation("adopt_bookings", "STALE")
def _adopted_too_late(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(2)
    venue.load_bookings(2, TWO_OF_ANA)
    venue.begin_load(3)
    return venue, lambda: venue.adopt_bookings(2)


@situation("load_places", "LOADED")
def _places_loaded(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(2)
    return venue, lambda: runner.run("load_places", [venue.event], [2, 0, b"\x10", "sold:1:0", 1, "free:1:0", 19])


@situation("load_places", "STALE")
def _places_loaded_by_an_old_loader(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(3)
    return venue, lambda: runner.run("load_places", [venue.event], [2, 0, b"\x10", "sold:1:0", 1, "free:1:0", 19])


@situation("finish_load", "READY")
def _ready(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(2)
    return venue, lambda: venue.finish_load(2)


@situation("finish_load", "STALE")
def _ready_of_an_old_loader(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(3)
    return venue, lambda: venue.finish_load(2)


@situation("set_status", "SET")
def _set(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.set_status("closed")


@situation("set_status", "OLDER")
def _set_to_what_it_was(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.set_status("closed", version=3)
    return venue, lambda: venue.set_status("open", version=2)


@situation("set_clock", "SET")
def _clock_set_back(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.held("0:1;0*1")
    return venue, venue.set_clock


@situation("set_clock", "CONTINUE")
def _clock_set_back_of_a_long_queue(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    runner.redis.zadd(venue.key("queue"), {f"c{number}": venue.now() * 1000 + number for number in range(1000)})
    return venue, venue.set_clock


@situation("snapshot_event", "SNAPSHOT")
def _seen(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.held("0:1;0*2")
    return venue, lambda: venue.snapshot(cells=True)


@situation("snapshot_event", "SAME")
def _seen_before(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.held("0:1;0*2")
    return venue, lambda: venue.snapshot(known=venue.snapshot()[5])


@situation("snapshot_event", "CONTINUE")
def _seen_behind_a_crowd(runner: Runner) -> tuple[Venue, Act]:
    venue = _crowd_of_lapsed(runner)
    return venue, venue.snapshot


# --- repair_event -----------------------------------------------------------------------------------------------------


@situation("repair_event", "REPAIRED")
def _repaired(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    runner.redis.setbit(venue.key("sold"), 3, 1)
    return venue, lambda: venue.repair("clear_sold|3")


@situation("repair_event", "CHANGED")
def _repaired_when_the_record_is_another(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    hold_id = venue.held("0:1;1#3")
    return venue, lambda: venue.repair("count|free:0:0|1", f"end_hold|{hold_id}|active|1|2|1|0:1;1#3|ana")


@situation("repair_event", "STALE")
def _repaired_by_somebody_else_before(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.repair()
    return venue, lambda: venue.repair("count|free:0:0|1", repairs=0)


# --- archive_event ---------------------------------------------------------------------------------------------------


@situation("archive_event", "ARCHIVED")
def _archived(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.load(epoch=2, bookings=[(new_id(), "0:1;0*2;1#4", "ana")])
    return venue, venue.archive


@situation("archive_event", "CHANGED")
def _archived_after_a_change(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    seq = venue.state("seq")
    venue.release(venue.held("0:1;0*2"))
    return venue, lambda: venue.archive(seq=seq)


@situation("archive_event", "HAS_HOLDS")
def _archived_under_a_hold(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.held("0:1;0*2")
    return venue, venue.archive


@situation("archive_event", "JOURNALED")
def _archived_before_its_booking_is_in_the_ledger(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.booked("0:1;0*2")
    return venue, venue.archive


# --- reserve_change, apply_change, abandon_change, transfer_booking ---------------------------------------------------

OLD, NEW, GAINED, LOST = "0:1;0*2;1#0,1", "0:1;0*3;1#1,2", "0:1;0*1;1#2", "0:1;1#0"


def _with_booking(runner: Runner, **policy: int) -> tuple[Venue, str]:
    venue = Venue(runner, policy=policy)
    return venue, venue.booked(OLD)


def _with_change(runner: Runner) -> tuple[Venue, str]:
    venue, booking_id = _with_booking(runner)
    assert venue.reserve(booking_id, OLD, 5, GAINED) == ["RESERVED", "1", GAINED]
    return venue, booking_id


@situation("reserve_change", "RESERVED")
def _reserved(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner)
    return venue, lambda: venue.reserve(booking_id, OLD, 6, GAINED, "0:1;1?1")


@situation("reserve_change", "STALE_LAYOUT")
def _reserved_by_an_old_layout(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner)
    return venue, lambda: venue.reserve(booking_id, OLD, 5, GAINED, layout="sha256:old")


@situation("reserve_change", "DIFFERS")
def _reserved_for_what_it_has_not(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner)
    return venue, lambda: venue.reserve(booking_id, NEW, 5, GAINED)


@situation("reserve_change", "BUSY")
def _reserved_beside_another_change(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_change(runner)
    return venue, lambda: venue.reserve(booking_id, OLD, 5, "0:1;1#9", change="c2")


@situation("reserve_change", "UNAUDITED")
def _reserved_on_another_server(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner)
    venue.come_from_another_server()
    return venue, lambda: venue.reserve(booking_id, OLD, 5, GAINED)


@situation("reserve_change", "NOT_OPEN")
def _reserved_after_the_sale(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner)
    venue.set_status("closed")
    return venue, lambda: venue.reserve(booking_id, OLD, 5, GAINED)


@situation("reserve_change", "LIMIT")
def _reserved_beyond_the_limit(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner, max_places_per_customer=4)
    return venue, lambda: venue.reserve(booking_id, OLD, 5, GAINED)


@situation("reserve_change", "UNAVAILABLE")
def _reserved_when_sold(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner)
    venue.booked("0:1;1#2", owner="bea")
    return venue, lambda: venue.reserve(booking_id, OLD, 5, GAINED)


@situation("reserve_change", "CONTINUE")
def _reserved_behind_a_crowd(runner: Runner) -> tuple[Venue, Act]:
    venue = _crowd_of_lapsed(runner)
    venue.hold_on("0:1;0*1", hold_id="room")
    venue.release("room")
    booking_id = venue.booked("0:1;0*1")
    number = 0
    while venue.counts()[0]:  # each hold ends some of those that have lapsed
        venue.held("0:1;0*1", owner=f"d{number}")
        number += 1
    venue.advance(TTL_MS)
    return venue, lambda: venue.reserve(booking_id, "0:1;0*1", 69, "0:1;0*68")


@situation("apply_change", "APPLIED")
def _applied(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_change(runner)
    return venue, lambda: venue.apply(booking_id, NEW, gained=[GAINED], lost=[LOST])


@situation("apply_change", "SUPERSEDED")
def _applied_to_what_was_cancelled(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_change(runner)
    venue.unbook(booking_id)
    return venue, lambda: venue.apply(booking_id, NEW, gained=[GAINED], lost=[LOST])


@situation("apply_change", "DRIFT")
def _applied_when_somebody_else_was_faster(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_change(runner)
    venue.advance(2 * TTL_MS)
    venue.held("0:1;1#2", owner="bea")
    return venue, lambda: venue.apply(booking_id, NEW, gained=[GAINED], lost=[LOST])


@situation("apply_change", "CONTINUE")
def _applied_when_what_took_the_places_has_lapsed(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_change(runner)
    venue.advance(2 * TTL_MS)
    venue.held("0:1;1#2", owner="bea")
    venue.advance(TTL_MS)
    return venue, lambda: venue.apply(booking_id, NEW, gained=[GAINED], lost=[LOST])


@situation("abandon_change", "ABANDONED")
def _abandoned(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_change(runner)
    return venue, lambda: venue.abandon(booking_id)


@situation("transfer_booking", "TRANSFERRED")
def _transferred(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner)
    return venue, lambda: venue.transfer(booking_id, "bea")


@situation("transfer_booking", "DIFFERS")
def _transferred_by_somebody_else(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner)
    return venue, lambda: venue.transfer(booking_id, "bea", owner="cy")


@situation("transfer_booking", "BUSY")
def _transferred_in_the_middle_of_a_change(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_change(runner)
    return venue, lambda: venue.transfer(booking_id, "bea")


@situation("transfer_booking", "LIMIT")
def _transferred_beyond_the_limit(runner: Runner) -> tuple[Venue, Act]:
    venue, booking_id = _with_booking(runner, max_places_per_customer=5)
    venue.held("0:1;1#5,6", owner="bea")
    return venue, lambda: venue.transfer(booking_id, "bea")


@situation("transfer_booking", "CONTINUE")
def _transferred_to_somebody_whose_hold_has_lapsed(runner: Runner) -> tuple[Venue, Act]:
    venue, act = _transferred_beyond_the_limit(runner)
    venue.advance(TTL_MS)
    return venue, act


_ON_AN_EVENT: dict[str, Callable[[Venue], list[Any]]] = {
    "archive_event": lambda venue: venue.archive(epoch=1, seq=1),
    "hold_places": lambda venue: hold_together([venue], ["0:1;0*1"]),
    "extend_hold": lambda venue: venue.extend("x"),
    "begin_payment": lambda venue: venue.begin_payment("x"),
    "release_hold": lambda venue: venue.release("x"),
    "read_hold": lambda venue: venue.read("x"),
    "reap_event": lambda venue: venue.reap(),
    "confirm_hold": lambda venue: venue.confirm("x"),
    "book_places": lambda venue: venue.book("0:1;0*1"),
    "unbook_places": lambda venue: venue.unbook("x"),
    "read_booking": lambda venue: venue.read_booking("x"),
    "set_status": lambda venue: venue.set_status("open"),
    "set_clock": lambda venue: venue.set_clock(),
    "mark_audited": lambda venue: venue.mark_audited(1),
    "snapshot_event": lambda venue: venue.snapshot(),
    "repair_event": lambda venue: venue.repair(),
    "reserve_change": lambda venue: venue.reserve("x", OLD, 5, GAINED),
    "apply_change": lambda venue: venue.apply("x", NEW),
    "abandon_change": lambda venue: venue.abandon("x"),
    "transfer_booking": lambda venue: venue.transfer("x", "bea"),
    "join_line": lambda venue: venue.join("0:1;0*1"),
    "leave_line": lambda venue: venue.leave("x"),
    "offer_places": lambda venue: venue.offer(),
    "check_wish": lambda venue: venue.check("0:1;0*1"),
}


def _register_not_loaded() -> None:
    for script, act in _ON_AN_EVENT.items():

        def arrange(runner: Runner, act: Callable[[Venue], list[Any]] = act) -> tuple[Venue, Act]:
            venue = Venue(runner)
            runner.redis.flushall()
            return venue, lambda: act(venue)

        SITUATIONS[script, "NOT_LOADED"] = arrange


_register_not_loaded()


# --- people in line --------------------------------------------------------------------------------------------------


def _full_floor_and_line(runner: Runner) -> tuple[Venue, str, str]:
    """A venue whose floor is held by ben, with somebody waiting for two places of it: venue, hold, entry."""
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*10", owner="ben")
    return venue, hold_id, venue.joined("0:1;0*2")


@situation("hold_places", "LINE")
def _held_while_others_come_first(runner: Runner) -> tuple[Venue, Act]:
    venue, hold_id, _ = _full_floor_and_line(runner)
    assert venue.offered() == []
    venue.release(hold_id, owner="ben")
    return venue, lambda: venue.hold("0:1;0*1", owner="cy")


@situation("reserve_change", "LINE")
def _changed_while_others_come_first(runner: Runner) -> tuple[Venue, Act]:
    venue, hold_id, _ = _full_floor_and_line(runner)
    assert venue.offered() == []
    booking_id = venue.booked("0:1;1#0", owner="cy")
    venue.release(hold_id, owner="ben")
    return venue, lambda: venue.reserve(booking_id, "0:1;1#0", 2, "0:1;0*1", owner="cy")


@situation("book_places", "LINE")
def _booked_while_others_come_first(runner: Runner) -> tuple[Venue, Act]:
    venue, hold_id, _ = _full_floor_and_line(runner)
    assert venue.offered() == []
    venue.release(hold_id, owner="ben")
    return venue, lambda: venue.book("0:1;0*1", owner="cy")


@situation("join_line", "JOINED")
def _joins(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.join("0:1;0*2;1?3")


@situation("join_line", "WAITING")
def _joins_again(runner: Runner) -> tuple[Venue, Act]:
    venue, _, entry = _full_floor_and_line(runner)
    return venue, lambda: venue.join("0:1;0*2", entry=entry)


def _offered_entry(runner: Runner) -> tuple[Venue, str]:
    venue = Venue(runner)
    entry = venue.joined("0:1;0*2")
    assert venue.offered() == [entry]
    return venue, entry


@situation("join_line", "OFFERED")
def _joins_with_an_offer(runner: Runner) -> tuple[Venue, Act]:
    venue, entry = _offered_entry(runner)
    return venue, lambda: venue.join("0:1;0*2", entry=entry)


@situation("join_line", "BOOKED")
def _joins_after_accepting(runner: Runner) -> tuple[Venue, Act]:
    venue, entry = _offered_entry(runner)
    assert venue.confirm(entry)[0] == "CONFIRMED"
    return venue, lambda: venue.join("0:1;0*2", entry=entry)


@situation("join_line", "EXPIRED")
def _joins_after_the_offer_has_lapsed(runner: Runner) -> tuple[Venue, Act]:
    venue, entry = _offered_entry(runner)
    venue.advance(OFFER_MS)
    return venue, lambda: venue.join("0:1;0*2", entry=entry)


@situation("join_line", "RELEASED")
def _joins_after_declining(runner: Runner) -> tuple[Venue, Act]:
    venue, entry = _offered_entry(runner)
    assert venue.release(entry)[0] == "RELEASED"
    return venue, lambda: venue.join("0:1;0*2", entry=entry)


@situation("join_line", "REFUSED")
def _joins_after_the_ledger_has_refused(runner: Runner) -> tuple[Venue, Act]:
    venue, entry = _offered_entry(runner)
    journal_id = venue.confirm(entry)[4]
    assert venue.unbook(entry, journal_id, refused_owner="ana")[0] == "UNBOOKED"
    return venue, lambda: venue.join("0:1;0*2", entry=entry)


@situation("leave_line", "LEFT")
def _leaves(runner: Runner) -> tuple[Venue, Act]:
    venue, entry = _offered_entry(runner)
    return venue, lambda: venue.leave(entry)


@situation("leave_line", "BOOKED")
def _leaves_after_accepting(runner: Runner) -> tuple[Venue, Act]:
    venue, entry = _offered_entry(runner)
    assert venue.confirm(entry)[0] == "CONFIRMED"
    return venue, lambda: venue.leave(entry)


@situation("offer_places", "ASKED")
def _everybody_is_asked(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.joined("0:1;0*2")
    return venue, lambda: venue.offer()


@situation("offer_places", "CONTINUE")
def _more_are_to_be_asked(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner, {"id": "floor", "price": 1, "capacity": 100})
    for number in range(40):
        venue.joined("0:1;0*1", owner=f"c{number}")
    return venue, lambda: venue.offer()


@situation("load_line", "LOADED")
def _line_is_loaded(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(2)
    return venue, lambda: venue.load_line(2, (new_id(), 5, "0:1;0*2", "ana"))


@situation("load_line", "STALE")
def _line_is_loaded_too_late(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.begin_load(3)
    return venue, lambda: venue.load_line(2, (new_id(), 5, "0:1;0*2", "ana"))


@situation("check_wish", "AVAILABLE")
def _wish_can_be_had(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.check("0:1;0*2")


@situation("check_wish", "UNAVAILABLE")
def _wish_cannot_be_had(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.held("0:1;0*9", owner="ben")
    return venue, lambda: venue.check("0:1;0*2")


@situation("check_wish", "NOT_OPEN")
def _wish_of_a_closed_event(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.set_status("closed")
    return venue, lambda: venue.check("0:1;0*2")


@situation("check_wish", "LIMIT")
def _wish_beyond_a_limit(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner, policy={"max_places_per_hold": 1})
    return venue, lambda: venue.check("0:1;0*2")


@situation("check_wish", "STALE_LAYOUT")
def _wish_by_other_numbers(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    return venue, lambda: venue.check("0:1;0*2", layout="another")


@situation("check_wish", "CONTINUE")
def _wish_behind_many_lapsed_holds(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner, {"id": "floor", "price": 1, "capacity": 100})
    for number in range(80):
        venue.held("0:1;0*1", owner=f"c{number}")
    venue.advance(TTL_MS)
    return venue, lambda: venue.check("0:1;0*2")


@situation("forget_notices", "FORGOTTEN")
def _notices_are_forgotten(runner: Runner) -> tuple[Venue, Act]:
    venue = Venue(runner)
    venue.joined("0:1;0*2")
    ((entry, notice),) = venue.offer()[1:]
    return venue, lambda: venue.forget_notices(entry, notice)
