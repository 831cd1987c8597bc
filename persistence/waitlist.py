"""The waitlist: entries in Postgres, which is the record, and what follows from each step in Redis, which has the line.

::

    what                 decided by                            then
    ----                 ----------                            ----
    join, leave, decline Postgres, ``settled`` false           Redis hears of it; ``settled`` true
    offer                Redis (``offer_places``), a notice     Postgres hears of it; the notice is dropped
    accept, expiry       Redis: the offer's hold has ended     Postgres hears of it (:meth:`Waitlist.settle`)

Whatever dies between the two halves of a line is taken up by the duty ``offer``, and every half may be done twice. An
entry whose turn is over while a payment of it is open stays unsettled until that has made a booking of it, or has not.
What was begun of an offer that its customer has let go, and no payment may complete any more, ends with it.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.errors import EntryNotFound, InvalidTransition, Unavailable
from engine.ids import parse_claim_id
from engine.lifecycle import SYSTEM
from engine.waitlist import (
    ENTRY_TRANSITIONS,
    LIVE_STATUSES,
    EntryStatus,
    Line,
    Notice,
    Standing,
    WaitlistEntry,
    line_score,
    resolve_wish,
)
from persistence.database import Row, fetch_rows, in_transaction
from persistence.paging import EntryKey, Page, cut_page, decode_cursor
from persistence.payments import PaymentsStore
from persistence.schema import waitlist
from persistence.waitlist_entries import (
    SELECT_ENTRIES,
    Wish,
    entry_id_of,
    insert_entry,
    mark_settled,
    open_entry,
    pass_over,
    select_to_settle,
    step_entry,
    uuid_of,
)

_LET_GO = ("declined", "cancelled")  # by their customer, or with the event; what lapses ends by its own deadline

logger = structlog.get_logger("holdfast.waitlist")


class Waitlist:
    """Everything that is done with entries. Every method raises ``LedgerUnavailable`` when Postgres does not answer.

    Those that also need Redis raise ``StoreUnavailable``, and may be repeated.
    """

    def __init__(self, engine: AsyncEngine, line: Line) -> None:
        self._engine = engine
        self._line = line
        self._payments = PaymentsStore(engine, providers=())  # it ends bookings, and asks nobody

    async def join(self, event_id: str, wish: Wish) -> WaitlistEntry:
        """Stand in line for what cannot be held now.

        Raises:
            InvalidRequest, NoWaitlist, PlacesAvailable, EventNotOpen, LimitExceeded: There is nothing to wait for.
            AlreadyInLine: The customer has a live entry.
            EventNotFound: There is no such event.
        """
        event = await self._line.find_event(event_id)
        places = resolve_wish(event, wish.items, wish.from_stop, wish.to_stop)
        await self._line.check_wish(event, places, customer_id=wish.customer_id)
        row = await in_transaction(self._engine, partial(insert_entry, event=event, wish=wish, places=places))
        await self._settle_waiting(row)
        return await self.find(entry_id_of(row))

    async def find(self, entry_id: str) -> WaitlistEntry:
        """An entry as Postgres has it.

        Raises:
            EntryNotFound: There is none of this id.
        """
        key = parse_claim_id(entry_id)
        if key is None:
            raise EntryNotFound(entry_id)
        query = SELECT_ENTRIES.where(waitlist.c.id == key.uuid, waitlist.c.event_id == key.event_id)
        rows = await fetch_rows(self._engine, query)
        if not rows:
            raise EntryNotFound(entry_id)
        return open_entry(rows[0])

    async def list_entries(
        self,
        *,
        event_id: str | None = None,
        customer_id: str | None = None,
        status: str | None = None,
        within: Collection[str] | None = None,
        limit: int,
        cursor: str | None = None,
    ) -> Page[WaitlistEntry]:
        """Entries of an event, of a customer, or both, the newest first; of no events but those that *within* names.

        Raises:
            InvalidRequest: The cursor is none of this listing.
        """
        query = SELECT_ENTRIES.order_by(waitlist.c.id.desc())
        wanted = {"event_id": event_id, "customer_id": customer_id, "status": status}
        query = query.where(*[waitlist.c[name] == value for name, value in wanted.items() if value is not None])
        if within is not None:
            query = query.where(waitlist.c.event_id.in_(within))
        if cursor is not None:
            query = query.where(waitlist.c.id < decode_cursor(cursor, EntryKey).id)
        rows = await fetch_rows(self._engine, query.limit(limit + 1))
        return cut_page([open_entry(row) for row in rows], [EntryKey(row["id"]) for row in rows], limit=limit)

    async def give_up(self, entry_id: str, status: EntryStatus) -> WaitlistEntry:
        """Leave the line (``cancelled``), or say no to the offer (``declined``); its places go to the next in line.

        Safe to repeat.

        Raises:
            EntryNotFound: There is none of this id.
            InvalidTransition: It is not where one could do that any more, or not yet.
        """
        entry = await self.settle(entry_id)
        if entry.status != status:
            require_step(entry, status)
            if await self._move(entry_id, status, settled=False) is None:
                require_step(await self.find(entry_id), status)  # it went on since it was settled
        await self._settle_ended(entry_id)
        return await self.find(entry_id)

    async def settle(self, entry_id: str) -> WaitlistEntry:
        """Bring an entry into line with Redis, and tell Redis what it has not heard. Safe to repeat.

        Raises:
            EntryNotFound: There is none of this id.
        """
        rows = await fetch_rows(self._engine, select_to_settle([uuid_of(entry_id)]))
        if not rows:
            raise EntryNotFound(entry_id)
        await self.settle_row(rows[0])
        return await self.find(entry_id)

    async def settle_row(self, row: Row) -> None:
        """The same of a row of :func:`_rows_to_settle`."""
        entry_id = entry_id_of(row)
        if row["is_booked"] and row["status"] != "booked":  # by a late payment, it may be, when its turn was over
            await self._move(entry_id, "booked")
        elif row["status"] == "waiting" and not row["was_tried"]:
            await self._settle_waiting(row)
        elif row["status"] in LIVE_STATUSES:
            await self._settle_offered(row)
        elif not row["settled"]:
            await self._settle_ended(entry_id)

    async def note_booking(self, entry_id: str) -> None:
        """Write down that an offer was accepted; whoever has the booking does not wait for servers that are away."""
        try:
            await self.settle(entry_id)
        except Unavailable as error:
            logger.warning("entry not settled yet", entry_id=entry_id, reason=str(error))

    async def record(self, event_id: str, notices: Sequence[Notice]) -> None:
        """Write down what Redis tells of people in line; dropped there by the caller, once this has returned."""
        for notice in notices:
            entry_id = f"{notice.entry_key.decode()}~{event_id}"
            if notice.until is not None:
                row = await self._move(entry_id, "offered", expires_at=notice.until, passed_over=None)
                if row is None:
                    await self._refuse_offer(entry_id)
            elif notice.passed_over is not None:
                await in_transaction(self._engine, partial(pass_over, entry_id=entry_id, limit=notice.passed_over))

    async def offer(self, event_id: str) -> int:
        """Offer what is free to whoever is in line, and write it down; how many notices there were."""
        notices = await self._line.offer(event_id)
        if notices:
            await self.record(event_id, notices)
            await self._line.forget(event_id, notices)
        return len(notices)

    async def _settle_waiting(self, row: Row) -> None:
        entry_id = entry_id_of(row)
        score = line_score(row["priority"], row["joined_at"])
        standing = await self._line.join(entry_id, row["places"], score=score, customer_id=row["customer_id"])
        if standing.kind != "waiting":
            await self._follow(entry_id, standing)
        elif not row["settled"]:
            await in_transaction(self._engine, partial(mark_settled, entry_id=entry_id, status="waiting"))

    async def _settle_offered(self, row: Row) -> None:
        """Look what became of the offer. Redis forgets its holds with its memory: then the entry is in line again.

        Not so where a booking of it was begun, which the entry's id stands for in the ledger: it had its turn.
        """
        entry_id = entry_id_of(row)
        standing = await self._line.look(entry_id)
        if standing.kind == "forgotten" and (row["is_over"] or row["was_tried"]):
            standing = Standing("expired")
        elif standing.kind == "forgotten":
            score = line_score(row["priority"], row["joined_at"])
            standing = await self._line.join(entry_id, row["places"], score=score, customer_id=row["customer_id"])
        if standing.kind != "offered" or standing.until != row["expires_at"]:
            await self._follow(entry_id, standing)

    async def _follow(self, entry_id: str, standing: Standing) -> None:
        """Write down how an entry stands in Redis."""
        match standing.kind:
            case "offered":
                await self._move(entry_id, "offered", expires_at=standing.until, passed_over=None)
            case "waiting":
                await self._move(entry_id, "waiting")
            case "booked":
                await self._move(entry_id, "booked")
            # A payment of it may be open still: what ends here is settled when that is known.
            case "released":
                await self._move(entry_id, "declined", settled=False)
            case "expired":
                await self._move(entry_id, "expired", settled=False)

    async def _settle_ended(self, entry_id: str) -> None:
        """Take an entry that is over out of Redis; where its offer was booked first, the booking stands.

        As long as a payment of it is open it may yet be booked, and is not settled: it is looked at again. A booking
        that waits for another payment, the last one being declined, would wait for nothing: its hold is gone.
        """
        standing = await self._line.leave(entry_id)
        if standing.kind == "booked":
            await self._move(entry_id, "booked")
            return
        settled = partial(mark_settled, entry_id=entry_id, status=None)
        if await in_transaction(self._engine, settled) or (await self.find(entry_id)).status not in _LET_GO:
            return
        if await self._payments.give_up(entry_id, SYSTEM):
            await in_transaction(self._engine, settled)

    async def _refuse_offer(self, entry_id: str) -> None:
        """An offer was made to somebody who is not in line any more: they left while it was made."""
        rows = await fetch_rows(self._engine, select_to_settle([uuid_of(entry_id)]))
        if not rows or rows[0]["status"] not in ("offered", "booked"):
            await self._settle_ended(entry_id)

    async def _move(self, entry_id: str, to_status: EntryStatus, **changes: Any) -> Row | None:
        """Bring an entry to a status, if it may come there from where it is; ``None`` if not."""
        changes = {"settled": True} | changes
        step = partial(step_entry, entry_id=entry_id, to_status=to_status, changes=changes)
        return await in_transaction(self._engine, step)


def require_step(entry: WaitlistEntry, to_status: EntryStatus) -> None:
    """Make sure that somebody may ask for this step of an entry.

    Raises:
        InvalidTransition: They may not.
    """
    allowed = ENTRY_TRANSITIONS[entry.status]
    if to_status not in allowed:
        raise InvalidTransition(entry.status, to_status, allowed)
