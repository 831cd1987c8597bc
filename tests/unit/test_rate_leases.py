"""What a process takes in advance of an allowance: never before somebody is known to ask often, and never much."""

import pytest

from engine.rate_leases import LEASE_MAX, LEASE_S, LEASE_SHARE, LEASED, REMEMBERED_MAX, Leases

ANA = (b"c00001", b"ana")
PLENTY = 1_000_000


def used_up(leases: Leases, now: float) -> int:
    """How many could be used until Redis is asked again."""
    count = 0
    while leases.spend(ANA, now) is not None:
        count += 1
    return count


def test_nothing_is_wanted_for_who_comes_for_the_first_time_or_after_a_second() -> None:
    leases = Leases()
    assert leases.wanted(ANA, 0) == 0
    leases.note(ANA, PLENTY, 0, 0)
    assert leases.wanted(ANA, LEASE_S) == 0
    assert leases.wanted(ANA, LEASE_S - 0.01) > 0


def test_a_lease_doubles_while_it_is_used_up_and_shrinks_when_it_is_not() -> None:
    leases = Leases()
    leases.note(ANA, PLENTY, 0, 0)
    sizes = []
    for _ in range(10):
        sizes.append(leases.wanted(ANA, 0))
        leases.note(ANA, PLENTY + LEASED, sizes[-1], 0)
        assert used_up(leases, 0) == sizes[-1]
    assert sizes == [2, 4, 8, 16, 32, 64, 128, LEASE_MAX, LEASE_MAX, LEASE_MAX]

    leases.note(ANA, PLENTY, 0, LEASE_S)
    assert leases.wanted(ANA, LEASE_S) == 2 * (LEASE_MAX // 2)
    leases.note(ANA, PLENTY, 0, 2 * LEASE_S)
    leases.note(ANA, PLENTY, 0, 3 * LEASE_S)
    assert leases.wanted(ANA, 3 * LEASE_S) < LEASE_MAX // 2


@pytest.mark.parametrize(("left", "most"), [(0, 0), (LEASE_SHARE - 1, 0), (2 * LEASE_SHARE, 2), (3 * LEASE_SHARE, 2)])
def test_no_more_than_a_share_of_what_is_left_is_wanted(left: int, most: int) -> None:
    leases = Leases()
    leases.note(ANA, PLENTY, 0, 0)
    leases.note(ANA, left, 0, 0)
    assert leases.wanted(ANA, 0) == most


def test_what_is_told_to_be_left_counts_what_is_here() -> None:
    leases = Leases()
    leases.note(ANA, 1000, 0, 0)
    wanted = leases.wanted(ANA, 0)

    assert leases.note(ANA, 997 + LEASED, wanted, 0) == 997 + wanted
    assert leases.spend(ANA, 0) == 997 + wanted - 1
    leases.give_back(ANA)
    assert leases.spend(ANA, 0) == 997 + wanted - 1


def test_requests_that_come_while_a_lease_is_asked_for_want_none() -> None:
    leases = Leases()
    leases.note(ANA, PLENTY, 0, 0)
    wanted = leases.wanted(ANA, 0)
    assert leases.wanted(ANA, 0) == 0

    leases.note(ANA, PLENTY, 0, 0)
    assert leases.wanted(ANA, 0) == 0
    leases.note(ANA, PLENTY, wanted, 0)  # it was not granted
    assert leases.spend(ANA, 0) is None
    assert leases.wanted(ANA, 0) > 0


def test_what_is_not_used_within_a_second_is_gone() -> None:
    leases = Leases()
    leases.note(ANA, PLENTY, 0, 0)
    leases.note(ANA, PLENTY + LEASED, leases.wanted(ANA, 0), 0)

    assert leases.spend(ANA, LEASE_S) is None
    leases.note(ANA, PLENTY, 0, LEASE_S)
    assert leases.spend(ANA, LEASE_S) is None


def test_a_refusal_is_told_as_it_is_and_leases_nothing() -> None:
    leases = Leases()
    leases.note(ANA, PLENTY, 0, 0)

    assert leases.note(ANA, -250, 0, 0) == -250
    assert leases.wanted(ANA, 0) == 0


def test_allowances_that_are_small_or_of_long_ago_are_not_remembered() -> None:
    leases = Leases()
    for number in range(REMEMBERED_MAX + 1):
        leases.note((b"c%d" % number, b""), LEASE_SHARE - 1, 0, 0)
    assert not leases._leases
    for number in range(REMEMBERED_MAX + 1):
        leases.note((b"c%d" % number, b""), PLENTY, 0, 0)
    assert len(leases._leases) == REMEMBERED_MAX
    assert leases.wanted((b"c0", b""), 0) == 0
