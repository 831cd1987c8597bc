"""Group commit: what arrives while a transaction is under way goes into the next one.

Nothing waits on a timer. A lone booking is written at once; under load the batches grow by themselves until the flush
of Postgres's log is shared by as many bookings as are waiting for it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from engine import figures
from engine.bookings import BookingDetails, JournalEntry
from engine.errors import LedgerUnavailable, Overloaded
from engine.events import SellableEvent
from engine.ports import Committed, Refused, Sealer, UnwritableEntry
from persistence.database import KeptConnection, in_words, retrying, sqlstate
from persistence.ledger_batch import Outcome, Outcomes, write_batch
from persistence.ledger_entries import ReadyEntry, ready_entry

BATCH_MAX = 500  # bookings of a transaction: about 10 ms; larger ones gain little and make everybody wait longer
BATCH_CELLS_MAX = 20_000  # seats x legs of a transaction, unless a single booking has more: about 200 ms
YIELD_EVERY = 50  # entries made ready at a stretch: about 2 ms
QUEUE_MAX = 5_000  # waiting bookings: a quarter of a second's work; more would only time out here

# Classes of SQLSTATE that may be one entry's fault: its data, a constraint, a limit, a trigger. With any other (a table
# that is not there, missing rights) none is to blame. An error without one comes from our own code, handling an entry.
OF_AN_ENTRY = ("22", "23", "44", "54", "P0")

logger = structlog.get_logger("holdfast.ledger")


class _Waiting(msgspec.Struct, eq=False):
    ready: ReadyEntry
    outcome: asyncio.Future[Committed | Refused | None]


class GroupCommit:
    """Writes bookings to the ledger, one batch at a time; several of them, in several processes, get along."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer) -> None:
        self._engine = engine
        self._sealer = sealer
        self._queue: deque[_Waiting] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._is_closed = False
        self._many = asyncio.Lock()

    def commit(
        self, entry: JournalEntry, sellable: SellableEvent, details: BookingDetails | None = None
    ) -> "asyncio.Future[Committed | Refused]":
        """Write the booking, together with all that arrived meanwhile; there is a result when it is durable.

        *details* are those of the entry, where they are at hand. Idempotent by ``entry.booking_id``. Cancelling the
        future does not take the booking out of its batch.

        Raises, all of them from the future:
            LedgerUnavailable: Postgres does not answer; whether the booking was written is not known.
            Overloaded: Too many are waiting; it was not tried.
            UnwritableEntry: The entry makes no sense, or Postgres will not have it, alone though it was.
        """
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._is_closed or len(self._queue) >= QUEUE_MAX:
            outcome.set_exception(Overloaded(f"{len(self._queue)} bookings are waiting to be written"))
            return outcome
        try:
            ready = ready_entry(entry, sellable, self._sealer, details)
        except UnwritableEntry as error:
            outcome.set_exception(error)
            return outcome
        self._queue.append(_Waiting(ready, outcome))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all(), name="group commit")
            self._writer.add_done_callback(self._clear_unstarted)
        return outcome

    @property
    def waiting(self) -> int:
        """How many bookings wait for their batch."""
        return len(self._queue)

    async def commit_all(
        self, entries: Sequence[tuple[JournalEntry, SellableEvent]]
    ) -> list[Refused | UnwritableEntry | None]:
        """Write many bookings that nobody waits for one by one, and say what is wrong with each, in their order.

        ``None`` is said of what is written.
        They do not queue with :meth:`commit`'s, so that a backlog delays no caller. Of several calls at once one
        writes while the next makes ready, in the order of the calls.

        Raises:
            LedgerUnavailable: Postgres does not answer; which of them were written is not known.
        """
        loop = asyncio.get_running_loop()
        many: list[_Waiting | UnwritableEntry] = []
        for entry, sellable in entries:
            try:
                many.append(_Waiting(ready_entry(entry, sellable, self._sealer), loop.create_future()))
            except UnwritableEntry as error:
                many.append(error)
            if len(many) % YIELD_EVERY == 0:
                await asyncio.sleep(0)  # others have something to do meanwhile, and be it the batch before
        async with self._many:
            queue = deque(waiting for waiting in many if isinstance(waiting, _Waiting))
            kept = KeptConnection(self._engine)
            try:
                while queue:
                    batch = _take_batch(queue)
                    await self._write(batch, kept, describe=False)
                    _require_outcomes(batch)
            finally:
                await kept.give_back()
        return [_outcome_of(one) if isinstance(one, _Waiting) else one for one in many]

    async def close(self) -> None:
        """Take nothing more, and wait for what is there to be written."""
        self._is_closed = True
        if self._writer is not None:
            await self._writer

    async def _write_all(self) -> None:
        batch: list[_Waiting] = []
        kept = KeptConnection(self._engine)
        try:
            while self._queue:  # what has come while the connection was given back is still this writer's
                try:
                    while self._queue:
                        batch = _take_batch(self._queue)
                        await self._write(batch, kept)
                finally:
                    await kept.give_back()
        finally:
            self._stop(batch)

    def _clear_unstarted(self, writer: asyncio.Task[None]) -> None:
        """Do what the writer does at its end, when it was cancelled before it had begun."""
        if self._writer is writer:
            self._stop(())

    def _stop(self, batch: Sequence[_Waiting]) -> None:
        """The writer ends: because nobody waits any more, or because the event loop is shutting down."""
        self._writer = None
        stopped = LedgerUnavailable("the process is shutting down")
        for waiting in (*batch, *self._queue):
            if not waiting.outcome.done():  # as all of the last batch are, where nothing went wrong
                _resolve(waiting, stopped)
        self._queue.clear()

    async def _write(self, batch: Sequence[_Waiting], kept: KeptConnection, *, describe: bool = True) -> None:
        async def attempt() -> Outcomes:
            async with kept.lend() as connection:
                ready = [waiting.ready for waiting in batch]
                return await write_batch(connection, ready, self._sealer, describe=describe)

        began = time.perf_counter()
        try:
            outcomes = await retrying(attempt)
        except LedgerUnavailable as error:
            for waiting in batch:
                _resolve(waiting, error)
        except Exception as error:
            if not (sqlstate(error) or OF_AN_ENTRY[0]).startswith(OF_AN_ENTRY):
                logger.error("the ledger refuses every booking", error=type(error).__name__, reason=in_words(error))
                for waiting in batch:
                    _resolve(waiting, LedgerUnavailable(in_words(error)))
            else:
                await self._write_apart(batch, kept, error, describe=describe)
        else:
            figures.COMMIT_SECONDS.observe(time.perf_counter() - began)
            figures.COMMIT_BOOKINGS.observe(len(batch))
            for waiting in batch:
                _resolve(waiting, outcomes[waiting.ready.id])

    async def _write_apart(
        self, batch: Sequence[_Waiting], kept: KeptConnection, error: Exception, *, describe: bool
    ) -> None:
        """Find the entry that Postgres will not have by halving the batch, so that it fails alone."""
        if len(batch) == 1:
            entry = batch[0].ready.entry
            poison = UnwritableEntry(
                f"journal entry {entry.journal_id} of booking {entry.booking_id}: {in_words(error)}"
            )
            poison.__cause__ = error
            _resolve(batch[0], poison)
            return
        middle = len(batch) // 2
        await self._write(batch[:middle], kept, describe=describe)
        await self._write(batch[middle:], kept, describe=describe)


def _take_batch(queue: deque[_Waiting]) -> list[_Waiting]:
    """Take the next batch off *queue*, in the order of the journal.

    Entries that exclude each other (by a seat, a booking or an idempotency key) go into different transactions, the
    earlier one first: the later one then meets a stored booking, and a batch needs no rules for rivals within it.
    """
    candidates = sorted((queue.popleft() for _ in range(min(len(queue), BATCH_MAX))), key=_order)
    taken: list[_Waiting] = []
    deferred: list[_Waiting] = []
    marks: set[Hashable] = set()
    cell_count = 0
    for waiting in candidates:
        ready = waiting.ready
        fits = not taken or cell_count + len(ready.cells) <= BATCH_CELLS_MAX
        if fits and marks.isdisjoint(ready.marks):
            taken.append(waiting)
            cell_count += len(ready.cells)
        else:
            deferred.append(waiting)
        marks.update(ready.marks)  # of one deferred as well: nobody behind it may take its seats before it
    queue.extendleft(reversed(deferred))
    return taken


def _require_outcomes(batch: Sequence[_Waiting]) -> None:
    """Make sure that something is known of every entry.

    Raises:
        LedgerUnavailable: Of one at least it is not; trying those behind it would only take longer.
    """
    for error in [waiting.outcome.exception() for waiting in batch]:
        if isinstance(error, LedgerUnavailable):
            raise error


def _outcome_of(waiting: _Waiting) -> Refused | UnwritableEntry | None:
    try:
        outcome = waiting.outcome.result()
    except UnwritableEntry as error:
        return error
    return None if isinstance(outcome, Committed) else outcome


def _order(waiting: _Waiting) -> tuple[int, ...]:
    return waiting.ready.order


def _resolve(waiting: _Waiting, outcome: Outcome | LedgerUnavailable) -> None:
    figures.COMMITS.add(_outcome_name(outcome))
    if waiting.outcome.done():  # also when its caller was cancelled: the booking is written all the same
        return
    if isinstance(outcome, LedgerUnavailable):
        outcome = LedgerUnavailable(*outcome.args)  # one for each waiter: a traceback grows wherever it is raised
    if isinstance(outcome, Exception):
        waiting.outcome.set_exception(outcome)
    else:
        waiting.outcome.set_result(outcome)


def _outcome_name(outcome: Outcome | LedgerUnavailable) -> str:
    match outcome:
        case Committed():
            return "committed"
        case Refused(reason):
            return reason
        case LedgerUnavailable():
            return "unknown"
    return "unwritable"
