"""A timetable as GTFS tells it: trips, the stops they make, and the dates on which they run.

Source: the GTFS Schedule reference, gtfs.org. Read are agency, stops, routes, calendar, calendar_dates, trips and
stop_times. Times of a trip are seconds since noon minus twelve hours of its service date: midnight, except on the days
on which clocks change, and more than 24 hours for what lies behind the next midnight.
"""

import datetime as dt
import re
import zoneinfo
from collections.abc import Container
from pathlib import Path

import msgspec

from engine.importing.gtfs_tables import Feed, TableRow, TimetableError

STOP_TIMES_MAX = 3_000_000  # about 1 GB of memory; a greater feed is to be cut to the agency that is wanted
HOURS_MAX = 240  # the longest train journey takes seven days
_TIME = re.compile(r"([0-9]{1,3}):([0-5][0-9]):([0-5][0-9])")
_DATE = re.compile(r"[0-9]{8}")
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Stop(msgspec.Struct, frozen=True):
    """A platform or station."""

    id: str
    name: str


class StopTime(msgspec.Struct, frozen=True):
    """One call of a trip; times are ``None`` where the feed leaves them to interpolation."""

    stop: Stop
    sequence: int
    arrival_s: int | None
    departure_s: int | None


class Route(msgspec.Struct, frozen=True):
    """A line; GTFS asks for one of the two names at least."""

    id: str
    short_name: str
    long_name: str


class Service(msgspec.Struct):
    """The dates on which trips run: weekdays between two dates, plus ``added``, minus ``removed``."""

    weekdays: tuple[bool, ...] = ()
    first_date: dt.date = dt.date.max
    last_date: dt.date = dt.date.min
    added: set[dt.date] = msgspec.field(default_factory=set)
    removed: set[dt.date] = msgspec.field(default_factory=set)

    def runs_on(self, date: dt.date) -> bool:
        """Whether the service runs on the service date *date*."""
        if date in self.added:
            return True
        return self.first_date <= date <= self.last_date and date not in self.removed and self.weekdays[date.weekday()]


class Trip(msgspec.Struct, frozen=True):
    """One run, with its calls in order; the first and the last have both of their times."""

    id: str
    short_name: str
    headsign: str
    route: Route
    service_id: str
    stop_times: tuple[StopTime, ...]


class Timetable(msgspec.Struct, frozen=True):
    """A whole feed; ``trips`` are in the order of the feed."""

    timezone: zoneinfo.ZoneInfo
    services: dict[str, Service]
    routes: dict[str, Route]
    trips: tuple[Trip, ...]


def read_timetable(path: Path) -> Timetable:
    """The timetable in the GTFS directory or ``.zip`` file at *path*.

    Raises:
        TimetableError: The feed is incomplete, contradicts itself or is not GTFS; names file and line.
    """
    with Feed(path) as feed:
        if feed.has("frequencies.txt") and next(feed.rows("frequencies.txt", columns=["trip_id"]), None):
            raise TimetableError("frequencies.txt", 2, "trips by headway have no departures of their own to sell")
        timezone = _read_timezone(feed)
        stops = _read_stops(feed)
        routes = _read_routes(feed)
        services = _read_services(feed)
        trip_rows = _read_trip_rows(feed, routes, services)
        stop_times = _read_stop_times(feed, stops, trip_rows)
        trips = tuple(_trip(row, routes, stop_times.get(trip_id, [])) for trip_id, row in trip_rows.items())
    return Timetable(timezone, services, routes, trips)


def _read_timezone(feed: Feed) -> zoneinfo.ZoneInfo:
    timezone: zoneinfo.ZoneInfo | None = None
    for row in feed.rows("agency.txt", columns=["agency_timezone"]):
        key = row.need("agency_timezone")
        if timezone is not None and timezone.key != key:
            raise row.error(f"agency_timezone differs from the one above: {key}")
        try:
            timezone = zoneinfo.ZoneInfo(key)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise row.error(f"agency_timezone is unknown to this computer: {key!r}") from error
    if timezone is None:
        raise TimetableError("agency.txt", None, "names no agency")
    return timezone


def _read_stops(feed: Feed) -> dict[str, Stop]:
    stops: dict[str, Stop] = {}
    for row in feed.rows("stops.txt", columns=["stop_id", "stop_name"]):
        stop_id = _new_id(row, "stop_id", stops)
        stops[stop_id] = Stop(stop_id, row.get("stop_name") or stop_id)
    return stops


def _read_routes(feed: Feed) -> dict[str, Route]:
    routes: dict[str, Route] = {}
    for row in feed.rows("routes.txt", columns=["route_id"]):
        route_id = _new_id(row, "route_id", routes)
        routes[route_id] = Route(route_id, row.get("route_short_name"), row.get("route_long_name"))
    return routes


def _read_services(feed: Feed) -> dict[str, Service]:
    services: dict[str, Service] = {}
    if not feed.has("calendar.txt") and not feed.has("calendar_dates.txt"):
        raise TimetableError("calendar.txt", None, "is missing from the feed, and calendar_dates.txt too")
    if feed.has("calendar.txt"):
        for row in feed.rows("calendar.txt", columns=["service_id", *_WEEKDAYS, "start_date", "end_date"]):
            service_id = _new_id(row, "service_id", services)
            services[service_id] = Service(
                weekdays=tuple(_flag(row, weekday) for weekday in _WEEKDAYS),
                first_date=_date(row, "start_date"),
                last_date=_date(row, "end_date"),
            )
    if feed.has("calendar_dates.txt"):
        for row in feed.rows("calendar_dates.txt", columns=["service_id", "date", "exception_type"]):
            service = services.setdefault(row.need("service_id"), Service())
            date = _date(row, "date")
            if date in service.added or date in service.removed:
                raise row.error(f"service {row.get('service_id')!r} has two exceptions for one date")
            match row.get("exception_type"):
                case "1":
                    service.added.add(date)
                case "2":
                    service.removed.add(date)
                case other:
                    raise row.error(f"exception_type must be 1 or 2: {other!r}")
    return services


def _read_trip_rows(feed: Feed, routes: dict[str, Route], services: dict[str, Service]) -> dict[str, TableRow]:
    trips: dict[str, TableRow] = {}
    for row in feed.rows("trips.txt", columns=["route_id", "service_id", "trip_id"]):
        if row.need("route_id") not in routes:
            raise row.error(f"unknown route {row.get('route_id')!r}")
        if row.need("service_id") not in services:
            raise row.error(f"unknown service {row.get('service_id')!r}")
        trips[_new_id(row, "trip_id", trips)] = row
    return trips


def _read_stop_times(
    feed: Feed, stops: dict[str, Stop], trips: dict[str, TableRow]
) -> dict[str, list[tuple[TableRow, StopTime]]]:
    """The calls of every trip by its id, ordered by ``stop_sequence``: the rows of the file may come in any order."""
    calls: dict[str, list[tuple[TableRow, StopTime]]] = {}
    columns = ["trip_id", "arrival_time", "departure_time", "stop_id", "stop_sequence"]
    for count, row in enumerate(feed.rows("stop_times.txt", columns=columns), start=1):
        if count > STOP_TIMES_MAX:
            raise row.error(f"more than {STOP_TIMES_MAX} stop times: cut the feed to the agency that is wanted")
        if row.need("trip_id") not in trips:
            raise row.error(f"unknown trip {row.get('trip_id')!r}")
        if (stop := stops.get(row.need("stop_id"))) is None:
            raise row.error(f"unknown stop {row.get('stop_id')!r}")
        arrival_s, departure_s = _time_s(row, "arrival_time"), _time_s(row, "departure_time")
        stop_time = StopTime(
            stop,
            _sequence(row),
            arrival_s if arrival_s is not None else departure_s,
            departure_s if departure_s is not None else arrival_s,
        )
        calls.setdefault(row.get("trip_id"), []).append((row, stop_time))
    for of_trip in calls.values():
        of_trip.sort(key=lambda call: call[1].sequence)
        _check_order(of_trip)
    return calls


def _check_order(calls: list[tuple[TableRow, StopTime]]) -> None:
    last_sequence, last_s = -1, -1
    for row, stop_time in calls:
        if stop_time.sequence == last_sequence:
            raise row.error(f"stop_sequence {last_sequence} is there twice in trip {row.get('trip_id')!r}")
        last_sequence = stop_time.sequence
        for column, time_s in (("arrival_time", stop_time.arrival_s), ("departure_time", stop_time.departure_s)):
            if time_s is None:
                continue
            if time_s < last_s:
                raise row.error(f"{column} {row.get(column)} is before the time above it in the trip")
            last_s = time_s
    for row, stop_time in (calls[0], calls[-1]):
        if stop_time.departure_s is None:
            raise row.error("the first and the last stop of a trip need a time")


def _trip(row: TableRow, routes: dict[str, Route], calls: list[tuple[TableRow, StopTime]]) -> Trip:
    if len(calls) < 2:
        raise row.error(f"trip {row.get('trip_id')!r} has fewer than two stops")
    if calls[0][1].departure_s == calls[-1][1].arrival_s:
        raise calls[-1][0].error(f"trip {row.get('trip_id')!r} arrives when it departs")
    return Trip(
        id=row.get("trip_id"),
        short_name=row.get("trip_short_name"),
        headsign=row.get("trip_headsign"),
        route=routes[row.get("route_id")],
        service_id=row.get("service_id"),
        stop_times=tuple(stop_time for _, stop_time in calls),
    )


def _new_id(row: TableRow, column: str, known: Container[str]) -> str:
    if (new_id := row.need(column)) in known:
        raise row.error(f"{column} {new_id!r} is there twice")
    return new_id


def _flag(row: TableRow, column: str) -> bool:
    if (text := row.get(column)) not in ("0", "1"):
        raise row.error(f"{column} must be 0 or 1: {text!r}")
    return text == "1"


def _date(row: TableRow, column: str) -> dt.date:
    text = row.get(column)
    if _DATE.fullmatch(text) is None:
        raise row.error(f"{column} must be a date like 20230605: {text!r}")
    try:
        return dt.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        raise row.error(f"{column} is a day that there is not: {text!r}") from None


def _time_s(row: TableRow, column: str) -> int | None:
    text = row.get(column)
    if not text:
        return None
    match = _TIME.fullmatch(text)
    if match is None or int(match[1]) > HOURS_MAX:
        raise row.error(f"{column} must be a time like 07:12:00 or, past midnight, 25:10:00: {text!r}")
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])


def _sequence(row: TableRow) -> int:
    text = row.get("stop_sequence")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise row.error(f"stop_sequence must be a number: {text!r}")
    return int(text)
