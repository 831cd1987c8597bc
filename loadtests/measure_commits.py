"""G13: bookings that are durable when they are acknowledged, 64 under way, over one transaction for each of them."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Cost, CpuClock, Goal, Measure, Plan, Result, Void, by_cpu_of, compare
from sqlalchemy.ext.asyncio import AsyncEngine
from venues import definition

from engine.bookings import BookingDetails, JournalEntry
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.definition import EventDefinition
from engine.events import SellableEvent
from engine.ports import Committed, Refused
from engine.reservations import Reservations
from engine.settlement import Settlement
from engine.verification import Verification
from holdfast.compose import Parts, data_key, open_parts
from persistence.database import driver_connection, open_database
from persistence.group_commit import GroupCommit
from persistence.ledger import PostgresLedger
from persistence.sealing import AesSealer
from persistence.verification import LedgerAuditor

G13 = Goal(name="G13", title="durable confirms / one commit per booking", must=5, aim=12)

CALLERS = 64
CONFIRMS = 4_000
POOL_SIZE = 16  # of both sides; other sizes were not tried
SEATS_PER_ROW = 1_000
CONFIRM_MAX_S = 60.0


class LedgerOfSingles(PostgresLedger):
    """The same ledger, with a transaction of its own for every booking."""

    def __init__(self, engine: AsyncEngine, sealer: AesSealer, *, commits: AsyncEngine) -> None:
        super().__init__(engine, sealer, commits=commits)
        self._make = lambda: GroupCommit(commits, sealer)

    def commit(
        self, entry: JournalEntry, sellable: SellableEvent, details: BookingDetails | None = None
    ) -> "asyncio.Future[Committed | Refused]":
        """One booking, one batch."""
        return self._make().commit(entry, sellable, details)


async def measure(bench: Bench) -> list[Result]:
    """Confirms of one numbered seat each, without HTTP; a counted section is one row, which single commits wait for."""
    async with open_parts(bench.settings) as parts, _pool(bench) as commits:
        event = await _open_event(parts, bench.plan)
        seats = itertools.count()
        sealer = AesSealer([data_key(bench.settings)])
        together, alone = (
            _confirms(bench, parts, _reservations(parts, ledger, sealer), event, seats)
            for ledger in (
                PostgresLedger(parts.database, sealer, commits=commits),
                LedgerOfSingles(parts.database, sealer, commits=commits),
            )
        )
        note = f"{CALLERS} callers; pool of {POOL_SIZE} connections"
        result = await compare(
            G13, "named seat", together, alone, plan=bench.plan, cpu_metric=by_cpu_of("process"), note=note
        )
        await _check(parts, event)
    return [result]


def _reservations(parts: Parts, ledger: PostgresLedger, sealer: AesSealer) -> Reservations:
    auditor = LedgerAuditor(parts.database, parts.kernel, parts.bookings, parts.loader, parts.journals)
    verification = Verification(auditor, wait_s=CONFIRM_MAX_S)
    return Reservations(
        parts.front,
        parts.catalog,
        parts.loader,
        ledger,
        sealer,
        Settlement(parts.kernel, ledger, parts.loader, verification),
        verification,
        confirm_timeout_s=CONFIRM_MAX_S,
    )


def _confirms(
    bench: Bench, parts: Parts, reservations: Reservations, event: SellableEvent, seats: Iterator[int]
) -> Measure:
    count = bench.plan.count(CONFIRMS)

    async def measure() -> Cost:
        holds = [""] * count

        async def hold(number: int) -> None:
            row, position = divmod(next(seats), SEATS_PER_ROW)
            claim = ClaimRequest([ItemRequest("stalls", seats=[f"R{row}-{position + 1}"])])
            held = await parts.reservations.hold(event.event.id, claim, customer_id=f"customer-{number}")
            holds[number] = held.hold.id

        async def confirm(number: int) -> None:
            booked = await reservations.confirm(
                holds[number], BookingDetails(), customer_id=f"customer-{number}", attempt=b"a"
            )
            if booked.booking.status != "confirmed":
                raise Void(f"a booking is {booked.booking.status}")

        await _by_callers(count, hold)
        clock, began = CpuClock(), time.perf_counter()
        await _by_callers(count, confirm)
        return Cost(operations=count, wall_s=time.perf_counter() - began, cpu_s={"process": clock.elapsed_s()})

    return measure


async def _by_callers(count: int, act: Callable[[int], Awaitable[None]]) -> None:
    numbers = iter(range(count))

    async def call() -> None:
        for number in numbers:  # shared: every number is one caller's
            await act(number)

    await asyncio.gather(*(call() for _ in range(CALLERS)))


async def _open_event(parts: Parts, plan: Plan) -> SellableEvent:
    runs = 2 + 2 * plan.null_pairs + 2 * plan.pairs
    document = definition("commits", seats=runs * plan.count(CONFIRMS), seats_per_row=SEATS_PER_ROW)
    draft = await parts.events.create(msgspec.convert(document, EventDefinition), organizer_id="olga")
    return await parts.catalog.keep(await parts.events.transition(draft.id, "open"))


async def _check(parts: Parts, event: SellableEvent) -> None:
    """Raises ``Void`` unless the ledger has every booking, and counts as many places as they have."""
    async with driver_connection(parts.database) as connection:
        bookings = await connection.fetchval("SELECT count(*) FROM bookings WHERE event_id = $1", event.event.id)
        sold = await connection.fetchval("SELECT count(*) FROM claims WHERE event_id = $1", event.event.id)
    in_redis = int(await parts.kernel.event_command(event, "HGET", "state", "sold:0:0"))
    if not bookings == sold == in_redis:
        raise Void(f"{bookings} bookings, {sold} seats claimed in the ledger, {in_redis} in Redis")


@asynccontextmanager
async def _pool(bench: Bench) -> AsyncIterator[AsyncEngine]:
    assert bench.settings.database_url is not None
    pool = open_database(bench.settings.database_url, pool_size=POOL_SIZE)
    try:
        yield pool
    finally:
        await pool.dispose()


MEASUREMENT = Measurement("G13", G13, measure)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
