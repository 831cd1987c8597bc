"""``hold_many``, many claims in one call, and ``hold_places``: the one answers nothing that the other would not."""

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invariants import assert_consistent
from script_mutants import mutated
from script_runner import FLOOR, PARTITIONS, STALLS, TTL_MS, ManyClaim, Runner, Venue
from test_scripts_usual_claim import CLAIMS, LIMITS, general_way_alone, lines_of

LEGS = st.tuples(st.integers(0, 2), st.sampled_from([1, 1, 1, 2]))
ONCE = st.sampled_from([("", "b1"), ("", "b1"), ("k1", "b1"), ("k2", "b1"), ("k2", "b2")])
CLAIM = st.tuples(LEGS, CLAIMS, st.sampled_from([500, TTL_MS, TTL_MS, 10**9]), st.sampled_from(["ana", "ben"]), ONCE)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claims"), st.lists(CLAIM, min_size=1, max_size=12)),
        st.tuples(st.just("again"), st.integers(0, 30)),
        st.tuples(st.just("release"), st.integers(0, 30)),
        st.tuples(st.just("confirm"), st.integers(0, 30)),
        st.tuples(st.just("advance"), st.sampled_from([1, 500, 1_000, TTL_MS])),
        st.tuples(st.just("status"), st.sampled_from(["open", "open", "closed"]), st.sampled_from([1_000, 10**9])),
    ),
    min_size=4,
    max_size=16,
)
USUAL = re.compile(r"(\d+):(\d+);\d+[*#]\d+")


class Shop:
    """An event whose claims go through one script, or one by one."""

    def __init__(self, runner: Runner, legs: int) -> None:
        runner.redis.flushall()
        stops = ["a", "b", "c", "d"] if legs == 3 else None
        self.venue = Venue(runner, FLOOR | {"capacity": 6}, STALLS, stops=stops, policy=LIMITS)
        self.replies: list[Any] = []
        self.held: list[tuple[str, str]] = []

    def hold_one(self, claim: ManyClaim) -> None:
        hold_id, ttl_ms, places, owner, once, body = claim
        reply = self.venue.hold(places, hold_id=hold_id, owner=owner, ttl_ms=ttl_ms, once=once, body=body)
        self.note(claim, reply)

    def note(self, claim: ManyClaim, reply: list[Any]) -> None:
        self.replies.append(reply)
        self.held.append((claim.hold_id, claim.owner))

    def end_lapsed(self) -> None:
        """As ``hold_many`` does first."""
        venue = self.venue
        if venue.redis.hget(venue.key("state"), "status") == b"open" and venue.state("due") <= venue.now():
            venue.reap()

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


def claims_of(step: int, claims: list[Any], legs: int) -> list[ManyClaim]:
    named = []
    for number, ((first, length), text, ttl_ms, owner, once) in enumerate(claims):
        stretch = f"{first}:{min(first + length, 3)}" if legs == 3 else "0:1"
        named.append(ManyClaim(f"h{step:012d}{number:013d}", ttl_ms, f"{stretch};{text}", owner, *once))
    return named


def is_usual(claim: ManyClaim) -> bool:
    found = USUAL.fullmatch(claim.places)
    return found is not None and int(found[2]) - int(found[1]) == 1


def hold_at_once(shop: Shop, claims: list[ManyClaim]) -> list[ManyClaim]:
    """Have the claims made as the engine does; they in the order in which they were decided."""
    usual = [claim for claim in claims if is_usual(claim)]
    reply = shop.venue.hold_crowd(*usual) if usual else ["GENERAL"]
    answers = ["GENERAL"] * len(usual) if reply == ["GENERAL"] else reply[2:]
    decided = [(claim, answer) for claim, answer in zip(usual, answers, strict=True) if answer != "GENERAL"]
    seq = shop.venue.state("seq") - sum(isinstance(answer, int) for _, answer in decided)
    for claim, answer in decided:
        if isinstance(answer, int):
            seq += 1
            shop.note(claim, ["HELD", [seq, reply[1], answer, claim.places]])
        else:
            shop.note(claim, ["UNAVAILABLE", *answer[:3], [1, *answer[3:]]])
    others = [claim for claim in claims if claim not in [claim for claim, _ in decided]]
    for claim in others:
        shop.hold_one(claim)
    return [claim for claim, _ in decided] + others


@pytest.mark.parametrize("legs", [1, 3])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_call_answers_only_what_hold_places_would(redis_url: str, legs: int, steps: list[tuple[Any, ...]]) -> None:
    """The same claims in the order in which the call decided them, each by the general way: all is the same."""
    runner = Runner(redis_url)
    at_once = Shop(runner, legs)
    order: dict[int, list[ManyClaim]] = {}
    calls: list[list[ManyClaim]] = []
    for number, (act, *what) in enumerate(steps):
        if act == "claims":
            calls.append(claims_of(number, what[0], legs))
        if act == "claims" or (act == "again" and calls):
            order[number] = hold_at_once(at_once, calls[-1] if act == "claims" else calls[what[0] % len(calls)])
        else:
            at_once.play(act, what)
    seen = at_once.seen()
    runner.scripts["hold_places"] = general_way_alone("hold_places")
    one_by_one = Shop(runner, legs)
    for number, (act, *what) in enumerate(steps):
        if number in order:
            if any(map(is_usual, order[number])):
                one_by_one.end_lapsed()
            for claim in order[number]:
                one_by_one.hold_one(claim)
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
    return [False] * len(places) if reply == ["GENERAL"] else [isinstance(answer, int) for answer in reply[2:]]


def test_claims_see_each_other_s_seats_and_counts(venue: Venue) -> None:
    assert grants(venue, "0:1;1#3", "0:1;1#3", "0:1;0*6", "0:1;0*4", "0:1;0*3") == [True, False, True, False, True]
    assert venue.counts() == (0, 10, 0)


def test_refusal_tells_what_is_in_the_way_after_the_claims_before_it(venue: Venue) -> None:
    due_ms = venue.state("due")
    venue.booked("0:1;1#4", owner="zoe")
    reply = venue.hold_many(*((f"c{n}", TTL_MS, f"0:1;{text}") for n, text in enumerate(("1#4", "0*8", "0*3", "1#4"))))
    assert reply[2:] == [
        [0, 1, due_ms, "1#4"],
        venue.now() + TTL_MS,
        [2, 0, due_ms, "0*3:1"],
        [0, 1, due_ms, "1#4"],
    ]
    with venue.runner.writes_nothing():
        assert venue.hold_many(("c", TTL_MS, "0:1;1#4"))[2:] == [[0, 1, due_ms, "1#4"]]


def test_seat_that_is_free_is_not_refused_for_a_count_that_is_wrong(venue: Venue) -> None:
    """As ``hold_places`` has it: of a seat its bit decides."""
    venue.redis.hset(venue.key("state"), "free:1:0", 0)
    assert isinstance(venue.hold_many(("c", TTL_MS, "0:1;1#3"))[2], int)
    assert venue.hold("0:1;1#4")[0] == "HELD"


def test_claims_count_together_against_each_customer_s_limit(redis_url: str) -> None:
    venue = Venue(Runner(redis_url), policy={"max_places_per_customer": 3})
    venue.held("0:1;0*1", owner="ana")
    asked = [("ana", "0*1"), ("ben", "0*2"), ("ana", "0*2"), ("ben", "1#0"), ("ana", "0*1"), ("ben", "0*1")]
    claims = [ManyClaim(f"c{n}", TTL_MS, f"0:1;{text}", owner) for n, (owner, text) in enumerate(asked)]
    answers = venue.hold_crowd(*claims)[2:]
    assert [answer != "GENERAL" for answer in answers] == [True, True, False, True, True, False]
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


@pytest.mark.parametrize("places", ["0:1;1?2", "0:1;0*1;1#1", "0:1;1#1,2", "0:2;0*1", "nonsense"])
def test_unusual_claim_is_an_error_and_nothing_is_written(venue: Venue, places: str) -> None:
    with venue.runner.writes_nothing(), pytest.raises(Exception, match="HF_BADARG claim: "):
        grants(venue, "0:1;0*1", places)


def test_claims_of_what_there_is_not_or_is_too_much_are_handed_back(venue: Venue) -> None:
    assert grants(venue, "0:1;0*1", "0:1;9*1", "0:1;0*11") == [True, False, False]


def test_call_that_runs_twice_holds_once(venue: Venue) -> None:
    assert grants(venue, "0:1;0*1", "0:1;1#4") == [True, True]
    with venue.runner.writes_nothing():
        assert grants(venue, "0:1;0*1", "0:1;1#4") == [False, False]
    assert venue.hold("0:1;1#4", hold_id="c1")[0] == "HELD"


def test_claim_that_comes_twice_in_a_call_is_granted_once(venue: Venue) -> None:
    reply = venue.hold_many(("c", TTL_MS, "0:1;0*1"), ("c", TTL_MS, "0:1;0*1"))
    assert (reply[0], reply[3]) == ("HELD", "GENERAL")
    assert venue.counts()[1] == 2


def test_idempotency_keys_are_remembered_each_with_its_own_claim(venue: Venue) -> None:
    claims = [
        ManyClaim("a", TTL_MS, "0:1;0*1"),
        ManyClaim("b", TTL_MS, "0:1;0*2", "ben", "k1", "b1"),
        ManyClaim("c", TTL_MS, "0:1;1#3", "cem", "k2", "b2"),
        ManyClaim("d", TTL_MS, "0:1;0*9", "dee", "k3", "b3"),
    ]
    _, created_ms, *answers = venue.hold_crowd(*claims)
    assert [isinstance(answer, int) for answer in answers] == [True, True, True, False]
    again = venue.hold("0:1;0*2", owner="ben", once="k1", body="b1")
    assert again == ["REPLAYED", ["b", created_ms, answers[1], "0:1;0*2"]]
    assert venue.hold("0:1;1#3", owner="cem", once="k2", body="b2")[1][0] == "c"
    assert venue.hold("0:1;1#3", owner="cem", once="k2", body="b9") == ["KEY_REUSED"]
    assert venue.hold("0:1;0*1", owner="dee", once="k3", body="b3")[0] == "HELD"  # a refusal is not remembered


def test_key_that_is_known_or_comes_twice_in_a_call_makes_no_second_hold(venue: Venue) -> None:
    venue.held("0:1;0*1", owner="ana", once="k1", body="b1")
    reply = venue.hold_crowd(
        ManyClaim("a", TTL_MS, "0:1;0*1", "ana", "k1", "b1"),
        ManyClaim("b", TTL_MS, "0:1;1#1", "ana", "k2", "b1"),
        ManyClaim("c", TTL_MS, "0:1;1#2", "ana", "k2", "b1"),
    )
    assert [answer == "GENERAL" for answer in reply[2:]] == [True, False, True]
    assert venue.counts(1)[1] == 1


def test_event_s_own_obstacles_hand_all_claims_back(venue: Venue) -> None:
    with venue.runner.writes_nothing():
        assert grants(venue, "0:1;0*1", layout="sha256:old") == [False]
    venue.redis.hset(venue.key("state"), "waiting", "asked")
    assert venue.hold_many(("c", TTL_MS, "0:1;0*1")) == ["GENERAL"]
    venue.redis.hdel(venue.key("state"), "waiting")
    venue.redis.hdel(venue.key("state"), "epoch")  # as a state that is being built anew
    with venue.runner.writes_nothing():
        assert venue.hold_many(("c", TTL_MS, "0:1;0*1")) == ["GENERAL"]
    venue.redis.delete(venue.key("state"))
    assert venue.hold_many(("c", TTL_MS, "0:1;0*1")) == ["GENERAL"]


def test_lapsed_holds_are_ended_first_and_their_places_granted(venue: Venue) -> None:
    venue.held("0:1;1#3", owner="zoe", hold_id="z2")
    venue.advance(TTL_MS)
    assert grants(venue, "0:1;1#3", "0:1;0*10") == [True, True]
    assert venue.read("z", owner="zoe") == venue.read("z2", owner="zoe") == ["EXPIRED"]


def test_claim_is_not_refused_while_holds_that_have_lapsed_are_in_the_way(redis_url: str) -> None:
    """More than a call ends, the last of them in the way: the claim by itself ends the rest."""
    venue = Venue(Runner(redis_url), FLOOR | {"capacity": 100}, STALLS, policy={"max_places_per_customer": 200})
    for _ in range(70):
        venue.held("0:1;0*1", owner="zoe")
    venue.held("0:1;1#3", owner="zoe", ttl_ms=TTL_MS + 1)
    venue.advance(TTL_MS + 1)
    reply = venue.hold_many(("a", TTL_MS, "0:1;1#3"), ("b", TTL_MS, "0:1;0*2"))
    assert (reply[0], reply[2], reply[3]) == ("HELD", "GENERAL", venue.now() + TTL_MS)
    assert venue.state("due") <= venue.now()
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)
    assert venue.hold_on("0:1;1#3", hold_id="a")[0][0] == "HELD"


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


@pytest.mark.parametrize("count", [0, 101])
def test_too_many_claims_or_none_are_an_error_and_nothing_is_written(venue: Venue, count: int) -> None:
    claims = [(f"c{number}", TTL_MS, "0:1;0*1") for number in range(count)]
    with venue.runner.writes_nothing(), pytest.raises(Exception, match=f"HF_BADARG claims: {count}"):
        venue.hold_many(*claims)


def test_comparison_notices_when_seats_taken_within_a_call_are_not_seen(venue: Venue) -> None:
    venue.runner.scripts["hold_many"] = mutated("hold_many", ("held[byte] = held[byte] + bits[i]", "held[byte] = 0"))
    with pytest.raises(AssertionError):
        grants(venue, "0:1;1#3", "0:1;1#3")
