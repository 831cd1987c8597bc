"""pretix's seating plans: what becomes of zones, rows and seats, and what is refused, with the path in the plan."""

from collections.abc import Callable
from importlib import resources
from typing import Any

import msgspec
import pytest

from engine.definition import EventDefinition, SectionDefinition
from engine.errors import InvalidRequest
from engine.importing.seating_plan import read_plan, sections_from_plan
from engine.layout import SEATS_PER_ROW_MAX, Layout, compile_layout

PRICES = {"Premium": 9000, "Standard": 6000, "Economy": 3000}

Plan = dict[str, Any]


def theatre() -> bytes:
    return resources.files("holdfast.samples").joinpath("grand-theatre.json").read_bytes()


def seat(zone: str, row: str, number: int, *, x: float, category: str = "Standard") -> Plan:
    return {
        "seat_guid": f"{zone}-{row}-{number}-{x}",
        "seat_number": str(number),
        "position": {"x": x, "y": 0},
        "category": category,
    }


def row(zone: str, number: str, seats: list[Plan], *, x: float = 0, y: float = 0) -> Plan:
    return {"row_number": number, "position": {"x": x, "y": y}, "seats": seats}


def small_plan() -> Plan:
    """Two zones; zone Stalls has two rows of four, Box one row of two."""
    stalls = [
        row("s", name, [seat("s", name, number, x=number * 10) for number in range(1, 5)], y=y)
        for y, name in enumerate("AB")
    ]
    box = [row("b", "A", [seat("b", "A", number, x=number * 10) for number in (1, 2)])]
    return {
        "name": "Small",
        "size": {"width": 100, "height": 100},
        "categories": [{"name": "Standard", "color": "#fff"}, {"name": "Premium", "color": "#000"}],
        "zones": [
            {"name": "Stalls", "position": {"x": 100, "y": 200}, "rows": stalls},
            {"name": "Royal Box", "position": {"x": 0, "y": 0}, "rows": box},
        ],
    }


def sections_of(plan: Plan, prices: dict[str, int] | None = None) -> list[SectionDefinition]:
    return sections_from_plan(read_plan(msgspec.json.encode(plan)), {"Standard": 6000} if prices is None else prices)


def layout_of(sections: list[SectionDefinition]) -> Layout:
    document = {"name": "Play", "starts_at": "2027-05-01T19:00:00Z", "currency": "EUR", "sections": sections}
    return compile_layout(msgspec.json.decode(msgspec.json.encode(document), type=EventDefinition))


def test_theatre_becomes_a_section_for_each_zone_with_every_seat_priced() -> None:
    sections = sections_from_plan(read_plan(theatre()), PRICES)

    assert [(section.id, section.name) for section in sections] == [
        ("stalls", "Stalls"),
        ("circle", "Circle"),
        ("balcony", "Balcony"),
    ]
    layout = layout_of(sections)
    assert [section.capacity for section in layout.sections] == [710, 306, 300]
    assert {laid.price for laid in layout.seats} == {9000, 6000, 3000}


def test_theatre_rows_have_no_aisles_because_curved_rows_are_measured_along_the_curve() -> None:
    layout = layout_of(sections_from_plan(read_plan(theatre()), PRICES))
    assert [section.block_count for section in layout.sections] == [20, 9, 8]


def test_section_has_the_prices_of_its_own_categories_only() -> None:
    balcony = sections_from_plan(read_plan(theatre()), PRICES)[2]
    assert balcony.prices == {"Economy": 3000}


def test_positions_of_zone_row_and_seat_add_up() -> None:
    plan = small_plan()
    plan["zones"][0]["rows"][1]["position"] = {"x": 7, "y": 30}
    plan["zones"][0]["rows"][1]["seats"][0]["position"] = {"x": 1.5, "y": 2.25}

    rows = sections_of(plan)[0].rows
    assert rows is not None
    placed = rows[1].seats[0]
    assert (placed.x, placed.y, placed.category) == (108.5, 232.25, "Standard")  # type: ignore[union-attr]


def test_row_without_a_position_stands_where_its_zone_stands() -> None:
    plan = small_plan()
    del plan["zones"][0]["rows"][0]["position"]
    rows = sections_of(plan)[0].rows
    assert rows is not None
    assert rows[0].seats[0].x == 110  # type: ignore[union-attr]


def test_members_that_are_not_needed_are_ignored() -> None:
    plan = small_plan()
    plan["future"] = {"x": 1}
    plan["zones"][0] |= {"uuid": "u", "zone_id": "z", "areas": [{"shape": "circle"}], "displayed": True}
    plan["zones"][0]["rows"][0] |= {"row_label": "Row %s", "row_number_position": "both", "uuid": "u"}
    plan["zones"][0]["rows"][0]["seats"][0] |= {"seat_label": "Seat %s", "uuid": "u", "radius": 10}
    assert sections_of(plan) == sections_of(small_plan())


def test_gap_in_a_row_becomes_an_aisle() -> None:
    plan = small_plan()
    for moved in plan["zones"][0]["rows"][0]["seats"][2:]:
        moved["position"]["x"] += 20
    assert layout_of(sections_of(plan)).block_starts == (0, 2, 4, 8)


def halves(*, right_x: float, right_numbers: tuple[int, ...] = (3, 4)) -> Plan:
    """A plan whose row A is drawn in two parts, the right one first."""
    plan = small_plan()
    left = row("s", "A", [seat("s", "A", number, x=number * 10) for number in (1, 2)])
    right = row("s", "A", [seat("r", "A", number, x=number * 10) for number in right_numbers], x=right_x)
    plan["zones"][0]["rows"] = [right, left, plan["zones"][0]["rows"][1]]
    return plan


@pytest.mark.parametrize("right_x", [0, 50])
def test_parts_of_a_row_become_one_row_from_left_to_right_with_an_aisle_at_the_seam(right_x: float) -> None:
    layout = layout_of(sections_of(halves(right_x=right_x)))
    assert [laid.label for laid in layout.seats[:8]] == ["A-1", "A-2", "A-3", "A-4", "B-1", "B-2", "B-3", "B-4"]
    assert layout.block_starts[:3] == (0, 2, 4)


def test_parts_of_a_row_are_ordered_by_position_when_one_is_numbered_backwards() -> None:
    plan = halves(right_x=0)
    plan["zones"][0]["rows"][0]["seats"].reverse()
    rows = sections_of(plan)[0].rows
    assert rows is not None
    assert [placed.id for placed in rows[0].seats] == ["1", "2", "3", "4"]  # type: ignore[union-attr]


def test_order_of_a_row_in_one_part_is_kept() -> None:
    plan = small_plan()
    plan["zones"][0]["rows"][0]["seats"].reverse()
    assert [laid.label for laid in layout_of(sections_of(plan)).seats[:4]] == ["A-4", "A-3", "A-2", "A-1"]


@pytest.mark.parametrize(
    ("name", "section_id"),
    [
        ("Stalls", "stalls"),
        ("  Royal   Box ", "royal-box"),
        ("Empore Süd", "empore-süd"),
        ("1. Rang (links)", "1-rang-links"),
    ],
)
def test_section_id_is_the_slug_of_the_zone_name(name: str, section_id: str) -> None:
    plan = small_plan()
    del plan["zones"][1]
    plan["zones"][0]["name"] = name
    assert sections_of(plan)[0].id == section_id


def test_only_zone_has_the_name_of_the_plan_when_it_has_none_itself() -> None:
    plan = small_plan()
    del plan["zones"][1], plan["zones"][0]["name"]
    assert sections_of(plan)[0].id == "small"


def test_price_of_nothing_is_a_price() -> None:
    assert sections_of(small_plan(), {"Standard": 0})[0].prices == {"Standard": 0}


def _set(*steps: Any) -> Callable[[Plan], None]:
    *path, last, value = steps

    def change(plan: Plan) -> None:
        target: Any = plan
        for step in path:
            target = target[step]
        if value is None:
            del target[last]
        else:
            target[last] = value

    return change


SEAT = ("zones", 0, "rows", 1, "seats", 2)
ROW = ("zones", 0, "rows", 1)
SEAT_PATH = "$.zones[0].rows[1].seats[2]"
ROW_PATH = "$.zones[0].rows[1]"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (_set("zones", []), "$.zones"),
        (_set("zones", None), "$"),
        (_set("zones", "x"), "$.zones"),
        (_set("name", 5), "$.name"),
        (_set("size", {"width": -1, "height": 5}), "$.size.width"),
        (_set("size", {"width": 5, "height": 0}), "$.size.height"),
        (_set("size", {"width": 5, "height": 1e12}), "$.size.height"),
        (_set("size", {"width": 5}), "$.size"),
        (_set("categories", [{"color": "#fff"}]), "$.categories[0]"),
        (_set("zones", 0, "rows", []), "$.zones[0].rows"),
        (_set("zones", 0, "rows", None), "$.zones[0]"),
        (_set("zones", 0, "position", {"x": 0}), "$.zones[0].position"),
        (_set("zones", 0, "position", "x", 1e7), "$.zones[0].position.x"),
        (_set("zones", 0, "name", "…"), "$.zones[0].name"),
        (_set("zones", 0, "name", ""), "$.zones[0].name"),
        (_set("zones", 1, "name", "stalls"), "$.zones[1].name"),
        (_set(*ROW, "seats", []), f"{ROW_PATH}.seats"),
        (_set(*ROW, "row_number", None), ROW_PATH),
        (_set(*ROW, "row_number", ""), f"{ROW_PATH}.row_number"),
        (_set(*ROW, "row_number", "A"), f"{ROW_PATH}.row_number"),
        (_set(*ROW, "row_number", "A\x1b"), f"{ROW_PATH}.row_number"),
        (_set(*SEAT, "seat_guid", None), SEAT_PATH),
        (_set(*SEAT, "seat_guid", "s-A-1-10"), f"{SEAT_PATH}.seat_guid"),
        (_set(*SEAT, "seat_number", "1"), f"{SEAT_PATH}.seat_number"),
        (_set(*SEAT, "seat_number", 3), f"{SEAT_PATH}.seat_number"),
        (_set(*SEAT, "seat_number", ""), f"{SEAT_PATH}.seat_number"),
        (_set(*SEAT, "category", "Premium"), f"{SEAT_PATH}.category"),
        (_set(*SEAT, "category", None), SEAT_PATH),
        (_set(*SEAT, "position", None), SEAT_PATH),
        (_set(*SEAT, "position", "y", "1"), f"{SEAT_PATH}.position.y"),
        (_set(*SEAT, "position", "y", -1e7), f"{SEAT_PATH}.position.y"),
    ],
)
def test_wrong_plan_is_refused_with_the_path_of_what_is_wrong(change: Callable[[Plan], None], path: str) -> None:
    plan = small_plan()
    change(plan)
    with pytest.raises(InvalidRequest) as refusal:
        sections_of(plan)
    assert refusal.value.path == path
    assert refusal.value.reason


def test_seat_number_in_both_parts_of_a_row_is_refused_where_it_comes_again() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        sections_of(halves(right_x=100, right_numbers=(2, 3)))
    assert refusal.value.path == "$.zones[0].rows[0].seats[0].seat_number"


def test_joined_row_is_refused_when_it_gets_too_long() -> None:
    plan = halves(right_x=100_000, right_numbers=tuple(range(3, SEATS_PER_ROW_MAX + 2)))
    with pytest.raises(InvalidRequest, match=f"at most {SEATS_PER_ROW_MAX}"):
        sections_of(plan)


@pytest.mark.parametrize(
    ("prices", "path"),
    [
        ({"Standard": 6000, "Standing": 1}, "$.prices.Standing"),
        ({"Standard": -1}, "$.prices.Standard"),
        ({"Standard": 10**9 + 1}, "$.prices.Standard"),
        ({}, "$.zones[0].rows[0].seats[0].category"),
    ],
)
def test_wrong_prices_are_refused(prices: dict[str, int], path: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        sections_of(small_plan(), prices)
    assert refusal.value.path == path


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"zones": [}', b'{"name": "\xff"}', b"[" * 100_000])
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read_plan(data)
    assert refusal.value.path == "$"
