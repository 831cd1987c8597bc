"""Files on a command line: what is recognised as what, and errors that say where in which file."""

import datetime as dt
import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.decoding import decode_body
from engine.definition import EventDefinition
from engine.errors import InvalidRequest
from engine.importing.cars import Car
from holdfast.event_files import EventFileError, ImportOptions, read_event_files

SAMPLES = Path(str(resources.files("holdfast.samples")))
EVENING = dt.datetime(2027, 5, 1, 19, tzinfo=dt.UTC)
PLAN_OPTIONS = ImportOptions(
    starts_at=EVENING, currency="EUR", prices={"Premium": 9000, "Standard": 6000, "Economy": 3000}
)
FEED_OPTIONS = ImportOptions(
    first_date=dt.date(2023, 6, 5), currency="USD", cars=(Car("A1", 80, 4),), leg_price=200, routes=("B7",)
)


def definition(**changes: Any) -> dict[str, Any]:
    sections = [{"id": "floor", "price": 4500, "capacity": 500}]
    return {"name": "Gig", "starts_at": "2027-05-01T19:00:00Z", "currency": "EUR", "sections": sections} | changes


def write(path: Path, document: Any) -> Path:
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def refusal(*paths: Path, options: ImportOptions | None = None) -> EventFileError:
    with pytest.raises(EventFileError) as error:
        read_event_files(paths, options=options or ImportOptions())
    return error.value


def test_definitions_are_read_from_an_object_or_a_list_in_order(tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", definition(id="a"))
    many = write(tmp_path / "many.JSON", [definition(id="c"), definition(id="b"), definition(), definition()])
    events = read_event_files([one, many], options=ImportOptions())
    assert [event.id for event in events] == ["a", "c", "b", None, None]


def test_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = write(tmp_path / "bom.json", b"\xef\xbb\xbf" + json.dumps(definition()).encode())
    assert len(read_event_files([path], options=ImportOptions())) == 1


def test_seating_plan_is_recognised_by_its_zones() -> None:
    [event] = read_event_files([SAMPLES / "grand-theatre.json"], options=PLAN_OPTIONS)
    assert (event.name, event.id, event.starts_at, event.currency) == ("Grand Theatre", None, EVENING, "EUR")
    assert [section.id for section in event.sections] == ["stalls", "circle", "balcony"]


def test_seating_plan_takes_name_id_and_end_from_the_options() -> None:
    ends_at = EVENING + dt.timedelta(hours=3)
    options = msgspec.structs.replace(PLAN_OPTIONS, name="Hamlet", event_id="hamlet-1", ends_at=ends_at)
    [event] = read_event_files([SAMPLES / "grand-theatre.json"], options=options)
    assert (event.name, event.id, event.ends_at) == ("Hamlet", "hamlet-1", ends_at)


@pytest.mark.parametrize("packed", [False, True])
def test_timetable_is_read_from_a_directory_or_a_zip_file(tmp_path: Path, packed: bool) -> None:
    path = SAMPLES / "caltrain"
    if packed:
        path = Path(shutil.make_archive(str(tmp_path / "feed"), "zip", path))
    assert len(read_event_files([path], options=FEED_OPTIONS)) == 12


def test_timetable_makes_events_up_to_the_last_date() -> None:
    options = msgspec.structs.replace(FEED_OPTIONS, last_date=dt.date(2023, 6, 11))
    assert len(read_event_files([SAMPLES / "caltrain"], options=options)) == 60


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        (b'{\n  "name": "x",\n  oops\n}', 3, 3),
        (b'{\n  "name": "\xc3\xbc", oops}', 2, 16),
        (b'{\n "name": "x",\n', 3, 1),
        (b"", 1, 1),
        (b"[" * 100_000, None, None),
    ],
)
def test_wrong_json_is_refused_with_line_and_column(
    tmp_path: Path, text: bytes, line: int | None, column: int | None
) -> None:
    error = refusal(write(tmp_path / "bad.json", text))
    assert (error.file.name, error.line, error.column) == ("bad.json", line, column)
    if line is not None:
        assert f"bad.json:{line}:{column}: " in str(error)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "bad.json", b'{"name":\n "M\xfcnchen"}'))
    assert error.line == 2


@pytest.mark.parametrize(
    ("document", "json_path"),
    [
        (definition(currency="euro"), "$.currency"),
        ([definition(), definition(currency="XQZ")], "$[1].currency"),
        (definition(seats=5), "$.seats"),
        ([definition(), definition(name="")], "$[1].name"),
        ([definition(), definition(ends_at="2027-05-01T19:00:00Z")], "$[1].ends_at"),
        (definition(sections=[{"id": "floor", "price": 1}]), "$.sections[0]"),
        ([5], "$[0]"),
        (5, "$"),
        ({"zones": []}, "$.zones"),
        ({"name": "Hall", "size": {"width": 1, "height": 1}, "categories": []}, "$.zones"),
        ({"zones": [{"name": "A", "rows": [{"row_number": "1"}]}]}, "$.zones[0].rows[0]"),
    ],
)
def test_wrong_definition_is_refused_with_its_path_in_the_file(tmp_path: Path, document: Any, json_path: str) -> None:
    error = refusal(write(tmp_path / "events.json", document))
    assert (error.file.name, error.json_path) == ("events.json", json_path)
    assert f"events.json: {json_path}: " in str(error)


@pytest.mark.parametrize(
    "wrong",
    [
        definition(sections=[{"id": "floor", "price": 1.5}]),
        definition(currency="EURO"),
        definition(starts_at="2027-05-01"),
        definition(policy={"orphan_seats": "never"}),
        definition(colour="red"),
    ],
    ids=["price", "currency", "moment", "word", "member"],
)
@pytest.mark.parametrize("listed", [False, True])
def test_wrong_definition_is_refused_in_the_words_of_the_api(tmp_path: Path, wrong: Any, listed: bool) -> None:
    with pytest.raises(InvalidRequest) as of_the_api:
        decode_body(msgspec.json.Decoder(EventDefinition), json.dumps(wrong).encode())

    error = refusal(write(tmp_path / "events.json", [definition(), wrong] if listed else wrong))

    assert error.reason == of_the_api.value.reason
    assert error.json_path == of_the_api.value.path.replace("$", "$[1]" if listed else "$", 1)


def test_half_a_surrogate_pair_is_refused_with_its_path(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "events.json", definition(name="\ud83d")))
    assert (error.json_path, "half of a surrogate pair" in error.reason) == ("$.name", True)


def test_wrong_feed_is_refused_with_its_file_and_line(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "caltrain", tmp_path / "feed")
    stops = tmp_path / "feed" / "stops.txt"
    stops.write_text(stops.read_text() + "broken\n")
    error = refusal(tmp_path / "feed", options=FEED_OPTIONS)
    assert (error.file, error.line) == (stops, len(stops.read_text().splitlines()))


def test_zip_file_that_is_none_is_refused_by_its_own_name(tmp_path: Path) -> None:
    path = write(tmp_path / "feed.zip", b"no zip")
    assert refusal(path, options=FEED_OPTIONS).file == path


@pytest.mark.parametrize(
    ("sample", "options", "words"),
    [
        ("grand-theatre.json", {"starts_at": None}, "--starts-at is needed"),
        ("grand-theatre.json", {"currency": None}, "--currency is needed"),
        ("grand-theatre.json", {"prices": {}}, "no price for category 'Standard'"),
        ("grand-theatre.json", {"name": ""}, "$.name"),
        ("grand-theatre.json", {"event_id": "Hamlet"}, "$.id"),
        ("grand-theatre.json", {"starts_at": dt.datetime(2027, 5, 1)}, "$.starts_at"),  # noqa: DTZ001
        ("grand-theatre.json", {"ends_at": EVENING}, "$.ends_at"),
        ("caltrain", {"first_date": None}, "--date is needed"),
        ("caltrain", {"currency": None}, "--currency is needed"),
        ("caltrain", {"cars": ()}, "--car: a train needs"),
        ("caltrain", {"last_date": dt.date(2023, 6, 4)}, "--until: must be 0 to"),
        ("caltrain", {"leg_price": None}, "one of --price and --leg-price is needed"),
        ("caltrain", {"trips": ("999",)}, "trips.txt: has no trip '999'"),
        ("caltrain", {"first_date": dt.date(2033, 1, 1)}, "no such trip runs from 2033-01-01 to 2033-01-01"),
    ],
)
def test_option_that_is_missing_or_wrong_is_named(sample: str, options: dict[str, Any], words: str) -> None:
    base = PLAN_OPTIONS if sample.endswith(".json") else FEED_OPTIONS
    error = refusal(SAMPLES / sample, options=msgspec.structs.replace(base, **options))
    assert words in str(error)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"event_id": "gig"}, "--id"),
        ({"starts_at": EVENING}, "--starts-at"),
        ({"price": 5}, "--price"),
        ({"prices": {"gold": 5}}, "--price"),
        ({"first_date": dt.date(2027, 5, 1)}, "--date"),
        ({"currency": "EUR"}, "--currency"),
    ],
)
def test_option_that_a_definition_would_ignore_is_refused(tmp_path: Path, options: dict[str, Any], option: str) -> None:
    error = refusal(write(tmp_path / "event.json", definition()), options=ImportOptions(**options))
    assert f"event.json: {option} does not apply to a file of this kind" in str(error)


def test_option_of_plans_is_refused_beside_a_timetable_only(tmp_path: Path) -> None:
    with_an_id = msgspec.structs.replace(FEED_OPTIONS, event_id="train")
    assert "--id does not apply" in str(refusal(SAMPLES / "caltrain", options=with_an_id))
    beside_a_plan = [write(tmp_path / "event.json", definition()), SAMPLES / "grand-theatre.json"]
    assert len(read_event_files(beside_a_plan, options=PLAN_OPTIONS)) == 2


def test_file_with_an_empty_list_has_no_event_in_it(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "none.json", [])).reason == "there is no event in it"


def test_same_id_in_two_files_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "first.json", definition(id="a"))
    second = write(tmp_path / "second.json", definition(id="a"))
    error = refusal(first, second)
    assert error.file == second
    assert f"event 'a' is in {first} too" in str(error)


@pytest.mark.parametrize("name", ["nothing.json", "nothing.zip", "nothing", "README.md"])
def test_file_that_is_not_there_or_of_no_known_kind_is_refused(tmp_path: Path, name: str) -> None:
    if name == "README.md":
        write(tmp_path / name, b"# Events")
    assert refusal(tmp_path / name, options=FEED_OPTIONS).file == tmp_path / name
