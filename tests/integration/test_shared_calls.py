"""Claims and confirmations at once: the usual ones share calls, and each is told what it would have been told alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis
from invariants import StoredState, assert_consistent
from ledger_lab import Lab
from script_runner import PARTITIONS
from shops import Shop, at_once, claim, open_shops
from stores import on_both_stores, open_client
from transport_servers import eventually

from engine import figures
from engine.bookings import BookingDetails
from engine.claim_requests import Booked, Held
from engine.definition import Policy
from engine.errors import (
    HoldConfirmed,
    HoldNotFound,
    HoldReleased,
    IdempotencyKeyReused,
    InvalidRequest,
    LimitExceeded,
    PlacesUnavailable,
    StoreUnavailable,
)
from engine.events import SellableEvent
from engine.keys import event_key
from engine.once import Once
from engine.reservations import SHARED_DETAILS_BYTES_MAX
from engine.shared_calls import ALONE_S, SHARED_BY
from engine.transport.errors import NotSent, OutcomeUnknown
from engine.transport.single import SingleTransport
from engine.transport.wire import PackedKeys
from lua import Script

pytest_plugins = ["ledger_fixtures"]

CROWD = 64
PLACE = claim(section="floor", quantity=1)
NOTHING_TO_SAY = BookingDetails()


@pytest.fixture
async def shop(redis_url: str, lab: Lab) -> AsyncIterator[Shop]:
    async with open_shops(redis_url, lab, 1) as [opened]:
        yield opened


def stored(redis_url: str, event: SellableEvent) -> StoredState:
    return assert_consistent(open_client(redis_url), event, partitions=PARTITIONS)


def calls(script: str) -> int:
    return sum(int(sum(cell[:-1])) for (name, _), cell in figures.SCRIPTS.cells.items() if name == script)


def key(number: int) -> Once:
    return Once(scope=b"%032x" % number, body=b"b" * 32)


def of_type(results: Sequence[Any], kind: type) -> int:
    return sum(isinstance(result, kind) for result in results)


@on_both_stores
@pytest.mark.parametrize("with_keys", [False, True])
async def test_crowd_is_served_by_few_calls_each_with_a_hold_of_its_own(
    shop: Shop, lab: Lab, redis_url: str, with_keys: bool
) -> None:
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")  # which has the event loaded
    alone, shared = calls("hold_places"), calls("hold_many")
    held = await at_once(
        [
            shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}", once=key(n) if with_keys else None)
            for n in range(CROWD)
        ]
    )
    assert of_type(held, Held) == CROWD
    found = stored(redis_url, event)
    assert {f"{hold_key}~{event.event.id}" for hold_key in found.holds} > {one.hold.id for one in held}
    assert {hold.owner for hold in found.holds.values()} == {"first", *(f"c{n}" for n in range(CROWD))}
    assert calls("hold_places") - alone == 1  # the first, who waited for nobody
    # One more on a cluster, or where the script was not known yet: it is asked for again as a call by itself.
    assert CROWD // SHARED_BY <= calls("hold_many") - shared <= CROWD // SHARED_BY + 5
    if with_keys:
        again = await at_once(
            [
                shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}", once=key(n))
                for n in reversed(range(CROWD))
            ]
        )
        assert [one.hold.id for one in again] == [one.hold.id for one in reversed(held)]
        assert all(one.replayed for one in again)
        assert len(stored(redis_url, event).holds) == CROWD + 1


async def test_each_is_told_what_it_would_have_been_told_alone(shop: Shop, lab: Lab, redis_url: str) -> None:
    event = await lab.event(policy=Policy(max_places_per_customer=4))
    event_id = event.event.id
    for customer_id, wanted in (
        ("dan", claim(section="floor", quantity=4)),
        ("zoe", claim(section="stalls", seats=["A-1"])),
    ):
        await shop.reservations.hold(event_id, wanted, customer_id=customer_id)
    await shop.reservations.hold(event_id, PLACE, customer_id="eve", once=key(1))

    def hold(customer_id: str, once: Once | None = None, **wanted: Any) -> Any:
        return shop.reservations.hold(event_id, claim(**wanted), customer_id=customer_id, once=once)

    answers = await at_once(
        [
            hold("ana", section="floor", quantity=1),
            hold("ana", section="floor", quantity=2),
            hold("bea", section="stalls", seats=["A-1"]),
            hold("cem", section="stalls", seats=["A-2"]),
            hold("cem", section="stalls", seats=["A-2"]),
            hold("dan", section="floor", quantity=1),
            hold("eve", key(1), section="floor", quantity=1),
            hold("eve", Once(key(1).scope, b"c" * 32), section="floor", quantity=2),
            hold("fay", section="stalls", seats=["A-3", "A-4"]),
            hold("fay", section="stalls", best=2),
            hold("gus", section="balcony", quantity=1),
            hold("ana|ben\n|", section="floor", quantity=2),
        ]
    )
    assert [type(answer) for answer in answers] == [
        *(Held, Held, PlacesUnavailable, Held, PlacesUnavailable, LimitExceeded),
        *(Held, IdempotencyKeyReused, Held, Held, InvalidRequest, Held),
    ]
    taken, held = answers[2], answers[1].hold
    assert (taken.held, taken.sold, taken.unavailable[0].seat) == (1, 0, "A-1")
    assert taken.next_release_at is not None
    assert (held.amount, held.ttl, [item.quantity for item in held.items]) == (9_000, 120, [2])
    assert answers[6].replayed
    owners = sorted(hold.owner for hold in stored(redis_url, event).holds.values())
    assert owners == sorted(["dan", "zoe", "eve", "ana", "ana", "cem", "fay", "fay", "ana|ben\n|"])


def fail_first_call(shop: Shop, monkeypatch: pytest.MonkeyPatch, trouble: str) -> list[str]:
    """Let the first shared call fail; the names of the scripts of all that are begun."""
    transport, begun = shop.kernel.transport, list[str]()
    begin = transport.begin_evalsha

    def fail_first(script: Script, keys: PackedKeys, args: Sequence[bytes]) -> "asyncio.Future[Any]":
        begun.append(script.name)
        if len(begun) > 1:
            return begin(script, keys, args)
        if trouble == "not sent":
            raise NotSent("no connection")
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if trouble == "lost reply":
            begin(script, keys, args).add_done_callback(lambda _: failed.set_exception(OutcomeUnknown("lost")))
        else:
            failed.set_exception(OutcomeUnknown("lost"))
        return failed

    monkeypatch.setattr(transport, "begin_evalsha", fail_first)
    return begun


@pytest.mark.parametrize("trouble", ["lost reply", "not sent", "lost command"])
async def test_call_that_fails_is_made_again_and_nobody_holds_twice(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    event = await lab.event()
    begun = fail_first_call(shop, monkeypatch, trouble)
    held = await at_once(
        [shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}", once=key(n)) for n in range(CROWD)]
    )
    assert of_type(held, Held) == CROWD
    assert len(begun) > 1
    assert {hold.owner for hold in stored(redis_url, event).holds.values()} == {f"c{n}" for n in range(CROWD)}


async def test_server_that_has_forgotten_its_scripts_is_taught_them_again(shop: Shop, lab: Lab, redis_url: str) -> None:
    event = await lab.event()
    for _ in range(2):
        redis.Redis.from_url(redis_url).script_flush()
        held = await at_once(
            [shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}") for n in range(CROWD // 2)]
        )
        assert of_type(held, Held) == CROWD // 2
    assert len(stored(redis_url, event).holds) == CROWD


async def test_who_has_gone_away_before_the_call_leaves_holds_nothing(shop: Shop, lab: Lab, redis_url: str) -> None:
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")
    tasks = [
        asyncio.create_task(shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}", once=key(n)))
        for n in range(8)
    ]
    await asyncio.sleep(0)  # all of them have begun, and the call leaves at the end of this turn
    for task in tasks[1::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Held, asyncio.CancelledError] * 4
    assert {hold.owner for hold in stored(redis_url, event).holds.values()} == {"first", "c0", "c2", "c4", "c6"}


async def test_crowd_in_front_of_a_silent_server_is_told_in_time(shop: Shop, lab: Lab, redis_url: str) -> None:
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")
    redis.Redis.from_url(redis_url).execute_command("CLIENT", "PAUSE", 3_000, "ALL")
    began = asyncio.get_running_loop().time()
    answers = await at_once(
        [shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}", once=key(n)) for n in range(CROWD)]
    )
    assert of_type(answers, StoreUnavailable) == CROWD
    assert asyncio.get_running_loop().time() - began < 2.5
    again = await at_once(
        [shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}", once=key(n)) for n in range(CROWD)]
    )
    while of_type(again, Held) < CROWD:  # the pause is not over yet
        again = await at_once(
            [shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}", once=key(n)) for n in range(CROWD)]
        )
    assert len(stored(redis_url, event).holds) == CROWD + 1


def away_for(shop: Shop, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the connection away, and let no other be made for a while."""
    transport = shop.kernel.transport
    assert isinstance(transport, SingleTransport)
    multiplexer, loop = transport._multiplexer, asyncio.get_running_loop()
    dial, back_at = multiplexer._dial, loop.time() + seconds

    async def dial_later() -> Any:
        await asyncio.sleep(max(0.0, back_at - loop.time()))
        return await dial()

    monkeypatch.setattr(multiplexer, "_dial", dial_later)
    assert multiplexer._link is not None
    multiplexer._link.close("taken away")


async def test_who_was_told_of_an_outage_has_no_hold_when_it_is_over(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transport would keep a command for longer than anybody waits for its answer."""
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")  # which has the event loaded
    away_for(shop, 0.85, monkeypatch)
    answers = await at_once([shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}") for n in range(CROWD)])
    assert of_type(answers, StoreUnavailable) == CROWD
    await asyncio.sleep(0.5)
    assert {hold.owner for hold in stored(redis_url, event).holds.values()} == {"first"}


async def test_who_has_gone_away_is_left_out_when_a_call_is_made_again(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")  # which has the event loaded
    lost: list[asyncio.Future[Any]] = []

    def lose(*_: Any) -> "asyncio.Future[Any]":
        lost.append(asyncio.get_running_loop().create_future())
        return lost[-1]

    monkeypatch.setattr(shop.kernel.transport, "begin_evalsha", lose)
    tasks = [
        asyncio.create_task(shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}", once=key(n)))
        for n in range(5)
    ]
    await eventually(lambda: bool(lost), "no call was begun")
    for task in tasks[1::2]:
        task.cancel()
    await asyncio.sleep(0)
    lost[0].set_exception(OutcomeUnknown("lost"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert of_type(results, Held) == 3
    assert {hold.owner for hold in stored(redis_url, event).holds.values()} == {"first", "c0", "c2", "c4"}


async def test_nothing_more_is_done_when_everybody_has_gone_away(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")  # which has the event loaded
    lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(shop.kernel.transport, "begin_evalsha", lambda *_: lost)
    ahead = asyncio.create_task(shop.reservations.hold(event.event.id, PLACE, customer_id="ahead"))
    tasks = [asyncio.create_task(shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}")) for n in range(5)]
    await ahead
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert lost.cancelled()
    assert {hold.owner for hold in stored(redis_url, event).holds.values()} == {"first", "ahead"}


def answer_late_and_fall_silent(redis_url: str) -> Callable[..., "asyncio.Future[Any]"]:
    """A call that does nothing for anybody after half a second, and a server that says nothing more then."""

    def late(*_: Any) -> "asyncio.Future[Any]":
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answer() -> None:
            redis.Redis.from_url(redis_url).execute_command("CLIENT", "PAUSE", 3_000, "ALL")
            reply.set_result([b"GENERAL"])

        asyncio.get_running_loop().call_later(0.5, answer)
        return reply

    return late


async def test_claim_that_goes_alone_behind_a_shared_call_has_no_more_time_for_it(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")  # which has the event loaded
    monkeypatch.setattr(shop.kernel.transport, "begin_evalsha", answer_late_and_fall_silent(redis_url))
    began = asyncio.get_running_loop().time()
    answers = await at_once([shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}") for n in range(8)])
    assert of_type(answers, StoreUnavailable) >= 7  # the first one went alone at once
    assert asyncio.get_running_loop().time() - began < 1.1


async def test_confirmation_that_goes_alone_behind_a_shared_call_has_no_more_time_for_it(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await lab.event()
    holds = await hold_for(shop, event, 8)
    monkeypatch.setattr(shop.kernel.transport, "begin_evalsha", answer_late_and_fall_silent(redis_url))
    began = asyncio.get_running_loop().time()
    answers = await confirm_all(shop, holds)
    assert of_type(answers, StoreUnavailable) >= 7  # the first one went alone at once
    assert asyncio.get_running_loop().time() - began < 1.1


@pytest.mark.parametrize("fault", ["begin", "reply"])
async def test_fault_of_ours_sends_each_alone(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")  # which has the event loaded

    def fail(*_: Any) -> "asyncio.Future[Any]":
        if fault == "begin":
            raise ValueError("a bug")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        reply.set_result([b"HELD", 1, 2])  # an answer for one of them
        return reply

    monkeypatch.setattr(shop.kernel.transport, "begin_evalsha", fail)
    answers = await at_once([shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}") for n in range(8)])
    assert of_type(answers, Held) == 8
    assert {hold.owner for hold in stored(redis_url, event).holds.values()} >= {f"c{n}" for n in range(1, 8)}


async def test_event_whose_claims_are_none_to_be_shared_is_left_alone_for_a_moment(
    shop: Shop, lab: Lab, redis_url: str
) -> None:
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")  # which has the event loaded
    state = event_key(shop.kernel.partition_of(event), event.event.id, "state")
    open_client(redis_url).hset(state, "waiting", "0")  # a line that has been asked

    async def sell(customer_id: str) -> int:
        before = calls("hold_many")
        for turn in range(4):
            answers = await at_once(
                [shop.reservations.hold(event.event.id, PLACE, customer_id=f"{customer_id}{turn}") for _ in range(4)]
            )
            assert of_type(answers, Held) == 4
        return calls("hold_many") - before

    assert await sell("ana") == 1
    open_client(redis_url).hdel(state, "waiting")
    await asyncio.sleep(ALONE_S)
    assert await sell("ben") == 4


async def test_claim_after_a_change_of_the_layout_keeps_its_key(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first call may have held under it, and its answer been lost."""
    event = await lab.event()
    await shop.reservations.hold(event.event.id, PLACE, customer_id="first")
    run, seen = shop.kernel.run, []

    async def answer_stale_once(name: str, sellable: SellableEvent, args: Sequence[bytes], **rest: Any) -> list[Any]:
        reply = await run(name, sellable, args, **rest)
        seen.append(args[3])
        return [b"STALE_LAYOUT", 1] if len(seen) == 1 else reply

    monkeypatch.setattr(shop.kernel, "run", answer_stale_once)
    held = await shop.reservations.hold(event.event.id, PLACE, customer_id="ana")
    assert (len(seen), seen[0]) == (2, seen[1])
    assert held.hold.id.startswith(seen[0].decode())
    assert len(stored(redis_url, event).holds) == 2


async def test_batches_with_idempotency_keys_share_calls_too(shop: Shop, lab: Lab, redis_url: str) -> None:
    event = await lab.event(policy=Policy(max_places_per_customer=100))
    onces, shared = [key(n) for n in range(50)], calls("hold_many")
    wanted = [PLACE] * 49 + [claim(section="stalls", best=1)]
    answers = [
        await shop.reservations.hold_many(event.event.id, wanted, customer_id="ana", onces=onces) for _ in range(2)
    ]
    assert of_type(answers[0], Held) == 50
    assert [one.hold.id for one in answers[1]] == [one.hold.id for one in answers[0]]
    assert all(one.replayed for one in answers[1])
    assert calls("hold_many") - shared <= 4
    assert len(stored(redis_url, event).holds) == 50


# --- confirmations ---------------------------------------------------------------------------------------------------


async def hold_for(shop: Shop, event: SellableEvent, count: int) -> list[str]:
    """A place each for customers c0, c1, …; the ids of their holds."""
    return [(await shop.reservations.hold(event.event.id, PLACE, customer_id=f"c{n}")).hold.id for n in range(count)]


def confirm_all(
    shop: Shop, holds: Sequence[str], *, with_keys: bool = False, details: BookingDetails = NOTHING_TO_SAY
) -> Awaitable[list[Any]]:
    return at_once(
        [
            shop.reservations.confirm(hold_id, details, customer_id=f"c{n}", once=key(n) if with_keys else None)
            for n, hold_id in enumerate(holds)
        ]
    )


@on_both_stores
@pytest.mark.parametrize("with_keys", [False, True])
async def test_crowd_is_confirmed_by_few_calls_each_with_a_booking_of_its_own(
    shop: Shop, lab: Lab, redis_url: str, with_keys: bool
) -> None:
    event = await lab.event()
    holds = await hold_for(shop, event, CROWD)
    alone, shared = calls("confirm_hold"), calls("confirm_many")
    booked = await confirm_all(shop, holds, with_keys=with_keys)
    assert [one.booking.id for one in booked] == holds
    assert [one.booking.customer_id for one in booked] == [f"c{n}" for n in range(CROWD)]
    assert all(one.booking.durable and not one.replayed for one in booked)
    assert (len(stored(redis_url, event).bookings), len(stored(redis_url, event).holds)) == (CROWD, 0)
    assert calls("confirm_hold") - alone == 1  # the first, who waited for nobody
    if not with_keys:  # which the ledger is asked about first: they come as its answers do
        assert CROWD // SHARED_BY <= calls("confirm_many") - shared <= CROWD // SHARED_BY + 5
    again = await confirm_all(shop, holds, with_keys=with_keys)
    if with_keys:
        assert [(one.booking.id, one.replayed) for one in again] == [(hold_id, True) for hold_id in holds]
    else:
        assert of_type(again, HoldConfirmed) == CROWD
    for n, hold_id in enumerate(holds):
        assert (await shop.reservations.find_booking(hold_id, customer_id=f"c{n}")).status == "confirmed"


async def test_each_confirmation_is_told_what_it_would_have_been_told_alone(
    shop: Shop, lab: Lab, redis_url: str
) -> None:
    event = await lab.event()
    holds = await hold_for(shop, event, 6)
    await shop.reservations.release(holds[4], customer_id="c4")
    pair = (await shop.reservations.hold(event.event.id, claim(section="stalls", best=2), customer_id="eve")).hold.id

    def confirm(hold_id: str, customer_id: str, once: Once | None = None, notes: str = "") -> Any:
        return shop.reservations.confirm(hold_id, BookingDetails(notes=notes), customer_id=customer_id, once=once)

    answers = await at_once(
        [
            confirm(holds[0], "c0"),
            confirm(holds[1], "c1", notes="by the aisle"),
            confirm(holds[1], "c1"),
            confirm(holds[2], "zoe"),
            confirm(holds[2], "c2", key(2)),
            confirm(holds[3], "c3", notes="a long story " * 1_000),
            confirm(holds[4], "c4"),
            confirm(pair, "eve"),
            confirm(f"nothing~{event.event.id}", "c5"),
        ]
    )
    assert [type(answer) for answer in answers] == [
        *(Booked, Booked, HoldConfirmed, HoldNotFound, Booked, Booked, HoldReleased, Booked, HoldNotFound)
    ]
    assert answers[1].booking.notes == "by the aisle"
    assert len(answers[5].booking.notes) > SHARED_DETAILS_BYTES_MAX
    again = await at_once(
        [confirm(holds[2], "c2", key(2)), confirm(holds[5], "c5", Once(key(2).scope, b"c" * 32)), confirm(pair, "eve")]
    )
    assert [type(answer) for answer in again] == [Booked, IdempotencyKeyReused, HoldConfirmed]
    found = stored(redis_url, event)
    assert {f"{hold_key}~{event.event.id}" for hold_key in found.holds} == {holds[5]}
    assert len(found.bookings) == 5


@pytest.mark.parametrize("trouble", ["lost reply", "not sent", "lost command"])
async def test_call_of_confirmations_that_fails_is_made_again_and_nobody_books_twice(
    shop: Shop, lab: Lab, redis_url: str, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    event = await lab.event()
    holds = await hold_for(shop, event, CROWD)
    begun = fail_first_call(shop, monkeypatch, trouble)
    booked = await confirm_all(shop, holds)
    assert [one.booking.id for one in booked] == holds
    assert begun[0] == "confirm_many"
    assert len(stored(redis_url, event).bookings) == CROWD
    written = [await shop.reservations.find_booking(hold_id, customer_id=f"c{n}") for n, hold_id in enumerate(holds)]
    assert all(booking.durable for booking in written)


async def test_crowd_on_a_server_that_nobody_has_audited_is_confirmed_after_the_audit(
    shop: Shop, lab: Lab, redis_url: str
) -> None:
    event = await lab.event()
    holds = await hold_for(shop, event, CROWD)
    state = event_key(shop.kernel.partition_of(event), event.event.id, "state")
    open_client(redis_url).hset(state, "audited", "f" * 40)  # as after a failover
    booked = await confirm_all(shop, holds)
    assert [one.booking.id for one in booked] == holds
    assert all(one.booking.durable for one in booked)
    assert len(stored(redis_url, event).bookings) == CROWD


async def test_crowd_that_confirms_in_front_of_a_silent_server_is_told_in_time(
    shop: Shop, lab: Lab, redis_url: str
) -> None:
    event = await lab.event()
    holds = await hold_for(shop, event, CROWD)
    redis.Redis.from_url(redis_url).execute_command("CLIENT", "PAUSE", 3_000, "ALL")
    began = asyncio.get_running_loop().time()
    answers = await confirm_all(shop, holds, with_keys=True)
    assert of_type(answers, StoreUnavailable) == CROWD
    assert asyncio.get_running_loop().time() - began < 2.5
    while of_type(answers, Booked) < CROWD:  # the pause is not over yet
        answers = await confirm_all(shop, holds, with_keys=True)
    assert [one.booking.id for one in answers] == holds
    assert len(stored(redis_url, event).bookings) == CROWD


async def test_confirmation_whose_caller_has_gone_before_the_call_leaves_is_not_made(
    shop: Shop, lab: Lab, redis_url: str
) -> None:
    event = await lab.event()
    holds = await hold_for(shop, event, 8)
    tasks = [
        asyncio.create_task(shop.reservations.confirm(hold_id, NOTHING_TO_SAY, customer_id=f"c{n}"))
        for n, hold_id in enumerate(holds)
    ]
    await asyncio.sleep(0)  # all of them have begun, and the call leaves at the end of this turn
    for task in tasks[1::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Booked, asyncio.CancelledError] * 4
    found = stored(redis_url, event)
    assert {booking.owner for booking in found.bookings.values()} == {"c0", "c2", "c4", "c6"}
    assert {hold.owner for hold in found.holds.values()} == {"c1", "c3", "c5", "c7"}
