"""Counts in words."""

import re
from pathlib import Path

import pytest

from holdfast.counted import counted

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 events"), (1, "1 event"), (2, "2 events"), (12_345, "12,345 events")]
)
def test_count_is_told_with_the_word_that_fits_it(count: int, words: str) -> None:
    assert counted(count, "event") == words


def test_count_of_a_thing_with_a_plural_of_its_own() -> None:
    assert [counted(count, "delivery", "deliveries") for count in (1, 2)] == ["1 delivery", "2 deliveries"]


def test_lengths_that_commands_print_are_told_by_it() -> None:
    """A length in front of a plural is 1 one day."""
    by_hand = re.compile(r"\{len\([^{}]*\)(?::,)?\} (?:[a-z]+ )?[a-z]+s\b")
    commands = ROOT / "holdfast" / "commands"
    found = {path.name: by_hand.findall(path.read_text()) for path in commands.glob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}
