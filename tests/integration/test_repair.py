"""Repair: whatever is planted is put right, towards the ledger, and nothing rightly sold or held is touched."""

import asyncio
import datetime as dt
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from drift_scene import Scene, claim, open_event
from invariants import assert_consistent

from engine.bookings import BookingDetails
from engine.errors import HoldConfirmed
from engine.events import SellableEvent
from engine.ids import new_claim_id
from engine.journal_bound import JOURNAL_BYTES_MAX
from engine.kernel import Kernel
from engine.keys import partition_key
from engine.lifecycle import Actor
from persistence import audit, audit_picture, repair
from persistence.audit_picture import Picture, take_picture
from persistence.booking_desk import Order
from persistence.repair import repair_event, repair_events

pytest_plugins = ("drift_fixtures",)

Plant = Callable[[Scene], Awaitable[None] | None]
PLANTS: dict[str, Plant] = {}


def plant(function: Plant) -> Plant:
    PLANTS[function.__name__] = function
    return function


def key_of(claim_id: str) -> str:
    return claim_id.partition("~")[0]


async def status_of(scene: Scene, hold_id: str) -> str:
    reply = await scene.parts.kernel.run("read_hold", scene.event, [key_of(hold_id).encode(), b""])
    status: str = reply[0].decode()
    return status


def change_record(scene: Scene, hash_name: str, claim_id: str, old: bytes, new: bytes) -> None:
    record: Any = scene.redis.hget(scene.key(hash_name), key_of(claim_id))
    assert old in record
    scene.redis.hset(scene.key(hash_name), key_of(claim_id), record.replace(old, new))


@plant
def sold_bit(scene: Scene) -> None:
    scene.add_cell("sold", 15, 1, 1)


@plant
def held_bit(scene: Scene) -> None:
    scene.add_cell("held", 15, 1, 1)


@plant
def held_bit_of_a_sold_seat(scene: Scene) -> None:
    scene.add_cell("held", 10, 1, 1)


@plant
async def closed_by_a_process_that_died_before_redis_heard(scene: Scene) -> None:
    await scene.parts.events.transition(scene.id, "closed")


@plant
def lost_sold_bit(scene: Scene) -> None:
    scene.add_cell("sold", 10, 0, 0)


@plant
def lost_held_bit(scene: Scene) -> None:
    scene.add_cell("held", 0, 1, 0)


@plant
def lost_bitmap(scene: Scene) -> None:
    scene.redis.delete(scene.key("sold"))


@plant
def wrong_counters(scene: Scene) -> None:
    for number, (kind, section) in enumerate(itertools.product(("free", "held", "sold"), (0, 1))):
        scene.redis.hincrby(scene.key("state"), f"{kind}:{section}:1", 3 - number)


@plant
def lost_booking_record(scene: Scene) -> None:
    scene.redis.hdel(scene.key("bookings"), key_of(scene.booking_id))


@plant
async def lost_booking_without_a_trace(scene: Scene) -> None:
    await scene.parts.settlement.close()
    await scene.parts.kernel.run(
        "unbook_places", scene.event, [key_of(scene.booking_id).encode(), b"", b"", b""], load=False
    )


@plant
async def booking_of_the_ledger_alone(scene: Scene) -> None:
    await scene.book_behind_redis("0:2;0*2;1#19")


@plant
async def booking_of_the_ledger_on_held_seats(scene: Scene) -> None:
    await scene.book_behind_redis("0:1;1#0,5")


@plant
def booking_of_redis_alone(scene: Scene) -> None:
    record = b"1800000000000|1800000000000|||2|0:2;1#14,15|eve"
    scene.redis.hset(scene.key("bookings"), key_of(new_claim_id(scene.id)), record)


@plant
async def booking_that_the_ledger_has_cancelled(scene: Scene) -> None:
    await scene.postgres("UPDATE bookings SET status = 'cancelled'")
    await scene.postgres("DELETE FROM claims")
    await scene.postgres("UPDATE usage SET sold = 0")


@plant
def booking_of_other_places(scene: Scene) -> None:
    change_record(scene, "bookings", scene.booking_id, b"1#10", b"1#11")


@plant
def booking_of_another_customer(scene: Scene) -> None:
    change_record(scene, "bookings", scene.booking_id, b"|ben", b"|eve")


@plant
def nonsense_for_a_booking(scene: Scene) -> None:
    scene.redis.hset(scene.key("bookings"), key_of(scene.booking_id), b"nonsense")


@plant
def nonsense_for_a_hold(scene: Scene) -> None:
    scene.redis.hset(scene.key("holds"), key_of(scene.hold_id), b"nonsense")


@plant
def hold_of_places_that_are_none(scene: Scene) -> None:
    change_record(scene, "holds", scene.hold_id, b"1#0,1", b"1#0,99")


@plant
def booking_from_the_future_of_the_journal(scene: Scene) -> None:
    record = b"1800000000000|1800000000000|9999999999999-0||2|0:2;1#14,15|eve"
    scene.redis.hset(scene.key("bookings"), key_of(new_claim_id(scene.id)), record)


@plant
def lost_hold_record(scene: Scene) -> None:
    scene.redis.hdel(scene.key("holds"), key_of(scene.hold_id))


@plant
def hold_that_never_lapses(scene: Scene) -> None:
    scene.redis.zrem(scene.key("expiries"), key_of(scene.hold_id))


@plant
def deadline_that_was_moved(scene: Scene) -> None:
    scene.redis.zincrby(scene.key("expiries"), 1000, key_of(scene.hold_id))


@plant
def lost_wakeup(scene: Scene) -> None:
    scene.redis.zrem(partition_key(scene.partition, "wakeups"), scene.id)


@plant
def wrong_due(scene: Scene) -> None:
    scene.redis.hset(scene.key("state"), "due", 5)


@plant
def wrong_totals(scene: Scene) -> None:
    scene.redis.hset(scene.key("users"), mapping={"ana": 1, "zoe": 2})
    scene.redis.hdel(scene.key("users"), "ben")


@plant
def seat_held_twice(scene: Scene) -> None:
    key, own = key_of(new_claim_id(scene.id)), key_of(scene.hold_id)
    record: Any = scene.redis.hget(scene.key("holds"), own)
    score: Any = scene.redis.zscore(scene.key("expiries"), own)
    scene.redis.hset(scene.key("holds"), key, record.replace(b"1#0,1", b"1#1,2").replace(b"|ana", b"|eve"))
    scene.redis.zadd(scene.key("expiries"), {key: score})


@plant
def hold_of_more_than_there_is(scene: Scene) -> None:
    change_record(scene, "holds", scene.hold_id, b"0*2", b"0*18")


@plant
async def state_of_another_epoch(scene: Scene) -> None:
    await scene.postgres("UPDATE events SET epoch = epoch + 1")


@plant
def state_of_another_layout(scene: Scene) -> None:
    scene.redis.hset(scene.key("state"), "layout", "sha256:other")


@plant
def state_with_a_hole(scene: Scene) -> None:
    scene.redis.hdel(scene.key("state"), "sold:0:1")


@plant
def state_with_nonsense_for_an_epoch(scene: Scene) -> None:
    scene.redis.hset(scene.key("state"), "epoch", "nonsense")


@plant
async def lost_claims(scene: Scene) -> None:
    await scene.postgres("DELETE FROM claims WHERE leg = 1")


@plant
async def claims_of_nobody(scene: Scene) -> None:
    await scene.postgres(
        "INSERT INTO claims (event_id, seat, leg, booking_id) SELECT 'ride', seat, 0, gen_random_uuid()"
        " FROM generate_series(3, 6) AS seat"
    )


@plant
async def claim_of_a_stranger_in_the_way(scene: Scene) -> None:
    await scene.postgres("UPDATE claims SET booking_id = gen_random_uuid() WHERE leg = 0")


@plant
async def wrong_usage(scene: Scene) -> None:
    await scene.postgres("UPDATE usage SET sold = 7 * leg")


@plant
async def booking_row_without_claims(scene: Scene) -> None:
    columns = "event_id, customer_id, status, payment_status, version, epoch, first_leg, last_leg, items, amount"
    columns += ", currency, sealed, created_at, updated_at, confirmed_at"
    await scene.postgres(
        f"INSERT INTO bookings (id, places, {columns})"
        f" SELECT gen_random_uuid(), '0:2;0*1;1#17', {columns} FROM bookings"
    )


@plant
async def deleted_booking_row(scene: Scene) -> None:
    await scene.postgres("DELETE FROM bookings")


@plant
async def clock_that_was_ahead(scene: Scene) -> None:
    """Redis's, by a minute while somebody held places; the event's has not gone back with it."""
    scene.redis.hincrby(scene.key("state"), "clock", 60_000)
    await scene.parts.reservations.hold(scene.id, claim("A-9"), customer_id="cy")


@pytest.mark.parametrize("name", PLANTS)
async def test_what_is_planted_is_repaired_and_nothing_is_left(scene: Scene, name: str) -> None:
    planted = PLANTS[name](scene)
    if planted is not None:
        await planted
    before = await scene.audit()
    assert before.drift

    done = await scene.repair()

    assert {one.identity for one in before.differences} <= {one.identity for one in done.found}
    assert done.unresolved == ()
    assert {one.identity for one in done.repaired} == {one.identity for one in done.found}
    assert done.rebuilt == name.startswith("state_")
    await scene.assert_whole()


async def test_holds_lapse_in_time_once_the_clock_was_set_back(scene: Scene) -> None:
    await clock_that_was_ahead(scene)
    brief = msgspec.structs.replace(claim("A-10"), ttl=1)
    held = (await scene.parts.reservations.hold(scene.id, brief, customer_id="cy")).hold.id
    assert [one.kind for one in (await scene.repair(dry_run=True)).found] == ["clock_wrong"]

    done = await scene.repair()

    assert [one.kind for one in done.repaired] == ["clock_wrong"]
    await asyncio.sleep(1)
    assert await status_of(scene, held) == "EXPIRED"
    assert await status_of(scene, scene.hold_id) == "ACTIVE"
    await scene.parts.reservations.hold(scene.id, claim("A-10"), customer_id="dora")


async def test_journal_is_drained_before_an_event_is_built_anew(scene: Scene) -> None:
    state_with_a_hole(scene)
    parts, drained = scene.parts, []

    async def drain(partition: int) -> None:
        drained.append((partition, await parts.kernel.epoch_in_store(scene.event)))

    parts.loader.drain_with(drain)
    done = await repair_event(parts.kernel, parts.bookings, parts.loader, scene.event)
    # Once more when no script sells in the old state any more: nothing may be accepted after the last look.
    assert (done.rebuilt, drained) == (True, [(scene.partition, 1), (scene.partition, None)])


async def test_several_that_rebuild_what_they_saw_together_do_it_once(scene: Scene) -> None:
    rebuilt = await asyncio.gather(*[scene.parts.loader.rebuild(scene.id, seen_epoch=1) for _ in range(3)])
    assert sorted(rebuilt) == [False, False, True]
    assert await scene.parts.kernel.epoch_in_store(scene.event) == 2
    await scene.assert_whole()


async def test_lost_booking_of_the_journal_is_written_back_with_its_entry(scene: Scene) -> None:
    key = key_of(new_claim_id(scene.id))
    args = (key, "eve", "attempt", "sealed", "", "", "1000", str(JOURNAL_BYTES_MAX))
    args += (scene.event.layout.digest, "0:1;1#12")
    reply = await scene.parts.kernel.run("book_places", scene.event, [arg.encode() for arg in args])
    scene.redis.hdel(scene.key("bookings"), key)
    done = await scene.repair()
    assert [(one.kind, one.subject) for one in done.repaired] == [("missing_in_redis", f"{key}~{scene.id}")]
    record: Any = scene.redis.hget(scene.key("bookings"), key)
    assert record.split(b"|")[2] == reply[4]
    await scene.assert_whole()


async def test_cancelled_booking_does_not_come_back_for_an_entry_that_its_process_left_in_the_journal(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.parts.settlement, "_drop", lambda *_: None)  # as one that dies after the commit
    booking_id = await scene.book("B-6", customer_id="zoe")
    order = Order(admit=lambda customer: Actor(customer, "customer"))
    now = dt.datetime.now(dt.UTC)
    await scene.parts.desk.cancel(booking_id, order, event=scene.event.definition, reason=None, now=now)
    held = await scene.parts.reservations.hold(scene.id, claim("B-6"), customer_id="eve")

    done = await scene.repair()

    assert (done.found, done.audit.exact, scene.redis.xlen(scene.journal)) == ((), True, 1)
    booked = await scene.parts.reservations.confirm(held.hold.id, BookingDetails(), customer_id="eve")
    assert booked.booking.status == "confirmed"
    assert scene.redis.hget(scene.key("users"), "zoe") is None
    await scene.parts.drainer.drain_now(scene.partition)
    await scene.assert_whole()


async def test_cells_are_left_as_they_are_while_not_all_that_the_journal_has_is_known(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.audit_journal.LOST_MAX", 0)
    scene.redis.xadd(scene.journal, {"x": "y"})
    sold_bit(scene)
    done = await scene.repair()
    assert (done.found, done.audit.exact) == ((), False)
    assert scene.redis.getbit(scene.key("sold"), 31) == 1


async def test_dry_run_finds_and_changes_nothing(scene: Scene) -> None:
    held_bit(scene)
    keys = {key: scene.redis.dump(key) for key in scene.redis.keys("hf:*:ride:*")}
    done = await scene.repair(dry_run=True)
    assert [one.kind for one in done.found] == ["cell_not_owned"]
    assert (done.repaired, done.unresolved) == ((), done.found)
    assert {key: scene.redis.dump(key) for key in scene.redis.keys("hf:*:ride:*")} == keys


async def test_event_that_agrees_is_not_touched(scene: Scene) -> None:
    keys = {key: scene.redis.dump(key) for key in scene.redis.keys("hf:*:ride:*")}
    done = await scene.repair()
    assert (done.found, done.rebuilt, done.audit.exact) == ((), False, True)
    assert {key: scene.redis.dump(key) for key in scene.redis.keys("hf:*:ride:*")} == keys


async def test_customer_whose_booking_the_ledger_does_not_have_hears_that_it_was_refused(scene: Scene) -> None:
    await booking_that_the_ledger_has_cancelled(scene)  # type: ignore[misc]
    await scene.repair()
    assert await status_of(scene, scene.booking_id) == "REFUSED"
    await scene.book("B-1", customer_id="eve")


async def test_hold_whose_seat_the_ledger_has_sold_ends_as_refused_and_frees_its_other_seats(scene: Scene) -> None:
    await booking_of_the_ledger_on_held_seats(scene)  # type: ignore[misc]
    await scene.repair()
    assert await status_of(scene, scene.hold_id) == "REFUSED"
    await scene.book("A-2", customer_id="eve")


async def test_hold_that_became_a_booking_which_redis_has_forgotten_is_booked_again(scene: Scene) -> None:
    held = await scene.parts.reservations.hold(scene.id, claim("B-5", floor=1), customer_id="eve")
    record, score = (
        scene.redis.hget(scene.key("holds"), key_of(held.hold.id)),
        scene.redis.zscore(scene.key("expiries"), key_of(held.hold.id)),
    )
    await scene.parts.reservations.confirm(held.hold.id, BookingDetails(), customer_id="eve")
    scene.redis.hdel(scene.key("bookings"), key_of(held.hold.id))
    scene.redis.hset(scene.key("holds"), key_of(held.hold.id), record)  # type: ignore[arg-type]
    scene.redis.zadd(scene.key("expiries"), {key_of(held.hold.id): score})  # type: ignore[dict-item]
    assert (await scene.repair()).unresolved == ()
    await scene.assert_whole()
    with pytest.raises(HoldConfirmed):
        await scene.parts.reservations.release(held.hold.id, customer_id="eve")


async def test_older_of_two_holds_of_a_seat_keeps_it(scene: Scene) -> None:
    seat_held_twice(scene)
    change_record(scene, "holds", scene.hold_id, b"a|", b"a|1")  # it has lived longer, to the same deadline
    await scene.repair()
    assert scene.redis.hlen(scene.key("holds")) == 1
    await scene.parts.reservations.confirm(scene.hold_id, BookingDetails(), customer_id="ana")


async def test_two_bookings_of_the_ledger_for_one_seat_are_left_to_a_person(scene: Scene) -> None:
    await booking_row_without_claims(scene)  # type: ignore[misc]
    await scene.postgres("UPDATE bookings SET places = '0:2;1#10' WHERE places LIKE '%1#17'")
    done = await scene.repair()
    assert {(one.kind, one.seat) for one in done.unresolved} == {("claim_missing", "B-1")}
    again = await scene.repair()
    assert {one.identity for one in again.unresolved} == {one.identity for one in done.unresolved}


async def test_event_of_a_later_epoch_than_the_ledger_s_is_left_to_a_person(scene: Scene) -> None:
    scene.redis.hset(scene.key("state"), "epoch", 7)
    done = await scene.repair()
    assert ([one.kind for one in done.unresolved], done.rebuilt) == (["epoch_wrong"], False)
    assert scene.redis.hlen(scene.key("holds")) == 1


async def test_dead_letter_accounts_for_its_booking(scene: Scene) -> None:
    journal_id = scene.redis.xadd(scene.journal, {"x": "y"})
    scene.redis.xdel(scene.journal, journal_id)
    record = b"1800000000000|1800000000000|%b||2|0:2;1#14,15|eve" % journal_id  # type: ignore[str-bytes-safe]
    scene.redis.hset(scene.key("bookings"), key_of(new_claim_id(scene.id)), record)
    scene.redis.hset(partition_key(scene.partition, "dead"), journal_id, "poison")
    await scene.repair()
    assert scene.redis.hlen(scene.key("bookings")) == 2
    await scene.assert_whole()


async def test_event_with_more_differences_than_can_be_named_is_rebuilt(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("audit", "audit_reading", "repair"):
        monkeypatch.setattr(f"persistence.{module}.DIFFERENCES_MAX", 5)
    for seat in range(12, 18):
        scene.add_cell("sold", seat, 0, 1)
    done = await scene.repair()
    assert (done.rebuilt, done.unresolved) == (True, ())
    await scene.assert_whole()


async def test_holds_that_are_too_many_to_be_read_at_once_are_judged_in_steps(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_picture, "HOLDS_AT_ONCE_MAX", 0)
    assert await scene.kinds() == {}
    held_bit(scene)
    lost_held_bit(scene)
    hold_that_never_lapses(scene)
    scene.redis.zadd(scene.key("expiries"), {key_of(new_claim_id(scene.id)): 3_000_000_000_000})
    kinds = {"cell_not_owned": 1, "cell_not_set": 1, "expiry_wrong": 1, "hold_lost": 1, "due_wrong": 2}
    assert await scene.kinds() == kinds
    done = await scene.repair()
    assert [one.kind for one in done.unresolved] == ["cell_not_set"]  # whose hold nobody has at hand; it lapses
    monkeypatch.undo()
    await scene.repair()
    await scene.assert_whole()


@pytest.fixture
def too_many_holds(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """More than are read at once, which come and go all the while, until it is undone."""

    async def take_and_go_on(kernel: Kernel, event: SellableEvent) -> Picture:
        picture = await take_picture(kernel, event)
        scene.redis.hincrby(scene.key("state"), "seq", 1)
        return picture

    monkeypatch.setattr(audit_picture, "HOLDS_AT_ONCE_MAX", 0)
    monkeypatch.setattr("persistence.audit_reading.take_picture", take_and_go_on)
    return monkeypatch


async def test_lost_booking_beside_too_many_holds_leaves_no_counter_wrong(
    scene: Scene, too_many_holds: pytest.MonkeyPatch
) -> None:
    await scene.book_behind_redis("0:2;0*2;1#19")
    done = await scene.repair()
    assert (done.audit.exact, done.complete, done.unresolved) == (False, True, ())
    too_many_holds.undo()
    await scene.assert_whole()


@pytest.mark.usefixtures("too_many_holds")
async def test_nothing_is_given_back_because_of_holds_that_were_not_judged(scene: Scene) -> None:
    await scene.book_behind_redis("0:2;0*2")
    free = [int(scene.redis.hget(scene.key("state"), f"free:0:{leg}") or 0) for leg in (0, 1)]
    scene.redis.hincrby(scene.key("state"), "held:0:0", -2)  # which says that fewer are held than there are
    await scene.repair()
    assert [int(scene.redis.hget(scene.key("state"), f"free:0:{leg}") or 0) for leg in (0, 1)] == [n - 2 for n in free]


@pytest.mark.usefixtures("too_many_holds")
async def test_reading_that_can_tell_no_more_is_not_repeated(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    readings: list[object] = []
    read_event = audit.read_event

    async def read(*args: Any, **options: Any) -> Any:
        readings.append(args)
        return await read_event(*args, **options)

    monkeypatch.setattr(audit, "read_event", read)
    assert (await scene.repair()).complete
    assert len(readings) == 1


async def test_two_repairs_at_once_apply_what_they_found_once(scene: Scene) -> None:
    for _ in range(3):
        wrong_counters(scene)
        lost_booking_record(scene)
        booking_of_redis_alone(scene)
        await asyncio.gather(scene.repair(), scene.repair(), scene.repair())
        await scene.assert_whole()


async def test_repair_whose_reply_is_lost_is_not_applied_twice(scene: Scene) -> None:
    wrong_counters(scene)
    kernel, run = scene.parts.kernel, scene.parts.kernel.run

    async def run_twice(name: str, *args: Any, **options: Any) -> list[Any]:
        await run(name, *args, **options)
        return await run(name, *args, **options)

    kernel.run = run_twice  # type: ignore[method-assign]
    try:
        done = await scene.repair()
    finally:
        kernel.run = run  # type: ignore[method-assign]
    assert done.unresolved == ()
    await scene.assert_whole()


async def test_plan_that_takes_several_calls_is_done_whole(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "CALL_WEIGHT_MAX", 1)
    wrong_counters(scene)
    lost_booking_record(scene)
    held_bit(scene)
    repairs = int(scene.redis.hget(scene.key("state"), "repairs"))  # type: ignore[arg-type]
    assert (await scene.repair()).unresolved == ()
    assert int(scene.redis.hget(scene.key("state"), "repairs")) > repairs + 3  # type: ignore[arg-type]
    await scene.assert_whole()


async def test_repair_that_is_killed_anywhere_leaves_what_the_next_one_puts_right(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "CALL_WEIGHT_MAX", 1)
    kernel, run = scene.parts.kernel, scene.parts.kernel.run
    for calls in range(1, 8, 2):
        wrong_counters(scene)
        lost_booking_record(scene)
        booking_of_redis_alone(scene)
        left = itertools.count(calls, -1)

        async def run_some(name: str, *args: Any, left: "itertools.count[int]" = left, **options: Any) -> list[Any]:
            if next(left) <= 0:
                raise asyncio.CancelledError
            return await run(name, *args, **options)

        kernel.run = run_some  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await scene.repair()
        kernel.run = run  # type: ignore[method-assign]
        free = int(scene.redis.hget(scene.key("state"), "free:0:1"))  # type: ignore[arg-type]
        assert free <= 15  # no more than there is, from the first call on
        assert (await scene.repair()).unresolved == ()
        await scene.assert_whole()


async def test_many_events_are_repaired_and_one_that_cannot_be_read_stops_none(scene: Scene) -> None:
    parts = scene.parts
    scenes = [Scene(parts, scene.settings, await open_event(parts, f"gig-{number}")) for number in range(6)]
    for number, one in enumerate(scenes):
        one.add_cell("sold", number, 0, 1)
    scenes[3].redis.delete(scenes[3].key("holds"))
    scenes[3].redis.set(scenes[3].key("holds"), "a string")
    ids = [*(one.id for one in scenes), "ghost"]
    repairs = {
        one.event_id: one async for one in repair_events(parts.kernel, parts.bookings, parts.catalog, parts.loader, ids)
    }
    assert repairs.keys() == {*ids}
    assert [one.kind for one in repairs["ghost"].unresolved] == ["event_unknown"]
    assert "WRONGTYPE" in (repairs["gig-3"].failed or "")
    for number, one in enumerate(scenes):
        if number != 3:
            assert [found.kind for found in repairs[one.id].repaired] == ["cell_not_owned"]
            await one.repair()
            assert_consistent(one.redis, one.event, partitions=parts.kernel.partitions)
