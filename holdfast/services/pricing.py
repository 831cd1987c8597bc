"""Prices from a service over HTTP; where it is away, the sections' prices, marked as such."""

import msgspec

from engine.bookings import Price
from engine.pricing import WantedPlaces, is_consistent, sections_price
from holdfast.services.outbound import ServiceClient, ServiceFailed


class PricingAnswer(msgspec.Struct, frozen=True):
    """What the service says, in minor units of the currency it was told; other members are not looked at."""

    base: int
    tax: int
    discount: int
    total: int

    def __post_init__(self) -> None:
        """Refuse what does not add up: msgspec then tells it as an answer that makes no sense."""
        if not is_consistent(self.price()):
            raise ValueError("base + tax - discount is not total, or one of them is out of range")

    def price(self) -> Price:
        """The same as a booking keeps it."""
        return Price(self.base, self.tax, self.discount, self.total, "service")


_answer = msgspec.json.Decoder(PricingAnswer)


class HttpPricing:
    """Asks the service; a booking is never refused because it does not answer."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def price(self, wanted: WantedPlaces) -> Price:
        """The service's price, or, as ``fallback``, the sections'."""
        try:
            return (await self._client.ask(wanted, _answer)).price()
        except ServiceFailed:
            return msgspec.structs.replace(sections_price(wanted), source="fallback")
