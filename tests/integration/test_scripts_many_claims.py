"""``hold_many``, a batch in one call, and ``hold_places``: the one never grants what the other would refuse."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invariants import assert_consistent
from script_mutants import mutated
from script_runner import FLOOR, PARTITIONS, STALLS, TTL_MS, Runner, Venue
from test_scripts_usual_claim import CLAIMS, LIMITS, general_way_alone, lines_of

LEGS = st.tuples(st.integers(0, 2), st.sampled_from([1, 1, 1, 2]))
CLAIM = st.tuples(LEGS, CLAIMS, st.sampled_from([500, TTL_MS, TTL_MS, 10**9]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("batch"), st.lists(CLAIM, min_size=1, max_size=12), st.sampled_from(["ana", "ben"])),
        st.tuples(st.just("again"), st.integers(0, 30)),
        st.tuples(st.just("release"), st.integers(0, 30)),
        st.tuples(st.just("confirm"), st.integers(0, 30)),
        st.tuples(st.just("advance"), st.sampled_from([1, 500, 1_000, TTL_MS])),
        st.tuples(st.just("status"), st.sampled_from(["open", "open", "closed"]), st.sampled_from([1_000, 10**9])),
    ),
    min_size=4,
    max_size=16,
)
Claim = tuple[str, int, str]


class Shop:
    """An event whose batches go through one script, or claim by claim; ``granted`` says which come first."""

    def __init__(self, runner: Runner, legs: int) -> None:
        runner.redis.flushall()
        stops = ["a", "b", "c", "d"] if legs == 3 else None
        self.venue = Venue(runner, FLOOR | {"capacity": 6}, STALLS, stops=stops, policy=LIMITS)
        self.replies: list[Any] = []
        self.held: list[tuple[str, str]] = []

    def hold_one(self, claim: Claim, owner: str) -> None:
        hold_id, ttl_ms, places = claim
        self.replies.append(self.venue.hold(places, hold_id=hold_id, owner=owner, ttl_ms=ttl_ms))
        self.held.append((hold_id, owner))

    def play(self, act: str, what: list[Any]) -> None:
        venue = self.venue
        if act == "release" and self.held:
            hold_id, owner = self.held[what[0] % len(self.held)]
            self.replies.append(venue.release(hold_id, owner=owner, attempt="r1"))
        elif act == "confirm" and self.held:
            hold_id, owner = self.held[what[0] % len(self.held)]
            self.replies.append(venue.confirm(hold_id, owner=owner)[:2])
        elif act == "advance":
            venue.advance(what[0])
        elif act == "status":
            self.replies.append(venue.set_status(what[0], closes_ms=venue.now() + what[1]))

    def seen(self) -> dict[bytes, Any]:
        assert_consistent(self.venue.redis, self.venue.event, partitions=PARTITIONS)
        found = self.venue.runner.dump()
        found.pop(self.venue.partition_key("journal"), None)  # its ids are of the server's clock
        for name, record in found.get(self.venue.key("bookings"), {}).items():
            fields = record.split(b"|")
            found[self.venue.key("bookings")][name] = fields[:2] + fields[3:]
        return found | {self.venue.partition_key("trail"): lines_of(self.venue)}


def claims_of(step: int, claims: list[Any], legs: int) -> list[Claim]:
    named = []
    for number, ((first, length), text, ttl_ms) in enumerate(claims):
        stretch = f"{first}:{min(first + length, 3)}" if legs == 3 else "0:1"
        named.append((f"h{step:012d}{number:013d}", ttl_ms, f"{stretch};{text}"))
    return named


def hold_at_once(shop: Shop, claims: list[Claim], owner: str) -> list[Claim]:
    """Have the batch held as the engine does; the claims in the order in which they were decided."""
    reply = shop.venue.hold_many(*claims, owner=owner)
    statuses = ["GENERAL"] * len(claims) if reply == ["GENERAL"] else reply[2:]
    granted = [claim for claim, status in zip(claims, statuses, strict=True) if status != "GENERAL"]
    seq = shop.venue.state("seq") - len(granted)
    deadlines = [status for status in statuses if status != "GENERAL"]
    for number, ((hold_id, _, places), deadline_ms) in enumerate(zip(granted, deadlines, strict=True), 1):
        shop.replies.append(["HELD", [seq + number, reply[1], deadline_ms, places]])
        shop.held.append((hold_id, owner))
    others = [claim for claim in claims if claim not in granted]
    for claim in others:
        shop.hold_one(claim, owner)
    return granted + others


@pytest.mark.parametrize("legs", [1, 3])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_batch_never_grants_what_hold_places_would_refuse(
    redis_url: str, legs: int, steps: list[tuple[Any, ...]]
) -> None:
    """The same claims in the order in which the batch decided them, each by the general way: all is the same."""
    runner = Runner(redis_url)
    at_once = Shop(runner, legs)
    order: dict[int, tuple[list[Claim], str]] = {}
    batches: list[tuple[list[Claim], str]] = []
    for number, (act, *what) in enumerate(steps):
        if act == "batch":
            batches.append((claims_of(number, what[0], legs), what[1]))
        if act == "batch" or (act == "again" and batches):
            claims, owner = batches[-1] if act == "batch" else batches[what[0] % len(batches)]
            order[number] = hold_at_once(at_once, claims, owner), owner
        else:
            at_once.play(act, what)
    seen = at_once.seen()
    runner.scripts["hold_places"] = general_way_alone("hold_places")
    one_by_one = Shop(runner, legs)
    for number, (act, *what) in enumerate(steps):
        if number in order:
            for claim in order[number][0]:
                one_by_one.hold_one(claim, order[number][1])
        else:
            one_by_one.play(act, what)
    assert one_by_one.replies == at_once.replies
    assert one_by_one.seen() == seen


@pytest.fixture
def venue(redis_url: str) -> Venue:
    """An event with a hold of somebody else."""
    venue = Venue(Runner(redis_url))
    venue.held("0:1;0*1", owner="zoe", hold_id="z")
    return venue


def grants(venue: Venue, *places: str, **options: Any) -> list[bool]:
    claims = [(f"c{number}", TTL_MS, text) for number, text in enumerate(places)]
    reply = venue.hold_many(*claims, **options)
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)
    return [False] * len(places) if reply == ["GENERAL"] else [answer != "GENERAL" for answer in reply[2:]]


def test_claims_of_a_batch_see_each_other_s_seats_and_counts(venue: Venue) -> None:
    assert grants(venue, "0:1;1#3", "0:1;1#3", "0:1;0*6", "0:1;0*4", "0:1;0*3") == [True, False, True, False, True]
    assert venue.counts() == (0, 10, 0)


def test_claims_of_a_batch_count_together_against_the_customer_s_limit(redis_url: str) -> None:
    venue = Venue(Runner(redis_url), policy={"max_places_per_customer": 3})
    venue.held("0:1;0*1")
    assert grants(venue, "0:1;0*1", "0:1;0*2", "0:1;1#0", "0:1;0*1") == [True, False, True, False]


def test_unusual_claims_are_handed_back_and_the_others_granted(venue: Venue) -> None:
    assert grants(venue, "0:1;0*1", "0:1;1?2", "0:1;0*1;1#1", "0:1;1#1,2", "0:1;9*1", "0:1;0*11") == [
        True,
        *[False] * 5,
    ]


def test_batch_that_runs_twice_holds_once(venue: Venue) -> None:
    assert grants(venue, "0:1;0*1", "0:1;1#4") == [True, True]
    with venue.runner.writes_nothing():
        assert grants(venue, "0:1;0*1", "0:1;1#4") == [False, False]
    assert venue.hold("0:1;1#4", hold_id="c1")[0] == "HELD"


def test_claim_that_comes_twice_in_a_batch_is_granted_once(venue: Venue) -> None:
    reply = venue.hold_many(("c", TTL_MS, "0:1;0*1"), ("c", TTL_MS, "0:1;0*1"))
    assert (reply[0], reply[3]) == ("HELD", "GENERAL")
    assert venue.counts()[1] == 2


def test_event_s_own_obstacles_hand_the_whole_batch_back(venue: Venue) -> None:
    with venue.runner.writes_nothing():
        assert grants(venue, "0:1;0*1", layout="sha256:old") == [False]
    venue.redis.hset(venue.key("state"), "waiting", "asked")
    assert venue.hold_many(("c", TTL_MS, "0:1;0*1")) == ["GENERAL"]
    venue.redis.hdel(venue.key("state"), "waiting")
    venue.advance(TTL_MS)
    assert grants(venue, "0:1;0*1") == [False]


def test_first_holds_of_an_event_share_a_call_and_set_its_earliest_deadline(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))
    reply = venue.hold_many(("a", TTL_MS, "0:1;0*1"), ("b", 500, "0:1;1#3"), ("c", TTL_MS, "0:1;1#4"))
    assert reply[2:] == [venue.now() + TTL_MS, venue.now() + 500, venue.now() + TTL_MS]
    assert venue.state("due") == venue.now() + 500
    assert venue.redis.zscore(venue.partition_key("wakeups"), venue.id) == venue.now() + 500
    venue.advance(500)
    assert venue.read("b") == ["EXPIRED"]
    assert venue.reap()[:2] == ["REAPED", 1]
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def test_later_deadlines_leave_the_earliest_alone(venue: Venue) -> None:
    assert grants(venue, "0:1;0*1") == [True]
    due_ms = venue.state("due")
    reply = venue.hold_many(("later", TTL_MS + 1, "0:1;0*1"))
    assert reply[2] > due_ms
    assert venue.state("due") == due_ms
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def test_batch_beyond_its_bound_is_an_error_and_writes_nothing(venue: Venue) -> None:
    claims = [(f"c{number}", TTL_MS, "0:1;0*1") for number in range(101)]
    with venue.runner.writes_nothing(), pytest.raises(Exception, match="HF_BADARG claims: 101"):
        venue.hold_many(*claims)


def test_comparison_notices_when_seats_taken_within_a_batch_are_not_seen(venue: Venue) -> None:
    venue.runner.scripts["hold_many"] = mutated(
        "hold_many", (", occupied[byte] = held[byte] + bits[i], occupied[byte]", " = held[byte]")
    )
    with pytest.raises(AssertionError):
        grants(venue, "0:1;1#3", "0:1;1#3")
