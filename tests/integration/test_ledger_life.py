"""What the ledger makes of entries that wait for approval, were paid for, came too late, or are a customer's second."""

import asyncio
import datetime as dt
import uuid
from typing import Any

import msgspec
import pytest
from ledger_lab import GUEST, Lab

from engine.bookings import JournalEntry
from engine.definition import Policy
from engine.events import SellableEvent
from engine.ids import BookingId, new_claim_id, parse_claim_id
from engine.lifecycle import SYSTEM
from engine.ports import Committed, Refused
from persistence import ledger_batch
from persistence.database import in_transaction
from persistence.steps import Step, lock_booking, take_step

pytest_plugins = ("ledger_fixtures",)

_INITIATED = """
    INSERT INTO bookings (id, event_id, customer_id, status, payment_status, version, epoch, first_leg, last_leg,
                          places, items, amount, currency, exclusive, sealed, created_at, updated_at, expires_at)
    VALUES ($1, $2, 'ana', 'payment_initiated', 'pending', 1, 0, 0, 1, $3, '[]', 9000, 'EUR', $4, $5, now(), now(),
            now() + interval '10 minutes')
"""


async def cancel(lab: Lab, booking_id: str) -> None:
    async def step(connection: Any) -> None:
        row = await lock_booking(connection, booking_id)
        await take_step(connection, row, Step(to_status="cancelled"), SYSTEM)

    await in_transaction(lab.engine, step)


async def commit(lab: Lab, sellable: SellableEvent, **fields: Any) -> Committed | Refused:
    return await lab.ledger.commit(lab.entry(sellable, **fields), sellable)


async def initiate(lab: Lab, sellable: SellableEvent, seat: int, *, exclusive: bool = False) -> JournalEntry:
    """The row that a payment begins with, and the entry that comes when it is paid."""
    booking_id = BookingId(new_claim_id(sellable.event.id))
    key = parse_claim_id(booking_id)
    assert key is not None
    details = lab.sealer.seal(GUEST, booking_id)
    await lab.fetch(_INITIATED, key.uuid, sellable.event.id, f"0:1;1#{seat}", exclusive, details)
    paid = GUEST.__class__(**{name: getattr(GUEST, name) for name in GUEST.__struct_fields__} | {"payment_id": "p-1"})
    return lab.entry(sellable, seats=(seat,), booking_id=booking_id, details=lab.sealer.seal(paid, booking_id))


async def test_entry_of_an_event_with_approval_is_written_as_pending_with_its_deadline(lab: Lab) -> None:
    sellable = await lab.event(policy=Policy(approval="manual", approval_ttl=600))

    outcome = await commit(lab, sellable, seats=(3,))

    assert isinstance(outcome, Committed)
    booking = outcome.booking
    assert (booking.status, booking.confirmed_at, booking.version) == ("pending", None, 1)
    assert booking.expires_at == booking.updated_at + dt.timedelta(seconds=600)
    assert await lab.bookings.find_booking(booking.id) == booking
    assert [row["type"] for row in await lab.fetch("SELECT type FROM outbox")] == ["booking.created"]
    assert (await lab.row_counts())["claims"] == 1  # the place is taken from now on
    assert [row["to_status"] for row in await lab.fetch("SELECT * FROM history")] == ["pending"]


async def test_verdict_stands_when_what_was_in_the_way_is_gone(lab: Lab) -> None:
    """A is sold seat 1, B is refused it, A is cancelled before B is undone; a second process drains B's entry."""
    sellable = await lab.event()
    first = await commit(lab, sellable, seats=(1,))
    assert isinstance(first, Committed)
    late = lab.entry(sellable, seats=(1,), customer_id="ben")
    assert await lab.ledger.commit(late, sellable) == Refused("places_taken")

    await cancel(lab, first.booking.id)
    assert (await lab.row_counts())["claims"] == 0
    another = lab.another_process()

    assert await another.commit(late, sellable) == Refused("places_taken")
    assert await another.commit_all([(late, sellable)]) == [Refused("places_taken")]
    assert await lab.bookings.find_booking(late.booking_id) is None
    fresh = await another.commit(lab.entry(sellable, seats=(1,), customer_id="ben"), sellable)
    assert isinstance(fresh, Committed)  # the verdict was on that one attempt
    await another.close()


async def test_verdict_on_counted_places_stands_as_well(lab: Lab) -> None:
    sellable = await lab.event(capacity=2)
    first = await commit(lab, sellable, count=2)
    assert isinstance(first, Committed)
    late = lab.entry(sellable, count=1, customer_id="ben")
    assert await lab.ledger.commit(late, sellable) == Refused("places_taken")
    await cancel(lab, first.booking.id)

    assert await lab.ledger.commit(late, sellable) == Refused("places_taken")
    assert await lab.value("SELECT sold FROM usage WHERE section = 0") == 0


@pytest.mark.parametrize("status", ["pending", "confirmed", "checked_in", "paid", "payment_initiated"])
async def test_customer_with_a_live_booking_is_refused_a_second_one(lab: Lab, status: str) -> None:
    sellable = await lab.event(policy=Policy(one_booking_per_customer=True))
    first = await commit(lab, sellable, seats=(1,))
    assert isinstance(first, Committed)
    await lab.fetch("UPDATE bookings SET status = $1", status)

    assert await commit(lab, sellable, seats=(2,)) == Refused("one_booking")
    assert isinstance(await commit(lab, sellable, seats=(2,), customer_id="ben"), Committed)


async def test_of_a_customers_entries_in_one_batch_the_first_is_written(lab: Lab) -> None:
    sellable = await lab.event(policy=Policy(one_booking_per_customer=True))
    entries = [lab.entry(sellable, seats=(seat,)) for seat in range(5)]
    others = [lab.entry(sellable, seats=(seat,), customer_id=f"c-{seat}") for seat in range(5, 10)]

    outcomes = await lab.ledger.commit_all([(entry, sellable) for entry in (*entries, *others)])

    assert outcomes == [None, *[Refused("one_booking")] * 4, *[None] * 5]
    assert (await lab.row_counts())["bookings"] == 6


async def test_of_a_customers_entries_in_two_processes_one_is_written(lab: Lab) -> None:
    sellable = await lab.event(policy=Policy(one_booking_per_customer=True))
    another = lab.another_process()
    for number in range(10):
        mine = lab.entry(sellable, count=1, customer_id=f"c-{number}")
        theirs = lab.entry(sellable, count=1, customer_id=f"c-{number}")

        outcomes = await asyncio.gather(lab.ledger.commit(mine, sellable), another.commit(theirs, sellable))

        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Committed", "Refused"]
        assert [one.reason for one in outcomes if isinstance(one, Refused)] == ["one_booking"]
    assert await lab.value("SELECT sold FROM usage WHERE section = 0") == 10
    await another.close()


async def test_customer_may_book_again_once_the_first_is_cancelled_and_the_refused_one_stays_refused(lab: Lab) -> None:
    sellable = await lab.event(policy=Policy(one_booking_per_customer=True))
    first = await commit(lab, sellable, seats=(1,))
    assert isinstance(first, Committed)
    late = lab.entry(sellable, seats=(2,))
    assert await lab.ledger.commit(late, sellable) == Refused("one_booking")

    await cancel(lab, first.booking.id)

    assert await lab.ledger.commit(late, sellable) == Refused("one_booking")
    assert isinstance(await commit(lab, sellable, seats=(2,)), Committed)


@pytest.mark.parametrize(("approval", "status"), [("auto", "confirmed"), ("manual", "pending")])
async def test_booking_whose_payment_came_first_is_advanced_through_paid(lab: Lab, approval: str, status: str) -> None:
    sellable = await lab.event(policy=Policy(approval=approval))
    entry = await initiate(lab, sellable, 4)

    outcome = await lab.ledger.commit(entry, sellable)

    assert isinstance(outcome, Committed)
    booking = outcome.booking
    assert (booking.status, booking.payment_status, booking.version) == (status, "held", 3)
    assert (booking.expires_at is None, booking.confirmed_at is None) == (status == "confirmed", status == "pending")
    steps = await lab.fetch("SELECT version, from_status, to_status FROM history ORDER BY version")
    assert [tuple(step.values()) for step in steps] == [(2, "payment_initiated", "paid"), (3, "paid", status)]
    told = [row["type"] for row in await lab.fetch("SELECT type FROM outbox ORDER BY id")]
    assert sorted(told) == sorted(["booking.status_changed"] + ["booking.confirmed"] * (status == "confirmed"))
    payloads = [msgspec.json.decode(row["payload"]) for row in await lab.fetch("SELECT payload FROM outbox")]
    assert {(said["status"], said["version"], "from_status" in said) for said in payloads} == {(status, 3, False)}
    assert await lab.value("SELECT count(*) FROM claims WHERE seat = 4") == 1

    again = await lab.another_process().commit(entry, sellable)
    assert again == outcome  # as a drain that comes later finds it


@pytest.mark.parametrize("epoch", ["current", "over"])
@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
async def test_booking_that_was_ended_before_its_payment_came_is_not_advanced(
    lab: Lab, status: str, epoch: str
) -> None:
    sellable = await lab.event()
    entry = await initiate(lab, sellable, 4)
    await lab.fetch("UPDATE bookings SET status = $1", status)
    if epoch == "over":
        await lab.fetch("UPDATE events SET epoch = epoch + 1")

    assert await lab.ledger.commit(entry, sellable) == Refused("ended")
    assert await lab.ledger.commit_all([(entry, sellable)]) == [Refused("ended")]
    assert (await lab.row_counts())["claims"] == 0
    assert await lab.ledger.find_standing(entry.booking_id) == "ended"


@pytest.mark.parametrize("epoch", ["current", "over"])
async def test_booking_that_was_paid_for_and_is_cancelled_since_was_written(lab: Lab, epoch: str) -> None:
    sellable = await lab.event()
    entry = await initiate(lab, sellable, 4)
    assert isinstance(await lab.ledger.commit(entry, sellable), Committed)
    await cancel(lab, entry.booking_id)
    if epoch == "over":
        await lab.fetch("UPDATE events SET epoch = epoch + 1")

    outcome = await lab.ledger.commit(entry, sellable)

    assert isinstance(outcome, Committed)
    assert outcome.booking.status == "cancelled"
    assert await lab.ledger.find_standing(entry.booking_id) == "written"


async def test_booking_that_waits_for_its_payment_is_ended_once_and_no_other_is(lab: Lab) -> None:
    sellable = await lab.event()
    waiting, written = await initiate(lab, sellable, 4), lab.entry(sellable, seats=(5,))
    assert isinstance(await lab.ledger.commit(written, sellable), Committed)
    absent = lab.entry(sellable, seats=(6,)).booking_id
    standings = [await lab.ledger.find_standing(one) for one in (waiting.booking_id, written.booking_id, absent)]
    assert standings == ["waiting", "written", "absent"]

    ended = [await lab.ledger.end_waiting(one) for one in (waiting.booking_id, written.booking_id, absent)]

    assert ended == [True, False, False]
    assert not await lab.ledger.end_waiting(waiting.booking_id)
    assert await lab.ledger.commit(waiting, sellable) == Refused("ended")


async def test_booking_that_is_paid_for_and_too_late_stays_as_it_was_and_owns_nothing(lab: Lab) -> None:
    sellable = await lab.event()
    assert isinstance(await commit(lab, sellable, seats=(4,), customer_id="ben"), Committed)
    entry = await initiate(lab, sellable, 4)

    assert await lab.ledger.commit(entry, sellable) == Refused("places_taken")

    booking = await lab.bookings.find_booking(entry.booking_id)
    assert booking is not None
    assert (booking.status, booking.version) == ("payment_initiated", 1)
    assert await lab.value("SELECT count(*) FROM claims WHERE seat = 4") == 1


async def test_booking_that_lost_its_seat_and_was_ended_before_the_verdict_is_ended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    sellable = await lab.event()
    assert isinstance(await commit(lab, sellable, seats=(4,), customer_id="ben"), Committed)
    entry = await initiate(lab, sellable, 4)
    give_verdicts = ledger_batch._give_verdicts

    async def too_late(*args: Any) -> Any:
        await lab.fetch("UPDATE bookings SET status = 'expired' WHERE status = 'payment_initiated'")
        return await give_verdicts(*args)

    monkeypatch.setattr(ledger_batch, "_give_verdicts", too_late)

    assert await lab.ledger.commit(entry, sellable) == Refused("ended")
    assert await lab.ledger.commit(entry, sellable) == Refused("ended")


async def test_payment_under_way_counts_as_the_customers_one_booking_and_can_be_advanced(lab: Lab) -> None:
    sellable = await lab.event(policy=Policy(one_booking_per_customer=True))
    entry = await initiate(lab, sellable, 4, exclusive=True)

    assert await commit(lab, sellable, seats=(5,)) == Refused("one_booking")
    assert isinstance(await lab.ledger.commit(entry, sellable), Committed)


async def test_step_gives_up_seats_and_counts_of_every_leg_and_nothing_else(lab: Lab) -> None:
    sellable = await lab.event(stops=["A", "B", "C", "D"])
    mine = await commit(lab, sellable, seats=(1, 2), count=3, legs=(0, 2))
    theirs = await commit(lab, sellable, seats=(1,), count=4, legs=(2, 3), customer_id="ben")
    assert isinstance(mine, Committed)
    assert isinstance(theirs, Committed)

    await cancel(lab, mine.booking.id)

    owners = await lab.fetch("SELECT DISTINCT booking_id FROM claims")
    assert [row["booking_id"] for row in owners] == [uuid_of(theirs.booking.id)]
    sold = await lab.fetch("SELECT leg, sold FROM usage WHERE section = 0 ORDER BY leg")
    assert [tuple(row.values()) for row in sold] == [(0, 0), (1, 0), (2, 4)]


def uuid_of(booking_id: str) -> uuid.UUID:
    key = parse_claim_id(booking_id)
    assert key is not None
    return key.uuid
