"""Latency and goodput against the rate of arrival, up to and past saturation, with admission control and without.

``make overload``, or ``python loadtests/overload_curve.py [--multiple 0.7]… [--in-flight 128]… [--rounds 3]``: servers
of its own, one worker with a core of its own, three seconds for each. Prints a table and writes JSON and a plot. The
goal is ``measure_overload.py``'s; ``overload.py`` says how rates are made. The exit status is 1 when more or less was
held in the end than was acknowledged.
"""

import datetime as dt
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import msgspec
import uvloop
from bench import open_bench
from goal_program import RESULTS
from harness import QUICK, Void
from overload import SHAPE, UNBOUNDED, Seen, see
from plot import Line, Panel, write_lines
from rich.console import Console
from rich.table import Table

from holdfast.admission import IN_FLIGHT
from holdfast.bench.machine import this_machine
from holdfast.demo.stopping import run_until_signal

MULTIPLES = (0.25, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0)

Curves = Mapping[tuple[str, float], Sequence[Seen]]
Figure = Callable[[Seen], float]
COLUMNS: Mapping[str, Figure] = {
    "capacity/s": lambda one: one.capacity,
    "arrive/s": lambda one: one.point.rate,
    "goodput / capacity": lambda one: one.goodput,
    "refused %": lambda one: one.refused * 100,
    "not sent %": lambda one: one.unsent * 100,
    "p50 ms": lambda one: one.point.p50_ms,
    "p99 ms": lambda one: one.point.p99_ms,
    "p99.9 ms": lambda one: one.point.p999_ms,
    "lag ms": lambda one: one.point.generator_lag_ms,
    "api µs": lambda one: one.cpu_us,
}


def print_curves(curves: Curves, console: Console) -> None:
    """A line for each multiple: medians of its rounds."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("bound", "multiple", *COLUMNS):
        table.add_column(heading, justify="right")
    for (bound, multiple), seen in curves.items():
        figures = (_number(_median(seen, of)) for of in COLUMNS.values())
        table.add_row(bound, f"{multiple:g}", *figures)
    console.print(table)


def draw(curves: Curves, path: Path) -> None:
    """Latencies of those who were admitted, and how many were answered rightly, both against the multiple."""
    bounds = list(dict.fromkeys(bound for bound, _ in curves))
    latencies: Mapping[str, Figure] = {"p50": COLUMNS["p50 ms"], "p99": COLUMNS["p99 ms"]}
    multiples = sorted({multiple for _, multiple in curves})
    panels = [
        Panel(
            "ms from the intended start, against arrivals as a multiple of the capacity",
            [_line(curves, bound, name, of) for bound in bounds for name, of in latencies.items()],
            is_log=True,
        ),
        Panel(
            "right within the deadline, as a multiple of the capacity, against arrivals",
            [
                *(_line(curves, bound, "right", COLUMNS["goodput / capacity"]) for bound in bounds),
                Line("all that arrive", [(multiple, multiple) for multiple in multiples]),
            ],
        ),
    ]
    write_lines(panels, path)


def _line(curves: Curves, bound: str, name: str, of: Figure) -> Line:
    points = [(multiple, _median(seen, of)) for (one, multiple), seen in sorted(curves.items()) if one == bound]
    return Line(f"{name}, {bound}", [(x, y) for x, y in points if not math.isnan(y)])


def _median(seen: Sequence[Seen], of: Figure) -> float:
    return statistics.median(of(one) for one in seen)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


async def _run(bounds: Sequence[int], multiples: Sequence[float], rounds: int, output: Path) -> int:
    console, where = Console(width=None if sys.stdout.isatty() else 140), this_machine()
    measured_at = dt.datetime.now(dt.UTC)
    try:
        async with open_bench(QUICK) as bench:
            variants = {_name(bound): msgspec.structs.replace(bench.settings, in_flight=bound) for bound in bounds}
            curves = await see(bench, variants, sorted(multiples), rounds=rounds)
    except Void as reason:
        console.print(f"void: {reason}")
        return 1
    print_curves(curves, console)
    windows = [{"bound": bound, "seen": seen} for (bound, _), seen in curves.items()]
    report = {"measured_at": measured_at, "machine": where, "shape": SHAPE, "windows": windows}
    _write(report, output)
    draw(curves, output.with_suffix(".svg"))
    console.print(f"written to {output} and {output.with_suffix('.svg')}")
    return 0


def _write(report: Mapping[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _name(bound: int) -> str:
    return "no bound" if bound == UNBOUNDED else f"bound {bound}"


@click.command()
@click.option("--multiple", "multiples", multiple=True, type=click.FloatRange(min=0.05), default=MULTIPLES)
@click.option("--in-flight", "bounds", multiple=True, type=click.IntRange(1, UNBOUNDED), default=(IN_FLIGHT, UNBOUNDED))
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Windows of each.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS / "overload.json")
def main(bounds: Sequence[int], multiples: Sequence[float], rounds: int, output: Path) -> None:
    """Measure, print a table, write JSON and a plot."""
    work = _run(bounds, multiples, rounds, output)
    sys.exit(uvloop.run(run_until_signal(work, on_second=lambda: None)))


if __name__ == "__main__":
    main()
