"""People in line for places of an event: who they are, and their side of it in Redis.

An entry's id is that of the hold which it will be offered, and of the booking made of that: one entry can never have
two offers, and whoever has lost the thread finds out from the id alone how far it got. Postgres keeps the entries
(``persistence.waitlist``); Redis has the line, so that it can offer what comes free in the very step that decides who
gets it.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from engine.catalog import Catalog
from engine.claims import ItemRequest, resolve_places
from engine.errors import InvalidRequest, NoWaitlist, PlacesAvailable
from engine.events import SellableEvent
from engine.ids import HoldId, parse_claim_id
from engine.kernel import Kernel, offer_args
from engine.places import BestPlaces, CountedPlaces, NumberedPlaces, format_places
from engine.refusals import claim_refusal, moment

PRIORITY_MAX = 1000  # with the time in ms behind it, a score that a double keeps exactly
_PRIORITY_STEP = 2**42  # ms: later than any time of this century

EntryStatus = Literal["waiting", "offered", "booked", "declined", "expired", "cancelled"]
LIVE_STATUSES: tuple[str, ...] = ("waiting", "offered")
ENTRY_TRANSITIONS: dict[EntryStatus, tuple[str, ...]] = {
    "waiting": ("offered", "cancelled"),
    "offered": ("booked", "declined", "expired", "cancelled"),
    "booked": (),
    "declined": (),
    "expired": (),
    "cancelled": (),
}
"""What may follow; besides, an offer that Redis has lost with its memory goes back to ``waiting``."""


class Offer(msgspec.Struct, frozen=True):
    """The hold that is made on behalf of somebody in line."""

    hold_id: HoldId
    expires_at: dt.datetime


class WaitlistEntry(msgspec.Struct, frozen=True):
    """Somebody in line as they see it; ``position`` is 1 for whoever is asked next, and ``None`` once asked.

    ``passed_over`` names the limit for which their turn has passed them over; they stay where they are.
    """

    id: HoldId
    event_id: str
    customer_id: str
    status: EntryStatus
    position: int | None
    priority: int
    items: list[ItemRequest]
    from_: str | None = msgspec.field(name="from")
    to: str | None
    offer: Offer | None
    booking_id: str | None
    passed_over: str | None
    joined_at: dt.datetime


class Standing(msgspec.Struct, frozen=True):
    """How an entry stands in Redis; ``until`` is its offer's deadline.

    ``forgotten``: Redis knows nothing of it, which is right only of one whose turn is over.
    """

    kind: Literal["waiting", "offered", "booked", "expired", "released", "forgotten"]
    until: dt.datetime | None = None


class Notice(msgspec.Struct, frozen=True):
    """What the ledger has yet to hear of an entry: that it has an offer ``until`` then, or was ``passed_over``."""

    entry_key: bytes
    text: bytes

    @property
    def until(self) -> dt.datetime | None:
        """The deadline of the offer, if that is what it tells of."""
        word, _, deadline, *_ = self.text.decode().split("|")
        return moment(int(deadline)) if word == "offered" else None

    @property
    def passed_over(self) -> str | None:
        """The limit that stood in the way, if that is what it tells of."""
        word, limit, *_ = self.text.decode().split("|")
        return limit if word == "passed" else None


def line_score(priority: int, joined_at: dt.datetime) -> int:
    """The place in line: by priority, the higher first, then by time; entries of one ms by their ids."""
    return (PRIORITY_MAX - priority) * _PRIORITY_STEP + round(joined_at.timestamp() * 1000)


def resolve_wish(event: SellableEvent, items: Sequence[ItemRequest], from_stop: str | None, to_stop: str | None) -> str:
    """The places that are waited for, as text.

    Raises:
        InvalidRequest: The event does not have them, or could never have as many free.
        NoWaitlist: Its policy has no line.
    """
    if not event.definition.policy.waitlist:
        raise NoWaitlist(event.event.id)
    places = resolve_places(event.layout, items, from_stop, to_stop)
    for number, item in enumerate(places.items):
        _check_possible(event, item, f"$.items[{number}]")
    return format_places(places)


class Line:
    """The line of every event, in Redis. Every method raises ``StoreUnavailable`` when Redis does not answer."""

    def __init__(self, kernel: Kernel, catalog: Catalog) -> None:
        self._kernel = kernel
        self._catalog = catalog

    async def find_event(self, event_id: str) -> SellableEvent:
        """The event that somebody wants to wait for.

        Raises:
            EventNotFound, EventNotOpen: There is none, or it is a draft.
        """
        return await self._catalog.get(event_id)

    async def check_wish(self, event: SellableEvent, places: str, *, customer_id: str) -> None:
        """Make sure that there is something to wait for.

        Raises:
            PlacesAvailable: It can be held at once.
            EventNotOpen, LimitExceeded: It could not be held at all.
        """
        args = [customer_id.encode(), event.layout.digest.encode(), places.encode()]
        reply = await self._kernel.run("check_wish", event, args)
        if reply[0] == b"UNAVAILABLE":
            return
        if reply[0] == b"AVAILABLE":
            raise PlacesAvailable(event.event.id)
        raise claim_refusal([reply[0], 1, *reply[1:]], [event])

    async def join(self, entry_id: str, places: str, *, score: int, customer_id: str) -> Standing:
        """Put an entry in line, unless it is there or had its turn. Safe to repeat."""
        key, event = await self._find(entry_id)
        args = [event.event.id, key, str(score), places, customer_id]
        return _standing(await self._kernel.run("join_line", event, [arg.encode() for arg in args]))

    async def look(self, entry_id: str) -> Standing:
        """How the hold that an entry was offered stands, or how it ended."""
        key, event = await self._find(entry_id)
        reply = await self._kernel.run("read_hold", event, [key.encode(), b""])
        if reply[0] in (b"ACTIVE", b"PAYING"):
            return Standing("offered", moment(reply[2]))
        return Standing("forgotten") if reply[0] == b"NOT_FOUND" else _standing(reply)

    async def leave(self, entry_id: str) -> Standing:
        """Take an entry out of line, and its offer back; ``booked`` where it is too late, else ``forgotten``."""
        key, event = await self._find(entry_id)
        reply = await self._kernel.run("leave_line", event, [event.event.id.encode(), key.encode()])
        return Standing("booked") if reply[0] == b"BOOKED" else Standing("forgotten")

    async def offer(self, event_id: str) -> list[Notice]:
        """Offer what is free to whoever is in line; what the ledger has yet to hear, also of earlier offers."""
        event = await self._catalog.get(event_id)
        _, *notices = await self._kernel.run("offer_places", event, offer_args(event))
        return [Notice(entry, text) for entry, text in notices]

    async def forget(self, event_id: str, notices: Sequence[Notice]) -> None:
        """Drop notices that the ledger has heard."""
        event = await self._catalog.get(event_id)
        args = [event_id.encode()]
        for notice in notices:
            args += [notice.entry_key, notice.text]
        await self._kernel.run("forget_notices", event, args)

    async def _find(self, entry_id: str) -> tuple[str, SellableEvent]:
        key = parse_claim_id(entry_id)
        assert key is not None, entry_id
        return key.key, await self._catalog.get(key.event_id)


def _standing(reply: list[Any]) -> Standing:
    match reply:
        case [b"JOINED"] | [b"WAITING"]:
            return Standing("waiting")
        case [b"OFFERED", _, deadline_ms, _]:
            return Standing("offered", moment(deadline_ms))
        case [b"BOOKED"]:
            return Standing("booked")
        case [b"RELEASED"]:
            return Standing("released")
        case [b"EXPIRED"] | [b"REFUSED"]:
            return Standing("expired")
    raise claim_refusal(reply, [])


def _check_possible(event: SellableEvent, item: CountedPlaces | NumberedPlaces | BestPlaces, path: str) -> None:
    capacity = event.layout.sections[item.section].capacity
    if item.quantity > capacity:
        raise InvalidRequest(path, f"the section has no more than {capacity} places")
