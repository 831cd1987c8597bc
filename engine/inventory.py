"""Whether places that are free here are to be had elsewhere, too: a say that somebody else's system may have."""

from typing import Protocol

import msgspec

from engine.pricing import WantedPlaces


class InventoryAnswer(msgspec.Struct, frozen=True):
    """Whether the places may be booked, and if not, why; ``reason`` is for the customer to read."""

    available: bool
    reason: str | None = None


class InventoryProvider(Protocol):
    """Is asked before every booking of an event with the policy ``inventory: service``."""

    async def check(self, wanted: WantedPlaces) -> InventoryAnswer:
        """Whether these places may be booked.

        Raises:
            InventoryUnavailable: It cannot be said now; then nothing may be booked.
        """
        ...
