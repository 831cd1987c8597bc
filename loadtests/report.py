"""What a run found, as a table for people and as JSON for the README's figures."""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from harness import Result
from rich.console import Console
from rich.table import Table

_STYLES = {"aim": "green", "must": "yellow", "missed": "red", "void": "bold white on red"}


class Report(msgspec.Struct, frozen=True):
    """Everything a run found; written to ``results/``."""

    measured_at: dt.datetime
    is_quick: bool
    machine: Mapping[str, object]
    results: Sequence[Result]


def print_report(report: Report, console: Console) -> None:
    """The table, and beneath it the absolute figures, which belong to the machine named."""
    machine = report.machine
    console.print(
        f"[bold]{machine['cpu']}[/], {machine['cores']} cores, load {machine['load_average']} at the start, "
        f"Python {machine['python']}, Valkey {machine['valkey']}" + (", quick run" if report.is_quick else "")
    )
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("goal", "figure", "quartiles", "A/A", "by CPU", "must", "aim", ""):
        table.add_column(heading, justify="left" if heading in ("goal", "") else "right", no_wrap=heading != "goal")
    for result in report.results:
        goal, bound = result.goal, "≤" if result.goal.is_ceiling else "≥"
        table.add_row(
            f"{goal.name} {goal.title}" + (f": {result.case}" if result.case else ""),
            _number(result.figure),
            _span(result.low, result.high),
            _span(result.null_low, result.null_high),
            _number(result.by_cpu),
            f"{bound} {goal.must:g}",
            f"{bound} {goal.aim:g}",
            f"[{_STYLES[result.verdict]}]{result.verdict}[/]",
        )
    console.print(table)
    for result in report.results:
        parts = ", ".join(
            f"{name} {value:,.0f}" if value > 100 else f"{name} {value:.1f}" for name, value in result.parts.items()
        )
        said = "; ".join(filter(None, (parts, result.note)))
        console.print(f"[dim]{result.goal.name} {result.case or result.goal.title}: {said}[/]", soft_wrap=True)


def write_report(report: Report, path: Path) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3g}–{high:.3g}"
