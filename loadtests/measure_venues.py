"""G5: whether a hold costs the server more where the venue is large, or nearly full.

A round takes some seats (measured: the server's own CPU clock, read in the same burst) and releases them again (not
measured), so that every round finds the venue as the one before did.
"""

import random
import time
from collections.abc import Callable, Sequence
from statistics import mean

from bench import Bench
from goal_program import Measurement, run_alone
from harness import Cost, CpuClock, Goal, Measure, Plan, Result, Void, compare
from venues import Venue, definition, new_key

SMALL, LARGE = 100, 100_000
TAKEN = 0.95
PAST_BOOKING = 4  # seats of each booking made before
WISH = 2  # seats together, for best available
ROUND = 25  # holds; with WISH, half of the small venue
ROUNDS = 30
LEARNING_ROUNDS = 400  # as many searches as it takes the index of a venue filled at random to be right

G5_NAMED = Goal(name="G5", title="CPU, 100 000 seats / 100: named seat", must=1.1, aim=1.03, is_ceiling=True)
G5_BEST = Goal(name="G5", title="CPU, 100 000 seats / 100: best of 2", must=1.5, aim=1.2, is_ceiling=True)
G5B_NAMED = Goal(name="G5b", title="CPU, 95 % taken / empty: named seat", must=1.2, aim=1.1, is_ceiling=True)
G5B_BEST = Goal(name="G5b", title="CPU, 95 % taken / empty: best of 2", must=2, aim=1.5, is_ceiling=True)

Wishes = Callable[[], Sequence[str]]
"""The claims of one round."""


async def measure(bench: Bench) -> list[Result]:
    """The small venue, the large one, and a large one where 95 of 100 seats are sold, scattered at random."""
    draw = random.Random(7)
    small, large, full = (
        bench.venue(definition(name, seats=seats))
        for name, seats in (("small", SMALL), ("large", LARGE), ("full", LARGE))
    )
    small.load()
    large.load()
    seats = list(range(LARGE))
    draw.shuffle(seats)
    taken = round(TAKEN * LARGE)
    full.load([f"0:1;0#{','.join(map(str, seats[n : n + PAST_BOOKING]))}" for n in range(0, taken, PAST_BOOKING)])
    named = {
        small: _named(draw, range(SMALL)),
        large: _named(draw, range(LARGE)),
        full: _named(draw, seats[taken:]),
    }
    results = []
    for goal, subject, baseline in ((G5_NAMED, large, small), (G5B_NAMED, full, large)):
        sides = [_rounds(bench, venue, named[venue]) for venue in (subject, baseline)]
        results.append(await _compare(bench, goal, *sides))
    fresh = _first_searches(bench, full)
    for goal, subject, baseline in ((G5_BEST, large, small), (G5B_BEST, full, large)):
        sides = [_rounds(bench, venue, _best) for venue in (subject, baseline)]
        note = fresh if goal is G5B_BEST else ""
        results.append(await _compare(bench, goal, *sides, note=note))
    for venue in (small, large, full):
        venue.check()
    bench.client.flushall()
    return results


async def _compare(bench: Bench, goal: Goal, subject: Measure, baseline: Measure, *, note: str = "") -> Result:
    plan = Plan(pairs=3 * bench.plan.pairs, null_pairs=3 * bench.plan.null_pairs, scale=bench.plan.scale, http_s=0)
    return await compare(goal, "", subject, baseline, plan=plan, metric=lambda cost: cost.cpu_us("valkey"), note=note)


def _first_searches(bench: Bench, venue: Venue) -> str:
    """Search a venue whose index has just been loaded until it is right; says what that cost."""
    costs = [_round(bench, venue, _best()) / ROUND * 1e6 for _ in range(LEARNING_ROUNDS)]
    searches = LEARNING_ROUNDS * ROUND
    return (
        f"the first {ROUND} searches after the load cost {costs[0]:.0f} µs each, the first {searches} {mean(costs):.0f}"
    )


def _named(draw: random.Random, seats: Sequence[int]) -> Wishes:
    return lambda: [f"0:1;0#{seat}" for seat in draw.sample(seats, ROUND)]


def _best() -> Sequence[str]:
    return [f"0:1;0?{WISH}"] * ROUND


def _rounds(bench: Bench, venue: Venue, wishes: Wishes) -> Measure:
    count = bench.plan.count(ROUNDS)

    async def measure() -> Cost:
        client_cpu, began, server_cpu_s = CpuClock(), time.perf_counter(), 0.0
        for _ in range(count):
            server_cpu_s += _round(bench, venue, wishes())
        cpu_s = {"client": client_cpu.elapsed_s(), "valkey": server_cpu_s}
        return Cost(operations=count * ROUND, wall_s=time.perf_counter() - began, cpu_s=cpu_s)

    return measure


def _round(bench: Bench, venue: Venue, wishes: Sequence[str]) -> float:
    """Take and release; the CPU seconds of the taking."""
    hold_ids = [new_key() for _ in wishes]
    holds = [venue.hold_wire(wish, hold_id=hold_id) for wish, hold_id in zip(wishes, hold_ids, strict=True)]
    burst = bench.pipe.burst(holds)
    releases = bench.pipe.send([venue.release_wire(hold_id) for hold_id in hold_ids])
    statuses = {reply[0] for reply in burst.replies} | {reply[0] for reply in releases}
    if statuses != {b"HELD", b"RELEASED"}:
        raise Void(f"a round was answered {statuses}")
    return burst.cpu_s


MEASUREMENT = Measurement("G5", G5_NAMED, measure)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
