"""From what a client asks for to places by number, and back."""

from typing import Any

import msgspec
import pytest

from engine.claims import (
    BLOCKS_LOOKED_AT_MAX,
    SECTIONS_TOLD_MAX,
    ClaimedItem,
    ItemRequest,
    describe_places,
    resolve_places,
)
from engine.definition import PLACES_PER_HOLD_MAX, EventDefinition
from engine.errors import InvalidRequest
from engine.importing.json_errors import invalid_json
from engine.layout import Layout, compile_layout
from engine.places import BestPlaces, CountedPlaces, NumberedPlaces, Places

ROWS = [{"id": "A", "seats": "1-4"}, {"id": "B", "seats": [{"id": "1", "category": "gold"}, "2"]}]


def venue(**members: Any) -> Layout:
    document = {
        "name": "Gig",
        "starts_at": "2027-05-01T19:00:00Z",
        "currency": "EUR",
        "sections": [
            {"id": "floor", "price": 4500, "capacity": 500},
            {"id": "stalls", "price": 9000, "rows": ROWS, "prices": {"gold": 20_000}},
            {"id": "circle", "price": 7000, "rows": ROWS},
        ],
    }
    return compile_layout(msgspec.convert(document | members, EventDefinition))


def items(*documents: dict[str, Any]) -> list[ItemRequest]:
    return msgspec.convert(list(documents), list[ItemRequest])


class HoldRequest(msgspec.Struct):
    """The member of a request's body that is about items."""

    items: list[ItemRequest]


def resolve_body(body: bytes) -> Places:
    """What becomes of a request: first types and ranges are looked at, then the meaning."""
    try:
        request = msgspec.json.decode(body, type=HoldRequest)
    except msgspec.ValidationError as error:
        raise invalid_json(error) from error
    return resolve_places(venue(), request.items, None, None)


def test_items_become_places_by_number() -> None:
    places = resolve_places(
        venue(stops=["SJC", "PAO", "SFO"]),
        items(
            {"section": "floor", "quantity": 2},
            {"section": "circle", "seats": ["B-1", "A-1"]},
            {"section": "stalls", "best": 3},
        ),
        "PAO",
        "SFO",
    )
    assert places == Places(1, 2, (CountedPlaces(0, 2), NumberedPlaces(2, (10, 6)), BestPlaces(1, 3)))
    assert places.quantity == 7


def test_seats_of_one_section_may_be_asked_for_in_two_items() -> None:
    places = resolve_places(
        venue(), items({"section": "stalls", "seats": ["A-1"]}, {"section": "stalls", "seats": ["A-2"]}), None, None
    )
    assert places.items == (NumberedPlaces(1, (0,)), NumberedPlaces(1, (1,)))


def test_same_seat_label_in_two_sections_is_two_seats() -> None:
    places = resolve_places(
        venue(), items({"section": "stalls", "seats": ["A-1"]}, {"section": "circle", "seats": ["A-1"]}), None, None
    )
    assert places.items == (NumberedPlaces(1, (0,)), NumberedPlaces(2, (6,)))


def test_section_that_is_unknown_is_refused_with_those_there_are_while_they_are_few() -> None:
    wanted = items({"section": "flor", "quantity": 1})
    with pytest.raises(InvalidRequest, match=r"unknown section: 'flor'; there are floor, stalls, circle$"):
        resolve_places(venue(), wanted, None, None)

    many = [{"id": f"s{number}", "price": 1, "capacity": 1} for number in range(SECTIONS_TOLD_MAX + 1)]
    with pytest.raises(InvalidRequest, match=r"unknown section: 'flor'$"):
        resolve_places(venue(sections=many), wanted, None, None)


@pytest.mark.parametrize(
    ("section", "seat", "told"),
    [
        ("stalls", "A-5", "row 'A' has 4 seats, 'A-1' to 'A-4'"),
        ("circle", "B-3", "row 'B' has 2 seats, 'B-1' to 'B-2'"),
        ("stalls", "A5", "its first seat is 'A-1', its rows are A, B"),
        ("stalls", "C-1", "its first seat is 'A-1', its rows are A, B"),
    ],
)
def test_seat_that_is_unknown_is_refused_with_those_of_its_row_or_some_rows(section: str, seat: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolve_places(venue(), items({"section": section, "seats": ["A-1", seat]}), None, None)
    assert refused.value.path == "$.items[0].seats[1]"
    assert refused.value.reason == f"section '{section}' has no seat '{seat}'; {told}"


@pytest.mark.parametrize(
    ("seat", "told"),
    [
        ("T-3", "row 'T' has 2 seats, 'T-1' to 'T-2'"),
        ("T-2-7", "row 'T-2' has one seat, 'T-2-1'"),
        ("W-12", "row 'W' has 11 seats, 'W-1' to 'W-11'"),
    ],
)
def test_row_of_an_unknown_seat_is_found_by_its_longest_name_and_beyond_aisles(seat: str, told: str) -> None:
    rows = [
        {"id": "T", "seats": "1-2"},
        {"id": "T-2", "seats": "1-1"},
        {"id": "W", "seats": "1-11", "aisles_after": ["3", "8"]},
    ]
    layout = venue(sections=[{"id": "hall", "price": 1, "rows": rows}, {"id": "annex", "price": 1, "rows": rows}])
    for section in ("hall", "annex"):
        with pytest.raises(InvalidRequest) as refused:
            resolve_places(layout, items({"section": section, "seats": [seat]}), None, None)
        assert refused.value.reason.endswith(f"; {told}")


def test_answer_to_an_unknown_seat_does_not_grow_with_the_section() -> None:
    rows = [{"id": f"R{number}", "seats": "1-2"} for number in range(BLOCKS_LOOKED_AT_MAX + 1)]
    layout = venue(sections=[{"id": "hall", "price": 1, "rows": rows}])
    for row, told in (
        (BLOCKS_LOOKED_AT_MAX - 1, f"row 'R{BLOCKS_LOOKED_AT_MAX - 1}' has 2 seats, "),
        (BLOCKS_LOOKED_AT_MAX, "its first seat is 'R0-1', its rows are R0, R1, R2, R3, R4 and more"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            resolve_places(layout, items({"section": "hall", "seats": [f"R{row}-3"]}), None, None)
        assert told in refused.value.reason


FLOOR_TWICE = [{"section": "floor", "quantity": 1}, {"section": "floor", "quantity": 1}]


@pytest.mark.parametrize(
    ("documents", "path"),
    [
        ([{"section": "balcony", "quantity": 1}], "$.items[0].section"),
        ([{"section": "", "quantity": 1}], "$.items[0].section"),
        ([{"quantity": 1}], "$.items[0]"),
        ([{"section": "floor"}], "$.items[0]"),
        ([{"section": "floor", "quantity": 1, "best": 1}], "$.items[0]"),
        ([{"section": "stalls", "seats": ["A-1"], "best": 1}], "$.items[0]"),
        ([{"section": "floor", "quantity": 0}], "$.items[0].quantity"),
        ([{"section": "floor", "quantity": -1}], "$.items[0].quantity"),
        ([{"section": "floor", "quantity": PLACES_PER_HOLD_MAX + 1}], "$.items[0].quantity"),
        ([{"section": "floor", "quantity": 10**9}], "$.items[0].quantity"),
        ([{"section": "floor", "quantity": 10**30}], "$.items[0].quantity"),
        ([{"section": "floor", "quantity": 1.5}], "$.items[0].quantity"),
        ([{"section": "floor", "quantity": "1"}], "$.items[0].quantity"),
        ([{"section": "floor", "quantity": True}], "$.items[0].quantity"),
        ([{"section": "stalls", "best": 0}], "$.items[0].best"),
        ([{"section": "stalls", "best": 10**9}], "$.items[0].best"),
        ([{"section": "stalls", "seats": []}], "$.items[0].seats"),
        ([{"section": "stalls", "seats": "A-1"}], "$.items[0].seats"),
        ([{"section": "stalls", "seats": ["A-1"] * (PLACES_PER_HOLD_MAX + 1)}], "$.items[0].seats"),
        ([{"section": "stalls", "seats": ["A-1", 2]}], "$.items[0].seats[1]"),
        ([{"section": "stalls", "seats": ["A-1", "A-9"]}], "$.items[0].seats[1]"),
        ([{"section": "stalls", "seats": ["A-1", "a-1"]}], "$.items[0].seats[1]"),
        ([{"section": "stalls", "seats": ["A-1", "A-2", "A-1"]}], "$.items[0].seats[2]"),
        ([{"section": "stalls", "quantity": 1}], "$.items[0].quantity"),
        ([{"section": "floor", "seats": ["A-1"]}], "$.items[0].seats"),
        ([{"section": "floor", "best": 1}], "$.items[0].best"),
        ([{"section": "floor", "quantity": 1, "price": 0}], "$.items[0]"),
        (FLOOR_TWICE, "$.items[1].section"),
        ([{"section": "stalls", "best": 1}, {"section": "stalls", "best": 2}], "$.items[1].section"),
        ([{"section": "stalls", "seats": ["A-1"]}, {"section": "stalls", "seats": ["A-1"]}], "$.items[1].seats[0]"),
    ],
)
def test_wrong_item_is_refused_with_its_path(documents: list[dict[str, Any]], path: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        resolve_body(msgspec.json.encode({"items": documents}))
    assert error.value.path == path
    assert error.value.reason


def test_wrong_stop_is_refused_before_the_items_are_looked_at() -> None:
    with pytest.raises(InvalidRequest) as error:
        resolve_places(venue(), items({"section": "balcony", "quantity": 1}), "SJC", None)
    assert error.value.path == "$.from"


def test_places_are_described_with_a_line_for_each_price() -> None:
    places = Places(0, 1, (CountedPlaces(0, 2), NumberedPlaces(1, (0, 4, 5)), NumberedPlaces(2, (6,))))
    lines, amount = describe_places(venue(), places)
    assert lines == (
        ClaimedItem("floor", 2, None, 4500, 9000),
        ClaimedItem("stalls", 2, ("A-1", "B-2"), 9000, 18_000),
        ClaimedItem("stalls", 1, ("B-1",), 20_000, 20_000),
        ClaimedItem("circle", 1, ("A-1",), 7000, 7000),
    )
    assert amount == 54_000


def test_amount_is_the_sum_over_the_legs_of_the_range() -> None:
    sections = [{"id": "car", "leg_prices": [100, 20, 3], "rows": [{"id": "1", "seats": ["A", "B"]}]}]
    layout = venue(stops=["a", "b", "c", "d"], sections=sections)
    lines, amount = describe_places(layout, Places(1, 3, (NumberedPlaces(0, (0, 1)),)))
    assert lines == (ClaimedItem("car", 2, ("1-A", "1-B"), 23, 46),)
    assert amount == 46


def test_description_resolves_to_the_same_seats_again() -> None:
    layout = venue()
    places = Places(0, 1, (NumberedPlaces(1, (0, 5, 3)),))
    [line] = describe_places(layout, places)[0]
    again = resolve_places(layout, items({"section": line.section, "seats": list(line.seats or ())}), None, None)
    assert again == places
