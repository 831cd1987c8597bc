"""What places cost: the sections' own prices, or what a pricing service makes of them."""

import datetime as dt
from collections.abc import Sequence
from typing import Protocol

import msgspec

from engine.bookings import Price
from engine.claims import ClaimedItem
from engine.definition import PLACES_PER_HOLD_MAX, PRICE_MAX

AMOUNT_MAX = PRICE_MAX * PLACES_PER_HOLD_MAX  # of one booking: every place of the largest hold at the highest price


class WantedPlaces(msgspec.Struct, frozen=True):
    """What somebody is about to book, as pricing and inventory services are told; nothing of it is personal.

    ``price`` and ``amount`` of the items, and ``amount``, are by the sections' prices.
    """

    event_id: str
    items: Sequence[ClaimedItem]
    from_: str | None = msgspec.field(name="from")
    to: str | None
    customer_id: str
    currency: str
    starts_at: dt.datetime
    amount: int


class PricingProvider(Protocol):
    """Says what a booking costs."""

    async def price(self, wanted: WantedPlaces) -> Price:
        """The price, always: where it cannot be learned in time, the sections' prices, marked as a ``fallback``."""
        ...


def is_consistent(price: Price) -> bool:
    """Whether a price adds up, and every part of it is an amount that can be booked."""
    parts = (price.base, price.tax, price.discount, price.total)
    return all(0 <= part <= AMOUNT_MAX for part in parts) and price.total == price.base + price.tax - price.discount


def sections_price(wanted: WantedPlaces) -> Price:
    """What the sections say, and nothing on top."""
    return Price(wanted.amount, 0, 0, wanted.amount)


class FixedPricing:
    """The sections' prices, for installations and events without a pricing service."""

    async def price(self, wanted: WantedPlaces) -> Price:
        """The sections' prices."""
        return sections_price(wanted)
