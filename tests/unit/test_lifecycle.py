"""The table of a booking's life, and what is made of it."""

import re
from pathlib import Path
from typing import get_args

import pytest

from engine.bookings import BookingStatus
from engine.errors import InvalidTransition
from engine.lifecycle import (
    FINAL_STATUSES,
    OWNING_STATUSES,
    STORED_STATUSES,
    TRANSITIONS,
    UPCOMING_STATUSES,
    Step,
    allowed_from,
    require_transition,
    state_diagram,
    status_after,
)

ROOT = Path(__file__).parents[2]
# The contract's words, arrow by arrow.
CONTRACT = """
(hold)            → pending | payment_initiated | confirmed | expired
payment_initiated → paid | failed | expired | cancelled
paid              → pending | confirmed | cancelled
pending           → confirmed | rejected | cancelled | expired
confirmed         → checked_in | completed | cancelled | no_show
checked_in        → completed | cancelled
"""
FINAL = {"completed", "cancelled", "rejected", "expired", "failed", "no_show"}


def contract() -> dict[str | None, set[str]]:
    lines = [line.split("→") for line in CONTRACT.strip().splitlines()]
    return {
        None if origin.strip() == "(hold)" else origin.strip(): {status.strip() for status in ends.split("|")}
        for origin, ends in lines
    }


def test_table_has_the_arrows_of_the_contract_and_no_other() -> None:
    assert {origin: set(allowed_from(origin)) for origin in (None, *STORED_STATUSES) if allowed_from(origin)} == (
        contract()
    )
    assert set(FINAL_STATUSES) == FINAL


def test_every_pair_of_statuses_is_let_through_exactly_where_the_table_has_it() -> None:
    arrows = contract()
    for origin in STORED_STATUSES:
        for end in STORED_STATUSES:
            if end in arrows.get(origin, ()):
                require_transition(origin, end)
                continue
            with pytest.raises(InvalidTransition) as refused:
                require_transition(origin, end)
            assert (refused.value.from_status, refused.value.to_status) == (origin, end)
            assert set(refused.value.allowed) == arrows.get(origin, set())


@pytest.mark.parametrize("step", get_args(Step))
def test_step_leads_to_one_status_wherever_it_is_taken(step: Step) -> None:
    assert len({arrow.to_status for arrow in TRANSITIONS if arrow.step == step}) == 1


def test_step_that_the_table_has_not_from_a_status_is_refused_though_another_leads_to_the_same() -> None:
    assert status_after("pending", "approve") == "confirmed"
    with pytest.raises(InvalidTransition) as refused:
        status_after("paid", "approve")  # what is paid for is booked, not approved
    assert (refused.value.to_status, refused.value.allowed) == ("confirmed", ("pending", "confirmed", "cancelled"))


def test_places_are_owned_until_the_booking_has_ended_and_by_whoever_was_there() -> None:
    assert set(STORED_STATUSES) - set(OWNING_STATUSES) == {
        "payment_initiated", "cancelled", "rejected", "expired", "failed"
    }  # fmt: skip
    assert set(OWNING_STATUSES) - set(STORED_STATUSES) == {
        "blocked"
    }  # which is no booking, and owns places all the same
    assert set(UPCOMING_STATUSES).isdisjoint(FINAL)
    assert set(get_args(BookingStatus)) - set(STORED_STATUSES) == {"confirming"}


def test_picture_has_every_arrow_and_every_end() -> None:
    arrows = set(re.findall(r"^ +(\S+) --> (\S+): (\S+)$", state_diagram(), re.MULTILINE))
    ends = set(re.findall(r"^ +(\w+) --> \[\*\]$", state_diagram(), re.MULTILINE))

    assert arrows == {(arrow.from_status or "[*]", arrow.to_status, arrow.step) for arrow in TRANSITIONS}
    assert ends == FINAL


def test_picture_in_the_documents_is_the_one_made_of_the_table() -> None:
    pictures = [
        picture
        for document in ROOT.glob("docs/**/*.md")
        for picture in re.findall(r"```mermaid\n(stateDiagram-v2\n.*?)\n```", document.read_text("utf-8"), re.DOTALL)
    ]
    assert [picture for picture in pictures if picture != state_diagram()] == []
