"""Write the README's table of figures anew from ``results/goals.json``: no figure is typed by hand."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from harness import Result
from report import Report, read_reports

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "loadtests/results/goals.json"
_BLOCK = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)


def main() -> int:
    """Replace the README's block; say so."""
    reports = read_reports(RESULTS)
    readme = ROOT / "README.md"
    text, count = _BLOCK.subn(lambda match: match[1] + figures(reports) + match[2], readme.read_text("utf-8"))
    if count != 1:
        sys.exit("README.md has no block <!-- figures --> … <!-- /figures -->")
    readme.write_text(text, "utf-8")
    print(f"README.md has the figures of {len(reports)} goals")
    return 0


def figures(reports: Mapping[str, Report]) -> str:
    """The table as Markdown, with where it comes from: one sentence for each machine and day."""
    places: dict[str, list[str]] = {}
    for name, report in reports.items():
        machine = report.machine
        where = (
            f"{machine['cpu']}, {machine['cores']} shared cores, Python {machine['python']},"
            f" Valkey {machine['valkey']}, {report.measured_at:%Y-%m-%d}"
            + (", quick runs, whose spreads are wide" if report.is_quick else "")
        )
        places.setdefault(where, []).append(name)
    said = [where if len(places) == 1 else f"{', '.join(names)}: {where}" for where, names in places.items()]
    lines = [
        "| goal | ratio | quartiles | must | aim |",
        "|---|---:|---:|---:|---:|",
        *(_row(result) for report in reports.values() for result in report.results),
        "",
        f"Ratios of two things measured in turns on one machine, each goal on that of its day: {'; '.join(said)}."
        " *must* is the least that we ask of ourselves, *aim* what we would like to see; what is *missed* falls short"
        " of the first, and [docs/performance.md](docs/performance.md#what-is-missed) says what that means to you. Rows"
        " without either are told for comparison. `make bench` measures them anew;"
        " [loadtests/](loadtests/README.md) says how.",
    ]
    return "\n".join(lines) + "\n"


def _row(result: Result) -> str:
    goal = result.goal
    bound = "≤" if goal.is_ceiling else "≥"
    spread = "" if result.low is None or result.high is None else f"{result.low:.3g}–{result.high:.3g}"
    figure = "void" if result.figure is None else f"{result.figure:.3g}"
    missed = " (missed)" if result.verdict == "missed" else ""
    name = f"{goal.name} {goal.title}" + (f": {result.case}" if result.case else "")
    # What is only told was not asked to be anything, though the same goal may be asked of another row.
    bounds = ("", "") if result.verdict == "told" else (f"{bound} {goal.must:g}", f"{bound} {goal.aim:g}")
    return f"| {name} | {figure}{missed} | {spread} | {bounds[0]} | {bounds[1]} |"


if __name__ == "__main__":
    sys.exit(main())
