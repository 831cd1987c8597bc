"""What came of the demo: put together, and printed for people or as JSON."""

import math
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.counted import counted

CROWD_BUSY = 0.9  # of the one core that a process of Python can use


class EventReport(msgspec.Struct, frozen=True, kw_only=True):
    """One event: places (a seat counts once for each leg), and what became of the holds on it. Money in minor units."""

    id: str
    title: str
    name: str
    seats: int
    legs: int
    capacity: int
    sold: int
    held: int
    free: int
    bookings: int
    holds: int
    refused: int
    abandoned: int
    left_with_nothing: int
    revenue: int
    currency: str


class Latency(msgspec.Struct, frozen=True):
    """Of the answered requests of one kind, as the crowd saw it."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


NOTHING_SEEN = Latency(0, 0.0, 0.0, 0.0)


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The sale as a whole, from the first arrival until the last buyer was through."""

    seconds: float
    requests_per_s: float
    holds_per_s: float
    bookings_per_s: float
    crowd_cores: float
    cores: int
    connections: int


class AuditReport(msgspec.Struct, frozen=True):
    """What the server's own audit found: Redis against the ledger."""

    events: int
    drift: int
    differences: list[str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the demo tells; ``ok`` is whether nothing at all is wrong.

    ``findings`` are those of the crowd's own check, ``unexpected`` counts answers that nobody should have got.
    """

    ok: bool
    buyers: int
    seed: int
    bookings: int
    late_bookings_refused: int
    events: list[EventReport]
    rates: Rates
    latency: dict[str, Latency]
    unexpected: dict[str, int]
    findings: list[str]
    audit: AuditReport
    server_output: list[str]


def measure(latencies_s: Sequence[float]) -> Latency:
    """The median, the 95th and the 99th percentile, by nearest rank; zero of nothing."""
    ordered = sorted(latencies_s)

    def percentile(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1] * 1000, 1) if ordered else 0.0

    return Latency(len(ordered), percentile(0.5), percentile(0.95), percentile(0.99))


def is_fine(findings: Sequence[str], unexpected: Mapping[str, int], audit: AuditReport) -> bool:
    """Whether nothing at all is wrong: nothing found, no answer that nobody should have got, no drift."""
    return not findings and not unexpected and not audit.drift


def print_report(console: Console, report: Report) -> None:
    """Print the table, the figures and the verdicts."""
    console.print()
    console.print(_table(report.events))
    console.print(
        "[dim]A seat counts once for each leg. Refused and abandoned are holds: of parties larger than what was left,"
        " of seats that somebody held; what lapsed later is free again.[/]"
    )
    console.print()
    console.print(_figures(report))
    print_server_output(console, report.server_output)


def print_server_output(console: Console, lines: Sequence[str]) -> None:
    """What the server said, if it said anything."""
    if lines:
        console.print("\nThe server said:")
    for line in lines:
        console.print(Text(f"  {line}", style="dim"), soft_wrap=True)


def _table(events: Sequence[EventReport]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Event", no_wrap=True)
    for title in ("Capacity", "Sold", "Held", "Bookings", "Refused", "Abandoned", "Revenue"):
        table.add_column(title, justify="right", no_wrap=True)
    for event in events:
        numbers = (event.capacity, event.sold, event.held, event.bookings, event.refused, event.abandoned)
        revenue = f"{event.revenue / 100:,.2f} {event.currency}"
        table.add_row(f"[bold]{event.title}[/]", *(f"{number:,}" for number in numbers), revenue)
    return table


def _figures(report: Report) -> Table:
    rates, latency = report.rates, report.latency
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    grid.add_row(
        "Throughput",
        f"{rates.requests_per_s:,.0f} requests, {rates.holds_per_s:,.0f} holds, {rates.bookings_per_s:,.0f} bookings"
        f" a second, for {rates.seconds:.1f} s",
    )
    for title, purpose in (("Hold", "hold"), ("Booking", "booking")):
        seen = latency.get(purpose, NOTHING_SEEN)
        grid.add_row(
            title, f"p50 {seen.p50_ms:.0f} ms, p99 {seen.p99_ms:.0f} ms [dim]({counted(seen.count, 'answer')})[/]"
        )
    grid.add_row("", f"[dim]{_circumstances(rates)}[/]")
    grid.add_row(*verdict_row("Crowd", _crowd_findings(report), _crowd_verdict(report)))
    grid.add_row(*audit_row(report.audit))
    return grid


def _circumstances(rates: Rates) -> str:
    """Who measured, and with what the servers had to share the machine."""
    text = (
        f"Seen by the crowd, over {counted(rates.connections, 'connection')}. It used {rates.crowd_cores:.1f} of the"
        f" {counted(rates.cores, 'core')} that it shares with the servers."
    )
    return f"{text} The pace was the crowd's, not theirs." if rates.crowd_cores >= CROWD_BUSY else text


def _crowd_verdict(report: Report) -> str:
    late = report.late_bookings_refused
    return (
        f"{counted(report.bookings, 'booking')} acknowledged, 0 places sold twice, all in the ledger;"
        f" {late:,} tried to book after their hold's deadline, and {'was' if late == 1 else 'were'} refused"
    )


def _crowd_findings(report: Report) -> list[str]:
    return [*report.findings, *(f"{count:,} x {what}" for what, count in report.unexpected.items())]


def audit_row(audit: AuditReport) -> tuple[Text, Text]:
    """The audit's line in a grid of two columns."""
    found = [*audit.differences] if audit.differences else [counted(audit.drift, "difference")] if audit.drift else []
    return verdict_row("Audit", found, f"{counted(audit.events, 'event')}: nothing oversold, Redis equals the ledger")


def verdict_row(title: str, findings: Sequence[str], fine: str) -> tuple[Text, Text]:
    """What was found, or, if nothing was, what is fine."""
    if not findings:
        return Text(title), Text.assemble(("✓ ", "bold green"), fine)
    return Text(title), Text("\n").join(Text.assemble(("✗ ", "bold red"), line) for line in findings)
