"""An open load: requests arrive at a rate, whether or not the server keeps up; latency counts from when each was due.

``python loadtests/arrivals.py --rate 500 --seconds 10 --profile holds`` starts a ``holdfast serve`` of its own; with
``--url`` and ``--data-dir`` it drives a running one. ``--rate`` may be repeated: each is a point of the plot. The exit
status is 1 when anything was oversold, or Redis, the ledger, and what was acknowledged differ; 128 + its number after
a signal, which leaves nothing running.
"""

import asyncio
import contextlib
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import click
import httpx2
import msgspec
import redis
import uvloop
from arrivals_client import LATE, RIGHT, SCHEDULES, Orders, Tally
from harness import Void
from hdrh.histogram import HdrHistogram
from plot import Line, Panel, write_lines
from rich.console import Console
from rich.table import Table
from venues import PARTITIONS, StoredState, definition, find_faults, sellable

from holdfast.bench.machine import this_machine
from holdfast.children import describe_exit, start_child
from holdfast.demo.server import running_server
from holdfast.demo.stopping import run_until_signal
from holdfast.embedded.servers import running_servers
from holdfast.settings import Settings, load_settings
from holdfast.tokens import make_token

RESULTS = Path(__file__).with_name("results")
PROFILES = {"holds": ["holds"], "sales": ["sales"], "reads": ["reads"], "mix": ["holds", "sales", "reads"]}
PLACES = 10_000_000  # more than any run takes: a refusal is the server's load, not its stock
CUSTOMERS = 256
START_S = 1.5  # in which processes start and connect before the first request is due
EXTRA_S = 30  # past a run and its time-out, before its processes are killed
SETTLE_S = 30  # for what the server still does when its callers have given up
_CLIENT = Path(__file__).with_name("arrivals_client.py")


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What arrives, other than how much; *connections* bounds the requests outstanding, over all *processes*."""

    profile: str = "holds"
    schedule: str = "poisson"
    seconds: float = 10.0
    processes: int = 2
    connections: int = 512
    deadline_s: float = 1.0
    timeout_s: float = 5.0


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One rate: ``offered`` and ``goodput`` a second; latencies in ms, of right answers, from the intended start."""

    rate: float
    offered: float
    goodput: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    outcomes: dict[str, int]
    by_kind: dict[str, dict[str, int]]
    generator_lag_ms: float
    generator_cpu_s: float
    held: int
    booked: int


class Target(msgspec.Struct, frozen=True):
    """A server, its event, and whom it knows."""

    url: str
    settings: Settings
    event: dict[str, object]
    tokens: Sequence[str]


async def drive(target: Target, shape: Shape, rate: float) -> Point:
    """Let it arrive at *rate* a second, for as long as *shape* says; never longer than that and its time-outs.

    Raises:
        Void: A process of the generator failed; the others were ended.
    """
    begin_s = time.monotonic() + START_S
    with tempfile.TemporaryDirectory(prefix="hf-senders-") as name:
        try:
            async with asyncio.TaskGroup() as group:
                running = [
                    group.create_task(_run_client(_orders(target, shape, rate, begin_s, number), Path(name)))
                    for number in range(shape.processes)
                ]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first to fail; the others were cancelled for it
    return sum_up([task.result() for task in running], shape, rate)


def sum_up(tallies: Sequence[Tally], shape: Shape, rate: float) -> Point:
    """What the processes of one rate have seen, as if they were one: percentiles are of all latencies together."""
    latencies = HdrHistogram.decode(tallies[0].latencies)
    for tally in tallies[1:]:
        latencies.add(HdrHistogram.decode(tally.latencies))
    by_kind: dict[str, Counter[str]] = {}
    for tally in tallies:
        for kind, counted in tally.outcomes.items():
            by_kind.setdefault(kind, Counter()).update(counted)
    outcomes: Counter[str] = sum(by_kind.values(), Counter())
    p50, p99, p999 = (
        latencies.get_value_at_percentile(rank) / 1000 if outcomes[RIGHT] + outcomes[LATE] else math.nan
        for rank in (50, 99, 99.9)
    )
    return Point(
        rate=rate,
        offered=outcomes.total() / shape.seconds,
        goodput=outcomes[RIGHT] / shape.seconds,
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        outcomes=dict(+outcomes),
        by_kind={kind: dict(counted) for kind, counted in by_kind.items()},
        generator_lag_ms=max(tally.lag_s for tally in tallies) * 1000,
        generator_cpu_s=sum(tally.cpu_s for tally in tallies),
        held=sum(tally.held for tally in tallies),
        booked=sum(tally.booked for tally in tallies),
    )


async def check(target: Target, points: Sequence[Point]) -> None:
    """Raises:
    Void: Redis and the ledger differ, the event's state contradicts itself, or an acknowledged claim is missing.
    """
    token = make_token(target.settings, "root", ["admin"])
    headers = {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=target.url, headers=headers, trust_env=False, timeout=60) as client:
        for _ in range(SETTLE_S):
            audit = (await client.get("/v1/admin/audit")).raise_for_status().json()
            if not audit["drift"]:
                break
            await asyncio.sleep(1)
        else:
            raise Void(f"Redis and the ledger differ: {audit['differences'][:3]}")
        counts = (await client.get(f"/v1/events/{target.event['id']}/availability")).raise_for_status().json()
    (section,) = counts["sections"]
    booked, held = sum(point.booked for point in points), sum(point.held for point in points)
    if section["sold"] < booked or section["held"] + section["sold"] < held:
        raise Void(f"{held} holds and {booked} bookings were acknowledged, but {section}")
    servers = running_servers(target.settings.data_dir)
    if servers is not None:
        with redis.Redis.from_url(servers.redis_url) as store:
            faults = list(find_faults(StoredState(store, sellable(target.event), partitions=PARTITIONS)))
        if faults:
            raise Void(f"{len(faults)} invariants are broken, first: {faults[0]}")


@contextlib.asynccontextmanager
async def open_target(url: str | None = None, data_dir: Path | None = None) -> AsyncIterator[Target]:
    """An event on sale at *url*, whose secrets are in *data_dir*; or at a ``serve`` that ends with the block."""
    async with contextlib.AsyncExitStack() as opened:
        if url is None:
            name = tempfile.TemporaryDirectory(prefix="hf-arrivals-", ignore_cleanup_errors=True)
            data_dir = Path(opened.enter_context(name)) / "data"
            os.chmod(data_dir.parent, 0o711)  # servers started by root run as another account, which must pass here
            url = (await opened.enter_async_context(running_server(data_dir, port=0))).url
        settings = load_settings({} if data_dir is None else {"HOLDFAST_DATA_DIR": str(data_dir)})
        event = definition(f"arrivals-{uuid4().hex[:12]}", places=PLACES)
        headers = {"authorization": f"Bearer {make_token(settings, 'olga', ['organizer'])}"}
        async with httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
            (await client.post("/v1/events", json=event)).raise_for_status()
            (await client.post(f"/v1/events/{event['id']}/open")).raise_for_status()
        tokens = [make_token(settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
        yield Target(url, settings, event, tokens)


def print_points(points: Sequence[Point], console: Console) -> None:
    """A line for each rate."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("rate", "offered/s", "goodput/s", "p50 ms", "p99 ms", "p99.9 ms", "lag ms"):
        table.add_column(heading, justify="right")
    table.add_column("outcomes")
    for point in points:
        figures = (point.rate, point.offered, point.goodput, point.p50_ms, point.p99_ms, point.p999_ms)
        said = ", ".join(f"{name} {count:,}" for name, count in sorted(point.outcomes.items()))
        table.add_row(*(f"{figure:,.1f}" for figure in figures), f"{point.generator_lag_ms:,.1f}", said)
    console.print(table)


def plot(points: Sequence[Point], path: Path) -> None:
    """Latency and goodput against the offered rate, as a picture."""
    ordered = sorted(points, key=lambda point: point.offered)

    def line(name: str, of: Callable[[Point], float]) -> Line:
        return Line(name, [(point.offered, of(point)) for point in ordered])

    latency = [
        line("p50", lambda point: point.p50_ms),
        line("p99", lambda point: point.p99_ms),
        line("p99.9", lambda point: point.p999_ms),
    ]
    goodput = [line("right within the deadline", lambda point: point.goodput), line("offered", lambda it: it.offered)]
    panels = [
        Panel("ms from the intended start, against requests a second", latency, is_log=True),
        Panel("answers a second, against requests a second", goodput),
    ]
    write_lines(panels, path)


def _orders(target: Target, shape: Shape, rate: float, begin_s: float, number: int) -> Orders:
    return Orders(
        url=target.url,
        event_id=str(target.event["id"]),
        tokens=target.tokens,
        kinds=PROFILES[shape.profile],
        schedule=shape.schedule,
        rate=rate,
        seconds=shape.seconds,
        process=number,
        processes=shape.processes,
        connections=max(1, shape.connections // shape.processes),
        begin_s=begin_s,
        deadline_s=shape.deadline_s,
        timeout_s=shape.timeout_s,
    )


async def _run_client(orders: Orders, directory: Path) -> Tally:
    orders_file, tally_file = (directory / f"{what}-{orders.process}.json" for what in ("orders", "tally"))
    _write(orders_file, msgspec.json.encode(orders))
    child = await start_child([sys.executable, str(_CLIENT), str(orders_file), str(tally_file)])
    try:
        async with asyncio.timeout(START_S + orders.seconds + orders.timeout_s + EXTRA_S):
            code = await child.wait()
    except TimeoutError:
        raise Void("a process of the generator did not end") from None
    finally:
        await child.stop()
    if code:
        raise Void(f"a process of the generator has ended: {describe_exit(code)}")
    return msgspec.json.decode(_read(tally_file), type=Tally)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _read(path: Path) -> bytes:
    return path.read_bytes()


async def _measure(shape: Shape, rates: Sequence[float], url: str | None, data_dir: Path | None) -> list[Point]:
    async with open_target(url, data_dir) as target:
        points = [await drive(target, shape, rate) for rate in rates]
        await check(target, points)
    return points


@click.command()
@click.option("--rate", "rates", multiple=True, type=click.FloatRange(min=0.1), required=True, help="A second; repeat.")
@click.option("--seconds", default=10.0, show_default=True, help="Of each rate.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="holds", show_default=True)
@click.option("--schedule", type=click.Choice(SCHEDULES), default="poisson", show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--connections", default=512, show_default=True, help="The most requests outstanding.")
@click.option("--deadline", "deadline_s", default=1.0, show_default=True, help="Seconds in which an answer is good.")
@click.option("--timeout", "timeout_s", default=5.0, show_default=True, help="Seconds until a caller gives up.")
@click.option("--url", help="Of a running server; else one is started.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Of that server: its secrets are there.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / "arrivals.json", show_default=True)
def main(rates: Sequence[float], url: str | None, data_dir: Path | None, output: Path, **shape: object) -> None:
    """Drive a server at each rate, print a table, write JSON and a plot."""
    where, console = this_machine(), Console(width=None if sys.stdout.isatty() else 160)
    wanted = msgspec.convert(shape, Shape)

    async def run() -> int:
        try:
            points = await _measure(wanted, rates, url, data_dir)
        except Void as reason:
            console.print(f"void: {reason}")
            return 1
        print_points(points, console)
        _write_report({"machine": where, "shape": wanted, "points": points}, output)
        plot(points, output.with_suffix(".svg"))
        console.print(f"written to {output} and {output.with_suffix('.svg')}")
        return 0

    sys.exit(uvloop.run(run_until_signal(run(), on_second=lambda: None)))


def _write_report(report: Mapping[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


if __name__ == "__main__":
    main()
