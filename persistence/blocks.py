"""Blocks: places taken off sale and given back, listed, and given back by the clock.

An event that is on sale, or was, has its places in Redis: a block is booked there first, as a sale without a hold is,
and goes through the journal into the ledger. A draft is not in Redis, and nothing can be sold of it: its blocks are
written by one transaction, and its first load brings them along. Giving back is the ledger's decision; Redis is told.
"""

import asyncio
import datetime as dt
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.block_sums import made_up_of
from engine.blocks import BLOCKED_OWNER, BLOCKS_MAX, Block, block_details, view_block
from engine.bookings import BookingDetails, JournalEntry
from engine.claim_requests import Booked, ClaimRequest
from engine.claims import resolve_places
from engine.errors import (
    BlockNotFound,
    BookingNotFound,
    BookingRefused,
    EventNotOpen,
    IdempotencyKeyReused,
    InvalidRequest,
    LedgerUnavailable,
    LimitExceeded,
    NotWrittenYet,
    Unavailable,
)
from engine.events import Event, SellableEvent, event_end_at, sales_end_at
from engine.figures import ENDED
from engine.ids import BookingId, claim_id, new_claim_id, parse_claim_id
from engine.layout import compile_layout
from engine.lifecycle import BLOCK_STATUSES, SYSTEM, Actor
from engine.once import Once
from engine.places import parse_places
from engine.ports import Committed, Sealer
from engine.reservations import Reservations
from engine.settlement import places_unavailable
from persistence.bookings import IDEMPOTENCY_TIME, open_booking
from persistence.database import Row, driver_connection, fetch_rows, in_transaction, retrying
from persistence.events import Events
from persistence.ledger_batch import Outcome, write_batch
from persistence.ledger_entries import ready_entry
from persistence.paging import BookingKey, Page, cut_page, decode_cursor
from persistence.schema import bookings, history
from persistence.steps import find_repetition, give_up_places

BLOCK_SEATS_MAX = 1_000  # numbered seats of one block: some two milliseconds of one script
DRAFT_ATTEMPTS_MAX = 3  # of a draft that others change, or open, meanwhile
RELEASES_MAX = 200  # blocks of one page of those that are due
RELEASED_REASON = "its time was over"
_NO_JOURNAL = "0-0"  # what stands for the place in the journal of an entry that never was in one

# Blocks of one draft are made one after another: each has to know how many there are.
_LOCK_DRAFT = "SELECT status, layout_digest FROM events WHERE id = $1 FOR NO KEY UPDATE"
_COUNT_BLOCKS = "SELECT count(*) FROM bookings WHERE event_id = $1 AND status = 'blocked'"
# As text, not as parameters, so that Postgres sees that the index of live blocks has them.
_IS_LIVE = sa.text("status = 'blocked'")
_IS_DUE = sa.text("status = 'blocked' AND expires_at < now()")

logger = structlog.get_logger("holdfast.blocks")


class BlockOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be off sale, until when, and why; who says so, and under which idempotency key."""

    claim: ClaimRequest
    release_at: dt.datetime | None
    reason: str | None
    actor: Actor
    once: Once | None = None


class Blocked(msgspec.Struct, frozen=True):
    """A block; ``durable`` once the ledger has it, ``replayed`` when an earlier request with the same key made it."""

    block: Block
    durable: bool
    replayed: bool


class Blocks:
    """Takes places off sale and gives them back. *free* tells Redis of those, and must be safe to repeat."""

    def __init__(
        self,
        database: AsyncEngine,
        sealer: Sealer,
        events: Events,
        reservations: Reservations,
        *,
        free: Callable[[str], Awaitable[None]],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._events = events
        self._reservations = reservations
        self._free = free
        self._released_to: tuple[dt.datetime, uuid.UUID] | None = None

    async def block(self, event_id: str, order: BlockOrder) -> Blocked:
        """Take places off sale, all or none, whatever the event's limits are and whether or not it is open.

        Safe to repeat with the same *once*.

        Raises:
            InvalidRequest: The order names what the event does not have, or a time that makes no sense.
            EventNotFound: There is no such event.
            EventNotOpen: It was cancelled, or is over.
            PlacesUnavailable: Somebody holds or has one of the places, or it is off sale already.
            LimitExceeded: It has as many blocks as an event may have.
            IdempotencyKeyReused: The key was used for another request.
        """
        for _ in range(DRAFT_ATTEMPTS_MAX):
            event = await self._events.find_event(event_id)
            self._check(event, order)
            details = block_details(
                actor=order.actor.id,
                role=order.actor.role,
                request_id=order.actor.request_id,
                reason=order.reason,
                release_at=order.release_at,
            )
            if event.status != "draft":
                booked: Booked | None = await self._reservations.book(
                    event_id, order.claim, details, customer_id=BLOCKED_OWNER, once=order.once
                )
            else:
                booked = await self._block_draft(event, order, details)
            if booked is not None:
                booking = booked.booking
                return Blocked(view_block(booking), durable=booking.durable, replayed=booked.replayed)
        raise LedgerUnavailable(f"event {event_id} is being changed by others")

    async def list_blocks(self, event_id: str, *, limit: int, cursor: str | None = None) -> Page[Block]:
        """An event's live blocks, the newest first.

        Raises:
            InvalidRequest: The cursor is none of this listing.
            LedgerUnavailable: Postgres does not answer.
        """
        query = _live_blocks(event_id).order_by(bookings.c.number.desc())
        if cursor is not None:
            query = query.where(bookings.c.number < decode_cursor(cursor, BookingKey).number)
        rows = await fetch_rows(self._database, query.limit(limit + 1))
        blocks = [view_block(open_booking(row, self._sealer)) for row in rows]
        return cut_page(blocks, [BookingKey(row["number"]) for row in rows], limit=limit)

    async def find_block(self, event_id: str, block_id: str) -> Block:
        """One live block of an event.

        Raises:
            BlockNotFound: It has none of this id.
            LedgerUnavailable: Postgres does not answer.
        """
        key = parse_claim_id(block_id)
        if key is None or key.event_id != event_id:
            raise BlockNotFound(block_id)
        rows = await fetch_rows(self._database, _live_blocks(event_id).where(bookings.c.id == key.uuid))
        if not rows:
            raise BlockNotFound(block_id)
        return view_block(open_booking(rows[0], self._sealer))

    async def release(self, event_id: str, block_id: str, *, actor: Actor, once: Once | None = None) -> None:
        """Give the places of a block back; they are on sale when this returns, or after the next audit.

        A repetition with the same *once* succeeds.

        Raises:
            BlockNotFound: The event has no such block (any more).
            NotWrittenYet: It is on its way to the ledger.
            LedgerUnavailable: Postgres does not answer.
        """
        key = parse_claim_id(block_id)
        if key is None or key.event_id != event_id:
            raise BlockNotFound(block_id)
        if not await self._end([block_id], actor, once=once):
            await self._explain_missing(block_id)

    async def release_places(
        self, event_id: str, claim: ClaimRequest, *, actor: Actor, once: Once | None = None
    ) -> None:
        """Give back the blocks that consist of these very places: one that has all of them, or else several.

        Of several ways the one with the older blocks is gone. A repetition with the same *once* succeeds, and leaves
        alone what has been taken off sale since.

        Raises:
            IdempotencyKeyReused: The key of *once* came with another body.
            InvalidRequest: The claim names what the event does not have, or more than can be looked for at once.
            BlockNotFound: No blocks are made up of these places.
            LedgerUnavailable: Postgres does not answer.
        """
        if once is not None and (given_back := await self._given_back_with(event_id, once)):
            for block_id in given_back:
                await self._tell(block_id)
            return
        event = await self._events.find_event(event_id)
        layout = await asyncio.to_thread(compile_layout, event.definition)
        wanted = resolve_places(layout, claim.items, claim.from_, claim.to)
        rows = await fetch_rows(self._database, _live_blocks(event_id).order_by(bookings.c.number))
        blocks = {_id_of(row): parse_places(row["places"]) for row in rows}
        block_ids = await asyncio.to_thread(made_up_of, wanted, blocks)
        if not block_ids or not await self._end(block_ids, actor, once=once):
            raise BlockNotFound(event_id)

    async def _given_back_with(self, event_id: str, once: Once) -> list[str]:
        """The blocks that a request with the key of *once* has given back before, however it ended."""
        query = (
            sa.select(bookings.c.id, bookings.c.event_id, history.c.once)
            .join(history, history.c.booking_id == bookings.c.id)
            .where(
                bookings.c.event_id == event_id,
                bookings.c.status.in_(BLOCK_STATUSES),
                sa.func.substring(history.c.once, 1, len(once.scope)) == once.scope,
                history.c.at > sa.func.now() - IDEMPOTENCY_TIME,
            )
        )
        rows = await fetch_rows(self._database, query)
        if any(row["once"] != once.scope + once.body for row in rows):
            raise IdempotencyKeyReused
        return [_id_of(row) for row in rows]

    async def release_due(self, *, pages_max: float = 1) -> int:
        """Give back what is to be on sale again by now, a bounded number of blocks; returns how many.

        They have their turns in rotation: one that cannot be given back keeps no others waiting.

        Raises:
            LedgerUnavailable: Postgres does not answer; the next call goes on behind the block that it was asked about.
            Exception: What was wrong with the first that could not be given back, when the others have been.
        """
        released, pages, problem = 0, 0, None
        while pages < pages_max:
            page = await self._due_page()
            for row in page:
                self._released_to = (row["expires_at"], row["id"])
                try:
                    is_released = await self._end([_id_of(row)], SYSTEM, reason=RELEASED_REASON)
                except LedgerUnavailable:
                    raise
                except Exception as error:
                    problem = problem or error
                else:
                    ENDED.add("block_released", count=is_released)
                    released += is_released
            pages += 1
            if len(page) < RELEASES_MAX:
                self._released_to = None
                break
        if problem is not None:
            raise problem
        return released

    async def _due_page(self) -> Sequence[Row]:
        key = (bookings.c.expires_at, bookings.c.id)
        query = sa.select(*key, bookings.c.event_id).where(_IS_DUE)
        if self._released_to is not None:
            query = query.where(sa.tuple_(*key) > sa.tuple_(*map(sa.literal, self._released_to)))
        return await fetch_rows(self._database, query.order_by(*key).limit(RELEASES_MAX))

    async def count_due(self) -> int:
        """How many blocks would be given back now.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        query = sa.select(sa.func.count().label("count")).select_from(bookings).where(_IS_DUE)
        return int((await fetch_rows(self._database, query))[0]["count"])

    def _check(self, event: Event, order: BlockOrder) -> None:
        now, end_at = dt.datetime.now(dt.UTC), event_end_at(event.definition)
        if event.status == "cancelled" or end_at <= now:
            sales_ended_at = sales_end_at(event.definition) if end_at <= now else None
            starts_at = event.definition.starts_at if end_at <= now else None
            raise EventNotOpen(event.id, event.status, sales_ended_at=sales_ended_at, starts_at=starts_at)
        if order.release_at is not None and not now < order.release_at <= end_at:
            raise InvalidRequest("$.release_at", "must be in the future, and not after the end of the event")
        if sum(len(item.seats or ()) for item in order.claim.items) > BLOCK_SEATS_MAX:
            raise InvalidRequest("$.items", f"a block has at most {BLOCK_SEATS_MAX} numbered seats: make several")

    async def _block_draft(self, event: Event, order: BlockOrder, details: BookingDetails) -> Booked | None:
        """Write a block of a draft; ``None`` when the draft was changed or opened meanwhile.

        The draft's row is locked so that neither can be done until the block is there; whoever opens the event then
        finds it in the ledger.
        """
        sellable = SellableEvent(event, await asyncio.to_thread(compile_layout, event.definition))
        entry = self._draft_entry(sellable, order, details)
        ready = ready_entry(entry, sellable, self._sealer)

        async def write(connection: Any) -> Outcome:
            row = await connection.fetchrow(_LOCK_DRAFT, event.id)
            if row is None or (row["status"], row["layout_digest"]) != ("draft", sellable.layout.digest):
                return None
            outcome = (await write_batch(connection, [ready], self._sealer))[ready.id]
            if isinstance(outcome, Committed) and await connection.fetchval(_COUNT_BLOCKS, event.id) > BLOCKS_MAX:
                raise LimitExceeded("blocks_per_event", BLOCKS_MAX)  # which rolls it back
            return outcome

        async def attempt() -> Outcome | LimitExceeded:
            async with driver_connection(self._database) as connection:
                try:
                    async with connection.transaction():
                        return await write(connection)
                except LimitExceeded as refusal:
                    return refusal

        outcome = await retrying(attempt)
        if outcome is None:
            return None
        if isinstance(outcome, Committed):
            return Booked(outcome.booking)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome.booking is not None:
            return Booked(outcome.booking, replayed=True)
        if outcome.reason == "key_reused":
            raise IdempotencyKeyReused
        if outcome.reason == "stale_epoch":
            return None
        raise places_unavailable(entry, sellable, sold=entry.places.quantity)

    def _draft_entry(self, sellable: SellableEvent, order: BlockOrder, details: BookingDetails) -> JournalEntry:
        """What the journal would have of a block, if the event were in Redis."""
        block_id, claim, now_ms = BookingId(new_claim_id(sellable.event.id)), order.claim, time.time_ns() // 1_000_000
        places = resolve_places(sellable.layout, claim.items, claim.from_, claim.to)
        return JournalEntry(
            journal_id=_NO_JOURNAL,
            epoch=sellable.event.epoch,
            event_id=sellable.event.id,
            booking_id=block_id,
            customer_id=BLOCKED_OWNER,
            places=places,
            created_at_ms=now_ms,
            confirmed_at_ms=now_ms,
            details=self._sealer.seal(details, block_id),
            once=order.once.scope if order.once else b"",
            body_digest=order.once.body if order.once else b"",
        )

    async def _end(
        self, block_ids: Sequence[str], actor: Actor, *, once: Once | None = None, reason: str | None = None
    ) -> bool:
        """Give back blocks of one event, all or none, in the ledger and then in Redis; returns whether they were there.

        Those that *once* has given back before count as there.
        """
        claims = [claim for block_id in block_ids if (claim := parse_claim_id(block_id)) is not None]
        keys, of_events = {claim.uuid for claim in claims}, {claim.event_id for claim in claims}

        async def work(connection: AsyncConnection) -> bool:
            theirs = sa.select(bookings).where(
                bookings.c.id.in_(keys), bookings.c.event_id.in_(of_events), bookings.c.status.in_(BLOCK_STATUSES)
            )
            locked = theirs.order_by(bookings.c.id).with_for_update(key_share=True)
            rows = (await connection.execute(locked)).mappings().all()
            live = [row for row in rows if row["status"] == "blocked"]
            gone = [row for row in rows if row["status"] != "blocked"]
            if len(rows) < len(keys) or (gone and once is None):
                return False
            for row in gone:
                if once is not None and await find_repetition(connection, row, once) is None:
                    return False
            for row in live:
                await _give_back(connection, row, actor, once, reason)
            return True

        if not await in_transaction(self._database, work):
            return False
        for block_id in block_ids:
            await self._tell(block_id)
        return True

    async def _tell(self, block_id: str) -> None:
        try:
            await self._free(block_id)
        except EventNotOpen:
            pass  # a draft, which is not in Redis
        except Unavailable as error:
            # They are given back. To answer otherwise would have the client try again, and be told that it cannot.
            logger.warning("block not followed up", block_id=block_id, reason=str(error))

    async def _explain_missing(self, block_id: str) -> None:
        """Tell a block that is not there from one that is accepted and not in the ledger yet.

        Raises:
            BlockNotFound: It is not there.
            NotWrittenYet: It is on its way: the same request may succeed in a moment.
        """
        try:
            booking = await self._reservations.find_block(block_id)
        except (BookingNotFound, BookingRefused):
            raise BlockNotFound(block_id) from None
        if booking.durable:
            raise BlockNotFound(block_id)
        raise NotWrittenYet(block_id)


def _live_blocks(event_id: str) -> sa.Select[Any]:
    return sa.select(bookings).where(bookings.c.event_id == event_id, _IS_LIVE)


def _id_of(row: Row) -> str:
    return claim_id(row["id"].int, row["event_id"])


async def _give_back(
    connection: AsyncConnection, row: Row, actor: Actor, once: Once | None, reason: str | None
) -> None:
    """End a block that is locked: its row, its history, and what it has in the guards."""
    change = sa.update(bookings).where(bookings.c.id == row["id"])
    version = row["version"] + 1
    await connection.execute(change.values(status="unblocked", version=version, updated_at=sa.func.now()))
    await connection.execute(
        sa.insert(history).values(
            booking_id=row["id"],
            version=version,
            from_status=row["status"],
            to_status="unblocked",
            actor=actor.id,
            role=actor.role,
            reason=reason,
            at=sa.func.now(),
            request_id=actor.request_id,
            once=None if once is None else once.scope + once.body,
        )
    )
    await give_up_places(connection, row)
