"""Ids of holds and bookings, and references that people type."""

import itertools
import subprocess
import sys
import time
import uuid

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.ids import (
    ALPHABET,
    ClaimKey,
    claim_id,
    claim_key,
    claim_keys,
    new_claim_id,
    number_from_reference,
    parse_claim_id,
    reference_from_number,
)

NUMBERS = st.integers(0, 2**35 - 1)
EVENT_IDS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
CHARACTER_POSITIONS = (3, 4, 5, 6, 8, 9, 10, 11)  # of HF-7K3M-9QXP, the check character last


@given(st.integers(0, 2**128 - 1), EVENT_IDS)
def test_claim_id_is_taken_apart_into_what_it_was_made_of(number: int, event_id: str) -> None:
    claim = parse_claim_id(claim_id(number, event_id))
    assert claim is not None
    assert (claim.uuid, claim.event_id) == (uuid.UUID(int=number), event_id)
    assert claim_id(claim.uuid.int, claim.event_id) == f"{claim.key}~{event_id}"


@given(st.lists(st.integers(0, 2**128 - 1), max_size=70))
def test_keys_made_together_are_those_made_one_by_one(numbers: list[int]) -> None:
    assert claim_keys([number.to_bytes(16) for number in numbers]) == [claim_key(number) for number in numbers]


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_claim_ids_sort_as_their_numbers_do(one: int, other: int) -> None:
    assert (claim_id(one, "e") < claim_id(other, "e")) == (one < other)


def test_new_claim_ids_are_unique_uuids_of_version_7_and_of_now() -> None:
    before_ms = time.time_ns() // 1_000_000
    claims = [parse_claim_id(new_claim_id("concert-42")) for _ in range(1_000)]
    after_ms = time.time_ns() // 1_000_000
    uuids = [claim.uuid for claim in claims if claim is not None]
    assert len(set(uuids)) == 1_000
    assert {(u.version, u.variant) for u in uuids} == {(7, uuid.RFC_4122)}
    assert all(before_ms <= u.int >> 80 <= after_ms for u in uuids)


FORKED = """
import os
from engine.ids import new_claim_key
new_claim_key()  # from here on there are characters in store
child = os.fork()
os.write(1, "".join(f"{new_claim_key()[-16:]} " for _ in range(64)).encode())  # in one piece
if child:
    os.waitpid(child, 0)
"""


def test_process_forked_off_makes_ids_of_its_own() -> None:
    printed = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True).stdout.split()
    assert len(printed) == len(set(printed)) == 128


VALID = "01jd2w3x4y5z6a7b8c9d0e1f2g"


def test_example_of_a_claim_id_is_read() -> None:
    assert parse_claim_id(f"{VALID}~concert-42") == ClaimKey(VALID, "concert-42")


@pytest.mark.parametrize(
    "text",
    [
        "",
        VALID,
        f"{VALID}~",
        f"~{VALID}",
        f"{VALID[:-1]}~e",
        f"{VALID}0~e",
        f"8{VALID[1:]}~e",  # more than 128 bits
        f"{VALID.upper()}~e",
        f"{VALID[:-1]}i~e",
        f"{VALID[:-1]}l~e",
        f"{VALID[:-1]}o~e",
        f"{VALID[:-1]}u~e",
        f"{VALID}~e\n",
        f"{VALID}~E",
        f"{VALID}~-e",
        f"{VALID}~e~e",
        f"{VALID}~e}}x{{",
        f"{VALID}~{'e' * 65}",
        f" {VALID}~e",
        f"{VALID[:-1]}٣~e",
    ],
)
def test_text_that_is_no_claim_id_is_none(text: str) -> None:
    assert parse_claim_id(text) is None


@given(NUMBERS)
def test_reference_leads_back_to_its_number(number: int) -> None:
    reference = reference_from_number(number)
    assert len(reference) == 12
    assert set(reference) <= set(ALPHABET + "HF-")
    assert number_from_reference(reference) == number


@given(NUMBERS, st.data())
def test_reference_is_read_as_people_type_it(number: int, data: st.DataObject) -> None:
    typed = reference_from_number(number)
    body = "".join(data.draw(st.sampled_from({"0": "0Oo", "1": "1IiLl"}.get(c, c + c.lower()))) for c in typed[3:])
    if data.draw(st.booleans()):
        body = body.replace("-", "")
    prefix = data.draw(st.sampled_from(["HF-", "hf-", "Hf", "  HF-"]))
    assert number_from_reference(f"{prefix}{body} ") == number


@given(NUMBERS, st.sampled_from(CHARACTER_POSITIONS), st.sampled_from(ALPHABET + "U"))
def test_reference_with_one_wrong_character_is_none(number: int, position: int, wrong: str) -> None:
    reference = reference_from_number(number)
    assume(reference[position] != wrong)
    in_body = position != CHARACTER_POSITIONS[-1]
    assume(not (in_body and {reference[position], wrong} == {"0", "Z"}))  # documented: the one it cannot see
    assert number_from_reference(reference[:position] + wrong + reference[position + 1 :]) is None


@given(NUMBERS, st.sampled_from(CHARACTER_POSITIONS), st.sampled_from(CHARACTER_POSITIONS))
def test_reference_with_two_characters_swapped_is_none(number: int, one: int, other: int) -> None:
    characters = list(reference_from_number(number))
    assume(characters[one] != characters[other])
    in_body = CHARACTER_POSITIONS[-1] not in (one, other)
    assume(not (in_body and {characters[one], characters[other]} == {"0", "Z"}))  # the same blind spot
    characters[one], characters[other] = characters[other], characters[one]
    assert number_from_reference("".join(characters)) is None


def test_references_of_consecutive_numbers_are_unique_and_look_unrelated() -> None:
    references = [reference_from_number(number) for number in range(10_000)]
    assert len(set(references)) == 10_000
    alike = sum(a[3:7] == b[3:7] for a, b in itertools.pairwise(references))
    assert alike == 0


@pytest.mark.parametrize("number", [-1, 2**35, 10**30])
def test_number_that_does_not_fit_into_a_reference_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        reference_from_number(number)


@pytest.mark.parametrize(
    "text",
    ["", "HF", "HF-", "HF-0000-000", "HF-0000-00000", "XX-0000-0000", "HF-00U0-0000", "HF_0000_0000", "0000-0000"],
)
def test_text_that_is_no_reference_is_none(text: str) -> None:
    assert number_from_reference(text) is None
