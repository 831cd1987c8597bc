"""G3: the engine against what most applications do, a pool of connections from redis-py."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import redis.asyncio
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Cost, CpuClock, Goal, Measure, Result, Void, by_cpu_of, compare
from redis.asyncio.connection import UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from venues import OWNER, Venue, definition

import lua
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.loader import EventLoader
from engine.reservations import Reservations
from holdfast.compose import open_parts

G3 = Goal(name="G3", title="engine / redis-py pool", must=2, aim=3)

CALLERS = 256
HOLDS = 20_000
PLACES = 1_000_000
POOL_SIZE = 64  # 16 and fewer are slower, 128 and 256 no faster
_NOTE = f"{CALLERS} callers; pool of {POOL_SIZE} connections, its arguments made beforehand"

Act = Callable[[int], Awaitable[None]]
"""Take the nth place."""

Prepare = Callable[[int], Act]
"""Make ready to take so many places."""


async def measure(bench: Bench) -> list[Result]:
    """One place of a counted section, and one numbered seat."""
    pool = redis.asyncio.BlockingConnectionPool(
        max_connections=POOL_SIZE,
        timeout=None,
        connection_class=UnixDomainSocketConnection,
        path=bench.socket_path,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    results = []
    async with open_parts(bench.settings) as parts, redis.asyncio.Redis(connection_pool=pool) as client:
        for case, document in (
            ("counted place", definition("counted", places=PLACES)),
            ("named seat", definition("seated", seats=bench.plan.count(HOLDS))),
        ):
            venue = bench.venue(document)
            event = await parts.events.create(venue.event.definition, organizer_id="olga")
            await parts.events.transition(event.id, "open")
            reload = partial(_reload, parts.loader, venue)
            engine = _from_callers(bench, venue, reload, _engine_act(parts.reservations, venue))
            plain = _from_callers(bench, venue, reload, _plain_act(client, venue))
            results.append(
                await compare(G3, case, engine, plain, plan=bench.plan, cpu_metric=by_cpu_of("client"), note=_NOTE)
            )
            venue.check()
            venue.forget()
    await pool.aclose()
    return results


async def _reload(loader: EventLoader, venue: Venue) -> None:
    venue.forget()
    await loader.load(venue.event.event.id)


def _engine_act(reservations: Reservations, venue: Venue) -> Prepare:
    event_id, owner = venue.event.event.id, OWNER.decode()
    seats = venue.event.layout.seats
    if seats:
        claims = [ClaimRequest([ItemRequest("stalls", seats=[seat.label])]) for seat in seats]
    else:
        claims = [ClaimRequest([ItemRequest("floor", quantity=1)])]

    async def act(number: int) -> None:
        await reservations.hold(event_id, claims[number % len(claims)], customer_id=owner)

    return lambda _: act


def _plain_act(client: redis.asyncio.Redis, venue: Venue) -> Prepare:
    script = lua.load("hold_places")
    sha, keys = script.sha.decode(), venue.keys(script.name).keys
    seated = bool(venue.event.layout.seats)

    def prepare(count: int) -> Act:
        arguments = [venue.hold_arguments(f"0:1;0#{number}" if seated else "0:1;0*1") for number in range(count)]

        async def act(number: int) -> None:
            reply = await client.evalsha(sha, len(keys), *keys, *arguments[number])
            if reply[0] != b"HELD":
                raise Void(f"a hold was answered {reply}")

        return act

    return prepare


def _from_callers(bench: Bench, venue: Venue, reload: Callable[[], Awaitable[None]], prepare: Prepare) -> Measure:
    count = bench.plan.count(HOLDS)

    async def measure() -> Cost:
        await reload()
        act, numbers = prepare(count), iter(range(count))

        async def call() -> None:
            for number in numbers:  # shared: every number is taken by one caller
                await act(number)

        server_cpu_s, client_cpu, began = bench.server_cpu_s(), CpuClock(), time.perf_counter()
        await asyncio.gather(*(call() for _ in range(CALLERS)))
        wall_s, client_cpu_s = time.perf_counter() - began, client_cpu.elapsed_s()
        venue.check_held(count)
        cpu_s = {"client": client_cpu_s, "valkey": bench.server_cpu_s() - server_cpu_s}
        return Cost(operations=count, wall_s=wall_s, cpu_s=cpu_s)

    return measure


MEASUREMENT = Measurement("G3", G3, measure)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
