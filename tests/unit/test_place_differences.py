"""What a change of places gains and gives up: with what stays it makes the old claim, and the new one, and no more."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.place_differences import difference_of, grant_wishes
from engine.places import BestPlaces, CountedPlaces, NumberedPlaces, Places
from engine.price_changes import Money, money_after

LEGS = 6


@st.composite
def claims(draw: st.DrawFn) -> Places:
    first = draw(st.integers(0, LEGS - 1))
    last = draw(st.integers(first + 1, LEGS))
    count = draw(st.integers(0, 3))
    seats = draw(st.sets(st.integers(0, 5), min_size=0 if count else 1, max_size=4))
    items: list[CountedPlaces | NumberedPlaces] = [CountedPlaces(0, count)] if count else []
    items += [NumberedPlaces(1, tuple(seats))] if seats else []
    return Places(first, last, tuple(items))


def cells(*pieces: Places) -> Counter[tuple[int, int, int]]:
    """How often each seat, or section with its number of places, is claimed on each leg."""
    found: Counter[tuple[int, int, int]] = Counter()
    for places in pieces:
        for item in places.items:
            for leg in range(places.first_leg, places.last_leg):
                if isinstance(item, NumberedPlaces):
                    found.update((item.section, seat, leg) for seat in item.seats)
                elif isinstance(item, CountedPlaces):
                    found[item.section, -1, leg] += item.quantity
    return found


@given(claims(), claims())
def test_old_places_with_what_is_gained_and_without_what_is_given_up_are_the_new_ones(old: Places, new: Places) -> None:
    difference = difference_of(old, new)
    gained, given_up = cells(*difference.gained), cells(*difference.given_up)

    assert cells(old) + gained - given_up == cells(new)
    assert not gained & given_up
    assert gained - cells(new) == Counter()
    assert len(difference.gained) <= 3
    assert len(difference.given_up) <= 3


@given(claims())
def test_the_same_places_are_no_difference(places: Places) -> None:
    assert difference_of(places, places).is_empty


def test_order_of_seats_and_items_makes_no_difference() -> None:
    one = Places(0, 1, (NumberedPlaces(1, (3, 4)), CountedPlaces(0, 2)))
    assert difference_of(one, Places(0, 1, (CountedPlaces(0, 2), NumberedPlaces(1, (4, 3))))).is_empty


def test_seat_whose_legs_are_shifted_gains_at_one_end_and_gives_up_at_the_other() -> None:
    seat = (NumberedPlaces(1, (7,)),)
    difference = difference_of(Places(0, 3, seat), Places(1, 5, seat))
    assert (difference.gained, difference.given_up) == ((Places(3, 5, seat),), (Places(0, 1, seat),))


def test_other_seats_over_other_legs_are_one_piece() -> None:
    difference = difference_of(Places(1, 2, (NumberedPlaces(1, (7,)),)), Places(0, 4, (NumberedPlaces(1, (8,)),)))
    assert difference.gained == (Places(0, 4, (NumberedPlaces(1, (8,)),)),)


def test_wishes_are_wholly_new_and_come_last() -> None:
    kept = NumberedPlaces(1, (7,))
    new = Places(0, 2, (BestPlaces(1, 2), kept))
    difference = difference_of(Places(0, 1, (kept, NumberedPlaces(1, (8,)))), new)
    assert difference.pieces == (Places(1, 2, (kept,)), Places(0, 2, (BestPlaces(1, 2),)))
    granted = Places(0, 2, (NumberedPlaces(1, (3, 4)),))
    assert grant_wishes(new, granted) == Places(0, 2, (NumberedPlaces(1, (3, 4)), kept))


def test_difference_of_what_nobody_has_paid_is_another_amount() -> None:
    for total in (4000, 16000):
        money = money_after(amount=9000, refunded=0, was=9000, total=total, is_charged=False, percent=50)
        assert money == Money(total, 0)


def test_cheaper_places_are_granted_back_by_the_percentage_and_what_was_paid_stays() -> None:
    half = money_after(amount=9000, refunded=1000, was=9000, total=4500, is_charged=True, percent=50)
    assert half == Money(9000, 1000 + 2250)
    never_more = money_after(amount=9000, refunded=8000, was=9000, total=4500, is_charged=True, percent=100)
    assert never_more == Money(9000, 9000)


def test_dearer_places_are_charged_beyond_what_the_old_ones_cost() -> None:
    money = money_after(amount=9000, refunded=4500, was=4500, total=13500, is_charged=True, percent=100)
    assert money == Money(18000, 4500, 9000)
