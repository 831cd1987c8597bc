"""G10: everybody wants one seat, and holds lapse all at once.

What a crowd asks for must not make it slow: refusals cost no more than holds. And an event whose holds lapse in the
same moment ends them a few at a time, with the calls that come.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from functools import partial

import httpx2
import msgspec
import redis
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Cost, Goal, Measure, Result, Void, by_cpu_of, compare
from http_load import CONNECTIONS, send_requests
from measure_http import Worker, running_worker
from venues import Venue, definition

from engine.claim_requests import ClaimRequest
from engine.definition import EventDefinition
from engine.errors import HoldfastError
from holdfast.compose import Parts, open_parts
from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

STORM = Goal(name="G10", title="all on one seat / spread over seats", must=1, aim=1.2)
LAPSE = Goal(name="G10", title="p99 while holds lapse / quiet p99", must=3, aim=1.5, is_ceiling=True)

SEATS_PER_ROW = 1_000
SEATS_PER_SECOND = 30_000  # more than can be taken on one core
CUSTOMERS = 256
LAPSING = 100_000
RATE = 200  # holds asked for in a second, from when each should have begun
WINDOW_S = 3.0
LEAD_S = 2.0  # from the end of the quiet window to the moment at which all holds lapse
FILLED_PER_SECOND_MIN = 4_000  # on a machine that others use as well
PIPELINED = 2_000
_ONE = msgspec.convert({"items": [{"section": "floor", "quantity": 1}]}, ClaimRequest)


async def measure(bench: Bench) -> list[Result]:
    """A storm over HTTP, and a lapse of many holds at once, by the engine."""
    return [await _storm(bench), await _lapse(bench)]


async def _storm(bench: Bench) -> Result:
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    document = definition(
        "storm", seats=max(SEATS_PER_ROW, SEATS_PER_SECOND * bench.plan.http_s), seats_per_row=SEATS_PER_ROW
    )
    event = f"/v1/events/{document['id']}"
    async with (
        running_worker(["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(bench.settings)}) as api,
        httpx2.AsyncClient(base_url=api.url, headers=organizer, trust_env=False, timeout=60) as client,
    ):
        (await client.post("/v1/events", json=document)).raise_for_status()
        (await client.post(f"{event}/open")).raise_for_status()
        venue = bench.venue(document)
        reload = partial(client.get, f"{event}/availability")

        def sale(*, on_one: bool) -> Measure:
            async def measure() -> Cost:
                venue.forget()
                (await reload()).raise_for_status()
                return await _rush(bench, api, venue, _asking(api.url, f"{event}/holds", tokens, on_one), on_one)

            return measure

        storm, spread = sale(on_one=True), sale(on_one=False)
        result = await compare(STORM, "", storm, spread, plan=bench.plan, cpu_metric=by_cpu_of("api"))
        venue.check()
    venue.forget()
    return result


async def _rush(bench: Bench, api: Worker, venue: Venue, requests: Iterator[bytes], on_one: bool) -> Cost:
    server_s, api_s = bench.server_cpu_s(), api.cpu_s()
    outcome = await send_requests(api.url, requests, duration_s=bench.plan.http_s)
    granted = outcome.answers - outcome.refused
    if on_one and granted != 1:
        raise Void(f"one seat was held {granted} times")
    if not on_one and outcome.refused:
        raise Void(f"{outcome.refused} of {outcome.answers} holds were not answered 201")
    venue.check_held(granted, granted + (0 if on_one else CONNECTIONS))
    cpu_s = {"client": outcome.cpu_s, "api": api.cpu_s() - api_s, "valkey": bench.server_cpu_s() - server_s}
    return Cost(operations=outcome.answers, wall_s=outcome.wall_s, cpu_s=cpu_s)


def _asking(url: str, path: str, tokens: Sequence[str], on_one: bool) -> Iterator[bytes]:
    host = url.partition("//")[2]
    for number, token in enumerate(itertools.cycle(tokens)):
        row, position = divmod(0 if on_one else number, SEATS_PER_ROW)
        body = f'{{"items":[{{"section":"stalls","seats":["R{row}-{position + 1}"]}}]}}'
        yield (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


async def _lapse(bench: Bench) -> Result:
    count, ratios, parts_of = bench.plan.count(LAPSING), [], []
    async with open_parts(bench.settings) as parts:
        for number in range(max(1, bench.plan.pairs // 2)):
            quiet_ms, lapsing_ms = await _lapse_once(bench, parts, f"lapse-{number}", count)
            ratios.append(lapsing_ms / quiet_ms)
            parts_of.append((quiet_ms, lapsing_ms))
    figure = sorted(ratios)[len(ratios) // 2]
    quiet_ms, lapsing_ms = parts_of[ratios.index(figure)]
    return Result(
        goal=LAPSE,
        case=f"{count:,} holds",
        figure=figure,
        verdict=LAPSE.verdict(figure),
        low=min(ratios),
        high=max(ratios),
        parts={"quiet p99 ms": quiet_ms, "p99 ms while they lapse": lapsing_ms},
        note=f"{RATE} holds a second on the same event, from when each should have begun, without HTTP",
        ratios=ratios,
    )


async def _lapse_once(bench: Bench, parts: Parts, name: str, count: int) -> tuple[float, float]:
    """p99 in ms of a quiet while, and of the while in which *count* holds lapse; no reconciler helps to end them."""
    document = definition(name, places=4 * count)
    draft = await parts.events.create(msgspec.convert(document, EventDefinition), organizer_id="olga")
    await parts.catalog.keep(await parts.events.transition(draft.id, "open"))
    await parts.loader.load(name)
    venue = bench.venue(document)
    seconds, microseconds = bench.client.time()
    # Filling takes a while, and all are to lapse in the same moment: each is held for what is left until then.
    fill_s = count / FILLED_PER_SECOND_MIN + 1
    lapse_at_ms = (seconds + fill_s + 2 * WINDOW_S + LEAD_S) * 1000 + microseconds // 1000
    for start in range(0, count, PIPELINED):
        seconds, microseconds = bench.client.time()
        ttl_ms = int(lapse_at_ms - seconds * 1000 - microseconds // 1000)
        wires = [
            venue.hold_wire("0:1;0*1", owner=b"crowd-%d" % n, ttl_ms=ttl_ms) for n in range(start, start + PIPELINED)
        ]
        if any(reply[0] != b"HELD" for reply in bench.pipe.send(wires)):
            raise Void("a hold was refused")
    _touch(bench.client, name)
    quiet_ms = await _p99_ms(parts, name)
    seconds, microseconds = bench.client.time()
    left_s = lapse_at_ms / 1000 - seconds - microseconds / 1e6
    if left_s < 0:
        raise Void(f"filling took {-left_s:.1f} s too long: holds lapsed in the quiet window")
    await asyncio.sleep(left_s)
    _touch(bench.client, name)
    lapsing_ms = await _p99_ms(parts, name)
    return quiet_ms, lapsing_ms


def _touch(client: redis.Redis, event_id: str) -> None:
    """Have Valkey look at all of the event's data.

    Some hosts of virtual machines take a page away that was not used for a second, and give it back for 0.1 to 0.3 ms.
    Filling is over for some seconds by now, and each hold that is ended lies on pages of its own: without this, nothing
    but the host is measured.
    """
    for key in client.scan_iter(match=f"*:{event_id}:*", count=1_000):
        client.memory_usage(key, samples=0)


async def _p99_ms(parts: Parts, event_id: str) -> float:
    """Of holds at a steady rate for a while; latency counts from when each should have begun."""
    began, latencies = time.perf_counter(), list[float]()

    async def hold(number: int) -> None:
        due = began + number / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        try:
            await parts.reservations.hold(event_id, _ONE, customer_id=f"caller-{number}")
        except HoldfastError as error:
            raise Void(f"a hold was refused: {error}") from error
        latencies.append(time.perf_counter() - due)

    await asyncio.gather(*(hold(number) for number in range(int(RATE * WINDOW_S))))
    return sorted(latencies)[int(len(latencies) * 0.99)] * 1000


MEASUREMENT = Measurement("G10", STORM, measure)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
