"""A definition compiled: numbers, blocks, legs and prices by example, and what its fields may not say of each other."""

from typing import Any

import msgspec
import pytest

from engine.definition import EventDefinition, SlotsDefinition
from engine.errors import InvalidRequest
from engine.layout import (
    SEATS_MAX,
    SEATS_PER_ROW_MAX,
    SEATS_WITH_LEGS_MAX,
    Layout,
    compile_layout,
    slot_times,
)

FLOOR = {"id": "floor", "price": 4500, "capacity": 500}
STALLS = {
    "id": "stalls",
    "price": 9000,
    "rows": [{"id": "A", "seats": "1-20"}, {"id": "B", "seats": ["1", "2", "4"]}],
}


def layout_of(*sections: dict[str, Any], **members: Any) -> Layout:
    document = {"name": "Gig", "starts_at": "2027-05-01T19:00:00Z", "currency": "EUR", "sections": sections} | members
    return compile_layout(msgspec.convert(document, EventDefinition))


def refusal(*sections: dict[str, Any], **members: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        layout_of(*sections, **members)
    return error.value


def seated(*rows: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"id": "stalls", "price": 100, "rows": list(rows)} | members


def drawn(*positions: tuple[float, float | None]) -> dict[str, Any]:
    """A row of seats at these positions, numbered from 1."""
    return {"id": "A", "seats": [{"id": str(n), "x": x, "y": y} for n, (x, y) in enumerate(positions, start=1)]}


def test_seats_are_numbered_by_section_row_and_position() -> None:
    layout = layout_of(FLOOR, STALLS, STALLS | {"id": "circle"})
    assert layout.section_index == {"floor": 0, "stalls": 1, "circle": 2}
    assert [layout.seats[n].label for n in (0, 19, 20, 22, 23)] == ["A-1", "A-20", "B-1", "B-4", "A-1"]
    assert layout.seat_index[0] == {}
    assert layout.seat_index[2]["B-4"] == 45
    assert [(s.capacity, s.first_seat, s.first_block, s.block_count) for s in layout.sections] == [
        (500, 0, 0, 0),
        (23, 0, 0, 2),
        (23, 23, 2, 2),
    ]


def test_section_is_found_by_any_of_its_seats() -> None:
    layout = layout_of(STALLS, FLOOR, STALLS | {"id": "circle"})
    assert [layout.section_of_seat(seat).id for seat in (0, 22, 23, 45)] == ["stalls", "stalls", "circle", "circle"]


def test_event_without_sections_stops_or_slots_has_one_leg_and_no_places() -> None:
    layout = layout_of()
    assert (layout.legs, layout.stops, layout.sections, layout.seats, layout.block_starts) == (1, (), (), (), ())
    assert layout.leg_range(None, None) == (0, 1)
    assert layout.stop_name(0) is None


@pytest.mark.parametrize(
    ("aisles_after", "block_starts"),
    [([], (0,)), (["2"], (0, 2)), (["4", "1"], (0, 1, 4)), (["6"], (0,)), (["2", "2"], (0, 2))],
)
def test_declared_aisles_divide_a_row(aisles_after: list[str], block_starts: tuple[int, ...]) -> None:
    layout = layout_of(seated({"id": "A", "seats": "1-6", "aisles_after": aisles_after}))
    assert layout.block_starts == block_starts


@pytest.mark.parametrize(
    ("positions", "block_starts"),
    [
        ([(0, 0), (10, 0), (20, 0)], (0,)),
        ([(0, 0), (10, 0), (40, 0), (50, 0)], (0, 2)),
        ([(0, 0), (10, 0), (27.5, 0), (37.5, 0)], (0,)),  # exactly 1.75 times is no aisle
        ([(0, 0), (10, 0), (27.6, 0), (37.6, 0)], (0, 2)),
        ([(50, 0), (40, 0), (10, 0), (0, 0)], (0, 2)),  # numbered from the right
        ([(0, None), (10, None), (40, None), (50, None)], (0, 2)),
        ([(0, 0), (0, 10), (0, 40), (0, 50)], (0, 2)),  # a side gallery, drawn from front to back
        ([(0, 0), (0, 0), (0, 0), (9, 0)], (0,)),  # on top of each other: no usual distance to compare with
        ([(0, 0), (500, 0)], (0,)),  # two seats have no usual distance
        ([(0, 0), (1e200, 0), (5, 0), (6, 0)], (0,)),  # absurd, but the platform's floats bear it
        ([(-1.7e308, 0), (1.7e308, 0), (1.7e308, 0), (1.7e308, 0)], (0,)),
    ],
)
def test_aisles_are_seen_in_the_drawing(
    positions: list[tuple[float, float | None]], block_starts: tuple[int, ...]
) -> None:
    layout = layout_of(seated(drawn(*positions)))
    assert layout.block_starts == block_starts


def test_row_with_a_seat_without_position_has_no_aisles_but_declared_ones() -> None:
    row = drawn((0, 0), (10, 0), (40, 0), (50, 0))
    row["seats"].append("5")
    assert layout_of(seated(row | {"aisles_after": ["1"]})).block_starts == (0, 1)


@pytest.mark.parametrize(("overbooking", "capacity"), [(0, 15), (10, 16), (100, 30)])
def test_overbooking_adds_to_counted_sections_only_and_rounds_down(overbooking: int, capacity: int) -> None:
    layout = layout_of(FLOOR | {"capacity": 15}, STALLS, policy={"overbooking_percent": overbooking})
    assert [section.capacity for section in layout.sections] == [capacity, 23]


def test_range_of_stops_gives_the_legs_between_them() -> None:
    layout = layout_of(FLOOR, stops=["SJC", "PAO", "SFO"])
    assert layout.legs == 2
    assert layout.leg_range("SJC", "PAO") == (0, 1)
    assert layout.leg_range("PAO", None) == (1, 2)
    assert layout.leg_range(None, "PAO") == (0, 1)
    assert [layout.stop_name(n) for n in range(3)] == ["SJC", "PAO", "SFO"]


@pytest.mark.parametrize(
    ("seats", "words"),
    [
        ("9-1", "begins with the lower number"),
        ("1-999999999", "at most 1000 seats"),
        ("1-", "must be a range"),
        ("١-٣", "must be a range"),
    ],
)
def test_wrong_range_of_seats_is_refused_for_its_true_reason(seats: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as error:
        layout_of({"id": "stalls", "price": 1, "rows": [{"id": "A", "seats": seats}]})
    assert error.value.path == "$.sections[0].rows[0].seats"


@pytest.mark.parametrize(
    ("from_stop", "to_stop", "path"),
    [
        ("LAX", "SFO", "$.from"),
        ("SJC", "LAX", "$.to"),
        ("SFO", "SJC", "$.from"),
        ("PAO", "PAO", "$.to"),
        ("SFO", None, "$.from"),
        (None, "SJC", "$.to"),
        ("", None, "$.from"),
        ("sjc", None, "$.from"),
    ],
)
def test_wrong_range_of_stops_is_refused(from_stop: str | None, to_stop: str | None, path: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        layout_of(FLOOR, stops=["SJC", "PAO", "SFO"]).leg_range(from_stop, to_stop)
    assert error.value.path == path


@pytest.mark.parametrize(("stops", "path"), [(("A", None), "$.from"), ((None, "A"), "$.to")])
def test_range_is_refused_when_the_event_has_no_legs(stops: tuple[str | None, str | None], path: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        layout_of(FLOOR).leg_range(*stops)
    assert error.value.path == path


def test_slots_are_clock_times_that_go_on_past_midnight() -> None:
    layout = layout_of(FLOOR, slots={"start": "23:30", "minutes": 30, "count": 3})
    assert layout.stops == ("23:30", "24:00", "24:30", "25:00")
    assert layout.leg_range("24:00", "25:00") == (1, 3)


@pytest.mark.parametrize(
    ("start", "minutes", "count", "fits"),
    [("00:00", 10, 288, True), ("00:01", 1440, 2, False), ("00:00", 1440, 2, True), ("23:59", 1440, 1, True)],
)
def test_slots_end_within_the_following_day(start: str, minutes: int, count: int, fits: bool) -> None:
    members = {"slots": {"start": start, "minutes": minutes, "count": count}}
    if fits:
        assert layout_of(FLOOR, **members).legs == count
    else:
        assert refusal(FLOOR, **members).path == "$.slots"


def test_slot_times_are_one_more_than_the_slots() -> None:
    times = slot_times(SlotsDefinition(start="17:00", minutes=15, count=28))
    assert (times[0], times[1], times[-1], len(times)) == ("17:00", "17:15", "24:00", 29)


def test_price_is_the_sections_the_categorys_or_the_sum_over_legs() -> None:
    rows = [{"id": "A", "seats": [{"id": "1", "category": "gold"}, {"id": "2", "category": "tin"}, "3"]}]
    layout = layout_of(
        FLOOR | {"leg_prices": [100, 20]},
        seated(*rows, prices={"gold": 900, "iron": 1}),
        stops=["a", "b", "c"],
    )
    floor, stalls = layout.sections
    assert [layout.price_of(floor, None, *legs) for legs in ((0, 1), (1, 2), (0, 2))] == [100, 20, 120]
    assert [layout.price_of(stalls, seat, 0, 2) for seat in range(3)] == [900, 100, 100]


def test_seats_may_all_have_categories_and_the_section_no_price() -> None:
    section = seated({"id": "A", "seats": [{"id": "1", "category": "gold"}]}, prices={"gold": 0}, price=None)
    layout = layout_of(section)
    assert layout.price_of(layout.sections[0], 0, 0, 1) == 0


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"id": "a", "price": 1}, "$.sections[1]"),
        ({"id": "a", "price": 1, "capacity": 5, "rows": [{"id": "A", "seats": "1-2"}]}, "$.sections[1]"),
        ({"id": "a", "capacity": 5}, "$.sections[1].price"),
        ({"id": "floor", "price": 1, "capacity": 5}, "$.sections[1]"),
        ({"id": "a", "price": 1, "capacity": 5, "leg_prices": []}, "$.sections[1].leg_prices"),
        ({"id": "a", "price": 1, "capacity": 5, "leg_prices": [1, 2]}, "$.sections[1].leg_prices"),
        ({"id": "a", "price": 1, "capacity": 5, "prices": {"gold": 1}}, "$.sections[1].prices"),
        (seated({"id": "A", "seats": "1-2"}, leg_prices=[1], prices={"gold": 1}), "$.sections[1].prices"),
        (seated({"id": "A", "seats": "2-1"}), "$.sections[1].rows[0].seats"),
        (seated({"id": "A", "seats": "1-"}), "$.sections[1].rows[0].seats"),
        (seated({"id": "A", "seats": "A-F"}), "$.sections[1].rows[0].seats"),
        (seated({"id": "A", "seats": "1-2\n"}), "$.sections[1].rows[0].seats"),
        (seated({"id": "A", "seats": ""}), "$.sections[1].rows[0].seats"),
        (seated({"id": "A", "seats": "1-1001"}), "$.sections[1].rows[0].seats"),
        (seated({"id": "A", "seats": []}), "$.sections[1].rows[0].seats"),
        (seated({"id": "A", "seats": [str(n) for n in range(1001)]}), "$.sections[1].rows[0].seats"),
        (seated({"id": "A", "seats": ["1", "2", "1"]}), "$.sections[1].rows[0].seats[2]"),
        (seated({"id": "A", "seats": ["1", {"id": "1"}]}), "$.sections[1].rows[0].seats[1]"),
        (seated({"id": "A", "seats": "1-2"}, {"id": "A", "seats": "3-4"}), "$.sections[1].rows[1]"),
        (seated({"id": "A-1", "seats": ["2"]}, {"id": "A", "seats": ["1-2"]}), "$.sections[1].rows[1].seats[0]"),
        (
            seated({"id": "A", "seats": "1-2", "aisles_after": ["1", "3"]}),
            "$.sections[1].rows[0].aisles_after[1]",
        ),
        (
            seated({"id": "A", "seats": ["1", {"id": "2", "category": "tin"}]}, price=None, prices={"gold": 1}),
            "$.sections[1].rows[0].seats[0]",
        ),
    ],
)
def test_section_that_contradicts_itself_is_refused_with_its_path(section: dict[str, Any], path: str) -> None:
    assert refusal(FLOOR, section).path == path


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"ends_at": "2027-05-01T19:00:00Z"}, "$.ends_at"),
        ({"ends_at": "2027-05-01T20:59:59+02:00"}, "$.ends_at"),
        ({"policy": {"hold_ttl": 901}}, "$.policy.hold_ttl"),
        ({"stops": ["a", "b", "a"]}, "$.stops[2]"),
        ({"stops": ["a", "b"], "slots": {"start": "17:00", "minutes": 15, "count": 1}}, "$.slots"),
    ],
)
def test_event_that_contradicts_itself_is_refused_with_its_path(members: dict[str, Any], path: str) -> None:
    assert refusal(FLOOR, **members).path == path


def test_row_may_be_as_long_as_the_bound() -> None:
    assert len(layout_of(seated({"id": "A", "seats": f"1-{SEATS_PER_ROW_MAX}"})).seats) == SEATS_PER_ROW_MAX


def test_too_many_seats_are_refused_before_they_are_made() -> None:
    rows = [{"id": str(n), "seats": "1-1000"} for n in range(10_000)]  # 20 million seats in 600 kB of JSON
    sections = [seated(*rows, id=str(n)) for n in range(2)]
    error = refusal(*sections)
    assert error.path == "$.sections"
    assert str(SEATS_MAX) in error.reason


def test_seats_are_fewer_where_there_are_legs() -> None:
    rows = [{"id": str(n), "seats": "1-10"} for n in range(SEATS_WITH_LEGS_MAX // 10 + 1)]
    assert len(layout_of(seated(*rows)).seats) == SEATS_WITH_LEGS_MAX + 10
    assert layout_of(seated(*rows[1:]), stops=["a", "b", "c"]).legs == 2
    error = refusal(seated(*rows), stops=["a", "b", "c"])
    assert (error.path, str(SEATS_WITH_LEGS_MAX) in error.reason) == ("$.sections", True)
