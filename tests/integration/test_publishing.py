"""The outbox reaches its sinks: at least once, in order for each booking, whatever the receivers do."""

import asyncio
import datetime as dt
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from ledger_lab import Lab
from life_world import until_so
from publishing import IMPATIENT, WRITE, Publishing, new_booking, until
from receiver import OK, Answer, Received, Receiver, receiving
from script_runner import PARTITIONS
from stores import on_both_stores

from engine.ids import claim_key
from engine.kernel import Kernel
from engine.transport.open import open_transport
from engine.transport.wire import pack_keys
from persistence.database import driver_connection
from persistence.publishing.attempt import Patience
from persistence.publishing.courier import Pace
from persistence.publishing.letters import Range, dead_deliveries, outbox_state, queue_states, replay, revive
from persistence.publishing.queue import Queue
from persistence.publishing.relay import Relay, RelayOptions
from persistence.publishing.sinks import Sinks
from persistence.sealing import AesSealer

pytest_plugins = ("ledger_fixtures",)

BUSY: Answer = (503, {})


@pytest.fixture
async def publishing(redis_url: str, lab: Lab) -> AsyncIterator[Publishing]:
    transport = await open_transport(redis_url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(transport.aclose)
        yield Publishing(lab, Kernel(transport, partitions=PARTITIONS), stack)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


async def stream_of(publishing: Publishing, name: str) -> list[dict[str, str]]:
    slot = pack_keys([name.encode()]).slot
    found = await publishing.kernel.transport.command("XRANGE", name, "-", "+", slot=slot)
    entries = [[part.decode() for part in fields] for _, fields in found]
    return [dict(zip(fields[::2], fields[1::2], strict=True)) for fields in entries]


@on_both_stores
async def test_event_reaches_webhook_and_stream_signed_and_alike(publishing: Publishing, receiver: Receiver) -> None:
    sink = await publishing.sinks.add("shop", receiver.url)
    await publishing.relay(stream="events")
    booking = new_booking()
    await publishing.tell(booking)

    await until(lambda: receiver.taken)
    (received,) = receiver.taken
    assert received.is_signed_with(sink.secrets[0])
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 5
    assert received.headers["content-type"] == "application/cloudevents+json"
    assert received.headers["webhook-id"] == received.id
    assert (received.event["type"], received.event["data"]["version"]) == ("booking.updated", 1)
    for _ in range(100):
        if entries := await stream_of(publishing, "events"):
            break
        await asyncio.sleep(0.02)
    assert [(entry["id"], entry["type"]) for entry in entries] == [(received.id, "booking.updated")]
    assert json.loads(entries[0]["data"]) == received.event
    await drained(publishing)
    assert await publishing.lab.value("SELECT count(*) FROM outbox WHERE published_at IS NOT NULL") == 1


async def drained(publishing: Publishing, *, within_s: float = 10.0) -> None:
    """Wait until nothing waits any more."""
    stop_at = time.monotonic() + within_s
    while await publishing.unpublished() or await publishing.waiting():
        assert time.monotonic() < stop_at, f"still waiting after {within_s} s"
        await asyncio.sleep(0.02)


async def test_events_of_a_booking_come_in_order_with_failures_and_two_relays(
    publishing: Publishing, receiver: Receiver
) -> None:
    await publishing.sinks.add("shop", receiver.url)
    for _ in range(2):
        await publishing.relay()
    calls = 0

    def answer(_: Received) -> Answer:
        nonlocal calls
        calls += 1
        return BUSY if calls % 5 == 0 else OK

    receiver.answer = answer
    bookings = [new_booking() for _ in range(20)]
    for first in range(1, 16, 5):
        await publishing.tell(*bookings, versions=range(first, first + 5))
        await asyncio.sleep(0.05)

    await drained(publishing, within_s=30)
    steps = receiver.taken_steps()
    assert len(steps) == 20
    assert all(_first_times(versions) == list(range(1, 16)) for versions in steps.values())
    assert len({one.id for one in receiver.taken}) == 300


def _first_times(versions: list[int]) -> list[int]:
    """Each version where it first came: repetitions are allowed, overtaking is not."""
    return list(dict.fromkeys(versions))


async def test_event_that_failed_holds_up_its_booking_and_no_other(publishing: Publishing, receiver: Receiver) -> None:
    await publishing.sinks.add("shop", receiver.url)
    stuck, free = new_booking(), new_booking()
    await publishing.tell(stuck, free, versions=range(1, 4))
    down = True
    receiver.answer = lambda one: BUSY if down and one.step[0].startswith(_key(stuck)) else OK
    await publishing.relay()

    await until(lambda: sum(one.step[0].startswith(_key(free)) for one in receiver.taken) == 3)
    await until(lambda: len(receiver.received) > 5)
    refused = [one for one in receiver.received if one.step[0].startswith(_key(stuck))]
    assert {one.step[1] for one in refused} == {1}
    down = False
    await drained(publishing)
    assert list(receiver.taken_steps().values()) == [[1, 2, 3], [1, 2, 3]]


async def test_queue_says_why_what_waits_was_not_taken_until_it_is(publishing: Publishing, receiver: Receiver) -> None:
    sink = await publishing.sinks.add("shop", receiver.url)
    await publishing.tell(new_booking(), new_booking())
    receiver.answer = lambda _: BUSY
    await publishing.relay()
    await until_so(lambda: _failure_of(publishing, sink.id), within_s=10)
    assert await _failure_of(publishing, sink.id) == "status 503"

    receiver.answer = lambda _: OK
    await drained(publishing)
    assert await _failure_of(publishing, sink.id) is None


async def test_queue_names_the_setting_that_those_who_deliver_lack(publishing: Publishing, receiver: Receiver) -> None:
    sink = await publishing.sinks.add("shop", receiver.url)
    await publishing.tell(new_booking())
    await publishing.relay(allow_private=False)
    await until_so(lambda: _failure_of(publishing, sink.id), within_s=10)
    assert "HOLDFAST_WEBHOOKS_ALLOW_PRIVATE=on" in (await _failure_of(publishing, sink.id) or "")
    assert receiver.received == []


async def test_queue_says_nothing_of_failures_of_what_is_dead_or_was_not_tried_since(publishing: Publishing) -> None:
    database = publishing.lab.engine
    sink = await publishing.sinks.add("shop", "https://shop.example/")
    await publishing.tell(new_booking(), new_booking())
    await Queue(database).fan_out()
    assert await _failure_of(publishing, sink.id) is None

    await publishing.lab.fetch("UPDATE deliveries SET attempts = 3, error = 'status 503'")
    state = (await queue_states(database))[sink.id]
    assert (state.last_error, state.attempts, state.waiting) == ("status 503", 3, 2)

    await publishing.lab.fetch("UPDATE deliveries SET dead_at = now()")
    assert await _failure_of(publishing, sink.id) is None
    await revive(database, sink.id)
    assert await _failure_of(publishing, sink.id) is None


async def _failure_of(publishing: Publishing, sink_id: int) -> str | None:
    return (await queue_states(publishing.lab.engine))[sink_id].last_error


def _key(booking: Any) -> str:
    return claim_key(booking.int)


async def test_receiver_that_was_down_three_times_gets_the_same_id_until_it_takes_it(
    publishing: Publishing, receiver: Receiver
) -> None:
    await publishing.sinks.add("shop", receiver.url)
    receiver.answer = lambda _: BUSY if len(receiver.received) < 4 else OK
    await publishing.tell(new_booking())
    await publishing.relay()

    await drained(publishing)
    assert len(receiver.received) == 4
    assert len({one.id for one in receiver.received}) == 1
    assert len({one.body for one in receiver.received}) == 1


async def test_event_that_was_told_and_not_written_down_is_told_again_with_its_id(
    publishing: Publishing, receiver: Receiver
) -> None:
    """A relay that dies between the two: its lease ends, and another one takes over."""
    sink = await publishing.sinks.add("shop", receiver.url)
    await publishing.tell(new_booking(), versions=range(1, 3))
    queue = Queue(publishing.lab.engine)
    await queue.fan_out()
    claimed, _ = await queue.claim(sink.id, limit=10, lease_s=0.3)
    assert [one.row.id for one in claimed] == [1, 2]
    assert (await queue.claim(sink.id, limit=10, lease_s=60))[0] == []

    await publishing.relay()
    began = time.monotonic()
    await drained(publishing)
    assert time.monotonic() - began > 0.2
    assert list(receiver.taken_steps().values()) == [[1, 2]]
    assert [one.id.rpartition("-")[2] for one in receiver.taken] == ["1", "2"]


async def test_relay_that_stops_gives_back_what_it_had_claimed(publishing: Publishing, receiver: Receiver) -> None:
    await publishing.sinks.add("shop", receiver.url)
    receiver.delay_s = 1.0
    await publishing.tell(*[new_booking() for _ in range(20)])
    relay = await publishing.relay()
    await until(lambda: receiver.received)

    await relay.close()

    assert await publishing.lab.value("SELECT count(*) FROM deliveries WHERE due_at <= now()") == 20


async def test_row_with_a_smaller_number_that_commits_later_is_not_skipped(
    publishing: Publishing, receiver: Receiver
) -> None:
    await publishing.sinks.add("shop", receiver.url)
    await publishing.relay()
    late = new_booking()
    async with driver_connection(publishing.lab.engine) as connection, connection.transaction():
        await connection.fetch(WRITE, [late], ["booking.created"], ['{"version": 1}'])
        await publishing.tell(new_booking())
        await until(lambda: receiver.taken)
    await until(lambda: len(receiver.taken) == 2)
    assert [one.event["type"] for one in receiver.taken] == ["booking.updated", "booking.created"]
    assert receiver.taken[0].event["sequence"] > receiver.taken[1].event["sequence"]


async def test_event_that_is_refused_for_too_long_is_a_dead_letter_and_the_next_ones_flow(
    publishing: Publishing, receiver: Receiver
) -> None:
    await publishing.sinks.add("shop", receiver.url)
    receiver.answer = lambda one: BUSY if one.step[1] == 1 else OK
    await publishing.tell(new_booking(), versions=range(1, 4))
    await publishing.relay(patience=Patience(retry_for_s=0.3, first_wait_s=0.05, wait_max_s=0.1))

    await until(lambda: len(receiver.taken) == 2)
    await drained(publishing)
    (dead,) = await dead_deliveries(publishing.lab.engine, "shop")
    assert (dead.sink, dead.error) == ("shop", "status 503")
    assert dead.attempts >= 2
    assert (await outbox_state(publishing.lab.engine)).dead == 1

    receiver.answer = lambda _: OK
    sink = await publishing.sinks.find("shop")
    assert await revive(publishing.lab.engine, sink.id, [dead.row.id]) == 1
    await until(lambda: len(receiver.taken) == 3)
    await drained(publishing)
    assert [one.step[1] for one in receiver.taken] == [2, 3, 1]
    assert await publishing.dead() == 0


async def test_replay_tells_again_what_was_told_by_time_type_and_booking(
    publishing: Publishing, receiver: Receiver
) -> None:
    sink = await publishing.sinks.add("shop", receiver.url)
    await publishing.relay()
    first, second = new_booking(), new_booking()
    await publishing.tell(first, second, versions=range(1, 3))
    await publishing.tell(first, type_="booking.cancelled", versions=range(3, 4))
    await until(lambda: len(receiver.taken) == 5)
    await drained(publishing)
    told = {one.id for one in receiver.taken}
    engine = publishing.lab.engine

    for which, count in (
        (Range(), 5),
        (Range(booking=second), 2),
        (Range(type="booking.cancelled"), 1),
        (Range(type="booking.*"), 5),
        (Range(type="hold.expired"), 0),
        (Range(until=first_moment(receiver)), 0),
        (Range(since=first_moment(receiver)), 5),
    ):
        receiver.taken.clear()
        assert await replay(engine, sink.id, which) == count
        await drained(publishing)
        assert len(receiver.taken) == count
        assert {one.id for one in receiver.taken} <= told
        assert all(_first_times(versions) == sorted(versions) for versions in receiver.taken_steps().values())


def first_moment(receiver: Receiver) -> Any:
    return dt.datetime.fromisoformat(min(one.event["time"] for one in receiver.received))


async def test_receiver_that_says_gone_is_disabled_and_goes_on_when_it_is_enabled(
    publishing: Publishing, receiver: Receiver
) -> None:
    await publishing.sinks.add("shop", receiver.url)
    receiver.answer = lambda _: (410, {})
    await publishing.relay()
    await publishing.tell(new_booking())
    await until(lambda: receiver.received)
    for _ in range(200):
        if (sink := await publishing.sinks.find("shop")).disabled_at is not None:
            break
        await asyncio.sleep(0.02)
    assert sink.disabled_reason == "it answered 410 Gone"
    await publishing.tell(new_booking())
    await asyncio.sleep(0.3)
    assert len(receiver.received) == 1

    receiver.answer = lambda _: OK
    await publishing.sinks.enable("shop")
    await until(lambda: receiver.taken)
    await drained(publishing)
    assert len(receiver.taken) == 1  # of what happened meanwhile it is told by a replay alone


async def test_redirect_is_not_followed(publishing: Publishing, receiver: Receiver) -> None:
    async with receiving() as elsewhere:
        await publishing.sinks.add("shop", receiver.url)
        receiver.answer = lambda _: (307, {"location": elsewhere.url})
        await publishing.tell(new_booking())
        await publishing.relay()
        await until(lambda: len(receiver.received) >= 2)
        assert elsewhere.connections == 0
    error = await publishing.lab.value("SELECT error FROM deliveries")
    assert error == "status 307, a redirect, which is not followed"


async def test_retry_after_is_honoured_for_the_endpoint_as_a_whole(publishing: Publishing, receiver: Receiver) -> None:
    await publishing.sinks.add("shop", receiver.url)
    arrivals: list[float] = []

    def answer(_: Received) -> Answer:
        arrivals.append(time.monotonic())
        return (429, {"retry-after": "1"}) if len(arrivals) == 1 else OK

    receiver.answer = answer
    await publishing.relay(patience=Patience(first_wait_s=0.01))
    await publishing.tell(new_booking())
    await until(lambda: arrivals)
    await publishing.tell(new_booking())
    await drained(publishing)
    assert all(arrival - arrivals[0] > 0.95 for arrival in arrivals[1:])


async def test_slow_endpoint_delays_neither_another_one_nor_the_stream(
    publishing: Publishing, receiver: Receiver
) -> None:
    async with receiving() as slow:
        slow.delay_s = 60.0
        await publishing.sinks.add("slow", slow.url)
        await publishing.sinks.add("shop", receiver.url)
        await publishing.relay(stream="events", send_timeout_s=5.0)
        began = time.monotonic()
        await publishing.tell(*[new_booking() for _ in range(100)])
        await until(lambda: len(receiver.taken) == 100)
        while len(await stream_of(publishing, "events")) < 100:
            await asyncio.sleep(0.02)
            assert time.monotonic() - began < 3.0
        assert time.monotonic() - began < 3.0
        assert len(slow.received) <= 8


async def test_connection_is_kept_between_events(publishing: Publishing, receiver: Receiver) -> None:
    await publishing.sinks.add("shop", receiver.url)
    await publishing.relay()
    for count in range(1, 6):
        await publishing.tell(new_booking())
        await until(lambda count=count: len(receiver.taken) == count)

    assert receiver.connections == 1


async def test_endpoint_that_fails_all_the_time_is_asked_by_one_event_at_a_time(
    publishing: Publishing, receiver: Receiver
) -> None:
    await publishing.sinks.add("shop", receiver.url)
    receiver.answer = lambda _: None
    await publishing.tell(*[new_booking() for _ in range(200)])
    await publishing.relay(patience=Patience(first_wait_s=0.2, wait_max_s=0.2))
    await until(lambda: len(receiver.received) >= 8)
    await asyncio.sleep(0.5)
    assert len(receiver.received) < 30

    receiver.answer = lambda _: OK
    await drained(publishing)
    assert len(receiver.taken) == 200


async def test_both_secrets_sign_while_one_replaces_the_other(publishing: Publishing, receiver: Receiver) -> None:
    (old,) = (await publishing.sinks.add("shop", receiver.url)).secrets
    (new, _) = (await publishing.sinks.rotate("shop")).secrets
    relay = await publishing.relay()
    await publishing.tell(new_booking())
    await until(lambda: receiver.taken)
    assert receiver.taken[0].is_signed_with(old)
    assert receiver.taken[0].is_signed_with(new)

    await publishing.sinks.rotate("shop", finish=True)
    await relay.close()  # which learns anew what the sinks are
    await publishing.tell(new_booking())
    await until(lambda: len(receiver.taken) == 2)
    assert not receiver.taken[1].is_signed_with(old)
    assert receiver.taken[1].is_signed_with(new)


async def test_sink_whose_key_is_lost_is_named_and_keeps_no_other_from_being_told(
    publishing: Publishing, receiver: Receiver
) -> None:
    lost_with_its_key = Sinks(publishing.lab.engine, AesSealer([b"t" * 32]))
    await lost_with_its_key.add("old", receiver.url)
    shop = await publishing.sinks.add("shop", receiver.url)
    relay = await publishing.relay(stream="events")
    await publishing.tell(booking := new_booking())

    await until(lambda: receiver.taken)
    assert receiver.taken[0].is_signed_with(shop.secrets[0])
    for _ in range(100):
        if await publishing.waiting() == 1:
            break
        await asyncio.sleep(0.05)
    assert await publishing.waiting() == 1, "what is for the one that is lost waits"
    assert len(await stream_of(publishing, "events")) == 1
    (lost,) = relay.lost
    assert (lost.name, "a key that is not here" in str(lost.lost)) == ("old", True)
    cron = Relay(publishing.lab.engine, publishing.kernel, publishing.sinks, RelayOptions(stream="events"))
    began = time.monotonic()
    await cron.run_once(within_s=20.0)
    assert time.monotonic() - began < 10, "it does not wait for what cannot be told"

    (secret,) = (await publishing.sinks.rotate("old")).secrets
    await until(lambda: len(receiver.taken) == 2)
    assert (receiver.taken[1].is_signed_with(secret), relay.lost) == (True, [])
    assert receiver.taken[1].id == receiver.taken[0].id, booking


async def test_sink_is_told_only_of_the_types_it_names(publishing: Publishing, receiver: Receiver) -> None:
    await publishing.sinks.add("shop", receiver.url, types=["booking.cancelled", "hold.*"])
    await publishing.relay()
    await publishing.tell(new_booking(), type_="booking.updated")
    await publishing.tell(new_booking(), type_="booking.cancelled")
    await publishing.tell(new_booking(), type_="hold.expired")
    await until(lambda: len(receiver.taken) == 2)
    await drained(publishing)

    assert [one.event["type"] for one in receiver.taken] == ["booking.cancelled", "hold.expired"]


async def test_stream_is_capped(publishing: Publishing) -> None:
    await publishing.relay(stream="events", stream_length=100)
    for _ in range(4):
        await publishing.tell(*[new_booking() for _ in range(250)])
    await drained(publishing)

    assert 100 <= len(await stream_of(publishing, "events")) <= 300  # whole blocks of a hundred are trimmed


async def test_stream_that_cannot_be_written_is_waited_for_and_never_dead(publishing: Publishing) -> None:
    transport = publishing.kernel.transport
    await transport.command("SET", "events", "in the way")
    await publishing.relay(stream="events", patience=Patience(retry_for_s=0.0))
    await publishing.tell(new_booking(), versions=range(1, 3))
    await asyncio.sleep(0.5)
    assert (await publishing.waiting(), await publishing.dead()) == (2, 0)

    await transport.command("DEL", "events")
    await drained(publishing)
    entries = await stream_of(publishing, "events")
    assert [json.loads(entry["data"])["data"]["version"] for entry in entries] == [1, 2]


async def test_event_that_cannot_be_sent_at_all_keeps_no_other_from_being_told(
    publishing: Publishing, receiver: Receiver
) -> None:
    await publishing.sinks.add("shop", receiver.url)
    await publishing.lab.fetch(WRITE, [new_booking()], ["booking.updated"], ["[]"])  # no members to put into data
    await publishing.tell(new_booking())
    await publishing.relay(patience=Patience(retry_for_s=0.1, first_wait_s=0.05, wait_max_s=0.1))

    await until(lambda: receiver.taken)
    await drained(publishing)
    assert await publishing.dead() == 1


async def test_rows_that_were_published_are_purged_in_time_with_what_was_never_told_of_them(
    publishing: Publishing, receiver: Receiver
) -> None:
    await publishing.sinks.add("shop", receiver.url)
    queue = Queue(publishing.lab.engine)
    await publishing.tell(new_booking(), new_booking())
    await queue.fan_out()
    await publishing.tell(new_booking())
    await publishing.lab.fetch("UPDATE outbox SET created_at = now() - interval '15 days' WHERE id <> 2")

    assert await queue.purge(dt.timedelta(days=14)) == 0, "it is tried for a month, where settings say so"
    await publishing.lab.fetch("UPDATE deliveries SET dead_at = now() WHERE outbox_id = 1")
    assert await queue.purge(dt.timedelta(days=14)) == 1
    assert [row[0] for row in await publishing.lab.fetch("SELECT id FROM outbox ORDER BY id")] == [2, 3]
    assert [row[0] for row in await publishing.lab.fetch("SELECT outbox_id FROM deliveries")] == [2]


async def test_sink_that_is_removed_leaves_nothing_behind(publishing: Publishing) -> None:
    for name in ("shop", "other"):
        await publishing.sinks.add(name, "https://shop.example/")
    await publishing.tell(new_booking(), new_booking())
    await Queue(publishing.lab.engine).fan_out()

    await publishing.sinks.remove("shop")

    other = await publishing.sinks.find("other")
    assert [row[0] for row in await publishing.lab.fetch("SELECT sink_id FROM deliveries")] == [other.id, other.id]


async def test_later_event_is_not_claimed_while_an_earlier_one_of_its_booking_waits(
    publishing: Publishing, receiver: Receiver
) -> None:
    """Though the earlier one is left out of the claim, being due later."""
    sink = await publishing.sinks.add("shop", receiver.url)
    await publishing.tell(new_booking(), versions=range(1, 4))
    queue = Queue(publishing.lab.engine)
    await queue.fan_out()
    await publishing.lab.fetch("UPDATE deliveries SET due_at = now() - make_interval(secs => outbox_id)")

    claims = [(await queue.claim(sink.id, limit=1, lease_s=60))[0] for _ in range(5)]

    assert [one.row.id for claim in claims for one in claim] == [1]
    assert await queue.claim(sink.id, limit=10, lease_s=60) == ([], 0)


async def test_failure_after_a_lease_was_lost_changes_nothing(publishing: Publishing, receiver: Receiver) -> None:
    sink = await publishing.sinks.add("shop", receiver.url)
    await publishing.tell(new_booking())
    queue = Queue(publishing.lab.engine)
    await queue.fan_out()
    ((late,), _) = await queue.claim(sink.id, limit=1, lease_s=0.0)
    await asyncio.sleep(0.01)
    ((now,), _) = await queue.claim(sink.id, limit=1, lease_s=60)

    assert not await queue.failed(sink.id, late, "late", wait_s=0, retry_for_s=0)
    await queue.end_lease(sink.id, late.lease_until)

    assert await publishing.lab.value("SELECT due_at FROM deliveries") == now.lease_until
    assert await publishing.dead() == 0


async def test_round_from_cron_tells_what_is_there_and_ends(publishing: Publishing, receiver: Receiver) -> None:
    await publishing.sinks.add("shop", receiver.url)
    await publishing.tell(*[new_booking() for _ in range(50)], versions=range(1, 3))
    options = RelayOptions(stream="events", allow_private=True, patience=IMPATIENT)
    relay = Relay(publishing.lab.engine, publishing.kernel, publishing.sinks, options)

    began = time.monotonic()
    assert await relay.run_once(within_s=20.0) == 100

    assert time.monotonic() - began < 10
    assert len(receiver.taken) == len(await stream_of(publishing, "events")) == 100
    assert await publishing.waiting() == 0


async def test_later_event_is_told_at_once_when_what_it_waited_for_is_told(
    publishing: Publishing, receiver: Receiver
) -> None:
    """And not when the lease of the earlier one would have ended."""
    await publishing.sinks.add("shop", receiver.url)
    receiver.delay_s = 0.3
    booking = new_booking()
    for _ in range(2):
        await publishing.relay()
    await publishing.tell(booking)
    await until(lambda: receiver.received)
    await publishing.tell(booking, versions=range(2, 3))

    await drained(publishing, within_s=5)
    assert list(receiver.taken_steps().values()) == [[1, 2]]


def test_lease_is_longer_than_the_slowest_round() -> None:
    assert Pace(claimed=32, at_once=8, send_s=10.0).lease_s > 4 * 10.0


async def test_sink_that_is_logged_keeps_its_secrets(publishing: Publishing) -> None:
    sink = await publishing.sinks.add("shop", "https://shop.example/")
    assert sink.secrets[0] not in repr(sink)
