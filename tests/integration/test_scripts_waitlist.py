"""The line for places, script by script: who is asked first, that nobody comes in between, what is left for others."""

import itertools
import random

import pytest
from invariants import assert_consistent
from script_runner import OFFER_MS, PARTITIONS, TTL_MS, Runner, Venue, hold_together, new_id

STANDING = {"id": "standing", "price": 1, "capacity": 1}
GENEROUS = {"max_places_per_hold": 500, "max_places_per_customer": 500}


@pytest.fixture
def runner(redis_url: str) -> Runner:
    return Runner(redis_url)


@pytest.fixture
def venue(runner: Runner) -> Venue:
    return Venue(runner, policy={"max_places_per_customer": 12})


def full(venue: Venue) -> str:
    """The hold of somebody who has the whole floor."""
    return venue.held("0:1;0*10", owner="ben")


def test_line_is_ordered_by_score_and_then_by_entry(venue: Venue) -> None:
    full(venue)
    late = venue.joined("0:1;0*1", score=300)
    second, first = sorted((new_id(), new_id()), reverse=True)
    for entry in (second, first):
        venue.joined("0:1;0*1", entry=entry, score=200, owner=entry)

    assert venue.line() == [first, second, late]


def test_freed_places_are_offered_to_the_head_and_then_to_whoever_fits(venue: Venue) -> None:
    holds = [venue.held("0:1;0*5", owner="ben") for _ in range(2)]
    large = venue.joined("0:1;0*6", owner="la")
    small = venue.joined("0:1;0*4", owner="sm")
    assert venue.offered() == []

    venue.release(holds[0], owner="ben")

    assert venue.offered() == [small]  # five are free: not enough for the head, who stays where they are
    assert venue.line() == [large]
    assert venue.read(small, owner="sm")[0] == "ACTIVE"
    venue.release(holds[1], owner="ben")
    assert set(venue.offered()) == {small, large}  # the first notice was not forgotten yet
    assert venue.counts()[:2] == (0, 10)


@pytest.mark.parametrize("how", ["release", "lapse", "unbook", "leave", "repair", "discard"])
def test_nobody_gets_what_came_free_before_the_line_was_asked(venue: Venue, how: str) -> None:
    venue.held("0:1;0*9", owner="ben", ttl_ms=10 * OFFER_MS)
    booking = hold = ""
    if how in ("unbook", "repair", "discard"):
        booking = venue.booked("0:1;0*1", owner="cy")
    elif how == "leave":
        hold = venue.joined("0:1;0*1", owner="cy")
        assert venue.offered() == [hold]
    else:
        hold = venue.held("0:1;0*1", owner="cy")
    head = venue.joined("0:1;0*1", owner="head")
    assert head not in venue.offered()

    match how:
        case "release":
            venue.release(hold, owner="cy")
        case "lapse":
            venue.advance(TTL_MS)
        case "leave":
            venue.leave(hold)
        case "unbook":
            venue.unbook(booking)
        case "discard":
            ((journal_id, _),) = venue.journal()
            venue.bury(journal_id)
            assert venue.discard_booking(journal_id, booking)[0] == "UNBOOKED"
        case "repair":
            record = venue.redis.hget(venue.key("bookings"), booking)
            assert record is not None
            operations = (f"unbook|{booking}|1|{record.decode()}", "count|sold:0:0|-1", "count|free:0:0|1")  # type: ignore[union-attr]
            assert venue.repair(*operations)[0] == "REPAIRED"

    assert venue.hold("0:1;0*1", owner="out") == ["LINE", 1]
    assert venue.book("0:1;0*1", owner="out") == ["LINE"]
    assert head in venue.offered()
    assert venue.hold("0:1;0*1", owner="out")[0] == "UNAVAILABLE"
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def test_what_nobody_in_line_can_use_is_anybodys(venue: Venue) -> None:
    venue.held("0:1;0*8", owner="ben")
    venue.joined("0:1;0*3", owner="cy")
    assert venue.hold("0:1;0*1", owner="out") == ["LINE", 1]

    assert venue.offered() == []

    assert venue.hold("0:1;0*1", owner="out")[0] == "HELD"
    assert venue.hold("0:1;1#4", owner="out")[0] == "HELD"


def test_usual_claims_are_as_ever_once_nobody_is_in_line(venue: Venue) -> None:
    entry = venue.joined("0:1;0*2")
    assert venue.waiting() == "0"

    assert venue.offered() == [entry]

    assert venue.waiting() is None
    assert venue.line() == []
    assert venue.hold("0:1;0*1", owner="out")[0] == "HELD"


def test_offer_is_a_hold_of_that_customer_until_its_deadline_and_never_past_the_end_of_sale(venue: Venue) -> None:
    entry = venue.joined("0:1;0*2;1?3", owner="cy")
    assert venue.offered(ttl_ms=OFFER_MS) == [entry]

    assert venue.read(entry, owner="cy") == ["ACTIVE", venue.now(), venue.now() + OFFER_MS, "0:1;0*2;1#0,1,2"]
    venue.leave(entry)
    closes = venue.now() + 60_000
    venue.set_status("open", closes_ms=closes)
    late = venue.joined("0:1;0*2", owner="cy")
    assert late in venue.offered(ttl_ms=OFFER_MS)
    assert venue.read(late, owner="cy")[2] == closes


def test_offer_keeps_its_deadline_when_it_is_extended_late(venue: Venue) -> None:
    entry = venue.joined("0:1;0*2", owner="cy")
    assert venue.offered(ttl_ms=24 * OFFER_MS) == [entry]
    venue.advance(20 * OFFER_MS)

    reply = venue.extend(entry, owner="cy", ttl_ms=TTL_MS)

    assert reply[0] == "EXTENDED"
    assert reply[3] == venue.now() + TTL_MS  # past ttl_max from its creation, which was long ago


def test_offer_that_lapses_goes_to_the_next_in_line(venue: Venue) -> None:
    venue.held("0:1;0*9", owner="ben", ttl_ms=10 * OFFER_MS)
    first, second = venue.joined("0:1;0*1", owner="a"), venue.joined("0:1;0*1", owner="b")
    assert venue.offered(ttl_ms=TTL_MS) == [first]

    venue.advance(TTL_MS)

    assert second in venue.offered()
    assert venue.join("0:1;0*1", entry=first) == ["EXPIRED"]


def test_seats_and_the_best_of_a_section_can_be_waited_for(venue: Venue) -> None:
    row = venue.held("0:1;1#0,1,2,3,4,5,6,7,8,9", owner="ben")
    other = venue.held("0:1;1#10,11,12,13,14,15,16,17,18,19", owner="bob")
    seat = venue.joined("0:1;1#15", owner="s")
    best = venue.joined("0:1;1?3", owner="b")
    assert venue.offered() == []

    venue.release(row, owner="ben")
    assert venue.offered() == [best]
    assert venue.hold("0:1;1#9", owner="out")[0] == "HELD"  # not the seat that is waited for
    venue.release(other, owner="bob")
    assert set(venue.offered()) == {best, seat}


def test_stretch_of_a_journey_is_waited_for_on_its_legs_alone(runner: Runner) -> None:
    train = Venue(runner, {"id": "car", "price": 1, "capacity": 2}, stops=["A", "B", "C", "D"])
    through, first_leg = train.held("0:3;0*1", owner="ben"), train.held("0:1;0*1", owner="ben")
    entry = train.joined("0:3;0*1", owner="cy")
    assert train.offered() == []

    assert train.hold("1:3;0*1", owner="out")[0] == "HELD"
    train.release(first_leg, owner="ben")
    assert train.offered() == []  # the legs behind it were taken meanwhile, by somebody who could
    train.release(through, owner="ben")
    assert train.offered() == [entry]
    assert_consistent(train.redis, train.event, partitions=PARTITIONS)


def test_who_has_used_up_a_limit_is_passed_over_and_told_once(venue: Venue) -> None:
    venue.held("0:1;0*9", owner="ben")
    hold = venue.held("0:1;0*1", owner="cy")
    ana = venue.joined("0:1;0*1", owner="ana")
    cy = venue.joined("0:1;0*1", owner="cy")
    assert venue.offered() == []
    venue.held("0:1;1#0,1,2,3,4,5,6,7,8,9", owner="ana")
    venue.held("0:1;1#10,11", owner="ana")

    venue.release(hold, owner="cy")
    told = dict(venue.offer()[1:])

    assert told[ana] == "passed|max_places_per_customer|12"
    assert told[cy].startswith("offered|")
    assert venue.line() == [ana]
    assert venue.forget_notices(ana, told[ana], cy, "another") == ["FORGOTTEN", 1]
    venue.leave(cy)
    assert [entry for entry, _ in venue.offer()[1:]] == []  # told once, and for all that still first in line
    assert venue.line() == [ana]


def test_nobody_is_passed_over_for_places_that_lapsed_holds_still_have(runner: Runner) -> None:
    venue = Venue(runner, {"id": "floor", "price": 1, "capacity": 200}, STANDING, policy={"max_places_per_customer": 2})
    for number in range(150):
        venue.held("0:1;0*1", owner=f"c{number}", ttl_ms=1_000)
    venue.held("0:1;0*2", owner="cy", ttl_ms=1_001)  # the last to lapse
    standing = venue.held("0:1;1*1", owner="ben")
    first, second = (venue.joined("0:1;1*1", owner=owner) for owner in ("cy", "dee"))
    assert venue.offered() == []
    venue.release(standing, owner="ben")
    venue.advance(1_001)

    assert venue.offered() == [first]
    assert venue.line() == [second]
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def test_long_line_is_asked_in_order_over_many_calls(runner: Runner) -> None:
    venue = Venue(runner, {"id": "floor", "price": 1, "capacity": 400}, STANDING, policy=GENEROUS)
    venue.held("0:1;0*200", owner="ben")
    hold = venue.held("0:1;0*200", owner="ben")
    venue.held("0:1;1*1", owner="ben")  # what all of these also want
    pairs = [venue.joined("0:1;0*2;1*1", owner=f"p{number}") for number in range(300)]
    singles = [venue.joined("0:1;0*1", owner=f"s{number}") for number in range(250)]
    assert venue.offered() == []
    for entry in pairs[:10]:
        assert venue.leave(entry) == ["LEFT"]

    venue.release(hold, owner="ben")
    calls = list(itertools.takewhile(lambda reply: reply == ["CONTINUE"], iter(venue.offer, None)))

    assert len(calls) > 3
    holds = {entry.decode() for entry in venue.redis.hkeys(venue.key("holds"))}  # type: ignore[union-attr]
    assert holds & {*pairs, *singles} == set(singles[:200])
    assert venue.line() == [*pairs[10:], *singles[200:]]
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)


def test_line_is_served_before_a_load_lets_anybody_else_in(venue: Venue) -> None:
    entry, late = new_id(), new_id()
    venue.begin_load(2)
    for _ in range(2):  # as when a reply is lost
        assert venue.load_line(2, (late, 9, "0:1;0*10", "late"), (entry, 5, "0:1;0*4", "cy|x")) == ["LOADED", 2]
    venue.finish_load(2)

    assert venue.hold("0:1;0*1", owner="out") == ["LINE", 1]
    assert venue.offered() == [entry]
    assert venue.read(entry, owner="cy|x")[0] == "ACTIVE"
    assert venue.line() == [late]


def test_load_forgets_the_line_of_the_state_before(venue: Venue) -> None:
    full(venue)
    venue.joined("0:1;0*2")

    venue.load(epoch=2)

    assert venue.line() == []
    assert venue.waiting() is None
    assert venue.redis.smembers(venue.partition_key("lines")) == set()


def test_partition_names_the_events_that_have_a_line_or_something_to_tell(venue: Venue) -> None:
    def named() -> bool:
        return bool(venue.redis.sismember(venue.partition_key("lines"), venue.id))

    entry = venue.joined("0:1;0*2")
    assert named()
    ((_, notice),) = venue.offer()[1:]
    assert named()
    venue.forget_notices(entry, notice)
    assert not named()


def test_nobody_is_asked_while_the_event_is_off_sale(venue: Venue) -> None:
    hold = full(venue)
    entry = venue.joined("0:1;0*2", owner="cy")
    venue.set_status("closed")
    venue.release(hold, owner="ben")

    assert venue.offered() == []
    assert venue.hold("0:1;0*1") == ["NOT_OPEN", 1, "closed"]
    venue.set_status("open", version=3)
    assert venue.hold("0:1;0*1") == ["LINE", 1]
    assert venue.offered() == [entry]


def test_change_after_the_sale_does_not_wait_for_a_line_that_nobody_asks(venue: Venue) -> None:
    hold = full(venue)
    booking = venue.booked("0:1;1#0")
    venue.joined("0:1;0*2", owner="cy")
    venue.set_status("closed")
    venue.release(hold, owner="ben")

    assert (venue.waiting(), venue.offered()) == ("0", [])
    assert venue.reserve(booking, "0:1;1#0", 2, "0:1;1#1", sale_only=False)[0] == "RESERVED"
    venue.set_status("open", version=3)
    other = venue.reserve(booking, "0:1;1#0", 2, "0:1;1#2", change="c2", sale_only=False)
    assert other[0] == "BUSY"
    venue.abandon(booking)
    assert venue.reserve(booking, "0:1;1#0", 2, "0:1;1#2", change="c2", sale_only=False) == ["LINE"]


def test_entry_whose_line_the_state_has_forgotten_is_put_back(venue: Venue) -> None:
    full(venue)
    entry = venue.joined("0:1;0*2")
    venue.redis.hdel(venue.key("state"), "waiting")

    assert venue.join("0:1;0*2", entry=entry) == ["JOINED"]
    assert venue.waiting() == "0"
    assert venue.redis.hgetall(venue.key("wanted")) == {b"0:1;0*2": b"1"}


def test_claim_over_several_events_says_whose_line_comes_first(runner: Runner) -> None:
    venues = [Venue(runner, event_id=name, group="evening") for name in ("dinner", "show")]
    entry = venues[1].joined("0:1;0*9", owner="cy")

    assert hold_together(venues, ["0:1;0*2"] * 2) == ["LINE", 2]

    assert venues[1].offered() == [entry]
    assert hold_together(venues, ["0:1;0*2"] * 2)[0] == "UNAVAILABLE"
    assert hold_together(venues, ["0:1;0*1"] * 2)[0] == "HELD"


def offered_by_the_rule(line: list[tuple[str, int]], free: int) -> list[str]:
    """Along the line, in its order, whoever fits."""
    offered = []
    for entry, quantity in line:
        if quantity <= free:
            offered.append(entry)
            free -= quantity
    return offered


@pytest.mark.parametrize("seed", range(6))
def test_line_is_served_by_the_rule_whatever_happens(runner: Runner, seed: int) -> None:
    """Holds, releases, lapses, bookings, joins and leaves by turns; before every claim the line has had its turn."""
    chance, venue = random.Random(seed), Venue(runner, {"id": "floor", "price": 1, "capacity": 12}, policy=GENEROUS)
    holds: list[str] = []
    line: list[tuple[int, str, int]] = []

    def serve() -> None:
        expected = offered_by_the_rule([(entry, quantity) for _, entry, quantity in sorted(line)], venue.counts()[0])
        before = set(venue.redis.hkeys(venue.key("holds")))  # type: ignore[arg-type]
        venue.offered(ttl_ms=TTL_MS)
        made = {key.decode() for key in set(venue.redis.hkeys(venue.key("holds"))) - before}  # type: ignore[arg-type]
        assert made == set(expected)
        holds.extend(expected)
        line[:] = [place for place in line if place[1] not in expected]

    for _ in range(250):
        quantity = chance.randint(1, 4)
        match chance.choice(["hold", "hold", "book", "release", "join", "join", "leave", "lapse"]):
            case "hold" | "book" as how:
                claim = venue.hold if how == "hold" else venue.book
                options = {"hold_id": new_id()} if how == "hold" else {"booking_id": new_id()}
                reply = claim(f"0:1;0*{quantity}", owner="out", **options)  # type: ignore[operator]
                if reply[0] == "LINE":
                    venue.reap()
                    serve()
                    reply = claim(f"0:1;0*{quantity}", owner="out", **options)  # type: ignore[operator]
                assert reply[0] in ("HELD", "CONFIRMED", "UNAVAILABLE")
                if reply[0] != "UNAVAILABLE":
                    was_free = venue.counts()[0] + quantity
                    assert offered_by_the_rule([(entry, wanted) for _, entry, wanted in sorted(line)], was_free) == []
                if reply[0] == "HELD":
                    holds.append(options["hold_id"])
                elif reply[0] == "CONFIRMED" and chance.random() < 0.8:
                    venue.unbook(options["booking_id"])
            case "release" if holds:
                venue.release(holds.pop(chance.randrange(len(holds))), owner="")
            case "join":
                score = chance.randrange(1000)
                line.append((score, venue.joined(f"0:1;0*{quantity}", score=score, owner="ana"), quantity))
            case "leave" if line:
                venue.leave(line.pop(chance.randrange(len(line)))[1])
            case "lapse":
                venue.advance(TTL_MS // 4)
        assert [place[1] for place in sorted(line)] == venue.line()
    assert_consistent(venue.redis, venue.event, partitions=PARTITIONS)
