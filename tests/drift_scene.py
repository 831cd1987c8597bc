"""A scene for tests of drift: one event with a hold and a booking, and ways to do harm behind everybody's back."""

import datetime as dt
from typing import Any

import redis
from invariants import StoredState, assert_consistent

from engine.bookings import BookingDetails, JournalEntry
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.definition import EventDefinition, RowDefinition, SectionDefinition
from engine.events import SellableEvent
from engine.ids import BookingId, new_claim_id
from engine.keys import event_key, partition_key
from engine.places import parse_places
from engine.ports import Committed
from holdfast.compose import Parts
from holdfast.settings import Settings, data_key
from persistence.audit import Audit, audit_events
from persistence.database import driver_connection
from persistence.differences import Difference
from persistence.ledger import PostgresLedger
from persistence.repair import EventRepair, repair_event
from persistence.sealing import AesSealer

FLOOR, STALLS = 0, 1
STARTS_AT = dt.datetime(2035, 5, 1, 19, tzinfo=dt.UTC)


class Scene:
    """One event with a hold of Ana's and a booking of Ben's, and a client of Redis to do harm with."""

    def __init__(self, parts: Parts, settings: Settings, event: SellableEvent) -> None:
        assert settings.redis_url is not None
        self.parts = parts
        self.settings = settings
        self.event = event
        self.id = event.event.id
        self.partition = parts.kernel.partition_of(event)
        self.redis = redis.Redis.from_url(settings.redis_url)
        self.hold_id = ""
        self.booking_id = ""

    def key(self, name: str) -> bytes:
        return event_key(self.partition, self.id, name)

    @property
    def journal(self) -> bytes:
        return partition_key(self.partition, "journal")

    async def audit(self) -> Audit:
        return await audit_events(self.parts.kernel, self.parts.bookings, self.parts.catalog)

    async def kinds(self) -> dict[str, int]:
        return dict((await self.audit()).by_kind)

    async def only(self) -> Difference:
        """The one difference there is."""
        (difference,) = (await self.audit()).differences
        return difference

    async def book(self, *seats: str, floor: int = 0, customer_id: str = "ben") -> str:
        booked = await self.parts.reservations.book(
            self.id, claim(*seats, floor=floor), BookingDetails(), customer_id=customer_id
        )
        assert booked.booking.status == "confirmed"
        return booked.booking.id

    async def book_behind_redis(self, places: str, *, customer_id: str = "eve") -> str:
        """Commit a booking that Redis never hears of."""
        sealer = AesSealer([data_key(self.settings)])
        booking_id = BookingId(new_claim_id(self.id))
        epoch = (await self.parts.events.find_event(self.id)).epoch
        details = sealer.seal(BookingDetails(), booking_id)
        made_ms = 1_800_000_000_000
        entry = JournalEntry(
            "1-1", epoch, self.id, booking_id, customer_id, parse_places(places), made_ms, made_ms, details
        )
        assert isinstance(
            await PostgresLedger(self.parts.database, sealer, commits=self.parts.database).commit(entry, self.event),
            Committed,
        )
        return booking_id

    async def repair(self, *, dry_run: bool = False) -> EventRepair:
        parts = self.parts
        return await repair_event(parts.kernel, parts.bookings, parts.loader, self.event, dry_run=dry_run)

    async def assert_whole(self) -> StoredState:
        """Nothing differs, and Redis's parts agree with each other."""
        assert (await self.audit()).differences == ()
        return assert_consistent(self.redis, self.event, partitions=self.parts.kernel.partitions)

    async def postgres(self, statement: str, *arguments: Any) -> None:
        async with driver_connection(self.parts.database) as connection:
            await connection.execute(statement, *arguments)

    def add_cell(self, bitmap: str, seat: int, leg: int, value: int) -> None:
        self.redis.setbit(self.key(bitmap), seat * self.event.layout.legs + leg, value)


def claim(*seats: str, floor: int = 0) -> ClaimRequest:
    """A claim of seats of the stalls and places on the floor."""
    items = [ItemRequest("stalls", seats=list(seats))] if seats else []
    items += [ItemRequest("floor", quantity=floor)] if floor else []
    return ClaimRequest(items)


async def open_event(parts: Parts, event_id: str, **fields: Any) -> SellableEvent:
    sections = [
        SectionDefinition("floor", capacity=20, price=4500),
        SectionDefinition("stalls", rows=[RowDefinition("A", "1-10"), RowDefinition("B", "1-10")], price=9000),
    ]
    definition = EventDefinition("Ride", STARTS_AT, "EUR", sections, id=event_id, **fields)
    await parts.events.create(definition, organizer_id="olga")
    event = await parts.events.transition(event_id, "open")
    await parts.reservations.publish(event)
    return await parts.catalog.get(event_id)
