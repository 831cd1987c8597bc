"""Trips as events: dates, clocks that change, names, ids, cars and prices."""

import datetime as dt
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.definition import EventDefinition, Policy
from engine.errors import InvalidRequest
from engine.importing.cars import Car, parse_car
from engine.importing.gtfs_tables import TimetableError
from engine.importing.timetable import Timetable, read_timetable
from engine.importing.timetable_events import events_from_timetable
from engine.layout import compile_layout

MONDAY = dt.date(2023, 6, 5)
SATURDAY = dt.date(2023, 6, 10)


def caltrain() -> Timetable:
    return read_timetable(Path(str(resources.files("holdfast.samples").joinpath("caltrain"))))


def events_of(timetable: Timetable | None = None, **options: Any) -> list[EventDefinition]:
    options = {"first_date": MONDAY, "cars": [Car("A1", 80, 4)], "currency": "USD", "leg_price": 200} | options
    options.setdefault("last_date", options["first_date"])
    return list(events_from_timetable(timetable or caltrain(), **options))


def small_feed(directory: Path, *, zone: str, stop_times: str, stops: str, trip_ids: str = "t") -> Timetable:
    trips = "".join(f"r,w,{trip_id}\n" for trip_id in trip_ids.split())
    files = {
        "agency.txt": f"agency_timezone\n{zone}\n",
        "stops.txt": f"stop_id,stop_name\n{stops}",
        "routes.txt": "route_id,route_short_name\nr,R1\n",
        "calendar.txt": (
            "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"
            "w,1,1,1,1,1,1,1,20200101,20291231\n"
        ),
        "trips.txt": f"route_id,service_id,trip_id\n{trips}",
        "stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"
        + "".join(stop_times.replace("TRIP", trip_id) for trip_id in trip_ids.split()),
    }
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return read_timetable(directory)


TWO_STOPS = "TRIP,01:30:00,01:30:00,a,1\nTRIP,03:30:00,03:30:00,b,2\n"


def test_trip_and_date_become_an_event_with_a_leg_for_each_hop() -> None:
    [event] = events_of(trips=["707"])
    assert (event.id, event.name, event.currency) == ("707-2023-06-05", "707 San Francisco", "USD")
    assert event.starts_at == dt.datetime(2023, 6, 5, 22, 59, tzinfo=dt.UTC)
    assert event.ends_at == dt.datetime(2023, 6, 6, 0, 5, tzinfo=dt.UTC)
    assert event.stops is not None
    assert len(event.stops) == 8
    layout = compile_layout(event)
    assert (layout.legs, layout.sections[0].capacity) == (7, 80)
    assert layout.leg_range("Palo Alto Caltrain", "Millbrae Caltrain") == (2, 5)


def test_event_carries_where_it_comes_from_and_its_local_times() -> None:
    [event] = events_of(trips=["707"])
    metadata = dict(event.metadata)
    stop_times = metadata.pop("stop_times")
    assert metadata == {
        "trip_id": "707",
        "route_id": "12867",
        "route": "B7",
        "service_id": "c_67488_b_79754_d_31",
        "service_date": "2023-06-05",
        "timezone": "America/Los_Angeles",
    }
    assert [call["stop"] for call in stop_times] == event.stops
    assert stop_times[2] == {
        "stop": "Palo Alto Caltrain",
        "stop_id": "70171",
        "arrival": "2023-06-05T16:21:00-07:00",
        "departure": "2023-06-05T16:21:00-07:00",
    }


def test_events_decode_to_themselves_as_the_api_reads_them() -> None:
    events = events_of(last_date=SATURDAY)
    assert msgspec.json.decode(msgspec.json.encode(events), type=list[EventDefinition]) == events


def test_week_has_weekday_trips_on_weekdays_and_weekend_trips_on_the_weekend() -> None:
    events = events_of(last_date=MONDAY + dt.timedelta(6))
    by_date: dict[str, int] = {}
    for event in events:
        date = event.metadata["service_date"]
        by_date[date] = by_date.get(date, 0) + 1
    assert list(by_date.values()) == [14, 14, 14, 14, 14, 2, 2]
    assert list(by_date) == sorted(by_date)


@pytest.mark.parametrize(
    ("date", "trip_ids"),
    [
        (dt.date(2023, 9, 4), ["281", "221"]),  # Labor Day: weekend service on a Monday
        (dt.date(2024, 1, 15), ["H281"]),  # a service that only calendar_dates.txt knows
        (dt.date(2030, 1, 1), []),  # past the end of the timetable
    ],
)
def test_holidays_run_by_their_exceptions(date: dt.date, trip_ids: list[str]) -> None:
    assert [event.metadata["trip_id"] for event in events_of(first_date=date)] == trip_ids


def test_trip_past_midnight_ends_on_the_next_day_and_keeps_its_service_date() -> None:
    [event] = events_of(trips=["145"])
    assert event.id == "145-2023-06-05"
    assert event.metadata["stop_times"][-1]["arrival"] == "2023-06-06T00:52:00-07:00"


@pytest.mark.parametrize(
    ("date", "departure", "arrival"),
    [
        # Clocks go from 02:00 to 03:00: noon minus twelve hours is 23:00 of the day before.
        (dt.date(2023, 3, 26), "2023-03-26T00:30:00+01:00", "2023-03-26T03:30:00+02:00"),
        # Clocks go from 03:00 to 02:00: noon minus twelve hours is 01:00.
        (dt.date(2023, 10, 29), "2023-10-29T02:30:00+02:00", "2023-10-29T03:30:00+01:00"),
        (dt.date(2023, 6, 5), "2023-06-05T01:30:00+02:00", "2023-06-05T03:30:00+02:00"),
    ],
)
def test_times_count_from_noon_minus_twelve_hours_when_clocks_change(
    tmp_path: Path, date: dt.date, departure: str, arrival: str
) -> None:
    timetable = small_feed(tmp_path, zone="Europe/Berlin", stops="a,Aachen\nb,Bonn\n", stop_times=TWO_STOPS)
    [event] = events_of(timetable, first_date=date)
    first, last = event.metadata["stop_times"]
    assert (first["departure"], last["arrival"]) == (departure, arrival)
    assert event.starts_at == dt.datetime.fromisoformat(departure)
    assert event.ends_at == event.starts_at + dt.timedelta(hours=2)


def test_stop_visited_again_gets_a_number_and_long_names_are_cut(tmp_path: Path) -> None:
    long = "Bahnhof " * 12
    timetable = small_feed(
        tmp_path,
        zone="Europe/Berlin",
        stops=f"a,Ring\nb,Ring (2)\nc,{long}\nd,{long}\n",
        stop_times="".join(f"TRIP,0{n}:00:00,0{n}:00:00,{stop},{n}\n" for n, stop in enumerate("abcda", start=1)),
    )
    [event] = events_of(timetable)
    assert event.stops == ["Ring", "Ring (2)", long[:64], long[:60] + " (2)", "Ring (3)"]


def test_time_left_to_interpolation_is_null_in_the_metadata(tmp_path: Path) -> None:
    calls = "TRIP,01:00:00,01:00:00,a,1\nTRIP,,,b,2\nTRIP,02:00:00,02:00:00,c,3\n"
    timetable = small_feed(tmp_path, zone="Europe/Berlin", stops="a,A\nb,B\nc,C\n", stop_times=calls)
    [event] = events_of(timetable)
    assert event.metadata["stop_times"][1] == {"stop": "B", "stop_id": "b", "arrival": None, "departure": None}


def test_trip_without_names_of_its_own_is_named_after_line_and_last_stop(tmp_path: Path) -> None:
    timetable = small_feed(tmp_path, zone="Europe/Berlin", stops="a,Aachen\nb,Bonn\n", stop_times=TWO_STOPS)
    assert events_of(timetable)[0].name == "R1 Bonn"


def test_event_ids_are_safe_and_unique_when_trip_ids_are_neither(tmp_path: Path) -> None:
    ids = ["ICE:5", "ice-5", "ice/5", "x" * 80, "~~~", "_7_", "ok"]
    timetable = small_feed(
        tmp_path, zone="Europe/Berlin", stops="a,A\nb,B\n", stop_times=TWO_STOPS, trip_ids=" ".join(ids)
    )
    events = events_of(timetable, id_prefix="winter-timetable-2023.berlin-")
    event_ids = {str(event.id) for event in events}
    assert len(event_ids) == len(ids)
    assert {event_id.removesuffix("-2023-06-05") for event_id in event_ids} >= {
        "winter-timetable-2023.berlin-ok",
        "winter-timetable-2023.berlin-7",
    }
    assert not any("berlin--" in event_id for event_id in event_ids)
    msgspec.convert([msgspec.to_builtins(event) for event in events], list[EventDefinition])


def test_event_id_of_a_trip_does_not_depend_on_what_else_is_chosen() -> None:
    everything = {event.metadata["trip_id"]: event.id for event in events_of()}
    for trip_id, event_id in everything.items():
        assert [event.id for event in events_of(trips=[trip_id])] == [event_id]


def test_trips_are_chosen_by_line_and_by_number() -> None:
    assert len(events_of(routes=["B7"])) == 12
    assert len(events_of(routes=["12867", "L1"])) == 14
    assert [event.id for event in events_of(routes=["B7"], trips=["101", "701"])] == ["701-2023-06-05"]


def test_price_is_for_any_ride_or_for_each_leg() -> None:
    [flat] = events_of(trips=["707"], leg_price=None, price=900)
    assert (flat.sections[0].price, flat.sections[0].leg_prices) == (900, None)
    [by_leg] = events_of(trips=["707"])
    assert (by_leg.sections[0].price, by_leg.sections[0].leg_prices) == (None, [200] * 7)


def test_policy_is_the_one_given() -> None:
    assert events_of(trips=["707"], policy=Policy(hold_ttl=30))[0].policy.hold_ttl == 30


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"price": 900}, "$.price"),
        ({"leg_price": None}, "$.price"),
        ({"leg_price": -1}, "$.sections[0].leg_prices[0]"),
        ({"leg_price": 10**9 + 1}, "$.sections[0].leg_prices[0]"),
        ({"currency": "dollars"}, "$.currency"),
        ({"cars": []}, "$.cars"),
        ({"cars": [Car("A", 4, 4), Car("A", 5)]}, "$.sections[1]"),
        ({"last_date": MONDAY - dt.timedelta(1)}, "$.last_date"),
        ({"last_date": MONDAY + dt.timedelta(1_100)}, "$.last_date"),
        ({"id_prefix": "Caltrain-"}, "$.id_prefix"),
        ({"id_prefix": "-"}, "$.id_prefix"),
        ({"id_prefix": "x" * 33}, "$.id_prefix"),
        ({"policy": Policy(hold_ttl=901)}, "$.policy.hold_ttl"),
    ],
)
def test_wrong_option_is_refused_before_any_event_is_made(options: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        events_from_timetable(
            caltrain(),
            **{
                "first_date": MONDAY,
                "last_date": MONDAY,
                "cars": [Car("A1", 80, 4)],
                "currency": "USD",
                "leg_price": 200,
            }
            | options,
        )
    assert refusal.value.path == path


@pytest.mark.parametrize(
    ("options", "file"), [({"trips": ["707", "999"]}, "trips.txt"), ({"routes": ["Z9"]}, "routes.txt")]
)
def test_trip_or_route_that_the_feed_does_not_have_is_refused(options: dict[str, Any], file: str) -> None:
    with pytest.raises(TimetableError) as error:
        events_of(**options)
    assert error.value.file == file


@pytest.mark.parametrize(
    ("text", "car"),
    [
        ("A1:80x4", Car("A1", 80, 4)),
        ("quiet-car:7x3", Car("quiet-car", 7, 3)),
        ("standing:120", Car("standing", 120)),
    ],
)
def test_car_is_read_from_text(text: str, car: Car) -> None:
    assert parse_car(text) == car


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A1",
        "A1:",
        ":80",
        "A1:0",
        "A1:0x4",
        "A1:80x0",
        "A1:80x11",
        "A1:2001x4",
        "A1:10000001",
        "A1:-5",
        "A 1:80",
        "A1:8x4x2",
    ],
)
def test_text_that_is_no_car_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_car(text)
    assert refusal.value.path == "$.cars"


@pytest.mark.parametrize(
    ("car", "labels", "block_starts"),
    [
        (Car("A", 8, 4), ["1-A", "1-B", "1-C", "1-D", "2-A", "2-B", "2-C", "2-D"], (0, 2, 4, 6)),
        (Car("A", 5, 3), ["1-A", "1-B", "1-C", "2-A", "2-B"], (0, 2, 3)),
        (Car("A", 2, 1), ["1-A", "2-A"], (0, 1)),
        (Car("A", 3, 2), ["1-A", "1-B", "2-A"], (0, 1, 2)),
    ],
)
def test_car_has_rows_with_an_aisle_in_the_middle(car: Car, labels: list[str], block_starts: tuple[int, ...]) -> None:
    layout = compile_layout(events_of(trips=["707"], cars=[car])[0])
    assert [laid.label for laid in layout.seats] == labels
    assert layout.block_starts == block_starts


def test_counted_car_has_a_capacity() -> None:
    layout = compile_layout(events_of(trips=["707"], cars=[Car("A", 8, 4), Car("standing", 120)])[0])
    assert [(section.seated, section.capacity) for section in layout.sections] == [(True, 8), (False, 120)]
