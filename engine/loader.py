"""Putting events into Redis, under a new epoch, when their state is not there.

Many small ones are loaded together. What a load costs is mostly waiting, above all for the commit that makes the new
epoch durable; fifty events share that commit, and every other round trip to Postgres and Redis.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial

from engine import figures
from engine.booking_batches import AGAIN_MAX, BookingBatches
from engine.catalog import Catalog
from engine.errors import EventNotFound, StoreUnavailable
from engine.events import Event, SellableEvent
from engine.kernel import Kernel
from engine.keys import load_key
from engine.loading import pack_rows, state_fields, status_args
from engine.ports import EventSource, LoadedEvent, LoadingTurn

LOADS_MAX = 3  # at once in this process: each keeps a connection of the pool, which others need too
TOGETHER_MAX = 50  # events of one load: a tenth of a second, for which somebody who wants one of them waits
PAGE_SIZE = 1_000  # bookings that Postgres tells at a time: the next ones are on their way while these are sent
BATCH_SIZE = 500  # bookings that are sent together: four commands of a quarter of a millisecond of the server's time
# Batches of one load under way: the server is at work while the next one is packed. What others of this process ask for
# waits behind them, so there are few.
BATCHES_MAX = 4
LINE_BATCH = 500  # people in line that are sent together

Outcomes = Mapping[str, asyncio.Future[bool]]
"""By event: whether it had to be built, or why it could not be."""


class EventLoader:
    """Loads events, one loader at a time over all processes, and one at a time per event in this one."""

    def __init__(self, kernel: Kernel, source: EventSource, catalog: Catalog, *, keeps_history: bool = True) -> None:
        """With *keeps_history*, what becomes of holds is written to the partition's trail from the first load on."""
        self._history = b"1" if keeps_history else b"0"
        self._kernel = kernel
        self._source = source
        self._catalog = catalog
        self._under_way: dict[str, asyncio.Future[bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
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
        return await asyncio.shield(self._begin([event_id])[event_id])

    async def load_together(self, event_ids: Sequence[str]) -> dict[str, bool | BaseException]:
        """The same for up to ``TOGETHER_MAX`` events at once; what is raised for one is told of it."""
        assert len(event_ids) <= TOGETHER_MAX, len(event_ids)
        loads = self._begin(event_ids)
        done = await asyncio.gather(*map(asyncio.shield, loads.values()), return_exceptions=True)
        return dict(zip(loads, done, strict=True))

    def _begin(self, event_ids: Sequence[str]) -> Outcomes:
        """Begin to load those that are not being loaded already; returns what will become of each."""
        outcomes = {event_id: _new_outcome() for event_id in event_ids if event_id not in self._under_way}
        if outcomes:
            for event_id, outcome in outcomes.items():
                self._under_way[event_id] = outcome
                # Before anybody hears of it: who then finds the state gone again must not be given the same answer.
                outcome.add_done_callback(partial(self._forget, event_id))
            task = asyncio.create_task(self._load(outcomes))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return {event_id: self._under_way[event_id] for event_id in event_ids}

    async def _load(self, outcomes: Outcomes) -> None:
        try:
            async with self._turns, self._source.loading(list(outcomes)) as turn:
                taken = {event_id: outcomes[event_id] for event_id in turn.event_ids}
                await self._load_missing(turn, taken)
            for event_id in outcomes.keys() - taken.keys():  # somebody else was loading it
                await self._load({event_id: outcomes[event_id]})
        except Exception as error:
            for outcome in outcomes.values():
                _fail(outcome, error)
        finally:
            for outcome in outcomes.values():
                outcome.cancel()  # what is left, when this was cancelled

    def _forget(self, event_id: str, outcome: asyncio.Future[bool]) -> None:
        del self._under_way[event_id]
        if not outcome.cancelled():
            outcome.exception()  # perhaps nobody waits for it any more

    async def _load_missing(self, turn: LoadingTurn, outcomes: Outcomes) -> None:
        events = await turn.find_events(list(outcomes))
        missing: dict[str, SellableEvent] = {}

        async def look(event_id: str) -> None:
            if event_id not in events:
                raise EventNotFound(event_id)
            sellable = await self._catalog.keep(events[event_id])
            # Whoever had the turn before may have done it. Only the ledger's epoch will do: an older one is the memory
            # of a Redis that has lost some of it since, and nothing sold under it could ever be committed.
            epoch = await self._kernel.epoch_in_store(sellable)
            if epoch == sellable.event.epoch:
                outcomes[event_id].set_result(False)
                return
            _refuse_later(sellable.event, epoch)
            missing[event_id] = sellable

        await _for_each(outcomes, list(outcomes), look)
        if missing:
            await self._build(turn, missing, outcomes)

    async def rebuild(self, event_id: str, *, seen_epoch: int | None) -> bool:
        """Build the event's state anew, whatever Redis has, unless somebody has since *seen_epoch* was read there.

        Live holds end, and bookings that are not in the ledger yet are refused by it. Returns whether it was this call
        that did it.

        Raises:
            EventNotFound: The ledger has no such event.
            LedgerUnavailable: Postgres does not answer.
            StoreUnavailable: Redis does not answer, or has a later epoch than the ledger.
        """
        async with self._turns, self._source.loading([event_id]) as turn:
            events = await turn.find_events([event_id])
            if event_id not in events:
                raise EventNotFound(event_id)
            sellable = await self._catalog.keep(events[event_id])
            epoch = await self._kernel.epoch_in_store(sellable)
            _refuse_later(sellable.event, epoch)
            if epoch == sellable.event.epoch and epoch != seen_epoch:
                return False
            await self._close_behind(sellable)
            outcome = _new_outcome()
            await self._build(turn, {event_id: sellable}, {event_id: outcome})
            return outcome.result()

    async def _close_behind(self, sellable: SellableEvent) -> None:
        """Have Redis book no more in a state that is there, before its journal is drained for the last time.

        What was booked between that and the new epoch would be refused, though nothing is wrong with it. Without these
        two fields a state counts as not loaded, for callers, who then wait for us, and for whoever loads it next if we
        die here; its seq and clock go on. First a drain without it: when Postgres is away the event stays on sale.
        """
        await self._drain_journals([sellable])
        await self._kernel.event_command(sellable, "HDEL", "state", "status", "epoch")

    async def tell_status(self, event_id: str) -> None:
        """Bring Redis to the status that the ledger says, where it was not told: a process died in between, perhaps.

        Raises:
            EventNotFound: The ledger has no such event.
            LedgerUnavailable: Postgres does not answer.
            StoreUnavailable: Redis does not answer.
        """
        await self._tell(await self._source.find_event(event_id))

    async def _build(self, turn: LoadingTurn, missing: Mapping[str, SellableEvent], outcomes: Outcomes) -> None:
        await self._drain_journals(missing.values())
        loaded = {one.event.id: one for one in await turn.begin(list(missing))}
        for gone in missing.keys() - loaded.keys():
            _fail(outcomes[gone], EventNotFound(gone))

        async def fill(event_id: str) -> None:
            await self._fill(loaded[event_id], missing[event_id])

        small = [event_id for event_id, one in loaded.items() if one.is_small]
        large = [event_id for event_id, one in loaded.items() if not one.is_small]
        for ids in (small, *[[event_id] for event_id in large]):
            await _for_each(outcomes, ids, fill)
            await self._conclude(turn, {event_id: loaded[event_id].event for event_id in ids}, outcomes)

    async def _drain_journals(self, events: Iterable[SellableEvent]) -> None:
        # Before an event's first epoch there was no Redis to accept anything.
        partitions = {self._kernel.partition_of(sellable) for sellable in events if sellable.event.epoch > 0}
        if self._drain is not None:
            await asyncio.gather(*map(self._drain, partitions))

    async def _conclude(self, turn: LoadingTurn, filled: Mapping[str, Event], outcomes: Outcomes) -> None:
        """What was said of an event meanwhile may have been told to the state before this: say it again."""
        now = await turn.find_events(list(filled)) if filled else {}

        async def conclude(event_id: str) -> None:
            if event_id in now and now[event_id].version != filled[event_id].version:
                await self._tell(now[event_id])
            outcomes[event_id].set_result(True)

        await _for_each(outcomes, [event_id for event_id in filled if not outcomes[event_id].done()], conclude)

    async def _fill(self, loaded: LoadedEvent, sellable: SellableEvent) -> None:
        layout, event_id = sellable.layout, sellable.event.id
        epoch = b"%d" % loaded.event.epoch
        cells = len(layout.seats) * layout.legs
        fields = state_fields(loaded.event, layout)
        begin = [event_id.encode(), epoch, pack_rows(layout), b"%d" % cells, self._history, *fields]
        await self._step("begin_load", sellable, begin)
        names = [
            load_key(self._kernel.partition_of(sellable), event_id, name, loaded.event.epoch)
            for name in ("new_bookings", "new_users")
        ]
        batches = BookingBatches(layout, *names)
        await self._load_bookings(loaded, sellable, batches, names[0])
        for piece in batches.pieces():
            await self._step("load_places", sellable, [epoch, *piece])
        for start in range(0, len(loaded.line), LINE_BATCH):  # before the event is on sale: they come first
            line = loaded.line[start : start + LINE_BATCH]
            await self._step("load_line", sellable, [event_id.encode(), epoch, *line])
        await self._step("finish_load", sellable, [event_id.encode(), epoch])
        figures.LOADS.add()

    async def _load_bookings(
        self, loaded: LoadedEvent, sellable: SellableEvent, batches: BookingBatches, key: bytes
    ) -> None:
        """Send the bookings on while more are read; in which order they arrive does not matter."""
        epoch = loaded.event.epoch
        sent: deque[asyncio.Task[None]] = deque()

        async def count_again(calls: Sequence[list[bytes]], before: Sequence[asyncio.Task[None]]) -> None:
            await asyncio.gather(*before)  # who is added to must be there
            for args in calls:
                await self._step("count_customers", sellable, [b"%d" % epoch, *args], epoch=epoch)

        try:
            async with aclosing(loaded.bookings(page_size=PAGE_SIZE)) as pages:
                async for page in pages:
                    for start in range(0, len(page.ids), BATCH_SIZE):
                        commands = batches.add(page.part(start, start + BATCH_SIZE))
                        while len(sent) >= BATCHES_MAX:
                            await sent.popleft()
                        sent.append(asyncio.create_task(self._kernel.send_once(key, commands)))
                        await asyncio.sleep(0)  # it leaves before the next one is packed
                    if batches.again_count >= AGAIN_MAX:
                        sent.append(asyncio.create_task(count_again([*batches.take_again()], [*sent])))
            await count_again([*batches.take_again()], sent)
        finally:
            for task in sent:
                task.cancel()
            await asyncio.gather(*sent, return_exceptions=True)
        if batches.count:
            args = [b"%d" % epoch, b"%d" % batches.count, b"%d" % batches.customer_count]
            await self._step("adopt_bookings", sellable, args, epoch=epoch)

    async def _tell(self, event: Event) -> None:
        await self._kernel.run("set_status", await self._catalog.keep(event), status_args(event), load=False)

    async def _step(self, script: str, sellable: SellableEvent, args: list[bytes], *, epoch: int | None = None) -> None:
        reply = await self._kernel.run(script, sellable, args, load=False, epoch=epoch)
        if reply[0] == b"STALE":
            raise StoreUnavailable(f"event {sellable.event.id} is being loaded by somebody else: try again")
        if reply[0] == b"INCOMPLETE":
            raise StoreUnavailable(f"event {sellable.event.id}: Redis has lost a part of what it was sent: try again")


def _refuse_later(event: Event, epoch: int | None) -> None:
    """Raise when Redis has a later epoch than the ledger, which has gone back, or is another installation's.

    To raise the ledger's until it fits would empty a Redis that may know more than the ledger does.
    """
    if epoch is not None and epoch > event.epoch:
        raise StoreUnavailable(f"event {event.id} has epoch {epoch} in Redis and {event.epoch} in the ledger")


def _new_outcome() -> asyncio.Future[bool]:
    return asyncio.get_running_loop().create_future()


def _fail(outcome: asyncio.Future[bool], error: Exception) -> None:
    if not outcome.done():
        outcome.set_exception(error)


async def _for_each(outcomes: Outcomes, event_ids: Sequence[str], step: Callable[[str], Awaitable[None]]) -> None:
    """Take *step* for all of *event_ids* beside each other; one that fails keeps no other from its step."""

    async def take(event_id: str) -> None:
        try:
            await step(event_id)
        except Exception as error:
            _fail(outcomes[event_id], error)

    await asyncio.gather(*map(take, event_ids))
