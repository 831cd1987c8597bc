"""Redis's clock was set back: the event's follows, and everything still to come is as far away as it was."""

import pytest
from invariants import assert_consistent
from script_runner import FROZEN_MS, PARTITIONS, TTL_MS, Runner, Venue

TURNS = 2_500  # more than two calls can move
INTERVAL_US = 500_000


@pytest.fixture
def venue(redis_url: str) -> Venue:
    """A venue whose clock is many years ahead, so that it stands still."""
    return Venue(Runner(redis_url))


def set_back(venue: Venue) -> tuple[int, int]:
    """Call it until it is done; returns by how much the clock went back, and how many calls that took."""
    for calls in range(1, 100):
        reply = venue.set_clock()
        if reply[0] == "SET":
            assert not venue.redis.hexists(venue.key("state"), "back")
            return reply[1], calls
        assert reply == ["CONTINUE"]
    raise AssertionError("no progress")


def deadlines(venue: Venue) -> dict[bytes, float]:
    return dict(venue.redis.zrange(venue.key("expiries"), 0, -1, withscores=True))  # type: ignore[arg-type]


def turns(venue: Venue) -> dict[bytes, float]:
    return dict(venue.redis.zrange(venue.key("queue"), 0, -1, withscores=True))  # type: ignore[arg-type]


def test_holds_live_as_long_as_they_would_have_and_lapse_on_time(venue: Venue) -> None:
    ids = [venue.held(f"0:1;1#{seat}", ttl_ms=TTL_MS + seat) for seat in range(3)]
    short = venue.held("0:1;0*2", ttl_ms=1)
    before = deadlines(venue)
    seq = venue.state("seq")

    by, calls = set_back(venue)

    assert calls == 1
    assert abs(FROZEN_MS - by - venue.real_ms()) < 5_000
    assert deadlines(venue) == {key: deadline - by for key, deadline in before.items()}
    assert (venue.now(), venue.state("seq")) == (FROZEN_MS - by, seq + 1)
    assert venue.read(ids[0])[:3] == ["ACTIVE", FROZEN_MS - by, FROZEN_MS - by + TTL_MS]
    assert (
        venue.redis.zscore(venue.partition_key("wakeups"), venue.id)
        == venue.state("due")
        == before[short.encode()] - by
    )
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)
    venue.advance(TTL_MS)
    assert venue.reap()[:2] == ["REAPED", 2]


def test_order_of_many_holds_with_few_deadlines_stays_what_it_was(venue: Venue) -> None:
    venue.redis.zadd(venue.key("expiries"), {f"h{number:05}": FROZEN_MS + number // 700 for number in range(3_000)})
    before = venue.redis.zrange(venue.key("expiries"), 0, -1, withscores=True)
    by, calls = set_back(venue)
    assert calls == 1
    after = venue.redis.zrange(venue.key("expiries"), 0, -1, withscores=True)
    assert after == [(key, deadline - by) for key, deadline in before]  # type: ignore[union-attr]


def test_all_turns_come_as_soon_as_they_would_have_though_others_join_meanwhile(venue: Venue) -> None:
    first_us = FROZEN_MS * 1000
    numbered = {f"c{number}": first_us + (number // 3) * INTERVAL_US for number in range(TURNS)}  # with equal ones
    venue.redis.zadd(venue.key("queue"), numbered)
    before = turns(venue)

    assert venue.set_clock() == ["CONTINUE"]
    status, turn_ms, now_ms, _ = venue.take_ticket("late", interval_us=INTERVAL_US, most=10_000)
    assert status == "QUEUED"
    assert abs(now_ms - venue.real_ms()) < 5_000
    by, calls = set_back(venue)

    assert calls == 2
    after = turns(venue)
    assert after.pop(b"late") == (turn_ms - by) * 1000
    assert after == {key: turn - by * 1000 for key, turn in before.items()}
    assert max(after.values()) < (turn_ms - by) * 1000


def test_clock_that_is_hardly_ahead_or_behind_is_left_alone(venue: Venue) -> None:
    venue.held("0:1;0*1")
    for ahead_ms in (4_000, -1_000, -3_600_000):
        venue.set_time(venue.real_ms() + ahead_ms)
        before = venue.runner.dump()
        assert venue.set_clock() == ["SET", 0]
        assert venue.runner.dump() == before


def test_what_was_begun_and_left_is_ended_though_turns_have_come_meanwhile(venue: Venue) -> None:
    numbered = {f"c{number}": FROZEN_MS * 1000 + number * INTERVAL_US for number in range(TURNS)}
    venue.redis.zadd(venue.key("queue"), numbered)
    assert venue.set_clock() == ["CONTINUE"]
    venue.held("0:1;0*1")
    before = deadlines(venue)
    venue.redis.zadd(venue.key("queue"), {"ana": venue.real_ms() * 1000 - 1})

    by, calls = set_back(venue)

    assert calls == 2
    after = turns(venue)
    assert after.pop(b"ana") < venue.real_ms() * 1000
    assert after == {name.encode(): turn - by * 1000 for name, turn in numbered.items()}
    assert deadlines(venue) == before, "made by the right clock"
