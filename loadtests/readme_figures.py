"""Write the README's table of figures anew from ``results/bench_hold.json``: no figure is typed by hand."""

import re
import sys
from pathlib import Path

import msgspec
from harness import Result
from report import Report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "loadtests/results/bench_hold.json"
_BLOCK = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)


def main() -> int:
    """Replace the README's block; say so."""
    report = msgspec.json.decode(RESULTS.read_bytes(), type=Report)
    readme = ROOT / "README.md"
    text, count = _BLOCK.subn(lambda match: match[1] + figures(report) + match[2], readme.read_text("utf-8"))
    if count != 1:
        sys.exit("README.md has no block <!-- figures --> … <!-- /figures -->")
    readme.write_text(text, "utf-8")
    print(f"README.md has the figures of {report.measured_at:%Y-%m-%d}")
    return 0


def figures(report: Report) -> str:
    """The table as Markdown, with where it comes from."""
    machine = report.machine
    lines = [
        "| goal | ratio | quartiles | must | aim |",
        "|---|---:|---:|---:|---:|",
        *map(_row, report.results),
        "",
        f"Ratios of two things measured in turns on one machine: {machine['cpu']}, {machine['cores']} shared cores,"
        f" Python {machine['python']}, Valkey {machine['valkey']}, {report.measured_at:%Y-%m-%d}."
        " `make bench` measures them anew; [loadtests/](loadtests/README.md) says how.",
    ]
    return "\n".join(lines) + "\n"


def _row(result: Result) -> str:
    goal = result.goal
    bound = "≤" if goal.is_ceiling else "≥"
    spread = "" if result.low is None or result.high is None else f"{result.low:.3g}–{result.high:.3g}"
    figure = "void" if result.figure is None else f"{result.figure:.3g}"
    missed = " (missed)" if result.verdict == "missed" else ""
    name = f"{goal.name} {goal.title}" + (f": {result.case}" if result.case else "")
    return f"| {name} | {figure}{missed} | {spread} | {bound} {goal.must:g} | {bound} {goal.aim:g} |"


if __name__ == "__main__":
    sys.exit(main())
