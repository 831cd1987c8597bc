"""What an audit finds: one value for each thing that Redis and the ledger do not agree on."""

from typing import Literal

import msgspec

from engine.layout import Layout
from engine.places import CountedPlaces, NumberedPlaces, Places

Kind = Literal[
    "epoch_wrong",  # Redis's state was built under another epoch than the ledger's: nothing sold in it can be committed
    "layout_wrong",  # Redis numbers places by another layout; nothing else was compared
    "status_wrong",  # Redis was not told the event's latest status: it sells what was closed, say
    "clock_wrong",  # the event's clock is ahead of Redis's, which was set back: until it has caught up no hold lapses
    "event_unknown",  # Redis has an event that the ledger does not know
    "missing_in_redis",  # a booking of the ledger or the journal
    "missing_in_ledger",  # a booking that is in neither ledger nor journal
    "booking_differs",  # both have it, with other places or another customer
    "record_wrong",  # a hold's or booking's record contradicts itself, or cannot be read
    "hold_lost",  # a deadline whose hold is gone: its places cannot come back by themselves
    "expiry_wrong",  # a hold whose deadline stands nowhere, or elsewhere, in the index of deadlines
    "due_wrong",  # the earliest deadline, in the event's state or the partition's wake-ups
    "cell_not_owned",  # a seat is taken on a leg and nobody has it
    "cell_not_set",  # a seat looks free on a leg and somebody has it
    "claimed_twice",  # two holds, or a hold and a booking, have one seat on one leg
    "counter_wrong",  # free, held or sold of a section's leg is not what the records add up to; or some is kept
    "oversold",  # more is claimed of a section's leg than it has
    "customer_wrong",  # the places counted towards a customer's limit
    "mark_wrong",  # which of the sold places are told to be off sale, or how many blocks, is not what records say
    "claim_missing",  # Postgres: a booking without its row in claims
    "claim_not_owned",  # Postgres: a row in claims without a booking that owns it
    "usage_wrong",  # Postgres: places sold of a counted section's leg
]

GUARD_KINDS = frozenset(("claim_missing", "claim_not_owned", "usage_wrong"))  # that concern Postgres alone


class Difference(msgspec.Struct, frozen=True):
    """One disagreement. ``redis`` is what Redis says, ``ledger`` what follows from bookings, holds and journal.

    ``subject`` is the id of the booking or hold, the customer, or the counter. For the kinds that concern Postgres
    alone, ``redis`` is empty, ``ledger`` is what the table says, and ``expected`` what the bookings make.
    """

    event_id: str
    kind: Kind
    section: str | None = None
    seat: str | None = None
    leg: int | None = None
    subject: str | None = None
    redis: str | int | None = None
    ledger: str | int | None = None
    expected: str | int | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for the same fault seen twice: of a counter that goes on counting, by how much it is wrong."""
        said, should = (self.redis, self.ledger) if self.expected is None else (self.ledger, self.expected)
        wrong = said - should if isinstance(said, int) and isinstance(should, int) else (said, should)
        return self.kind, self.section, self.seat, self.leg, self.subject, wrong


def name_seat(layout: Layout, seat: int) -> tuple[str | None, str]:
    """Section and label of the seat of dense index *seat*; its number alone where the layout has no such seat."""
    if not 0 <= seat < len(layout.seats):
        return None, f"#{seat}"
    return layout.section_of_seat(seat).id, layout.seats[seat].label


def name_places(layout: Layout, places: Places) -> tuple[str | None, str | None]:
    """Section and seat where they are one; a reader finds the rest in the places."""
    match places.items:
        case (NumberedPlaces(seats=(seat,)),):
            return name_seat(layout, seat)
        case (NumberedPlaces(section=section) | CountedPlaces(section=section),) if section < len(layout.sections):
            return layout.sections[section].id, None
        case _:
            return None, None
