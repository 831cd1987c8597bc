"""G4: holds and durable sales, API to API, against plain SQL behind FastAPI, one worker on either side.

All sides get the same bytes from the same generator in Python, on the same machine, with the same Postgres; tables of
the baselines are empty before each run.
"""

import asyncio
import contextlib
import itertools
import os
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import msgspec
import psutil  # type: ignore[import-untyped]
from baselines.app import DATABASE_VARIABLE, VOLATILE_VARIABLE, prepare
from baselines.strategies import CONDITIONAL_UPDATE, ROW_LOCK, STRATEGIES, UNIT_ROWS, Strategy
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Cost, Goal, Measure, Plan, Result, Void, by_cpu_of, compare
from http_load import Outcome, send_requests, send_sales
from measure_http import CUSTOMERS, PLACES, Worker, running_worker
from venues import PARTITIONS, StoredState, definition, find_faults, sellable

from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

G4 = Goal(name="G4", title="API holds / row lock and sum", must=20, aim=35)
G4B = Goal(name="G4b", title="API holds / best plain SQL", must=4, aim=6)
G4B_SPREAD = Goal(name="G4b", title="API holds / best plain SQL", must=2.5, aim=4)
G4B_LOSSY = Goal(name="G4b", title="API holds / best plain SQL")
G4C = Goal(name="G4c", title="durable sales / best plain SQL", must=2.5, aim=5)
G4C_LOSSY = Goal(name="G4c", title="durable sales / best plain SQL")

EVENTS = 1_000  # of the cases that are spread
STOCK_PER_SECOND = 12_000  # places of the baselines: more than they sell, and no more unit rows than it takes
OPENING_AT_ONCE = 16
PROBES = 2  # runs of one second by which the best baseline is chosen
HELD_BEFORE = 20_000  # places of an event that is well under way; who adds up what is taken, adds up these
HELD_AT_ONCE = 100  # the most that a batch may have
ONE = "one event"
UNDER_WAY = f"one event, {HELD_BEFORE:,} places held before"
LOSSY = "one event; a crash may lose holds of either side"
_HERE = str(Path(__file__).parent)
_JSON = "Content-Type: application/json\r\nContent-Length: "
_BODY = '{"items":[{"section":"floor","quantity":1}]}'
_HOLD_ID_LENGTH = len('{"hold_id":""}')
_HELD_BEFORE = """
    INSERT INTO holds (id, event_id, customer_id, quantity, deadline)
    SELECT gen_random_uuid(), $1, 'customer-' || number, 1, now() + interval '1 hour'
      FROM generate_series(1, $2::int) AS number
"""
_numbers = itertools.count()


class Field(msgspec.Struct, frozen=True):
    """The running sides and what they share."""

    bench: Bench
    tokens: Sequence[str]
    organizer: httpx2.AsyncClient
    ours: Worker
    peers: Mapping[str, Worker]
    ledger: asyncpg.Connection
    postgres: psutil.Process


async def measure(bench: Bench) -> list[Result]:
    """Holds on one event and on a thousand, then sales."""
    async with open_field(bench) as field:
        return [*await measure_holds(field), *await measure_spread(field), *await measure_sales(field)]


async def measure_holds(field: Field) -> list[Result]:
    """One place each of one event, which is another one in every run."""
    plan, plain = field.bench.plan, (CONDITIONAL_UPDATE, UNIT_ROWS)
    against_lock = [
        await _compare(
            G4,
            case,
            _our_holds(field, plan, before=before),
            _holds(field, plan, ROW_LOCK, before=before),
            plan,
            ROW_LOCK.name,
        )
        for case, before in ((ONE, 0), (UNDER_WAY, HELD_BEFORE))
    ]
    best, told = await _best(field, _holds, plain)
    against_best = await _compare(G4B, ONE, _our_holds(field, plan), _holds(field, plan, best), plan, told)
    async with _volatile(field, best) as peers:
        brief = _brief(plan)
        lossy = await _compare(G4B_LOSSY, LOSSY, _our_holds(field, brief), _holds(peers, brief, best), brief, best.name)
    return [*against_lock, against_best, lossy]


async def measure_spread(field: Field) -> list[Result]:
    """One place each of a thousand events in turn."""
    plan, documents = field.bench.plan, [definition(f"ride-{number}", places=PLACES) for number in range(EVENTS)]
    await _put_on_sale(field, documents)
    requests = _hold_requests(field, field.ours, [str(each["id"]) for each in documents])
    sent = 0

    async def ours() -> Cost:
        nonlocal sent
        cost = await _run(field, field.ours, send_requests(field.ours.url, requests, duration_s=plan.http_s))
        sent += cost.operations  # every request that was made has been answered
        return cost

    theirs = partial(_holds, events=EVENTS)
    best, told = await _best(field, theirs, (CONDITIONAL_UPDATE, UNIT_ROWS))
    result = await _compare(G4B_SPREAD, f"{EVENTS} events", ours, theirs(field, plan, best), plan, told)
    for number, document in enumerate(documents):
        _check(field.bench, document, held=sent // EVENTS + (number < sent % EVENTS), sold=0)
    return [result]


async def measure_sales(field: Field) -> list[Result]:
    """A hold and its confirmation, acknowledged when it is committed; one event, another one in every run."""
    plan = field.bench.plan
    best, told = await _best(field, _sales, tuple(STRATEGIES.values()))
    result = await _compare(G4C, ONE, _our_sales(field, plan), _sales(field, plan, best), plan, told)
    async with _volatile(field, best) as peers:
        brief = _brief(plan)
        lossy = await _compare(G4C_LOSSY, LOSSY, _our_sales(field, brief), _sales(peers, brief, best), brief, best.name)
    return [result, lossy]


@contextlib.asynccontextmanager
async def open_field(bench: Bench) -> AsyncIterator[Field]:
    """Start one worker of each side."""
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    settings = {SETTINGS_VARIABLE: encode_settings(bench.settings)}
    async with contextlib.AsyncExitStack() as stack:
        peers = {}
        for schema, strategy in STRATEGIES.items():
            await prepare(_url(bench), strategy)
            peers[schema] = await stack.enter_async_context(_baseline(bench, strategy))
        ours = await stack.enter_async_context(running_worker(["-m", "holdfast.worker"], settings))
        client = httpx2.AsyncClient(base_url=ours.url, headers=organizer, trust_env=False, timeout=60)
        await stack.enter_async_context(client)
        ledger = await asyncpg.connect(_url(bench))
        stack.push_async_callback(ledger.close)
        postgres = psutil.Process(await ledger.fetchval("SELECT pg_backend_pid()")).parent()
        yield Field(bench, tokens, client, ours, peers, ledger, postgres)


@contextlib.asynccontextmanager
async def _baseline(bench: Bench, strategy: Strategy, *, volatile: bool = False) -> AsyncIterator[Worker]:
    path = os.pathsep.join(filter(None, (_HERE, os.environ.get("PYTHONPATH"))))
    environment = {DATABASE_VARIABLE: _url(bench), VOLATILE_VARIABLE: str(int(volatile)), "PYTHONPATH": path}
    async with running_worker(["-m", "baselines.app", strategy.schema], environment) as api:
        yield api


@contextlib.asynccontextmanager
async def _volatile(field: Field, strategy: Strategy) -> AsyncIterator[Field]:
    """*strategy* once more, with holds that are acknowledged before they are on disk."""
    async with _baseline(field.bench, strategy, volatile=True) as api:
        yield msgspec.structs.replace(field, peers={strategy.schema: api})


def _our_holds(field: Field, plan: Plan, *, before: int = 0) -> Measure:
    async def measure() -> Cost:
        document = definition(f"hall-{next(_numbers)}", places=PLACES)
        await _put_on_sale(field, [document])
        await _hold_before(field, document["id"], before)
        requests = _hold_requests(field, field.ours, [document["id"]])
        cost = await _run(field, field.ours, send_requests(field.ours.url, requests, duration_s=plan.http_s))
        _check(field.bench, document, held=before + cost.operations, sold=0)
        return cost

    return measure


def _our_sales(field: Field, plan: Plan) -> Measure:
    async def measure() -> Cost:
        document = definition(f"show-{next(_numbers)}", places=PLACES)
        await _put_on_sale(field, [document])
        cost = await _run(field, field.ours, buy(field.ours.url, document["id"], field.tokens, duration_s=plan.http_s))
        _check(field.bench, document, held=0, sold=cost.operations)
        counts = "SELECT (SELECT count(*) FROM bookings WHERE event_id = $1), sum(sold) FROM usage WHERE event_id = $1"
        in_ledger = tuple(await field.ledger.fetchrow(counts, document["id"]))
        if in_ledger != (cost.operations, cost.operations):
            raise Void(f"{cost.operations} sales were acknowledged; the ledger has {in_ledger} bookings and places")
        await _audit(field, document["id"])
        return cost

    return measure


def _holds(field: Field, plan: Plan, strategy: Strategy, *, events: int = 1, before: int = 0) -> Measure:
    """With *before*, which counters know nothing of, only for a strategy that adds up what is held."""
    peer, ids = field.peers[strategy.schema], [f"ride-{number}" for number in range(events)]

    async def measure() -> Cost:
        await _restock(field, strategy, ids, before + STOCK_PER_SECOND * plan.http_s // events, held=before)
        requests = _hold_requests(field, peer, ids)
        cost = await _run(field, peer, send_requests(peer.url, requests, duration_s=plan.http_s))
        await _check_baseline(field, strategy, held=before + cost.operations, sold=0)
        return cost

    return measure


def _sales(field: Field, plan: Plan, strategy: Strategy) -> Measure:
    peer = field.peers[strategy.schema]

    async def measure() -> Cost:
        await _restock(field, strategy, ["show"], STOCK_PER_SECOND * plan.http_s)
        cost = await _run(field, peer, buy(peer.url, "show", field.tokens, duration_s=plan.http_s))
        await _check_baseline(field, strategy, held=0, sold=cost.operations)
        return cost

    return measure


def buy(url: str, event_id: str, tokens: Sequence[str], *, duration_s: int) -> Awaitable[Outcome]:
    """Every one of 64 customers holds and confirms on a connection of their own."""
    host, turns = urlsplit(url).netloc, itertools.cycle(tokens)

    def make() -> tuple[Iterator[bytes], Callable[[bytes], bytes]]:
        head = f" HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {next(turns)}\r\n{_JSON}"
        confirm = f"POST /v1/bookings{head}".encode() + b'%d\r\n\r\n{"hold_id":"%s"}'
        hold = f"POST /v1/events/{event_id}/holds{head}{len(_BODY)}\r\n\r\n{_BODY}".encode()
        return itertools.repeat(hold), lambda hold_id: confirm % (len(hold_id) + _HOLD_ID_LENGTH, hold_id)

    return send_sales(url, make, duration_s=duration_s)


def _hold_requests(field: Field, api: Worker, event_ids: Sequence[str]) -> Iterator[bytes]:
    """Without end, an event and a customer after the other."""
    host = urlsplit(api.url).netloc
    pairs = zip(itertools.cycle(event_ids), itertools.cycle(field.tokens), strict=False)
    requests = [
        f"POST /v1/events/{event_id}/holds HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"{_JSON}{len(_BODY)}\r\n\r\n{_BODY}".encode()
        for event_id, token in itertools.islice(pairs, max(len(event_ids), len(field.tokens)))
    ]
    return itertools.cycle(requests)


async def _run(field: Field, api: Worker, load: Awaitable[Outcome]) -> Cost:
    """One run and the CPU it took: of every server together, too, for the sides have not the same ones."""

    def spent() -> dict[str, float]:
        return {"api": api.cpu_s(), "valkey": field.bench.server_cpu_s(), "postgres": _backends_s(field.postgres)}

    before = spent()
    outcome = await load
    parts = {name: after - before[name] for name, after in spent().items()}
    if outcome.refused:
        raise Void(f"{outcome.refused} of {outcome.answers} requests were not answered 201")
    parts = {"client": outcome.cpu_s, "servers": sum(parts.values()), **parts}
    return Cost(operations=outcome.answers, wall_s=outcome.wall_s, cpu_s=parts)


def _backends_s(postgres: psutil.Process) -> float:
    """CPU seconds of all that Postgres has running; pools keep the backends that matter alive."""
    spent = 0.0
    for process in postgres.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


async def _put_on_sale(field: Field, documents: Sequence[Mapping[str, Any]]) -> None:
    slots = asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one(document: Mapping[str, Any]) -> None:
        async with slots:
            (await field.organizer.post("/v1/events", json=document)).raise_for_status()
            (await field.organizer.post(f"/v1/events/{document['id']}/open")).raise_for_status()
            (await field.organizer.get(f"/v1/events/{document['id']}/availability")).raise_for_status()

    await asyncio.gather(*map(open_one, documents))


async def _hold_before(field: Field, event_id: str, count: int) -> None:
    body = [{"event_id": event_id, "items": [{"section": "floor", "quantity": 1}]}] * HELD_AT_ONCE
    for token, _ in zip(itertools.cycle(field.tokens), range(0, count, HELD_AT_ONCE), strict=False):
        headers = {"authorization": f"Bearer {token}"}
        answer = await field.organizer.post("/v1/holds:batch", json=body, headers=headers)
        if any(result["status"] != 201 for result in answer.raise_for_status().json()):
            raise Void("a hold of a batch was refused")


async def _restock(field: Field, strategy: Strategy, event_ids: Sequence[str], capacity: int, *, held: int = 0) -> None:
    """Tables as good as new, and known to the planner; *held* places of the first event are held for an hour."""
    ledger = field.ledger
    await ledger.execute(f"SET search_path TO {strategy.schema}")
    tables = [
        row[0] for row in await ledger.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", strategy.schema)
    ]
    await ledger.execute(f"TRUNCATE {', '.join(tables)}")
    await ledger.execute(strategy.stock, event_ids, capacity)
    if held:
        await ledger.execute(_HELD_BEFORE, event_ids[0], held)
    await ledger.execute("ANALYZE")
    await ledger.execute("RESET search_path")


async def _check_baseline(field: Field, strategy: Strategy, *, held: int, sold: int) -> None:
    await field.ledger.execute(f"SET search_path TO {strategy.schema}")
    found = tuple(await field.ledger.fetchrow(strategy.taken))
    await field.ledger.execute("RESET search_path")
    if found != (held, sold, 0):
        raise Void(f"{strategy.name}: {found} places held, sold, and events oversold, not {(held, sold, 0)}")


def _check(bench: Bench, document: Mapping[str, Any], *, held: int, sold: int) -> None:
    """Compare everything with everything, as the tests do, and with what was acknowledged."""
    stored = StoredState(bench.client, sellable(dict(document)), partitions=PARTITIONS)
    if faults := list(find_faults(stored)):
        raise Void(f"{document['id']}: {len(faults)} invariants are broken, first: {faults[0]}")
    found = int(stored.state["held:0:0"]), int(stored.state["sold:0:0"])
    if found != (held, sold):
        raise Void(f"{document['id']}: {found} places are held and sold, not {(held, sold)}")


async def _audit(field: Field, event_id: str) -> None:
    admin = {"authorization": f"Bearer {make_token(field.bench.settings, 'root', ['admin'])}"}
    answer = await field.organizer.get("/v1/admin/audit", params={"event_id": event_id}, headers=admin)
    audit = answer.raise_for_status().json()
    if audit["drift"]:
        raise Void(f"Redis and the ledger differ: {audit['differences'][:3]}")


async def _best(
    field: Field, kind: Callable[[Field, Plan, Strategy], Measure], candidates: Sequence[Strategy]
) -> tuple[Strategy, str]:
    """The fastest of *candidates* in a few short runs in turn, and what each of them did."""
    plan = msgspec.structs.replace(field.bench.plan, http_s=1)
    rates: dict[str, list[float]] = {strategy.schema: [] for strategy in candidates}
    for _ in range(PROBES):
        for strategy in candidates:
            rates[strategy.schema].append((await kind(field, plan, strategy)()).rate)
    medians = {schema: statistics.median(found) for schema, found in rates.items()}
    best = STRATEGIES[max(medians, key=medians.__getitem__)]
    told = ", ".join(f"{STRATEGIES[schema].name} {rate:,.0f}/s" for schema, rate in medians.items())
    return best, f"{best.name}, chosen from {told}"


async def _compare(goal: Goal, case: str, ours: Measure, theirs: Measure, plan: Plan, baseline: str) -> Result:
    note = f"one worker each, generator in Python; baseline: {baseline}, bearer token not checked"
    return await compare(goal, case, ours, theirs, plan=plan, cpu_metric=by_cpu_of("servers"), note=note)


def _brief(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, pairs=3, null_pairs=1, http_s=1)


def _url(bench: Bench) -> str:
    assert bench.settings.database_url is not None
    return bench.settings.database_url


MEASUREMENT = Measurement("G4", G4, measure, slow=True)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
