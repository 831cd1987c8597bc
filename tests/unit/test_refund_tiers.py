"""What a cancelling customer gets back: by the tier that the time left still reaches, to the second."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.definition import Policy, RefundTier
from engine.price_changes import money_after
from engine.refund_tiers import RefundQuote, quote_by_tiers, quote_everything

STARTS_AT = dt.datetime(2035, 5, 1, 19, tzinfo=dt.UTC)
USUAL = Policy().refunds
SECOND = dt.timedelta(seconds=1)
AMOUNTS = st.integers(0, 10**9)
SHARES = st.integers(0, 100)


def hours(count: float) -> dt.timedelta:
    return dt.timedelta(hours=count)


def percent(before: dt.timedelta, tiers: list[RefundTier] = USUAL) -> int:
    return quote_by_tiers(tiers, costs=1000, paid=1000, starts_at=STARTS_AT, now=STARTS_AT - before).percent


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (hours(24 * 365), 100),
        (hours(24) + SECOND, 100),
        (hours(24), 100),
        (hours(24) - SECOND, 50),
        (hours(2) + SECOND, 50),
        (hours(2), 50),
        (hours(2) - SECOND, 0),
        (hours(0), 0),
        (-SECOND, 0),
        (hours(-48), 0),
    ],
)
def test_usual_tiers_pay_by_the_hours_that_are_left(before: dt.timedelta, expected: int) -> None:
    assert percent(before) == expected


def test_tier_that_decides_is_told_and_none_after_the_start() -> None:
    quote = quote_by_tiers(USUAL, costs=999, paid=999, starts_at=STARTS_AT, now=STARTS_AT - hours(2))
    assert quote == RefundQuote(50, 499, RefundTier(2, 50))
    late = quote_by_tiers(USUAL, costs=999, paid=999, starts_at=STARTS_AT, now=STARTS_AT + SECOND)
    assert late == RefundQuote(0, 0, None)


def test_tier_of_no_hours_still_counts_at_the_very_start_and_not_after_it() -> None:
    generous = [RefundTier(0, 80)]
    assert percent(hours(0), generous) == 80
    assert percent(-SECOND, generous) == 0


def test_order_of_the_tiers_does_not_matter_and_of_two_alike_the_better_counts() -> None:
    tiers = [RefundTier(2, 50), RefundTier(24, 90), RefundTier(24, 100)]
    assert [percent(hours(count), tiers) for count in (30, 24, 3, 1)] == [100, 100, 50, 0]


def test_longer_notice_counts_even_where_it_pays_less() -> None:
    assert percent(hours(30), [RefundTier(24, 10), RefundTier(2, 50)]) == 10


def test_event_without_tiers_gives_nothing_back() -> None:
    assert percent(hours(1000), []) == 0


def test_start_in_another_zone_is_the_same_moment() -> None:
    tokyo = STARTS_AT.astimezone(dt.timezone(hours(9)))
    quote = quote_by_tiers(USUAL, costs=10, paid=10, starts_at=tokyo, now=STARTS_AT - hours(24))
    assert quote.percent == 100


@given(paid=AMOUNTS, share=SHARES)
def test_no_more_is_given_back_than_was_paid_and_parts_are_rounded_down(paid: int, share: int) -> None:
    quote = quote_by_tiers([RefundTier(0, share)], costs=paid, paid=paid, starts_at=STARTS_AT, now=STARTS_AT)
    assert 0 <= quote.amount <= paid
    assert quote.amount * 100 <= paid * share < (quote.amount + 1) * 100
    assert quote_everything(paid) == RefundQuote(100, paid, None)


@given(
    price=st.integers(0, 10**6),
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=12).map(lambda counts: sorted(counts, reverse=True)),
    share=SHARES,
)
def test_cancelling_in_parts_gives_back_what_cancelling_the_whole_does_but_for_roundings(
    price: int, counts: list[int], share: int
) -> None:
    paid = price * counts[0]
    refunded, was = 0, paid
    for count in counts[1:]:
        costs = price * count
        after = money_after(amount=paid, refunded=refunded, was=was, total=costs, is_charged=True, percent=share)
        assert after.amount == paid
        assert (after.refunded - refunded) * 100 <= (was - costs) * share
        refunded, was = after.refunded, costs
    refunded += _quote(share, costs=was, paid=paid - refunded)
    whole = _quote(share, costs=paid, paid=paid)
    assert whole - len(counts) < refunded <= whole


@given(price=st.integers(0, 10**6), granted=st.integers(0, 10**6), left=st.integers(0, 10**6), share=SHARES)
def test_tier_is_of_no_more_than_is_still_paid_when_a_part_was_granted_back(
    price: int, granted: int, left: int, share: int
) -> None:
    granted, left = min(granted, price), min(left, price)
    after = money_after(amount=price, refunded=granted, was=price, total=left, is_charged=True, percent=share)
    assert granted <= after.refunded <= price
    assert (after.refunded - granted) * 100 <= (price - granted) * share
    assert _quote(share, costs=price, paid=price - granted) * 100 <= (price - granted) * share


def _quote(share: int, *, costs: int, paid: int) -> int:
    return quote_by_tiers([RefundTier(0, share)], costs=costs, paid=paid, starts_at=STARTS_AT, now=STARTS_AT).amount
