"""The audit: silent while everything agrees, and naming each kind of difference that is planted, and no other."""

import asyncio
import contextlib
import datetime as dt
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from drift_scene import FLOOR, STALLS, STARTS_AT, Scene, claim, open_event

from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.definition import EventDefinition, Policy, RowDefinition, SectionDefinition
from engine.events import SellableEvent
from engine.ids import new_claim_id
from engine.kernel import Kernel
from engine.keys import partition_key
from engine.lifecycle import Actor
from engine.records import scan_hash
from persistence.audit import audit_event, audit_events
from persistence.audit_journal import JournalWatch
from persistence.audit_picture import Picture, take_picture
from persistence.audit_reading import read_event
from persistence.booking_desk import Order
from persistence.place_desk import PlaceWish

pytest_plugins = ("drift_fixtures",)


async def test_audit_is_silent_when_redis_and_ledger_agree(scene: Scene) -> None:
    audit = await scene.audit()
    assert (audit.events, audit.drift, audit.differences) == (1, 0, ())
    (event,) = audit.audited
    assert (event.loaded, event.steady, event.holds, event.bookings) == (True, True, 1, 1)
    assert audit.journal.entries <= 1


async def test_audit_changes_nothing(scene: Scene) -> None:
    keys = {key: scene.redis.dump(key) for key in scene.redis.keys("hf:*:ride:*")}
    await scene.audit()
    assert {key: scene.redis.dump(key) for key in scene.redis.keys("hf:*:ride:*")} == keys


async def test_audit_does_not_end_holds_that_have_lapsed(scene: Scene) -> None:
    await scene.parts.reservations.extend(scene.hold_id, ttl_s=1, customer_id="ana")
    await asyncio.sleep(1.1)
    assert await scene.kinds() == {}
    assert scene.redis.hlen(scene.key("holds")) == 1


async def test_booking_that_is_only_in_the_journal_is_accounted_for(scene: Scene) -> None:
    key = new_claim_id(scene.id).partition("~")[0]
    places = b"0:1;1#12"
    args = [key, "eve", "attempt", "sealed", "", "", "1000", "67108864", scene.event.layout.digest, places]
    reply = await scene.parts.kernel.run("book_places", scene.event, [_bytes(arg) for arg in args])
    assert reply[0] == b"CONFIRMED"
    audit = await scene.audit()
    assert (audit.drift, audit.journal.entries >= 1) == (0, True)
    assert audit.journal.oldest_age is not None
    assert audit.journal.oldest_age < 60

    scene.redis.xdel(scene.journal, reply[4])
    difference = await scene.only()
    assert (difference.kind, difference.subject) == ("missing_in_ledger", f"{key}~{scene.id}")
    assert (difference.section, difference.seat) == ("stalls", "B-3")
    assert (difference.redis, difference.ledger) == ("0:1;1#12 eve", None)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


async def test_journal_entry_whose_booking_redis_has_lost_is_found(scene: Scene) -> None:
    entry = {"event": scene.id, "epoch": 1, "booking": "0" * 26, "owner": "eve", "places": "0:1;0*1"}
    entry |= {"created": 1, "confirmed": 2, "details": "sealed", "once": "", "body": ""}
    scene.redis.xadd(scene.journal, entry)
    difference = await scene.only()
    assert (difference.kind, difference.subject) == ("missing_in_redis", f"{'0' * 26}~{scene.id}")


async def test_booking_deleted_in_redis_is_the_only_difference_of_its_places(scene: Scene) -> None:
    scene.redis.hdel(scene.key("bookings"), scene.booking_id.partition("~")[0])
    difference = await scene.only()
    assert (difference.kind, difference.subject) == ("missing_in_redis", scene.booking_id)
    assert (difference.redis, difference.ledger) == (None, "0:2;1#10;0*3 ben")


async def test_booking_written_to_postgres_behind_the_back_of_redis_is_found(scene: Scene) -> None:
    booking_id = await scene.book_behind_redis("0:2;0*2;1#19")
    difference = await scene.only()
    assert (difference.kind, difference.subject) == ("missing_in_redis", booking_id)


async def test_booking_that_stopped_owning_its_places_is_missing_in_the_ledger(scene: Scene) -> None:
    await scene.postgres("UPDATE bookings SET status = 'cancelled'")
    await scene.postgres("DELETE FROM claims")
    await scene.postgres("UPDATE usage SET sold = 0")
    assert await scene.kinds() == {"missing_in_ledger": 1}


async def test_booking_of_other_places_is_named_with_both_sides(scene: Scene) -> None:
    key = scene.booking_id.partition("~")[0]
    record = scene.redis.hget(scene.key("bookings"), key)
    scene.redis.hset(scene.key("bookings"), key, record.replace(b"1#10", b"1#11"))
    difference = await scene.only()
    assert (difference.kind, difference.subject) == ("booking_differs", scene.booking_id)
    assert (difference.redis, difference.ledger) == ("0:2;1#11;0*3 ben", "0:2;1#10;0*3 ben")


@pytest.mark.parametrize(
    ("bitmap", "seat", "value", "expected"),
    [
        ("sold", 15, 1, ("cell_not_owned", "B-6", "sold", "free")),
        ("held", 15, 1, ("cell_not_owned", "B-6", "held", "free")),
        ("sold", 10, 0, ("cell_not_set", "B-1", "free", "sold")),
        ("held", 0, 0, ("cell_not_set", "A-1", "free", "held")),
        ("held", 10, 1, ("cell_not_owned", "B-1", "held", "free")),
    ],
)
async def test_flipped_bit_is_found_with_seat_and_leg(
    scene: Scene, bitmap: str, seat: int, value: int, expected: tuple[str, ...]
) -> None:
    scene.add_cell(bitmap, seat, 1, value)
    found = await scene.only()
    assert (found.kind, found.seat, found.redis, found.ledger) == expected
    assert (found.section, found.leg) == ("stalls", 1)


@pytest.mark.parametrize("kind", ["free", "held", "sold"])
@pytest.mark.parametrize("section", [FLOOR, STALLS])
async def test_wrong_counter_is_found_with_what_it_should_be(scene: Scene, kind: str, section: int) -> None:
    field = f"{kind}:{section}:1"
    right = int(scene.redis.hget(scene.key("state"), field))
    scene.redis.hincrby(scene.key("state"), field, 4)
    found = await scene.only()
    assert (found.kind, found.subject, found.redis, found.ledger) == ("counter_wrong", field, right + 4, right)
    assert (found.section, found.leg) == (("floor", "stalls")[section], 1)


async def test_lost_hold_record_is_found_with_everything_it_leaves_behind(scene: Scene) -> None:
    scene.redis.hdel(scene.key("holds"), scene.hold_id.partition("~")[0])
    audit = await scene.audit()
    # Two seats on two legs; held and free of both sections on both legs; Ana's total.
    assert audit.by_kind == {"hold_lost": 1, "cell_not_owned": 4, "counter_wrong": 8, "customer_wrong": 1}
    (lost,) = (difference for difference in audit.differences if difference.kind == "hold_lost")
    assert lost.subject == scene.hold_id


async def test_hold_that_would_never_lapse_is_found(scene: Scene) -> None:
    scene.redis.zrem(scene.key("expiries"), scene.hold_id.partition("~")[0])
    assert await scene.kinds() == {"expiry_wrong": 1, "due_wrong": 2}


async def test_earliest_deadline_that_was_moved_is_found(scene: Scene) -> None:
    scene.redis.zincrby(scene.key("expiries"), 1000, scene.hold_id.partition("~")[0])
    assert await scene.kinds() == {"due_wrong": 2}


async def test_missing_wakeup_is_found(scene: Scene) -> None:
    scene.redis.zrem(partition_key(scene.partition, "wakeups"), scene.id)
    assert ((await scene.only()).kind, (await scene.only()).subject) == ("due_wrong", "wakeups")


async def test_customers_total_that_is_wrong_is_found(scene: Scene) -> None:
    scene.redis.hincrby(scene.key("users"), "ben", 1)
    found = await scene.only()
    assert (found.kind, found.subject, found.redis, found.ledger) == ("customer_wrong", "ben", 5, 4)


async def test_total_of_a_customer_without_places_is_found(scene: Scene) -> None:
    scene.redis.hset(scene.key("users"), "zoe", 2)
    found = await scene.only()
    assert (found.kind, found.subject, found.redis, found.ledger) == ("customer_wrong", "zoe", 2, 0)


async def test_seat_of_two_holds_is_found(scene: Scene) -> None:
    key = new_claim_id(scene.id).partition("~")[0]
    own = scene.hold_id.partition("~")[0]
    record = scene.redis.hget(scene.key("holds"), own)
    scene.redis.hset(scene.key("holds"), key, record)
    scene.redis.zadd(scene.key("expiries"), {key: scene.redis.zscore(scene.key("expiries"), own)})
    kinds = await scene.kinds()
    assert kinds.pop("claimed_twice") == 4
    assert kinds == {"counter_wrong": 8, "customer_wrong": 1}  # of the hold that no script has made


async def test_more_sold_than_there_is_is_found(scene: Scene) -> None:
    key = scene.hold_id.partition("~")[0]
    record = scene.redis.hget(scene.key("holds"), key).replace(b"0*2", b"0*18")
    scene.redis.hset(scene.key("holds"), key, record)
    audit = await scene.audit()
    oversold = [difference for difference in audit.differences if difference.kind == "oversold"]
    assert [(found.section, found.leg, found.redis, found.ledger) for found in oversold] == [
        ("floor", 0, 21, 20),
        ("floor", 1, 21, 20),
    ]


@pytest.mark.parametrize(
    "record", [b"nonsense", b"a|1|0:1;9*1|ana", b"p|1|0:7;0*1|ana", b"b|1|0:1;0*1|ana", b"active|1|2|3|0:1;0*1|ana"]
)
async def test_record_of_a_hold_that_no_script_wrote_is_found(scene: Scene, record: bytes) -> None:
    key = new_claim_id(scene.id).partition("~")[0]
    scene.redis.hset(scene.key("holds"), key, record)
    assert (await scene.audit()).by_kind["record_wrong"] == 1


async def test_record_of_a_booking_that_no_script_wrote_is_found(scene: Scene) -> None:
    scene.redis.hset(scene.key("bookings"), "0" * 26, b"nonsense")
    found = await scene.only()
    assert (found.kind, found.subject) == ("record_wrong", f"{'0' * 26}~{scene.id}")


async def test_state_of_another_epoch_is_found(scene: Scene) -> None:
    await scene.postgres("UPDATE events SET epoch = epoch + 1")
    found = await scene.only()
    assert (found.kind, found.redis, found.ledger) == ("epoch_wrong", 1, 2)


async def test_state_of_another_layout_is_found(scene: Scene) -> None:
    scene.redis.hset(scene.key("state"), "layout", "sha256:other")
    assert (await scene.only()).kind == "layout_wrong"


async def test_event_that_the_ledger_does_not_know_is_found(scene: Scene) -> None:
    scene.redis.sadd(partition_key(0, "live"), "ghost")
    found = await scene.only()
    assert (found.kind, found.event_id) == ("event_unknown", "ghost")


async def test_claims_and_usage_that_do_not_follow_from_bookings_are_found(scene: Scene) -> None:
    await scene.postgres("DELETE FROM claims WHERE leg = 1")
    await scene.postgres(
        "INSERT INTO claims (event_id, seat, leg, booking_id) VALUES ('ride', 5, 0, gen_random_uuid())"
    )
    await scene.postgres("UPDATE usage SET sold = 7 WHERE leg = 0")
    audit = await scene.audit()
    found = {difference.kind: difference for difference in audit.differences}
    assert audit.by_kind == {"claim_missing": 1, "claim_not_owned": 1, "usage_wrong": 1}
    missing, orphan, usage = found["claim_missing"], found["claim_not_owned"], found["usage_wrong"]
    assert (missing.seat, missing.leg, missing.subject) == ("B-1", 1, scene.booking_id)
    assert (orphan.seat, orphan.leg) == ("A-6", 0)
    assert (usage.section, usage.leg, usage.ledger, usage.expected) == ("floor", 0, 7, 3)


async def test_event_that_is_not_in_redis_has_no_drift(scene: Scene) -> None:
    scene.redis.flushall()
    audit = await audit_event(scene.parts.kernel, scene.parts.bookings, scene.event)
    assert (audit.loaded, audit.drift) == (False, 0)
    assert (await scene.audit()).events == 0


async def test_audit_of_named_events_leaves_the_others_alone(scene: Scene) -> None:
    await open_event(scene.parts, "other")
    scene.add_cell("sold", 15, 1, 1)
    audit = await audit_events(scene.parts.kernel, scene.parts.bookings, scene.parts.catalog, ["other"])
    assert (audit.events, audit.drift) == (1, 0)


async def test_bookings_made_after_the_picture_are_told_from_those_in_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    seats = iter(range(2, 10))

    async def take_and_sell(kernel: Kernel, event: SellableEvent) -> Picture:
        picture = await take_picture(kernel, event)
        await scene.book(f"B-{next(seats)}", floor=1, customer_id="eve")
        return picture

    monkeypatch.setattr("persistence.audit_reading.take_picture", take_and_sell)
    assert await scene.kinds() == {}
    scene.add_cell("sold", 19, 1, 1)
    scene.redis.hincrby(scene.key("state"), "sold:0:0", 1)
    audit = await scene.audit()
    assert audit.by_kind == {"cell_not_owned": 1, "counter_wrong": 1}
    assert (audit.audited[0].steady, audit.audited[0].exact) == (False, True)


async def test_sums_are_not_compared_when_a_booking_of_the_picture_was_undone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = "1|1|||1|0:1;0*1|eve"

    async def take_and_undo(kernel: Kernel, event: SellableEvent) -> Picture:
        gone, come = (new_claim_id(scene.id).partition("~")[0] for _ in range(2))
        scene.redis.hset(scene.key("bookings"), gone, record)
        picture = await take_picture(kernel, event)
        await kernel.run("unbook_places", event, [gone.encode(), b"", b"", b""])
        scene.redis.hset(scene.key("bookings"), come, record)  # as many as there were
        return picture

    monkeypatch.setattr("persistence.audit_reading.take_picture", take_and_undo)
    audit = await audit_event(scene.parts.kernel, scene.parts.bookings, scene.event)
    assert not audit.exact
    assert {one.kind for one in audit.differences} == {"missing_in_ledger"}


class Restless:
    """Bookings of one seat and one place on the floor; each *upset* cancels one, gives one another seat, makes one."""

    def __init__(self, scene: Scene) -> None:
        self.gone = 0
        self._scene = scene
        self._seats = iter([f"{row}-{n}" for row in range(1, 11) for n in range(1, 101)])
        self._ids: list[str] = []
        self._chance = random.Random(7)

    async def book(self) -> None:
        seat = next(self._seats)
        self._ids.append(await self._scene.book(seat, floor=1, customer_id=f"owner-of-{seat}"))

    async def upset(self) -> None:
        now, order = dt.datetime.now(dt.UTC), Order(admit=lambda _: Actor("olga", "organizer"))
        self._chance.shuffle(self._ids)
        wish = PlaceWish(items=claim(next(self._seats), floor=2).items)
        await self._scene.parts.places.change(self._ids[0], order, wish, now=now)
        definition = self._scene.event.event.definition
        await self._scene.parts.desk.cancel(self._ids.pop(), order, event=definition, reason=None, now=now)
        await self.book()
        self.gone += 1


async def test_bookings_that_go_and_change_while_they_are_read_leave_the_sums_exact(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two pages of the hash, and between the reading of a page and the looking at it."""
    rows = [RowDefinition(str(row), "1-100") for row in range(1, 11)]
    sections = [SectionDefinition("floor", capacity=900, price=1), SectionDefinition("stalls", rows=rows, price=1)]
    definition = EventDefinition("Busy", STARTS_AT, "EUR", sections, id="busy")
    await scene.parts.events.create(definition, organizer_id="olga")
    await scene.parts.reservations.publish(await scene.parts.events.transition("busy", "open"))
    busy = Scene(scene.parts, scene.settings, await scene.parts.catalog.get("busy"))
    restless = Restless(busy)
    for _ in range(80):
        await restless.book()

    async def scan(kernel: Kernel, event: SellableEvent, name: str) -> AsyncIterator[Any]:
        async for batch in scan_hash(kernel, event, name):
            await restless.upset()
            yield batch
            await restless.upset()

    monkeypatch.setattr("engine.records.SCAN_COUNT", 10)
    monkeypatch.setattr("persistence.audit_reading.scan_hash", scan)
    reading = await read_event(
        busy.parts.kernel, busy.parts.bookings, busy.event, journals=JournalWatch(busy.parts.kernel)
    )
    assert restless.gone > 10
    assert (reading.steady, reading.exact, reading.differences) == (False, True, frozenset())

    busy.redis.setbit(busy.key("sold"), 999, 1)
    busy.redis.hincrby(busy.key("state"), "sold:0:0", 1)
    audit = await audit_event(busy.parts.kernel, busy.parts.bookings, busy.event)
    assert audit.exact
    assert Counter(one.kind for one in audit.differences) == {"cell_not_owned": 1, "counter_wrong": 1}


async def test_sums_are_not_compared_when_more_has_gone_than_is_remembered(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.book("B-5")
    gone = await scene.book("B-6")

    async def take_and_free(kernel: Kernel, event: SellableEvent) -> Picture:
        picture = await take_picture(kernel, event)
        await kernel.run("unbook_places", event, [gone.partition("~")[0].encode(), b"", b"", b""])
        scene.redis.xtrim(scene.key("removed"), maxlen=0)
        return picture

    monkeypatch.setattr("persistence.audit_reading.take_picture", take_and_free)
    kernel, bookings = scene.parts.kernel, scene.parts.bookings
    assert not (await read_event(kernel, bookings, scene.event, journals=JournalWatch(kernel))).exact


@pytest.mark.parametrize("field", ["seq", "undone"])
async def test_sums_are_not_compared_with_those_of_an_older_state(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """As of a replica that takes over while an audit reads, and lacks the last changes."""
    scene.redis.hincrby(scene.key("state"), field, 2)

    async def take_and_fail_over(kernel: Kernel, event: SellableEvent) -> Picture:
        picture = await take_picture(kernel, event)
        scene.redis.hincrby(scene.key("state"), field, -1)
        return picture

    monkeypatch.setattr("persistence.audit_reading.take_picture", take_and_fail_over)
    kernel, bookings = scene.parts.kernel, scene.parts.bookings
    assert not (await read_event(kernel, bookings, scene.event, journals=JournalWatch(kernel))).exact


@contextlib.asynccontextmanager
async def _rush(work: Callable[[int], Awaitable[Any]], *, tasks: int) -> AsyncIterator[None]:
    """Do *work* over and over beside the block."""

    async def repeat(number: int) -> None:
        while True:
            await work(number)

    running = [asyncio.create_task(repeat(number)) for number in range(tasks)]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        results = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results), results


async def test_audit_of_a_busy_event_finds_nothing_but_what_was_planted(scene: Scene) -> None:
    policy = Policy(max_places_per_customer=1_000_000)
    sections = [
        SectionDefinition("floor", capacity=100_000, price=1),
        SectionDefinition("stalls", rows=[RowDefinition(str(row), "1-100") for row in range(100)], price=1),
    ]
    definition = EventDefinition("Busy", STARTS_AT, "EUR", sections, id="busy", policy=policy)
    await scene.parts.events.create(definition, organizer_id="olga")
    await scene.parts.reservations.publish(await scene.parts.events.transition("busy", "open"))
    reservations = scene.parts.reservations
    claim = ClaimRequest([ItemRequest("floor", quantity=1), ItemRequest("stalls", best=2)])

    async def sell(number: int) -> None:
        held = await reservations.hold("busy", claim, customer_id=f"customer-{number}")
        if number % 2:
            await reservations.release(held.hold.id, customer_id=f"customer-{number}")
        else:
            await reservations.confirm(held.hold.id, BookingDetails(), customer_id=f"customer-{number}")

    audited = Scene(scene.parts, scene.settings, await scene.parts.catalog.get("busy"))
    async with _rush(sell, tasks=8):
        await asyncio.sleep(0.2)
        quiet = await audited.audit()
        audited.redis.setbit(audited.key("sold"), 9_999, 1)
        audited.redis.hincrby(audited.key("state"), "held:0:0", 50)
        planted = await audited.audit()
    assert quiet.differences == ()
    assert planted.by_kind == {"cell_not_owned": 1, "counter_wrong": 1}
    audited.redis.setbit(audited.key("sold"), 9_999, 0)
    audited.redis.hincrby(audited.key("state"), "held:0:0", -50)
    await scene.parts.settlement.close()
    after = await audited.audit()
    assert (after.drift, all(event.steady for event in after.audited)) == (0, True)
