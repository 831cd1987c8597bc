"""The model of the protocol holds, and every mechanism that is taken out of it is missed."""

import re

import pytest
from check_protocol import INVARIANTS, MODEL, VARIANTS, Variant, as_expected, explore


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_protocol_model_breaks_exactly_where_a_mechanism_is_taken_out(variant: Variant) -> None:
    assert as_expected(variant, explore(variant))


def test_every_negative_control_of_the_model_is_tried() -> None:
    text = MODEL.read_text("utf-8")
    controls = set(re.findall(r"[A-Z_]{6,}", text.partition("Negative controls")[2].partition(".")[0]))
    used = set(re.findall(r"(?:#ifn?def|defined\()\s*(\w+)", text))

    tried = {define for variant in VARIANTS for define in variant.defines if "=" not in define}

    assert len(controls) == 11
    assert controls <= used
    assert tried == used - {"BOOKINGS", "CHECK"}


def test_every_invariant_of_the_model_is_broken_by_some_control() -> None:
    assert {variant.fails for variant in VARIANTS} - {None} == set(INVARIANTS)
