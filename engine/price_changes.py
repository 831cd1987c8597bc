"""What a booking costs when its places change, and what becomes of the difference. Pure, but for the price itself."""

from typing import Protocol

import msgspec

from engine.bookings import Price
from engine.claims import ClaimedItem, describe_places
from engine.events import SellableEvent
from engine.places import Places

# Payment statuses of a booking whose amount was paid, also where all of it was given back: more is to be charged.
CHARGED = ("held", "completed", "partially_refunded", "refunded")


class Priced(msgspec.Struct, frozen=True):
    """Places with what they cost, line by line and in all."""

    items: tuple[ClaimedItem, ...]
    price: Price


class PriceOf(Protocol):
    """Whoever says what places cost."""

    async def __call__(self, event: SellableEvent, places: Places, customer_id: str) -> Priced:
        """The price of *places* for a customer now.

        Raises:
            Refusal, Unavailable: They are not to be had on any terms.
        """
        ...


async def price_of(event: SellableEvent, places: Places, customer_id: str) -> Priced:  # noqa: ARG001 - all pay the same
    """The prices of the sections, and nothing else."""
    items, amount = describe_places(event.layout, places)
    return Priced(items, Price(amount, 0, 0, amount))


class Money(msgspec.Struct, frozen=True):
    """The columns of a booking after a change, and what is to be charged beside what was paid."""

    amount: int
    refunded: int
    charge: int = 0


def money_after(*, amount: int, refunded: int, was: int, total: int, is_charged: bool, percent: int) -> Money:
    """What a booking of *amount*, of which *refunded* was granted back, comes to when its places cost *total*.

    *was* is what the places cost that it had. Nobody has paid unless *is_charged*: then the amount is simply another.
    Else ``amount`` stays what was paid: of what it is cheaper now *percent* is granted back, rounded down, and never of
    more than is still paid; what is dearer is to be charged.
    """
    if not is_charged:
        return Money(total, min(refunded, total))
    difference = total - was
    if difference >= 0:
        return Money(amount + difference, refunded, difference)
    return Money(amount, refunded + min(-difference, amount - refunded) * percent // 100)
