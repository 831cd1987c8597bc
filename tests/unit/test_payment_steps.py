"""What is done next about a booking's payments, case by case: the money follows the booking, never the other way."""

import datetime as dt
from typing import Any

import msgspec
import pytest

from engine.lifecycle import STORED_STATUSES
from engine.payment_steps import (
    ABANDONED_AFTER,
    CHANGE_GRACE,
    LATE_MAX,
    OVER_MARGIN,
    Capture,
    Case,
    Confirm,
    End,
    GiveUp,
    LookUp,
    OpenRefund,
    PaymentView,
    Refund,
    RefundView,
    Say,
    Void,
    next_step,
    payment_status_of,
)

NOW = dt.datetime(2027, 5, 1, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


def payment(state: Any, **members: Any) -> PaymentView:
    is_money = state in ("authorized", "captured")
    defaults = {"id": "p1", "chosen": is_money, "amount": 100, "created_at": NOW}
    given = defaults | {"captured": members.get("amount", 100) if state == "captured" else 0} | members
    return PaymentView(state=state, **given)


def case(*payments: PaymentView, **members: Any) -> Case:
    defaults: dict[str, Any] = {
        "status": "payment_initiated",
        "payment_status": "pending",
        "amount": 100,
        "refunded": 0,
        "was_confirmed": False,
        "expires_at": NOW + 60 * SECOND,
        "waits_for_late": True,
        "now": NOW,
        "refunds": (),
    }
    return Case(payments=payments, **(defaults | members))


def refund(amount: int, state: Any = "done", of: str = "p1") -> RefundView:
    return RefundView(id="r1", payment_id=of, amount=amount, state=state)


# A second payment, of fifty, for a change: in the ledger; taken; and one whose change may yet be made.
FOR_CHANGE = payment("authorized", id="p2", amount=50)
TAKEN_FOR_CHANGE = payment("captured", id="p2", amount=50)
AWAITED = payment("authorized", id="p2", amount=50, chosen=False, awaits_change=True)


@pytest.mark.parametrize("state", ["initiated", "pending"])
def test_payment_that_is_open_is_asked_about_once(state: str) -> None:
    assert next_step(case(payment(state)), frozenset()) == LookUp("p1")
    assert next_step(case(payment(state)), frozenset({"p1"})) is None


def test_payment_that_nobody_has_heard_of_for_long_is_voided_so_that_another_may_begin() -> None:
    old = payment("initiated", created_at=NOW - ABANDONED_AFTER - SECOND)
    assert next_step(case(old), frozenset({"p1"})) == Void("p1")


@pytest.mark.parametrize("state", ["authorized", "captured"])
def test_booking_is_confirmed_once_there_is_money_though_its_time_is_over(state: str) -> None:
    assert next_step(case(payment(state)), frozenset()) == Confirm("p1")
    assert next_step(case(payment(state), expires_at=NOW - LATE_MAX), frozenset()) == Confirm("p1")


@pytest.mark.parametrize(("state", "status"), [("declined", "failed"), ("voided", "failed")])
def test_booking_whose_payment_came_to_nothing_ends_just_after_its_deadline(state: Any, status: Any) -> None:
    at_the_end = case(payment(state), payment_status="failed", expires_at=NOW - OVER_MARGIN)
    assert next_step(at_the_end, frozenset()) is None
    assert next_step(msgspec.structs.replace(at_the_end, now=NOW + SECOND), frozenset()) == End(status)


@pytest.mark.parametrize(("waits", "wait"), [(True, LATE_MAX), (False, OVER_MARGIN)])
def test_booking_whose_payment_is_open_waits_for_it_as_long_as_the_policy_says(waits: bool, wait: dt.timedelta) -> None:
    open_case = case(payment("pending"), waits_for_late=waits, expires_at=NOW - wait)
    asked = frozenset({"p1"})
    assert next_step(open_case, asked) is None
    assert next_step(msgspec.structs.replace(open_case, now=NOW + SECOND), asked) == End("expired")


@pytest.mark.parametrize("status", STORED_STATUSES)
def test_money_set_aside_is_taken_let_go_or_left_alone_by_the_status_of_its_booking(status: str) -> None:
    expected: dict[str, Any] = dict.fromkeys(("confirmed", "checked_in", "completed", "no_show"), Capture("p1", 100))
    expected |= dict.fromkeys(("rejected", "expired", "failed", "cancelled"), Void("p1"))
    expected |= {"payment_initiated": Confirm("p1"), "pending": None, "paid": None}
    held = case(payment("authorized"), status=status, payment_status="held")
    assert next_step(held, frozenset()) == expected[status]


def test_cancelled_booking_that_was_certain_keeps_what_is_not_granted_back() -> None:
    cancelled = case(payment("authorized"), status="cancelled", was_confirmed=True, refunded=30)
    assert next_step(cancelled, frozenset()) == Capture("p1", 70)
    all_of_it = msgspec.structs.replace(cancelled, refunded=100)
    assert next_step(all_of_it, frozenset()) == Void("p1")


def test_what_is_granted_back_is_refunded_once() -> None:
    taken = case(payment("captured"), status="confirmed", was_confirmed=True, refunded=30, payment_status="completed")
    assert next_step(taken, frozenset()) == OpenRefund("p1", 30)
    due = msgspec.structs.replace(taken, refunds=(refund(30, "due"),))
    assert next_step(due, frozenset()) == Refund("r1")
    done = msgspec.structs.replace(taken, refunds=(refund(30),))
    assert next_step(done, frozenset()) == Say("partially_refunded")
    more = msgspec.structs.replace(done, refunded=45)
    assert next_step(more, frozenset()) == OpenRefund("p1", 15)


def test_refund_that_was_refused_is_not_asked_for_again_and_not_told_as_done() -> None:
    refused = case(
        payment("captured"), status="cancelled", was_confirmed=True, refunded=100, refunds=(refund(100, "refused"),)
    )
    assert next_step(refused, frozenset()) == Say("completed")


def test_second_payment_that_came_to_money_is_given_back() -> None:
    chosen, second = payment("captured"), payment("authorized", id="p2", chosen=False)
    booked = case(chosen, second, status="confirmed", was_confirmed=True, payment_status="completed")
    assert next_step(booked, frozenset()) == Void("p2")
    taken = payment("captured", id="p2", chosen=False)
    assert next_step(msgspec.structs.replace(booked, payments=(chosen, taken)), frozenset()) == OpenRefund("p2", 100)


def test_money_taken_for_a_booking_that_never_was_certain_goes_back_whole() -> None:
    failed = case(payment("captured"), status="failed", payment_status="failed")
    assert next_step(failed, frozenset()) == OpenRefund("p1", 100)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (case(payment("pending")), "pending"),
        (case(payment("declined")), "failed"),
        (case(payment("authorized"), status="pending"), "held"),
        (case(payment("captured"), status="confirmed"), "completed"),
        (case(payment("captured"), status="cancelled", refunds=(refund(100),)), "refunded"),
        (case(payment("captured", captured=70), status="cancelled"), "partially_refunded"),
        (case(payment("voided", chosen=True), status="rejected"), "refunded"),
        (case(payment("voided", chosen=True), status="confirmed"), "failed"),
        (case(payment("voided"), status="expired"), "failed"),
        (case(payment("captured"), FOR_CHANGE, status="confirmed", amount=150), "held"),
        (case(payment("authorized"), FOR_CHANGE, status="pending", amount=150), "held"),
        (case(payment("captured"), TAKEN_FOR_CHANGE, status="confirmed", amount=150), "completed"),
        (
            case(payment("captured"), TAKEN_FOR_CHANGE, status="confirmed", amount=150, refunds=(refund(20),)),
            "partially_refunded",
        ),
        (case(payment("captured"), payment("voided", id="p2", chosen=True), status="confirmed", amount=150), "failed"),
        (
            case(
                payment("captured"),
                payment("voided", id="p2", chosen=True),
                status="confirmed",
                amount=150,
                refunded=50,
            ),
            "partially_refunded",
        ),
        (case(payment("captured"), AWAITED, status="confirmed"), "completed"),
    ],
)
def test_booking_says_what_is_true_of_its_payment(one: Case, said: str) -> None:
    assert payment_status_of(one) == said


@pytest.mark.parametrize("status", STORED_STATUSES)
def test_payment_that_awaits_its_change_is_spared_while_the_booking_can_be_changed(status: str) -> None:
    if status == "payment_initiated":
        return  # what is not paid for is not charged for changes
    said = {"pending": "held", "confirmed": "completed"}
    first = payment("authorized" if status == "pending" else "captured")
    waiting = case(first, AWAITED, status=status, was_confirmed=True, payment_status=said.get(status, "completed"))
    expected = None if status in ("pending", "confirmed") else GiveUp("p2")
    assert next_step(waiting, frozenset()) == expected


@pytest.mark.parametrize("state", ["initiated", "pending", "authorized", "captured"])
def test_payment_whose_change_never_came_is_given_up_before_it_is_let_go(state: Any) -> None:
    asked = frozenset({"p2"})
    awaited = payment(state, id="p2", amount=50, chosen=False, awaits_change=True, created_at=NOW - CHANGE_GRACE)
    waiting = case(payment("captured"), awaited, status="confirmed", was_confirmed=True, payment_status="completed")
    assert next_step(waiting, asked) is None
    assert waiting.turns_at == NOW
    late = msgspec.structs.replace(waiting, now=NOW + SECOND)
    assert next_step(late, asked) == GiveUp("p2")
    given_up = msgspec.structs.replace(awaited, awaits_change=False)
    let_go = OpenRefund("p2", 50) if state == "captured" else Void("p2")
    assert next_step(msgspec.structs.replace(late, payments=(payment("captured"), given_up)), asked) == let_go


@pytest.mark.parametrize("state", ["declined", "voided"])
def test_payment_for_a_change_that_came_to_nothing_is_left_alone(state: Any) -> None:
    over = payment(state, id="p2", chosen=False, awaits_change=True, created_at=NOW - 2 * CHANGE_GRACE)
    booked = case(payment("captured"), over, status="confirmed", was_confirmed=True, payment_status="completed")
    assert next_step(booked, frozenset()) is None
    assert booked.turns_at is None


def test_approval_takes_both_payments() -> None:
    approved = case(payment("authorized"), FOR_CHANGE, status="confirmed", was_confirmed=True, amount=150)
    assert next_step(approved, frozenset()) == Capture("p1", 100)
    first_taken = msgspec.structs.replace(approved, payments=(payment("captured"), FOR_CHANGE))
    assert next_step(first_taken, frozenset()) == Capture("p2", 50)


@pytest.mark.parametrize(
    ("refunded", "step"),
    [(20, OpenRefund("p2", 20)), (50, OpenRefund("p2", 50)), (70, OpenRefund("p1", 20)), (150, OpenRefund("p1", 100))],
)
def test_what_is_granted_back_comes_from_the_newest_payment_first(refunded: int, step: OpenRefund) -> None:
    booked = case(
        payment("captured"), TAKEN_FOR_CHANGE, status="confirmed", was_confirmed=True, amount=150, refunded=refunded
    )
    assert next_step(booked, frozenset()) == step


def test_change_after_a_refund_takes_all_of_its_own_payment() -> None:
    """Of the first hundred thirty are given back, then fifty are added: what is taken of the fifty is fifty."""
    booked = case(
        payment("captured"),
        FOR_CHANGE,
        status="confirmed",
        was_confirmed=True,
        amount=150,
        refunded=30,
        refunds=(refund(30),),
    )
    assert next_step(booked, frozenset()) == Capture("p2", 50)


def test_what_was_set_aside_for_a_change_and_is_granted_back_before_it_was_taken_is_let_go() -> None:
    booked = case(payment("captured"), FOR_CHANGE, status="cancelled", was_confirmed=True, amount=150, refunded=75)
    assert next_step(booked, frozenset()) == OpenRefund("p1", 25)
    half = msgspec.structs.replace(booked, refunds=(refund(25),))
    assert next_step(half, frozenset()) == Void("p2")
