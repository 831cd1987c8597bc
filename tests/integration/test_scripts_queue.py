"""The admission queue's script: turns are given once, in order, at the rate; and what has lapsed is forgotten."""

import pytest
from script_runner import TTL_MS, Runner, Venue

INTERVAL_US = 500_000  # two customers a second


@pytest.fixture
def venue(redis_url: str) -> Venue:
    return Venue(Runner(redis_url))


def turn_of(venue: Venue, customer: str) -> int:
    """When it is the customer's turn, in ms from now."""
    status, turn_ms, now_ms, _ = venue.take_ticket(customer, interval_us=INTERVAL_US)
    assert status == "QUEUED"
    return int(turn_ms) - int(now_ms)


def kept(venue: Venue) -> list[str]:
    customers: list[bytes] = venue.redis.zrange(venue.key("queue"), 0, -1)  # type: ignore[assignment]
    return [customer.decode() for customer in customers]


def test_turns_come_at_the_rate_in_the_order_of_asking(venue: Venue) -> None:
    assert [turn_of(venue, customer) for customer in ("cy", "ana", "ben", "dora")] == [0, 500, 1000, 1500]


def test_asking_again_gives_the_same_turn_and_tells_how_many_still_come_first(venue: Venue) -> None:
    for customer in ("ana", "ben", "cy", "dora"):
        turn_of(venue, customer)

    ahead = []
    for _ in range(4):
        assert turn_of(venue, "dora") == 1500 - 500 * len(ahead)
        ahead.append(venue.take_ticket("dora", interval_us=INTERVAL_US)[3])
        venue.advance(500)

    assert ahead == [2, 1, 0, 0]
    assert kept(venue) == ["ana", "ben", "cy", "dora"]


def test_queue_that_stood_idle_has_saved_nothing_up(venue: Venue) -> None:
    turn_of(venue, "ana")
    venue.advance(50_000)

    assert [turn_of(venue, customer) for customer in ("ben", "cy", "dora")] == [0, 500, 1000]


def test_turns_of_a_rate_above_a_thousand_a_second_differ_by_less_than_a_millisecond(venue: Venue) -> None:
    turns = [venue.take_ticket(f"c{number}", interval_us=250)[1] for number in range(9)]

    assert [turn - turns[0] for turn in turns] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert len(kept(venue)) == len({venue.redis.zscore(venue.key("queue"), name) for name in kept(venue)})


def test_customer_whose_turn_has_lapsed_stands_behind_everybody_else(venue: Venue) -> None:
    turn_of(venue, "ana")
    venue.advance(TTL_MS - 1)
    assert turn_of(venue, "ana") == 1 - TTL_MS
    turn_of(venue, "ben")
    venue.advance(1)

    assert turn_of(venue, "ana") == 499
    assert kept(venue) == ["ben", "ana"]


def test_lapsed_turns_are_forgotten_faster_than_new_ones_come(venue: Venue) -> None:
    for number in range(40):
        turn_of(venue, f"early-{number}")
    venue.advance(20_000 + TTL_MS)

    sizes = []
    for number in range(6):
        turn_of(venue, f"late-{number}")
        sizes.append(len(kept(venue)))

    assert sizes == [33, 26, 19, 12, 5, 6]


def test_queue_takes_no_more_than_may_stand_in_it_until_a_turn_has_lapsed(venue: Venue) -> None:
    assert [venue.take_ticket(name, most=2)[0] for name in ("ana", "ben", "cy", "ana")] == [
        "QUEUED",
        "QUEUED",
        "FULL",
        "QUEUED",
    ]
    venue.advance(TTL_MS)
    assert venue.take_ticket("cy", most=2)[0] == "QUEUED"
    assert kept(venue) == ["ben", "cy"]


def test_no_turn_is_given_once_sale_has_ended_by_itself(venue: Venue) -> None:
    venue.set_status("open", closes_ms=venue.now())

    assert venue.take_ticket("ana") == ["NOT_OPEN", "closed"]


def test_a_load_leaves_the_queue_alone_and_the_archive_takes_it(venue: Venue) -> None:
    turn_of(venue, "ana")
    venue.load(epoch=2)
    assert kept(venue) == ["ana"]

    assert venue.archive() == ["ARCHIVED"]

    assert kept(venue) == []
