"""What holds of every layout, whatever the organizer draws."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.definition import EventDefinition
from engine.layout import Layout, compile_layout

IDS = st.text("ABCxyz1290 äß", min_size=1, max_size=4)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        first = draw(st.integers(0, 30))
        last = first + draw(st.integers(0, 12))
        seats: Any = f"{first}-{last}"
        seat_ids = [str(number) for number in range(first, last + 1)]
    else:
        seat_ids = draw(st.lists(IDS, min_size=1, max_size=12, unique=True))
        seats = [draw(st.sampled_from([seat_id, {"id": seat_id}])) for seat_id in seat_ids]
    return {"seats": seats, "seat_ids": seat_ids, "aisles_after": draw(st.lists(st.sampled_from(seat_ids), max_size=3))}


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        return {"capacity": draw(st.integers(1, 10_000)), "price": draw(st.integers(0, 9_999))}
    drawn = draw(st.lists(rows(), min_size=1, max_size=5))
    row_ids = draw(st.lists(IDS, min_size=len(drawn), max_size=len(drawn), unique=True))
    return {"rows": [row | {"id": row_id} for row, row_id in zip(drawn, row_ids, strict=True)], "price": 100}


@st.composite
def venues(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Sections as in a definition, but that every row also carries its ``seat_ids``."""
    drawn = draw(st.lists(sections(), min_size=1, max_size=4))
    section_ids = draw(st.lists(IDS, min_size=len(drawn), max_size=len(drawn), unique=True))
    return [section | {"id": section_id} for section, section_id in zip(drawn, section_ids, strict=True)]


STOP_LISTS = st.lists(IDS, min_size=2, max_size=6, unique=True)
STOPS = st.none() | STOP_LISTS


def layout_of(venue: list[dict[str, Any]], stops: list[str] | None = None, **members: Any) -> Layout:
    clean = [
        section | {"rows": [{k: row[k] for k in ("id", "seats", "aisles_after")} for row in section["rows"]]}
        if "rows" in section
        else section
        for section in venue
    ]
    document = {
        "name": "Gig",
        "starts_at": "2027-05-01T19:00:00Z",
        "currency": "EUR",
        "sections": clean,
        "stops": stops,
    } | members
    return compile_layout(msgspec.json.decode(msgspec.json.encode(document), type=EventDefinition))


def expected_blocks(venue: list[dict[str, Any]]) -> list[list[str]]:
    """The labels of every block in order, written down the simple way."""
    blocks: list[list[str]] = []
    for section in venue:
        for row in section.get("rows", []):
            blocks.append([])
            for position, seat_id in enumerate(row["seat_ids"]):
                blocks[-1].append(f"{row['id']}-{seat_id}")
                if seat_id in row["aisles_after"] and position < len(row["seat_ids"]) - 1:
                    blocks.append([])
    return blocks


@given(venues(), STOPS)
def test_layout_blocks_cover_the_seats_exactly_and_in_order(
    venue: list[dict[str, Any]], stops: list[str] | None
) -> None:
    layout = layout_of(venue, stops)
    ends = [*layout.block_starts[1:], len(layout.seats)]
    blocks = [
        [laid.label for laid in layout.seats[start:end]]
        for start, end in zip(layout.block_starts, ends, strict=False)
        if layout.block_starts
    ]
    assert blocks == expected_blocks(venue)


@given(venues())
def test_layout_numbers_are_dense_and_every_label_leads_back_to_its_seat(venue: list[dict[str, Any]]) -> None:
    layout = layout_of(venue)
    numbers = sorted(number for labels in layout.seat_index for number in labels.values())
    assert numbers == list(range(len(layout.seats)))
    for section in layout.sections:
        for label, number in layout.seat_index[section.index].items():
            assert layout.seats[number].label == label
            assert layout.section_of_seat(number) is section


@given(venues())
def test_layout_sections_partition_seats_and_blocks(venue: list[dict[str, Any]]) -> None:
    layout = layout_of(venue)
    seat = block = 0
    for section in layout.sections:
        assert layout.section_index[section.id] == section.index
        assert (section.first_seat, section.first_block) == (seat, block)
        seat += section.capacity if section.seated else 0
        block += section.block_count
        own = layout.block_starts[section.first_block : block]
        assert all(section.first_seat <= start < seat for start in own)
    assert (seat, block) == (len(layout.seats), len(layout.block_starts))


@given(venues(), STOP_LISTS)
def test_layout_range_of_legs_is_where_the_stops_are(venue: list[dict[str, Any]], stops: list[str]) -> None:
    layout = layout_of(venue, stops)
    assert layout.legs == len(stops) - 1
    for first in range(layout.legs):
        for last in range(first + 1, layout.legs + 1):
            assert layout.leg_range(stops[first], stops[last]) == (first, last)


@given(venues(), STOPS)
def test_layout_digest_is_the_same_for_the_same_places_and_changes_with_their_prices(
    venue: list[dict[str, Any]], stops: list[str] | None
) -> None:
    digest = layout_of(venue, stops).digest
    assert len(digest) == 71
    assert layout_of(venue, stops).digest == digest
    renamed = [section | {"name": "Else"} for section in venue]
    assert layout_of(renamed, stops, name="Another", metadata={"a": 1}).digest == digest
    dearer = [section | {"price": section["price"] + 1} for section in venue]
    assert layout_of(dearer, stops).digest != digest


@given(venues(), STOPS, st.data())
def test_layout_digest_changes_with_the_places(
    venue: list[dict[str, Any]], stops: list[str] | None, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(venue) - 1))
    section = venue[number]
    changed = [dict(other) for other in venue]
    if "rows" in section:
        row_number = data.draw(st.integers(0, len(section["rows"]) - 1))
        row = dict(section["rows"][row_number])
        first, *others = row["seat_ids"]
        kind = data.draw(st.sampled_from(["seat more", "seat renamed", "row renamed"]))
        if kind == "seat more":
            row |= {"seats": [*row["seat_ids"], "new"]}
        elif kind == "seat renamed":
            row |= {
                "seats": ["new", *others],
                "aisles_after": ["new" if a == first else a for a in row["aisles_after"]],
            }
        else:
            row["id"] = "renamed"
        changed[number]["rows"] = [*section["rows"][:row_number], row, *section["rows"][row_number + 1 :]]
    else:
        changed[number]["capacity"] = section["capacity"] + 1
    assert layout_of(changed, stops).digest != layout_of(venue, stops).digest


@given(st.lists(IDS, min_size=2, max_size=6, unique=True), st.data())
def test_layout_digest_changes_with_the_aisles(seat_ids: list[str], data: st.DataObject) -> None:
    aisles = st.lists(st.sampled_from(seat_ids[:-1]), max_size=3)  # behind the last seat there is no aisle
    one, other = data.draw(aisles), data.draw(aisles)

    def digest(aisles_after: list[str]) -> str:
        row = {"id": "A", "seats": seat_ids, "aisles_after": aisles_after}
        return layout_of([{"id": "stalls", "price": 1, "rows": [row]}]).digest

    assert (digest(one) == digest(other)) == (set(one) == set(other))


@given(venues(), STOPS)
def test_layout_digest_changes_with_the_stops_and_the_names_of_sections(
    venue: list[dict[str, Any]], stops: list[str] | None
) -> None:
    digests = {
        layout_of(venue, stops).digest,
        layout_of(venue, [*(stops or ["from"]), "to"]).digest,
        layout_of([*venue, {"id": "extra", "capacity": 1, "price": 1}], stops).digest,
        layout_of([venue[0] | {"id": "renamed"}, *venue[1:]], stops).digest,
    }
    assert len(digests) == 4
