"""The claims that ``hold_many`` takes: which they are, and how it is told of them."""

from collections.abc import Sequence

from engine.events import SellableEvent
from engine.once import ONCE_TTL_MS, Once
from engine.places import CountedPlaces, NumberedPlaces, Places

_ONCE_TTL = b"%d" % ONCE_TTL_MS


def is_usual(places: Places) -> bool:
    """Whether ``hold_many`` takes a claim of these: one item on one leg, by number; a seat by itself."""
    if len(places.items) != 1 or places.last_leg - places.first_leg != 1:
        return False
    item = places.items[0]
    return isinstance(item, CountedPlaces) or (isinstance(item, NumberedPlaces) and len(item.seats) == 1)


def claim_argument(key: bytes, ttl_ms: bytes, places: bytes, once: Once | None, customer_id: str) -> bytes:
    """One claim, as ``hold_many`` takes it."""
    return b"%b|%b|%b|%b|%b" % (key, ttl_ms, places, b"" if once is None else once.body, customer_id.encode())


def many_arguments(event: SellableEvent, claims: Sequence[bytes]) -> list[bytes]:
    """The arguments of ``hold_many`` for *claims*."""
    return [event.layout.digest.encode(), _ONCE_TTL, *claims]
