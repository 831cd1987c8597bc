"""The two events of a benchmark: a meadow to hold places of, and a hall whose seats are booked."""

import datetime as dt

from engine.definition import EventDefinition, Policy, RowDefinition, SectionDefinition
from holdfast.demo.scenario import Draft

HOLDS_MAX = 200_000  # of a run: some 100 MB of Valkey's memory, and an audit of seconds
BOOKINGS_MAX = 50_000  # seats of the hall
SEATS_PER_ROW = 100
CUSTOMERS = 256
# Nothing lapses while it is measured and checked.
_POLICY = Policy(hold_ttl=7_200, hold_ttl_max=7_200, max_places_per_customer=BOOKINGS_MAX, waitlist=False)


def draft_meadow() -> Draft:
    """Counted places, as many as are held at most."""
    section = SectionDefinition(id="meadow", price=4_500, capacity=HOLDS_MAX)
    return Draft(kind="places", title="Meadow", about="counted places, to hold", definition=_define("meadow", section))


def draft_hall() -> Draft:
    """Numbered seats, as many as are booked at most."""
    rows = [
        RowDefinition(id=f"R{row}", seats=[str(number) for number in range(1, SEATS_PER_ROW + 1)])
        for row in range(BOOKINGS_MAX // SEATS_PER_ROW)
    ]
    section = SectionDefinition(id="stalls", price=9_000, rows=rows)
    return Draft(kind="seats", title="Hall", about="numbered seats, to book", definition=_define("hall", section))


def _define(event_id: str, section: SectionDefinition) -> EventDefinition:
    starts_at = dt.datetime.now(dt.UTC) + dt.timedelta(days=28)
    return EventDefinition(
        id=event_id, name=event_id.title(), starts_at=starts_at, currency="EUR", sections=[section], policy=_POLICY
    )
