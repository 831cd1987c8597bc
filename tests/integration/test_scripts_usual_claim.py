"""The straight paths of scripts and the general way behind them: one is a short cut for the other, and no more."""

import re
from importlib import resources
from pprint import pformat
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invariants import assert_consistent
from script_runner import FLOOR, PARTITIONS, STALLS, TTL_MS, Runner, Venue

import lua
from engine.journal_bound import JOURNAL_BYTES_MAX

LIMITS = {"max_places_per_hold": 4, "max_places_per_customer": 8}
CLAIMS = st.one_of(
    st.integers(1, 5).map(lambda quantity: f"0*{quantity}"),
    st.integers(0, 19).map(lambda seat: f"1#{seat}"),
    st.tuples(st.integers(0, 9), st.integers(10, 19)).map(lambda seats: f"1#{seats[0]},{seats[1]}"),
    st.integers(1, 4).map(lambda quantity: f"1?{quantity}"),
    st.just("0*1;1#3"),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("hold"),
            st.tuples(st.integers(0, 2), st.integers(1, 3)).map(lambda legs: f"{legs[0]}:{min(sum(legs), 3)}"),
            CLAIMS,
            st.sampled_from(["ana", "ben"]),
            st.sampled_from([1_000, TTL_MS, 10**9]),
            st.sampled_from(["", "", "k1", "k2"]),
        ),
        st.tuples(st.just("again"), st.integers(0, 30)),
        st.tuples(st.just("release"), st.integers(0, 30)),
        st.tuples(st.just("pay"), st.integers(0, 30)),
        st.tuples(
            st.just("confirm"),
            st.integers(0, 30),
            st.sampled_from(["ana", "ben", ""]),
            st.sampled_from(["a1", "a2"]),
            st.sampled_from(["", "", "c1", "c2"]),
            st.sampled_from([JOURNAL_BYTES_MAX, JOURNAL_BYTES_MAX, 1]),
        ),
        st.tuples(st.just("advance"), st.sampled_from([1, 500, 1_000, TTL_MS])),
        st.tuples(
            st.just("status"), st.sampled_from(["open", "closed", "cancelled"]), st.sampled_from([0, 1_000, 10**9])
        ),
    ),
    min_size=8,
    max_size=30,
)


# Script -> what its short cut begins with.
SHORT_CUTS = {"hold_places": "if #ARGV == 7", "confirm_hold": "local record = not (KEYS[13]"}


def text_of(name: str) -> str:
    return (resources.files("lua") / f"{name}.lua").read_text("utf-8")


def general_way_alone(name: str) -> lua.Script:
    """The script without the short cut."""
    text = text_of(name)
    return lua.parse(name, text[: text.index(SHORT_CUTS[name])] + text[text.index("-- The general way.") :])


def short_cut_alone(name: str) -> lua.Script:
    """The script that does not know what else to do."""
    return lua.parse(name, re.sub(r"-- The general way\.\n(?s:.*)", "return { 'NOT_LOADED', 1 }\n", text_of(name)))


@pytest.mark.parametrize("legs", [1, 3])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_short_cut_answers_and_writes_what_the_general_way_would(
    redis_url: str, legs: int, steps: list[tuple[Any, ...]]
) -> None:
    histories = []
    for is_general in (False, True):
        runner = Runner(redis_url)
        runner.redis.flushall()
        if is_general:
            runner.scripts |= {name: general_way_alone(name) for name in SHORT_CUTS}
        stops = ["a", "b", "c", "d"] if legs == 3 else None
        venue = Venue(runner, FLOOR | {"capacity": 6}, STALLS, stops=stops, policy=LIMITS)
        venue.held("0:1;0*1", hold_id="h", owner="zoe", ttl_ms=1_000)  # without a hold no claim is the usual one
        replies = play(venue, legs, steps)
        assert_consistent(runner.redis, venue.event, partitions=PARTITIONS)
        histories.append(renumbered((replies, runner.dump() | {venue.partition_key("trail"): lines_of(venue)})))
    assert histories[0] == histories[1]


def renumbered(value: Any) -> str:
    """As text; ids of journal entries, which have the server's time in them, are numbered as they come."""
    numbers: dict[str, int] = {}
    return re.sub(
        r"\b\d{13}-\d+\b", lambda match: f"#{numbers.setdefault(match[0], len(numbers))}", pformat(value, width=10**9)
    )


def lines_of(venue: Venue) -> list[str]:
    """The trail without what the server's clock has a part in: the ids, and the line of the event's loading."""
    lines = [next(iter(fields.values())) for _, fields in venue.trail()]
    assert lines[0].startswith("|rebuilt|")
    return lines[1:]


def play(venue: Venue, legs: int, steps: list[tuple[Any, ...]]) -> list[list[Any]]:
    replies: list[list[Any]] = []
    held: list[tuple[str, dict[str, Any]]] = []
    for number, (act, *what) in enumerate(steps):
        if act == "hold":
            stretch, claim, owner, ttl_ms, once = what
            places = f"{stretch if legs == 3 else '0:1'};{claim}"
            options = {"hold_id": f"h{number:025d}", "owner": owner, "ttl_ms": ttl_ms, "once": once, "body": places}
            held.append((places, options))
            replies.append(venue.hold(places, **options))
        elif act == "again" and held:
            places, options = held[what[0] % len(held)]
            replies.append(venue.hold(places, **options))
        elif act == "release" and held:
            _, options = held[what[0] % len(held)]
            replies.append(venue.release(options["hold_id"], owner=options["owner"], attempt="r1"))
        elif act == "pay" and held:
            _, options = held[what[0] % len(held)]
            replies.append(venue.begin_payment(options["hold_id"], owner=options["owner"]))
        elif act == "confirm" and held:
            which, owner, attempt, once, journal_max = what
            _, options = held[which % len(held)]
            own = owner or options["owner"]
            confirmation = {"attempt": attempt, "once": once, "body": options["hold_id"], "journal_max": journal_max}
            replies.append(venue.confirm(options["hold_id"], owner=own, **confirmation))
        elif act == "advance":
            venue.advance(what[0])
        elif act == "status":
            replies.append(venue.set_status(what[0], closes_ms=venue.now() + what[1]))
    return replies


def test_short_cuts_are_taken(redis_url: str) -> None:
    """Were they never taken, the comparison above would compare the general way with itself."""
    runner = Runner(redis_url)
    venue = Venue(runner)
    hold_ids = [venue.held("0:1;0*1")]
    runner.scripts |= {name: short_cut_alone(name) for name in SHORT_CUTS}
    for places in ("0:1;0*2", "0:1;1#3"):
        hold_ids.append(venue.held(places))
        assert venue.hold(places, once=f"key of {places}")[0] == ("HELD" if "*" in places else "UNAVAILABLE")
    assert venue.hold("0:1;0*6")[0] == "UNAVAILABLE"
    for hold_id in hold_ids:
        assert venue.confirm(hold_id, once=f"key of {hold_id}")[0] == "CONFIRMED"
    assert_consistent(runner.redis, venue.event, partitions=PARTITIONS)


@pytest.mark.parametrize("act", ["hold", "confirm"])
@pytest.mark.parametrize("field", ["free:0:0", "held:0:0", "sold:0:0", "status", "epoch"])
def test_state_that_lacks_a_field_is_no_usual_one(redis_url: str, act: str, field: str) -> None:
    """The straight path must not begin to write what it cannot end."""
    runner = Runner(redis_url)
    venue = Venue(runner)
    hold_id = venue.held("0:1;0*1")
    runner.redis.hdel(venue.key("state"), field)
    before = runner.dump()
    try:
        reply = venue.hold("0:1;0*2") if act == "hold" else venue.confirm(hold_id)
    except redis.ResponseError:
        assert runner.dump() == before
    else:
        assert reply[0] in ("HELD", "CONFIRMED", "NOT_OPEN", "NOT_LOADED")
        assert (runner.dump() == before) == reply[0].startswith("NOT_")


@pytest.mark.parametrize("held", [-3, 0, 1])
def test_drifted_counters_are_told_of_as_the_general_way_does(redis_url: str, held: int) -> None:
    replies = []
    for script in (lua.load("hold_places"), general_way_alone("hold_places")):
        runner = Runner(redis_url)
        runner.redis.flushall()
        venue = Venue(runner)
        venue.held("0:1;1#1")
        runner.scripts["hold_places"] = script
        runner.redis.hset(venue.key("state"), mapping={"free:0:0": -1, "held:0:0": held})
        replies.append(venue.hold("0:1;0*2")[:3])
    assert replies[0] == replies[1]
