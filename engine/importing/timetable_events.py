"""A timetable's trips as events: one for each trip and service date, with a leg for each hop between two stops."""

import datetime as dt
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import msgspec

from engine.definition import EventDefinition, Policy
from engine.errors import InvalidRequest
from engine.importing.cars import Car, sections_of_cars
from engine.importing.gtfs_tables import TimetableError
from engine.importing.json_errors import invalid_json
from engine.importing.timetable import Timetable, Trip
from engine.layout import compile_layout

DAYS_MAX = 1_100  # three years: a longer range is a mistyped date
STOP_NAME_MAX = 64  # of a PlaceName
EVENT_ID_MAX = 64
DEFAULT_POLICY = Policy()
_ID_PREFIX = re.compile(r"(?:[a-z0-9][a-z0-9._-]{0,31})?")


def events_from_timetable(
    timetable: Timetable,
    *,
    first_date: dt.date,
    last_date: dt.date,
    cars: Sequence[Car],
    currency: str,
    price: int | None = None,
    leg_price: int | None = None,
    trips: Collection[str] = (),
    routes: Collection[str] = (),
    policy: Policy = DEFAULT_POLICY,
    id_prefix: str = "",
) -> Iterator[EventDefinition]:
    """One event for each trip and service date from *first_date* to *last_date*, both included.

    Events come by date, and on a date in the order of the feed. Exactly one of *price* (for any ride) and
    *leg_price* (for each hop) is given, in minor units. *trips* and *routes* keep only what they name, by id or short
    name; empty, they keep all. Every trip is checked before its first event is yielded.

    Raises:
        InvalidRequest: An option is wrong.
        TimetableError: The feed has no such trip or route.
    """
    if (price is None) == (leg_price is None):
        raise InvalidRequest("$.price", "exactly one of price and leg_price is needed")
    if not 0 <= (last_date - first_date).days < DAYS_MAX:
        raise InvalidRequest("$.last_date", f"must be 0 to {DAYS_MAX - 1} days after the first")
    if not cars:
        raise InvalidRequest("$.cars", "a train needs at least one car")
    if _ID_PREFIX.fullmatch(id_prefix) is None:
        raise InvalidRequest("$.id_prefix", f"must be up to 32 of a-z, 0-9, '.', '_' and '-': {id_prefix!r}")
    chosen = _chosen_trips(timetable, trips, routes)
    slugs = _trip_slugs(timetable, EVENT_ID_MAX - len(id_prefix) - len("-2023-06-05"))
    templates = {
        trip.id: _template(trip, cars=cars, currency=currency, price=price, leg_price=leg_price, policy=policy)
        for trip in chosen
    }
    return (
        _event(timetable, trip, date, templates[trip.id], f"{id_prefix}{slugs[trip.id]}-{date.isoformat()}")
        for date in (first_date + dt.timedelta(days) for days in range((last_date - first_date).days + 1))
        for trip in chosen
        if timetable.services[trip.service_id].runs_on(date)
    )


def _chosen_trips(timetable: Timetable, trips: Collection[str], routes: Collection[str]) -> list[Trip]:
    for name in trips:
        if not any(name in (trip.id, trip.short_name) for trip in timetable.trips):
            raise TimetableError("trips.txt", None, f"has no trip {name!r}")
    for name in routes:
        if not any(name in (route.id, route.short_name) for route in timetable.routes.values()):
            raise TimetableError("routes.txt", None, f"has no route {name!r}")
    return [
        trip
        for trip in timetable.trips
        if (not trips or trip.id in trips or trip.short_name in trips)
        and (not routes or trip.route.id in routes or trip.route.short_name in routes)
    ]


def _template(
    trip: Trip, *, cars: Sequence[Car], currency: str, price: int | None, leg_price: int | None, policy: Policy
) -> EventDefinition:
    """What the events of *trip* have in common, checked as if a client had sent it."""
    legs = len(trip.stop_times) - 1
    template = EventDefinition(
        name=_name(trip),
        starts_at=dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
        currency=currency,
        sections=sections_of_cars(cars, price=price, leg_prices=None if leg_price is None else [leg_price] * legs),
        stops=_stop_names(trip),
        policy=policy,
    )
    try:
        compile_layout(msgspec.convert(msgspec.to_builtins(template), EventDefinition))
    except msgspec.ValidationError as error:
        raise invalid_json(error) from error
    return template


def _event(
    timetable: Timetable, trip: Trip, date: dt.date, template: EventDefinition, event_id: str
) -> EventDefinition:
    noon = dt.datetime.combine(date, dt.time(12), timetable.timezone).astimezone(dt.UTC)
    midnight = noon - dt.timedelta(hours=12)  # counted in UTC, so that days of 23 and 25 hours come out right

    def at(time_s: int | None) -> dt.datetime | None:
        return None if time_s is None else midnight + dt.timedelta(seconds=time_s)

    def local(time_s: int | None) -> str | None:
        return None if (moment := at(time_s)) is None else moment.astimezone(timetable.timezone).isoformat()

    starts_at = at(trip.stop_times[0].departure_s)
    assert starts_at is not None  # read_timetable saw to it
    return msgspec.structs.replace(
        template,
        id=event_id,
        starts_at=starts_at,
        ends_at=at(trip.stop_times[-1].arrival_s),
        metadata={
            "trip_id": trip.id,
            "route_id": trip.route.id,
            "route": trip.route.short_name or trip.route.long_name,
            "service_id": trip.service_id,
            "service_date": date.isoformat(),
            "timezone": timetable.timezone.key,
            "stop_times": [
                {
                    "stop": name,
                    "stop_id": call.stop.id,
                    "arrival": local(call.arrival_s),
                    "departure": local(call.departure_s),
                }
                for name, call in zip(template.stops or [], trip.stop_times, strict=True)
            ],
        },
    )


def _name(trip: Trip) -> str:
    """``707 San Francisco``: what is written on the train, else the line, and where it goes."""
    number = trip.short_name or trip.route.short_name or trip.id
    return f"{number} {trip.headsign or trip.stop_times[-1].stop.name}"[:200]


def _stop_names(trip: Trip) -> list[str]:
    """The stops' names; a name that comes again gets a number, since a range is told by the names of its ends."""
    names: list[str] = []
    for call in trip.stop_times:
        name, visit = call.stop.name[:STOP_NAME_MAX], 1
        while name in names:
            visit += 1
            suffix = f" ({visit})"
            name = call.stop.name[: STOP_NAME_MAX - len(suffix)] + suffix
        names.append(name)
    return names


def _trip_slugs(timetable: Timetable, length_max: int) -> dict[str, str]:
    """A part of an event id for every trip of the feed, the same whatever is chosen of it.

    A trip's id in lower case, with ``-`` for what an event id cannot contain; where that is empty, too long or not the
    trip's alone, the end is a digest of the trip's id.
    """
    plain = {trip.id: re.sub(r"[^a-z0-9._-]+", "-", trip.id.lower()).strip("-._") for trip in timetable.trips}
    count = Counter(plain.values())

    def slug(trip_id: str, text: str) -> str:
        if text and len(text) <= length_max and count[text] == 1:
            return text
        digest = hashlib.sha256(trip_id.encode()).hexdigest()[:10]
        return f"{text[: length_max - 11]}-{digest}".lstrip("-")

    return {trip_id: slug(trip_id, text) for trip_id, text in plain.items()}
