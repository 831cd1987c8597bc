"""What the demo sells: a concert, a train and a festival, drafted from the samples in the formats organizers have."""

import datetime as dt
from pathlib import Path
from typing import Literal

import msgspec

from engine.definition import EventDefinition, Policy, SectionDefinition
from engine.importing.cars import Car
from engine.importing.timetable import Service, read_timetable
from engine.importing.timetable_events import events_from_timetable

SAMPLES = Path(__file__).parents[1] / "samples"
THEATRE = SAMPLES / "grand-theatre.json"
TIMETABLE = SAMPLES / "caltrain"
TRIP = "101"  # the first local of the day: the only kind of trip that calls everywhere
CARS = (Car("A", 64, 4), Car("B", 48, 4))  # rows of four with an aisle in the middle
LEG_PRICE = 75
THEATRE_PRICES = {"Premium": 12_000, "Standard": 8_000, "Economy": 4_500}
WEEKS_AHEAD = 4

Kind = Literal["seats", "journey", "places"]


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """An event to be created, and its seating plan (a JSON text in pretix's format) if it gets its seats from one."""

    kind: Kind
    title: str
    about: str
    definition: EventDefinition
    plan: bytes | None = None
    plan_prices: dict[str, int] = {}


def draft_events(today: dt.date) -> tuple[Draft, ...]:
    """The three events, on sale for a day some weeks from *today*."""
    day = _next_monday(today) + dt.timedelta(weeks=WEEKS_AHEAD)
    return _concert(day), _train(day), _festival(day)


def _concert(day: dt.date) -> Draft:
    return Draft(
        kind="seats",
        title="Concert",
        about="numbered seats of a theatre's plan in pretix's format",
        definition=EventDefinition(
            id="concert",
            name="An evening of quartets",
            starts_at=_at(day, 19),
            ends_at=_at(day, 22),
            currency="EUR",
            policy=Policy(hold_ttl=60, max_places_per_customer=8, orphan_seats="avoid"),
        ),
        plan=THEATRE.read_bytes(),
        plan_prices=THEATRE_PRICES,
    )


def _train(day: dt.date) -> Draft:
    timetable = read_timetable(TIMETABLE)
    # The feed was valid in 2023: the trip runs on, with the same stops and times of day.
    always = Service((True,) * 7, dt.date.min, dt.date.max)
    timetable = msgspec.structs.replace(timetable, services=dict.fromkeys(timetable.services, always))
    (definition,) = events_from_timetable(
        timetable,
        first_date=day,
        last_date=day,
        cars=CARS,
        currency="USD",
        leg_price=LEG_PRICE,
        trips=[TRIP],
        policy=Policy(hold_ttl=60, max_places_per_customer=4),
    )
    definition = msgspec.structs.replace(definition, id=f"train-{TRIP}")
    legs = len(definition.stops or ()) - 1
    return Draft(
        kind="journey", title="Train", about=f"numbered seats on {legs} legs of a GTFS timetable", definition=definition
    )


def _festival(day: dt.date) -> Draft:
    return Draft(
        kind="places",
        title="Festival",
        about="counted places in a meadow",
        definition=EventDefinition(
            id="festival",
            name="Three days in a meadow",
            starts_at=_at(day, 12),
            currency="EUR",
            sections=[SectionDefinition(id="meadow", name="Meadow", price=14_500, capacity=5_000)],
            policy=Policy(hold_ttl=60, max_places_per_hold=20),
        ),
    )


def _next_monday(day: dt.date) -> dt.date:
    return day + dt.timedelta(days=7 - day.weekday())


def _at(day: dt.date, hour: int) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(hour), dt.UTC)
