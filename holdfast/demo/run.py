"""``holdfast demo``: one real server, three events, a crowd, and a look at whether every place was sold once."""

import asyncio
import datetime as dt
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console

from holdfast.compose import jwt_secret
from holdfast.demo.aftermath import audit, inspect_event, settle, turn_latecomers_away
from holdfast.demo.box_office import BoxOffice, OnSale
from holdfast.demo.buyers import Latecomer, let_in
from holdfast.demo.client import Client
from holdfast.demo.invitation import Invitation, find_free_place, print_invitation
from holdfast.demo.progress import shown_progress
from holdfast.demo.report import Rates, Report, measure, print_report
from holdfast.demo.scenario import Draft, draft_events
from holdfast.demo.server import WORKERS, DemoServer, running_server
from holdfast.demo.stopping import run_until_signal
from holdfast.demo.tally import Tally
from holdfast.settings import Settings, load_settings
from holdfast.tokens import make_token

ORGANIZER = "organizer"


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says; without ``data_dir`` the servers' data is removed at the end."""

    buyers: int
    connections: int
    seed: int
    port: int
    data_dir: Path | None
    keep: bool
    as_json: bool


async def run_demo(options: DemoOptions) -> int:
    """Run the demo; the exit code: 0 if all is right, 1 if anything is not, 128 + the signal that stopped it.

    Raises:
        DemoFailed: The server does not start, does not go on, or refuses what the demo needs.
    """
    demo = _Demo(options)
    return await run_until_signal(demo.run(), on_second=demo.hurry)


class _Demo:
    def __init__(self, options: DemoOptions) -> None:
        self._options = options
        # Standard output is the report's; with --json it must hold nothing else.
        self._console = Console(stderr=options.as_json, highlight=False)
        self._server: DemoServer | None = None

    def hurry(self) -> None:
        """Make the stop that is under way a quick one."""
        if self._server is not None:
            self._server.hurry()

    async def run(self) -> int:
        """The whole demo, in a directory that is there as long as it runs."""
        with _data_dir(self._options.data_dir) as data_dir:
            began_s = time.monotonic()
            async with AsyncExitStack() as stack:
                with self._console.status(f"Starting Valkey, Postgres and {WORKERS} API workers"):
                    starting = running_server(data_dir, port=self._options.port)
                    server = self._server = await stack.enter_async_context(starting)
                self._done(
                    f"Valkey, Postgres and {WORKERS} API workers", f"ready in {time.monotonic() - began_s:.1f} s"
                )
                try:
                    return await server.beside(self._sell_and_report(server, data_dir))
                except asyncio.CancelledError:
                    self._console.print("\nStopping.")
                    raise

    async def _sell_and_report(self, server: DemoServer, data_dir: Path) -> int:
        settings = load_settings({}, data_dir=str(data_dir))
        settings = msgspec.structs.replace(settings, jwt_secret=jwt_secret(settings))  # read from its file once
        organizer_token = make_token(settings, ORGANIZER, ["organizer"])
        async with aclosing(Client(server.url, connections=self._options.connections)) as client:
            office = BoxOffice(client, organizer_token)
            drafts = draft_events(dt.datetime.now(dt.UTC).date())
            tally = Tally([await self._put_on_sale(draft, office) for draft in drafts])
            rates, latecomers = await self._sell(client, tally, settings)
            with self._console.status("Waiting for the last holds to lapse, and auditing"):
                await turn_latecomers_away(latecomers)
                findings = await settle(tally, client, organizer_token)
                inspected = [await inspect_event(books, office) for books in tally.events]
                audited = await audit(settings, tally)
            findings += [finding for _, found in inspected for finding in found]
            report = Report(
                ok=not findings and not client.unexpected and not audited.drift,
                buyers=self._options.buyers,
                seed=self._options.seed,
                bookings=sum(len(books.confirmed) for books in tally.events),
                late_bookings_refused=sum(books.too_late for books in tally.events),
                events=[line for line, _ in inspected],
                rates=rates,
                latency={purpose: measure(latencies_s) for purpose, latencies_s in client.latencies_s.items()},
                unexpected=dict(client.unexpected),
                findings=findings,
                audit=audited,
                server_output=list(server.said),
            )
            self._print(report)
            if self._options.keep:
                await self._keep_serving(server, settings, office, tally, data_dir)
        return 0 if report.ok else 1

    async def _put_on_sale(self, draft: Draft, office: BoxOffice) -> OnSale:
        event = await office.put_on_sale(draft)
        self._done(event.title, f"{sum(event.capacities.values()):,} {draft.about}")
        return event

    async def _sell(self, client: Client, tally: Tally, settings: Settings) -> tuple[Rates, list[Latecomer]]:
        def token_of(name: str) -> str:
            return make_token(settings, name, ["customer"])

        self._console.print()
        buyers = self._options.buyers
        began_s, requests, cpu_s = time.perf_counter(), client.requests, time.process_time()
        async with shown_progress(self._console, tally, buyers=buyers):
            latecomers = await let_in(buyers, seed=self._options.seed, client=client, tally=tally, token_of=token_of)
        elapsed_s = time.perf_counter() - began_s
        rates = Rates(
            seconds=round(elapsed_s, 2),
            requests_per_s=round((client.requests - requests) / elapsed_s, 1),
            holds_per_s=round(sum(books.held for books in tally.events) / elapsed_s, 1),
            bookings_per_s=round(sum(len(books.confirmed) for books in tally.events) / elapsed_s, 1),
            crowd_cores=round((time.process_time() - cpu_s) / elapsed_s, 2),
            cores=os.cpu_count() or 1,
            connections=self._options.connections,
        )
        return rates, latecomers

    def _print(self, report: Report) -> None:
        if self._options.as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
        else:
            print_report(self._console, report)

    async def _keep_serving(
        self, server: DemoServer, settings: Settings, office: BoxOffice, tally: Tally, data_dir: Path
    ) -> None:
        event_id, claim = await find_free_place([books.event for books in tally.events], office)
        invitation = Invitation(
            url=server.url,
            customer_token=make_token(settings, "you", ["customer"]),
            organizer_token=make_token(settings, ORGANIZER, ["organizer"]),
            event_id=event_id,
            claim=claim,
        )
        print_invitation(self._console, invitation, directory=data_dir)
        await asyncio.Event().wait()  # until a signal, or the server's end

    def _done(self, what: str, how: str) -> None:
        self._console.print(f"[bold green]✓[/] [bold]{what:8}[/]  {how}")


@contextmanager
def _data_dir(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen.expanduser().absolute()
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as name:
        yield Path(name)
