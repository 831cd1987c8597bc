"""The ledger takes a booking whole and once, or refuses it whole and says why."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from ledger_lab import FLOOR, GUEST, SOLD_AT_MS, STALLS, Lab

from engine import figures
from engine.bookings import JournalEntry
from engine.errors import LedgerUnavailable, Overloaded
from engine.events import SellableEvent
from engine.ids import BookingId, claim_id
from engine.places import CountedPlaces, NumberedPlaces, Places
from engine.ports import Committed, Refused
from persistence import group_commit
from persistence.database import driver_connection
from persistence.group_commit import GroupCommit
from persistence.ledger_batch import write_batch
from persistence.ledger_entries import UnwritableEntry, ready_entry

pytest_plugins = ("ledger_fixtures",)


async def commit_together(lab: Lab, sellable: SellableEvent, *entries: JournalEntry) -> list[Committed | Refused]:
    """Commit entries that arrive at one moment, and so in one batch as far as they can."""
    return await asyncio.gather(*(lab.ledger.commit(entry, sellable) for entry in entries))


async def test_commit_returns_the_booking_as_it_is_stored(lab: Lab) -> None:
    event = await lab.event(stops=["SJC", "PAO", "SFO"])
    entry = lab.entry(event, seats=(0, 1), count=3, legs=(0, 1))

    committed = await lab.ledger.commit(entry, event)

    assert isinstance(committed, Committed)
    booking = committed.booking
    assert booking == await lab.ledger.find_booking(entry.booking_id)
    assert booking == await lab.bookings.find_by_reference((booking.reference or "").lower())
    assert (booking.status, booking.payment_status, booking.version) == ("confirmed", "none", 1)
    assert (booking.from_, booking.to, booking.amount) == ("SJC", "PAO", 3 * 4500 + 2 * 9000)
    assert [(line.section, line.quantity, line.seats) for line in booking.items] == [
        ("floor", 3, None),
        ("stalls", 2, ("A-1", "A-2")),
    ]
    assert (booking.guest, booking.attendees, booking.notes) == (GUEST.guest, GUEST.attendees, GUEST.notes)
    assert (booking.source, booking.metadata) == (GUEST.source, GUEST.metadata)
    assert booking.confirmed_at is not None
    assert booking.confirmed_at.timestamp() * 1000 == pytest.approx(SOLD_AT_MS, abs=0.001)


async def test_each_commit_is_counted_once_by_its_outcome(lab: Lab) -> None:
    before = dict(figures.COMMITS.values)
    event = await lab.event()
    await lab.ledger.commit(lab.entry(event, seats=(4,)), event)
    await commit_together(lab, event, lab.entry(event, seats=(5,)), lab.entry(event, seats=(4,)))
    await asyncio.sleep(0)  # the writer ends
    counted = {name: count - before.get(name, 0) for name, count in figures.COMMITS.values.items()}
    assert {name: count for name, count in counted.items() if count} == {("committed",): 2, ("places_taken",): 1}


async def test_commit_writes_history_and_outbox_with_the_booking(lab: Lab) -> None:
    event = await lab.event()
    entry = lab.entry(event, seats=(4,))

    committed = await lab.ledger.commit(entry, event)

    assert isinstance(committed, Committed)
    (line,) = await lab.fetch("SELECT * FROM history")
    assert (line["version"], line["from_status"], line["to_status"]) == (1, None, "confirmed")
    assert (line["actor"], line["role"], line["at"]) == ("ana", "customer", committed.booking.confirmed_at)
    told = await lab.fetch("SELECT * FROM outbox ORDER BY id")
    assert [row["type"] for row in told] == ["booking.created", "booking.confirmed"]
    payload = json.loads(told[0]["payload"])
    assert (payload["amount"], payload["status"], payload["items"][0]["seats"]) == (9000, "confirmed", ["A-5"])
    assert [row["published_at"] for row in told] == [None, None]


async def test_commit_of_an_entry_written_before_returns_the_same_booking_and_writes_nothing(lab: Lab) -> None:
    event = await lab.event()
    entry = lab.entry(event, seats=(0,), count=2, once=b"key", body_digest=b"body")
    first = await lab.ledger.commit(entry, event)
    counts = await lab.row_counts()

    again = await commit_together(lab, event, entry, entry, entry)
    elsewhere = await lab.another_process().commit(entry, event)

    assert [*again, elsewhere] == [first] * 4
    assert await lab.row_counts() == counts
    assert await lab.value("SELECT sold FROM usage") == 2


async def test_commit_refuses_a_seat_that_is_stored_and_leaves_nothing_of_the_loser(lab: Lab) -> None:
    event = await lab.event()
    await lab.ledger.commit(lab.entry(event, seats=(1,)), event)
    counts = await lab.row_counts()

    # Seats 0 and 2 are free, and so is the floor: the loser must not keep them.
    outcome = await lab.ledger.commit(lab.entry(event, seats=(0, 1, 2), count=5, once=b"key"), event)

    assert outcome == Refused("places_taken")
    assert await lab.row_counts() == counts
    assert await lab.value("SELECT sold FROM usage") == 0


async def test_commit_lets_the_others_of_the_batch_through_when_some_lose(lab: Lab) -> None:
    event = await lab.event()
    await lab.ledger.commit(lab.entry(event, seats=(3, 7)), event)

    outcomes = await commit_together(lab, event, *(lab.entry(event, seats=(seat,), count=1) for seat in range(10)))

    assert [type(outcome) for outcome in outcomes] == [Refused if seat in (3, 7) else Committed for seat in range(10)]
    assert await lab.value("SELECT sold FROM usage") == 8
    assert await lab.row_counts() == {"bookings": 9, "claims": 10, "history": 9, "idempotency": 0, "outbox": 18}


async def test_earlier_journal_entry_wins_a_seat_when_both_are_in_one_batch(lab: Lab) -> None:
    event = await lab.event()
    early, late, later = (lab.entry(event, seats=(seat, 5)) for seat in (4, 6, 6))

    outcomes = await commit_together(lab, event, later, late, early)

    assert [type(outcome) for outcome in outcomes] == [Refused, Refused, Committed]
    assert await lab.value("SELECT count(*) FROM claims") == 2


async def test_entry_put_off_for_a_rival_that_then_loses_is_not_overtaken(lab: Lab) -> None:
    event = await lab.event()
    await lab.ledger.commit(lab.entry(event, seats=(4,)), event)
    loses, is_put_off, comes_last = (lab.entry(event, seats=seats) for seats in ((4, 5), (5, 6), (6,)))

    outcomes = await commit_together(lab, event, loses, is_put_off, comes_last)

    assert [type(outcome) for outcome in outcomes] == [Refused, Committed, Refused]


async def test_counted_section_is_filled_by_the_earliest_when_a_batch_wants_more_than_is_left(lab: Lab) -> None:
    event = await lab.event(capacity=10)
    entries = [lab.entry(event, count=quantity) for quantity in (4, 4, 3, 1, 1, 1)]

    outcomes = await commit_together(lab, event, *reversed(entries))

    # 4 + 4 leave two places: three do not fit, one and one do, the last one does not.
    won = [isinstance(outcome, Committed) for outcome in reversed(outcomes)]
    assert won == [True, True, False, True, True, False]
    assert await lab.value("SELECT sold FROM usage") == 10


async def test_loser_in_a_counted_section_keeps_no_seat(lab: Lab) -> None:
    event = await lab.event(capacity=1)
    entries = [lab.entry(event, seats=(seat,), count=1) for seat in (0, 1)]

    outcomes = await commit_together(lab, event, *entries)

    assert [type(outcome) for outcome in outcomes] == [Committed, Refused]
    assert [row["seat"] for row in await lab.fetch("SELECT seat FROM claims")] == [0]


async def test_seat_is_sold_once_for_each_leg(lab: Lab) -> None:
    event = await lab.event(capacity=1, stops=["A", "B", "C", "D"])
    whole, first, last, middle = ((0, 3), (0, 1), (2, 3), (1, 2))

    for legs, expected in ((first, Committed), (last, Committed), (whole, Refused), (middle, Committed)):
        outcome = await lab.ledger.commit(lab.entry(event, seats=(0,), count=1, legs=legs), event)
        assert type(outcome) is expected

    assert [usage.sold for usage in await lab.bookings.usage_of(event.event.id)] == [1, 1, 1]


async def test_commit_refuses_an_entry_of_an_old_epoch_but_knows_one_that_was_written_in_time(lab: Lab) -> None:
    event = await lab.event()
    in_time, too_late = lab.entry(event, seats=(0,)), lab.entry(event, seats=(1,))
    first = await lab.ledger.commit(in_time, event)
    async with lab.events.loading([event.event.id]) as turn:
        await turn.begin(turn.event_ids)

    assert await commit_together(lab, event, in_time, too_late) == [first, Refused("stale_epoch")]
    assert await lab.value("SELECT count(*) FROM bookings") == 1


async def test_commit_of_a_key_with_another_body_is_refused(lab: Lab) -> None:
    event = await lab.event()
    await lab.ledger.commit(lab.entry(event, seats=(0,), once=b"key", body_digest=b"one"), event)
    counts = await lab.row_counts()

    outcome = await lab.ledger.commit(lab.entry(event, seats=(1,), once=b"key", body_digest=b"two"), event)

    assert outcome == Refused("key_reused")
    assert await lab.row_counts() == counts


async def test_commit_of_a_key_with_the_same_body_names_the_booking_it_made(lab: Lab) -> None:
    event = await lab.event()
    first = lab.entry(event, seats=(0,), once=b"key", body_digest=b"body")
    retried = lab.entry(event, seats=(1,), once=b"key", body_digest=b"body")

    stored, replayed = await commit_together(lab, event, first, retried)

    assert isinstance(stored, Committed)
    assert replayed == Refused("key_replayed", stored.booking)
    assert await lab.value("SELECT count(*) FROM claims") == 1


async def test_key_can_be_used_anew_after_a_day(lab: Lab) -> None:
    event = await lab.event()
    await lab.ledger.commit(lab.entry(event, seats=(0,), once=b"key", body_digest=b"one"), event)
    await lab.fetch("UPDATE idempotency SET created_at = created_at - interval '24 hours 1 minute'")
    second = lab.entry(event, seats=(1,), once=b"key", body_digest=b"two")

    assert isinstance(await lab.ledger.commit(second, event), Committed)
    assert isinstance(await lab.ledger.commit(second, event), Committed)

    third = lab.entry(event, seats=(2,), once=b"key", body_digest=b"three")
    assert await lab.ledger.commit(third, event) == Refused("key_reused")


async def test_entry_that_postgres_will_not_have_fails_alone(lab: Lab) -> None:
    event = await lab.event()
    entries = [lab.entry(event, seats=(seat,)) for seat in range(20)]
    entries[13] = msgspec.structs.replace(entries[13], customer_id="nul\x00")

    outcomes = await asyncio.gather(*(lab.ledger.commit(entry, event) for entry in entries), return_exceptions=True)

    assert isinstance(outcomes.pop(13), UnwritableEntry)
    assert [type(outcome) for outcome in outcomes] == [Committed] * 19
    assert await lab.value("SELECT count(*) FROM bookings") == 19


def places(*items: CountedPlaces | NumberedPlaces, legs: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    return {"places": Places(*legs, items)}


@pytest.mark.parametrize(
    "wrong",
    [
        places(NumberedPlaces(STALLS, (20,))),
        places(NumberedPlaces(STALLS, (-1,))),
        places(NumberedPlaces(STALLS, (3, 3))),
        places(NumberedPlaces(STALLS, (3,)), NumberedPlaces(STALLS, (3,))),
        places(NumberedPlaces(FLOOR, (0,))),
        places(CountedPlaces(STALLS, 1)),
        places(CountedPlaces(FLOOR, 0)),
        places(CountedPlaces(9, 1)),
        places(CountedPlaces(FLOOR, 1), legs=(0, 2)),
        places(CountedPlaces(FLOOR, 1), legs=(1, 1)),
        {"booking_id": BookingId("nonsense")},
        {"booking_id": claim_id(7, "another-event")},
        {"event_id": "another-event"},
        {"journal_id": "nonsense"},
        {"details": b"sealed with some other key, or not at all"},
        {"confirmed_at_ms": 10**20},
    ],
    ids=str,
)
async def test_entry_that_makes_no_sense_is_unwritable(lab: Lab, wrong: dict[str, Any]) -> None:
    event = await lab.event()

    with pytest.raises(UnwritableEntry):
        await lab.ledger.commit(lab.entry(event, **({"seats": (0,)} | wrong)), event)

    assert (await lab.row_counts())["bookings"] == 0


async def test_entry_of_an_event_that_the_ledger_lacks_is_unwritable(lab: Lab) -> None:
    event = await lab.event()
    await lab.fetch("DELETE FROM events")

    with pytest.raises(UnwritableEntry, match="no such event"):
        await lab.ledger.commit(lab.entry(event, seats=(0,)), event)


async def test_booking_is_written_although_its_caller_is_cancelled(lab: Lab) -> None:
    event = await lab.event()
    impatient, patient = lab.entry(event, seats=(0,)), lab.entry(event, seats=(1,))
    cancelled, other = lab.ledger.commit(impatient, event), lab.ledger.commit(patient, event)

    cancelled.cancel()

    assert isinstance(await other, Committed)
    assert cancelled.cancelled()
    assert await lab.ledger.find_booking(impatient.booking_id) is not None


async def test_everything_that_arrives_during_a_commit_goes_into_the_next_one(lab: Lab) -> None:
    event = await lab.event(capacity=1000)

    await commit_together(lab, event, *(lab.entry(event, count=1) for _ in range(300)))

    # Rows of one transaction share its number: one batch holds all that came at once.
    assert await lab.value("SELECT count(DISTINCT xmin::text) FROM bookings") == 1


async def test_batch_is_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "BATCH_MAX", 10)
    event = await lab.event(capacity=1000)

    await commit_together(lab, event, *(lab.entry(event, count=1) for _ in range(95)))

    assert await lab.value("SELECT count(DISTINCT xmin::text) FROM bookings") == 10


async def test_batch_is_bounded_by_the_seats_of_its_bookings_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "BATCH_CELLS_MAX", 5)
    event = await lab.event()
    large, *small = [lab.entry(event, seats=seats) for seats in (tuple(range(6)), (7,), (8,), (9,))]

    await commit_together(lab, event, large, *small)

    assert await lab.value("SELECT count(DISTINCT xmin::text) FROM bookings") == 2


async def test_commit_refuses_at_once_when_too_many_are_waiting(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "QUEUE_MAX", 5)
    event = await lab.event()

    outcomes = await asyncio.gather(
        *(lab.ledger.commit(lab.entry(event, count=1), event) for _ in range(8)), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [Committed] * 5 + [Overloaded] * 3


async def test_close_waits_for_what_was_taken_and_takes_no_more(lab: Lab) -> None:
    event = await lab.event()
    commits = GroupCommit(lab.engine, lab.sealer)
    last = commits.commit(lab.entry(event, seats=(0,)), event)

    await commits.close()

    assert isinstance(await last, Committed)
    with pytest.raises(Overloaded):
        await commits.commit(lab.entry(event, seats=(1,)), event)


@pytest.mark.parametrize("steps", [0, 1, 20], ids=["before it has begun", "at its first step", "in the middle"])
async def test_waiters_are_not_left_waiting_when_the_writer_is_cancelled(lab: Lab, steps: int) -> None:
    event = await lab.event()
    waiters = [lab.ledger.commit(lab.entry(event, count=1), event) for _ in range(3)]
    for _ in range(steps):
        await asyncio.sleep(0)

    (writer,) = (task for task in asyncio.all_tasks() if task.get_name() == "group commit")
    writer.cancel()

    outcomes = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LedgerUnavailable] * 3
    assert isinstance(await lab.ledger.commit(lab.entry(event, count=1), event), Committed)


async def test_claims_that_are_not_there_are_found_even_if_what_was_in_the_way_is_gone(lab: Lab) -> None:
    """A batch meets a claim of somebody who gives it up before the batch can look who it was."""
    event = await lab.event()
    ready = ready_entry(lab.entry(event, seats=(0,)), event, lab.sealer)
    await lab.ledger.commit(lab.entry(event, seats=(0,)), event)

    class Releasing:
        """The connection, but the rival's claim is given up right after it was in the way."""

        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        async def execute(self, query: str, *arguments: object) -> str:
            status: str = await self._connection.execute(query, *arguments)
            if "INSERT INTO claims" in query:
                await lab.fetch("DELETE FROM claims")
            return status

    async with driver_connection(lab.engine) as connection:
        outcomes = await write_batch(Releasing(connection), [ready], lab.sealer)

    assert outcomes == {ready.id: Refused("places_taken")}


async def test_no_column_tells_what_a_customer_said(lab: Lab) -> None:
    event = await lab.event()
    await lab.ledger.commit(lab.entry(event, seats=(0,), once=b"key"), event)

    tables = await lab.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    rows = [row for table in tables for row in await lab.fetch(f"SELECT * FROM {table['table_name']}")]

    assert len(rows) > 20
    dump = repr([tuple(row) for row in rows])
    said = ("Ana Raposo", "ana@example.org", "900 100 200", "Rui", "gluten", "box-office", "spring")
    assert not [word for word in said if word in dump]
