"""Holds whose records were written before ``expiries`` alone had their deadlines: every script still reads them."""

from collections.abc import Callable
from typing import Any

import pytest
from invariants import assert_consistent
from script_runner import FROZEN_MS, PARTITIONS, TTL_MS, Runner, Venue

from engine.places import parse_places
from engine.records import HoldRecord, parse_hold_record

HOLD = "h" * 26
PLACES = "0:1;0*2;1#3,4"
Act = Callable[[Venue], list[Any]]

ACTS: dict[str, Act] = {
    "read": lambda venue: venue.read(HOLD),
    "read by a stranger": lambda venue: venue.read(HOLD, owner="eve"),
    "held again": lambda venue: venue.hold(PLACES, hold_id=HOLD, owner="a|b"),
    "extended": lambda venue: venue.extend(HOLD, owner="a|b", ttl_ms=2 * TTL_MS),
    "paid": lambda venue: venue.begin_payment(HOLD, owner="a|b", ttl_ms=2 * TTL_MS),
    "released": lambda venue: venue.release(HOLD, owner="a|b"),
    "confirmed": lambda venue: venue.confirm(HOLD, owner="a|b")[:2],
    "reaped": lambda venue: venue.reap(),
    "left in line": lambda venue: venue.leave(HOLD),
    "joined": lambda venue: venue.join("0:1;0*1", entry=HOLD),
}


def live_through(venue: Venue, act: Act, *, is_old: bool, phase: str, later_ms: int) -> tuple[Any, ...]:
    """Have a hold of one form, and do something later; what is answered, and left."""
    venue.held(PLACES, hold_id=HOLD, owner="a|b")
    if phase == "paying":
        venue.begin_payment(HOLD, owner="a|b", ttl_ms=TTL_MS)
    if is_old:
        record = f"{phase}|{FROZEN_MS}|{FROZEN_MS + TTL_MS}|4|{PLACES}|a|b"
        venue.redis.hset(venue.key("holds"), HOLD, record)
    venue.advance(later_ms)
    reply = act(venue)
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)
    trail = [list(fields.values()) for _, fields in venue.trail()][1:]
    return reply, venue.counts(), venue.counts(1), venue.read(HOLD, owner=""), trail


@pytest.mark.parametrize("later_ms", [1_000, TTL_MS])
@pytest.mark.parametrize("phase", ["active", "paying"])
@pytest.mark.parametrize("name", ACTS)
def test_hold_of_the_old_form_is_treated_as_one_of_the_new(
    redis_url: str, name: str, phase: str, later_ms: int
) -> None:
    ends = []
    for is_old in (False, True):
        runner = Runner(redis_url)
        runner.redis.flushall()
        ends.append(live_through(Venue(runner), ACTS[name], is_old=is_old, phase=phase, later_ms=later_ms))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", ["released", "confirmed", "extended", "paid"])
def test_hold_whose_deadline_was_lost_has_lapsed(redis_url: str, name: str) -> None:
    venue = Venue(Runner(redis_url))
    venue.held(PLACES, hold_id=HOLD, owner="a|b")
    venue.redis.zrem(venue.key("expiries"), HOLD)
    assert ACTS[name](venue) == ["EXPIRED"]
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)
    (line,) = list(venue.trail()[-1][1].values())
    assert line == f"{HOLD}|expired|0|{FROZEN_MS}|4|{PLACES}|a|b"


def test_both_forms_are_read_from_outside() -> None:
    places = parse_places(PLACES)
    wanted = HoldRecord(HOLD, 1_000, 61_000, 4, places, "a|b")
    assert parse_hold_record(HOLD.encode(), f"p|60000|{PLACES}|a|b".encode(), 61_000) == wanted
    assert parse_hold_record(HOLD.encode(), f"paying|1000|61000|4|{PLACES}|a|b".encode(), 5) == wanted
    lost = parse_hold_record(HOLD.encode(), f"a|60000|{PLACES}|a|b".encode())
    assert (lost.created_ms, lost.deadline_ms, lost.places) == (0, 0, places)
