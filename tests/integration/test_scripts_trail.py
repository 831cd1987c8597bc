"""The trail: every change of a hold leaves a line that says all of it, whichever script and path made the change."""

import hashlib
import itertools
from collections.abc import Callable
from operator import itemgetter

import msgspec
import pytest
from script_runner import FLOOR, FROZEN_MS, STALLS, TTL_MS, Runner, Venue, hold_together, new_id

import lua

TRAIL_MAX = "local TRAIL_MAX = 250000"
STRAIGHT_LINE = (
    "redis.call('XADD', KEYS[10], 'NOMKSTREAM', '*', KEYS[1],\n"
    "          hold_id .. '|active|' .. now .. '|' .. deadline .. '|' .. quantity .. rest)"
)
END_MS = FROZEN_MS + TTL_MS


@pytest.fixture
def venue(redis_url: str) -> Venue:
    return Venue(Runner(redis_url))


def lines(venue: Venue) -> list[str]:
    """The lines of the venue's holds, without their keys."""
    name = f"hf:{{{venue.partition}}}:{venue.id}:state"
    values = [fields[name] for _, fields in venue.trail() if name in fields]
    return [value.partition("|")[2] for value in values if not value.startswith("|rebuilt|")]


def changed(name: str, *changes: tuple[str, str]) -> lua.Script:
    """A script with something replaced."""
    script = lua.load(name)
    source = script.source.decode()
    for original, replacement in changes:
        assert original in source
        source = source.replace(original, replacement)
    return msgspec.structs.replace(
        script, source=source.encode(), sha=hashlib.sha1(source.encode()).hexdigest().encode()
    )


@pytest.mark.parametrize("places", ["0:1;0*2", "0:1;1#3"])
def test_hold_leaves_a_line_by_the_straight_path(venue: Venue, places: str) -> None:
    venue.held("0:1;0*1")  # without a hold no claim is the usual one
    venue.runner.scripts["hold_places"] = changed(
        "hold_places", ("local KEYS_PER_EVENT", "do return { 'NOT_LOADED', 1 } end\nlocal KEYS_PER_EVENT")
    )
    hold_id = venue.held(places, owner="a|b")
    quantity = 2 if "*" in places else 1
    assert lines(venue)[1:] == [f"active|{FROZEN_MS}|{END_MS}|{quantity}|{places}|a|b"]
    assert next(iter(venue.trail()[-1][1].values())).startswith(f"{hold_id}|")


def test_straight_path_without_its_line_is_found_out(redis_url: str) -> None:
    """The negative control of the comparison in ``test_scripts_usual_claim.py``, which looks at the trail too."""
    trails = []
    for changes in ([], [(STRAIGHT_LINE, "")]):
        venue = Venue(Runner(redis_url), event_id=f"gig{len(trails)}")
        venue.runner.scripts["hold_places"] = changed("hold_places", *changes)
        for number in range(3):
            venue.held("0:1;0*1", hold_id=f"h{number:025d}")
        trails.append(lines(venue))
    assert [len(trail) for trail in trails] == [3, 1]


def test_hold_leaves_a_line_by_the_general_way_with_the_seats_it_was_given(venue: Venue) -> None:
    venue.held("0:1;0*2;1?3")
    assert lines(venue) == [f"active|{FROZEN_MS}|{END_MS}|5|0:1;0*2;1#0,1,2|ana"]


def test_holds_of_a_group_leave_a_line_each_under_their_events_names(redis_url: str) -> None:
    runner = Runner(redis_url)
    venues = [Venue(runner, event_id=name, group="trip") for name in ("out", "back")]
    assert hold_together(venues, ["0:1;0*1", "0:1;1#4"])[0] == "HELD"
    names = [next(iter(fields)) for _, fields in venues[0].trail()[2:]]
    assert names == [f"hf:{{{venues[0].partition}}}:{name}:state" for name in ("out", "back")]


def test_batch_leaves_a_line_for_each_hold_ten_to_an_entry(redis_url: str) -> None:
    venue = Venue(Runner(redis_url), FLOOR | {"capacity": 50}, STALLS, policy={"max_places_per_customer": 50})
    keys = [new_id() for _ in range(23)]
    assert venue.hold_many(*((key, TTL_MS, "0:1;0*1") for key in keys))[0] == "HELD"
    assert lines(venue) == [f"active|{FROZEN_MS}|{END_MS}|1|0:1;0*1|ana"] * 23
    told = venue.trail()[1:]
    assert [next(iter(fields.values())).partition("|")[0] for _, fields in told] == keys
    assert [len(list(entry)) for _, entry in itertools.groupby(told, key=itemgetter(0))] == [10, 10, 3]


def test_reading_is_bounded_by_lines_however_many_an_entry_has(redis_url: str) -> None:
    venue = Venue(Runner(redis_url), FLOOR | {"capacity": 3_000}, policy={"max_places_per_customer": 3_000})
    for _ in range(25):
        assert venue.hold_many(*((new_id(), TTL_MS, "0:1;0*1") for _ in range(100)))[0] == "HELD"
    read = venue.read_trail()[4:]
    assert sum(len(fields) // 2 for _, fields in read) == 1 + 99 * 10 + 9 * 10  # a hundred entries, and as many as lack
    assert len(venue.read_trail(limit=5)[4:]) == 5  # the limit is never passed by entries


def test_the_same_call_twice_leaves_one_line(venue: Venue) -> None:
    for _ in range(2):
        venue.held("0:1;0*1", hold_id="h" * 26)
    assert len(lines(venue)) == 1


def test_refused_claim_leaves_no_line(venue: Venue) -> None:
    venue.held("0:1;1#3")
    assert venue.hold("0:1;1#3")[0] == "UNAVAILABLE"
    assert len(lines(venue)) == 1


def test_extension_leaves_a_line_with_the_new_deadline(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*1")
    venue.advance(1_000)
    assert venue.extend(hold_id)[0] == "EXTENDED"
    assert lines(venue)[1:] == [f"active|{FROZEN_MS}|{END_MS + 1_000}|1|0:1;0*1|ana"]


def test_release_and_confirmation_leave_lines_with_their_time(venue: Venue) -> None:
    released, confirmed = venue.held("0:1;0*1"), venue.held("0:1;1#3")
    venue.advance(1_000)
    assert venue.release(released)[0] == "RELEASED"
    assert venue.confirm(confirmed)[0] == "CONFIRMED"
    assert lines(venue)[2:] == [
        f"released|{FROZEN_MS}|{FROZEN_MS + 1_000}|1|0:1;0*1|ana",
        f"confirmed|{FROZEN_MS}|{FROZEN_MS + 1_000}|1|0:1;1#3|ana",
    ]


@pytest.mark.parametrize(
    "act",
    [
        lambda venue, hold_id: venue.release(hold_id),
        lambda venue, hold_id: venue.extend(hold_id),
        lambda venue, hold_id: venue.confirm(hold_id),
        lambda venue, hold_id: venue.reap(),
        lambda venue, hold_id: venue.snapshot(),
        lambda venue, hold_id: venue.hold("0:1;1#9"),
        lambda venue, hold_id: venue.book("0:1;1#9"),
    ],
    ids=["release", "extend", "confirm", "reap", "snapshot", "hold", "book"],
)
def test_lapsed_hold_ended_by_any_script_leaves_a_line_with_its_deadline(
    venue: Venue, act: Callable[[Venue, str], object]
) -> None:
    hold_id = venue.held("0:1;1#3")
    venue.advance(TTL_MS + 5_000)
    act(venue, hold_id)
    assert lines(venue)[1] == f"expired|{FROZEN_MS}|{END_MS}|1|0:1;1#3|ana"


def test_booking_that_the_ledger_refused_leaves_a_line_and_one_that_is_cancelled_does_not(venue: Venue) -> None:
    refused, cancelled = venue.booked("0:1;1#3"), venue.booked("0:1;1#4")
    venue.advance(1_000)
    assert venue.unbook(refused, refused_owner="ana")[0] == "UNBOOKED"
    assert venue.unbook(cancelled)[0] == "UNBOOKED"
    assert lines(venue) == [f"refused|{FROZEN_MS}|{FROZEN_MS + 1_000}|1|0:1;1#3|ana"]


def test_event_that_is_begun_anew_leaves_a_line_once(venue: Venue) -> None:
    venue.advance(1_000)
    for _ in range(2):
        assert venue.begin_load(2) == ["LOADING"]
    values = [next(iter(fields.values())) for _, fields in venue.trail()]
    assert values[1:] == [f"|rebuilt|{FROZEN_MS + 1_000}|{FROZEN_MS + 1_000}|0||"]


def test_nothing_is_left_where_no_history_is_kept(venue: Venue) -> None:
    venue.redis.flushall()
    assert venue.begin_load(1, keeps_history=False) == ["LOADING"]
    venue.finish_load(1)
    venue.set_time(FROZEN_MS)
    for places in ("0:1;0*1", "0:1;0*1", "0:1;0*1;1#3"):
        venue.extend(venue.held(places))
    venue.release(venue.held("0:1;0*1"))
    venue.confirm(venue.held("0:1;0*1"))
    venue.advance(TTL_MS)
    assert venue.reap()[1] == 3
    assert not venue.redis.exists(venue.partition_key("trail"))


def test_trail_is_bounded_and_what_it_loses_is_counted(redis_url: str) -> None:
    venue = Venue(Runner(redis_url), FLOOR | {"capacity": 1000}, STALLS, policy={"max_places_per_customer": 1000})
    for name in ("hold_places", "release_hold"):
        venue.runner.scripts[name] = changed(name, (TRAIL_MAX, "local TRAIL_MAX = 100"))
    for _ in range(200):
        venue.release(venue.held("0:1;0*1"))
    length = len(venue.trail())
    assert length <= 200  # `~` trims whole nodes, of a hundred entries by default
    number, lost, since = venue.read_trail()[1:4]
    assert (number, lost, since) == (402 - length, 401 - length, 0)  # with the line of the loading, 401 were added
    assert venue.forget_trail(number, venue.trail()[0][0]) == ["FORGOTTEN", 1]
    assert venue.read_trail()[1:3] == [number + 1, 0]


def test_lines_forgotten_late_do_not_count_as_lost(venue: Venue) -> None:
    for _ in range(4):
        venue.held("0:1;0*1")
    ids = [entry_id for entry_id, _ in venue.trail()]
    assert venue.forget_trail(4, ids[3]) == ["FORGOTTEN", 4]
    assert venue.forget_trail(2, ids[1]) == ["FORGOTTEN", 0]  # somebody slower had read less
    number, lost, since = venue.read_trail()[1:4]
    assert (number, lost, since) == (5, 0, int(ids[3].split("-")[0]))


def test_holds_end_and_leave_their_lines_when_memory_is_used_up(venue: Venue) -> None:
    hold_id = venue.held("0:1;0*1")
    venue.held("0:1;0*1", ttl_ms=1_000)
    refused = venue.booked("0:1;1#3")
    venue.advance(1_000)
    venue.redis.config_set("maxmemory", "1")
    try:
        assert venue.release(hold_id)[0] == "RELEASED"
        assert venue.unbook(refused, refused_owner="ana")[0] == "UNBOOKED"
        assert venue.reap() == ["REAPED", 1, 0]
        assert venue.forget_trail(1, venue.trail()[0][0]) == ["FORGOTTEN", 1]
    finally:
        venue.redis.config_set("maxmemory", "0")
    assert [line.split("|")[0] for line in lines(venue)[2:]] == ["released", "refused", "expired"]
