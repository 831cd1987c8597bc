"""Putting an event into Redis, under a new epoch, when its state is not there."""

import asyncio

from engine.catalog import Catalog
from engine.errors import StoreUnavailable
from engine.events import Event, SellableEvent
from engine.ids import parse_claim_id
from engine.kernel import Kernel
from engine.loading import booking_record, pack_rows, state_fields, status_args
from engine.ports import EventSource, LoadedEvent

LOADS_MAX = 3  # at once in this process: each keeps a connection of the pool, which others need too
BATCH_SIZE = 500  # bookings in one script call, about 2 ms of the server's time


class EventLoader:
    """Loads events, one loader at a time over all processes, and one at a time per event in this one."""

    def __init__(self, kernel: Kernel, source: EventSource, catalog: Catalog) -> None:
        self._kernel = kernel
        self._source = source
        self._catalog = catalog
        self._under_way: dict[str, asyncio.Task[bool]] = {}
        self._turns = asyncio.Semaphore(LOADS_MAX)

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
            if await self._kernel.epoch_in_store(sellable) == event.epoch:
                return False
            loaded = await turn.begin()
            await self._fill(loaded, sellable)
            await self._catch_up(await turn.find_event(), loaded.event)
            return True

    async def _fill(self, loaded: LoadedEvent, sellable: SellableEvent) -> None:
        layout, event_id = sellable.layout, sellable.event.id
        epoch = b"%d" % loaded.event.epoch
        cells = len(layout.seats) * layout.legs
        fields = state_fields(loaded.event, layout)
        begin = [event_id.encode(), epoch, pack_rows(layout), b"%d" % cells, *fields]
        await self._step("begin_load", sellable, begin)
        async for batch in loaded.active_bookings(batch_size=BATCH_SIZE):
            records = []
            for booking in batch:
                claim = parse_claim_id(booking.booking_id)
                assert claim is not None, booking.booking_id
                records.append(booking_record(booking, claim.key))
            await self._step("load_bookings", sellable, [epoch, *records])
        await self._step("finish_load", sellable, [event_id.encode(), epoch])

    async def _catch_up(self, now: Event, loaded: Event) -> None:
        """Tell Redis what was said of the event while it was being loaded: it may have been told to the old state."""
        if now.version != loaded.version:
            sellable = await self._catalog.keep(now)
            await self._kernel.run("set_status", sellable, status_args(now), load=False)

    async def _step(self, script: str, sellable: SellableEvent, args: list[bytes]) -> None:
        reply = await self._kernel.run(script, sellable, args, load=False)
        if reply[0] == b"STALE":
            raise StoreUnavailable(f"event {sellable.event.id} is being loaded by somebody else: try again")
