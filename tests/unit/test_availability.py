"""Availability worked out from bitmaps and counters, compared with looking at every seat."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from script_runner import sellable_event

from engine.availability import Snapshot, needs_cells, section_availability

Cells = list[list[str]]  # of each seat, of each leg: "free", "held" or "sold"


def pack(cells: Cells, kind: str) -> bytes:
    bits = "".join("1" if state == kind else "0" for seat in cells for state in seat)
    return bytes(int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8))


@st.composite
def halls(draw: st.DrawFn) -> tuple[list[int], int, Cells]:
    """Rows of two sections, the number of legs, and the state of every cell."""
    sizes = [draw(st.integers(1, 9)), draw(st.integers(1, 9))]
    legs = draw(st.integers(1, 11))
    state = st.sampled_from(["free", "free", "held", "sold"])
    return sizes, legs, [[draw(state) for _ in range(legs)] for _ in range(sum(sizes))]


@given(hall=halls(), data=st.data())
def test_availability_of_seats_is_what_looking_at_every_seat_finds(
    hall: tuple[list[int], int, Cells], data: st.DataObject
) -> None:
    sizes, legs, cells = hall
    rows = [{"id": f"s{n}", "price": 1, "rows": [{"id": "A", "seats": f"1-{size}"}]} for n, size in enumerate(sizes)]
    layout = sellable_event(*rows, stops=[f"S{n}" for n in range(legs + 1)] if legs > 1 else None).layout
    first = data.draw(st.integers(0, legs - 1))
    last = data.draw(st.integers(first + 1, legs))
    parts = [cells[: sizes[0]], cells[sizes[0] :]]
    fields = {
        f"{kind}:{section}:{leg}".encode(): b"%d" % sum(seat[leg] == kind for seat in part)
        for section, part in enumerate(parts)
        for leg in range(legs)
        for kind in ("free", "held", "sold")
    }
    snapshot = Snapshot(1, 1, "open", 0, fields, held=pack(cells, "held"), sold=pack(cells, "sold"))
    for found, part in zip(section_availability(snapshot, layout, first, last), parts, strict=True):
        stretches = [set(seat[first:last]) for seat in part]
        assert found.free == sum(stretch == {"free"} for stretch in stretches)
        assert found.sold == sum("sold" in stretch for stretch in stretches)
        assert found.held == sum("held" in stretch and "sold" not in stretch for stretch in stretches)
        assert found.free + found.held + found.sold == found.capacity == len(part)


def test_counted_places_over_several_legs_are_those_of_the_scarcest() -> None:
    layout = sellable_event({"id": "car", "price": 1, "capacity": 9}, stops=["A", "B", "C"]).layout
    counts = {"free": (5, 2), "held": (1, 4), "sold": (3, 3)}
    fields: dict[bytes, bytes] = {
        f"{kind}:0:{leg}".encode(): b"%d" % number for kind, legs in counts.items() for leg, number in enumerate(legs)
    }
    snapshot = Snapshot(1, 1, "open", 0, fields)

    def seen(first: int, last: int) -> tuple[Any, ...]:
        [car] = section_availability(snapshot, layout, first, last)
        return car.free, car.held, car.sold

    assert (seen(0, 1), seen(1, 2), seen(0, 2)) == ((5, 1, 3), (2, 4, 3), (2, 4, 3))


def test_bitmaps_are_needed_only_where_counters_cannot_tell() -> None:
    seats = {"id": "s", "price": 1, "rows": [{"id": "A", "seats": "1-2"}]}
    floor = {"id": "floor", "price": 1, "capacity": 9}
    legs: dict[str, Any] = {"stops": ["A", "B", "C"]}
    assert needs_cells(sellable_event(floor, seats, **legs).layout)
    assert not needs_cells(sellable_event(floor, seats).layout)
    assert not needs_cells(sellable_event(floor, **legs).layout)
