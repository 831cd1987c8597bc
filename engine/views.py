"""Looking at an event's places as Redis has them now: how many are free, and which."""

from engine.availability import Availability, needs_cells, section_availability
from engine.catalog import Catalog
from engine.events import Event
from engine.kernel import Kernel
from engine.keys import partition_of
from engine.layout import Layout
from engine.refusals import moment
from engine.snapshots import Snapshots, View


class Views:
    """What can be seen of events, and nothing is changed by."""

    def __init__(self, kernel: Kernel, catalog: Catalog) -> None:
        self._kernel = kernel
        self._catalog = catalog
        self._snapshots = Snapshots(kernel)

    async def availability(
        self, event_id: str, *, from_stop: str | None = None, to_stop: str | None = None
    ) -> Availability:
        """What is free, held and sold now, over a range of legs.

        Raises:
            EventNotFound: There is none.
            EventNotOpen: It is a draft.
            InvalidRequest: A stop is unknown.
        """
        view = await self.counts(event_id)
        return availability(view, *view.event.layout.leg_range(from_stop, to_stop))

    async def counts(self, event_id: str) -> View:
        """The event's state now, as far as counts need it.

        Raises:
            EventNotFound: There is none.
            EventNotOpen: It is a draft.
        """
        event = await self._catalog.get(event_id)
        return await self._snapshots.look(event, with_cells=needs_cells(event.layout))

    async def seats(self, event_id: str) -> View:
        """The same with the bitmaps, for every seat's state."""
        return await self._snapshots.look(await self._catalog.get(event_id), with_cells=True)

    async def watched(self, event_id: str) -> View:
        """The same with all that listeners are told of: the bitmaps where seats have numbers."""
        event = await self._catalog.get(event_id)
        return await self._snapshots.look(event, with_cells=bool(event.layout.seats))

    async def count_holds(self, event: Event) -> int:
        """How many holds of an event are alive by Redis's clock; one whose state is not there has none.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        partition = partition_of(event.id, event.definition.group, self._kernel.partitions)
        now_ms = await self._kernel.time_ms(partition)
        return int(await self._kernel.event_command_in(partition, event.id, "ZCOUNT", "expiries", f"({now_ms}", "+inf"))

    async def find_event(self, event_id: str) -> Event:
        """An event as this process knows it: its definition is current, its status and version may not be."""
        return await self._catalog.find_event(event_id)

    async def layout_of(self, event_id: str) -> Layout:
        """The compiled places of an event.

        Raises:
            EventNotFound: There is none.
            EventNotOpen: It is a draft.
        """
        return (await self._catalog.get(event_id)).layout

    def recall_event(self, event_id: str) -> Event | None:
        """The same, if it is at hand: without anything to wait for."""
        kept = self._catalog.recall(event_id)
        return None if kept is None else kept.event

    async def ping(self) -> None:
        """Ask Redis for a sign of life.

        Raises:
            StoreUnavailable: There is none.
        """
        await self._kernel.time_ms(0)


def availability(view: View, first_leg: int, last_leg: int) -> Availability:
    """What is free, held and sold over the legs ``[first_leg, last_leg)``."""
    snapshot, event = view.snapshot, view.event
    sections = section_availability(snapshot, event.layout, first_leg, last_leg)
    is_any_held = any(section.held for section in sections)
    return Availability(
        event_id=event.event.id,
        seq=snapshot.seq,
        sections=sections,
        next_release_at=moment(snapshot.next_release_ms) if is_any_held and snapshot.next_release_ms else None,
    )
