"""Several processes' worth of engine over one Redis and one ledger, each with connections of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from ledger_lab import Lab
from script_runner import PARTITIONS

from engine.bookings import Booking
from engine.catalog import Catalog
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.draining import Drainer
from engine.kernel import Kernel
from engine.loader import EventLoader
from engine.place_changes import PlaceChanges
from engine.release import free_booking
from engine.reservations import Reservations
from engine.settlement import Settlement
from engine.transport.open import open_transport
from engine.verification import Verification
from persistence.audit_journal import JournalWatch
from persistence.booking_desk import BookingDesk
from persistence.bookings import Bookings
from persistence.database import open_database
from persistence.events import Events
from persistence.ledger import PostgresLedger
from persistence.place_desk import PlaceDesk
from persistence.verification import LedgerAuditor

T = TypeVar("T")


async def _nothing_to_settle(_: Booking) -> None:
    """No provider takes payments."""


class Shop:
    """One process: its transport, its ledger, and what is sold through them."""

    def __init__(
        self,
        kernel: Kernel,
        catalog: Catalog,
        loader: EventLoader,
        ledger: PostgresLedger,
        bookings: Bookings,
        lab: Lab,
    ) -> None:
        self.kernel = kernel
        self.catalog = catalog
        self.loader = loader
        self.bookings = bookings
        self.verification = Verification(
            LedgerAuditor(bookings.engine, kernel, bookings, loader, JournalWatch(kernel)), wait_s=10.0
        )
        self.settlement = Settlement(kernel, ledger, loader, self.verification)
        self.drainer = Drainer(kernel, self.settlement, catalog, ledger, grace_ms=0)
        self.reservations = Reservations(
            kernel, catalog, loader, ledger, lab.sealer, self.settlement, self.verification, confirm_timeout_s=10.0
        )
        self.desk = BookingDesk(
            bookings.engine, lab.sealer, free=partial(free_booking, kernel, catalog), settle=_nothing_to_settle
        )
        self.places = PlaceDesk(
            bookings.engine, lab.sealer, self.desk, catalog, PlaceChanges(kernel, self.verification)
        )


@asynccontextmanager
async def open_shops(redis_url: str, lab: Lab, count: int) -> AsyncIterator[list[Shop]]:
    """*count* shops over the same servers."""
    async with AsyncExitStack() as stack:
        shops = []
        for _ in range(count):
            transport = await open_transport(redis_url, reply_timeout_s=10.0)
            stack.push_async_callback(transport.aclose)
            database = open_database(lab.url, pool_size=4)
            stack.push_async_callback(database.dispose)
            events, ledger = Events(database), PostgresLedger(database, lab.sealer, commits=database)
            stack.push_async_callback(ledger.close)
            kernel, catalog = Kernel(transport, partitions=PARTITIONS), Catalog(events)
            loader = EventLoader(kernel, events, catalog)
            kernel.load_events_with(loader.load)
            shops.append(Shop(kernel, catalog, loader, ledger, Bookings(database, lab.sealer), lab))
            stack.push_async_callback(shops[-1].verification.close)
            stack.push_async_callback(shops[-1].settlement.close)
        yield shops


async def at_once(calls: Sequence[Awaitable[T]]) -> list[T | BaseException]:
    """Let all *calls* go at a barrier; what each returned or raised."""
    barrier = asyncio.Barrier(len(calls))

    async def start(call: Awaitable[T]) -> T:
        await barrier.wait()
        return await call

    return await asyncio.gather(*map(start, calls), return_exceptions=True)


def claim(**fields: Any) -> ClaimRequest:
    """A claim of one item: ``section`` and one of ``quantity``, ``seats`` and ``best``."""
    legs = {"from_": fields.pop("from_", None), "to": fields.pop("to", None), "ttl": fields.pop("ttl", None)}
    return ClaimRequest([ItemRequest(**fields)], **legs)
