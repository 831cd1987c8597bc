"""Consent of an inventory service over HTTP; where it is away, nothing is booked."""

from typing import Annotated

import msgspec

from engine.definition import PRINTABLE_PATTERN
from engine.errors import InventoryUnavailable
from engine.inventory import InventoryAnswer
from engine.pricing import WantedPlaces
from holdfast.services.outbound import ServiceClient, ServiceFailed


class InventoryReply(msgspec.Struct, frozen=True):
    """What the service says; other members are not looked at."""

    available: bool
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=PRINTABLE_PATTERN)] | None = None


_reply = msgspec.json.Decoder(InventoryReply)


class HttpInventory:
    """Asks the service; what it does not consent to is not booked, and neither is what it cannot be asked about."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def check(self, wanted: WantedPlaces) -> InventoryAnswer:
        """Whether these places may be booked.

        Raises:
            InventoryUnavailable: It cannot be said now.
        """
        try:
            reply = await self._client.ask(wanted, _reply)
        except ServiceFailed as failed:
            raise InventoryUnavailable(failed.outcome) from failed
        return InventoryAnswer(reply.available, reply.reason)
