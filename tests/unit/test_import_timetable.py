"""Reading GTFS: a real feed from a directory and from a zip file, and every way of being wrong, with file and line."""

import datetime as dt
import shutil
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from engine.importing.gtfs_tables import TimetableError
from engine.importing.timetable import Timetable, Trip, read_timetable

FEED = {
    "agency.txt": "agency_id,agency_timezone\n1,Europe/Berlin\n",
    "stops.txt": "stop_id,stop_name\na,Aachen\nb,Bonn\nc,Celle\n",
    "routes.txt": "route_id,route_short_name\nr,R1\n",
    "calendar.txt": (
        "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"
        "w,1,1,1,1,1,0,0,20230601,20230630\n"
    ),
    "calendar_dates.txt": "service_id,date,exception_type\nw,20230605,2\nw,20230610,1\nx,20230611,1\n",
    "trips.txt": "route_id,service_id,trip_id,trip_short_name,trip_headsign\nr,w,t1,1,Celle\nr,x,t2,2,Celle\n",
    "stop_times.txt": (
        "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"
        "t1,08:00:00,08:00:00,a,1\nt1,08:30:00,08:31:00,b,5\nt1,09:00:00,09:00:00,c,9\n"
        "t2,8:00:00,8:00:00,a,1\nt2,24:10:00,24:10:00,c,2\n"
    ),
}


def write_feed(directory: Path, **changes: str | bytes | None) -> Path:
    """The small feed with *changes* by file name without its ending; ``None`` leaves the file out."""
    directory.mkdir(exist_ok=True)
    files: dict[str, str | bytes | None] = {**FEED, **{f"{name}.txt": text for name, text in changes.items()}}
    for name, text in files.items():
        if text is not None:
            (directory / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return directory


def trip(timetable: Timetable, trip_id: str) -> Trip:
    return next(trip for trip in timetable.trips if trip.id == trip_id)


def caltrain() -> Path:
    return Path(str(resources.files("holdfast.samples").joinpath("caltrain")))


def test_sample_feed_is_read_whole() -> None:
    timetable = read_timetable(caltrain())
    assert timetable.timezone.key == "America/Los_Angeles"
    assert len(timetable.trips) == 17
    bullet = trip(timetable, "707")
    assert (bullet.short_name, bullet.headsign, bullet.route.short_name) == ("707", "San Francisco", "B7")
    assert [call.stop.name for call in bullet.stop_times][::7] == [
        "San Jose Diridon Caltrain",
        "San Francisco Caltrain",
    ]
    assert bullet.stop_times[0].departure_s == 15 * 3600 + 59 * 60


def test_sample_feed_counts_on_behind_midnight() -> None:
    last_call = trip(read_timetable(caltrain()), "145").stop_times[-1]
    assert last_call.arrival_s == 24 * 3600 + 52 * 60


def test_zip_file_reads_like_the_directory(tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "caltrain"), "zip", caltrain())
    assert read_timetable(Path(archive)).trips == read_timetable(caltrain()).trips


def test_service_runs_on_its_weekdays_and_exceptions(tmp_path: Path) -> None:
    services = read_timetable(write_feed(tmp_path)).services
    june = [dt.date(2023, 6, 1) + dt.timedelta(days) for days in range(-2, 32)]
    expected = {d for d in june if d.weekday() < 5 and d.month == 6} - {dt.date(2023, 6, 5)} | {dt.date(2023, 6, 10)}
    assert {date for date in june if services["w"].runs_on(date)} == expected
    assert {date for date in june if services["x"].runs_on(date)} == {dt.date(2023, 6, 11)}


def test_either_calendar_file_is_enough(tmp_path: Path) -> None:
    weekly = write_feed(tmp_path / "weekly", calendar_dates=None, trips="route_id,service_id,trip_id\nr,w,t1\nr,w,t2\n")
    assert read_timetable(weekly).services["w"].runs_on(dt.date(2023, 6, 5))
    by_date = write_feed(tmp_path / "dates", calendar=None)
    assert not read_timetable(by_date).services["w"].runs_on(dt.date(2023, 6, 6))


def test_calls_are_ordered_by_sequence_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    head, *rows = FEED["stop_times.txt"].splitlines()
    shuffled = "\n".join([head, *reversed(rows)])
    assert read_timetable(write_feed(tmp_path / "b", stop_times=shuffled)) == read_timetable(write_feed(tmp_path / "a"))


def test_byte_order_mark_windows_line_ends_quotes_and_blank_lines_are_read(tmp_path: Path) -> None:
    text = '\ufeffstop_id,stop_name\r\na,"Aachen ""Hbf"", West"\r\n\r\nb, Bonn \r\nc,"Celle\r\nStadt"\r\n\r\n'
    calls = trip(read_timetable(write_feed(tmp_path, stops=text)), "t1").stop_times
    assert [call.stop.name for call in calls] == ['Aachen "Hbf", West', "Bonn", "Celle Stadt"]


def test_times_between_the_ends_may_be_left_to_interpolation(tmp_path: Path) -> None:
    text = FEED["stop_times.txt"].replace("08:30:00,08:31:00", ",")
    call = trip(read_timetable(write_feed(tmp_path, stop_times=text)), "t1").stop_times[1]
    assert (call.arrival_s, call.departure_s) == (None, None)


def test_one_time_of_a_call_stands_for_both(tmp_path: Path) -> None:
    text = FEED["stop_times.txt"].replace("08:30:00,08:31:00", ",08:31:00").replace("09:00:00,09:00:00", "09:00:00,")
    calls = trip(read_timetable(write_feed(tmp_path, stop_times=text)), "t1").stop_times
    assert calls[1].arrival_s == calls[1].departure_s == 8 * 3600 + 31 * 60
    assert calls[2].arrival_s == calls[2].departure_s == 9 * 3600


def test_stop_without_a_name_is_called_by_its_id(tmp_path: Path) -> None:
    feed = write_feed(tmp_path, stops=FEED["stops.txt"].replace("Bonn", ""))
    assert trip(read_timetable(feed), "t1").stop_times[1].stop.name == "b"


def _with(file: str, old: str, new: str) -> tuple[str, str]:
    assert FEED[f"{file}.txt"].count(old) == 1, old
    return file, FEED[f"{file}.txt"].replace(old, new)


T1 = "t1,08:00:00,08:00:00,a,1\n"


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (("agency", None), None, "is missing from the feed"),
        (("stops", None), None, "is missing from the feed"),
        (("routes", None), None, "is missing from the feed"),
        (("trips", None), None, "is missing from the feed"),
        (("stop_times", None), None, "is missing from the feed"),
        (("stops", ""), 1, "has no column stop_id"),
        (_with("agency", "agency_timezone", "timezone"), 1, "has no column agency_timezone"),
        (_with("stops", "stop_id", "id"), 1, "has no column stop_id"),
        (_with("stops", "stop_name", "stop_id"), 1, "has no column stop_name"),
        (_with("calendar", "friday", "freitag"), 1, "has no column friday"),
        (_with("calendar_dates", "exception_type", "kind"), 1, "has no column exception_type"),
        (_with("trips", "trip_id", "id"), 1, "has no column trip_id"),
        (_with("trips", "trip_headsign", "trip_short_name"), 1, "has a column twice"),
        (_with("stop_times", "stop_sequence", "sequence"), 1, "has no column stop_sequence"),
        (("agency", "agency_timezone\n"), None, "names no agency"),
        (_with("agency", "Europe/Berlin", "Europe/Atlantis"), 2, "unknown to this computer"),
        (_with("agency", "Europe/Berlin", "../../etc/passwd"), 2, "unknown to this computer"),
        (_with("agency", "Europe/Berlin", ""), 2, "agency_timezone is empty"),
        (_with("agency", "Europe/Berlin\n", "Europe/Berlin\n2,Europe/Paris\n"), 3, "differs from the one above"),
        (_with("stops", "c,Celle", "a,Celle"), 4, "stop_id 'a' is there twice"),
        (_with("stops", "c,Celle", ",Celle"), 4, "stop_id is empty"),
        (_with("stops", "c,Celle", "c,Celle,5"), 4, "has 3 fields where the header has 2"),
        (_with("stops", "c,Celle", "c"), 4, "has 1 fields where the header has 2"),
        (_with("stops", "Bonn", "Bo\x00nn"), 3, "contains a control character"),
        (_with("stops", "b,Bonn", 'b,"Bonn'), 4, "is not CSV"),
        (_with("stops", "b,Bonn", 'b,"Bonn"x'), 3, "is not CSV"),
        (("stops", b"stop_id,stop_name\na,Aachen\nb,B\xf6nn\nc,Celle\n"), 3, "is not UTF-8"),
        (("stops", FEED["stops.txt"].encode("utf-16")), 1, "is not UTF-8"),
        (_with("routes", "r,R1\n", "r,R1\nr,R2\n"), 3, "route_id 'r' is there twice"),
        (_with("calendar", "w,1,1", "w,1,2"), 2, "tuesday must be 0 or 1"),
        (_with("calendar", "20230630", "20230631"), 2, "end_date is a day that there is not"),
        (_with("calendar", "20230601", "2023-06-01"), 2, "start_date must be a date like 20230605"),
        (_with("calendar_dates", "20230605,2", "20230605,3"), 2, "exception_type must be 1 or 2"),
        (_with("calendar_dates", "20230605,2", ",2"), 2, "date must be a date"),
        (_with("calendar_dates", "20230610,1", "20230605,1"), 3, "two exceptions for one date"),
        (_with("trips", "r,w,t1", "q,w,t1"), 2, "unknown route 'q'"),
        (_with("trips", "r,x,t2", "r,y,t2"), 3, "unknown service 'y'"),
        (_with("trips", "r,x,t2", "r,x,t1"), 3, "trip_id 't1' is there twice"),
        (_with("trips", "r,x,t2,2,Celle\n", "r,x,t2,2,Celle\nr,x,t3,,\n"), 4, "trip 't3' has fewer than two stops"),
        (_with("stop_times", T1, T1.replace("t1", "t9")), 2, "unknown trip 't9'"),
        (_with("stop_times", T1, T1.replace(",a,", ",z,")), 2, "unknown stop 'z'"),
        (_with("stop_times", T1, T1.replace("08:00:00,", "8 Uhr,", 1)), 2, "arrival_time must be a time"),
        (_with("stop_times", "08:30:00,08:31:00", "08:30:00,08:61:00"), 3, "departure_time must be a time"),
        (_with("stop_times", "09:00:00,09:00:00", "900:00:00,900:00:00"), 4, "arrival_time must be a time"),
        (_with("stop_times", "09:00:00,09:00:00", "-1:00:00,09:00:00"), 4, "arrival_time must be a time"),
        (_with("stop_times", "08:30:00,08:31:00", "08:30:00,08:29:00"), 3, "departure_time 08:29:00 is before"),
        (_with("stop_times", "09:00:00,09:00:00", "08:30:59,09:00:00"), 4, "arrival_time 08:30:59 is before"),
        (_with("stop_times", "09:00:00,09:00:00", ","), 4, "the first and the last stop of a trip need a time"),
        (_with("stop_times", T1, "t1,,,a,1\n"), 2, "the first and the last stop of a trip need a time"),
        (_with("stop_times", "b,5", "b,1"), 3, "stop_sequence 1 is there twice in trip 't1'"),
        (_with("stop_times", "b,5", "b,-5"), 3, "stop_sequence must be a number"),
        (_with("stop_times", "b,5", "b,"), 3, "stop_sequence must be a number"),
        (_with("stop_times", "b,5", "b,٥"), 3, "stop_sequence must be a number"),
        (_with("stop_times", "24:10:00,24:10:00", "08:00:00,24:10:00"), 6, "trip 't2' arrives when it departs"),
        (("frequencies", "trip_id\nt1\n"), 2, "trips by headway"),
    ],
)
def test_wrong_feed_is_refused_with_file_and_line(
    tmp_path: Path, change: tuple[str, str | bytes | None], line: int | None, reason: str
) -> None:
    file, text = change
    with pytest.raises(TimetableError) as error:
        read_timetable(write_feed(tmp_path, **{file: text}))
    assert (error.value.file, error.value.line) == (f"{file}.txt", line)
    assert reason in error.value.reason


def test_feed_without_any_calendar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TimetableError, match=r"calendar_dates\.txt too"):
        read_timetable(write_feed(tmp_path, calendar=None, calendar_dates=None))


def test_feed_with_an_empty_frequencies_file_is_read(tmp_path: Path) -> None:
    assert len(read_timetable(write_feed(tmp_path, frequencies="trip_id\n")).trips) == 2


def test_line_is_that_of_the_row_when_a_field_above_it_spans_lines(tmp_path: Path) -> None:
    text = 'stop_id,stop_name\na,"Aa\nchen"\nb,Bonn\nb,Celle\n'
    with pytest.raises(TimetableError) as error:
        read_timetable(write_feed(tmp_path, stops=text))
    assert error.value.line == 5


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no zip"])
def test_path_that_is_no_feed_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "feed.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TimetableError) as error:
        read_timetable(path)
    assert error.value.file == "feed.zip"


def test_zip_file_with_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "feed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FEED.items():
            archive.writestr(name, text)
    path.write_bytes(path.read_bytes().replace(b"Aachen", b"Aarhus", 1))
    with pytest.raises(TimetableError, match=r"stops\.txt: cannot be read: .*CRC"):
        read_timetable(path)
