"""Which of an event's blocks certain places are made up of, where somebody gives places back without naming blocks.

A numbered seat is in one block at most, so seats say which blocks they mean. Of counted sections only the sums count:
whether some of the blocks come to exactly what is wanted is told by sets of sums, a bit for each sum in one large
integer, so that adding a block to all of them is a shift. Sections that no block has together are looked at one by one.
"""

from collections.abc import Mapping, Sequence

from engine.errors import InvalidRequest
from engine.places import BestPlaces, NumberedPlaces, Places

# Sums that are told apart, of sections that blocks have together; of one section it is as many places as a block may
# have. There is a set of them for each block: 64 MB at worst, and a fifth of a second.
SUMS_MAX = 1 << 20

Amounts = dict[tuple[int, int | None], int]  # of each seat 1, of each counted section so many


def made_up_of(wanted: Places, blocks: Mapping[str, Places]) -> list[str] | None:
    """The ids of *blocks* whose places together are exactly those *wanted*; ``None`` where there are none.

    One that is all of them comes first, then the earlier of *blocks* before the later.

    Raises:
        InvalidRequest: There are too many sums to look at.
    """
    left, legs = _amounts(wanted), (wanted.first_leg, wanted.last_leg)
    fitting = {
        block_id: amounts
        for block_id, places in blocks.items()
        if (places.first_leg, places.last_leg) == legs and _fits(amounts := _amounts(places), left)
    }
    for block_id, amounts in fitting.items():
        if amounts == left:
            return [block_id]
    chosen = {block_id for block_id, amounts in fitting.items() if any(seat is not None for _, seat in amounts)}
    for block_id in chosen:
        if not _fits(fitting[block_id], left):
            return None
        left = {place: count - fitting[block_id].get(place, 0) for place, count in left.items()}
    if any(count for (_, seat), count in left.items() if seat is not None):
        return None
    wanted_of = {section: count for (section, _), count in left.items() if count}
    counted = {
        block_id: {section: count for (section, _), count in amounts.items()}
        for block_id, amounts in fitting.items()
        if block_id not in chosen and _fits(amounts, left)
    }
    for sections in _together(wanted_of, counted):
        theirs = {block_id: amounts for block_id, amounts in counted.items() if amounts.keys() <= set(sections)}
        numbers = _choose([wanted_of[one] for one in sections], _vectors(theirs, sections))
        if numbers is None:
            return None
        block_ids = list(theirs)
        chosen.update(block_ids[number] for number in numbers)
    return [block_id for block_id in blocks if block_id in chosen]


def _amounts(places: Places) -> Amounts:
    amounts: Amounts = {}
    for item in places.items:
        assert not isinstance(item, BestPlaces), item
        if isinstance(item, NumberedPlaces):
            amounts |= {(item.section, seat): 1 for seat in item.seats}
        else:
            amounts[item.section, None] = item.quantity
    return amounts


def _fits(amounts: Amounts, left: Amounts) -> bool:
    return all(left.get(place, 0) >= count for place, count in amounts.items())


def _together(wanted_of: Mapping[int, int], blocks: Mapping[str, Mapping[int, int]]) -> list[list[int]]:
    """The sections in groups: those that any block has together are in one."""
    groups = {section: [section] for section in wanted_of}
    for amounts in blocks.values():
        first, *others = amounts
        for section in others:
            if groups[section] is not groups[first]:
                groups[first] += groups[section]
                groups |= dict.fromkeys(groups[section], groups[first])
    return [group for section, group in groups.items() if group[0] == section]


def _vectors(blocks: Mapping[str, Mapping[int, int]], sections: Sequence[int]) -> list[list[int]]:
    return [[amounts.get(section, 0) for section in sections] for amounts in blocks.values()]


def _choose(wanted: Sequence[int], amounts: Sequence[Sequence[int]]) -> list[int] | None:
    """The numbers of *amounts* that come to *wanted*, part by part: the first ones that do; ``None`` where none do.

    A sum stands at the bit whose number has the sum's parts as its digits, the part of the first dimension first.
    """
    strides, size = [], 1
    for part in wanted:
        strides.append(size)
        size *= part + 1
    if size > SUMS_MAX:
        raise InvalidRequest("$.items", "too much to look for at once: name fewer sections, or the blocks by their ids")
    shifts = [sum(map(int.__mul__, amount, strides)) for amount in amounts]
    reached = [1]  # by the blocks from the last one on
    for amount, shift in zip(reversed(amounts), reversed(shifts), strict=True):
        within = reached[-1] & _at_most([part - one for part, one in zip(wanted, amount, strict=True)], wanted)
        reached.append(reached[-1] | within << shift)
    reached.reverse()
    left, chosen = list(wanted), []
    if not _has(reached[0], left, strides):
        return None
    for number, amount in enumerate(amounts):
        rest = [part - one for part, one in zip(left, amount, strict=True)]
        if min(rest) >= 0 and _has(reached[number + 1], rest, strides):
            left = rest
            chosen.append(number)
    return chosen


def _has(sums: int, parts: Sequence[int], strides: Sequence[int]) -> bool:
    return bool(sums >> sum(map(int.__mul__, parts, strides)) & 1)


def _at_most(most: Sequence[int], wanted: Sequence[int]) -> int:
    """The bits of all sums with no part above the one in *most*: what may be added to without one carrying over."""
    bits, width = 1, 1
    for bound, part in zip(most, wanted, strict=True):
        repeated, count = bits, 1
        while count <= bound:
            step = min(count, bound + 1 - count)
            repeated |= repeated << width * step
            count += step
        bits, width = repeated, width * (part + 1)
    return bits
