"""G10, the part of listeners: holds on an event with 1 000 listeners / with none; and what a read of it costs.

Listeners come first in a run and read all they are sent, in a process of their own. The ratio is of holds per second of
the API's CPU: clients share the machine with it here, and would not elsewhere.
"""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Cost, Goal, Measure, Result, Void, by_cpu_of, compare
from http_load import Load, generator_name, send_requests
from measure_http import CUSTOMERS, SEATS_PER_ROW, SEATS_PER_SECOND, Worker, hold_load, running_worker
from venues import definition

from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

G10_LISTENERS = Goal(name="G10", title="holds with 1 000 SSE listeners / none", must=0.85, aim=0.95)
READS = Goal(name="reads", title="reads with 304, and of what is kept / read anew", must=1.0, aim=1.2)

LISTENERS = 1_000
JOIN_WAIT_S = 30.0
_LISTENERS = Path(__file__).with_name("stream_listeners.py")
SEATS = 2_000  # of the event that is read


async def measure(bench: Bench) -> list[Result]:
    """Named seats of one event, which all listeners watch."""
    tokens_file = bench.scratch / "stream-tokens"
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    tokens_file.write_text("\n".join(tokens))
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    document = definition("stalls", seats=SEATS_PER_SECOND * bench.plan.http_s, seats_per_row=SEATS_PER_ROW)
    event = f"/v1/events/{document['id']}"
    service = make_token(bench.settings, "box-office", ["service"])
    async with (
        running_worker(["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(bench.settings)}) as api,
        httpx2.AsyncClient(base_url=api.url, headers=organizer, trust_env=False, timeout=60) as client,
    ):
        (await client.post("/v1/events", json=document)).raise_for_status()
        (await client.post(f"{event}/open")).raise_for_status()
        venue = bench.venue(document)
        load = Load(api.url, f"{event}/holds", tokens_file, SEATS_PER_ROW)
        alone = hold_load(bench, api, venue, load, reload=partial(client.get, f"{event}/availability"))

        async def with_listeners() -> Cost:
            async with listeners(api.url, f"{event}/stream", service):
                return await alone()

        result = await compare(
            G10_LISTENERS,
            f"{LISTENERS} listeners",
            with_listeners,
            alone,
            plan=bench.plan,
            metric=by_cpu_of("api"),
            cpu_metric=by_cpu_of("api"),
            note=f"{generator_name()}; one process, by its CPU",
        )
        venue.check()
    return [result]


@contextlib.asynccontextmanager
async def listeners(url: str, path: str, token: str) -> AsyncIterator[None]:
    """A thousand streams that are read as they come, by a process of its own.

    Raises:
        Void: Not all were let in, or some were cut off.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(str(_LISTENERS), url, path, token, str(LISTENERS)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = b"nothing was heard of them"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JOIN_WAIT_S):
                said = await process.stdout.readline()
        if said != b"listening\n":
            raise Void(f"not all listeners were let in: {said.decode().strip()}")
        yield
        process.stdin.close()
        async with asyncio.timeout(JOIN_WAIT_S):
            printed = await process.stdout.read()
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    told, lost = map(int, printed.split())
    if lost or told <= LISTENERS:
        raise Void(f"{LISTENERS} listeners were told {told} things, and {lost} were cut off")


async def measure_reads(bench: Bench) -> list[Result]:
    """Availability and seats of an event at rest: 304, and 200 of what is kept."""
    document = definition("stalls", seats=SEATS, seats_per_row=100)
    event = f"/v1/events/{document['id']}"
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    results = []
    async with (
        running_worker(["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(bench.settings)}) as api,
        httpx2.AsyncClient(base_url=api.url, headers=organizer, trust_env=False, timeout=60) as client,
    ):
        (await client.post("/v1/events", json=document)).raise_for_status()
        (await client.post(f"{event}/open")).raise_for_status()
        for path in ("availability", "seats"):
            tag = (await client.get(f"{event}/{path}")).headers["etag"]
            full = _reads(bench, api, f"{event}/{path}", organizer["authorization"], "")
            same = _reads(bench, api, f"{event}/{path}", organizer["authorization"], f"If-None-Match: {tag}\r\n")
            results.append(
                await compare(READS, f"{path}: 304 / 200", same, full, plan=bench.plan, metric=by_cpu_of("api"))
            )
    return results


def _reads(bench: Bench, api: Worker, path: str, authorization: str, header: str) -> Measure:
    host = urlsplit(api.url).netloc
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\n{header}\r\n".encode()

    async def measure() -> Cost:
        api_s, server_s = api.cpu_s(), bench.server_cpu_s()
        outcome = await send_requests(api.url, itertools.repeat(request), duration_s=bench.plan.http_s)
        parts = {"api": api.cpu_s() - api_s, "valkey": bench.server_cpu_s() - server_s, "client": outcome.cpu_s}
        return Cost(operations=outcome.answers, wall_s=outcome.wall_s, cpu_s=parts)

    return measure


MEASUREMENT = Measurement("G10-listeners", G10_LISTENERS, measure, slow=True)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
