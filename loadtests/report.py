"""What a run found, as a table for people and as JSON for the README's figures."""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from harness import Result
from rich.console import Console
from rich.table import Table

_STYLES = {"told": "cyan", "aim": "green", "must": "yellow", "missed": "red", "void": "bold white on red"}


class Report(msgspec.Struct, frozen=True):
    """What the measurement of one goal found, when, and on which machine."""

    measured_at: dt.datetime
    is_quick: bool
    machine: Mapping[str, object]
    results: Sequence[Result]
    took_s: float = 0.0

    @property
    def is_void(self) -> bool:
        """Whether a figure of it means nothing."""
        return any(result.verdict == "void" for result in self.results)


def print_reports(reports: Mapping[str, Report], console: Console) -> None:
    """One table, and beneath it the absolute figures, which belong to the machine named."""
    results = [result for report in reports.values() for result in report.results]
    for said in dict.fromkeys(map(_where, reports.values())):
        console.print(said)
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("goal", "figure", "quartiles", "A/A", "by CPU", "must", "aim", ""):
        table.add_column(heading, justify="left" if heading in ("goal", "") else "right", no_wrap=heading != "goal")
    for result in results:
        goal, bound = result.goal, "≤" if result.goal.is_ceiling else "≥"
        table.add_row(
            f"{goal.name} {goal.title}" + (f": {result.case}" if result.case else ""),
            _number(result.figure),
            _span(result.low, result.high),
            _span(result.null_low, result.null_high),
            _number(result.by_cpu),
            f"{bound} {goal.must:g}" if goal.must else "",
            f"{bound} {goal.aim:g}" if goal.must else "",
            f"[{_STYLES[result.verdict]}]{result.verdict}[/]",
        )
    console.print(table)
    for result in results:
        parts = ", ".join(
            f"{name} {value:,.0f}" if value > 100 else f"{name} {value:.1f}" for name, value in result.parts.items()
        )
        said = "; ".join(filter(None, (parts, result.note)))
        console.print(f"[dim]{result.goal.name} {result.case or result.goal.title}: {said}[/]", soft_wrap=True)


def write_reports(reports: Mapping[str, Report], path: Path) -> None:
    """As JSON, by the goals' names; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(reports), indent=2) + b"\n")
    beside.replace(path)


def read_reports(path: Path) -> dict[str, Report]:
    """What an earlier run has left; nothing, where there was none."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Report]) if path.exists() else {}


def _where(report: Report) -> str:
    machine = report.machine
    return (
        f"[bold]{machine['cpu']}[/], {machine['cores']} cores, Python {machine['python']}, Valkey {machine['valkey']}"
        + (", quick run" if report.is_quick else "")
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3g}–{high:.3g}"
