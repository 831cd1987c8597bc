"""What came of the benchmark: put together, and printed for people or as JSON."""

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from holdfast.bench.machine import Machine
from holdfast.bench.phases import Outcome
from holdfast.counted import counted
from holdfast.demo.report import (
    CROWD_BUSY,
    AuditReport,
    Latency,
    audit_row,
    measure,
    print_server_output,
    verdict_row,
)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """One phase: how many were acknowledged, how fast, and what each cost.

    ``latency`` of a booking is that of its hold and its confirmation together. ``worker_cpu_us`` is ``None`` where the
    system does not tell; ``client_cores`` is how much of its one core the client used: near 1, the pace was its own.
    """

    count: int
    seconds: float
    per_second: float
    latency: Latency
    worker_cpu_us: float | None
    client_cores: float
    overloaded: int


class Left(msgspec.Struct, frozen=True):
    """What availability says at the end, of both events together."""

    held: int
    sold: int


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the benchmark tells; ``ok`` is whether nothing at all is wrong."""

    ok: bool
    machine: Machine
    workers: int
    connections: int
    holds: Pace
    bookings: Pace
    left: Left
    unexpected: dict[str, int]
    findings: list[str]
    audit: AuditReport
    server_output: list[str]


def pace(outcome: Outcome, *, count: int, latencies_s: Sequence[float], workers_cpu_s: float | None) -> Pace:
    """The figures of a phase that acknowledged *count*."""
    return Pace(
        count=count,
        seconds=round(outcome.seconds, 2),
        per_second=round(count / outcome.seconds, 1),
        latency=measure(latencies_s),
        worker_cpu_us=None if workers_cpu_s is None else round(workers_cpu_s * 1e6 / max(1, count), 1),
        client_cores=round(outcome.cpu_s / outcome.seconds, 2),
        overloaded=outcome.overloaded,
    )


def print_report(console: Console, report: BenchReport) -> None:
    """Print the table, where it is from, and the verdicts."""
    console.print()
    console.print(_table(report))
    console.print()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for line in _circumstances(report):
        grid.add_row("", f"[dim]{line}[/]")
    found = [*report.findings, *(f"{count:,} x {what}" for what, count in report.unexpected.items())]
    fine = f"{counted(report.bookings.count, 'booking')} acknowledged, 0 places sold twice, all in the ledger"
    grid.add_row(*verdict_row("Client", found, f"{fine}; {counted(report.left.held, 'hold')}, all there"))
    grid.add_row(*audit_row(report.audit))
    console.print(grid)
    print_server_output(console, report.server_output)


def _table(report: BenchReport) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for title in ("a second", "p50 ms", "p95 ms", "p99 ms", "worker CPU µs", "in all"):
        table.add_column(title, justify="right", no_wrap=True)
    for title, seen in (("Holds", report.holds), ("Bookings", report.bookings)):
        latency = seen.latency
        cost = "unknown" if seen.worker_cpu_us is None else f"{seen.worker_cpu_us:,.0f}"
        figures = (f"{figure:,.1f}" for figure in (latency.p50_ms, latency.p95_ms, latency.p99_ms))
        table.add_row(f"[bold]{title}[/]", f"{seen.per_second:,.0f}", *figures, cost, f"{seen.count:,}")
    return table


def _circumstances(report: BenchReport) -> list[str]:
    machine = report.machine
    lines = [
        "A booking is a hold and its confirmation, durable in Postgres, and its latency that of both.",
        f"{counted(report.connections, 'connection')}, {counted(report.workers, 'worker')};"
        f" {machine.cores} x {machine.cpu}, shared with the client;"
        f" load {machine.load_average} before; {machine.system}, Python {machine.python}.",
    ]
    if overloaded := report.holds.overloaded + report.bookings.overloaded:
        lines.append(f"{counted(overloaded, 'request')} refused because of too much at once, and sent again.")
    if max(report.holds.client_cores, report.bookings.client_cores) >= CROWD_BUSY:
        lines.append("The client used its core up: the pace was its own, not the server's.")
    return lines
