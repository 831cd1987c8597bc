"""Who sits where: as many people as there is room for, each in a place of the booking that is nobody else's."""

from typing import Any

import msgspec
import pytest

from engine.attendees import check_attendees
from engine.claims import ClaimedItem, ItemRequest
from engine.definition import EventDefinition
from engine.errors import InvalidRequest
from engine.layout import Layout, compile_layout

TABLES = [{"id": "1", "fits": 4}, {"id": "2", "fits": 2}]


@pytest.fixture(scope="module")
def layout() -> Layout:
    document = {
        "name": "Gig",
        "starts_at": "2027-05-01T19:00:00Z",
        "currency": "EUR",
        "sections": [
            {"id": "floor", "price": 1, "capacity": 500},
            {"id": "stalls", "price": 1, "rows": [{"id": "A", "seats": "1-9"}]},
            {"id": "circle", "price": 1, "rows": [{"id": "A", "seats": "1-9"}]},
            {"id": "room", "price": 1, "rows": [{"id": "T", "seats": TABLES}]},
        ],
    }
    return compile_layout(msgspec.convert(document, EventDefinition))


def wanted(*items: dict[str, Any]) -> list[ItemRequest]:
    return msgspec.convert(list(items), list[ItemRequest])


def someone(section: str | None = None, seat: str | None = None) -> dict[str, str]:
    return {name: value for name, value in (("section", section), ("seat", seat)) if value is not None}


A_AND_FLOOR = wanted({"section": "stalls", "seats": ["A-1", "A-2"]}, {"section": "floor", "quantity": 2})
BOTH_A_1 = wanted({"section": "stalls", "seats": ["A-1"]}, {"section": "circle", "seats": ["A-1"]})
TABLE_FOR_FOUR = wanted({"section": "room", "seats": ["T-1"]})
BEST_TWO = wanted({"section": "stalls", "best": 2})
BEST_TABLE = wanted({"section": "room", "best": 1})


@pytest.mark.parametrize(
    ("items", "attendees"),
    [
        (A_AND_FLOOR, []),
        (A_AND_FLOOR, [{}] * 4),
        (A_AND_FLOOR, [someone(seat="A-2"), someone("stalls", "A-1"), someone("floor"), someone("floor")]),
        (A_AND_FLOOR, [someone("stalls"), someone(seat="A-1")]),
        (BOTH_A_1, [someone(seat="A-1"), someone(seat="A-1")]),
        (BOTH_A_1, [someone(seat="A-1"), someone("stalls", "A-1")]),
        (BOTH_A_1, [someone(seat="A-1"), someone("stalls")]),
        (BOTH_A_1, [someone(seat="A-1"), someone("circle")]),
        (TABLE_FOR_FOUR, [someone(seat="T-1")] * 4),
        (BEST_TWO, [someone("stalls"), {}]),
        (BEST_TABLE, [{}] * 4),
        ([ClaimedItem("floor", 2, None, 1, 2), ClaimedItem("stalls", 1, ("A-3",), 1, 1)], [someone(seat="A-3"), {}]),
    ],
)
def test_everybody_who_has_a_place_is_taken(
    layout: Layout, items: list[ItemRequest], attendees: list[dict[str, str]]
) -> None:
    check_attendees(layout, items, attendees)


@pytest.mark.parametrize(
    ("items", "attendees", "path", "word"),
    [
        (A_AND_FLOOR, [{}] * 5, "$.attendees", "room for 4"),
        (TABLE_FOR_FOUR, [{}] * 5, "$.attendees", "room for 4"),
        (BEST_TWO, [{}] * 3, "$.attendees", "room for 2"),
        (A_AND_FLOOR, [someone(seat="A-1"), someone(seat="A-1")], "$.attendees[1].seat", "another attendee's"),
        (A_AND_FLOOR, [someone(seat="A-1"), someone("stalls", "A-1")], "$.attendees[0].seat", "another attendee's"),
        (BOTH_A_1, [someone("stalls", "A-1")] * 2, "$.attendees[1].seat", "another attendee's"),
        (A_AND_FLOOR, [{}, someone(seat="A-9")], "$.attendees[1].seat", "not among the booking's places"),
        (A_AND_FLOOR, [someone("floor", "A-1")], "$.attendees[0].seat", "not among the booking's places"),
        (A_AND_FLOOR, [someone("circle")], "$.attendees[0].section", "no place in section 'circle'"),
        (A_AND_FLOOR, [someone("circle", "A-1")], "$.attendees[0].section", "no place in section 'circle'"),
        (A_AND_FLOOR, [someone("floor")] * 3, "$.attendees[2].section", "other attendees'"),
        (BEST_TWO, [someone(seat="A-1")], "$.attendees[0].seat", "not known before it is held"),
    ],
)
def test_who_has_no_place_is_refused_with_the_path_of_what_is_wrong(
    layout: Layout, items: list[ItemRequest], attendees: list[dict[str, str]], path: str, word: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_attendees(layout, items, attendees)
    assert refused.value.path == path
    assert word in refused.value.reason
