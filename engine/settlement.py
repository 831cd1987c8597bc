"""What follows after a booking was accepted in Redis: into the ledger, and out of the journal, or undone."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog

from engine.bookings import Booking, BookingDetails, JournalEntry
from engine.dead_letters import bury
from engine.errors import (
    HoldExpired,
    HoldfastError,
    IdempotencyKeyReused,
    LimitExceeded,
    PlacesUnavailable,
    StoreUnavailable,
    UnavailablePlace,
)
from engine.events import SellableEvent
from engine.ids import parse_claim_id
from engine.journal import drop_entries
from engine.kernel import Kernel
from engine.loader import EventLoader
from engine.places import NumberedPlaces
from engine.ports import Committed, Ledger, Refused, UnwritableEntry
from engine.verification import Verification

OUTDATED = (
    "its event was built anew since it was accepted, without its places: a retry takes them again if they are free"
)

T = TypeVar("T")

logger = structlog.get_logger("holdfast.engine")


class Settled:
    """How a booking ended: in the ledger as ``booking``; ``replayed`` when it is an earlier attempt's."""

    __slots__ = ("booking", "replayed")

    def __init__(self, booking: Booking, *, replayed: bool = False) -> None:
        self.booking = booking
        self.replayed = replayed


class Settlement:
    """Commits accepted bookings and undoes those that the ledger refuses."""

    def __init__(self, kernel: Kernel, ledger: Ledger, loader: EventLoader, verification: Verification) -> None:
        self._kernel = kernel
        self._ledger = ledger
        self._loader = loader
        self._verification = verification
        self._under_way: set[asyncio.Future[Any]] = set()
        self._done: dict[int, list[JournalEntry]] = defaultdict(list)
        self._dropper: asyncio.Task[None] | None = None

    def start(self, entry: JournalEntry, event: SellableEvent, details: BookingDetails) -> "asyncio.Future[Settled]":
        """As :meth:`settle`, whether or not anybody waits for it: cancelling the future only ends the waiting.

        Nearly all are committed. They take no task of their own: that, and a shield for it, cost as much as all else
        that is done here.
        """
        settled: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        committing = self._ledger.commit(entry, event, details)
        self._under_way.add(committing)
        committing.add_done_callback(partial(self._go_on, entry, event, settled))
        return settled

    async def settle(self, entry: JournalEntry, event: SellableEvent, *, was_buried: bool = False) -> Settled:
        """Commit *entry* and drop it from the journal, or undo it, or bury it.

        One that *was_buried* is not undone when its epoch is over, but buried again: nobody waits who could book anew.

        Raises:
            PlacesUnavailable: The ledger has another booking for a place; this one is undone.
            LimitExceeded: The customer has a live booking of an event that takes but one; this one is undone.
            HoldExpired: The booking, which was paid for, had been ended meanwhile; its places are given back.
            IdempotencyKeyReused: The key belongs to another request; this booking is undone.
            LedgerUnavailable: Whether it was written is not known. The entry stays in the journal.
            UnwritableEntry: The ledger can never take it. It is a dead letter now, and its places stay taken.
        """
        return await self._conclude(entry, event, self._ledger.commit(entry, event), was_buried=was_buried)

    def _go_on(
        self,
        entry: JournalEntry,
        event: SellableEvent,
        settled: "asyncio.Future[Settled]",
        committing: "asyncio.Future[Committed | Refused]",
    ) -> None:
        self._under_way.discard(committing)
        if committing.cancelled():  # the event loop is shutting down
            settled.cancel()
            return
        if committing.exception() is None and isinstance(outcome := committing.result(), Committed):
            self._drop(self._kernel.partition_of(event), entry)
            if not settled.done():
                settled.set_result(Settled(outcome.booking))
            return
        self._keep_going(self._conclude(entry, event, committing)).add_done_callback(partial(_hand_on, settled))

    async def _conclude(
        self,
        entry: JournalEntry,
        event: SellableEvent,
        committing: "asyncio.Future[Committed | Refused]",
        *,
        was_buried: bool = False,
    ) -> Settled:
        partition = self._kernel.partition_of(event)
        try:
            outcome = await committing
        except UnwritableEntry as error:
            await self._bury(partition, entry, str(error))
            raise
        if isinstance(outcome, Committed):
            self._drop(partition, entry)
            return Settled(outcome.booking)
        if was_buried and outcome.reason == "stale_epoch":
            await self._bury(partition, entry, OUTDATED)
            self._keep_going(self._reload(event.event.id))  # as in the undoing
            raise UnwritableEntry(OUTDATED)
        await self.undo(entry, event, outcome)
        match outcome.reason:
            case "key_replayed":
                assert outcome.booking is not None
                return Settled(outcome.booking, replayed=True)
            case "key_reused":
                raise IdempotencyKeyReused
            case "places_taken":
                raise places_unavailable(entry, event, sold=entry.places.quantity)
            case "one_booking":
                raise LimitExceeded("one_booking_per_customer", 1)
            case "ended":
                raise HoldExpired(entry.booking_id)
        # Under a stale epoch nothing is known of the places but that this booking does not have them.
        raise places_unavailable(entry, event, sold=0)

    async def undo(self, entry: JournalEntry, event: SellableEvent, refused: Refused) -> None:
        """Take the booking out of Redis, and give its places back.

        A crash before this leaves the entry, and the next drain comes here again.

        Places that the ledger has sold before stay off sale, and whatever else was booked with them, until the audit
        that this begins, or the next that is exact, has found what Redis has lost.

        Raises:
            StoreUnavailable: Redis does not answer; the entry may still be in the journal.
        """
        claim = parse_claim_id(entry.booking_id)
        assert claim is not None, entry.booking_id
        args = [claim.key, entry.journal_id, entry.customer_id]
        kept = b"keep" if refused.reason == "places_taken" else b""
        await self._kernel.run(
            "unbook_places",
            event,
            [*map(str.encode, args), entry.body_digest, kept],
            once=entry.once or None,
            load=False,
        )
        logger.warning("booking undone", booking_id=entry.booking_id, reason=refused.reason)
        if refused.reason == "stale_epoch":
            # Redis's state is older than the ledger's last load of it: it must not go on selling. The customer
            # does not wait for that.
            self._keep_going(self._reload(event.event.id))
        elif refused.reason == "places_taken":
            logger.error("drift: Redis sold what the ledger had sold before", event_id=event.event.id)
            self._verification.suspect(event)

    async def close(self) -> None:
        """Wait for what is under way; the ledger must still be there."""
        while self._under_way:  # what the ledger refuses goes on when that is known
            await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._dropper is not None:
            await self._dropper

    async def _bury(self, partition: int, entry: JournalEntry, reason: str) -> None:
        journal_id = entry.journal_id
        try:
            await bury(self._kernel, partition, journal_id, booking=entry.booking_key, reason=reason)
        except StoreUnavailable as error:
            logger.warning("unwritable entry stays in the journal for now", journal_id=journal_id, reason=str(error))

    async def _reload(self, event_id: str) -> None:
        try:
            await self._loader.load(event_id)
        except HoldfastError as error:
            logger.warning("event not reloaded", event_id=event_id, error=type(error).__name__, reason=str(error))

    def _drop(self, partition: int, entry: JournalEntry) -> None:
        """Forget an entry soon, together with others: nobody waits for it, and a leftover is only committed again."""
        self._done[partition].append(entry)
        if self._dropper is None:
            self._dropper = asyncio.create_task(self._drop_all())

    async def _drop_all(self) -> None:
        try:
            while self._done:
                partition, entries = self._done.popitem()
                await drop_entries(self._kernel, partition, entries)
        except StoreUnavailable as error:
            logger.warning("settled entries stay in the journal for now", reason=str(error))
        finally:
            self._dropper = None

    def _keep_going(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run *work* whether or not anybody waits for it, and finish it before :meth:`close` returns."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody waiting is no reason to complain at exit


def _hand_on(settled: "asyncio.Future[Settled]", task: "asyncio.Task[Settled]") -> None:
    """Let whoever waits have what has come of it."""
    if settled.done():
        return
    if task.cancelled():
        settled.cancel()
    elif (error := task.exception()) is not None:
        settled.set_exception(error)
        settled.exception()  # nobody waiting is no reason to complain
    else:
        settled.set_result(task.result())


def places_unavailable(entry: JournalEntry, event: SellableEvent, *, sold: int) -> PlacesUnavailable:
    """The refusal of an entry of which it is not known which of its places were in the way, but ``sold`` of them."""
    unavailable: list[UnavailablePlace] = []
    for item in entry.places.items:
        section = event.layout.sections[item.section].id
        if isinstance(item, NumberedPlaces):
            unavailable += [UnavailablePlace(section, seat=event.layout.seats[seat].label) for seat in item.seats]
        else:
            unavailable.append(UnavailablePlace(section, requested=item.quantity, free=0))
    return PlacesUnavailable(tuple(unavailable), held=0, sold=sold, next_release_at=None)
