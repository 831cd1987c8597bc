"""The straight path of the ledger and the steps behind it: one is a short cut for the others, and no more."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import uuid_utils
from ledger_lab import SOLD_AT_MS, Lab

from engine.blocks import BLOCKED_OWNER
from engine.bookings import BlockTerms, BookingDetails, JournalEntry, Price
from engine.definition import Policy
from engine.events import SellableEvent
from engine.ids import claim_id
from engine.ports import Committed, Refused
from persistence import ledger_batch
from persistence.database import driver_connection
from persistence.group_commit import GroupCommit
from persistence.ledger_batch import write_batch
from persistence.ledger_entries import ready_entry
from persistence.straight_batch import write_straight

pytest_plugins = ("ledger_fixtures",)

Make = Callable[[Lab, SellableEvent], Awaitable[list[JournalEntry]]]


async def usual(lab: Lab, event: SellableEvent) -> list[JournalEntry]:
    """Seats, counted places and both, with keys and without."""
    await lab.ledger.commit(lab.entry(event, seats=(0,), count=2, once=key_of(event, 0)), event)
    return [
        lab.entry(event, seats=(1, 2), once=key_of(event, 1)),
        lab.entry(event, count=3),
        lab.entry(event, seats=(3,), count=1, customer_id="ben", once=key_of(event, 2)),
    ]


async def of_an_old_epoch(lab: Lab, event: SellableEvent) -> list[JournalEntry]:
    return [*await usual(lab, event), lab.entry(event, count=1, epoch=event.event.epoch - 1)]


async def written_before(lab: Lab, event: SellableEvent) -> list[JournalEntry]:
    entries = await usual(lab, event)
    await lab.ledger.commit(entries[1], event)
    return entries


async def refused_before(lab: Lab, event: SellableEvent) -> list[JournalEntry]:
    late = lab.entry(event, seats=(5,))
    await lab.fetch("INSERT INTO refused_bookings VALUES ($1, 'places_taken', now())", await uuid_of(lab, late, event))
    return [*await usual(lab, event), late]


async def with_a_key_that_is_used(lab: Lab, event: SellableEvent) -> list[JournalEntry]:
    return [*await usual(lab, event), lab.entry(event, count=1, once=key_of(event, 0))]


async def for_a_seat_that_is_taken(lab: Lab, event: SellableEvent) -> list[JournalEntry]:
    return [*await usual(lab, event), lab.entry(event, seats=(0,))]


async def for_more_than_is_left(lab: Lab, event: SellableEvent) -> list[JournalEntry]:
    return [*await usual(lab, event), lab.entry(event, count=95)]


async def that_comes_late(lab: Lab, event: SellableEvent) -> list[JournalEntry]:
    return [*await usual(lab, event), lab.entry(event, count=1, sold_at_ms=SOLD_AT_MS - 2 * 3600 * 1000)]


def key_of(event: SellableEvent, number: int) -> bytes:
    return f"{event.event.id} {number}".encode()


async def uuid_of(lab: Lab, entry: JournalEntry, event: SellableEvent) -> object:
    return ready_entry(entry, event, lab.sealer).id


UNUSUAL = [
    of_an_old_epoch,
    written_before,
    refused_before,
    with_a_key_that_is_used,
    for_a_seat_that_is_taken,
    for_more_than_is_left,
    that_comes_late,
]
CUSTOMERS = [f"c-{number}" for number in range(12)]
CHECKS = {
    "IF done < json_array_length(epochs) THEN": of_an_old_epoch,
    "IF FOUND THEN": refused_before,
    "IF done < json_array_length(counts) THEN": for_more_than_is_left,
}
"""What ends the straight path where no constraint does."""


async def write(lab: Lab, event: SellableEvent, entries: Sequence[JournalEntry]) -> dict[uuid.UUID, int] | None:
    async with driver_connection(lab.engine) as connection:
        return await write_straight(connection, [ready_entry(entry, event, lab.sealer) for entry in entries])


async def test_usual_batch_is_written_straight(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ledger_batch, "_attempt")
    event = await lab.event()
    entries = await usual(lab, event)
    outcomes = await lab.ledger.commit_all([(entry, event) for entry in entries])
    assert outcomes == [None] * len(entries)
    counts = await lab.row_counts()
    assert counts == {"bookings": 4, "claims": 4, "history": 4, "idempotency": 3, "outbox": 8}
    assert await lab.value("SELECT sold FROM usage") == 6


@pytest.mark.parametrize("make", UNUSUAL)
async def test_unusual_batch_ends_the_straight_path_with_nothing_written(lab: Lab, make: Make) -> None:
    event = await lab.event()
    entries = await make(lab, event)
    before = await lab.row_counts(), await lab.fetch("SELECT * FROM usage")
    assert await write(lab, event, entries) is None
    assert (await lab.row_counts(), await lab.fetch("SELECT * FROM usage")) == before


async def test_customer_who_may_have_one_booking_and_has_it_ends_the_straight_path(lab: Lab) -> None:
    event = await lab.event(policy=Policy(one_booking_per_customer=True))
    assert await write(lab, event, [lab.entry(event, count=1)]) is not None
    before = await lab.row_counts()
    assert await write(lab, event, [lab.entry(event, count=1, customer_id="ben"), lab.entry(event, count=1)]) is None
    assert await lab.row_counts() == before


@pytest.mark.parametrize("table", ["bookings", "idempotency", "claims"])
async def test_row_that_a_trigger_leaves_out_without_a_word_is_not_called_written(lab: Lab, table: str) -> None:
    event = await lab.event()
    entries = await usual(lab, event)
    before = await lab.row_counts()
    await lab.fetch("CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    await lab.fetch(f"CREATE TRIGGER sieve BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION leave_out()")
    assert await write(lab, event, entries) is None
    assert await lab.row_counts() == before


@pytest.mark.parametrize("check", CHECKS)
async def test_straight_path_without_a_check_is_found_out(lab: Lab, check: str) -> None:
    text = await lab.value("SELECT pg_get_functiondef('holdfast_write_usual_bookings'::regproc)")
    assert text.count(check) == 1
    await lab.fetch(text.replace(check, "IF false THEN").replace("WHERE sold + quantity <= capacity", ""))
    event = await lab.event()
    assert await outcome_of(write, lab, event, await CHECKS[check](lab, event)) is not None


async def test_two_processes_that_write_the_same_batch_straight_get_along(lab: Lab) -> None:
    """Both lock by ascending id, so that the second waits, and then finds everything there."""
    event = await lab.event(capacity=1_000)
    for _ in range(5):
        entries = [lab.entry(event, count=1) for _ in range(60)]
        shuffled = random.sample(entries, len(entries))
        written = await asyncio.gather(write(lab, event, shuffled), write(lab, event, shuffled[::-1]))
        (numbers,) = [numbers for numbers in written if numbers is not None]
        assert sorted(numbers, key=lambda one: numbers[one]) == sorted(numbers)


async def test_seats_and_keys_are_locked_in_one_order_too(lab: Lab) -> None:
    """Rows lie in the order in which they were inserted: the order in which others would wait for them."""
    event = await lab.event()
    entries = [lab.entry(event, seats=(seat, 19 - seat), once=key_of(event, seat)) for seat in (4, 7, 0, 9, 2)]
    assert await write(lab, event, entries) is not None
    for table, column in (("claims", "seat"), ("idempotency", "scope")):
        inserted = [row[0] for row in await lab.fetch(f"SELECT {column} FROM {table} ORDER BY ctid")]
        assert inserted == sorted(inserted)
        assert len(inserted) >= len(entries)


async def outcome_of(
    act: Callable[[Lab, SellableEvent, Sequence[JournalEntry]], Awaitable[object]],
    lab: Lab,
    event: SellableEvent,
    entries: Sequence[JournalEntry],
) -> object:
    """What *act* returns, or what it raises."""
    try:
        return await act(lab, event, entries)
    except Exception as error:
        return error


POLICIES = [Policy(), Policy(one_booking_per_customer=True), Policy(approval="manual")]


@pytest.mark.parametrize("seed", range(6))
async def test_both_ways_answer_and_write_the_same(lab: Lab, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two events live through the same batches, one of them by the steps alone."""
    taken: list[bool] = []

    async def watched(connection: object, batch: object) -> object:
        numbers = await write_straight(connection, batch)  # type: ignore[arg-type]
        taken.append(numbers is not None)
        return numbers

    async def never(connection: object, batch: object) -> None:
        return None

    told = []
    for straight in (watched, never):
        monkeypatch.setattr(ledger_batch, "write_straight", straight)
        chance = random.Random(seed)
        event = await lab.event(capacity=25, stops=["A", "B", "C"], policy=POLICIES[seed % len(POLICIES)])
        outcomes: list[object] = []
        given: list[JournalEntry] = []
        for _ in range(15):
            batch = [made_at_random(lab, event, chance) for _ in range(chance.randint(1, 4))]
            if given and chance.random() < 0.3:
                batch.append(chance.choice(given))
            given += batch
            answers = await GroupCommit(lab.engine, lab.sealer).commit_all([(entry, event) for entry in batch])
            outcomes += [answer.reason if isinstance(answer, Refused) else answer for answer in answers]
        told.append((outcomes, await rows_of(lab, event)))
    assert told[0] == told[1]
    assert set(taken) == {True, False}


def made_at_random(lab: Lab, event: SellableEvent, chance: random.Random) -> JournalEntry:
    first_leg = chance.randrange(2)
    booking_id = claim_id(uuid_utils.uuid7().int, event.event.id)  # ascending, as a batch numbers by id
    details = BookingDetails(price=Price(900, 90, 10, 980)) if chance.random() < 0.2 else BookingDetails()
    customer_id = chance.choice([*CUSTOMERS, BLOCKED_OWNER])
    if customer_id == BLOCKED_OWNER:
        details = BookingDetails(role="organizer", request_id="r", block=BlockTerms("olga"))
    return lab.entry(
        event,
        seats=tuple(chance.sample(range(20), chance.randrange(3))),
        count=chance.randint(1, 2),
        legs=(first_leg, chance.randint(first_leg + 1, 2)),
        once=b"" if chance.random() < 0.5 else f"{event.event.id}{chance.randrange(40)}".encode(),
        epoch=event.event.epoch - (chance.random() < 0.05),
        customer_id=customer_id,
        sold_at_ms=SOLD_AT_MS,
        booking_id=booking_id,
        details=lab.sealer.seal(details, booking_id),
    )


async def rows_of(lab: Lab, event: SellableEvent) -> list[object]:
    """What the ledger has of the event, without ids and numbers, which no two events share."""
    queries = (
        "SELECT customer_id, places, items, from_stop, to_stop, amount, status, version, created_at, confirmed_at, "
        "payment_status, price, exclusive, expires_at, updated_at FROM bookings WHERE event_id = $1 ORDER BY number",
        "SELECT seat, leg FROM claims WHERE event_id = $1 ORDER BY 1, 2",
        "SELECT section, leg, sold FROM usage WHERE event_id = $1 ORDER BY 1, 2",
        "SELECT outbox.type, outbox.payload - 'id', outbox.created_at FROM outbox WHERE event_id = $1 ORDER BY id",
        "SELECT history.version, from_status, to_status, actor, role, at, request_id FROM history "
        "JOIN bookings ON bookings.id = booking_id WHERE event_id = $1 ORDER BY number",
        "SELECT count(*) FROM idempotency JOIN bookings ON bookings.id = booking_id WHERE event_id = $1",
    )
    return [[tuple(row) for row in await lab.fetch(query, event.event.id)] for query in queries]


async def test_refusal_is_not_written_down_of_a_booking_that_somebody_has_just_written(lab: Lab) -> None:
    """B loses a seat to A, who then is gone; before that is said for good, another process has written B's entry."""
    event = await lab.event()
    first = await lab.ledger.commit(lab.entry(event, seats=(0,)), event)
    assert isinstance(first, Committed)
    late = lab.entry(event, seats=(0,), customer_id="ben")
    ready = ready_entry(late, event, lab.sealer)
    another, give_verdicts = lab.another_process(), ledger_batch._give_verdicts

    async def overtaken(*args: Any) -> Any:
        await lab.fetch("DELETE FROM claims")
        assert isinstance(await another.commit(late, event), Committed)
        return await give_verdicts(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_batch, "_give_verdicts", overtaken)
        async with driver_connection(lab.engine) as connection:
            outcomes = await write_batch(connection, [ready], lab.sealer)

    assert isinstance(outcomes[ready.id], Committed)
    assert await lab.value("SELECT count(*) FROM refused_bookings") == 0
    await another.close()


async def test_who_writes_a_booking_waits_for_the_verdict_on_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """B's verdict is being written down while another process, which has found the seat free, writes B's entry."""
    event = await lab.event()
    late = lab.entry(event, seats=(0,), customer_id="ben")
    ready = ready_entry(late, event, lab.sealer)
    another, find_stored = lab.another_process(), ledger_batch._find_stored
    commits: list[asyncio.Future[Any]] = []

    async def at_the_same_time(*args: Any) -> Any:
        stored = await find_stored(*args)
        if not commits:
            commits.append(another.commit(late, event))
            await asyncio.sleep(0.1)
            assert not commits[0].done()
        return stored

    monkeypatch.setattr(ledger_batch, "_find_stored", at_the_same_time)
    async with driver_connection(lab.engine) as connection:
        verdict = {ready.id: Refused("places_taken")}
        assert await ledger_batch._give_verdicts(connection, [ready], verdict, lab.sealer) == {}

    assert await commits[0] == Refused("places_taken")
    assert await lab.value("SELECT count(*) FROM bookings") == 0
    await another.close()
