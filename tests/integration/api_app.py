"""The API over the real engine, Valkey and Postgres, composed for tests, and people to call it."""

import asyncio
import contextlib
import itertools
import queue
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import Any

import httpx2
import jwt
import sqlalchemy as sa
import uvicorn
from sqlalchemy.ext.asyncio import AsyncConnection

from api.app import create_app
from api.identity import SharedSecret, TokenVerifier
from api.live import LiveMaps
from api.services import Info, ReadinessCheck, Services
from engine.admission_queue import AdmissionQueue
from engine.catalog import Catalog
from engine.draining import Drained, Drainer
from engine.errors import LedgerUnavailable
from engine.inventory import InventoryProvider
from engine.journal_bound import JOURNAL_BYTES_MAX
from engine.kernel import Kernel
from engine.loader import EventLoader
from engine.once import OnceStore
from engine.payments import PaymentProvider
from engine.place_changes import PlaceChanges
from engine.pricing import PricingProvider
from engine.release import free_booking
from engine.reservations import Reservations
from engine.settlement import Settlement
from engine.terms import Terms
from engine.transport.open import open_transport
from engine.verification import Verification
from engine.waitlist import Line
from holdfast.http_protocol import LeanProtocol
from holdfast.http_server import Server
from holdfast.metrics import process_figures
from persistence.aftercare import Aftercare
from persistence.audit_journal import JournalWatch
from persistence.blocks import Blocks
from persistence.booking_desk import BookingDesk
from persistence.bookings import Bookings
from persistence.checkout import Checkout
from persistence.database import in_transaction, open_database
from persistence.difference_charges import DifferenceCharges
from persistence.erasure import Eraser
from persistence.events import Events
from persistence.ledger import PostgresLedger
from persistence.migrate import migrate
from persistence.oversight import Oversight, repair_with
from persistence.place_desk import PlaceDesk
from persistence.schema import metadata
from persistence.sealing import AesSealer
from persistence.verification import LedgerAuditor
from persistence.waitlist import Waitlist

SECRET = "a secret that is long enough for HS256"
PARTITIONS = 4
DATA_KEY = b"k" * 32
_numbers = itertools.count(1)
_migrated: set[str] = set()  # databases that have their tables: to look whether any is missing takes a while each time


@contextlib.asynccontextmanager
async def composed(
    redis_url: str,
    database_url: str,
    *,
    journal_bytes_max: int = JOURNAL_BYTES_MAX,
    providers: Mapping[str, PaymentProvider] | None = None,
    confirm_timeout_s: float = 5.0,
    pricing: PricingProvider | None = None,
    inventory: InventoryProvider | None = None,
) -> AsyncIterator[Services]:
    """The services over running servers; the database gets its tables, and they are empty."""
    database = open_database(database_url)
    if database_url not in _migrated:
        await migrate(database)
        _migrated.add(database_url)
    try:
        await in_transaction(database, _empty)
    except (
        LedgerUnavailable
    ):  # a machine that is busy with other tests may take longer than the second for a connection
        await in_transaction(database, _empty)
    transport = await open_transport(redis_url)
    sealer = AesSealer([DATA_KEY])
    events, bookings, ledger = (
        Events(database),
        Bookings(database, sealer),
        PostgresLedger(database, sealer, commits=database),
    )
    kernel, catalog = Kernel(transport, partitions=PARTITIONS), Catalog(events)
    loader = EventLoader(kernel, events, catalog)
    kernel.load_events_with(loader.load)
    patient = kernel.patient()
    verification = Verification(LedgerAuditor(database, patient, bookings, loader, JournalWatch(kernel)), wait_s=5.0)
    settlement = Settlement(kernel, ledger, loader, verification)
    reservations = Reservations(
        kernel,
        catalog,
        loader,
        ledger,
        sealer,
        settlement,
        verification,
        confirm_timeout_s=confirm_timeout_s,
        journal_bytes_max=journal_bytes_max,
    )

    checkout = Checkout(database, sealer, reservations, bookings, providers or {}, confirm_timeout_s=confirm_timeout_s)
    desk = BookingDesk(
        database,
        sealer,
        free=partial(free_booking, kernel, catalog),
        settle=checkout.settle_booking,
        find_accepted=partial(reservations.find_booking, customer_id=None),
    )
    aftercare = Aftercare(database, desk)
    terms = Terms(reservations, pricing=pricing, inventory=inventory)
    oversight = Oversight(
        patient, bookings, catalog, database, repair_with(patient, bookings, loader, JournalWatch(patient))
    )
    live = LiveMaps(reservations)
    try:
        yield Services(
            reservations=reservations,
            live=live,
            events=events,
            bookings=bookings,
            waitlist=Waitlist(database, Line(kernel, catalog)),
            admission_queue=AdmissionQueue(kernel, catalog, secrets=[DATA_KEY]),
            checkout=checkout,
            desk=desk,
            places=PlaceDesk(
                database,
                sealer,
                desk,
                catalog,
                PlaceChanges(kernel, verification),
                price=terms.reprice,
                charger=DifferenceCharges(database, checkout, time_limit_s=confirm_timeout_s),
            ),
            aftercare=aftercare,
            blocks=Blocks(database, sealer, events, reservations, free=partial(free_booking, kernel, catalog)),
            oversight=oversight,
            terms=terms,
            eraser=Eraser(database, sealer),
            once=OnceStore(kernel),
            verifier=TokenVerifier([SharedSecret(SECRET)], issuer="holdfast", audience="holdfast"),
            info=Info(name="holdfast", version="0.0.0", partitions=PARTITIONS),
            checks={"redis": ReadinessCheck(reservations.ping, "unready")},
            scrape=process_figures("test").scrape,
        )
    finally:
        await live.close()
        await aftercare.close()
        await checkout.close()
        await oversight.close()
        await settlement.close()
        await verification.close()
        await ledger.close()
        await transport.aclose()
        await database.dispose()


async def drain(redis_url: str, database_url: str) -> Drained:
    """Drain the journal as another process would, without waiting for the grace."""
    database, transport = open_database(database_url), await open_transport(redis_url)
    ledger = PostgresLedger(database, AesSealer([DATA_KEY]), commits=database)
    kernel, catalog = Kernel(transport, partitions=PARTITIONS), Catalog(Events(database))
    loader, bookings = EventLoader(kernel, Events(database), catalog), Bookings(database, AesSealer([DATA_KEY]))
    verification = Verification(LedgerAuditor(database, kernel, bookings, loader, JournalWatch(kernel)), wait_s=5.0)
    settlement = Settlement(kernel, ledger, loader, verification)
    try:
        return await Drainer(kernel, settlement, catalog, ledger, grace_ms=0).drain_all()
    finally:
        await settlement.close()
        await verification.close()
        await ledger.close()
        await transport.aclose()
        await database.dispose()


async def _empty(connection: AsyncConnection) -> None:
    """Forget what earlier tests wrote: tables are emptied in a tenth of the time that it takes to make them."""
    names = ", ".join(table.name for table in metadata.sorted_tables if table.name != "installation")
    await connection.execute(sa.text(f"TRUNCATE {names}"))


@contextlib.asynccontextmanager
async def connected(services: Services) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application over *services*."""
    transport = httpx2.ASGITransport(create_app(services))
    async with httpx2.AsyncClient(transport=transport, base_url="http://holdfast.test") as client:
        yield client


@contextlib.contextmanager
def live_server(redis_url: str, database_url: str) -> Iterator[str]:
    """The URL of a uvicorn that serves the application from a thread of its own."""
    started: queue.SimpleQueue[tuple[str, uvicorn.Server] | BaseException] = queue.SimpleQueue()

    async def serve() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with composed(redis_url, database_url) as services:
                app = create_app(services)
                config = uvicorn.Config(app, http=LeanProtocol, log_level="warning", access_log=False, lifespan="off")
                server = Server(config, services.live)
                started.put((f"http://127.0.0.1:{listener.getsockname()[1]}", server))
                await server.serve([listener])

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            started.put(error)
            raise

    thread = threading.Thread(target=run, name="live server", daemon=True)
    thread.start()
    first = started.get(timeout=30)
    if isinstance(first, BaseException):
        raise first
    url, server = first
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def token(sub: str, *roles: str, **claims: Any) -> str:
    """A token as the identity provider would make it."""
    payload = {"sub": sub, "roles": list(roles), "iss": "holdfast", "aud": "holdfast", "exp": time.time() + 600}
    return jwt.encode(payload | claims, SECRET, "HS256")


class Person:
    """Somebody who calls the API with a token of their own."""

    def __init__(self, client: httpx2.AsyncClient, sub: str, *roles: str, **claims: Any) -> None:
        self.sub = sub
        self._client = client
        self._authorization = f"Bearer {token(sub, *roles, **claims)}"

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        """One request; ``idempotency_key="k"`` becomes ``Idempotency-Key: k``, and bytes of a body stay as they are."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {} if body is None else {"content" if isinstance(body, bytes) else "json": body}
        return await self._client.request(method, path, headers={"authorization": self._authorization} | named, **given)

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self.call("GET", path, **headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        return await self.call("POST", path, body, **headers)

    async def patch(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        return await self.call("PATCH", path, body, **headers)

    async def delete(self, path: str, **headers: str) -> httpx2.Response:
        return await self.call("DELETE", path, **headers)


def event_definition(**members: Any) -> dict[str, Any]:
    """An event with a counted and a seated section, under an id of its own."""
    return {
        "id": f"event-{next(_numbers)}",
        "name": "An evening of quartets",
        "starts_at": "2035-05-01T19:00:00Z",
        "currency": "EUR",
        "sections": [
            {"id": "floor", "price": 4500, "capacity": 5},
            {"id": "stalls", "price": 9000, "rows": [{"id": "A", "seats": "1-4"}, {"id": "B", "seats": ["1", "3"]}]},
        ],
    } | members


async def open_event(organizer: Person, **members: Any) -> str:
    """The id of a new event on sale."""
    created = await organizer.post("/v1/events", event_definition(**members))
    assert created.status_code == 201, created.text
    event_id: str = created.json()["id"]
    opened = await organizer.post(f"/v1/events/{event_id}/open")
    assert opened.status_code == 200, opened.text
    return event_id


def claim(*seats: str, floor: int = 0, **members: Any) -> dict[str, Any]:
    """A claim on seats of the stalls and places of the floor."""
    items: list[dict[str, Any]] = []
    items += [{"section": "stalls", "seats": list(seats)}] if seats else []
    items += [{"section": "floor", "quantity": floor}] if floor else []
    return {"items": items} | members
