"""One event as Redis has it now, read without changing anything: for ``holdfast inspect``."""

import heapq
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from engine.blocks import BLOCKED_OWNER
from engine.events import SellableEvent
from engine.ids import claim_id_of
from engine.kernel import Kernel
from engine.keys import EVENT_KEYS, PARTITION_KEYS, event_key, partition_key
from engine.layout import Layout
from engine.places import NumberedPlaces, Places
from engine.records import BookingRecord, HoldRecord, pairs, parse_booking_record, parse_hold_record, scan_hash

R = TypeVar("R", HoldRecord, BookingRecord)

OFF_SALE = "off sale (block)"  # in place of a customer, for people: the owner in a block's record is not for reading

SIZE_COMMANDS = {b"hash": "HLEN", b"zset": "ZCARD", b"set": "SCARD", b"stream": "XLEN", b"string": "STRLEN"}
_SIZE_UNITS = {b"hash": "fields", b"zset": "members", b"set": "members", b"stream": "entries", b"string": "bytes"}


class SectionCounters(msgspec.Struct, frozen=True):
    """A section's counters, one number for each leg."""

    section: str
    capacity: int
    free: tuple[int, ...]
    held: tuple[int, ...]
    sold: tuple[int, ...]


class LiveHold(msgspec.Struct, frozen=True):
    """A hold; ``seconds_left`` is below zero when it has lapsed and nobody has needed its places yet."""

    id: str
    customer_id: str
    places: str
    created_ms: int
    deadline_ms: int
    seconds_left: float


class KnownBooking(msgspec.Struct, frozen=True):
    """A booking; ``journal_id`` is its entry in the journal, empty where it was loaded from the ledger.

    With ``is_block`` it takes places off sale, and ``customer_id`` is nobody's: what the record has.
    """

    id: str
    customer_id: str
    places: str
    confirmed_ms: int
    journal_id: str
    is_block: bool


class SeatOnLeg(msgspec.Struct, frozen=True):
    """One seat on one leg: what the bitmaps say, and whose it is by the records; ``is_block``: a block's."""

    section: str
    seat: str
    leg: int
    status: str
    owner: str | None
    customer_id: str | None
    is_block: bool


class RawKey(msgspec.Struct, frozen=True):
    """A key as it is; ``size`` is in *unit*."""

    key: str
    type: str
    size: int
    unit: str


class Inspection(msgspec.Struct, frozen=True):
    """An event in Redis. Where it is not ``loaded``, only what the ledger says of it and the empty keys are there.

    ``lapsed_count`` of the ``hold_count`` holds are past their deadline and not yet ended: their places count as held
    until the next call that concerns the event.
    """

    event_id: str
    partition: int
    loaded: bool
    status: str
    epoch: int
    seq: int | None
    sections: tuple[SectionCounters, ...]
    hold_count: int
    lapsed_count: int
    holds: tuple[LiveHold, ...]
    booking_count: int
    latest_bookings: tuple[KnownBooking, ...]
    seats: tuple[SeatOnLeg, ...]
    keys: tuple[RawKey, ...]
    redis_cli: tuple[str, ...]


async def inspect_event(
    kernel: Kernel, event: SellableEvent, *, limit: int, section: str | None, seats: Sequence[int]
) -> Inspection:
    """Read *event*: up to *limit* holds (the next to lapse first) and bookings (the latest first), and *seats*.

    Looking for the latest bookings and for owners of seats goes through all records, in small steps.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    state = await kernel.event_command(event, "HGETALL", "state")
    fields = {name.decode(): value.decode() for name, value in pairs(state)}
    hold_count = await kernel.event_command(event, "ZCARD", "expiries")
    now_ms = await kernel.time_ms(kernel.partition_of(event))
    return Inspection(
        event_id=event.event.id,
        partition=kernel.partition_of(event),
        loaded=bool(fields),
        status=fields.get("status", event.event.status),
        epoch=int(fields.get("epoch", event.event.epoch)),
        seq=int(fields["seq"]) if fields else None,
        sections=_section_counters(event.layout, fields, section) if fields else (),
        hold_count=hold_count,
        lapsed_count=await kernel.event_command(event, "ZCOUNT", "expiries", "-inf", now_ms),
        holds=await _next_to_lapse(kernel, event, limit),
        booking_count=await kernel.event_command(event, "HLEN", "bookings"),
        latest_bookings=await _latest_bookings(kernel, event, limit),
        seats=tuple(
            [on_leg for seat in (seats if fields else ()) async for on_leg in _seat_on_legs(kernel, event, seat)]
        ),
        keys=tuple([key async for key in _raw_keys(kernel, event)]),
        redis_cli=(),
    )


def describe_places(layout: Layout, places: Places) -> str:
    """Places as a person reads them: ``stalls A-1 A-2, floor × 2, SJC → SFO``."""
    parts = []
    for item in places.items:
        name = layout.sections[item.section].id
        if isinstance(item, NumberedPlaces):
            parts.append(f"{name} {' '.join(layout.seats[seat].label for seat in item.seats)}")
        else:
            parts.append(f"{name} × {item.quantity}")
    if layout.legs > 1:
        parts.append(f"{layout.stop_name(places.first_leg)} → {layout.stop_name(places.last_leg)}")
    return ", ".join(parts)


def _section_counters(layout: Layout, fields: dict[str, str], wanted: str | None) -> tuple[SectionCounters, ...]:
    def counters(kind: str, index: int) -> tuple[int, ...]:
        return tuple(int(fields[f"{kind}:{index}:{leg}"]) for leg in range(layout.legs))

    return tuple(
        SectionCounters(
            section.id, section.capacity, *(counters(kind, section.index) for kind in ("free", "held", "sold"))
        )
        for section in layout.sections
        if wanted in (None, section.id)
    )


async def _next_to_lapse(kernel: Kernel, event: SellableEvent, limit: int) -> tuple[LiveHold, ...]:
    flat = await kernel.event_command(event, "ZRANGE", "expiries", 0, limit - 1, "WITHSCORES")
    deadlines = dict(pairs(flat))
    if not deadlines:
        return ()
    now_ms = await kernel.time_ms(kernel.partition_of(event))
    records = await kernel.event_command(event, "HMGET", "holds", *deadlines)
    holds = []
    for (key, deadline), text in zip(deadlines.items(), records, strict=True):
        hold = None if text is None else parse_hold_record(key, text, int(deadline))
        holds.append(
            LiveHold(
                claim_id_of(key.decode(), event.event.id),
                hold.owner if hold else "?",
                describe_places(event.layout, hold.places) if hold else "its record is lost: run `holdfast audit`",
                hold.created_ms if hold else 0,
                int(deadline),
                (int(deadline) - now_ms) / 1000,
            )
        )
    return tuple(holds)


async def _latest_bookings(kernel: Kernel, event: SellableEvent, limit: int) -> tuple[KnownBooking, ...]:
    latest: list[tuple[str, BookingRecord]] = []  # a heap; a booking's key begins with its time
    async for record in _records(kernel, event, "bookings", parse_booking_record):
        entry = (record.key, record)
        if len(latest) < limit:
            heapq.heappush(latest, entry)
        elif record.key > latest[0][0]:
            heapq.heapreplace(latest, entry)
    return tuple(
        KnownBooking(
            claim_id_of(record.key, event.event.id),
            record.owner,
            describe_places(event.layout, record.places),
            record.confirmed_ms,
            record.journal_id,
            record.owner == BLOCKED_OWNER,
        )
        for _, record in sorted(latest, key=lambda entry: entry[0], reverse=True)
    )


async def _seat_on_legs(kernel: Kernel, event: SellableEvent, seat: int) -> AsyncIterator[SeatOnLeg]:
    layout = event.layout
    owners: dict[int, tuple[str, str]] = {}
    async for hold in _records(kernel, event, "holds", parse_hold_record):
        owners.update(_owned_legs(hold, seat, f"hold {claim_id_of(hold.key, event.event.id)}"))
    async for booking in _records(kernel, event, "bookings", parse_booking_record):
        owners.update(_owned_legs(booking, seat, f"booking {claim_id_of(booking.key, event.event.id)}"))
    for leg in range(layout.legs):
        cell = seat * layout.legs + leg
        held = await kernel.event_command(event, "GETBIT", "held", cell)
        sold = await kernel.event_command(event, "GETBIT", "sold", cell)
        owner, customer_id = owners.get(leg, (None, None))
        status = "sold" if sold else "held" if held else "free"
        yield SeatOnLeg(
            section=layout.section_of_seat(seat).id,
            seat=layout.seats[seat].label,
            leg=leg,
            status=status,
            owner=owner,
            customer_id=customer_id,
            is_block=customer_id == BLOCKED_OWNER,
        )


def _owned_legs(record: HoldRecord | BookingRecord, seat: int, owner: str) -> dict[int, tuple[str, str]]:
    places = record.places
    if not any(isinstance(item, NumberedPlaces) and seat in item.seats for item in places.items):
        return {}
    return dict.fromkeys(range(places.first_leg, places.last_leg), (owner, record.owner))


async def _records(
    kernel: Kernel, event: SellableEvent, key: str, parse: Callable[[bytes, bytes], R]
) -> AsyncIterator[R]:
    async for batch in scan_hash(kernel, event, key):
        for name, text in batch:
            yield parse(name, text)


async def _raw_keys(kernel: Kernel, event: SellableEvent) -> AsyncIterator[RawKey]:
    partition = kernel.partition_of(event)
    names = [event_key(partition, event.event.id, name) for name in sorted(EVENT_KEYS)]
    names += [partition_key(partition, name) for name in sorted(PARTITION_KEYS)]
    for name in names:
        kind: Any = await kernel.command("TYPE", name)
        if kind in SIZE_COMMANDS:
            size = await kernel.command(SIZE_COMMANDS[kind], name)
            yield RawKey(name.decode(), kind.decode(), size, _SIZE_UNITS[kind])
