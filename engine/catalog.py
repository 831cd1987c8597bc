"""The events this process sells, compiled, kept because a definition cannot change once an event is open."""

import asyncio
from collections import OrderedDict
from functools import partial

from engine.errors import EventNotOpen
from engine.events import Event, SellableEvent
from engine.layout import compile_layout
from engine.ports import EventSource

EVENTS_MAX = 2_000  # compiled layouts kept by a process; a layout takes about 300 bytes a seat
SEATS_MAX = 4_000_000  # seats of all layouts kept: a bound on memory where venues are large


class Catalog:
    """Compiled events by id, least recently used first to go."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._kept: OrderedDict[str, SellableEvent] = OrderedDict()
        self._reading: dict[str, asyncio.Task[SellableEvent]] = {}
        self._seat_count = 0

    def recall(self, event_id: str) -> SellableEvent | None:
        """The event, if it is at hand: as :meth:`get`, without anything to wait for."""
        if (kept := self._kept.get(event_id)) is not None:
            self._kept.move_to_end(event_id)
        return kept

    async def get(self, event_id: str) -> SellableEvent:
        """The event, read and compiled if need be: once, however many ask for it at the same time.

        Raises:
            EventNotFound: There is no such event.
            EventNotOpen: It is a draft, which may change and has nothing to sell.
            LedgerUnavailable: It is not at hand and Postgres does not answer.
        """
        if (kept := self.recall(event_id)) is not None:
            return kept
        reading = self._reading.get(event_id)
        if reading is None:
            # A crowd that finds a process cold would else use up the pool with reading one and the same row.
            reading = self._reading[event_id] = asyncio.create_task(self._read(event_id))
            reading.add_done_callback(partial(self._end_reading, event_id))
        return await asyncio.shield(reading)

    async def find_event(self, event_id: str) -> Event:
        """The event uncompiled: what is kept of it, or else what its source says.

        Raises:
            EventNotFound: There is no such event.
            LedgerUnavailable: It is not at hand and Postgres does not answer.
        """
        kept = self._kept.get(event_id)
        return kept.event if kept is not None else await self._source.find_event(event_id)

    async def keep(self, event: Event) -> SellableEvent:
        """Keep *event* instead of what was known of it; it is compiled once, and off the event loop if it is large.

        Raises:
            EventNotOpen: It is a draft.
        """
        sellable = await self._compile(event)
        self._put(sellable)
        return sellable

    def forget(self, event_id: str) -> None:
        """Read the event anew when it is next asked for; what is being read just now will not be kept."""
        self._reading.pop(event_id, None)
        self._drop(event_id)

    async def _read(self, event_id: str) -> SellableEvent:
        sellable = await self._compile(await self._source.find_event(event_id))
        if self._reading.get(event_id) is asyncio.current_task():
            self._put(sellable)
        return sellable

    def _end_reading(self, event_id: str, reading: "asyncio.Task[SellableEvent]") -> None:
        if self._reading.get(event_id) is reading:
            del self._reading[event_id]
        if not reading.cancelled():
            reading.exception()  # whoever still waits for it has it

    async def _compile(self, event: Event) -> SellableEvent:
        if event.status == "draft":
            raise EventNotOpen(event.id, "draft")
        if (kept := self._kept.get(event.id)) is not None:
            return SellableEvent(event, kept.layout)  # since it was opened, its definition has not changed
        return SellableEvent(event, await asyncio.to_thread(compile_layout, event.definition))

    def _put(self, sellable: SellableEvent) -> None:
        self.forget(sellable.event.id)
        self._kept[sellable.event.id] = sellable
        self._seat_count += len(sellable.layout.seats)
        while len(self._kept) > 1 and (len(self._kept) > EVENTS_MAX or self._seat_count > SEATS_MAX):
            _, oldest = self._kept.popitem(last=False)
            self._seat_count -= len(oldest.layout.seats)

    def _drop(self, event_id: str) -> None:
        if (old := self._kept.pop(event_id, None)) is not None:
            self._seat_count -= len(old.layout.seats)
