"""``confirm_many``, many confirmations in one call, answers nothing that ``confirm_hold`` would not."""

import contextlib
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invariants import assert_consistent
from script_mutants import mutated
from script_runner import FLOOR, PARTITIONS, STALLS, TTL_MS, ManyConfirmation, Runner, Venue
from test_scripts_usual_claim import LIMITS, general_way_alone, lines_of

PLACES = st.sampled_from(["0*1", "0*1", "0*2", "1#3", "1#4", "1#5", "1#3,4", "0*1;1#6", "1?2"])
HOLD = st.tuples(st.integers(0, 2), st.sampled_from([1, 1, 1, 2]), PLACES, st.sampled_from([500, TTL_MS, TTL_MS]))
ONCE = st.sampled_from([("", "b1"), ("", "b1"), ("", "b1"), ("k1", "b1"), ("k2", "b1"), ("k2", "b2")])
REQUEST = st.tuples(st.integers(0, 30), st.sampled_from([True] * 6 + [False]), st.sampled_from(["a1", "a2"]), ONCE)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("holds"), st.lists(HOLD, min_size=1, max_size=6)),
        st.tuples(st.just("confirm"), st.lists(REQUEST, min_size=1, max_size=12)),
        st.tuples(st.just("again"), st.integers(0, 30)),
        st.tuples(st.just("release"), st.integers(0, 30)),
        st.tuples(st.just("pay"), st.integers(0, 30)),
        st.tuples(st.just("unbook"), st.integers(0, 30)),
        st.tuples(st.just("advance"), st.sampled_from([1, 500, 1_000, TTL_MS])),
        st.tuples(st.just("status"), st.sampled_from(["open", "open", "closed", "cancelled"])),
    ),
    min_size=4,
    max_size=16,
)


class Shop:
    """An event whose confirmations share calls, or are made one by one."""

    def __init__(self, runner: Runner, legs: int) -> None:
        runner.redis.flushall()
        self.legs = legs
        stops = ["a", "b", "c", "d"] if legs == 3 else None
        self.venue = Venue(runner, FLOOR | {"capacity": 6}, STALLS, stops=stops, policy=LIMITS)
        self.replies: list[Any] = []
        self.held: list[tuple[str, str]] = []
        self.asked: list[list[ManyConfirmation]] = []

    def requests(self, act: str, what: list[Any]) -> list[ManyConfirmation]:
        """The confirmations of a step."""
        if act == "confirm":
            self.asked.append(
                [
                    ManyConfirmation(hold_id, owner if is_theirs else "zoe", attempt, *once)
                    for number, is_theirs, attempt, once in what[0]
                    for hold_id, owner in [self.held[number % len(self.held)] if self.held else ("none", "ana")]
                ]
            )
        return self.asked[-1] if act == "confirm" else self.asked[what[0] % len(self.asked)]

    def confirm_one(self, request: ManyConfirmation) -> None:
        hold_id, owner, attempt, once, body = request
        reply = self.venue.confirm(hold_id, owner=owner, attempt=attempt, once=once, body=body if once else "")
        self.replies.append([*reply[:4], *reply[5:]])  # without the journal's id, which is of the server's clock

    def confirm_at_once(self, requests: list[ManyConfirmation]) -> list[ManyConfirmation]:
        """Have them made as the engine does; they in the order in which they were decided."""
        reply = self.venue.confirm_many(*requests)
        answers = ["GENERAL"] * len(requests) if reply == ["GENERAL"] else reply[2:]
        asked = list(zip(requests, answers, strict=True))
        confirmed = [request for request, answer in asked if answer != "GENERAL"]
        self.replies += [
            ["CONFIRMED", reply[1][0], answer[0], reply[1][1], answer[2]] for _, answer in asked if answer != "GENERAL"
        ]
        others = [request for request, answer in asked if answer == "GENERAL"]
        for request in others:
            self.confirm_one(request)
        return confirmed + others

    def play(self, number: int, act: str, what: list[Any]) -> None:
        venue = self.venue
        if act == "holds":
            for position, (first, length, text, ttl_ms) in enumerate(what[0]):
                stretch = f"{first}:{min(first + length, 3)}" if self.legs == 3 else "0:1"
                hold_id, owner = f"h{number:012d}{position:013d}", ("ana", "b|en")[position % 2]
                reply = venue.hold(f"{stretch};{text}", hold_id=hold_id, owner=owner, ttl_ms=ttl_ms)
                self.held += [(hold_id, owner)] if reply[0] == "HELD" else []
        elif act == "advance":
            venue.advance(what[0])
        elif act == "status":
            self.replies.append(venue.set_status(what[0], closes_ms=venue.now() + 10**9))
        elif self.held:
            hold_id, owner = self.held[what[0] % len(self.held)]
            if act == "release":
                self.replies.append(venue.release(hold_id, owner=owner, attempt="r1"))
            elif act == "pay":
                self.replies.append(venue.begin_payment(hold_id, owner=owner, ttl_ms=2 * TTL_MS))
            elif act == "unbook":
                self.replies.append(venue.unbook(hold_id))

    def seen(self) -> dict[bytes, Any]:
        assert_consistent(self.venue.redis, self.venue.event, partitions=PARTITIONS)
        found = self.venue.runner.dump()
        # What is of the server's clock, the ids of entries, is not compared.
        found.pop(self.venue.key("removed"), None)
        journal = self.venue.partition_key("journal")
        found[journal] = [entry for _, entry in found.get(journal, [])]
        for name, record in found.get(self.venue.key("bookings"), {}).items():
            fields = record.split(b"|")
            found[self.venue.key("bookings")][name] = fields[:2] + fields[3:]
        return found | {self.venue.partition_key("trail"): lines_of(self.venue)}


@pytest.mark.parametrize("legs", [1, 3])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_call_answers_only_what_confirm_hold_would(redis_url: str, legs: int, steps: list[tuple[Any, ...]]) -> None:
    """The same confirmations in the order in which the call made them, each by the general way: all is the same."""
    runner = Runner(redis_url)
    at_once = Shop(runner, legs)
    order: dict[int, list[ManyConfirmation]] = {}
    for number, (act, *what) in enumerate(steps):
        if act == "confirm" or (act == "again" and at_once.asked):
            order[number] = at_once.confirm_at_once(at_once.requests(act, what))
        else:
            at_once.play(number, act, what)
    seen = at_once.seen()
    runner.scripts["confirm_hold"] = general_way_alone("confirm_hold")
    one_by_one = Shop(runner, legs)
    for number, (act, *what) in enumerate(steps):
        if number in order:
            for request in order[number]:
                one_by_one.confirm_one(request)
        else:
            one_by_one.play(number, act, what)
    assert one_by_one.replies == at_once.replies
    assert one_by_one.seen() == seen


@pytest.fixture
def venue(redis_url: str) -> Venue:
    """An event with four holds: two places of the floor, three, and a seat, of ana; a place of zoe's."""
    venue = Venue(Runner(redis_url))
    for hold_id, places, owner in (("a", "0*2", "ana"), ("b", "0*3", "ana"), ("c", "1#4", "ana"), ("z", "0*1", "zoe")):
        venue.held(f"0:1;{places}", hold_id=hold_id, owner=owner)
    return venue


def confirms(venue: Venue, *requests: ManyConfirmation, **options: Any) -> list[bool]:
    reply = venue.confirm_many(*requests, **options)
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)
    return [False] * len(requests) if reply == ["GENERAL"] else [answer != "GENERAL" for answer in reply[2:]]


A, B, C = (ManyConfirmation(hold_id) for hold_id in "abc")
Z = ManyConfirmation("z", "zoe")


def test_each_is_told_of_its_own_booking(venue: Venue) -> None:
    now, journal = venue.now(), venue.partition_key("journal")
    reply = venue.confirm_many(A, C, Z)
    entries: Any = venue.redis.xrange(journal)
    places = ["0:1;0*2", "0:1;1#4", "0:1;0*1"]
    told = [[now, entry_id.decode(), text] for (entry_id, _), text in zip(entries, places, strict=True)]
    assert reply == ["CONFIRMED", ["1", now], *told]
    assert [entry[b"booking"] for _, entry in entries] == [b"a", b"c", b"z"]
    assert venue.counts() == (4, 3, 3)
    assert venue.counts(1) == (19, 0, 1)
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def test_call_that_runs_twice_books_once(venue: Venue) -> None:
    assert confirms(venue, A, C) == [True, True]
    with venue.runner.writes_nothing():
        assert confirms(venue, A, C) == [False, False]
        assert venue.confirm("a")[0] == "CONFIRMED"  # the same attempt hears what it would have heard


def test_hold_that_comes_twice_in_a_call_is_booked_once(venue: Venue) -> None:
    assert confirms(venue, A, A._replace(attempt="a2")) == [True, False]
    assert venue.confirm("a", attempt="a2") == ["BOOKED"]


def test_hold_of_somebody_else_is_not_confirmed(venue: Venue) -> None:
    assert confirms(venue, A, Z._replace(owner="ana")) == [True, False]


def test_hold_that_has_lapsed_is_not_confirmed(venue: Venue) -> None:
    venue.held("0:1;1#5", hold_id="d", ttl_ms=2 * TTL_MS)
    venue.advance(TTL_MS)
    assert confirms(venue, A, ManyConfirmation("d")) == [False, True]


def test_idempotency_keys_are_remembered_each_with_its_own_booking(venue: Venue) -> None:
    requests = [A, B._replace(once="k1", body="b1"), C._replace(once="k2", body="b2"), Z]
    assert confirms(venue, *requests) == [True] * 4
    assert venue.confirm("b", once="k1", body="b1") == ["REPLAYED", "b"]
    assert venue.confirm("c", once="k2", body="b2") == ["REPLAYED", "c"]
    assert venue.confirm("c", once="k2", body="b9") == ["KEY_REUSED"]
    entries: Any = venue.redis.xrange(venue.partition_key("journal"))
    assert [(entry[b"once"], entry[b"body"]) for _, entry in entries] == [
        *((b"", b""), (b"k1", b"b1"), (b"k2", b"b2"), (b"", b""))
    ]


def test_key_that_is_known_or_comes_twice_in_a_call_makes_no_second_booking(venue: Venue) -> None:
    assert venue.confirm("a", once="k1")[0] == "CONFIRMED"
    requests = [B._replace(once="k1"), C._replace(once="k2"), Z._replace(once="k2")]
    assert confirms(venue, *requests) == [False, True, False]
    assert venue.confirm("z", owner="zoe", once="k2") == ["REPLAYED", "c"]


def test_journal_that_would_be_too_long_with_all_of_them_takes_none(venue: Venue) -> None:
    room_for_two = 81_920
    with venue.runner.writes_nothing():
        assert confirms(venue, A, B, C, journal_max=room_for_two) == [False] * 3
    assert confirms(venue, A, B, journal_max=room_for_two) == [True] * 2


def test_journal_of_many_short_entries_takes_more(venue: Venue) -> None:
    """Their number says no more than that they might be too much."""
    journal = venue.partition_key("journal")
    for _ in range(50):
        venue.redis.xadd(journal, {"booking": "somebody's"})
    assert confirms(venue, A, B, C, journal_max=4 * 81_920) == [True] * 3


@pytest.mark.parametrize("field", ["held:0:0", "sold:0:0", "seq", "legs", "due"])
@pytest.mark.parametrize("shared", [True, False])
def test_damage_to_the_state_shows_before_anything_is_written(venue: Venue, field: str, shared: bool) -> None:
    """Else a counter of one section would leave the bookings of others half made."""
    venue.redis.hset(venue.key("state"), field, "x")
    with venue.runner.writes_nothing(), contextlib.suppress(redis.ResponseError):
        if shared:
            assert set(venue.confirm_many(B, A)[2:]) <= {"GENERAL"}
        else:
            venue.confirm("a")


def test_section_whose_counter_is_damaged_keeps_no_others_from_being_confirmed(venue: Venue) -> None:
    venue.redis.hset(venue.key("state"), "held:0:0", "x")
    assert [answer == "GENERAL" for answer in venue.confirm_many(C, A)[2:]] == [False, True]
    assert [fields["booking"] for _, fields in venue.journal()] == ["c"]


def test_event_s_own_obstacles_hand_all_back(venue: Venue) -> None:
    state = venue.key("state")
    for field, value in (("status", "cancelled"), ("audited", "f" * 40), ("status", None), ("epoch", None)):
        kept: Any = venue.redis.hget(state, field)
        if value is None:
            venue.redis.hdel(state, field)
        else:
            venue.redis.hset(state, field, value)
        with venue.runner.writes_nothing():
            assert venue.confirm_many(A, C) == ["GENERAL"]
        venue.redis.hset(state, field, kept)
    assert confirms(venue, A, C) == [True, True]


def test_earliest_deadline_moves_to_that_of_the_holds_that_are_left(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))
    for number, ttl_ms in enumerate((500, 1_000, TTL_MS)):
        venue.held("0:1;0*1", hold_id=f"h{number}", ttl_ms=ttl_ms)
    wakeups = venue.partition_key("wakeups")
    assert confirms(venue, ManyConfirmation("h0"), ManyConfirmation("h1")) == [True, True]
    assert venue.state("due") == venue.redis.zscore(wakeups, venue.id) == venue.now() + TTL_MS
    assert confirms(venue, ManyConfirmation("h2")) == [True]
    assert venue.redis.zscore(wakeups, venue.id) is None


@pytest.mark.parametrize("count", [0, 101])
def test_too_many_requests_or_none_are_an_error_and_nothing_is_written(venue: Venue, count: int) -> None:
    with venue.runner.writes_nothing(), pytest.raises(Exception, match=f"HF_BADARG requests: {count}"):
        venue.confirm_many(*[A] * count)


def test_comparison_notices_when_holds_booked_within_a_call_are_not_seen(venue: Venue) -> None:
    venue.runner.scripts["confirm_many"] = mutated(
        "confirm_many", ("taken[id], earliest = true, math.min", "earliest = math.min")
    )
    with pytest.raises(AssertionError):
        confirms(venue, A, A)
