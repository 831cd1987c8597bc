"""Looking at an event's places as Redis has them now: how many are free, and which."""

from engine.availability import Availability, SeatMap, Snapshot, needs_cells, section_availability
from engine.catalog import Catalog
from engine.events import Event, SellableEvent
from engine.kernel import Kernel
from engine.keys import partition_of
from engine.refusals import claim_refusal, moment


class Views:
    """What can be seen of events, and nothing is changed by."""

    def __init__(self, kernel: Kernel, catalog: Catalog) -> None:
        self._kernel = kernel
        self._catalog = catalog

    async def availability(
        self, event_id: str, *, from_stop: str | None = None, to_stop: str | None = None
    ) -> Availability:
        """What is free, held and sold now, over a range of legs.

        Raises:
            EventNotFound: There is none.
            InvalidRequest: A stop is unknown.
        """
        event = await self._catalog.get(event_id)
        first_leg, last_leg = event.layout.leg_range(from_stop, to_stop)
        snapshot = await self._snapshot(event, with_cells=needs_cells(event.layout))
        return Availability(
            event_id=event_id,
            seq=snapshot.seq,
            sections=section_availability(snapshot, event.layout, first_leg, last_leg),
            next_release_at=moment(snapshot.next_release_ms) if snapshot.next_release_ms else None,
        )

    async def seats(self, event_id: str) -> SeatMap:
        """Every seat's state now, as bitmaps.

        Raises:
            EventNotFound: There is none.
        """
        event = await self._catalog.get(event_id)
        snapshot = await self._snapshot(event, with_cells=True)
        layout = event.layout
        return SeatMap(snapshot.seq, layout.digest, layout.legs, snapshot.held, snapshot.sold, layout)

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

    async def ping(self) -> None:
        """Ask Redis for a sign of life.

        Raises:
            StoreUnavailable: There is none.
        """
        await self._kernel.time_ms(0)

    async def _snapshot(self, event: SellableEvent, *, with_cells: bool) -> Snapshot:
        reply = await self._kernel.run("snapshot_event", event, [b"1" if with_cells else b"0"])
        if reply[0] != b"SNAPSHOT":
            raise claim_refusal(reply, [event])
        seq, epoch, status, next_release_ms, fields, *cells = reply[1:]
        counters = dict(zip(fields[::2], fields[1::2], strict=True))
        return Snapshot(seq, int(epoch), status.decode(), next_release_ms, counters, *cells)
