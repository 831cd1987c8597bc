"""G7: the journal drained into the ledger, over a raw ``COPY`` of the same rows into the same tables."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Cost, CpuClock, Goal, Result, Void, compare
from venues import definition

from engine.bookings import BookingDetails
from engine.definition import EventDefinition
from engine.draining import Drainer
from engine.events import SellableEvent
from engine.ids import BookingId, new_claim_id, parse_claim_id
from engine.kernel import Kernel
from engine.keys import partition_key
from holdfast.collector import spare_the_collector
from holdfast.compose import Parts, data_key, open_parts
from persistence.database import driver_connection
from persistence.sealing import AesSealer

G7 = Goal(name="G7", title="journal drained / raw COPY of the same rows", must=0.3, aim=0.6)

BOOKINGS = 20_000
SEATS_PER_ROW = 20
PIPELINE = 1_000
# What a booking becomes. `usage` is counted up, not copied.
TABLES = ("bookings", "claims", "history", "outbox", "idempotency")
CASES = {"two seats each": 2, "two counted places each": 0}
DETAILS = BookingDetails(guest={"name": "Ana Ruiz", "email": "ana@example.org", "phone": "+34 600 000 000"})


async def measure(bench: Bench) -> list[Result]:
    """Bookings of two numbered seats, and of two counted places."""
    async with open_parts(bench.settings) as parts:
        return [await _compare(bench, parts, case, seats) for case, seats in CASES.items()]


async def _compare(bench: Bench, parts: Parts, case: str, seats: int) -> Result:
    count = bench.plan.count(BOOKINGS)
    event = await _open_event(parts, case, count=count, seats=seats)
    partition = parts.kernel.partition_of(event)
    entries = _entries(event, AesSealer([data_key(bench.settings)]), count=count, seats=seats)
    spare_the_collector()  # as a worker does when it has started
    drainer = Drainer(parts.kernel, parts.settlement, parts.catalog, parts.ledger, grace_ms=0)
    await _fill(bench, parts, partition, entries)
    await _drain(drainer, parts.kernel, partition, count)  # once, for the rows that are copied
    rows = {table: await _rows(parts, table) for table in TABLES}

    async def drained() -> Cost:
        await _fill(bench, parts, partition, entries)
        return await _drain(drainer, parts.kernel, partition, count)

    async def copied() -> Cost:
        await _empty(parts)
        return await _copy(parts, rows, count)

    result = await compare(G7, case, drained, copied, plan=bench.plan, note=f"{count} bookings a run")
    if await _count(parts, "bookings") != count:
        raise Void("the ledger does not have every booking")
    return result


async def _open_event(parts: Parts, case: str, *, count: int, seats: int) -> SellableEvent:
    document = definition(
        case.replace(" ", "-"),
        seats=-(-count * seats // SEATS_PER_ROW) * SEATS_PER_ROW,
        places=0 if seats else 2 * count,
    )
    draft = await parts.events.create(msgspec.convert(document, EventDefinition), organizer_id="olga")
    return await parts.catalog.keep(await parts.events.transition(draft.id, "open"))


def _entries(event: SellableEvent, sealer: AesSealer, *, count: int, seats: int) -> list[dict[str, Any]]:
    """Journal entries as ``book_places`` writes them, each for places of its own."""
    now_ms = time.time_ns() // 1_000_000
    entries = []
    for number in range(count):
        booking_id = BookingId(new_claim_id(event.event.id))
        claim = parse_claim_id(booking_id)
        assert claim is not None
        taken = ",".join(map(str, range(number * seats, (number + 1) * seats)))
        entries.append(
            {
                "event": event.event.id,
                "epoch": event.event.epoch,
                "booking": claim.key,
                "owner": f"customer-{number}",
                "places": f"0:1;0#{taken}" if seats else "0:1;0*2",
                "created": now_ms,
                "confirmed": now_ms,
                "details": sealer.seal(DETAILS, booking_id),
                "once": f"{number:032x}",
                "body": f"{number:032x}",
            }
        )
    return entries


async def _fill(bench: Bench, parts: Parts, partition: int, entries: Sequence[dict[str, Any]]) -> None:
    await _empty(parts)
    for start in range(0, len(entries), PIPELINE):
        pipeline = bench.client.pipeline(transaction=False)
        for entry in entries[start : start + PIPELINE]:
            pipeline.xadd(partition_key(partition, "journal"), entry)
        pipeline.execute()


async def _drain(drainer: Drainer, kernel: Kernel, partition: int, count: int) -> Cost:
    clock, began = CpuClock(), time.perf_counter()
    drained = await drainer.drain(partition)
    cost = Cost(operations=count, wall_s=time.perf_counter() - began, cpu_s={"process": clock.elapsed_s()})
    left = await kernel.partition_command(partition, "XLEN", "journal")
    if (drained.settled, left) != (count, 0):
        raise Void(f"{drained}, {left} entries left")
    return cost


async def _copy(parts: Parts, rows: dict[str, list[Any]], count: int) -> Cost:
    async with driver_connection(parts.database) as connection:
        clock, began = CpuClock(), time.perf_counter()
        async with connection.transaction():
            for table, records in rows.items():
                await connection.copy_records_to_table(table, records=records)
        return Cost(operations=count, wall_s=time.perf_counter() - began, cpu_s={"process": clock.elapsed_s()})


async def _rows(parts: Parts, table: str) -> list[Any]:
    async with driver_connection(parts.database) as connection:
        rows: list[Any] = await connection.fetch(f"SELECT * FROM {table}")
        return [tuple(row) for row in rows]


async def _count(parts: Parts, table: str) -> int:
    async with driver_connection(parts.database) as connection:
        number: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
        return number


async def _empty(parts: Parts) -> None:
    async with driver_connection(parts.database) as connection:
        await connection.execute(f"TRUNCATE {', '.join(TABLES)}")
        await connection.execute("UPDATE usage SET sold = 0")


MEASUREMENT = Measurement("G7", G7, measure, slow=True)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
