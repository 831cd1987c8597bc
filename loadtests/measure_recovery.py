"""How long an installation takes to come back after ``FLUSHALL``, and G8: a rebuild over a ``COPY`` of the same rows.

``python loadtests/measure_recovery.py [--quick] [--bookings N] [--events N]…`` starts servers of its own and ends them;
it prints tables and writes JSON under ``results/``.
"""

import asyncio
import datetime as dt
import itertools
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import structlog
import uvloop
from bench import Bench, open_bench
from goal_program import Measurement
from harness import Cost, CpuClock, Goal, Plan, Result, Void, compare
from msgspec.structs import asdict
from report import Report, print_reports
from rich.console import Console
from rich.table import Table
from venues import definition

from engine.claim_requests import ClaimRequest
from engine.definition import EventDefinition
from engine.errors import Refusal, Unavailable
from engine.events import SellableEvent
from engine.keys import event_key, partition_key
from engine.lifecycle import OWNING_STATUSES
from engine.loader import TOGETHER_MAX
from holdfast.bench.machine import this_machine
from holdfast.compose import RECONCILER_POOL, Parts, make_equipment, open_parts
from persistence.database import driver_connection, open_database
from persistence.partition_leases import PartitionLeases
from persistence.reconciler import Reconciler
from persistence.reconciling.equipment import Repaired

G8 = Goal(name="G8", title="seconds of a rebuild / of COPY … TO STDOUT", must=4, aim=2, is_ceiling=True)
LONGEST = Goal(name="G8", title="longest command in Redis meanwhile, ms", must=5, aim=3, is_ceiling=True)
MEMORY = Goal(name="G8", title="memory of the process grows by, MB", must=64, aim=16, is_ceiling=True)

RESULTS = Path(__file__).with_name("results")
FULL = Plan(pairs=3, null_pairs=1, scale=1.0, http_s=0)
BOOKINGS, QUICK_BOOKINGS = 1_000_000, 200_000
EVENTS, QUICK_EVENTS = (1, 100, 10_000), (1, 100)
SEATS_SMALL, SOLD_SMALL = 50, 20  # of each of many small events
RECOVERY_MAX_S = 300.0  # then it is told how far it came
CREATED_AT_ONCE = 500  # events written in one transaction
SLOW_US = 200  # commands that take longer are looked at
STATEMENT_MAX = "300s"  # of filling the ledger
LOOK_S = 0.05  # between two looks at memory, or at how many events are back
CALL_PAUSE_S = 0.01  # of the caller who was refused

# One in five is for two counted places, the others for a seat each; every booking is somebody else's.
_FILL_BOOKINGS = """
    INSERT INTO bookings (id, event_id, customer_id, status, payment_status, version, epoch, first_leg, last_leg,
                          places, items, amount, currency, sealed, created_at, updated_at, confirmed_at)
    SELECT uuidv7(), event.id, 'customer-' || n, 'confirmed', 'none', 1, 1, 0, 1,
           CASE WHEN n % 5 = 4 THEN '0:1;0*2' ELSE '0:1;1#' || n END, '[]', 0, 'EUR', '', now(), now(), now()
      FROM unnest($1::text[]) AS event (id), generate_series(0, $2::int - 1) AS n
"""
_FILL_CLAIMS = """
    INSERT INTO claims (event_id, seat, leg, booking_id)
    SELECT event_id, substring(places FROM '#([0-9]+)')::int, 0, id FROM bookings
     WHERE event_id = ANY($1::text[]) AND places LIKE '%#%'
"""
_FILL_USAGE = "UPDATE usage SET sold = 2 * ($2::int / 5) WHERE event_id = ANY($1::text[])"
_OPEN = "UPDATE events SET status = 'open', version = version + 1, epoch = 1 WHERE id = ANY($1::text[])"
_COPIED = """
    SELECT number, id, customer_id, COALESCE(confirmed_at, created_at), places FROM bookings
     WHERE event_id = $1 AND status = ANY($2::text[])
"""


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What came back after ``FLUSHALL``, in seconds since; ``None``: not within the limit.

    ``loaded_s`` is when every event was in Redis again, ``audited_s`` when each had been audited after that, and
    nothing found; how many of them were is counted either way.
    """

    events: int
    bookings: int
    first_hold_s: float | None
    loaded_s: float | None
    audited_s: float | None
    loaded: int
    audited: int
    limit_s: float = RECOVERY_MAX_S
    load_average: float


class Found(msgspec.Struct, frozen=True):
    """Everything a run found; written to ``results/``."""

    rebuild: Report
    after_flush: Sequence[Recovery]


@click.command()
@click.option("--quick", is_flag=True, help="A fifth of the bookings, and no more than a hundred events.")
@click.option("--bookings", type=click.IntRange(0, 5_000_000), help="Of the event that is rebuilt; 0: leave it out.")
@click.option(
    "--events", type=click.IntRange(0, 50_000), multiple=True, help="That are lost; may be repeated; 0: none."
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where the JSON goes.")
def main(quick: bool, bookings: int | None, events: Sequence[int], output: Path | None) -> None:
    """Measure, print tables, write JSON."""
    # A line for every event that is rebuilt would be most of what is measured.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if bookings is None:
        bookings = QUICK_BOOKINGS if quick else BOOKINGS
    counts = events or (QUICK_EVENTS if quick else EVENTS)
    found = uvloop.run(_measure(bookings, [count for count in counts if count], is_quick=quick))
    console = Console(width=120)
    print_reports({"G8": found.rebuild}, console)
    print_recoveries(found.after_flush, console)
    path = output or RESULTS / ("measure_recovery-quick.json" if quick else "measure_recovery.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    console.print(f"written to {path}")
    sys.exit(any(result.verdict == "void" for result in found.rebuild.results))


def print_recoveries(recoveries: Sequence[Recovery], console: Console) -> None:
    """A line for each number of events."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("events lost", "bookings", "first hold s", "all loaded s", "all audited s", "audited", "load"):
        table.add_column(heading, justify="right")
    for one in recoveries:
        times = (one.first_hold_s, one.loaded_s, one.audited_s)
        table.add_row(
            f"{one.events:,}",
            f"{one.bookings:,}",
            *("—" if seconds is None else f"{seconds:.3g}" for seconds in times),
            f"{one.audited:,}",
            f"{one.load_average:.1f}",
        )
    console.print(table)


async def _measure(bookings: int, counts: Sequence[int], *, is_quick: bool) -> Found:
    measured_at, where = dt.datetime.now(dt.UTC), asdict(this_machine())
    results: Sequence[Result] = []
    recoveries = []
    if bookings:
        async with open_bench(FULL) as bench, open_parts(bench.settings, RECONCILER_POOL) as parts:
            results = await _compare(bench, parts, bookings)
            where |= {"valkey": bench.client.info("server")["valkey_version"]}
    for count in counts:
        async with open_bench(FULL) as bench, open_parts(bench.settings, RECONCILER_POOL) as parts:
            recoveries.append(await _recover(bench, parts, count))
            where |= {"valkey": bench.client.info("server")["valkey_version"]}
    return Found(Report(measured_at, is_quick, where, results), recoveries)


async def measure(bench: Bench) -> list[Result]:
    """G8 among the other goals: with fewer bookings than the million that this program is for."""
    async with open_parts(bench.settings, RECONCILER_POOL) as parts:
        return list(await _compare(bench, parts, QUICK_BOOKINGS))


MEASUREMENT = Measurement("G8", G8, measure, slow=True)

# --- G8 ------------------------------------------------------------------------------------------------------------


async def _compare(bench: Bench, parts: Parts, count: int) -> Sequence[Result]:
    seats = -(-count // 100) * 100
    document = definition("large", seats=seats, places=2 * count, seats_per_row=100)
    await parts.events.create(msgspec.convert(document, EventDefinition), organizer_id="olga")
    await _fill(parts, ["large"], count, with_claims=False)
    event = await parts.catalog.get("large")
    bench.client.config_set("slowlog-log-slower-than", SLOW_US)
    bench.client.config_set("slowlog-max-len", 10_000)
    longest: list[float] = []
    grown: list[float] = []
    postgres = await _server_of(parts)

    async def rebuilt() -> Cost:
        _empty(bench)
        bench.client.slowlog_reset()
        server_s, ledger_s = bench.server_cpu_s(), _cpu_s_of(postgres)
        clock, began = CpuClock(), time.perf_counter()
        async with _peak_memory(grown):
            await parts.loader.load("large")
        wall_s = time.perf_counter() - began
        cpu_s = {
            "process": clock.elapsed_s(),
            "valkey": bench.server_cpu_s() - server_s,
            "postgres": _cpu_s_of(postgres) - ledger_s,
        }
        longest.append(_longest_ms(bench))
        _check(bench, parts, event, count)
        return Cost(operations=count, wall_s=wall_s, cpu_s=cpu_s)

    async def copied() -> Cost:
        ledger_s = _cpu_s_of(postgres)
        clock, began = CpuClock(), time.perf_counter()
        async with driver_connection(parts.database) as connection:
            await connection.execute(f"SET statement_timeout = '{STATEMENT_MAX}'")
            await connection.copy_from_query(_COPIED, "large", list(OWNING_STATUSES), output=os.devnull, timeout=300)
            await connection.execute("RESET statement_timeout")
        wall_s = time.perf_counter() - began
        cpu_s = {"process": clock.elapsed_s(), "postgres": _cpu_s_of(postgres) - ledger_s}
        return Cost(operations=count, wall_s=wall_s, cpu_s=cpu_s)

    def seconds(cost: Cost) -> float:
        return cost.wall_s / cost.operations

    def cpu_seconds(cost: Cost) -> float:
        return sum(cost.cpu_s.values()) / cost.operations

    case = f"{count:,} bookings"
    ratio = await compare(G8, case, rebuilt, copied, plan=FULL, metric=seconds, cpu_metric=cpu_seconds)
    return [ratio, _lowest(LONGEST, longest), _highest(MEMORY, grown)]


def _empty(bench: Bench) -> None:
    """Empty Redis, and wait until the memory is free: a thread of Redis frees it, and holds up whoever needs some."""
    bench.client.flushall()
    while bench.client.info("memory")["lazyfree_pending_objects"]:
        time.sleep(LOOK_S)


def _highest(goal: Goal, figures: Sequence[float]) -> Result:
    figure = max(figures)
    return Result(goal=goal, case="", figure=figure, verdict=goal.verdict(figure), ratios=figures)


def _lowest(goal: Goal, figures: Sequence[float]) -> Result:
    """The least of the runs' maxima, and the greatest beside it.

    Redis times its commands by the clock, so that one that loses its core looks slow. What is work comes back in every
    run, and the least bounds it from above; the greatest may be the machine's.
    """
    figure = min(figures)
    case = f"least of {len(figures)} runs; greatest {max(figures):.1f}"
    return Result(goal=goal, case=case, figure=figure, verdict=goal.verdict(figure), ratios=figures)


async def _server_of(parts: Parts) -> int:
    """The process that all backends of Postgres are children of."""
    async with driver_connection(parts.database) as connection:
        return _stat_of(await connection.fetchval("SELECT pg_backend_pid()"))[0]


def _cpu_s_of(parent: int) -> float:
    """CPU seconds that *parent*'s living children have used; the pool keeps the backends that matter alive."""
    children = [_stat_of(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return sum(ticks for of, ticks in children if of == parent) / os.sysconf("SC_CLK_TCK")


def _stat_of(pid: int) -> tuple[int, int]:
    """A process's parent, and its CPU time in ticks; 0 and 0 of one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return int(fields[1]), int(fields[11]) + int(fields[12])


def _longest_ms(bench: Bench) -> float:
    """The longest command since the log was emptied; none is logged below ``SLOW_US``."""
    entries: Sequence[Any] = bench.client.slowlog_get(10_000)
    return max(
        (entry["duration"] / 1000 for entry in entries if b"FLUSHALL" not in entry["command"].upper()), default=0
    )


def _check(bench: Bench, parts: Parts, event: SellableEvent, count: int) -> None:
    """Raises ``Void`` unless Redis has all bookings."""
    partition = parts.kernel.partition_of(event)
    state = bench.client.hgetall(event_key(partition, "large", "state"))
    bookings = bench.client.hlen(event_key(partition, "large", "bookings"))
    users = bench.client.hlen(event_key(partition, "large", "users"))
    sold = bench.client.bitcount(event_key(partition, "large", "sold"))
    counted, seated = int(state[b"sold:0:0"]), int(state[b"sold:1:0"])
    fifth = count // 5
    if (bookings, users, sold, seated, counted) != (count, count, count - fifth, count - fifth, 2 * fifth):
        raise Void(f"{bookings} bookings, {users} customers, {sold} cells, {seated} seats, {counted} counted")


@asynccontextmanager
async def _peak_memory(grown: list[float]) -> AsyncIterator[None]:
    """Note by how many MB this process was larger, at most, than when the block began."""
    before = peak = _resident_bytes()

    async def look() -> None:
        nonlocal peak
        while True:
            await asyncio.sleep(LOOK_S)
            peak = max(peak, _resident_bytes())

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        grown.append((max(peak, _resident_bytes()) - before) / 1e6)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- after FLUSHALL ------------------------------------------------------------------------------------------------


async def _recover(bench: Bench, parts: Parts, count: int) -> Recovery:
    """A reconciler and a caller in this process; every event is loaded, and the reconciler at work, before the loss."""
    ids = [f"event-{number}" for number in range(count)]
    for start in range(0, count, CREATED_AT_ONCE):
        batch = ids[start : start + CREATED_AT_ONCE]
        documents = [definition(event_id, seats=SEATS_SMALL, places=SEATS_SMALL) for event_id in batch]
        definitions = [msgspec.convert(document, EventDefinition) for document in documents]
        await parts.events.create_many(definitions, organizer_id="olga")
        await _fill(parts, batch, SOLD_SMALL, with_claims=True)
    # Loaded here: to wait until the rotation had been at every one of many events took longer than what is measured.
    before = await _load_all(parts, ids)
    epochs: dict[str, int] = {}  # of the last clean audit of each event
    async with _reconciling(bench, parts, epochs):
        if await _until(lambda: bool(epochs)) is None:
            raise Void("no event was audited before the measurement began")
        bench.client.flushall()
        lost = time.perf_counter()

        def audited() -> int:
            return sum(epoch > before[event_id] for event_id, epoch in epochs.items())

        first_hold, loaded, all_audited = await asyncio.gather(
            _hold_until_accepted(parts, ids[-1], lost),
            _until(lambda: _live(bench, parts) == count, lost),
            _until(lambda: audited() == count, lost),
        )
        return Recovery(
            events=count,
            bookings=count * SOLD_SMALL,
            first_hold_s=first_hold,
            loaded_s=loaded,
            audited_s=all_audited,
            loaded=_live(bench, parts),
            audited=audited(),
            load_average=round(os.getloadavg()[0], 2),
        )


async def _load_all(parts: Parts, ids: Sequence[str]) -> dict[str, int]:
    """Load *ids* as the reconciler would; returns the epoch of each."""
    for start in range(0, len(ids), TOGETHER_MAX):
        for outcome in (await parts.loader.load_together(ids[start : start + TOGETHER_MAX])).values():
            if isinstance(outcome, BaseException):
                raise outcome
    async with driver_connection(parts.database) as connection:
        rows = await connection.fetch("SELECT id, epoch FROM events WHERE id = ANY($1::text[])", ids)
    return {row["id"]: row["epoch"] for row in rows}


@asynccontextmanager
async def _reconciling(bench: Bench, parts: Parts, epochs: dict[str, int]) -> AsyncIterator[None]:
    """Run a reconciler until the block ends; note the epoch of every audit that found nothing."""
    equipment = make_equipment(parts, bench.settings)
    repair = equipment.repair

    async def noted(event: SellableEvent, *, dry_run: bool = False) -> Repaired:
        done = await repair(event, dry_run=dry_run)
        if done.audit.loaded and done.audit.exact and not done.audit.drift and done.audit.epoch is not None:
            epochs[event.event.id] = done.audit.epoch
        return done

    assert bench.settings.database_url is not None
    session = open_database(bench.settings.database_url, pool_size=1, application_name="holdfast leases")
    stop = asyncio.Event()
    reconciler = Reconciler(
        msgspec.structs.replace(equipment, repair=noted), PartitionLeases(session, parts.kernel.partitions)
    )
    running = asyncio.create_task(reconciler.run_for_ever(stop))
    try:
        yield
    finally:
        stop.set()
        await running
        await session.dispose()


async def _hold_until_accepted(parts: Parts, event_id: str, began: float) -> float | None:
    """Seconds since *began* until a place was held; whoever is refused asks again."""
    claim = msgspec.convert({"items": [{"section": "floor", "quantity": 1}]}, ClaimRequest)
    for number in itertools.count():
        if time.perf_counter() - began > RECOVERY_MAX_S:
            return None
        try:
            await parts.reservations.hold(event_id, claim, customer_id=f"caller-{number}")
        except (Refusal, Unavailable):
            await asyncio.sleep(CALL_PAUSE_S)
        else:
            return time.perf_counter() - began
    raise AssertionError("unreachable: the loop ends by itself")


async def _until(is_so: Any, began: float | None = None) -> float | None:
    """Seconds since *began* until *is_so*; ``None`` after ``RECOVERY_MAX_S``."""
    began = began or time.perf_counter()
    while (elapsed_s := time.perf_counter() - began) < RECOVERY_MAX_S:
        if is_so():
            return elapsed_s
        await asyncio.sleep(LOOK_S)
    return None


def _live(bench: Bench, parts: Parts) -> int:
    """How many events Redis has."""
    pipeline = bench.client.pipeline(transaction=False)
    for partition in range(parts.kernel.partitions):
        pipeline.scard(partition_key(partition, "live"))
    return sum(pipeline.execute())


async def _fill(parts: Parts, ids: Sequence[str], bookings: int, *, with_claims: bool) -> None:
    """Put *ids* on sale as if they had been for a while, with *bookings* each."""
    async with driver_connection(parts.database) as connection:
        await connection.execute(f"SET statement_timeout = '{STATEMENT_MAX}'")
        await connection.execute(_FILL_BOOKINGS, ids, bookings, timeout=300)
        if with_claims:
            await connection.execute(_FILL_CLAIMS, ids, timeout=300)
            await connection.execute(_FILL_USAGE, ids, bookings)
        await connection.execute(_OPEN, ids)
        await connection.execute("RESET statement_timeout")


if __name__ == "__main__":
    main()
