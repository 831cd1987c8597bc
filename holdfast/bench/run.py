"""``holdfast bench``: a server of its own, holds as fast as they are answered, then bookings, then the invariants."""

from collections import Counter
from contextlib import aclosing

import click
import msgspec
from rich.console import Console

from holdfast.bench.cpu import workers_cpu_s
from holdfast.bench.load import run_phase
from holdfast.bench.machine import Machine, this_machine
from holdfast.bench.phases import BOOKING, HOLD, Kind, Outcome, Phase
from holdfast.bench.report import BenchReport, Left, Pace, pace, print_report
from holdfast.bench.venue import BOOKINGS_MAX, CUSTOMERS, HOLDS_MAX, SEATS_PER_ROW, draft_hall, draft_meadow
from holdfast.compose import jwt_secret
from holdfast.counted import counted
from holdfast.demo.aftermath import audit, inspect_event, settle
from holdfast.demo.box_office import BoxOffice, OnSale
from holdfast.demo.checks import differences_from_availability, differences_from_ledger, shorten
from holdfast.demo.client import Client
from holdfast.demo.hosting import Hosting, temporary_data_dir
from holdfast.demo.progress import print_step
from holdfast.demo.report import is_fine
from holdfast.demo.server import DemoServer
from holdfast.demo.stopping import run_until_signal
from holdfast.demo.tally import EventTally, Tally
from holdfast.settings import Settings, load_settings
from holdfast.tokens import make_token

LOOKING_CONNECTIONS = 1  # for the organizer, who does one thing after the other
_MOST: dict[Kind, int] = {"holds": HOLDS_MAX, "bookings": BOOKINGS_MAX}


class BenchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    seconds: int
    connections: int
    workers: int
    as_json: bool


class _Load(msgspec.Struct, frozen=True):
    """What a phase on an event came to, and the CPU seconds of the workers meanwhile."""

    event: OnSale
    outcome: Outcome
    workers_cpu_s: float | None

    def pace(self, *, count: int, purpose: str) -> Pace:
        """Its figures, of which *count* were acknowledged."""
        latencies_s = self.outcome.latencies_s[purpose]
        return pace(self.outcome, count=count, latencies_s=latencies_s, workers_cpu_s=self.workers_cpu_s)


async def run_bench(options: BenchOptions) -> int:
    """Run the benchmark; the exit code: 0 if all is right, 1 if anything is not, 128 + the signal that stopped it.

    Raises:
        DemoFailed: Server or client do not start, or do not go on.
    """
    # Standard output is the report's; with --json it must hold nothing else.
    console = Console(stderr=options.as_json, highlight=False)
    machine = this_machine()  # before it is busy with us
    hosting = Hosting(console, workers=options.workers)

    async def run() -> int:
        with temporary_data_dir("holdfast-bench-") as data_dir:
            settings = load_settings({}, data_dir=str(data_dir))
            return await hosting.run(data_dir, lambda server: _Bench(options, console, server, settings, machine).run())

    return await run_until_signal(run(), on_second=hosting.hurry)


class _Bench:
    def __init__(
        self, options: BenchOptions, console: Console, server: DemoServer, settings: Settings, machine: Machine
    ) -> None:
        self._settings = msgspec.structs.replace(settings, jwt_secret=jwt_secret(settings))  # read from its file once
        self._options = options
        self._console = console
        self._server = server
        self._machine = machine
        self._organizer_token = make_token(self._settings, "organizer", ["organizer"])
        self._tokens = [make_token(self._settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]

    async def run(self) -> int:
        """Put on sale, measure, look back, print."""
        async with aclosing(Client(self._server.url, connections=LOOKING_CONNECTIONS)) as client:
            office = BoxOffice(client, self._organizer_token)
            meadow, hall = [await office.put_on_sale(draft) for draft in (draft_meadow(), draft_hall())]
            print_step(self._console, "On sale", f"{meadow.places:,} places to hold, {hall.places:,} seats to book")
            holds, bookings = await self._measure("holds", meadow), await self._measure("bookings", hall)
            with self._console.status("Waiting for what is open, and auditing"):
                report = await self._look_back(client, office, holds, bookings)
        if self._options.as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
        else:
            print_report(self._console, report)
        return 0 if report.ok else 1

    async def _measure(self, kind: Kind, event: OnSale) -> _Load:
        (section,) = event.capacities
        phase = Phase(
            kind=kind,
            url=self._server.url,
            event_id=event.id,
            section=section,
            seats_per_row=SEATS_PER_ROW,
            seconds=self._options.seconds,
            most=_MOST[kind],
            connections=self._options.connections,
            tokens=self._tokens,
        )
        before_s = workers_cpu_s(self._server.guard_pid)
        outcome = await run_phase(phase, self._console, self._settings.data_dir)
        after_s = workers_cpu_s(self._server.guard_pid)
        spent_s = None if before_s is None or after_s is None else after_s - before_s
        print_step(self._console, kind.title(), f"for {outcome.seconds:.1f} s")
        return _Load(event, outcome, spent_s)

    async def _look_back(self, client: Client, office: BoxOffice, holds: _Load, bookings: _Load) -> BenchReport:
        tally = Tally([holds.event, bookings.event])
        meadow, hall = tally.events
        hall.confirming, hall.unknown = bookings.outcome.confirming, bookings.outcome.unknown
        for booking in bookings.outcome.confirmed:
            hall.book(booking)
        findings = await settle(tally, client, self._organizer_token)
        held, found = await _inspect_holds(meadow, office, expected=holds.outcome.holds)
        sales, found_of_sales = await inspect_event(hall, office)
        findings += [*found, *found_of_sales]
        audited = await audit(self._settings, tally)
        unexpected = client.unexpected + Counter(holds.outcome.unexpected) + Counter(bookings.outcome.unexpected)
        return BenchReport(
            ok=is_fine(findings, unexpected, audited),
            machine=self._machine,
            workers=self._options.workers,
            connections=self._options.connections,
            holds=holds.pace(count=holds.outcome.holds, purpose=HOLD),
            bookings=bookings.pace(count=sales.bookings, purpose=BOOKING),
            left=Left(held=held + sales.held, sold=sales.capacity - sales.free - sales.held),
            unexpected=dict(unexpected),
            findings=findings,
            audit=audited,
            server_output=list(self._server.said),
        )


async def _inspect_holds(books: EventTally, office: BoxOffice, *, expected: int) -> tuple[int, list[str]]:
    """How many places are held, and what is wrong with an event of which every acknowledged hold must be there."""
    event = books.event
    legs, listed = await office.count_legs(event), await office.list_bookings(event)
    held = sum(counts.held for availability in legs for counts in availability.sections)
    findings = [
        *shorten(differences_from_ledger(event, [], listed, unknown=set())),
        *shorten(differences_from_availability(event, listed, legs)),
    ]
    if held != expected:
        findings.append(
            f"{event.title}: {counted(expected, 'hold')} of a place acknowledged, and {counted(held, 'place')} held"
        )
    return held, findings
