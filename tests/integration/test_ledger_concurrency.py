"""Several processes write into one ledger, and loaders come in between: nothing is sold twice, lost or stuck."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ledger_lab import Lab

from engine.bookings import JournalEntry
from engine.errors import LedgerUnavailable
from engine.events import SellableEvent
from engine.ids import claim_id
from engine.places import CountedPlaces, NumberedPlaces, parse_places
from engine.ports import Committed, Refused
from persistence import advisory, database, events
from persistence.database import driver_connection
from persistence.ledger import PostgresLedger

pytest_plugins = ("ledger_fixtures",)

_END_LOCK_HOLDERS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
     WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def assert_guards_match_bookings(lab: Lab) -> None:
    """``claims`` and ``usage`` are the sum over all bookings, and every booking has its history and its messages."""
    cells: Counter[tuple[str, int, int]] = Counter()
    sold: Counter[tuple[str, int, int]] = Counter()
    rows = await lab.fetch("SELECT * FROM bookings")
    for row in rows:
        places = parse_places(row["places"])
        for leg in range(places.first_leg, places.last_leg):
            for item in places.items:
                if isinstance(item, NumberedPlaces):
                    cells.update((row["event_id"], seat, leg) for seat in item.seats)
                elif isinstance(item, CountedPlaces):
                    sold[row["event_id"], item.section, leg] += item.quantity
    claims = await lab.fetch("SELECT event_id, seat, leg FROM claims")
    assert Counter(map(tuple, claims)) == cells
    assert not cells or max(cells.values()) == 1
    usage = await lab.fetch("SELECT event_id, section, leg, sold, capacity FROM usage")
    assert {tuple(row)[:3]: row["sold"] for row in usage if row["sold"]} == sold
    assert all(row["sold"] <= row["capacity"] for row in usage)
    counts = await lab.row_counts()
    assert (counts["history"], counts["outbox"]) == (len(rows), 2 * len(rows))


@asynccontextmanager
async def open_transaction(lab: Lab, *statements: str) -> AsyncIterator[Any]:
    """Somebody else's transaction that has run *statements* and commits when the block ends."""
    async with driver_connection(lab.engine) as connection, connection.transaction():
        for statement in statements:
            await connection.execute(statement)
        yield connection


async def commit_all(
    ledger: PostgresLedger, event: SellableEvent, entries: list[JournalEntry]
) -> list[Committed | Refused]:
    return await asyncio.gather(*(ledger.commit(entry, event) for entry in entries))


async def test_two_processes_sell_a_hot_counted_section_to_the_last_place_and_no_further(lab: Lab) -> None:
    event = await lab.event(capacity=300)
    entries = [lab.entry(event, count=random.randint(1, 3)) for _ in range(400)]

    outcomes = await asyncio.gather(
        commit_all(lab.another_process(), event, entries[::2]), commit_all(lab.another_process(), event, entries[1::2])
    )

    won = sum(isinstance(outcome, Committed) for half in outcomes for outcome in half)
    assert await lab.value("SELECT count(*) FROM bookings") == won
    assert await lab.value("SELECT sold FROM usage") == 300
    await assert_guards_match_bookings(lab)


async def test_two_processes_that_write_the_same_entries_write_each_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API process and the reconciler that drains its journal entries, in opposite orders; without a deadlock."""
    monkeypatch.setattr(database, "ATTEMPTS_MAX", 1)
    event = await lab.event(capacity=1000)
    entries = [lab.entry(event, count=1, once=b"key %d" % number) for number in range(200)]
    entries += [lab.entry(event, seats=(seat,)) for seat in range(20)]

    forwards, backwards = await asyncio.gather(
        commit_all(lab.another_process(), event, entries), commit_all(lab.another_process(), event, entries[::-1])
    )

    assert forwards == backwards[::-1]
    assert all(isinstance(outcome, Committed) for outcome in forwards)
    assert await lab.value("SELECT count(*) FROM bookings") == len(entries)
    await assert_guards_match_bookings(lab)


@pytest.mark.parametrize("seed", range(4))
async def test_guards_match_bookings_after_random_batches_from_rival_processes(lab: Lab, seed: int) -> None:
    chance = random.Random(seed)
    sellables = [await lab.event(capacity=30, stops=["A", "B", "C", "D"]) for _ in range(3)]
    ledgers = [lab.another_process() for _ in range(3)]
    given: list[tuple[SellableEvent, JournalEntry]] = []
    for number in range(240):
        event = chance.choice(sellables)
        first_leg = chance.randrange(3)
        entry = lab.entry(
            event,
            seats=tuple(chance.sample(range(20), chance.randrange(3))),
            count=chance.randint(1, 3),
            legs=(first_leg, chance.randint(first_leg + 1, 3)),
            once=b"key %d" % (number // 2 if chance.random() < 0.1 else number + 1000),
        )
        given += [(event, entry)] * chance.choice((1, 1, 1, 2))
    chance.shuffle(given)

    outcomes = await asyncio.gather(*(chance.choice(ledgers).commit(entry, event) for event, entry in given))

    await assert_guards_match_bookings(lab)
    stored = {claim_id(row["id"].int, row["event_id"]) for row in await lab.fetch("SELECT id, event_id FROM bookings")}
    assert {outcome.booking.id for outcome in outcomes if isinstance(outcome, Committed)} == stored
    assert any(isinstance(outcome, Refused) for outcome in outcomes)


async def test_every_booking_is_seen_by_the_loader_or_refused_when_loading_races_with_commits(lab: Lab) -> None:
    event = await lab.event(capacity=10_000)
    ledgers = [lab.another_process() for _ in range(3)]
    start, in_full_swing = asyncio.Event(), asyncio.Event()
    outcomes: dict[str, Committed | Refused] = {}

    async def sell(ledger: PostgresLedger) -> None:
        await start.wait()
        for _ in range(400):
            entry = lab.entry(event, count=1)
            outcomes[entry.booking_id] = await ledger.commit(entry, event)
            if len(outcomes) >= 60:
                in_full_swing.set()
            if outcomes[entry.booking_id] == Refused("stale_epoch"):
                return
            # The loader's lock waits while commits overlap without a gap. In life they end by themselves: a Redis that
            # has no state confirms nothing.
            await asyncio.sleep(0.02)

    async def load() -> set[str]:
        await in_full_swing.wait()
        async with lab.events.loading([event.event.id]) as turn:
            [loaded] = await turn.begin(turn.event_ids)
            assert loaded.event.epoch == event.event.epoch + 1
            ids = [one async for page in loaded.bookings(page_size=50) for one in page.ids]
            return {claim_id(int.from_bytes(one), event.event.id) for one in ids}

    sales = [asyncio.create_task(sell(ledger)) for ledger in ledgers for _ in range(8)]
    loading = asyncio.create_task(load())
    start.set()
    seen = await loading
    await asyncio.gather(*sales)

    committed = {booking_id for booking_id, outcome in outcomes.items() if isinstance(outcome, Committed)}
    assert committed == seen
    assert 0 < len(committed) < len(outcomes)
    assert {outcome for outcome in outcomes.values() if isinstance(outcome, Refused)} == {Refused("stale_epoch")}


async def test_loading_waits_for_a_commit_under_way(lab: Lab) -> None:
    event = await lab.event()
    async with lab.events.loading([event.event.id]) as turn:
        async with open_transaction(lab, "SELECT epoch FROM events FOR KEY SHARE"):
            begun = asyncio.create_task(turn.begin(turn.event_ids))
            await asyncio.sleep(0.1)
            assert not begun.done()
        assert (await begun)[0].event.epoch == event.event.epoch + 1


async def test_commit_waits_for_an_epoch_being_raised_and_is_then_refused(lab: Lab) -> None:
    event = await lab.event()
    raising = ("SELECT 1 FROM events FOR UPDATE", "UPDATE events SET epoch = epoch + 1")
    async with open_transaction(lab, *raising):
        commit = lab.ledger.commit(lab.entry(event, seats=(0,)), event)
        await asyncio.sleep(0.1)
        assert not commit.done()
    assert await commit == Refused("stale_epoch")


async def test_hot_event_can_be_closed_while_commits_hold_its_row(lab: Lab) -> None:
    event = await lab.event()
    async with open_transaction(lab, "SELECT epoch FROM events FOR KEY SHARE"):
        closed = await asyncio.wait_for(lab.events.transition(event.event.id, "closed"), timeout=0.4)
    assert closed.status == "closed"


async def test_commits_go_on_while_somebody_changes_the_status_of_their_event(lab: Lab) -> None:
    event = await lab.event()
    async with open_transaction(lab, "UPDATE events SET status = 'closed'"):
        commit = lab.ledger.commit(lab.entry(event, seats=(0,)), event)
        assert isinstance(await asyncio.wait_for(commit, timeout=0.4), Committed)


async def test_commit_is_tried_again_when_it_waits_too_long_for_a_lock(lab: Lab) -> None:
    event = await lab.event(capacity=10)
    async with open_transaction(lab, "UPDATE usage SET sold = sold + 1"):
        commit = lab.ledger.commit(lab.entry(event, count=10), event)
        await asyncio.sleep(0.6)  # past lock_timeout, once
    assert await commit == Refused("places_taken")


async def test_commit_gives_up_when_a_lock_is_never_released_and_writes_nothing(lab: Lab) -> None:
    event = await lab.event()
    async with open_transaction(lab, "UPDATE usage SET sold = sold + 1"):
        with pytest.raises(LedgerUnavailable):
            await lab.ledger.commit(lab.entry(event, count=1), event)
    assert (await lab.row_counts())["bookings"] == 0


async def test_one_loader_at_a_time_over_all_processes(lab: Lab) -> None:
    event = await lab.event()
    inside: list[str] = []

    async def load(name: str) -> int:
        async with lab.events.loading([event.event.id]) as turn:
            inside.append(name)
            [loaded] = await turn.begin(turn.event_ids)
            await asyncio.sleep(0.02)
            assert inside[-1] == name
            return loaded.event.epoch

    epochs = await asyncio.gather(*(load(f"loader {number}") for number in range(4)))

    assert sorted(epochs) == [1, 2, 3, 4]


async def test_loaders_of_different_events_do_not_wait_for_each_other(lab: Lab) -> None:
    first, second = await lab.event(), await lab.event()
    async with lab.events.loading([first.event.id]), asyncio.timeout(1), lab.events.loading([second.event.id]) as turn:
        assert (await turn.begin(turn.event_ids))[0].event.id == second.event.id


async def test_turn_passes_on_when_a_loader_fails_or_its_connection_dies(lab: Lab) -> None:
    event = await lab.event()

    async def fail() -> None:
        async with lab.events.loading([event.event.id]) as turn:
            await turn.begin(turn.event_ids)
            raise RuntimeError("Redis is gone")

    async def lose_the_connection() -> None:
        async with lab.events.loading([event.event.id]) as turn:
            for _ in range(3):  # the first one ends it; by the third it is gone
                await lab.fetch(_END_LOCK_HOLDERS)
                await asyncio.sleep(0.02)
            await turn.begin(turn.event_ids)

    with pytest.raises(RuntimeError, match="Redis is gone"):
        await fail()
    with pytest.raises(LedgerUnavailable):
        await lose_the_connection()
    async with asyncio.timeout(1), lab.events.loading([event.event.id]) as turn:
        assert (await turn.begin(turn.event_ids))[0].event.epoch == 2


async def test_waiting_loaders_hold_no_connections(lab: Lab) -> None:
    event = await lab.event()
    async with lab.events.loading([event.event.id]):
        waiting = [asyncio.create_task(lab.events.loading([event.event.id]).__aenter__()) for _ in range(30)]
        await asyncio.sleep(0.1)
        assert isinstance(await lab.ledger.commit(lab.entry(event, seats=(0,)), event), Committed)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_loader_gives_up_when_another_one_never_ends(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOADING_WAIT_S", 0.2)
    monkeypatch.setattr(advisory, "POLL_PAUSE_S", 0.02)
    event = await lab.event()
    async with lab.events.loading([event.event.id]):
        with pytest.raises(LedgerUnavailable, match="another process"):
            async with lab.events.loading([event.event.id]):
                pytest.fail("two loaders at once")
