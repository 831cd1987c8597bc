"""Putting an event into Redis, under a new epoch, when its state is not there."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from engine import figures
from engine.catalog import Catalog
from engine.errors import StoreUnavailable
from engine.events import Event, SellableEvent
from engine.kernel import Kernel
from engine.loading import pack_rows, state_fields, status_args
from engine.ports import EventSource, LoadedEvent, LoadingTurn

LOADS_MAX = 3  # at once in this process: each keeps a connection of the pool, which others need too
READ_SIZE = 500  # bookings read from the ledger at once; a few milliseconds of ours, in which nobody else is served
BATCH_SIZE = 250  # bookings in one script call, about 1 ms of the server's time
# Script calls of one load under way: the server is at work while the next bookings are read. It may run these one after
# the other without looking at anybody else, so there are few.
BATCHES_MAX = 3


class EventLoader:
    """Loads events, one loader at a time over all processes, and one at a time per event in this one."""

    def __init__(self, kernel: Kernel, source: EventSource, catalog: Catalog, *, keeps_history: bool = True) -> None:
        """With *keeps_history*, what becomes of holds is written to the partition's trail from the first load on."""
        self._history = b"1" if keeps_history else b"0"
        self._kernel = kernel
        self._source = source
        self._catalog = catalog
        self._under_way: dict[str, asyncio.Task[bool]] = {}
        self._turns = asyncio.Semaphore(LOADS_MAX)
        self._drain: Callable[[int], Awaitable[object]] | None = None

    def drain_with(self, drain: Callable[[int], Awaitable[object]]) -> None:
        """Have *drain* settle a partition's whole journal before the epoch of an event in it is raised.

        What was accepted under the old epoch and is not in the ledger by then never will be.
        """
        self._drain = drain

    async def load(self, event_id: str) -> bool:
        """Make sure that Redis has the event's state, of the ledger's epoch; returns whether it had to be built.

        Raises:
            EventNotFound: The ledger has no such event.
            EventNotOpen: It is a draft: there is nothing to sell yet.
            LedgerUnavailable: Postgres does not answer.
            StoreUnavailable: Redis does not answer.
        """
        task = self._under_way.get(event_id)
        if task is None:
            task = self._under_way[event_id] = asyncio.create_task(self._load(event_id))
            task.add_done_callback(lambda _: self._under_way.pop(event_id, None))
        return await asyncio.shield(task)

    async def _load(self, event_id: str) -> bool:
        async with self._turns, self._source.loading(event_id) as turn:
            event = await turn.find_event()
            sellable = await self._catalog.keep(event)
            # Whoever had the turn before may have done it. Only the ledger's epoch will do: an older one is the memory
            # of a Redis that has lost some of it since, and nothing sold under it could ever be committed.
            epoch = await self._kernel.epoch_in_store(sellable)
            if epoch == event.epoch:
                return False
            _refuse_later(event, epoch)
            await self._build(turn, sellable)
            return True

    async def rebuild(self, event_id: str, *, seen_epoch: int | None) -> bool:
        """Build the event's state anew, whatever Redis has, unless somebody has since *seen_epoch* was read there.

        Live holds end, and bookings that are not in the ledger yet are refused by it. Returns whether it was this call
        that did it.

        Raises:
            EventNotFound: The ledger has no such event.
            LedgerUnavailable: Postgres does not answer.
            StoreUnavailable: Redis does not answer, or has a later epoch than the ledger.
        """
        async with self._turns, self._source.loading(event_id) as turn:
            event = await turn.find_event()
            sellable = await self._catalog.keep(event)
            epoch = await self._kernel.epoch_in_store(sellable)
            _refuse_later(event, epoch)
            if epoch == event.epoch and epoch != seen_epoch:
                return False
            await self._build(turn, sellable)
            return True

    async def tell_status(self, event_id: str) -> None:
        """Bring Redis to the status that the ledger says, where it was not told: a process died in between, perhaps.

        Raises:
            EventNotFound: The ledger has no such event.
            LedgerUnavailable: Postgres does not answer.
            StoreUnavailable: Redis does not answer.
        """
        await self._tell(await self._source.find_event(event_id))

    async def _build(self, turn: LoadingTurn, sellable: SellableEvent) -> None:
        if self._drain is not None and sellable.event.epoch > 0:  # else there was no Redis to accept anything
            await self._drain(self._kernel.partition_of(sellable))
        loaded = await turn.begin()
        await self._fill(loaded, sellable)
        now = await turn.find_event()
        if now.version != loaded.event.version:
            await self._tell(now)  # what was said of the event meanwhile may have been told to the state before this

    async def _fill(self, loaded: LoadedEvent, sellable: SellableEvent) -> None:
        layout, event_id = sellable.layout, sellable.event.id
        epoch = b"%d" % loaded.event.epoch
        cells = len(layout.seats) * layout.legs
        fields = state_fields(loaded.event, layout)
        begin = [event_id.encode(), epoch, pack_rows(layout), b"%d" % cells, self._history, *fields]
        await self._step("begin_load", sellable, begin)
        await self._load_bookings(loaded, sellable, epoch)
        line = await loaded.line_entries()
        for start in range(0, len(line), BATCH_SIZE):  # before the event is on sale: they come first
            await self._step("load_line", sellable, [event_id.encode(), epoch, *line[start : start + BATCH_SIZE]])
        await self._step("finish_load", sellable, [event_id.encode(), epoch])
        figures.LOADS.add()

    async def _load_bookings(self, loaded: LoadedEvent, sellable: SellableEvent, epoch: bytes) -> None:
        """Send the bookings on while more are read; in which order they arrive does not matter."""
        sent: deque[asyncio.Task[None]] = deque()
        try:
            async for lines in loaded.booking_lines(batch_size=READ_SIZE):
                for start in range(0, len(lines), BATCH_SIZE):
                    if len(sent) == BATCHES_MAX:
                        await sent.popleft()
                    args = [epoch, *lines[start : start + BATCH_SIZE]]
                    sent.append(asyncio.create_task(self._step("load_bookings", sellable, args)))
            while sent:
                await sent.popleft()
        finally:
            for task in sent:
                task.cancel()
            await asyncio.gather(*sent, return_exceptions=True)

    async def _tell(self, event: Event) -> None:
        await self._kernel.run("set_status", await self._catalog.keep(event), status_args(event), load=False)

    async def _step(self, script: str, sellable: SellableEvent, args: list[bytes]) -> None:
        reply = await self._kernel.run(script, sellable, args, load=False)
        if reply[0] == b"STALE":
            raise StoreUnavailable(f"event {sellable.event.id} is being loaded by somebody else: try again")


def _refuse_later(event: Event, epoch: int | None) -> None:
    """Raise when Redis has a later epoch than the ledger, which has gone back, or is another installation's.

    To raise the ledger's until it fits would empty a Redis that may know more than the ledger does.
    """
    if epoch is not None and epoch > event.epoch:
        raise StoreUnavailable(f"event {event.id} has epoch {epoch} in Redis and {event.epoch} in the ledger")
