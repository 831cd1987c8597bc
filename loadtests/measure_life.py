"""The life of a booking over HTTP: latency of its steps under an open load, durable bookings a second, the last seat.

``python loadtests/measure_life.py [--seconds N] [--races N]`` starts ``holdfast serve`` with two workers on servers of
its own and ends it; it prints the figures, checks that Redis and the ledger agree, and writes JSON under ``results/``.
"""

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import httpx2
import uvloop
from harness import Void
from http_load import Outcome, send_requests
from msgspec.structs import asdict
from rich.console import Console

from holdfast.bench.machine import this_machine
from holdfast.demo.server import running_server
from holdfast.settings import Settings, load_settings
from holdfast.tokens import make_token

RESULTS = Path(__file__).with_name("results") / "life.json"
RATE = 50  # arrivals a second: the seed's open load
PLACES = 10_000_000
RIVALS = 10
CUSTOMERS = 256
TARGETS_MS = {"create": 200, "approve": 100, "cancel": 200}  # of the seeds; a cancellation has none of its own


class Shop:
    """A running server and the people who call it."""

    def __init__(self, client: httpx2.AsyncClient, settings: Settings, url: str) -> None:
        self.client = client
        self.url = url
        self._settings = settings
        self._tokens: dict[tuple[str, str], str] = {}

    def token(self, name: str, role: str = "customer") -> str:
        """A bearer token, made once."""
        if (name, role) not in self._tokens:
            self._tokens[name, role] = make_token(self._settings, name, [role])
        return self._tokens[name, role]

    async def call(self, name: str, role: str, method: str, path: str, body: Any = None) -> httpx2.Response:
        """One request in somebody's name."""
        headers = {"authorization": f"Bearer {self.token(name, role)}"}
        return await self.client.request(method, path, json=body, headers=headers)

    async def put_on_sale(self, event_id: str, *, capacity: int = PLACES, **policy: Any) -> str:
        """A new event with one counted section."""
        document = {
            "id": event_id,
            "name": event_id,
            "starts_at": "2035-05-01T19:00:00Z",
            "currency": "EUR",
            "sections": [{"id": "floor", "price": 1000, "capacity": capacity}],
            "policy": {"max_places_per_customer": 1_000_000} | policy,
        }
        (await self.call("olga", "organizer", "POST", "/v1/events", document)).raise_for_status()
        (await self.call("olga", "organizer", "POST", f"/v1/events/{event_id}/open")).raise_for_status()
        return event_id

    async def require_agreement(self) -> None:
        """Raises:
        Void: Redis and the ledger do not say the same.
        """
        audit = (await self.call("root", "admin", "GET", "/v1/admin/audit")).json()
        if audit["drift"]:
            raise Void(f"Redis and the ledger differ: {audit['differences'][:3]}")


def wish(event_id: str, **members: Any) -> dict[str, Any]:
    """A booking of one place."""
    return {"event_id": event_id, "items": [{"section": "floor", "quantity": 1}], **members}


async def arrive(count: int, work: Callable[[int], Awaitable[None]]) -> list[float]:
    """Begin *work* 50 times a second, done or not; returns the seconds each took from when it should have begun."""
    took: list[float] = []
    began = time.perf_counter()

    async def one(number: int) -> None:
        due = began + number / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await work(number)
        took.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    return took


async def measure_steps(shop: Shop, seconds: int) -> dict[str, dict[str, float]]:
    """Latencies of asking, approving and cancelling, in ms."""
    event_id = await shop.put_on_sale("steps", approval="manual")
    ids: list[str] = []

    async def create(number: int) -> None:
        answer = await shop.call(f"c{number % CUSTOMERS}", "customer", "POST", "/v1/bookings", wish(event_id))
        _require(answer, 201)
        ids.append(answer.json()["id"])

    async def approve(number: int) -> None:
        _require(await shop.call("olga", "organizer", "POST", f"/v1/bookings/{ids[number]}/approve", {}), 200)

    async def cancel(number: int) -> None:
        body = {"reason": "measured"}
        _require(await shop.call("olga", "organizer", "POST", f"/v1/bookings/{ids[number]}/cancel", body), 200)

    count = RATE * seconds
    steps = {"create": create, "approve": approve, "cancel": cancel}
    return {name: _percentiles(await arrive(count, step)) for name, step in steps.items()}


async def measure_rates(shop: Shop, seconds: int) -> dict[str, float]:
    """Durable bookings a second, in one step, 64 connections: without a payment, and with the simulator's."""
    free = await shop.put_on_sale("free")
    paid = await shop.put_on_sale("paid", payment="required")
    bodies = {
        "without payment": wish(free),
        "with the simulator": wish(paid, payment={"provider": "simulator", "method": "sim_ok"}),
    }
    rates = {}
    for name, body in bodies.items():
        outcome: Outcome = await send_requests(shop.url, _requests(shop, body), duration_s=seconds)
        if outcome.refused:
            raise Void(f"{name}: {outcome.refused} of {outcome.answers} bookings were not made")
        rates[name] = outcome.answers / outcome.wall_s
    return rates


async def measure_races(shop: Shop, races: int) -> dict[str, int]:
    """Ten ask for one seat, again and again."""
    outcomes = {"races": races, "exactly one sold": 0}
    for race in range(races):
        event_id = await shop.put_on_sale(f"race-{race}", capacity=1)
        answers = await asyncio.gather(
            *(shop.call(f"r{n}", "customer", "POST", "/v1/bookings", wish(event_id)) for n in range(RIVALS))
        )
        statuses = sorted(answer.status_code for answer in answers)
        outcomes["exactly one sold"] += statuses == [201] + [409] * (RIVALS - 1)
    return outcomes


def _requests(shop: Shop, body: dict[str, Any]) -> Iterator[bytes]:
    content, host = json.dumps(body), urlsplit(shop.url).netloc
    texts = [
        f"POST /v1/bookings HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {shop.token(f'c{number}')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()
        for number in range(CUSTOMERS)
    ]
    return itertools.cycle(texts)


def _require(answer: httpx2.Response, status: int) -> None:
    if answer.status_code != status:
        raise Void(f"{answer.request.url} answered {answer.status_code}: {answer.text[:200]}")


def _percentiles(took_s: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(took_s, n=100, method="inclusive")
    return {f"p{rank}": round(cuts[rank - 1] * 1000, 1) for rank in (50, 95, 99)}


@contextlib.asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    """A ``serve`` of its own, two workers and a reconciler; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="hf-life-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o711)  # servers started by root run as another account, which must pass through here
        data_dir = Path(name) / "data"
        async with running_server(data_dir, port=0) as server:
            limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
            async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30, limits=limits) as client:
                yield Shop(client, load_settings({"HOLDFAST_DATA_DIR": str(data_dir)}), server.url)


async def _measure(seconds: int, races: int) -> dict[str, Any]:
    console = Console()
    async with open_shop() as shop:
        report: dict[str, Any] = {"machine": asdict(this_machine()), "seconds": seconds}
        report["steps_ms"] = await measure_steps(shop, seconds)
        for name, figures in report["steps_ms"].items():
            told = ", ".join(f"{rank} {value:g} ms" for rank, value in figures.items())
            console.print(f"{name} at {RATE}/s: {told} (target {TARGETS_MS[name]} ms)")
        report["bookings_per_s"] = await measure_rates(shop, seconds)
        for name, rate in report["bookings_per_s"].items():
            console.print(f"durable bookings {name}: {rate:,.0f}/s")
        report["last_seat"] = await measure_races(shop, races)
        console.print(f"ten for one seat: exactly one sold in {report['last_seat']['exactly one sold']} of {races}")
        await shop.require_agreement()
    return report


@click.command()
@click.option("--seconds", default=20, show_default=True, help="Of each step and rate.")
@click.option("--races", default=200, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(seconds: int, races: int, output: Path) -> None:
    """Measure the steps of a booking's life."""
    report = uvloop.run(_measure(seconds, races))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
