"""What the loader adds up, held against a count of every single place."""

import uuid
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_runner import sellable_event

import engine.booking_batches
from engine.booking_batches import BookingBatches
from engine.layout import Layout
from engine.places import CountedPlaces, NumberedPlaces, Places, format_places
from engine.ports import BookingRow

FLOOR = {"id": "floor", "price": 1, "capacity": 50}
STALLS = {"id": "stalls", "price": 1, "rows": [{"id": "A", "seats": "1-30"}]}
BALCONY = {"id": "balcony", "price": 1, "rows": [{"id": "B", "seats": "1-11"}]}
LAYOUT = sellable_event(FLOOR, STALLS, BALCONY, stops=["A", "B", "C", "D"]).layout


@st.composite
def claims(draw: st.DrawFn) -> Places:
    first = draw(st.integers(0, 2))
    last = draw(st.integers(first + 1, 3))
    items: list[CountedPlaces | NumberedPlaces] = []
    for section in draw(st.lists(st.sampled_from((0, 1, 2)), min_size=1, max_size=3, unique=True)):
        if section == 0:
            items.append(CountedPlaces(0, draw(st.integers(1, 5))))
        else:
            seats = st.integers(0, 29) if section == 1 else st.integers(30, 40)
            items.append(NumberedPlaces(section, tuple(draw(st.lists(seats, min_size=1, max_size=3, unique=True)))))
    return Places(first, last, tuple(items))


def row(places: Places, customer_id: str) -> BookingRow:
    return (uuid.uuid4().bytes, 1_000, format_places(places), customer_id)


def expected(booked: list[Places], layout: Layout) -> tuple[set[int], dict[str, int]]:
    """Cells and counters as one would count them by hand."""
    cells: set[int] = set()
    sold: Counter[tuple[int, int]] = Counter()
    for places in booked:
        for item in places.items:
            for leg in range(places.first_leg, places.last_leg):
                sold[item.section, leg] += item.quantity
                if isinstance(item, NumberedPlaces):
                    cells |= {seat * layout.legs + leg for seat in item.seats}
    counters = {f"sold:{section}:{leg}": count for (section, leg), count in sold.items()}
    counters |= {
        f"free:{section}:{leg}": layout.sections[section].capacity - count for (section, leg), count in sold.items()
    }
    return cells, counters


def written(batches: BookingBatches) -> tuple[set[int], dict[str, int]]:
    """Cells and counters as ``load_places`` would write them."""
    cells: set[int] = set()
    counters: dict[str, int] = {}
    for offset, piece, *fields in batches.pieces():
        bits = "".join(f"{byte:08b}" for byte in piece)
        cells |= {8 * int(offset) + position for position, bit in enumerate(bits) if bit == "1"}
        counters |= {name.decode(): int(value) for name, value in zip(fields[::2], fields[1::2], strict=True)}
    return cells, counters


@given(
    st.lists(st.tuples(claims(), st.sampled_from(("ana", "ben", "a|b"))), min_size=1, max_size=40), st.integers(1, 9)
)
def test_everything_is_counted_once_however_it_is_cut_into_batches(booked: list[tuple[Places, str]], size: int) -> None:
    batches, totals, records = BookingBatches(LAYOUT), Counter[str](), 0
    for start in range(0, len(booked), size):
        rows = [row(places, customer_id) for places, customer_id in booked[start : start + size]]
        count, bookings, customers = batches.add(rows)
        records += bookings.count(b"\0")
        assert int(count) == len(rows)
        for line in customers.decode().split("\0")[:-1]:
            total, _, customer_id = line.partition("|")
            totals[customer_id] += int(total)
    assert records == len(booked)
    assert written(batches) == expected([places for places, _ in booked], LAYOUT)
    assert written(batches) == expected([places for places, _ in booked], LAYOUT)  # to ask twice changes nothing
    wanted = Counter[str]()
    for places, customer_id in booked:
        wanted[customer_id] += places.quantity
    assert totals == wanted


@settings(max_examples=20)
@given(st.lists(claims(), max_size=40))
def test_bounds_on_memory_and_on_calls_change_no_sum(booked: list[Places]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.booking_batches, "PIECE_BYTES", 2)
        patch.setattr(engine.booking_batches, "FIELDS_PER_CALL", 4)
        patch.setattr(engine.booking_batches, "COUNTED_TEXTS_MAX", 1)
        batches = BookingBatches(LAYOUT)
        if booked:
            batches.add([row(places, "ana") for places in booked])
        assert written(batches) == expected(booked, LAYOUT)
        assert all(len(piece[1]) <= 2 and len(piece) <= 6 for piece in batches.pieces())


def test_record_is_what_a_booking_of_the_ledger_looks_like_in_redis() -> None:
    number = uuid.UUID(int=5)
    count, bookings, customers = BookingBatches(LAYOUT).add([(number.bytes, 7, "0:1;0*2;1#3,4", "ana|x")])
    assert (count, customers) == (b"1", b"4|ana|x\0")
    assert bookings == b"0" * 25 + b"5" + b"7|7|||4|0:1;0*2;1#3,4|ana|x\0"


@pytest.mark.parametrize("text", ["0:1;1#4000", "nonsense", "0:1;1#1,x"])
def test_booking_of_no_place_of_the_event_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        BookingBatches(LAYOUT).add([(bytes(16), 1, text, "ana")])
