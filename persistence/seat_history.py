"""Who held or owned a seat at a moment in the past, from the history of holds, the ledger, and what Redis still has.

What is asked of each, and in which order, so that nothing slips through between them:

1. Redis's records: holds that live now, with their deadlines as they are, and bookings the ledger may not have yet;
2. the trail: what became of holds and is not in Postgres yet. A hold that ended since step 1 is in here;
3. Postgres: the history of holds, and bookings with theirs. What was stored since step 2 is in both. Places that a
   booking had before it was changed are in the outbox (:mod:`persistence.past_places`).

So a hold that has not ended by 2 and 3 and has no record in 1 did end, and nobody has told how: Redis lost it.
"""

import datetime as dt
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.blocks import BLOCKED_OWNER
from engine.errors import InvalidRequest
from engine.events import SellableEvent
from engine.ids import claim_id, claim_id_of, parse_claim_id
from engine.kernel import Kernel
from engine.layout import Layout
from engine.lifecycle import OWNING_STATUSES
from engine.places import NumberedPlaces, Places, format_places, parse_places
from engine.records import BookingRecord, parse_booking_record, parse_hold_record, scan_hash
from engine.trail import TrailLine, walk_trail
from persistence.audit_holds import read_deadlines
from persistence.database import driver_connection, ledger_errors
from persistence.hold_history import HoldRow, fold_lines, gap_name, moment
from persistence.past_places import PastPlaces, read_past_places

TIMEOUT_S = 30  # holds and bookings of one event are looked through: a person is waiting, and no customer

_HOLDS = """
    SELECT id, event_id, customer_id, places, made_at, until_at, outcome FROM hold_history
     WHERE event_id = $1 AND made_at <= $2 AND until_at > $2 AND places ~ $3
"""
_GAPS = """
    SELECT places AS lines, made_at, until_at FROM hold_history
     WHERE event_id = $1 AND made_at <= $2 AND until_at > $2 ORDER BY made_at
"""
# A booking without a history was put there by hand: then its columns have to do.
_BOOKINGS = """
    SELECT id, customer_id, places, COALESCE(first.at, confirmed_at, created_at) AS since,
           past.at AS until_at, past.to_status AS ended_as
      FROM bookings
      LEFT JOIN LATERAL (SELECT min(at) AS at FROM history
                          WHERE booking_id = id AND to_status = ANY($4::text[])) AS first ON true
      LEFT JOIN LATERAL (SELECT to_status FROM history
                          WHERE booking_id = id AND at <= $2 ORDER BY version DESC LIMIT 1) AS status_then ON true
      LEFT JOIN LATERAL (SELECT at, to_status FROM history
                          WHERE booking_id = id AND at > $2 AND NOT to_status = ANY($4::text[])
                          ORDER BY version LIMIT 1) AS past ON true
     WHERE event_id = $1 AND created_at <= $2 AND (places ~ $3 OR id = ANY($5::uuid[]))
       AND COALESCE(first.at, confirmed_at, created_at) <= $2
       AND COALESCE(status_then.to_status, status) = ANY($4::text[])
     ORDER BY number
"""
_KNOWN = "SELECT id FROM bookings WHERE id = ANY($1::uuid[])"

ClaimStatus = Literal["free", "held", "owned"]


class ClaimThen(msgspec.Struct, frozen=True):
    """Who had a seat on a leg. ``until`` of a hold that lives is its deadline; of a booking that does, ``None``.

    ``ended``: how. Of a hold ``expired``, ``released``, ``confirmed``, ``refused`` (a booking that the ledger would not
    have), ``rebuilt`` (Redis had lost it by then) or ``unknown``; of a booking the status it came to, or ``changed``
    (to other places) or ``transferred``; ``None`` while it goes on. ``certain`` is off where a part of it is only the
    most that can have been. With ``is_block`` the seat was off sale, and ``customer_id`` is nobody's.
    """

    leg: int = 0
    status: ClaimStatus = "free"
    id: str | None = None
    customer_id: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    ended: str | None = None
    certain: bool = True
    is_block: bool = False


class SeatThen(msgspec.Struct, frozen=True):
    """One seat at one moment: at least one claim for each leg, and what may make the answer incomplete."""

    event_id: str
    section: str
    seat: str
    at: dt.datetime
    claims: tuple[ClaimThen, ...]
    notes: tuple[str, ...]


class _InRedis(msgspec.Struct, frozen=True):
    """What Redis has of a seat, as of ``now`` by its clock."""

    now: dt.datetime
    holds: dict[uuid.UUID, HoldRow]
    bookings: dict[uuid.UUID, BookingRecord]
    lines: list[TrailLine]
    has_trail: bool


class _InLedger(msgspec.Struct, frozen=True):
    """What Postgres has of a seat at a moment; ``known`` are those of Redis's bookings that it has at all."""

    holds: list[HoldRow]
    gaps: Sequence[Any]
    bookings: Sequence[Any]
    known: frozenset[uuid.UUID]
    past: PastPlaces


async def who_held(
    kernel: Kernel,
    engine: AsyncEngine,
    sellable: SellableEvent,
    seat: int,
    at: dt.datetime,
    *,
    kept_for: dt.timedelta | None = None,
) -> SeatThen:
    """Who held or owned *seat*, by its index, at the moment *at*, on each leg.

    *kept_for* is how long the history of holds is kept: with it, an answer about an earlier time says so.

    Raises:
        InvalidRequest: *at* is still to come, by Redis's clock.
        StoreUnavailable, LedgerUnavailable: Redis or Postgres does not answer.
    """
    in_redis = await _read_redis(kernel, sellable, seat)
    if at > in_redis.now:
        raise InvalidRequest("at", f"lies in the future: Redis's clock says {in_redis.now:%Y-%m-%dT%H:%M:%SZ}")
    in_ledger = await _read_ledger(engine, sellable, kernel.partition_of(sellable), seat, at, list(in_redis.bookings))
    found = [
        *_holds_then(in_redis, in_ledger, seat, at),
        *_bookings_then(in_ledger, sellable.event.id, at),
        *_unwritten_then(in_redis, in_ledger, sellable.event.id, at),
    ]
    claims = []
    for leg in range(sellable.layout.legs):
        of_leg = [claim for places, claim in found if places.first_leg <= leg < places.last_leg] or [ClaimThen(leg)]
        claims += [msgspec.structs.replace(claim, leg=leg) for claim in of_leg]
    return SeatThen(
        event_id=sellable.event.id,
        section=_section_of(sellable.layout, seat),
        seat=sellable.layout.seats[seat].label,
        at=at,
        claims=tuple(claims),
        notes=tuple(_notes(claims, in_redis, in_ledger, at, kept_for)),
    )


async def _read_redis(kernel: Kernel, sellable: SellableEvent, seat: int) -> _InRedis:
    partition, event_id = kernel.partition_of(sellable), sellable.event.id
    now = moment(await kernel.time_ms(partition))
    holds, bookings = {}, {}
    async for batch in scan_hash(kernel, sellable, "holds"):
        deadlines = await read_deadlines(kernel, sellable, [key for key, _ in batch])
        for hold in (parse_hold_record(key, text, deadlines.get(key)) for key, text in batch):
            if (hold_id := _uuid_of(hold.key, event_id)) and _has_seat(hold.places, seat):
                made, until = moment(hold.created_ms), moment(hold.deadline_ms)
                outcome = None if until > now else "expired"  # whether or not a script has ended it yet
                places = format_places(hold.places)
                holds[hold_id] = HoldRow(hold_id, event_id, hold.owner, places, made, until, outcome)
    async for batch in scan_hash(kernel, sellable, "bookings"):
        for booking in (parse_booking_record(*pair) for pair in batch):
            if (booking_id := _uuid_of(booking.key, event_id)) and _has_seat(booking.places, seat):
                bookings[booking_id] = booking
    has_trail = bool(await kernel.partition_command(partition, "EXISTS", "trail"))
    lines = [line async for line in walk_trail(kernel, partition) if line.event_id == event_id]
    return _InRedis(now, holds, bookings, lines, has_trail)


async def _read_ledger(
    engine: AsyncEngine,
    sellable: SellableEvent,
    partition: int,
    seat: int,
    at: dt.datetime,
    in_redis: list[uuid.UUID],
) -> _InLedger:
    event_id = sellable.event.id
    pattern = rf"#([0-9]+,)*{seat}(,|;|$)"  # a seat's number is its event's, whatever the section
    async with driver_connection(engine) as connection:
        with ledger_errors():
            async with connection.transaction(readonly=True):
                await connection.execute(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'")
                holds = await connection.fetch(_HOLDS, event_id, at, pattern, timeout=TIMEOUT_S)
                past = await read_past_places(connection, sellable.layout, event_id, seat, at, timeout_s=TIMEOUT_S)
                args = (event_id, at, pattern, OWNING_STATUSES, list(past.states))
                bookings = await connection.fetch(_BOOKINGS, *args, timeout=TIMEOUT_S)
                gaps = await connection.fetch(_GAPS, gap_name(partition), at)
                known = await connection.fetch(_KNOWN, in_redis)
    return _InLedger([HoldRow(**row) for row in holds], gaps, bookings, frozenset(row["id"] for row in known), past)


def _holds_then(
    in_redis: _InRedis, in_ledger: _InLedger, seat: int, at: dt.datetime
) -> Iterator[tuple[Places, ClaimThen]]:
    rows = fold_lines(in_redis.lines, in_ledger.holds)
    for hold_id, record in in_redis.holds.items():  # which knows its deadline better than any line of the past
        if hold_id not in rows or rows[hold_id].outcome is None:
            rows[hold_id] = record
    for row in rows.values():
        places = parse_places(row.places)
        if row.made_at <= at < row.until_at and _has_seat(places, seat):
            ended = row.outcome or (None if row.id in in_redis.holds else "unknown")
            yield (
                places,
                ClaimThen(
                    status="held",
                    id=claim_id(row.id.int, row.event_id),
                    customer_id=row.customer_id,
                    since=row.made_at,
                    until=row.until_at,
                    ended=ended,
                    certain=ended not in ("rebuilt", "unknown"),
                ),
            )


def _bookings_then(in_ledger: _InLedger, event_id: str, at: dt.datetime) -> Iterator[tuple[Places, ClaimThen]]:
    past = in_ledger.past
    for row in in_ledger.bookings:
        claim = ClaimThen(
            status="owned",
            id=claim_id(row["id"].int, event_id),
            customer_id=row["customer_id"],
            since=row["since"],
            until=row["until_at"],
            ended=row["ended_as"],
            certain=row["id"] not in past.unknown,
            is_block=row["customer_id"] == BLOCKED_OWNER,
        )
        if row["id"] in past.unknown or (stays := past.stays(row["id"], at)) is None:
            yield parse_places(row["places"]), claim
            continue
        for stay in stays:
            then = msgspec.structs.replace(claim, customer_id=stay.customer_id, since=stay.since or claim.since)
            if stay.until is not None:
                then = msgspec.structs.replace(then, until=stay.until, ended=stay.ended)
            yield Places(stay.leg, stay.leg + 1, ()), then


def _unwritten_then(
    in_redis: _InRedis, in_ledger: _InLedger, event_id: str, at: dt.datetime
) -> Iterator[tuple[Places, ClaimThen]]:
    """Bookings that Redis has accepted and the ledger has not got: it may still refuse them."""
    for booking_id, booking in in_redis.bookings.items():
        since = moment(booking.confirmed_ms)
        if booking_id not in in_ledger.known and since <= at:
            name = claim_id_of(booking.key, event_id)
            claim = ClaimThen(
                status="owned",
                id=name,
                customer_id=booking.owner,
                since=since,
                certain=False,
                is_block=booking.owner == BLOCKED_OWNER,
            )
            yield booking.places, claim


def _notes(
    claims: Sequence[ClaimThen],
    in_redis: _InRedis,
    in_ledger: _InLedger,
    at: dt.datetime,
    kept_for: dt.timedelta | None,
) -> Iterator[str]:
    """In words, what the answer may lack."""
    if kept_for and at < in_redis.now - kept_for:
        yield f"the history of holds is kept for {kept_for.days} days: only bookings are known for certain"
    if not in_redis.has_trail:
        yield "no history of holds is being kept now"
    for gap in in_ledger.gaps:
        times = f"{gap['made_at']:%Y-%m-%dT%H:%M:%SZ} and {gap['until_at']:%Y-%m-%dT%H:%M:%SZ}"
        yield f"the history of holds has a gap: {gap['lines']} entries, of up to ten holds, between {times} were lost"
    if count := len(in_ledger.past.unknown):
        some = "a booking" if count == 1 else f"{count:,} bookings"
        yield f"{some} of the event changed since, and the places from before are not known any more"
    changed = {booking_id.int for booking_id in in_ledger.past.unknown}
    for claim in claims:
        if claim.ended in ("rebuilt", "unknown"):
            yield f"hold {claim.id}: Redis lost it, and it may have ended before {claim.until:%Y-%m-%dT%H:%M:%SZ}"
        elif not claim.certain and _number_of(claim) not in changed:
            yield f"booking {claim.id} is not in the ledger yet, which may refuse it"


def _number_of(claim: ClaimThen) -> int | None:
    key = parse_claim_id(claim.id or "")
    return key.uuid.int if key else None


def _uuid_of(key: str, event_id: str) -> uuid.UUID | None:
    claim_key = parse_claim_id(claim_id_of(key, event_id))
    return claim_key.uuid if claim_key else None


def _section_of(layout: Layout, seat: int) -> str:
    return next(
        section.id
        for section in layout.sections
        if section.seated and section.first_seat <= seat < section.first_seat + section.capacity
    )


def _has_seat(places: Places, seat: int) -> bool:
    return any(isinstance(item, NumberedPlaces) and seat in item.seats for item in places.items)
