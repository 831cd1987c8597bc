"""The reconciler ends what nobody asks to be ended: requests past their deadline, bookings of events that are over."""

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from reconciling import Installation, reconciling, until
from sqlalchemy.exc import SQLAlchemyError

from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.dead_letters import scan_letters
from engine.definition import Policy
from engine.mending import retry
from holdfast.compose import make_equipment, open_parts
from holdfast.settings import Settings, load_settings
from persistence import aftercare, deadlines
from persistence.database import driver_connection
from persistence.deadlines import LapsedRequests, purge_refusals
from persistence.reconciling.single_round import SingleRound

pytest_plugins = ("ledger_fixtures",)

MANUAL = Policy(approval="manual", approval_ttl=3600)


@pytest.fixture
def settings(redis_url: str, fresh_database: Callable[..., str], migrated_database: str, tmp_path: Path) -> Settings:
    return load_settings(
        {
            "REDIS_URL": redis_url,
            "DATABASE_URL": fresh_database(template=migrated_database),
            "HOLDFAST_DATA_DIR": str(tmp_path),
            "HOLDFAST_PARTITIONS": "4",
        }
    )


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[Installation]:
    async with open_parts(settings) as parts:
        yield Installation(parts, settings)


async def let_lapse(shop: Installation) -> None:
    await shop.postgres("UPDATE bookings SET expires_at = now() - interval '1 second' WHERE status = 'pending'")


async def end_event(shop: Installation, event_id: str) -> None:
    """Have the event be over, as far as the ledger knows: nobody can wait for one in a test."""
    await shop.postgres("UPDATE events SET aftercare_at = now() WHERE id = $1", event_id)


async def break_first(shop: Installation, count: int) -> None:
    """Have Postgres refuse every change of the first *count* bookings."""
    await shop.postgres(
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken row'; END $$"
    )
    (row,) = await shop.postgres("SELECT number FROM bookings ORDER BY number LIMIT 1 OFFSET $1 - 1", count)
    await shop.postgres(
        f"CREATE TRIGGER broken BEFORE UPDATE ON bookings FOR EACH ROW WHEN (old.number <= {row['number']}) "
        "EXECUTE FUNCTION broken()"
    )


async def until_status(shop: Installation, booking_id: str, status: str) -> None:
    began = time.monotonic()
    while (now := await shop.status_of(booking_id)) != status:
        assert time.monotonic() - began < 5, now
        await asyncio.sleep(0.02)


async def book_again(shop: Installation, event_id: str, seat: str) -> None:
    claim = ClaimRequest([ItemRequest("stalls", seats=[seat])])
    await shop.parts.reservations.book(event_id, claim, BookingDetails(), customer_id="cy")


async def test_request_that_nobody_approves_in_time_lapses_and_its_places_are_free(shop: Installation) -> None:
    event = await shop.open_event("gig", policy=MANUAL)
    booking_id = await shop.book("gig")
    async with reconciling(shop.settings) as reconciler:
        assert await shop.status_of(booking_id) == "pending"
        await let_lapse(shop)

        await until_status(shop, booking_id, "expired")
        await until(lambda: reconciler.figures.done.get("expire") == 1, within_s=2)

    await book_again(shop, event.event.id, "A-1")
    (line,) = await shop.postgres("SELECT * FROM history WHERE to_status = 'expired'")
    assert (line["actor"], line["role"], line["reason"]) == ("holdfast", "system", "nobody approved it in time")
    (told,) = await shop.postgres("SELECT type FROM outbox WHERE type = 'booking.expired'")
    assert told["type"] == "booking.expired"


async def test_several_reconcilers_at_once_lapse_each_request_once(shop: Installation) -> None:
    await shop.open_event("gig", policy=MANUAL)
    for number in range(1, 11):
        await shop.book("gig", f"A-{number}")
    await let_lapse(shop)

    counts = await asyncio.gather(*(LapsedRequests(shop.parts.database, shop.parts.desk).end_some() for _ in range(4)))

    assert sum(counts) == 10
    (row,) = await shop.postgres("SELECT count(*) AS lines FROM history WHERE to_status = 'expired'")
    assert row["lines"] == 10


async def test_approval_at_the_last_moment_and_lapsing_never_both_hold(shop: Installation) -> None:
    await shop.open_event("gig", policy=MANUAL)
    booking_id = await shop.book("gig")
    await let_lapse(shop)
    await shop.postgres("UPDATE bookings SET status = 'confirmed', version = 2")

    assert await LapsedRequests(shop.parts.database, shop.parts.desk).end_some() == 0
    assert await shop.status_of(booking_id) == "confirmed"


async def test_requests_that_cannot_be_ended_keep_no_others_waiting(
    shop: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "PAGE", 2)
    await shop.open_event("gig", policy=MANUAL)
    ids = [await shop.book("gig", f"A-{number}") for number in range(1, 7)]
    await let_lapse(shop)
    await shop.postgres("UPDATE bookings SET expires_at = expires_at + number * interval '1 microsecond'")
    await break_first(shop, 4)
    requests = LapsedRequests(shop.parts.database, shop.parts.desk)

    for _ in range(2):
        with pytest.raises(SQLAlchemyError, match="broken row"):
            await requests.end_some(pages_max=1)
    assert await requests.end_some(pages_max=1) == 2

    assert [await shop.status_of(booking_id) for booking_id in ids] == ["pending"] * 4 + ["expired"] * 2
    await shop.postgres("DROP TRIGGER broken ON bookings")
    assert sum([await requests.end_some() for _ in range(3)]) == 4, "they are tried again"


async def test_bookings_that_cannot_be_ended_keep_no_others_of_their_event_waiting(
    shop: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aftercare, "PAGE", 2)
    await shop.open_event("gig", policy=Policy(after_event="complete"))
    ids = [await shop.book("gig", f"A-{number}") for number in range(1, 7)]
    await end_event(shop, "gig")
    await break_first(shop, 4)
    care = shop.parts.aftercare

    for _ in range(2):
        with pytest.raises(SQLAlchemyError, match="broken row"):
            await care.take_care("gig", at_most_s=0.0)
    assert await care.take_care("gig", at_most_s=0.0) == 2
    assert [await shop.status_of(booking_id) for booking_id in ids] == ["confirmed"] * 4 + ["completed"] * 2

    with pytest.raises(SQLAlchemyError, match="broken row"):
        await care.take_care("gig")
    (event,) = await shop.postgres("SELECT aftercare_at - now() AS pause FROM events")
    assert dt.timedelta() < event["pause"] <= dt.timedelta(seconds=aftercare.LEASE_S), "they are tried again"
    await shop.postgres("DROP TRIGGER broken ON bookings")
    await end_event(shop, "gig")
    assert await care.take_care("gig") == 4


async def test_event_with_bookings_that_cannot_be_ended_is_named_and_keeps_no_other_waiting(
    shop: Installation,
) -> None:
    for event_id in ("bad", "good"):
        await shop.open_event(event_id, policy=Policy(after_event="complete"))
        await shop.book(event_id)
        await end_event(shop, event_id)
    await break_first(shop, 1)

    found = await SingleRound(make_equipment(shop.parts, shop.settings), dry_run=False).run()

    assert (found.verdict, found.ended) == ("person", 1)
    assert [event.event_id for event in found.events if event.error and "broken row" in event.error] == ["bad"]


async def leave_for_good(shop: Installation, event_id: str) -> None:
    """Look through the bookings of a cancelled event until nobody will again, which takes a day."""
    await shop.postgres("UPDATE events SET updated_at = now() - interval '25 hours', aftercare_at = now()")
    await shop.parts.aftercare.take_care(event_id)
    (event,) = await shop.postgres("SELECT aftercare_at FROM events")
    assert event["aftercare_at"] is None


@pytest.mark.parametrize("how", ["drained", "retried"])
async def test_booking_that_is_written_long_after_its_event_was_cancelled_is_cancelled_too(
    shop: Installation, how: str
) -> None:
    event, parts = await shop.open_event("gig"), shop.parts
    late = await shop.leave_behind(event, age_s=26 * 3600)
    if how == "retried":
        await shop.postgres("ALTER TABLE bookings ADD CONSTRAINT nobody CHECK (customer_id <> 'cy') NOT VALID")
        await parts.drainer.drain_now(parts.kernel.partition_of(event))
        await shop.postgres("ALTER TABLE bookings DROP CONSTRAINT nobody")
    await parts.reservations.publish(await parts.events.transition("gig", "cancelled"))
    await leave_for_good(shop, "gig")

    if how == "drained":
        await parts.drainer.drain_now(parts.kernel.partition_of(event))
    else:
        (letter,) = [one async for one in scan_letters(parts.kernel, parts.kernel.partition_of(event))]
        again = parts.reservations.accept_again
        retried = await retry(parts.kernel, parts.settlement, parts.catalog, parts.ledger, letter, accept_again=again)
        assert retried.outcome == "written"

    assert await shop.status_of(late) == "confirmed"
    assert await parts.aftercare.find_due(limit=5) == ["gig"]
    assert await parts.aftercare.take_care("gig") == 1
    assert await shop.status_of(late) == "cancelled"
    assert (await shop.postgres("SELECT aftercare_at FROM events"))[0]["aftercare_at"] is None
    assert (await parts.oversight.audit("gig")).drift == 0


async def test_last_look_at_an_event_waits_for_a_booking_that_is_being_written(shop: Installation) -> None:
    event = await shop.open_event("gig")
    for seat in ("A-1", "A-2"):
        await shop.book("gig", seat)
    await shop.parts.reservations.publish(await shop.parts.events.transition("gig", "cancelled"))
    await shop.parts.aftercare.take_care("gig")
    await shop.postgres("UPDATE events SET updated_at = now() - interval '25 hours', aftercare_at = now()")

    async with driver_connection(shop.parts.database) as connection, connection.transaction():
        await connection.execute("SELECT FROM events WHERE id = $1 FOR KEY SHARE", event.event.id)
        looking = asyncio.create_task(shop.parts.aftercare.take_care("gig"))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE%'"
        began = time.monotonic()
        while (await shop.postgres(waits))[0][0] == 0 and not looking.done():
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.01)
        await connection.execute("UPDATE bookings SET status = 'confirmed' WHERE number = 1")
    await looking

    (row,) = await shop.postgres("SELECT aftercare_at - now() AS pause FROM events")
    assert row["pause"] is not None
    assert row["pause"] <= dt.timedelta(seconds=aftercare.SOON_S)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("keep", {"pending": "pending", "confirmed": "confirmed", "checked_in": "checked_in"}),
        ("complete", {"pending": "expired", "confirmed": "completed", "checked_in": "completed"}),
        ("no_show", {"pending": "expired", "confirmed": "no_show", "checked_in": "completed"}),
    ],
)
async def test_bookings_of_an_event_that_is_over_become_what_its_policy_says(
    shop: Installation, policy: str, expected: dict[str, str]
) -> None:
    await shop.open_event("gig", policy=Policy(after_event=policy))
    made = {status: await shop.book("gig", f"A-{number}") for number, status in enumerate(expected, start=1)}
    for number, status in enumerate(expected, start=1):
        await shop.postgres("UPDATE bookings SET status = $2 WHERE places LIKE '%#' || $1", str(number - 1), status)
    await end_event(shop, "gig")

    async with reconciling(shop.settings):
        for status, end in expected.items():
            await until_status(shop, made[status], end)

    (row,) = await shop.postgres("SELECT aftercare_at FROM events")
    assert row["aftercare_at"] is None or row["aftercare_at"] > dt.datetime.now(dt.UTC)
    told = await shop.postgres("SELECT DISTINCT reason FROM history WHERE role = 'system'")
    assert [line["reason"] for line in told] == ([] if policy == "keep" else ["the event is over"])


async def test_event_is_due_when_it_ends_or_a_day_after_its_start(shop: Installation) -> None:
    await shop.open_event("short", ends_at=dt.datetime(2035, 5, 1, 22, tzinfo=dt.UTC))
    await shop.open_event("open-ended")
    rows = await shop.postgres("SELECT id, aftercare_at FROM events")
    assert {row["id"]: row["aftercare_at"] for row in rows} == {
        "short": dt.datetime(2035, 5, 1, 22, tzinfo=dt.UTC),
        "open-ended": dt.datetime(2035, 5, 2, 19, tzinfo=dt.UTC),
    }


async def test_single_round_finds_what_it_would_end_and_then_ends_it(shop: Installation) -> None:
    await shop.open_event("asked", policy=MANUAL)
    await shop.open_event("over", policy=Policy(after_event="complete"))
    request, booking = await shop.book("asked"), await shop.book("over")
    await let_lapse(shop)
    await end_event(shop, "over")
    equipment = make_equipment(shop.parts, shop.settings)

    found = await SingleRound(equipment, dry_run=True).run()
    assert (found.lapsed, found.ended, found.verdict) == (1, 1, "clean")
    assert (await shop.status_of(request), await shop.status_of(booking)) == ("pending", "confirmed")

    done = await SingleRound(equipment, dry_run=False).run()
    assert (done.lapsed, done.ended, done.verdict) == (1, 1, "clean")
    assert [(event.event_id, event.ended) for event in done.events if event.ended] == [("over", 1)]
    assert (await shop.status_of(request), await shop.status_of(booking)) == ("expired", "completed")

    again = await SingleRound(equipment, dry_run=False).run()
    assert (again.lapsed, again.ended) == (0, 0)


async def test_single_round_of_one_event_leaves_the_others_alone(shop: Installation) -> None:
    for event_id in ("one", "other"):
        await shop.open_event(event_id, policy=Policy(after_event="complete"))
        await shop.book(event_id)
        await end_event(shop, event_id)

    done = await SingleRound(make_equipment(shop.parts, shop.settings), dry_run=False).run(["one"])

    assert done.ended == 1
    rows = await shop.postgres("SELECT event_id, status FROM bookings")
    assert {row["event_id"]: row["status"] for row in rows} == {"one": "completed", "other": "confirmed"}


async def test_event_that_is_over_is_not_loaded_to_free_a_place(shop: Installation) -> None:
    event = await shop.open_event("gig", policy=Policy(after_event="no_show"))
    booking_id = await shop.book("gig")
    shop.redis.flushall()
    await shop.postgres("UPDATE events SET status = 'cancelled', version = version + 1, aftercare_at = now()")
    shop.parts.catalog.forget("gig")

    assert await shop.parts.aftercare.take_care("gig") == 1

    assert await shop.status_of(booking_id) == "cancelled"
    assert not shop.is_loaded(event)


async def test_event_on_sale_that_redis_has_lost_is_loaded_when_a_booking_of_it_ends(shop: Installation) -> None:
    event = await shop.open_event("gig", policy=MANUAL)
    await shop.book("gig")
    shop.redis.flushall()
    await let_lapse(shop)

    assert await LapsedRequests(shop.parts.database, shop.parts.desk).end_some() == 1

    assert shop.is_loaded(event)
    await book_again(shop, "gig", "A-1")


async def test_verdicts_are_forgotten_after_a_week(shop: Installation) -> None:
    await shop.postgres(
        "INSERT INTO refused_bookings SELECT gen_random_uuid(), 'places_taken', now() - interval '1 day' * age "
        "FROM unnest(ARRAY[0, 6, 8, 30]) AS given(age)"
    )
    assert await purge_refusals(shop.parts.database) == 2
    (row,) = await shop.postgres("SELECT count(*) AS kept FROM refused_bookings")
    assert row["kept"] == 2
