"""An installation with a reconciler at work on it, and short ways to sell, to harm, and to wait for the repair."""

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from stores import open_client

from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.definition import EventDefinition, RowDefinition, SectionDefinition
from engine.events import SellableEvent
from engine.ids import BookingId, new_claim_id, parse_claim_id
from engine.journal_bound import JOURNAL_BYTES_MAX
from engine.keys import event_key, partition_key
from holdfast.compose import Parts, open_reconciler
from holdfast.settings import Settings, data_key
from persistence.database import driver_connection
from persistence.reconciler import Reconciler
from persistence.sealing import AesSealer

STARTS_AT = dt.datetime(2035, 5, 1, 19, tzinfo=dt.UTC)
YESTERDAY = dt.datetime(2020, 5, 1, 19, tzinfo=dt.UTC)


class Installation:
    """An API process's parts, and a client of Redis to do harm with."""

    def __init__(self, parts: Parts, settings: Settings) -> None:
        assert settings.redis_url is not None
        self.parts = parts
        self.settings = settings
        self.redis: Any = open_client(settings.redis_url)

    async def open_event(self, event_id: str, **fields: Any) -> SellableEvent:
        """An event on sale with a counted floor of 100 and a row of ten seats."""
        sections = [
            SectionDefinition("floor", capacity=100, price=4500),
            SectionDefinition("stalls", rows=[RowDefinition("A", "1-10")], price=9000),
        ]
        fields = {"starts_at": STARTS_AT} | fields
        definition = EventDefinition("Concert", fields.pop("starts_at"), "EUR", sections, id=event_id, **fields)
        await self.parts.events.create(definition, organizer_id="olga")
        await self.parts.reservations.publish(await self.parts.events.transition(event_id, "open"))
        return await self.parts.catalog.get(event_id)

    async def hold(self, event_id: str, *, ttl_s: int = 300) -> str:
        claim = ClaimRequest([ItemRequest("floor", quantity=2)], ttl=ttl_s)
        return (await self.parts.reservations.hold(event_id, claim, customer_id="ana")).hold.id

    async def book(self, event_id: str, seat: str = "A-1") -> str:
        claim = ClaimRequest([ItemRequest("stalls", seats=[seat])])
        booked = await self.parts.reservations.book(event_id, claim, BookingDetails(), customer_id="ben")
        return booked.booking.id

    def key(self, event: SellableEvent, name: str) -> bytes:
        return event_key(self.parts.kernel.partition_of(event), event.event.id, name)

    def partition_key(self, event: SellableEvent, name: str) -> bytes:
        return partition_key(self.parts.kernel.partition_of(event), name)

    def is_loaded(self, event: SellableEvent) -> bool:
        return bool(self.redis.exists(self.key(event, "state")))

    def counter(self, event: SellableEvent, field: str) -> int:
        return int(self.redis.hget(self.key(event, "state"), field) or 0)

    async def leave_behind(self, event: SellableEvent, *, age_s: float) -> str:
        """A booking that a process accepted *age_s* ago, just before it died: in Redis and journal, not in Postgres."""
        kernel, claim = self.parts.kernel, parse_claim_id(new_claim_id(event.event.id))
        assert claim is not None
        booking_id = f"{claim.key}~{event.event.id}"
        sealed = AesSealer([data_key(self.settings)]).seal(BookingDetails(), BookingId(booking_id))
        attempt = [claim.key, "cy", "attempt", sealed, "body", "", "60000", str(JOURNAL_BYTES_MAX)]
        attempt += [event.layout.digest, "0:1;0*3"]
        reply = await kernel.run("book_places", event, [p if isinstance(p, bytes) else p.encode() for p in attempt])
        assert reply[0] == b"CONFIRMED"
        journal, record = self.partition_key(event, "journal"), self.key(event, "bookings")
        ((name, fields),) = self.redis.xrange(journal, reply[4], reply[4])
        made_ms = int((time.time() - age_s) * 1000)
        made = f"{made_ms}-0"
        self.redis.xtrim(journal, maxlen=0)
        self.redis.delete(journal)  # whose last id would be later than the one that it should have
        self.redis.xadd(journal, fields | {b"created": made_ms, b"confirmed": made_ms}, id=made)
        text = self.redis.hget(record, claim.key)
        self.redis.hset(record, claim.key, text.replace(name, made.encode()))
        return booking_id

    async def status_of(self, booking_id: str) -> str | None:
        """What the ledger says of a booking."""
        booking = await self.parts.bookings.find_booking(BookingId(booking_id))
        return None if booking is None else booking.status

    async def postgres(self, statement: str, *arguments: object) -> list[Any]:
        async with driver_connection(self.parts.database) as connection:
            rows: list[Any] = await connection.fetch(statement, *arguments)
            return rows


@asynccontextmanager
async def reconciling(settings: Settings) -> AsyncIterator[Reconciler]:
    """A reconciler at work until the end of the block; it must stop when it is told to."""
    async with open_reconciler(settings) as reconciler:
        stop = asyncio.Event()
        running = asyncio.create_task(reconciler.run_for_ever(stop))
        try:
            yield reconciler
        finally:
            stop.set()
            await asyncio.wait_for(running, timeout=5)


async def until(condition: Callable[[], object], *, within_s: float) -> float:
    """Wait for something to be true; returns how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"not so after {within_s} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began
