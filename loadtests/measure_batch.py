"""G12 and G3b: places held in batches, against one hold at a time; by the engine, and over HTTP."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from urllib.parse import urlsplit

import httpx2
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Cost, CpuClock, Goal, Result, Void, by_cpu_of, compare
from http_load import CONNECTIONS, send_requests
from measure_http import Worker, running_worker
from venues import OWNER, Venue, definition

from engine.claim_requests import ClaimRequest, Held
from engine.claims import ItemRequest
from engine.ids import new_claim_key
from engine.loader import EventLoader
from engine.reservations import Reservations
from holdfast.compose import open_parts
from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

G12 = Goal(name="G12", title="engine: batches of 1 000 holds / one hold a call", must=3, aim=8)
G3B = Goal(name="G3b", title="HTTP: batches of 100 holds / one hold a request", must=4, aim=8)

CALLERS = 256  # that hold one place each
BATCH_CALLERS = 4  # so that the engine has one to prepare while Valkey grants another
BATCH = 1_000
HOLDS = 20_000
PLACES = 10_000_000
HTTP_BATCH = 100
CUSTOMERS = 256
LAST_ANSWERS_S = 0.1


async def measure(bench: Bench) -> list[Result]:
    """One place of a counted section, and one numbered seat, for each hold."""
    results = []
    async with open_parts(bench.settings) as parts:
        for case, document in (
            ("counted place", definition("counted", places=PLACES)),
            ("named seat", definition("seated", seats=bench.plan.count(HOLDS))),
        ):
            venue = bench.venue(document)
            event = await parts.events.create(venue.event.definition, organizer_id="olga")
            await parts.events.transition(event.id, "open")
            act = partial(_engine_cost, bench, venue, parts.loader)
            claims = _claims(venue, bench.plan.count(HOLDS))
            batches = partial(act, partial(_hold_batches, parts.reservations, venue, claims))
            singles = partial(act, partial(_hold_singly, parts.reservations, venue, claims))
            note = f"{BATCH_CALLERS} callers of batches of {BATCH}, {CALLERS} of single holds"
            results.append(
                await compare(G12, case, batches, singles, plan=bench.plan, cpu_metric=by_cpu_of("client"), note=note)
            )
            venue.check()
            venue.forget()
    return results


async def measure_over_http(bench: Bench) -> list[Result]:
    """Places of a counted section, by many customers in turn; the same generator sends both."""
    document = definition("floor", places=PLACES)
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    path = f"/v1/events/{document['id']}"
    single = '{"items":[{"section":"floor","quantity":1}]}'
    entry = f'{{"event_id":"{document["id"]}",{single[1:]}'
    note = f"{HTTP_BATCH} a batch; both sent by a generator in Python, {CONNECTIONS} connections"
    async with (
        running_worker(["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(bench.settings)}) as api,
        httpx2.AsyncClient(base_url=api.url, headers=organizer, trust_env=False, timeout=60) as client,
    ):
        (await client.post("/v1/events", json=document)).raise_for_status()
        (await client.post(f"{path}/open")).raise_for_status()
        venue = bench.venue(document)
        load = partial(_http_cost, bench, api, venue, partial(client.get, f"{path}/availability"))
        batch = f"[{','.join([entry] * HTTP_BATCH)}]"
        batches = partial(load, _requests(api.url, "/v1/holds:batch", batch, tokens), HTTP_BATCH)
        singles = partial(load, _requests(api.url, f"{path}/holds", single, tokens), 1)
        result = await compare(
            G3B, "counted place", batches, singles, plan=bench.plan, cpu_metric=by_cpu_of("api"), note=note
        )
        venue.check()
    return [result]


async def _engine_cost(bench: Bench, venue: Venue, loader: EventLoader, hold: Callable[[], Awaitable[None]]) -> Cost:
    count = bench.plan.count(HOLDS)
    venue.forget()
    await loader.load(venue.event.event.id)
    server_cpu_s, client_cpu, began = bench.server_cpu_s(), CpuClock(), time.perf_counter()
    await hold()
    wall_s, client_cpu_s = time.perf_counter() - began, client_cpu.elapsed_s()
    venue.check_held(count)
    cpu_s = {"client": client_cpu_s, "valkey": bench.server_cpu_s() - server_cpu_s}
    return Cost(operations=count, wall_s=wall_s, cpu_s=cpu_s)


def _claims(venue: Venue, count: int) -> list[ClaimRequest]:
    if venue.event.layout.seats:
        return [ClaimRequest([ItemRequest("stalls", seats=[seat.label])]) for seat in venue.event.layout.seats[:count]]
    return [ClaimRequest([ItemRequest("floor", quantity=1)])] * count


async def _hold_batches(reservations: Reservations, venue: Venue, claims: Sequence[ClaimRequest]) -> None:
    starts = iter(range(0, len(claims), BATCH))

    async def call() -> None:
        for start in starts:  # every batch is taken by one caller
            some = claims[start : start + BATCH]
            outcomes = await reservations.hold_many(
                venue.event.event.id, some, customer_id=OWNER.decode(), onces=[None] * len(some)
            )
            if not all(isinstance(outcome, Held) for outcome in outcomes):
                raise Void("a hold of a batch was refused")

    await asyncio.gather(*(call() for _ in range(BATCH_CALLERS)))


async def _hold_singly(reservations: Reservations, venue: Venue, claims: Sequence[ClaimRequest]) -> None:
    shared = iter(claims)

    async def call() -> None:
        for claim in shared:  # every claim is taken by one caller
            # A claim with a key of its caller's shares no call with others.
            await reservations.hold(venue.event.event.id, claim, customer_id=OWNER.decode(), key=new_claim_key())

    await asyncio.gather(*(call() for _ in range(CALLERS)))


async def _http_cost(
    bench: Bench,
    api: Worker,
    venue: Venue,
    reload: Callable[[], Awaitable[httpx2.Response]],
    requests: Iterator[bytes],
    places: int,
) -> Cost:
    """What holds cost whose requests take *places* each; every place must have been had."""
    venue.forget()
    (await reload()).raise_for_status()
    server_cpu_s, api_cpu_s = bench.server_cpu_s(), api.cpu_s()
    outcome = await send_requests(api.url, requests, duration_s=bench.plan.http_s)
    await asyncio.sleep(LAST_ANSWERS_S)
    if outcome.refused:
        raise Void(f"{outcome.refused} of {outcome.answers} requests were refused")
    venue.check_held(outcome.answers * places)
    cpu_s = {
        "client": outcome.cpu_s,
        "api": api.cpu_s() - api_cpu_s,
        "valkey": bench.server_cpu_s() - server_cpu_s,
    }
    return Cost(operations=outcome.answers * places, wall_s=outcome.wall_s, cpu_s=cpu_s)


def _requests(url: str, path: str, body: str, tokens: list[str]) -> Iterator[bytes]:
    host = urlsplit(url).netloc
    made = [
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        for token in tokens
    ]
    return itertools.cycle(made)


MEASUREMENT = Measurement("G12", G12, measure)
MEASUREMENT_OVER_HTTP = Measurement("G3b", G3B, measure_over_http)

if __name__ == "__main__":
    run_alone(MEASUREMENT)  # G3b: run_goals.py --only G3b
