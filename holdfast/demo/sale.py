"""One sale on a running server: events put on sale, a crowd let in, and a look back at what was sold."""

import datetime as dt
import os
import time
from collections.abc import Sequence

from rich.console import Console

from holdfast.demo.aftermath import audit, inspect_event, settle, turn_latecomers_away
from holdfast.demo.box_office import BoxOffice, OnSale
from holdfast.demo.buyers import Latecomer, let_in
from holdfast.demo.client import Client
from holdfast.demo.invitation import Invitation, find_free_place
from holdfast.demo.progress import print_step, shown_progress
from holdfast.demo.report import Rates, Report, is_fine, measure
from holdfast.demo.scenario import draft_events
from holdfast.demo.tally import Tally
from holdfast.settings import Settings
from holdfast.tokens import make_token

ORGANIZER = "organizer"
VISITOR = "you"


class Sale:
    """The demo's three events from the first draft to the audit; what happens is shown on *console*."""

    def __init__(self, client: Client, settings: Settings, console: Console, *, buyers: int, seed: int) -> None:
        self._client = client
        self._settings = settings
        self._console = console
        self._buyers = buyers
        self._seed = seed
        self._organizer_token = make_token(settings, ORGANIZER, ["organizer"])
        self._office = BoxOffice(client, self._organizer_token)
        self._events: list[OnSale] = []

    async def run(self, server_output: Sequence[str]) -> Report:
        """Sell, and report; *server_output* is what the server has said by the end."""
        for draft in draft_events(dt.datetime.now(dt.UTC).date()):
            event = await self._office.put_on_sale(draft)
            print_step(self._console, event.title, f"{sum(event.capacities.values()):,} {draft.about}")
            self._events.append(event)
        tally = Tally(self._events)
        rates, latecomers = await self._sell(tally)
        with self._console.status("Waiting for the last holds to lapse, and auditing"):
            return await self._look_back(tally, rates, latecomers, server_output)

    async def invite(self, url: str) -> Invitation:
        """A place that is still free, and tokens to try and get it."""
        event_id, claim = await find_free_place(self._events, self._office)
        return Invitation(
            url=url,
            customer_token=self._customer_token(VISITOR),
            organizer_token=self._organizer_token,
            event_id=event_id,
            claim=claim,
        )

    def _customer_token(self, name: str) -> str:
        return make_token(self._settings, name, ["customer"])

    async def _sell(self, tally: Tally) -> tuple[Rates, list[Latecomer]]:
        client = self._client
        began_s, requests, cpu_s = time.perf_counter(), client.requests, time.process_time()
        async with shown_progress(self._console, tally, buyers=self._buyers):
            latecomers = await let_in(
                self._buyers, seed=self._seed, client=client, tally=tally, token_of=self._customer_token
            )
        elapsed_s = time.perf_counter() - began_s
        rates = Rates(
            seconds=round(elapsed_s, 2),
            requests_per_s=round((client.requests - requests) / elapsed_s, 1),
            holds_per_s=round(sum(books.held for books in tally.events) / elapsed_s, 1),
            bookings_per_s=round(sum(len(books.confirmed) for books in tally.events) / elapsed_s, 1),
            crowd_cores=round((time.process_time() - cpu_s) / elapsed_s, 2),
            cores=os.cpu_count() or 1,
            connections=client.connections,
        )
        return rates, latecomers

    async def _look_back(
        self, tally: Tally, rates: Rates, latecomers: Sequence[Latecomer], server_output: Sequence[str]
    ) -> Report:
        client = self._client
        await turn_latecomers_away(latecomers)
        findings = await settle(tally, client, self._organizer_token)
        inspected = [await inspect_event(books, self._office) for books in tally.events]
        findings += [finding for _, found in inspected for finding in found]
        audited = await audit(self._settings, tally)
        return Report(
            ok=is_fine(findings, client.unexpected, audited),
            buyers=self._buyers,
            seed=self._seed,
            bookings=sum(len(books.confirmed) for books in tally.events),
            late_bookings_refused=sum(books.too_late for books in tally.events),
            events=[line for line, _ in inspected],
            rates=rates,
            latency={purpose: measure(latencies_s) for purpose, latencies_s in client.latencies_s.items()},
            unexpected=dict(client.unexpected),
            findings=findings,
            audit=audited,
            server_output=list(server_output),
        )
