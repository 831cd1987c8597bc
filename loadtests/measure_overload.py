"""G9: holds that arrive at twice the capacity, with admission control and without; ``overload.py`` says how.

The peak is the best that was seen of a process: what 64 connections get answered in a closed loop, or the goodput of an
open load at a quarter more than that, or at twice as much. ``overload_curve.py`` draws the rates between.
"""

import statistics
from collections.abc import Callable, Sequence

import msgspec
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Goal, Result, Void
from overload import UNBOUNDED, Seen, see

GOODPUT = Goal(name="G9", title="open loop at twice capacity: goodput / peak", must=0.85, aim=0.95)
LATENCY = Goal(name="G9", title="admitted p99 at twice capacity / p99 at 70 % load", must=4, aim=2, is_ceiling=True)

LOW, SATURATED, HIGH = 0.7, 1.25, 2.0
UNSENT_MAX = 0.05  # of what is due at twice the capacity: were it more, less than that would have arrived


async def measure(bench: Bench) -> list[Result]:
    """In turns: all three rates with the default bound, and without one."""
    variants = {"with": bench.settings, "without": msgspec.structs.replace(bench.settings, in_flight=UNBOUNDED)}
    seen = await see(bench, variants, (LOW, SATURATED, HIGH), rounds=bench.plan.pairs)
    rates = ((name, *(seen[name, multiple] for multiple in (LOW, SATURATED, HIGH))) for name in variants)
    return [result for windows in rates for result in judge(*windows)]


def judge(name: str, low: Sequence[Seen], saturated: Sequence[Seen], high: Sequence[Seen]) -> list[Result]:
    """Both figures of the windows at each rate, round by round; those *without* a bound are only told.

    A/A of goodput is one capacity over the other of the same process: by as much the machine itself changes.

    Raises:
        Void: What was to arrive did not, or the capacity is not one.
    """
    is_goal = name == "with"
    every = (*low, *saturated, *high)
    if refused := max(one.refused_before for one in every):
        raise Void(f"{refused:.0%} of the requests of 64 connections were refused")
    if is_goal and (unsent := max(one.unsent for one in every)) > UNSENT_MAX:
        raise Void(f"{unsent:.0%} of what was due was not sent: the generator cannot bring twice the capacity")
    parts = {
        "capacity": _median(high, lambda one: one.capacity),
        "goodput at 1.25, %": _median(saturated, lambda one: one.goodput * 100),
        "refused %": _median(high, lambda one: one.refused * 100),
        "p50 ms": _median(high, lambda one: one.point.p50_ms),
        "p99 ms": _median(high, lambda one: one.point.p99_ms),
        "generator late ms": _median(high, lambda one: one.point.generator_lag_ms),
        "p99 ms at 70 %": _median(low, lambda one: one.point.p99_ms),
        "generator late ms at 70 %": _median(low, lambda one: one.point.generator_lag_ms),
        "api µs an arrival": _median(high, lambda one: one.cpu_us),
    }
    latencies = [two.point.p99_ms / one.point.p99_ms for one, two in zip(low, high, strict=True)]
    capacities = [two.capacity / one.capacity for one, two in zip(low, high, strict=True)]
    goodputs = [two.goodput / max(1.0, one.goodput, two.goodput) for one, two in zip(saturated, high, strict=True)]
    figures = ((GOODPUT, goodputs, capacities), (LATENCY, latencies, ()))
    results = []
    for goal, ratios, null in figures:
        first, figure, third = statistics.quantiles(ratios, n=4, method="inclusive")
        results.append(
            Result(
                goal=goal,
                case=f"holds, {name} admission control",
                figure=figure,
                verdict=goal.verdict(figure) if is_goal else "told",
                low=first,
                high=third,
                null_low=min(null, default=None),
                null_high=max(null, default=None),
                parts=parts,
                ratios=ratios,
            )
        )
    return results


def _median(seen: Sequence[Seen], of: Callable[[Seen], float]) -> float:
    return statistics.median(of(one) for one in seen)


MEASUREMENT = Measurement("G9", GOODPUT, measure, slow=True)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
