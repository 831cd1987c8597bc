"""G11, the part of Redis Cluster: three primaries over one, by the engine without HTTP, on events of all partitions.

Both are clusters, with the same options, so that the number of primaries is all that differs. One event is one
partition, and so one primary: a hundred of them share three. Where the machine has two cores, one is the engine's and
the primaries share the other: there this tells what it costs to have three, not what it brings.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import msgspec
from bench import Bench
from cluster_servers import Primaries, running_primaries
from goal_program import Measurement, run_alone
from harness import Cost, CpuClock, Goal, Measure, Result, Void, by_cpu_of, compare
from redis.crc import key_slot
from venues import PARTITIONS, StoredState, definition, find_faults, sellable

from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.events import SellableEvent
from engine.keys import event_key, partition_key, partition_of
from engine.transport.servers import SLOT_COUNT
from holdfast.compose import Parts, open_parts
from holdfast.settings import Settings

G11_CLUSTER = Goal(name="G11", title="three primaries of a cluster / one")

CALLERS = 256
HOLDS = 20_000
EVENTS = 96
PLACES = 1_000_000
_CLAIM = ClaimRequest([ItemRequest("floor", quantity=1)])


class Side(msgspec.Struct, frozen=True):
    """One of the two clusters, and an engine on it."""

    primaries: Primaries
    parts: Parts
    events: Sequence[SellableEvent]


async def measure(bench: Bench) -> list[Result]:
    """One place of a counted section, of each event in turn."""
    events = [sellable(definition(f"event-{number}", places=PLACES)) for number in range(EVENTS)]
    async with _running_side(bench, 3, events) as three, _running_side(bench, 1, events) as one:
        for event in events:
            await three.parts.events.create(event.definition, organizer_id="olga")
            await three.parts.events.transition(event.event.id, "open")
        result = await compare(
            G11_CLUSTER,
            f"{EVENTS} events, engine without HTTP",
            _holds(bench, three),
            _holds(bench, one),
            plan=bench.plan,
            cpu_metric=by_cpu_of("client"),
            note=f"{CALLERS} callers in one process; events by primary: {', '.join(map(str, shares_of(events, 3)))}",
        )
        for side in (three, one):
            await _hold_all(bench, side)
            _check(side)
    return [result]


def shares_of(events: Sequence[SellableEvent], primaries: int) -> Sequence[int]:
    """How many events each primary has, whose shares of the slots are equal."""
    slots = [key_slot(partition_key(_partition(event), "journal")) for event in events]
    counts = Counter(min(slot // (SLOT_COUNT // primaries), primaries - 1) for slot in slots)
    return [counts[primary] for primary in range(primaries)]


def _partition(event: SellableEvent) -> int:
    return partition_of(event.event.id, event.definition.group, PARTITIONS)


@contextlib.asynccontextmanager
async def _running_side(bench: Bench, count: int, events: Sequence[SellableEvent]) -> AsyncIterator[Side]:
    async with running_primaries(bench.scratch / f"primaries-{count}", count) as primaries:
        settings: Settings = msgspec.structs.replace(bench.settings, redis_url=primaries.url)
        async with open_parts(settings) as parts:
            yield Side(primaries, parts, events)


def _holds(bench: Bench, side: Side) -> Measure:
    async def measure() -> Cost:
        return await _hold_all(bench, side)

    return measure


async def _hold_all(bench: Bench, side: Side) -> Cost:
    """Hold on events that are loaded anew, and count what is held against it."""
    side.primaries.forget()
    ids = [event.event.id for event in side.events]
    for event_id in ids:
        await side.parts.loader.load(event_id)
    count = bench.plan.count(HOLDS)
    numbers = iter(range(count))

    async def call() -> None:
        for number in numbers:  # shared: every number is taken by one caller
            await side.parts.reservations.hold(ids[number % EVENTS], _CLAIM, customer_id="bench")

    server_cpu_s, client_cpu, began_s = side.primaries.cpu_s(), CpuClock(), time.perf_counter()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    wall_s, client_cpu_s = time.perf_counter() - began_s, client_cpu.elapsed_s()
    cpu_s = {"client": client_cpu_s, "valkey": side.primaries.cpu_s() - server_cpu_s}
    held = side.primaries.count_held(event_key(_partition(event), event.event.id, "state") for event in side.events)
    if held != count:
        raise Void(f"{held} places are held, not {count}")
    return Cost(operations=count, wall_s=wall_s, cpu_s=cpu_s)


def _check(side: Side) -> None:
    """Compare everything with everything, event by event."""
    with side.primaries.open_client() as client:
        for event in side.events:
            for fault in find_faults(StoredState(client, event, partitions=PARTITIONS)):
                raise Void(f"{event.event.id}: {fault}")


MEASUREMENT = Measurement("G11-cluster", G11_CLUSTER, measure, slow=True)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
