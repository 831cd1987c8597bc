"""All goals of speed, as ratios: ``python loadtests/run_goals.py [--quick] [--only G2]…``.

Each is measured on servers of its own, which are started and ended here, and its figures are written as soon as they
are there: a run that is cut off, or asked for a few goals only, leaves what it found beside what was found before. The
exit status is 1 when an invariant was broken during a measurement, whose figures are then void.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import measure_batch
import measure_commits
import measure_drain
import measure_engine
import measure_guarded
import measure_http
import measure_memory
import measure_overload
import measure_peers
import measure_primaries
import measure_recovery
import measure_script
import measure_storms
import measure_stream
import measure_venues
import measure_workers
import uvloop
from goal_program import RESULTS, Measurement, measure_goal
from harness import FULL, QUICK
from plot import write_plot
from report import Report, print_reports, read_reports, write_reports
from rich.console import Console

MEASUREMENTS: Sequence[Measurement] = (
    measure_http.MEASUREMENT,
    measure_guarded.MEASUREMENT,
    measure_script.MEASUREMENT,
    measure_engine.MEASUREMENT,
    measure_batch.MEASUREMENT_OVER_HTTP,
    measure_peers.MEASUREMENT,
    measure_venues.MEASUREMENT,
    measure_memory.MEASUREMENT,
    measure_drain.MEASUREMENT,
    measure_recovery.MEASUREMENT,
    measure_overload.MEASUREMENT,
    measure_storms.MEASUREMENT,
    measure_stream.MEASUREMENT,
    measure_workers.MEASUREMENT,
    measure_primaries.MEASUREMENT,
    measure_batch.MEASUREMENT,
    measure_commits.MEASUREMENT,
)


@click.command()
@click.option("--quick", is_flag=True, help="A few minutes, for a first look: spreads are wide.")
@click.option("--only", multiple=True, type=click.Choice([each.name for each in MEASUREMENTS]), help="May be repeated.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where the JSON goes.")
def main(quick: bool, only: Sequence[str], output: Path | None) -> None:
    """Measure, print a table, write JSON and a plot."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    path = output or RESULTS / ("goals-quick.json" if quick else "goals.json")
    reports: dict[str, Report] = {}
    chosen = choose(MEASUREMENTS, only, quick=quick)
    if left_out := [each.name for each in MEASUREMENTS if not only and each not in chosen]:
        console.print(f"left out of a quick run: {', '.join(left_out)}")
    for number, measurement in enumerate(chosen, 1):
        console.print(f"{number} of {len(chosen)}: {measurement.name}, {measurement.goal.title}")
        reports[measurement.name] = uvloop.run(measure_goal(measurement, QUICK if quick else FULL, console))
        write_reports(merge(read_reports(path), reports), path)
    print_reports(reports, console)
    write_plot(read_reports(path), path.with_suffix(".svg"))
    console.print(f"written to {path} and {path.with_suffix('.svg')}")
    sys.exit(any(report.is_void for report in reports.values()))


def choose(measurements: Sequence[Measurement], only: Sequence[str], *, quick: bool) -> Sequence[Measurement]:
    """Those named, in their order; without names all, but for the slow ones of a quick run."""
    return [each for each in measurements if (each.name in only if only else not (quick and each.slow))]


def merge(before: dict[str, Report], found: dict[str, Report]) -> dict[str, Report]:
    """What was found now beside what was found before, in the order of the goals."""
    known = {**before, **found}
    order = [each.name for each in MEASUREMENTS]
    return {name: known[name] for name in sorted(known, key=lambda name: order.index(name) if name in order else 99)}


if __name__ == "__main__":
    main()
