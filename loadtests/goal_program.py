"""What every program of a goal shares: its servers, its report, and a result even when something went wrong."""

import datetime as dt
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import click
import msgspec
import uvloop
from bench import Bench, open_bench
from harness import FULL, QUICK, Goal, Plan, Result
from msgspec.structs import asdict
from report import Report, print_reports, write_reports
from rich.console import Console

from holdfast.bench.machine import this_machine

RESULTS = Path(__file__).with_name("results")


class Measurement(msgspec.Struct, frozen=True):
    """How the figures of a goal are found; ``name`` is what ``--only`` calls it.

    What is ``slow`` to set up is left out of a quick run unless it is asked for by name.
    """

    name: str
    goal: Goal
    run: Callable[[Bench], Awaitable[Sequence[Result]]]
    slow: bool = False


async def measure_goal(measurement: Measurement, plan: Plan, console: Console) -> Report:
    """Measure on servers of its own, which know nothing of the events and epochs of another goal."""
    measured_at, where, began = dt.datetime.now(dt.UTC), {**asdict(this_machine()), "valkey": ""}, time.monotonic()
    results: Sequence[Result]
    with console.status(f"measuring {measurement.name}"):
        try:
            async with open_bench(plan) as bench:
                where["valkey"] = bench.client.info("server")["valkey_version"]
                results = await measurement.run(bench)
        except Exception as reason:  # whatever it is, the other goals are measured all the same
            results = [_void(measurement.goal, reason)]
    took_s = time.monotonic() - began
    console.print(f"{measurement.name} measured in {took_s:.0f} s")
    return Report(measured_at, plan is QUICK, where, results, took_s)


def run_alone(measurement: Measurement) -> None:
    """The program of one goal: measure, print the table, write JSON if asked to."""

    @click.command(help=f"{measurement.goal.name}: {measurement.goal.title}.")
    @click.option("--quick", is_flag=True, help="Fewer and shorter runs: spreads are wide.")
    @click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where the JSON goes.")
    def program(quick: bool, output: Path | None) -> None:
        console = Console(width=None if sys.stdout.isatty() else 120)
        report = uvloop.run(measure_goal(measurement, QUICK if quick else FULL, console))
        reports = {measurement.name: report}
        print_reports(reports, console)
        if output is not None:
            write_reports(reports, output)
        sys.exit(report.is_void)

    program()


def _void(goal: Goal, reason: Exception) -> Result:
    return Result(goal=goal, case="", figure=None, verdict="void", note=f"{type(reason).__name__}: {reason}")
