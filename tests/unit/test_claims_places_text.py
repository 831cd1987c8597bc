"""The one line of text for places: what is written is read again, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.places import BestPlaces, CountedPlaces, NumberedPlaces, Places, format_places, parse_places

SECTIONS = st.integers(0, 499)
COUNTED = st.builds(CountedPlaces, SECTIONS, st.integers(1, 500))
NUMBERED = st.builds(NumberedPlaces, SECTIONS, st.lists(st.integers(0, 999_999), min_size=1).map(tuple))
BEST = st.builds(BestPlaces, SECTIONS, st.integers(1, 500))


@st.composite
def claims(draw: st.DrawFn) -> Places:
    """Places as a script writes them: seats are numbered by then."""
    first = draw(st.integers(0, 287))
    return Places(first, draw(st.integers(first + 1, 288)), tuple(draw(st.lists(COUNTED | NUMBERED, max_size=6))))


@given(claims())
def test_places_are_read_as_they_were_written(places: Places) -> None:
    assert parse_places(format_places(places)) == places


@given(claims(), claims())
def test_different_places_are_written_differently(one: Places, other: Places) -> None:
    assert (format_places(one) == format_places(other)) == (one == other)


@given(claims())
def test_text_of_places_needs_no_quoting_anywhere(places: Places) -> None:
    assert set(format_places(places)) <= set("0123456789:;*#,")


def test_text_is_the_documented_one() -> None:
    places = Places(0, 1, (CountedPlaces(0, 2), NumberedPlaces(1, (100, 101)), BestPlaces(1, 3)))
    assert format_places(places) == "0:1;0*2;1#100,101;1?3"
    assert places.quantity == 7


@given(BEST)
def test_wish_for_the_best_is_no_claim_and_is_not_read(best: BestPlaces) -> None:
    with pytest.raises(ValueError):
        parse_places(format_places(Places(0, 1, (best,))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0:",
        ":1",
        "0:1:2",
        "0:1;",
        "0:1;;",
        "0:1;5",
        "0:1;0*",
        "0:1;*2",
        "0:1;0*2*3",
        "0:1;0#",
        "0:1;0#1,",
        "0:1;0#1#2",
        "a:1",
        "0:1;0*x",
    ],
)
def test_text_that_is_no_line_of_places_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_places(text)
