"""What the loader adds up, held against a count of every single place."""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_runner import sellable_event

import engine.booking_batches
from engine.booking_batches import AGAIN_MAX, KEYS_TTL_S, BookingBatches
from engine.layout import Layout
from engine.places import CountedPlaces, NumberedPlaces, Places, format_places
from engine.ports import BookingColumns

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


def columns(booked: Sequence[tuple[Places, str]]) -> BookingColumns:
    places, customers = zip(*booked, strict=True)
    ids = [uuid.uuid4().bytes for _ in booked]
    return BookingColumns(ids, ["1000"] * len(ids), [*map(format_places, places)], customers)


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


def new_batches() -> BookingBatches:
    return BookingBatches(LAYOUT, b"b", b"u")


def commands(wires: Iterable[bytes]) -> list[list[bytes]]:
    reader = hiredis.Reader()
    for wire in wires:
        reader.feed(wire)
    return list(iter(reader.gets, False))


def pairs(parts: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    return zip(*[map(bytes.decode, parts)] * 2, strict=True)


@given(
    st.lists(st.tuples(claims(), st.sampled_from(("ana", "ben", "a|b", "ż\r\n名", ""))), min_size=1, max_size=40),
    st.integers(1, 9),
    st.sampled_from((1, 4, 1024)),
)
def test_everything_is_counted_once_however_it_is_cut_into_batches(
    booked: list[tuple[Places, str]], size: int, seen: int
) -> None:
    """Also where most customers share their hash with somebody who came before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.booking_batches, "SEEN_MAX", seen)
        batches = new_batches()
    totals, records, sent = Counter[str](), dict[str, str](), 0
    for start in range(0, len(booked), size):
        for verb, key, *rest in commands(batches.add(columns(booked[start : start + size]))):
            if verb == b"HSET" and key == b"b":
                records |= pairs(rest)
            elif verb == b"HSET":
                written_now = dict(pairs(rest))
                assert not totals.keys() & written_now.keys()  # it would be forgotten what they had
                totals.update({customer: int(count) for customer, count in written_now.items()})
                sent += len(written_now)
            else:
                assert (verb, rest) == (b"EXPIRE", [b"%d" % KEYS_TTL_S])
        for _, _, *again in batches.take_again():
            totals.update({customer: int(count) for customer, count in pairs(again)})
    assert (len(records), batches.count, batches.customer_count) == (len(booked), len(booked), sent)
    assert batches.again_count == 0
    assert written(batches) == expected([places for places, _ in booked], LAYOUT)
    assert written(batches) == expected([places for places, _ in booked], LAYOUT)  # to ask twice changes nothing
    wanted = Counter[str]()
    for places, customer_id in booked:
        wanted[customer_id] += places.quantity
    assert totals == wanted


def test_customers_who_came_before_are_added_to_in_calls_that_are_numbered() -> None:
    batches = new_batches()
    for _ in range(2):
        batches.add(columns([(Places(0, 1, (CountedPlaces(0, 12),)), f"c{n}") for n in range(AGAIN_MAX + 1)]))
    assert batches.again_count > AGAIN_MAX
    calls = list(batches.take_again())
    assert [(call[0], len(call) <= 2 + 2 * AGAIN_MAX) for call in calls] == [(b"1", True), (b"2", True)]
    assert [call[0] for call in batches.take_again()] == []


@settings(max_examples=20)
@given(st.lists(claims(), max_size=40))
def test_bounds_on_memory_and_on_calls_change_no_sum(booked: list[Places]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.booking_batches, "PIECE_BYTES", 2)
        patch.setattr(engine.booking_batches, "FIELDS_PER_CALL", 4)
        patch.setattr(engine.booking_batches, "COUNTED_TEXTS_MAX", 1)
        batches = new_batches()
        if booked:
            batches.add(columns([(places, "ana") for places in booked]))
        assert written(batches) == expected(booked, LAYOUT)
        assert all(len(piece[1]) <= 2 and len(piece) <= 6 for piece in batches.pieces())


def test_record_is_what_a_booking_of_the_ledger_looks_like_in_redis() -> None:
    number = uuid.UUID(int=5)
    wires = new_batches().add(BookingColumns([number.bytes], ["7"], ["0:1;0*2;1#3,4"], ["ana|ż"]))
    assert commands(wires)[:2] == [
        [b"HSET", b"b", b"0" * 25 + b"5", "7|7|||4|0:1;0*2;1#3,4|ana|ż".encode()],
        [b"HSET", b"u", "ana|ż".encode(), b"4"],
    ]


@pytest.mark.parametrize("text", ["0:1;1#4000", "nonsense", "0:1;1#1,x"])
def test_booking_of_no_place_of_the_event_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        new_batches().add(BookingColumns([bytes(16)], ["1"], [text], ["ana"]))
