"""What a booking gains and gives up when its places change: the difference of two claims, leg by leg. Pure.

A seat that was sold for legs [0, 3) and is wanted for [1, 5) gains [3, 5) and gives up [0, 1); what it keeps is not
touched. One line of places has one range of legs, so each side of a difference is a few of them: the four ends of the
two ranges cut the legs into three stretches at most.
"""

import itertools
from collections import Counter

import msgspec

from engine.places import BestPlaces, CountedPlaces, NumberedPlaces, Places

Item = CountedPlaces | NumberedPlaces


class Difference(msgspec.Struct, frozen=True):
    """``gained`` and ``given_up``, stretch by stretch; ``wishes`` are the best of a section, and wholly new."""

    gained: tuple[Places, ...]
    given_up: tuple[Places, ...]
    wishes: Places | None

    @property
    def pieces(self) -> tuple[Places, ...]:
        """All that is to be had, wishes last: so none of them takes a seat that is asked for by its name."""
        return (*self.gained, self.wishes) if self.wishes is not None else self.gained

    @property
    def is_empty(self) -> bool:
        """Whether the two claims are the same."""
        return not self.pieces and not self.given_up


def difference_of(old: Places, new: Places) -> Difference:
    """What has to be had, and what may go, for *new* in place of *old*."""
    ends = sorted({old.first_leg, old.last_leg, new.first_leg, new.last_leg})
    gained: list[Places] = []
    given_up: list[Places] = []
    for first, last in itertools.pairwise(ends):
        before, after = _on(old, first, last), _on(new, first, last)
        _append(gained, Places(first, last, _without(after, before)))
        _append(given_up, Places(first, last, _without(before, after)))
    best = tuple(item for item in new.items if isinstance(item, BestPlaces))
    wishes = Places(new.first_leg, new.last_leg, best) if best else None
    return Difference(tuple(gained), tuple(given_up), wishes)


def grant_wishes(new: Places, granted: Places | None) -> Places:
    """*new* with its wishes replaced by the seats that were *granted*, in the same order."""
    seats = iter(granted.items if granted is not None else ())
    items = tuple(next(seats) if isinstance(item, BestPlaces) else item for item in new.items)
    return Places(new.first_leg, new.last_leg, items)


def _on(places: Places, first: int, last: int) -> tuple[Item, ...]:
    """What *places* have on the legs [*first*, *last*), which they cover or do not touch; wishes are nothing yet."""
    if not places.first_leg <= first < last <= places.last_leg:
        return ()
    return tuple(item for item in places.items if not isinstance(item, BestPlaces))


def _without(some: tuple[Item, ...], others: tuple[Item, ...]) -> tuple[Item, ...]:
    seats = _seats(some) - _seats(others)
    counts = _counts(some) - _counts(others)  # of Counters: what would be negative is left out
    by_section: dict[int, list[int]] = {}
    for section, seat in sorted(seats):
        by_section.setdefault(section, []).append(seat)
    counted = [CountedPlaces(section, quantity) for section, quantity in sorted(counts.items())]
    return (*counted, *(NumberedPlaces(section, tuple(theirs)) for section, theirs in by_section.items()))


def _seats(items: tuple[Item, ...]) -> set[tuple[int, int]]:
    return {(item.section, seat) for item in items if isinstance(item, NumberedPlaces) for seat in item.seats}


def _counts(items: tuple[Item, ...]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for item in items:
        if isinstance(item, CountedPlaces):
            counts[item.section] += item.quantity
    return counts


def _append(stretches: list[Places], stretch: Places) -> None:
    """Add *stretch*, to the one before it where that is the same on the legs beside it."""
    if not stretch.items:
        return
    if stretches and stretches[-1].last_leg == stretch.first_leg and stretches[-1].items == stretch.items:
        stretches[-1] = Places(stretches[-1].first_leg, stretch.last_leg, stretch.items)
    else:
        stretches.append(stretch)
