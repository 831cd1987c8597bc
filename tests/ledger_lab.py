"""A ledger for one test, and the events and journal entries that tests of the ledger are made of."""

import datetime as dt
import itertools
import time
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from engine.bookings import BookingDetails, JournalEntry
from engine.definition import EventDefinition, RowDefinition, SectionDefinition
from engine.events import SellableEvent
from engine.ids import new_claim_id
from engine.layout import compile_layout
from engine.places import CountedPlaces, NumberedPlaces, Places
from persistence.bookings import Bookings
from persistence.database import driver_connection, open_database
from persistence.events import Events
from persistence.ledger import PostgresLedger
from persistence.sealing import AesSealer

SOLD_AT_MS = int(time.time()) * 1000 + 123  # of now: what comes late is not written straight
STARTS_AT = dt.datetime(2027, 5, 1, 19, tzinfo=dt.UTC)
GUEST = BookingDetails(
    guest={"name": "Ana Raposo", "email": "ana@example.org", "phone": "+351 900 100 200"},
    attendees=[{"name": "Rui Raposo", "seat": "A-1"}],
    notes="gluten-free, please",
    source="box-office",
    metadata={"campaign": "spring"},
)
FLOOR, STALLS = 0, 1  # sections of the usual event


class Lab:
    """The ledger of one test, with short ways to make what it is fed with."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = open_database(url)
        self.sealer = AesSealer([b"s" * 32])
        self.events = Events(self.engine)
        self.bookings = Bookings(self.engine, self.sealer)
        self.ledger = PostgresLedger(self.engine, self.sealer, commits=self.engine)
        self._journal = itertools.count(1)
        self._more: list[AsyncEngine] = []

    async def event(self, *, capacity: int = 100, stops: list[str] | None = None, **fields: Any) -> SellableEvent:
        """An open event with a counted floor and two rows of ten seats in the stalls."""
        fields = {"name": "Concert", "starts_at": STARTS_AT, "currency": "EUR"} | fields
        sections = [
            SectionDefinition("floor", capacity=capacity, price=4500),
            SectionDefinition("stalls", rows=[RowDefinition("A", "1-10"), RowDefinition("B", "1-10")], price=9000),
        ]
        organizer_id = fields.pop("organizer_id", "olga")
        draft = await self.events.create(
            EventDefinition(sections=sections, stops=stops, **fields), organizer_id=organizer_id
        )
        event = await self.events.transition(draft.id, "open")
        return SellableEvent(event, compile_layout(event.definition))

    def entry(
        self,
        sellable: SellableEvent,
        *,
        seats: tuple[int, ...] = (),
        count: int = 0,
        legs: tuple[int, int] | None = None,
        **fields: Any,
    ) -> JournalEntry:
        """An entry for seats of the stalls and places on the floor; each is later in the journal than the last."""
        items: list[CountedPlaces | NumberedPlaces] = []
        if count:
            items.append(CountedPlaces(FLOOR, count))
        if seats:
            items.append(NumberedPlaces(STALLS, seats))
        first_leg, last_leg = legs or (0, sellable.layout.legs)
        booking_id = fields.pop("booking_id", None) or new_claim_id(sellable.event.id)
        sold_at_ms = fields.pop("sold_at_ms", SOLD_AT_MS)
        standard = {
            "journal_id": f"{SOLD_AT_MS}-{next(self._journal)}",
            "epoch": sellable.event.epoch,
            "event_id": sellable.event.id,
            "booking_id": booking_id,
            "customer_id": "ana",
            "places": Places(first_leg, last_leg, tuple(items)),
            "created_at_ms": sold_at_ms - 5_000,
            "confirmed_at_ms": sold_at_ms,
            "details": self.sealer.seal(GUEST, booking_id),
        }
        return JournalEntry(**(standard | fields))

    def another_process(self) -> PostgresLedger:
        """A ledger with connections of its own, as another process has it."""
        engine = open_database(self.url)
        self._more.append(engine)
        return PostgresLedger(engine, self.sealer, commits=engine)

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        async with driver_connection(self.engine) as connection:
            rows: list[Any] = await connection.fetch(query, *arguments)
            return rows

    async def value(self, query: str, *arguments: object) -> Any:
        return (await self.fetch(query, *arguments))[0][0]

    async def row_counts(self) -> dict[str, int]:
        """How many rows each table of bookings has."""
        tables = ("bookings", "claims", "history", "idempotency", "outbox")
        return {table: await self.value(f"SELECT count(*) FROM {table}") for table in tables}

    async def close(self) -> None:
        await self.ledger.close()
        for engine in (self.engine, *self._more):
            await engine.dispose()
