"""What the organizer does, over the API: puts events on sale, and afterwards looks at what was sold."""

import itertools
from typing import Any
from urllib.parse import urlencode

import msgspec

from engine.definition import SectionDefinition
from holdfast.demo.client import Client
from holdfast.demo.errors import DemoFailed
from holdfast.demo.scenario import Draft, Kind

PAGE = 200  # the most that one page of a list may have
RUNS_MAX = 1_000  # of the demo over one data directory


class OnSale(msgspec.Struct, frozen=True, kw_only=True):
    """An open event as its buyers know it; ``capacities`` are by section, in seats or counted places."""

    kind: Kind
    id: str
    title: str
    name: str
    currency: str
    capacities: dict[str, int]
    stops: tuple[str, ...] = ()
    window_seats: dict[str, tuple[str, ...]] = {}

    @property
    def legs(self) -> int:
        """How many stretches every place is sold for separately."""
        return max(1, len(self.stops) - 1)

    @property
    def places(self) -> int:
        """What can be sold: a seat counts once for each leg."""
        return sum(self.capacities.values()) * self.legs

    def leg_range(self, from_stop: str | None, to_stop: str | None) -> tuple[int, int]:
        """The legs between two stops, the second excluded; all of them where nothing is said."""
        if not self.stops or from_stop is None or to_stop is None:
            return 0, self.legs
        return self.stops.index(from_stop), self.stops.index(to_stop)


class Item(msgspec.Struct, frozen=True):
    """A line of a hold or booking."""

    section: str
    quantity: int
    seats: tuple[str, ...] | None = None


class Booked(msgspec.Struct, frozen=True):
    """A booking, as far as the demo looks at it."""

    id: str
    status: str
    items: tuple[Item, ...]
    amount: int
    from_: str | None = msgspec.field(name="from", default=None)
    to: str | None = None


class SectionCounts(msgspec.Struct, frozen=True):
    """A section of an answer about availability."""

    id: str
    capacity: int
    free: int
    held: int
    sold: int


class Availability(msgspec.Struct, frozen=True):
    """What is free, held and sold, by section."""

    sections: tuple[SectionCounts, ...]


class _BookingPage(msgspec.Struct, frozen=True):
    items: list[Booked]
    next_cursor: str | None


decode_availability = msgspec.json.Decoder(Availability).decode
decode_booking = msgspec.json.Decoder(Booked).decode
_decode_page = msgspec.json.Decoder(_BookingPage).decode


class BoxOffice:
    """The organizer, with a token of their own."""

    def __init__(self, client: Client, token: str) -> None:
        self._client = client
        self._token = token

    async def put_on_sale(self, draft: Draft) -> OnSale:
        """Create the event, give it its seats, open it. An id that an earlier run took gets a number.

        Raises:
            DemoFailed: The server refuses any of it.
        """
        event_id = await self._create(draft)
        if draft.plan is not None:
            body = {"plan": msgspec.Raw(draft.plan), "prices": draft.plan_prices}
            await self._require("POST", f"/v1/events/{event_id}/seating-plan", body)
        await self._require("POST", f"/v1/events/{event_id}/open")
        availability = decode_availability(await self._require("GET", f"/v1/events/{event_id}/availability"))
        return OnSale(
            kind=draft.kind,
            id=event_id,
            title=draft.title,
            name=draft.definition.name,
            currency=draft.definition.currency,
            capacities={section.id: section.capacity for section in availability.sections},
            stops=tuple(draft.definition.stops or ()),
            window_seats={section.id: _window_seats(section) for section in draft.definition.sections if section.rows},
        )

    async def list_bookings(self, event: OnSale) -> list[Booked]:
        """Every booking that the ledger has of *event*."""
        bookings: list[Booked] = []
        cursor = ""
        while True:
            path = f"/v1/events/{event.id}/bookings?limit={PAGE}{cursor}"
            page = _decode_page(await self._require("GET", path))
            bookings += page.items
            if page.next_cursor is None:
                return bookings
            cursor = f"&cursor={page.next_cursor}"

    async def count_legs(self, event: OnSale) -> list[Availability]:
        """What is free, held and sold on each leg of *event*, by itself."""
        path = f"/v1/events/{event.id}/availability"
        if not event.stops:
            return [decode_availability(await self._require("GET", path))]
        return [
            decode_availability(await self._require("GET", f"{path}?{query_of_stretch(from_stop, to_stop)}"))
            for from_stop, to_stop in itertools.pairwise(event.stops)
        ]

    async def _create(self, draft: Draft) -> str:
        for number in range(1, RUNS_MAX + 1):
            event_id = f"{draft.definition.id}-{number}" if number > 1 else str(draft.definition.id)
            body = msgspec.structs.replace(draft.definition, id=event_id)
            answer = await self._client.call(
                "set-up", "POST", "/v1/events", token=self._token, expect=(201, 409), body=body
            )
            if answer.status == 201:
                return event_id
            if answer.status != 409:
                raise DemoFailed(f"{draft.title} cannot be created: {answer.status} {answer.body.decode()}")
        raise DemoFailed(f"{draft.title}: this data directory has seen {RUNS_MAX} runs; take another one")

    async def _require(self, method: str, path: str, body: Any = None) -> bytes:
        return await self._client.require(method, path, token=self._token, body=body)


def query_of_stretch(from_stop: str, to_stop: str) -> str:
    """A stretch of a journey as a query string."""
    return urlencode({"from": from_stop, "to": to_stop})


def _window_seats(section: SectionDefinition) -> tuple[str, ...]:
    """The labels of the first and the last seat of every row."""
    labels = []
    for row in section.rows or ():
        assert isinstance(row.seats, list)  # engine.importing.cars makes lists of names
        labels += [f"{row.id}-{row.seats[0]}", f"{row.id}-{row.seats[-1]}"]
    return tuple(labels)
