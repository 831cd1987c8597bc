"""What follows after a booking was accepted in Redis: into the ledger, and out of the journal, or undone."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from engine.bookings import Booking, JournalEntry
from engine.catalog import Catalog
from engine.errors import (
    HoldfastError,
    IdempotencyKeyReused,
    LedgerUnavailable,
    Overloaded,
    PlacesUnavailable,
    StoreUnavailable,
    UnavailablePlace,
)
from engine.events import SellableEvent
from engine.ids import parse_claim_id
from engine.journal import drop_entries, parse_entry, read_journal
from engine.kernel import Kernel
from engine.loader import EventLoader
from engine.places import NumberedPlaces
from engine.ports import Committed, Ledger, Refused

GRACE_MS = 10_000  # an entry this old is no longer being committed by the process that made it
DRAIN_PAUSE_S = 2.0
DRAIN_BATCH = 200
POISON_MAX = 1_000  # unreadable entries remembered, so that each is reported once by a process

T = TypeVar("T")

logger = structlog.get_logger("holdfast.engine")


class Settled:
    """How a booking ended: in the ledger as ``booking``; ``replayed`` when it is an earlier attempt's."""

    __slots__ = ("booking", "replayed")

    def __init__(self, booking: Booking, *, replayed: bool = False) -> None:
        self.booking = booking
        self.replayed = replayed


class Settlement:
    """Commits accepted bookings, and drains what other processes left behind."""

    def __init__(self, kernel: Kernel, ledger: Ledger, catalog: Catalog, loader: EventLoader) -> None:
        self._kernel = kernel
        self._ledger = ledger
        self._catalog = catalog
        self._loader = loader
        self._tasks: set[asyncio.Task[Any]] = set()
        self._done: dict[int, list[str]] = defaultdict(list)
        self._poison: set[bytes] = set()
        self._dropper: asyncio.Task[None] | None = None

    def start(self, entry: JournalEntry, event: SellableEvent) -> "asyncio.Task[Settled]":
        """Settle *entry* in a task of its own: it goes on when the request that waits for it gives up."""
        return self._keep_going(self.settle(entry, event))

    async def settle(self, entry: JournalEntry, event: SellableEvent) -> Settled:
        """Commit *entry* and drop it from the journal, or undo it.

        Raises:
            PlacesUnavailable: The ledger has another booking for a place; this one is undone.
            IdempotencyKeyReused: The key belongs to another request; this booking is undone.
            LedgerUnavailable: Whether it was written is not known. The entry stays in the journal.
        """
        outcome = await self._ledger.commit(entry, event)
        if isinstance(outcome, Committed):
            self._drop(self._kernel.partition_of(event), entry.journal_id)
            return Settled(outcome.booking)
        return await self._undo(entry, event, outcome)

    async def drain(self) -> int:
        """Commit what has been in the journal for longer than the grace; returns how many entries were settled."""
        settled = 0
        for partition in range(self._kernel.partitions):
            settled += await self._drain_partition(partition)
        return settled

    async def drain_for_ever(self) -> None:
        """Drain again and again; whatever is away comes back."""
        while True:
            await asyncio.sleep(DRAIN_PAUSE_S)
            try:
                await self.drain()
            except Exception as error:  # whatever it was, the next round is needed all the more
                logger.warning("journal not drained", error=type(error).__name__, reason=str(error))

    async def close(self) -> None:
        """Wait for what is under way; the ledger must still be there."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._dropper is not None:
            await self._dropper

    async def _undo(self, entry: JournalEntry, event: SellableEvent, refused: Refused) -> Settled:
        """Give the places back. A crash before this leaves the entry, and the next drain comes here again."""
        reply = await self._unbook(entry, event, load=False)
        if refused.reason == "stale_epoch" or reply[0] == b"NOT_LOADED":
            # Redis's state is older than the ledger's last load of it, or gone: it must not go on selling. The customer
            # does not wait for that.
            self._keep_going(self._reload(entry, event))
        logger.warning("booking undone", booking_id=entry.booking_id, reason=refused.reason)
        match refused.reason:
            case "key_replayed":
                assert refused.booking is not None
                return Settled(refused.booking, replayed=True)
            case "key_reused":
                raise IdempotencyKeyReused
            case "places_taken":
                logger.error("drift: Redis sold what the ledger had sold before", event_id=event.event.id)
        # Under a stale epoch nothing is known of the places but that this booking does not have them.
        raise _unavailable(entry, event, sold=entry.places.quantity if refused.reason == "places_taken" else 0)

    async def _unbook(self, entry: JournalEntry, event: SellableEvent, *, load: bool) -> list[Any]:
        claim = parse_claim_id(entry.booking_id)
        assert claim is not None, entry.booking_id
        args = [*map(str.encode, (claim.key, entry.journal_id, entry.customer_id)), entry.body_digest]
        return await self._kernel.run("unbook_places", event, args, once=entry.once or None, load=load)

    async def _reload(self, entry: JournalEntry, event: SellableEvent) -> None:
        """Build the event's state anew, and have it remember that the booking was refused: the old one is gone."""
        try:
            await self._loader.load(event.event.id)
            await self._unbook(entry, event, load=True)
        except HoldfastError as error:
            logger.warning("event not reloaded", event_id=event.event.id, error=type(error).__name__, reason=str(error))

    def _drop(self, partition: int, journal_id: str) -> None:
        """Forget an entry soon, together with others: nobody waits for it, and a leftover is only committed again."""
        self._done[partition].append(journal_id)
        if self._dropper is None:
            self._dropper = asyncio.create_task(self._drop_all())

    async def _drop_all(self) -> None:
        try:
            while self._done:
                partition, journal_ids = self._done.popitem()
                await drop_entries(self._kernel, partition, journal_ids)
        except StoreUnavailable as error:
            logger.warning("settled entries stay in the journal for now", reason=str(error))
        finally:
            self._dropper = None

    async def _drain_partition(self, partition: int) -> int:
        time = await self._kernel.time_ms(partition)
        after, settled = "0-0", 0
        while True:
            entries = await read_journal(
                self._kernel, partition, after=after, until_ms=time - GRACE_MS, limit=DRAIN_BATCH
            )
            if not entries:
                return settled
            after = entries[-1][0].decode()
            outcomes = await asyncio.gather(*[self._drain_entry(partition, *raw) for raw in entries])
            settled += sum(outcomes)

    async def _drain_entry(self, partition: int, journal_id: bytes, fields: list[bytes]) -> bool:
        if journal_id in self._poison:
            return False
        try:
            entry = parse_entry(journal_id, fields)
            event = await self._catalog.get(entry.event_id)
            await self.settle(entry, event)
        except (PlacesUnavailable, IdempotencyKeyReused):
            return True
        except (LedgerUnavailable, StoreUnavailable, Overloaded):
            raise
        except Exception as error:  # one entry that cannot be read must not stop the others
            if len(self._poison) < POISON_MAX:
                self._poison.add(journal_id)
            logger.error("poison journal entry", partition=partition, journal_id=journal_id.decode(), error=repr(error))
            return False
        return True

    def _keep_going(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run *work* whether or not anybody waits for it, and finish it before :meth:`close` returns."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody waiting is no reason to complain at exit


def _unavailable(entry: JournalEntry, event: SellableEvent, *, sold: int) -> PlacesUnavailable:
    unavailable: list[UnavailablePlace] = []
    for item in entry.places.items:
        section = event.layout.sections[item.section].id
        if isinstance(item, NumberedPlaces):
            unavailable += [UnavailablePlace(section, seat=event.layout.seats[seat].label) for seat in item.seats]
        else:
            unavailable.append(UnavailablePlace(section, requested=item.quantity, free=0))
    return PlacesUnavailable(tuple(unavailable), held=0, sold=sold, next_release_at=None)
