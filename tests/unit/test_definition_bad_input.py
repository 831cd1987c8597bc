"""Every member of an event's definition out of range, of the wrong type or unknown: refused, naming its JSON path.

What members may not say of each other is in ``test_layout.py``.
"""

import datetime as dt
from typing import Any

import msgspec
import pytest

from engine.definition import EventDefinition, EventPatch
from engine.errors import InvalidRequest
from engine.importing.json_errors import invalid_json
from engine.layout import compile_layout

Path = tuple[str | int, ...]

SEATED: Path = ("sections", 1)
ROW: Path = (*SEATED, "rows", 0)
SEAT: Path = (*ROW, "seats", 1)


def document() -> dict[str, Any]:
    """A definition that uses every member (but ``slots``, which excludes ``stops``)."""
    seats = ["1", {"id": "2", "x": 1.5, "y": -2, "category": "gold", "accessible": True, "fits": 4}, "3"]
    return {
        "id": "concert-42",
        "group": "tour",
        "name": "Concert",
        "starts_at": "2027-05-01T19:00:00Z",
        "ends_at": "2027-05-01T22:00:00+00:00",
        "currency": "EUR",
        "sections": [
            {"id": "floor", "name": "Floor", "capacity": 500, "leg_prices": [100, 200]},
            {
                "id": "stalls",
                "price": 9000,
                "prices": {"gold": 10_000},
                "rows": [{"id": "A", "seats": seats, "aisles_after": ["1"]}, {"id": "B", "seats": "1-20"}],
            },
        ],
        "stops": ["SJC", "PAO", "SFO"],
        "policy": {"refunds": [{"hours_before": 24, "percent": 100}]},
        "metadata": {"a": {"b": [1, None, "c"]}},
    }


def put(target: Any, path: Path, value: Any) -> Any:
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return target


def json_path(path: Path) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def read(definition: Any) -> EventDefinition:
    """*definition* as the API reads it: types and ranges, then what the members say of each other."""
    try:
        decoded = msgspec.json.decode(msgspec.json.encode(definition), type=EventDefinition)
    except msgspec.ValidationError as error:
        raise invalid_json(error) from error
    compile_layout(decoded)
    return decoded


INTEGERS: list[tuple[Path, int, int]] = [
    (("sections", 0, "capacity"), 1, 10_000_000),
    (("sections", 0, "leg_prices", 1), 0, 10**9),
    (("sections", 1, "price"), 0, 10**9),
    ((*SEAT, "fits"), 1, 1_000),
    (("policy", "hold_ttl_max"), 120, 604_800),  # not below hold_ttl, which is 120 here
    (("policy", "max_places_per_hold"), 1, 500),
    (("policy", "max_places_per_customer"), 1, 1_000_000),
    (("policy", "approval_ttl"), 1, 31_536_000),
    (("policy", "payment_ttl"), 1, 604_800),
    (("policy", "sales_close_before"), 0, 31_536_000),
    (("policy", "overbooking_percent"), 0, 100),
    (("policy", "offer_ttl"), 1, 2_592_000),
    (("policy", "hold_ttl"), 1, 900),  # not above hold_ttl_max, which is 900 here
    (("policy", "refunds", 0, "hours_before"), 0, 8_760),
    (("policy", "refunds", 0, "percent"), 0, 100),
    (("slots", "minutes"), 1, 1_440),
    (("slots", "count"), 1, 288),
]


def base_for(path: Path) -> dict[str, Any]:
    definition = document()
    if path[0] == "slots":
        del definition["stops"], definition["sections"][0]["leg_prices"]
        definition["sections"][0]["price"] = 1
        definition["slots"] = {"start": "00:00", "minutes": 1, "count": 1}
    return definition


def test_document_of_these_tests_is_a_valid_definition() -> None:
    definition = read(document())
    assert msgspec.json.decode(msgspec.json.encode(definition), type=EventDefinition) == definition
    assert definition.starts_at == dt.datetime(2027, 5, 1, 19, tzinfo=dt.UTC)


@pytest.mark.parametrize(("path", "lowest", "highest"), INTEGERS, ids=lambda value: str(value))
def test_number_is_accepted_at_its_limits(path: Path, lowest: int, highest: int) -> None:
    for value in (lowest, highest):
        definition = base_for(path)
        put(definition, path, value)
        read(definition)


@pytest.mark.parametrize(("path", "lowest", "highest"), INTEGERS, ids=lambda value: str(value))
def test_number_is_refused_with_its_path_outside_its_limits(path: Path, lowest: int, highest: int) -> None:
    named = json_path(path if path[-1] != "hold_ttl_max" else ("policy", "hold_ttl"))
    for value in (lowest - 1, highest + 1, -1, -(10**9), 10**10, 2**63, 10**40):
        definition = base_for(path)
        put(definition, path, value)
        with pytest.raises(InvalidRequest) as error:
            read(definition)
        assert error.value.path in {json_path(path), named}
        assert error.value.reason


@pytest.mark.parametrize(("path", "_lowest", "_highest"), INTEGERS, ids=lambda value: str(value))
@pytest.mark.parametrize("value", ["5", 5.5, True, [], {}])
def test_number_of_another_type_is_refused_with_its_path(path: Path, _lowest: int, _highest: int, value: Any) -> None:
    definition = base_for(path)
    put(definition, path, value)
    with pytest.raises(InvalidRequest) as error:
        read(definition)
    assert error.value.path == json_path(path)


NAMES_OF_PLACES: list[Path] = [
    ("sections", 0, "id"),
    (*ROW, "id"),
    (*SEAT, "id"),
    (*SEAT, "category"),
    (*ROW, "seats", 0),
    (*ROW, "aisles_after", 0),
    ("stops", 2),
]
CONTROLS = ["\x00", "A\n", "\tA", "A\x1b[31m", "A\x7f"]

WRONG: list[tuple[Path, Any]] = [
    *((path, value) for path in NAMES_OF_PLACES for value in ["", "x" * 65, 5, False, *CONTROLS]),
    *((("id",), value) for value in ["", "Concert", "-a", "a b", "a/b", "a~b", "a\n", "ä", "x" * 65, 5]),
    *((("group",), value) for value in ["", "Tour", "a:b", "a{b}", "x" * 65, 5]),
    *((("name",), value) for value in ["", "x" * 201, None, 5]),
    *((("sections", 0, "name"), value) for value in ["", "x" * 201, 5]),
    *(
        ((member,), value)
        for member in ("starts_at", "ends_at")
        for value in ["2027-05-01", "2027-05-01T19:00:00", "tomorrow", "2027-02-30T19:00:00Z", "", 1_800_000_000, []]
    ),
    (("starts_at",), None),
    *((("currency",), value) for value in ["eur", "EU", "EURO", "EUR\n", "", "€", None, 978]),
    *((("sections",), value) for value in [None, {}, "floor"]),
    *((("sections", 0), value) for value in [None, "floor", []]),
    (("sections", 1, "rows"), []),
    (("sections", 1, "rows"), "1-20"),
    (("sections", 1, "rows", 1), "1-20"),
    ((*ROW, "seats"), 20),
    ((*ROW, "seats"), {}),
    ((*ROW, "seats"), "1-" + "0" * 31),
    ((*ROW, "aisles_after"), "1"),
    ((*SEAT, "x"), "1"),
    ((*SEAT, "y"), True),
    ((*SEAT, "accessible"), "yes"),
    ((*SEAT, "accessible"), 1),
    (("sections", 1, "prices"), [1]),
    (("sections", 0, "leg_prices"), 5),
    (("stops",), []),
    (("stops",), ["SJC"]),
    (("stops",), "SJC-SFO"),
    (("policy",), None),
    (("policy",), []),
    *((("policy", "approval"), value) for value in ["", "Auto", "later", None, True]),
    *((("policy", "payment"), value) for value in ["optional", None, False]),
    *((("policy", "orphan_seats"), value) for value in ["deny", None]),
    *((("policy", "durability"), value) for value in ["none", "Postgres", None]),
    *((("policy", "waitlist"), value) for value in ["yes", 1, None]),
    (("policy", "refunds"), {}),
    (("policy", "refunds", 0), 50),
    (("metadata",), []),
    (("metadata",), None),
    *((("slots", "start"), value) for value in ["5pm", "24:00", "17:60", "7:00", "17:00:00", "17:00\n", "", 17, None]),
    (("slots",), "17:00"),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda value: repr(value)[:60])
def test_wrong_value_is_refused_with_its_path(path: Path, value: Any) -> None:
    definition = base_for(path)
    put(definition, path, value)
    with pytest.raises(InvalidRequest) as error:
        read(definition)
    assert error.value.path == json_path(path)
    assert error.value.reason


OBJECTS: list[Path] = [(), ("sections", 0), ROW, SEAT, ("policy",), ("policy", "refunds", 0), ("slots",)]


@pytest.mark.parametrize("path", OBJECTS, ids=str)
def test_unknown_member_is_refused_with_the_path_of_its_object_and_its_name(path: Path) -> None:
    definition = base_for((*path, "colour"))
    put(definition, (*path, "colour"), "red")
    with pytest.raises(InvalidRequest, match="colour") as error:
        read(definition)
    assert error.value.path == json_path(path)


REQUIRED: list[Path] = [
    ("name",),
    ("starts_at",),
    ("currency",),
    ("sections", 0, "id"),
    (*ROW, "id"),
    (*ROW, "seats"),
    (*SEAT, "id"),
    ("slots", "start"),
    ("slots", "minutes"),
    ("slots", "count"),
    ("policy", "refunds", 0, "percent"),
    ("policy", "refunds", 0, "hours_before"),
]


@pytest.mark.parametrize("path", REQUIRED, ids=str)
def test_missing_member_is_refused_with_the_path_of_its_object_and_its_name(path: Path) -> None:
    definition = base_for(path)
    del put(definition, path, None)[path[-1]]
    with pytest.raises(InvalidRequest, match=f"`{path[-1]}`") as error:
        read(definition)
    assert error.value.path == json_path(path[:-1])


@pytest.mark.parametrize(
    ("path", "values", "limit"),
    [
        (("sections",), [{"id": str(n), "capacity": 1, "price": 1} for n in range(501)], 500),
        (("stops",), [str(n) for n in range(201)], 200),
        (("metadata",), {str(n): n for n in range(65)}, 64),
    ],
)
def test_collection_is_accepted_at_its_limit_and_refused_with_its_path_above_it(
    path: Path, values: Any, limit: int
) -> None:
    definition = document()
    definition["sections"] = [{"id": "floor", "price": 1, "capacity": 1}]
    short = values[:limit] if isinstance(values, list) else dict(list(values.items())[:limit])
    put(definition, path, short)
    read(definition)
    put(definition, path, values)
    with pytest.raises(InvalidRequest) as error:
        read(definition)
    assert error.value.path == json_path(path)


@pytest.mark.parametrize(
    ("prices", "path"),
    [
        ({"gold": -1}, "$.sections[1].prices[...]"),
        ({"gold": 10**9 + 1}, "$.sections[1].prices[...]"),
        ({"gold": None}, "$.sections[1].prices[...]"),
        ({"": 5}, "$.sections[1].prices"),
        ({"a\n": 5}, "$.sections[1].prices"),
    ],
)
def test_wrong_price_of_a_category_is_refused_with_the_path_of_the_prices(prices: Any, path: str) -> None:
    definition = document()
    definition["sections"][1]["prices"] = prices
    with pytest.raises(InvalidRequest) as error:
        read(definition)
    assert error.value.path == path


def test_key_of_metadata_is_bounded() -> None:
    definition = document()
    definition["metadata"] = {"x" * 65: 1}
    with pytest.raises(InvalidRequest) as error:
        read(definition)
    assert error.value.path == "$.metadata"


def patch(document: dict[str, Any]) -> EventPatch:
    return msgspec.json.decode(msgspec.json.encode(document), type=EventPatch)


def test_patch_changes_what_it_names_and_nothing_else() -> None:
    before = read(document())
    after = patch({"name": "Encore", "ends_at": None, "expected_version": 3}).apply(before)
    assert after == msgspec.structs.replace(before, name="Encore", ends_at=None)
    assert patch({}).apply(before) == before


def test_patch_replaces_every_member_that_may_change() -> None:
    changes = {key: value for key, value in document().items() if key not in ("id", "group")}
    empty = EventDefinition(name="x", starts_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC), currency="USD", id="kept")
    expected = msgspec.structs.replace(read(document()), id="kept", group=None)
    assert patch(changes).apply(empty) == expected


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"id": "other"}, "$"),
        ({"group": "other"}, "$"),
        ({"status": "open"}, "$"),
        ({"name": None}, "$.name"),
        ({"name": ""}, "$.name"),
        ({"currency": "eur"}, "$.currency"),
        ({"starts_at": None}, "$.starts_at"),
        ({"starts_at": "2027-05-01T19:00:00"}, "$.starts_at"),
        ({"policy": {"hold_ttl": 0}}, "$.policy.hold_ttl"),
        ({"sections": None}, "$.sections"),
        ({"expected_version": 0}, "$.expected_version"),
        ({"expected_version": "1"}, "$.expected_version"),
    ],
)
def test_wrong_patch_is_refused_with_its_path(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        patch(changes)
    assert invalid_json(error.value).path == path
