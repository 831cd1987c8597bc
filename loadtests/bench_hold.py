"""The speed of a hold, as ratios: ``python loadtests/bench_hold.py [--quick] [--only G2]``.

It starts servers of its own and ends them. The exit status is 1 when an invariant was broken during a measurement,
whose figures are then void.
"""

import datetime as dt
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import click
import measure_engine
import measure_figures
import measure_http
import measure_memory
import measure_script
import measure_venues
import msgspec
import uvloop
from bench import Bench, open_bench
from harness import FULL, QUICK, Goal, Plan, Result, Void, machine
from redis.exceptions import ResponseError
from report import Report, print_report, write_report
from rich.console import Console

from engine.errors import HoldfastError

RESULTS = Path(__file__).with_name("results")


class Measurement(msgspec.Struct, frozen=True):
    """How the figure of a goal, or of two that go together, is found."""

    goal: Goal
    run: Callable[[Bench], Awaitable[Sequence[Result]]]


MEASUREMENTS: Mapping[str, Measurement] = {
    "G1": Measurement(measure_http.G1, measure_http.measure),
    "G1b": Measurement(measure_figures.G1B_FIGURES, measure_figures.measure),
    "G2": Measurement(measure_script.G2, measure_script.measure),
    "G3": Measurement(measure_engine.G3, measure_engine.measure),
    "G5": Measurement(measure_venues.G5_NAMED, measure_venues.measure),
    "G6": Measurement(measure_memory.AT_REST, measure_memory.measure),
}


@click.command()
@click.option("--quick", is_flag=True, help="Less than a minute, for a first look: spreads are wide.")
@click.option("--only", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="This goal; may be repeated.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where the JSON goes.")
def main(quick: bool, only: Sequence[str], output: Path | None) -> None:
    """Measure, print a table, write JSON."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    report = uvloop.run(_measure(QUICK if quick else FULL, only or list(MEASUREMENTS), console))
    print_report(report, console)
    path = output or RESULTS / ("bench_hold-quick.json" if quick else "bench_hold.json")
    write_report(report, path)
    console.print(f"written to {path}")
    sys.exit(any(result.verdict == "void" for result in report.results))


async def _measure(plan: Plan, names: Sequence[str], console: Console) -> Report:
    measured_at, where = dt.datetime.now(dt.UTC), machine()
    results: list[Result] = []
    for name in names:
        began = time.monotonic()
        # Servers of its own for each, which know nothing of the events and epochs of the one before.
        with console.status(f"measuring {name}"):
            async with open_bench(plan) as bench:
                results += await _run(bench, MEASUREMENTS[name])
                where["valkey"] = bench.client.info("server")["valkey_version"]
        console.print(f"{name} measured in {time.monotonic() - began:.0f} s")
    return Report(measured_at, plan is QUICK, where, results)


async def _run(bench: Bench, measurement: Measurement) -> Sequence[Result]:
    try:
        return await measurement.run(bench)
    except (Void, HoldfastError, ResponseError) as reason:
        note = f"{type(reason).__name__}: {reason}"
        return [Result(goal=measurement.goal, case="", figure=None, verdict="void", note=note)]


if __name__ == "__main__":
    main()
