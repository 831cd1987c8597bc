"""G1: the whole API against the least that its framework can do."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx2
import msgspec
import psutil  # type: ignore[import-untyped]
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Cost, Goal, Measure, Result, Void, by_cpu_of, compare
from http_load import CONNECTIONS, Load, generator_name, send
from venues import Venue, definition

from holdfast.children import start_child
from holdfast.processes import LISTEN_BACKLOG, bind_listener
from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import LISTENER_VARIABLE, SETTINGS_VARIABLE

G1 = Goal(name="G1", title="API hold / bare Starlette POST", must=0.50, aim=0.65)

PLACES = 10_000_000
SEATS_PER_ROW = 1_000
SEATS_PER_SECOND = 25_000  # more than can be taken on one core
CUSTOMERS = 256
READY_WAIT_S = 30.0
LAST_ANSWERS_S = 0.1
_BARE = Path(__file__).with_name("bare_worker.py")


class Worker(msgspec.Struct, frozen=True):
    """A running process, or several that share a socket, and where that listens."""

    url: str
    processes: Sequence[psutil.Process]

    def cpu_s(self) -> float:
        """CPU seconds they have spent so far."""
        return sum(float(times.user + times.system) for times in (each.cpu_times() for each in self.processes))


async def measure(bench: Bench) -> list[Result]:
    """One place of a counted section, and one numbered seat, by many customers in turn."""
    bench = msgspec.structs.replace(bench, plan=bench.plan.in_short_turns())
    tokens_file = bench.scratch / "tokens"
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    tokens_file.write_text("\n".join(tokens))
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    note = f"{generator_name()}; {CUSTOMERS} customers, each allowed a million places"
    seats = SEATS_PER_SECOND * bench.plan.http_s
    results = []
    async with running_worker(["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(bench.settings)}) as api:
        for case, seats_per_row, document in (
            ("counted place", 0, definition("floor", places=PLACES)),
            ("named seat", SEATS_PER_ROW, definition("stalls", seats=seats, seats_per_row=SEATS_PER_ROW)),
        ):
            event = f"/v1/events/{document['id']}"
            async with (
                httpx2.AsyncClient(base_url=api.url, headers=organizer, trust_env=False, timeout=60) as client,
                running_worker([str(_BARE), f"{event}/holds"], {}) as bare,
            ):
                (await client.post("/v1/events", json=document)).raise_for_status()
                (await client.post(f"{event}/open")).raise_for_status()
                venue = bench.venue(document)
                load = Load(api.url, f"{event}/holds", tokens_file, seats_per_row)
                hold = hold_load(bench, api, venue, load, reload=partial(client.get, f"{event}/availability"))
                nothing = _nothing(bench, bare, msgspec.structs.replace(load, url=bare.url))
                results.append(
                    await compare(G1, case, hold, nothing, plan=bench.plan, cpu_metric=by_cpu_of("api"), note=note)
                )
            venue.check()
    return results


def hold_load(
    bench: Bench, api: Worker, venue: Venue, load: Load, *, reload: Callable[[], Awaitable[httpx2.Response]]
) -> Measure:
    """Holds on the event, loaded anew: what the run before held is forgotten, and *reload* asks for the event."""

    async def measure() -> Cost:
        venue.forget()
        (await reload()).raise_for_status()
        server_cpu_s, api_cpu_s = bench.server_cpu_s(), api.cpu_s()
        outcome = await send(load, duration_s=bench.plan.http_s)
        await asyncio.sleep(LAST_ANSWERS_S)  # wrk does not wait for them
        if outcome.refused:
            raise Void(f"{outcome.refused} of {outcome.answers} holds were not answered 201")
        venue.check_held(outcome.answers, outcome.answers + CONNECTIONS)
        cpu_s = {
            "client": outcome.cpu_s,
            "api": api.cpu_s() - api_cpu_s,
            "valkey": bench.server_cpu_s() - server_cpu_s,
        }
        return Cost(operations=outcome.answers, wall_s=outcome.wall_s, cpu_s=cpu_s)

    return measure


def _nothing(bench: Bench, bare: Worker, load: Load) -> Measure:
    async def measure() -> Cost:
        cpu_s = bare.cpu_s()
        outcome = await send(load, duration_s=bench.plan.http_s)
        if outcome.refused:
            raise Void(f"the bare application refused {outcome.refused} of {outcome.answers} requests")
        parts = {"client": outcome.cpu_s, "api": bare.cpu_s() - cpu_s}
        return Cost(operations=outcome.answers, wall_s=outcome.wall_s, cpu_s=parts)

    return measure


@contextlib.asynccontextmanager
async def running_worker(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    pass_fds: Sequence[int] = (),
    count: int = 1,
    apart: bool = False,
) -> AsyncIterator[Worker]:
    """A Python program, or *count* of it, that serves a socket of ours, under a guard, so that it cannot outlive us.

    *apart*, each has a socket of its own on one port (``SO_REUSEPORT``), and the kernel deals connections out.
    """
    async with contextlib.AsyncExitStack() as stack:
        if apart:
            listeners = [stack.enter_context(each) for each in _bind_apart(count)]
        else:
            listeners = [stack.enter_context(bind_listener("127.0.0.1", 0))] * count
        children = []
        for descriptor in [each.fileno() for each in listeners]:
            child = await start_child(
                [sys.executable, *arguments],
                env={**os.environ, LISTENER_VARIABLE: str(descriptor), **environment},
                pass_fds=[descriptor, *pass_fds],
            )
            stack.push_async_callback(child.stop)
            children.append(child)
        url = f"http://127.0.0.1:{listeners[0].getsockname()[1]}"
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=READY_WAIT_S) as client:
            for _ in range(8 * count if apart else count):  # waits in a socket's queue until somebody accepts it
                await client.get("/readyz", headers={"connection": "close"})
        processes = [process for child in children for process in psutil.Process(child.guard_pid).children()]
        yield Worker(url, processes)


def _bind_apart(count: int) -> Iterator[socket.socket]:
    port = 0
    for _ in range(count):
        listener = socket.create_server(("127.0.0.1", port), backlog=LISTEN_BACKLOG, reuse_port=True)
        port = listener.getsockname()[1]
        yield listener


MEASUREMENT = Measurement("G1", G1, measure)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
