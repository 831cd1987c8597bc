"""What the crowd got: counted per event, and every acknowledged booking kept."""

from collections.abc import Sequence

import msgspec

from holdfast.demo.box_office import Booked, OnSale


class EventTally(msgspec.Struct):
    """The crowd's own books on one event. Holds and bookings are counted, not places, where nothing else is said."""

    event: OnSale
    held: int = 0
    refused: int = 0
    released: int = 0
    lapsed: int = 0
    too_late: int = 0
    left_with_nothing: int = 0
    confirmed: list[Booked] = []
    confirming: list[Booked] = []
    unknown: set[str] = set()  # ids of holds whose confirmation was not answered: a booking may or may not exist
    places_sold: int = 0

    @property
    def abandoned(self) -> int:
        """Holds that were given back, or forgotten until their deadline."""
        return self.released + self.lapsed

    def book(self, booking: Booked) -> None:
        """Keep a booking that was acknowledged as durable."""
        self.confirmed.append(booking)
        self.places_sold += places_of(self.event, booking)


class Tally:
    """The books on all events, and how many buyers are through."""

    def __init__(self, events: Sequence[OnSale]) -> None:
        self.events = [EventTally(event) for event in events]
        self.buyers_done = 0


def places_of(event: OnSale, booking: Booked) -> int:
    """How many places a booking takes: a seat counts once for each leg."""
    first, last = event.leg_range(booking.from_, booking.to)
    return sum(item.quantity for item in booking.items) * (last - first)
