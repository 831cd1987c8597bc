"""Places given back by what they are: the blocks that come to exactly these, found wherever there are any."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.block_sums import SUMS_MAX, made_up_of
from engine.errors import InvalidRequest
from engine.places import CountedPlaces, NumberedPlaces, Places, parse_places


def blocks_of(*texts: str) -> dict[str, Places]:
    return {f"b{number}": parse_places(text) for number, text in enumerate(texts)}


@pytest.mark.parametrize(
    ("wanted", "blocks", "found"),
    [
        ("0:1;0*4", ["0:1;0*1", "0:1;0*2", "0:1;0*2"], ["b1", "b2"]),
        ("0:1;0*3", ["0:1;0*1", "0:1;0*2", "0:1;0*2"], ["b0", "b1"]),
        ("0:1;0*3", ["0:1;0*1", "0:1;0*2", "0:1;0*3"], ["b2"]),
        ("0:1;0*4", ["0:1;0*3", "0:1;0*3"], None),
        ("0:1;0*6", ["0:1;0*4", "0:1;0*4", "0:1;0*1"], None),
        ("0:1;0*2;1*2", ["0:1;0*1;1*1", "0:1;0*2", "0:1;1*2", "0:1;1*1"], ["b1", "b2"]),
        ("0:1;0*3;1*2", ["0:1;0*2", "0:1;0*2;1*1", "0:1;0*1;1*1", "0:1;1*1"], ["b0", "b2", "b3"]),
        ("0:1;1#3,4;0*5", ["0:1;0*3", "0:1;1#3;0*1", "0:1;0*2", "0:1;0*1", "0:1;1#4"], ["b0", "b1", "b3", "b4"]),
        ("0:1;1#3", ["0:1;1#3,4"], None),
        ("0:1;1#3,4", ["0:1;1#3"], None),
        ("0:2;0*2", ["0:1;0*2", "1:2;0*2", "0:2;0*1", "0:2;0*1"], ["b2", "b3"]),
        ("0:1;0*1", [], None),
    ],
)
def test_places_are_made_up_of(wanted: str, blocks: list[str], found: list[str] | None) -> None:
    assert made_up_of(parse_places(wanted), blocks_of(*blocks)) == found


def counted(amounts: dict[int, int]) -> Places:
    return Places(0, 1, tuple(CountedPlaces(section, count) for section, count in amounts.items()))


amounts = st.dictionaries(st.integers(0, 2), st.integers(1, 6), min_size=1)


@given(wanted=amounts, many=st.lists(amounts, max_size=8))
def test_blocks_are_found_whenever_trying_every_combination_finds_some(
    wanted: dict[int, int], many: list[dict[int, int]]
) -> None:
    blocks = {f"b{number}": counted(one) for number, one in enumerate(many)}
    found = made_up_of(counted(wanted), blocks)
    there_are = any(
        _sum(chosen) == wanted for size in range(1, len(many) + 1) for chosen in itertools.combinations(many, size)
    )
    assert (found is not None) == there_are
    if found is not None:
        assert _sum([many[int(block_id[1:])] for block_id in found]) == wanted
        assert len(set(found)) == len(found)


def _sum(chosen: "list[dict[int, int]] | tuple[dict[int, int], ...]") -> dict[int, int]:
    total: dict[int, int] = {}
    for one in chosen:
        total = {section: total.get(section, 0) + one.get(section, 0) for section in total.keys() | one.keys()}
    return total


def test_as_many_blocks_of_as_many_places_as_there_may_be_are_looked_through() -> None:
    blocks = {f"b{number}": counted({0: 2_000 + 2 * number}) for number in range(500)}
    assert made_up_of(counted({0: 999_999}), blocks) is None
    found = made_up_of(counted({0: 999_998}), blocks)
    assert found is not None
    assert sum(blocks[block_id].quantity for block_id in found) == 999_998


def test_sections_without_a_block_in_common_are_looked_at_one_by_one() -> None:
    blocks = {f"b{number}": counted({number // 2: 500 + number % 2}) for number in range(20)}
    assert made_up_of(counted(dict.fromkeys(range(10), 1_001)), blocks) == list(blocks)


def test_more_sums_than_can_be_looked_at_are_refused() -> None:
    blocks = {"b0": counted({0: 1, 1: 1}), "b1": counted({0: SUMS_MAX, 1: 1})}
    with pytest.raises(InvalidRequest, match="too much"):
        made_up_of(counted({0: SUMS_MAX, 1: 3}), blocks)


def test_a_numbered_seat_says_which_block_is_meant_whatever_else_would_fit() -> None:
    seats = Places(0, 1, (NumberedPlaces(1, (7,)), CountedPlaces(0, 2)))
    blocks = {"b0": counted({0: 2}), "b1": seats, "b2": counted({0: 1})}
    wanted = Places(0, 1, (NumberedPlaces(1, (7,)), CountedPlaces(0, 3)))
    assert made_up_of(wanted, blocks) == ["b1", "b2"]
