"""The engine's front: what can be done with holds, and confirming and booking, until the ledger has it."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from engine.blocks import is_block
from engine.booking_requests import (
    BookingRequest,
    accepted_booking,
    booking_args,
    leaves_it_to_redis,
)
from engine.booking_search import BookingSearch
from engine.bookings import Booking, BookingDetails, JournalEntry
from engine.catalog import Catalog
from engine.claim_requests import Booked, ClaimRequest
from engine.claims import resolve_places
from engine.dead_letters import DeadLetter
from engine.errors import (
    BookingNotFound,
    IdempotencyKeyReused,
    LedgerUnavailable,
    Overloaded,
    StoreUnavailable,
)
from engine.events import Event, SellableEvent
from engine.holding import Holding
from engine.ids import BookingId, ClaimKey, claim_id_of, new_claim_id, parse_claim_id
from engine.journal_bound import JOURNAL_BYTES_MAX
from engine.kernel import Kernel
from engine.keys import once_key
from engine.loader import EventLoader
from engine.loading import status_args
from engine.once import ONCE_TTL_MS, Once
from engine.places import Places, format_places, parse_places
from engine.ports import Ledger, Sealer, UnwritableEntry
from engine.refusals import booking_refusal, claim_refusal
from engine.settlement import Settlement
from engine.shared_calls import SharedCalls
from engine.time_limits import TimeLimit
from engine.verification import Verification

VERIFICATIONS_MAX = 3  # of one call: a server may change again while the first change is looked into
SHARED_DETAILS_BYTES_MAX = 2_048  # of a confirmation that shares a call: thirty-two of them stay a short message
_ONCE_TTL = b"%d" % ONCE_TTL_MS

logger = structlog.get_logger("holdfast.engine")


class Reservations(Holding):
    """All that can be done with places: looking, holding, and booking them."""

    def __init__(
        self,
        kernel: Kernel,
        catalog: Catalog,
        loader: EventLoader,
        ledger: Ledger,
        sealer: Sealer,
        settlement: Settlement,
        verification: Verification,
        *,
        confirm_timeout_s: float,
        journal_bytes_max: int = JOURNAL_BYTES_MAX,
    ) -> None:
        super().__init__(kernel, catalog)
        self._loader = loader
        self._ledger = ledger
        self._search = BookingSearch(kernel, catalog, ledger, sealer)
        self._sealer = sealer
        self._settlement = settlement
        self._verification = verification
        self._confirm_limit = TimeLimit(confirm_timeout_s)
        self._bounds = (_ONCE_TTL, b"%d" % journal_bytes_max)
        self._shared_confirmations = SharedCalls(kernel, "confirm_many", self._many_arguments)

    async def confirm(
        self,
        hold_id: str,
        details: BookingDetails,
        *,
        customer_id: str,
        once: Once | None = None,
        attempt: bytes | None = None,
    ) -> Booked:
        """Turn a hold into a booking and wait until it is durable, or, at the time limit, ``confirming``.

        With the policy ``durability: redis`` nobody waits: the booking is ``confirmed``, and not durable yet.
        Safe to repeat with the same *once*, or, where there is none, with the same *attempt*.

        Raises:
            HoldNotFound, HoldExpired, HoldReleased, HoldConfirmed: There is nothing (any more) to confirm.
            PlacesUnavailable: The ledger, which decides, has another booking for a place.
            EventNotOpen: The event was cancelled.
            IdempotencyKeyReused: The key was used for another request.
            JournalFull: As many bookings wait for the ledger as may wait; the hold lives on.
        """
        key, event = await self._find_event_of(hold_id)
        if (
            once is not None
            and not leaves_it_to_redis(event)
            and (booked := await self._find_replay(once, customer_id)) is not None
        ):
            return booked
        request = self._booking_request(key, details, customer_id, once, attempt)
        is_crowded = self._shared_confirmations.enter(event.event.id)
        try:
            reply = await self._confirm(event, request, is_crowded=is_crowded)
        finally:
            self._shared_confirmations.leave(event.event.id)
        return await self._finish(reply, event, request)

    async def book_again(
        self, booking_id: str, places: Places, details: BookingDetails, *, customer_id: str, attempt: bytes
    ) -> Booked:
        """Book the very *places* of a hold that is over, if they are free, under the id that it had.

        Safe to repeat with the same *attempt*.

        Raises:
            PlacesUnavailable, EventNotOpen, LimitExceeded, BookingRefused: They are not to be had any more.
            JournalFull: As many bookings wait for the ledger as may wait.
        """
        key, event = await self._find_event_of(booking_id)
        request = self._booking_request(key, details, customer_id, None, attempt)
        claim_args = (event.layout.digest.encode(), format_places(places).encode())
        return await self._finish(await self._book_places(event, request, *claim_args), event, request)

    async def accept_again(self, dead: DeadLetter, event: SellableEvent) -> JournalEntry | None:
        """Take the places of a letter's booking, whose epoch is over, under the one of now; in its stead, in one step.

        It keeps its id and what was agreed. That the ledger has not got it is for the caller to know, and to settle
        the entry that is returned is the caller's too; ``None`` when the letter is not there any more. Safe to repeat.

        Raises:
            Refusal: Its places are taken, its event is not on sale any more, or its customer may not have them.
            ValueError: It cannot be read, or its details cannot be opened.
        """
        entry = dead.entry
        claim = parse_claim_id(entry.booking_id)
        assert claim is not None, entry.booking_id
        once = Once(entry.once, entry.body_digest) if entry.once else None
        details = self._sealer.unseal(entry.details, entry.booking_id)
        attempt = b"again-" + entry.journal_id.encode()
        request = BookingRequest(
            claim.key.encode(), entry.booking_id, entry.customer_id, details, entry.details, once, attempt
        )
        claim_args = (event.layout.digest.encode(), format_places(entry.places).encode())
        letter_args = (dead.journal_id.encode(), dead.raw)
        # What Redis knows of the key is that it made this very booking; whether it has made another, the ledger says.
        reply = await self._book_places(event, request, *claim_args, *letter_args, asks_for_key=False)
        if reply[0] == b"GONE":
            return None
        if reply[0] != b"CONFIRMED":
            raise booking_refusal(reply, event, entry.booking_id)
        return _accepted_entry(reply, event, request)

    async def book(
        self,
        event_id: str,
        claim: ClaimRequest,
        details: BookingDetails,
        *,
        customer_id: str,
        once: Once | None = None,
    ) -> Booked:
        """Book without a prior hold, in one step; otherwise as :meth:`hold` and :meth:`confirm`.

        For ``BLOCKED_OWNER`` it takes places off sale: then nothing but a cancelled event, or somebody who has them, is
        in the way, and the ledger is waited for whatever the event's policy.
        """
        key = parse_claim_id(new_claim_id(event_id))
        assert key is not None
        request = self._booking_request(key, details, customer_id, once)
        reply: list[Any] = [b"STALE_LAYOUT"]
        for _ in range(2):
            event = await self._catalog.get(event_id)
            places = resolve_places(event.layout, claim.items, claim.from_, claim.to)
            claim_args = (event.layout.digest.encode(), format_places(places).encode())
            reply = await self._book_places(event, request, *claim_args)
            if reply[0] != b"STALE_LAYOUT":
                break
            self._catalog.forget(event_id)
        return await self._finish(reply, event, request)

    async def find_replay(self, event_id: str, once: Once, *, customer_id: str) -> Booked | None:
        """The booking of the event that *once* made, whether Redis or the ledger knows the key; ``None`` if neither.

        Raises:
            IdempotencyKeyReused: It made one of another body.
            BookingRefused: It made one that the ledger has refused since.
        """
        event = await self._catalog.get(event_id)
        kept = await self._kernel.command("GET", once_key(self._kernel.partition_of(event), once.scope))
        if kept is None:
            return await self._find_replay(once, customer_id)
        body, _, key = bytes(kept).partition(b"|")
        if body != once.body:
            raise IdempotencyKeyReused
        if b"/" in key:  # that of a hold which is to be paid for: whether it came to a booking, the ledger says
            return await self._find_replay(once, customer_id)
        return await self._resume(claim_id_of(key.decode(), event_id), customer_id)

    async def find_booking(self, booking_id: str, *, customer_id: str | None) -> Booking:
        """As :meth:`BookingSearch.find_booking`; a block is none."""
        booking = await self._search.find_booking(booking_id, customer_id=customer_id)
        if is_block(booking):
            raise BookingNotFound(booking_id)
        return booking

    async def find_block(self, block_id: str) -> Booking:
        """A block, as :meth:`find_booking` finds bookings.

        Raises:
            BookingNotFound: There is none of this id.
        """
        booking = await self._search.find_booking(block_id, customer_id=None)
        if not is_block(booking):
            raise BookingNotFound(block_id)
        return booking

    async def publish(self, event: Event) -> None:
        """Bring Redis to what the ledger says of *event*, after it was opened or closed. Safe to repeat.

        Where Redis has no state it is loaded first, and then told: another process may be loading it at this moment
        from what the ledger said before.
        """
        if event.status == "draft":
            return
        sellable = await self._catalog.keep(event)
        reply = await self._kernel.run("set_status", sellable, status_args(event))
        if reply[0] not in (b"SET", b"OLDER"):
            raise claim_refusal(reply, [sellable])

    async def _may_have_forgotten(self, event: SellableEvent) -> bool:
        """Whether the event's state was ever built anew or repaired.

        Asked of Redis, so that ten thousand who come too late with a key each do not all ask Postgres.
        """
        epoch, repairs = await self._kernel.event_command(event, "HMGET", "state", "epoch", "repairs")
        return epoch != b"1" or (repairs or b"0") != b"0"

    async def _find_replay(self, once: Once, customer_id: str) -> Booked | None:
        """The booking that the key made, where all events meet: a script sees but the keys of its own partition.

        Raises:
            IdempotencyKeyReused: It made a booking of another body.
            BookingNotFound: The booking is somebody else's by now.
        """
        try:
            booking = await self._ledger.find_replay(once.scope, once.body)
        except LedgerUnavailable:
            return None  # the commit looks again, and so far nothing is lost
        return None if booking is None else _theirs(Booked(booking, replayed=True), customer_id)

    def _booking_request(
        self, key: ClaimKey, details: BookingDetails, customer_id: str, once: Once | None, attempt: bytes | None = None
    ) -> BookingRequest:
        booking_id = BookingId(claim_id_of(key.key, key.event_id))
        sealed = self._sealer.seal(details, booking_id)
        return BookingRequest(key.key.encode(), booking_id, customer_id, details, sealed, once, attempt)

    async def _confirm(self, event: SellableEvent, request: BookingRequest, *, is_crowded: bool) -> list[Any]:
        """What ``confirm_hold`` answers, in a crowd from a call that it shares, or by itself behind that."""
        args, scope = booking_args(request), request.once.scope if request.once else None

        async def confirm_with_others() -> list[Any]:
            answer = await self._shared_confirmations.ask(event, args, scope)
            if answer is None:
                return await confirm_alone()
            (epoch, confirmed_ms), (created_ms, journal_id, places) = answer
            return [b"CONFIRMED", epoch, created_ms, confirmed_ms, journal_id, places]

        def confirm_alone() -> Awaitable[list[Any]]:
            return self._kernel.run("confirm_hold", event, [*args, *self._bounds], once=scope)

        if is_crowded and len(request.sealed) <= SHARED_DETAILS_BYTES_MAX:
            return await self._run_audited(event, lambda: self._kernel.within_limit(confirm_with_others()))
        return await self._run_audited(event, confirm_alone)

    def _many_arguments(self, _: SellableEvent, requests: Sequence[tuple[bytes, ...]]) -> list[bytes]:
        """The arguments of ``confirm_many``."""
        return [*self._bounds, *itertools.chain.from_iterable(requests)]

    async def _book_places(
        self, event: SellableEvent, request: BookingRequest, *more: bytes, asks_for_key: bool = True
    ) -> list[Any]:
        scope = request.once.scope if request.once and asks_for_key else None
        args = [*booking_args(request), *self._bounds, *more]
        return await self._run_audited(event, lambda: self._kernel.run("book_places", event, args, once=scope))

    async def _run_audited(self, event: SellableEvent, run: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        """*Run* a script that books, and have the event audited first when it says that another server took over."""
        for _ in range(VERIFICATIONS_MAX):
            reply = await run()
            if reply[0] != b"UNAUDITED":
                return reply
            await self._verification.verify(event, epoch=reply[1], server=reply[2])
        raise StoreUnavailable("servers change too fast to be audited")

    async def _finish(self, reply: list[Any], event: SellableEvent, request: BookingRequest) -> Booked:
        """From the script's answer to a booking that is durable, or as near to it as the time limit allows."""
        if reply[0] == b"REPLAYED":
            return await self._resume(claim_id_of(reply[1].decode(), event.event.id), request.customer_id)
        if reply[0] != b"CONFIRMED":
            # Redis may have forgotten the key with everything else; the ledger has not, and it is no refusal then.
            if (
                request.once is not None
                and await self._may_have_forgotten(event)
                and (booked := await self._find_replay(request.once, request.customer_id)) is not None
            ):
                return booked
            raise booking_refusal(reply, event, request.booking_id)
        entry = _accepted_entry(reply, event, request)
        return _theirs(await self._settle(entry, event, request.details), request.customer_id)

    async def _resume(self, booking_id: str, customer_id: str) -> Booked:
        """The booking that an earlier request with the same key made; its answer may have been lost half-way.

        What was agreed then stands, so its details are those of the journal.
        """
        key = parse_claim_id(booking_id)
        assert key is not None, booking_id
        if (found := await self._search.find_in_journal(key, customer_id)) is not None:
            details = self._search.open_details(found.entry)
            if found.is_buried or (details.block is None and leaves_it_to_redis(found.event)):
                return Booked(accepted_booking(found.entry, found.event, details), replayed=True)
            settled = await self._settle(found.entry, found.event, details)
            return _theirs(Booked(settled.booking, replayed=True), customer_id)
        booking = await self._search.find_booking(booking_id, customer_id=customer_id)
        return _theirs(Booked(booking, replayed=True), customer_id)

    async def _settle(self, entry: JournalEntry, event: SellableEvent, details: BookingDetails) -> Booked:
        settling = self._settlement.start(entry, event, details)
        if details.block is None and leaves_it_to_redis(event):
            return Booked(accepted_booking(entry, event, details))
        wait = self._confirm_limit.begin()
        try:
            settled = await settling
        except (LedgerUnavailable, Overloaded, UnwritableEntry):
            return Booked(accepted_booking(entry, event, details))  # the last one is for a person to look into
        except asyncio.CancelledError:
            if not wait.is_over():
                raise
            return Booked(accepted_booking(entry, event, details))
        finally:
            wait.end()
        return Booked(settled.booking, replayed=settled.replayed)


def _accepted_entry(reply: list[Any], event: SellableEvent, request: BookingRequest) -> JournalEntry:
    """The entry that a script has made, as it told of it."""
    _, epoch, created_ms, confirmed_ms, journal_id, places = reply
    return JournalEntry(
        journal_id=journal_id.decode(),
        epoch=int(epoch),
        event_id=event.event.id,
        booking_id=request.booking_id,
        customer_id=request.customer_id,
        places=parse_places(places.decode()),
        created_at_ms=created_ms,
        confirmed_at_ms=confirmed_ms,
        details=request.sealed,
        once=request.once.scope if request.once else b"",
        body_digest=request.once.body if request.once else b"",
    )


def _theirs(booked: Booked, customer_id: str) -> Booked:
    """The booking of a repetition, unless it was given away: then what is said of it now is not for them to read.

    Raises:
        BookingNotFound: It is another customer's by now.
    """
    if booked.booking.customer_id != customer_id:
        raise BookingNotFound(booked.booking.id, is_foreign=True)
    return booked
