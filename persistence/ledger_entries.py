"""A journal entry made ready for the ledger, so that whatever is wrong with it shows before it joins others."""

import datetime as dt
import uuid
from collections.abc import Hashable
from typing import Any

import msgspec

from engine.blocks import BLOCKED_OWNER
from engine.bookings import Booking, BookingDetails, JournalEntry, Price
from engine.claims import ClaimedItem, describe_places
from engine.events import SellableEvent
from engine.ids import parse_claim_id, reference_from_number
from engine.layout import Layout
from engine.places import CountedPlaces, NumberedPlaces, Places, format_places
from engine.ports import Sealer, UnwritableEntry
from engine.refusals import moment

_encode_items = msgspec.json.Encoder().encode
_encode_price = msgspec.json.Encoder().encode


class ReadyEntry(msgspec.Struct, frozen=True, eq=False):
    """An entry with the row it becomes, all but the booking's number and what is the same for every new one.

    ``order`` sorts entries of one journal by when Redis accepted them; ``cells`` are pairs of seat and leg, ascending;
    ``counts`` are pairs of section and quantity; ``marks`` are what no other entry of its batch may have as well.
    """

    entry: JournalEntry
    order: tuple[int, ...]
    row: dict[str, Any]
    items: tuple[ClaimedItem, ...]
    details: BookingDetails
    cells: tuple[tuple[int, int], ...]
    counts: tuple[tuple[int, int], ...]
    marks: tuple[Hashable, ...]

    @property
    def id(self) -> uuid.UUID:
        """The booking's id as Postgres has it."""
        booking_id: uuid.UUID = self.row["id"]
        return booking_id

    @property
    def actor(self) -> str:
        """Who made it: its customer, but for a block."""
        block = self.details.block
        return self.entry.customer_id if block is None else block.actor

    def booking(self, number: int) -> Booking:
        """The booking as clients see it that has just been written under the ledger's *number*."""
        row, details = self.row, self.details
        amount: int = row["amount"]
        return Booking(
            id=self.entry.booking_id,
            reference=reference_from_number(number),
            event_id=row["event_id"],
            customer_id=row["customer_id"],
            status=row["status"],
            payment_status="none",
            version=1,
            durable=True,
            items=self.items,
            from_=row["from_stop"],
            to=row["to_stop"],
            guest=details.guest,
            attendees=details.attendees,
            price=details.price or Price(amount, 0, 0, amount),
            amount=amount,
            refunded=0,
            currency=row["currency"],
            notes=details.notes,
            organizer_notes=None,
            source=details.source,
            metadata=details.metadata,
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            confirmed_at=row["confirmed_at"],
            expires_at=row["expires_at"],
        )

    @property
    def is_paid(self) -> bool:
        """Whether a payment came first: then its row is there, as ``payment_initiated``, before its entry is."""
        return self.details.payment_id is not None

    @property
    def payment_id(self) -> uuid.UUID | None:
        """The payment's id as Postgres has it, if it can be one."""
        try:
            return uuid.UUID(self.details.payment_id or "")
        except ValueError:
            return None


def ready_entry(
    entry: JournalEntry, sellable: SellableEvent, sealer: Sealer, details: BookingDetails | None = None
) -> ReadyEntry:
    """Everything that can be done without Postgres; *details* need not be opened where they are at hand.

    Raises:
        UnwritableEntry: The entry is not one of this event, or its details cannot be opened.
    """
    try:
        return _ready(entry, sellable, details or sealer.unseal(entry.details, entry.booking_id))
    except Exception as error:  # nothing but the entry is looked at here, so whatever it is, it is the entry's
        raise UnwritableEntry(f"journal entry {entry.journal_id} of booking {entry.booking_id}: {error}") from error


def _ready(entry: JournalEntry, sellable: SellableEvent, details: BookingDetails) -> ReadyEntry:
    key = parse_claim_id(entry.booking_id)
    if key is None or key.event_id != entry.event_id or entry.event_id != sellable.event.id:
        raise ValueError(f"not a booking of event {sellable.event.id!r}")
    layout, places = sellable.layout, entry.places
    if not 0 <= places.first_leg < places.last_leg <= layout.legs:
        raise ValueError(f"the event has no legs {places.first_leg} to {places.last_leg}")
    cells, counts = _claims(places, layout)
    items, amount = describe_places(layout, places)
    accepted_at = moment(entry.confirmed_at_ms)
    policy = sellable.definition.policy
    block = details.block
    if (block is None) != (entry.customer_id != BLOCKED_OWNER):
        raise ValueError("its details and its owner do not agree on whether it is a block")
    is_requested = block is None and policy.approval == "manual"
    is_exclusive = block is None and policy.one_booking_per_customer
    booking_uuid = key.uuid
    row: dict[str, Any] = {
        "id": booking_uuid,
        "event_id": entry.event_id,
        "customer_id": entry.customer_id,
        "epoch": entry.epoch,
        "first_leg": places.first_leg,
        "last_leg": places.last_leg,
        "places": format_places(places),
        "items": _encode_items(items).decode(),
        "from_stop": layout.stop_name(places.first_leg),
        "to_stop": layout.stop_name(places.last_leg),
        "price": None if details.price is None else _encode_price(details.price).decode(),
        "amount": amount if details.price is None else details.price.total,
        "currency": sellable.definition.currency,
        "exclusive": is_exclusive,
        "sealed": entry.details,
        "status": "pending" if is_requested else "confirmed",
        "created_at": moment(entry.created_at_ms),
        "updated_at": accepted_at,
        "confirmed_at": None if is_requested else accepted_at,
        "expires_at": accepted_at + dt.timedelta(seconds=policy.approval_ttl) if is_requested else None,
    }
    if block is not None:
        row |= {"status": "blocked", "confirmed_at": None, "expires_at": block.release_at}
    marks: list[Hashable] = [booking_uuid, *((entry.event_id, seat, leg) for seat, leg in cells)]
    if entry.once:
        marks.append(entry.once)
    if is_exclusive:
        marks.append((entry.event_id, entry.customer_id))
    return ReadyEntry(
        entry=entry,
        order=tuple(map(int, entry.journal_id.split("-"))),
        row=row,
        items=items,
        details=details,
        cells=cells,
        counts=counts,
        marks=tuple(marks),
    )


def _claims(places: Places, layout: Layout) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """The seats on legs and the counts that *places* claim.

    Raises:
        ValueError: They are not places of this layout, or one is there twice.
        IndexError: The layout has no such section.
    """
    seats: list[int] = []
    counts: dict[int, int] = {}
    for item in places.items:
        section = layout.sections[item.section]
        if isinstance(item, NumberedPlaces):
            last_seat = section.first_seat + section.capacity
            if not section.seated or not all(section.first_seat <= seat < last_seat for seat in item.seats):
                raise ValueError(f"section {item.section} does not have all of these seats")
            seats.extend(item.seats)
        elif isinstance(item, CountedPlaces) and not section.seated and item.quantity > 0:
            counts[item.section] = counts.get(item.section, 0) + item.quantity
        else:
            raise ValueError(f"section {item.section} is not counted")
    if len(set(seats)) < len(seats):
        raise ValueError("a seat is there twice")
    seats.sort()
    legs = range(places.first_leg, places.last_leg)
    return tuple([(seat, leg) for seat in seats for leg in legs]), tuple(counts.items())
