"""The events this process sells, compiled, kept because a definition cannot change once an event is open."""

import asyncio
from collections import OrderedDict

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
        self._seat_count = 0

    async def get(self, event_id: str) -> SellableEvent:
        """The event, read and compiled if need be.

        Raises:
            EventNotFound: There is no such event.
            EventNotOpen: It is a draft, which may change and has nothing to sell.
            LedgerUnavailable: It is not at hand and Postgres does not answer.
        """
        if (kept := self._kept.get(event_id)) is not None:
            self._kept.move_to_end(event_id)
            return kept
        return await self.keep(await self._source.find_event(event_id))

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
        if event.status == "draft":
            raise EventNotOpen(event.id, "draft")
        if (kept := self._kept.get(event.id)) is not None:
            layout = kept.layout  # since it was opened, its definition has not changed
        else:
            layout = await asyncio.to_thread(compile_layout, event.definition)
        sellable = SellableEvent(event, layout)
        self.forget(event.id)
        self._kept[event.id] = sellable
        self._seat_count += len(sellable.layout.seats)
        while len(self._kept) > 1 and (len(self._kept) > EVENTS_MAX or self._seat_count > SEATS_MAX):
            _, oldest = self._kept.popitem(last=False)
            self._seat_count -= len(oldest.layout.seats)
        return sellable

    def forget(self, event_id: str) -> None:
        """Read the event anew when it is next asked for."""
        if (old := self._kept.pop(event_id, None)) is not None:
            self._seat_count -= len(old.layout.seats)
