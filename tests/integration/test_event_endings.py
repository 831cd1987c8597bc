"""An event's figures, and cancelling it: no sale from then on, and every booking refunded in the background."""

import asyncio
import datetime as dt
from typing import Any

import pytest
from api_app import claim
from life_world import World, ok, path_of, until_so

from persistence.aftercare import LEASE_S, SOON_S, Aftercare

pytest_plugins = ("life_fixtures",)

CONTRACT = {
    "total_requests",
    "pending",
    "approved",
    "rejected",
    "cancelled",
    "completed",
    "seats_booked",
    "revenue",
    "refunded",
    "occupancy_percent",
    "holds_active",
    "conversion_percent",
}


async def statistics(world: World, event_id: str) -> dict[str, Any]:
    told: dict[str, Any] = await ok(await world.olga.get(f"/v1/events/{event_id}/statistics"))
    return told


async def progress(world: World, event_id: str) -> dict[str, int]:
    told: dict[str, int] = (await ok(await world.olga.get(f"/v1/events/{event_id}")))["cancellation"]
    return told


async def crowd(world: World, count: int, **members: Any) -> str:
    """An event with *count* bookings of one place each, by as many customers."""
    event_id = await world.event(sections=[{"id": "floor", "price": 1000, "capacity": count}], **members)
    people = [world.person(f"person-{number}", "customer") for number in range(count)]
    for start in range(0, count, 50):
        await asyncio.gather(*(world.book(person, event_id, floor=1) for person in people[start : start + 50]))
    return event_id


async def test_statistics_have_the_contracts_members_and_nothing_to_tell_of_a_draft(world: World) -> None:
    draft = await ok(
        await world.olga.post("/v1/events", {"name": "x", "starts_at": "2035-05-01T19:00:00Z", "currency": "EUR"}), 201
    )
    told = await statistics(world, draft["id"])
    assert told.keys() == CONTRACT
    assert set(told.values()) == {0}


async def test_statistics_count_requests_money_and_places(world: World) -> None:
    event_id = await world.event(
        policy={"approval": "manual"}, sections=[{"id": "floor", "price": 1000, "capacity": 20}]
    )
    quantities = {"ana": 4, "ben": 3, "cyd": 2, "dee": 1, "eve": 5}
    made = {
        name: await world.book(world.person(name, "customer"), event_id, floor=quantity)
        for name, quantity in quantities.items()
    }
    await ok(await world.olga.post(path_of(made["ben"], "reject"), {"organizer_notes": "full"}))
    for name in ("ana", "cyd", "dee"):
        await ok(await world.olga.post(path_of(made[name], "approve")))
    await ok(await world.olga.post(path_of(made["cyd"], "complete")))
    await ok(await world.olga.post(path_of(made["dee"], "cancel"), {"reason": "no"}))
    await ok(await world.olga.post(path_of(made["ana"], "refund"), {"amount": 500, "reason": "rain"}))
    await ok(await world.ben.post(f"/v1/events/{event_id}/holds", claim(floor=2)), 201)

    assert await statistics(world, event_id) == {
        "total_requests": 5,
        "pending": 1,
        "approved": 2,
        "rejected": 1,
        "cancelled": 1,
        "completed": 1,
        "seats_booked": 6,
        "revenue": 4 * 1000 + 2 * 1000 - 500,
        "refunded": 1000 + 500,
        "occupancy_percent": 30.0,
        "holds_active": 1,
        "conversion_percent": 60.0,
    }


async def test_what_a_cancellation_keeps_is_revenue(world: World) -> None:
    soon = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=12)).isoformat()
    booking = await world.booked("A-1", starts_at=soon)
    await ok(await world.ana.post(path_of(booking, "cancel")))
    told = await statistics(world, booking["event_id"])
    assert (told["revenue"], told["refunded"], told["seats_booked"]) == (4500, 4500, 0)


async def test_occupancy_is_of_all_places_on_all_legs(world: World) -> None:
    event_id = await world.event(
        stops=["A", "B", "C", "D", "E"], sections=[{"id": "car", "price": 100, "capacity": 10}]
    )
    ride = {"event_id": event_id, "items": [{"section": "car", "quantity": 6}], "from": "B", "to": "E"}
    await ok(await world.ana.post("/v1/bookings", ride), 201)
    told = await statistics(world, event_id)
    assert (told["seats_booked"], told["occupancy_percent"]) == (6, 45.0)


async def test_statistics_and_cancelling_are_the_organizers(world: World) -> None:
    event_id = await world.event()
    for person, status in ((world.ana, 403), (world.otto, 403), (world.root, 200)):
        assert (await person.get(f"/v1/events/{event_id}/statistics")).status_code == status
    for person, status in ((world.ana, 403), (world.otto, 403), (world.root, 200)):
        assert (await person.post(f"/v1/events/{event_id}/cancel")).status_code == status


async def test_cancelled_event_takes_no_holds_and_no_hold_becomes_a_booking(world: World) -> None:
    event_id = await world.event()
    hold = await ok(await world.ana.post(f"/v1/events/{event_id}/holds", claim("A-1")), 201)

    cancelled = await ok(await world.olga.post(f"/v1/events/{event_id}/cancel", {"expected_version": 2}))

    assert (cancelled["status"], cancelled["version"]) == ("cancelled", 3)
    refused = await world.ben.post(f"/v1/events/{event_id}/holds", claim("A-2"))
    assert (refused.status_code, refused.json()["code"]) == (409, "event-not-open")
    refused = await world.ana.post("/v1/bookings", {"hold_id": hold["id"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "event-not-open")
    told = await ok(await world.olga.post(f"/v1/events/{event_id}/open"), 409)
    assert (told["code"], told["from"]) == ("invalid-transition", "cancelled")


async def test_draft_can_be_cancelled_and_a_cancelled_event_once_more(world: World) -> None:
    definition = {"name": "x", "starts_at": "2035-05-01T19:00:00Z", "currency": "EUR"}
    draft = await ok(await world.olga.post("/v1/events", definition), 201)
    for _ in range(2):
        cancelled = await ok(await world.olga.post(f"/v1/events/{draft['id']}/cancel"))
        assert (cancelled["status"], cancelled["cancellation"]) == ("cancelled", {"bookings": 0, "done": 0})


async def test_bookings_of_a_cancelled_event_are_refunded_in_full_with_progress_to_see(world: World) -> None:
    event_id = await crowd(world, 300, policy={"refunds": []})

    cancelled = await ok(await world.olga.post(f"/v1/events/{event_id}/cancel"))

    assert cancelled["cancellation"]["bookings"] == 300

    async def done() -> bool:
        told = await progress(world, event_id)
        assert told["bookings"] == 300
        return told["done"] == 300

    await until_so(done, within_s=30)
    rows = await world.rows("SELECT * FROM bookings WHERE event_id = $1", event_id)
    assert {(row["status"], row["refunded"], row["cancelled_by"], row["cancellation_reason"]) for row in rows} == {
        ("cancelled", 1000, "holdfast", "the event was cancelled")
    }
    (line,) = await world.rows("SELECT count(*) FROM history WHERE role = 'system' AND to_status = 'cancelled'")
    assert line["count"] == 300
    (sold,) = await world.rows("SELECT sold FROM usage WHERE event_id = $1", event_id)
    assert sold["sold"] == 0
    audit = await ok(await world.root.get(f"/v1/admin/audit?event_id={event_id}"))
    assert audit["drift"] == 0
    assert (await ok(await world.ana.get(f"/v1/events/{event_id}")))["cancellation"] is None  # not theirs to know


async def test_entity_tag_of_a_cancelled_event_changes_as_its_cancelling_goes_on(world: World) -> None:
    event_id = await crowd(world, 60)
    path = f"/v1/events/{event_id}"
    cancelled = await world.olga.post(f"{path}/cancel")
    told = {cancelled.headers["etag"]: cancelled.json()}
    tag = cancelled.headers["etag"]

    async def at_its_end() -> bool:
        nonlocal tag
        answer = await world.olga.get(path, if_none_match=tag)
        tag = answer.headers["etag"]
        if answer.status_code == 200:
            assert told.setdefault(tag, answer.json()) == answer.json()
        return told[tag]["cancellation"] == {"bookings": 60, "done": 60}

    await until_so(at_its_end, within_s=30)
    assert len(told) > 1
    unchanged = await world.olga.get(path, if_none_match=tag)
    assert (unchanged.status_code, unchanged.headers["etag"]) == (304, tag)
    customers = await world.ana.get(path)
    assert (customers.headers["etag"], customers.json()["cancellation"]) == ('"3"', None)
    for known in told:  # whichever was told, it names this version
        assert (await world.olga.post(f"{path}/cancel", if_match=known)).status_code == 200
    for other in ('"2-60-60"', f"W/{tag}", '"33-60-60"'):
        refused = await world.olga.post(f"{path}/cancel", if_match=other)
        assert (refused.status_code, refused.json()["code"]) == (409, "version-conflict")


async def test_cancelling_goes_on_where_a_process_has_died_once_its_lease_has_lapsed(world: World) -> None:
    event_id = await crowd(world, 60)
    aftercare = world.services.aftercare
    begun, aftercare.begin = aftercare.begin, lambda _: None  # type: ignore[method-assign]
    await ok(await world.olga.post(f"/v1/events/{event_id}/cancel"))
    first = asyncio.create_task(aftercare.take_care(event_id))

    async def under_way() -> bool:
        return 0 < (await progress(world, event_id))["done"] < 60

    await until_so(under_way, within_s=10)
    first.cancel()  # as a process that is killed: nothing of it is put in order
    await asyncio.gather(first, return_exceptions=True)
    done = (await progress(world, event_id))["done"]
    second = Aftercare(world.services.bookings.engine, world.services.desk)
    assert await second.take_care(event_id) == 0  # the lease of the first still stands
    (row,) = await world.rows("SELECT aftercare_at - now() AS left FROM events WHERE id = $1", event_id)
    assert dt.timedelta() < row["left"] <= dt.timedelta(seconds=LEASE_S)
    await world.rows("UPDATE events SET aftercare_at = now() WHERE id = $1 RETURNING 1", event_id)

    ended = await asyncio.gather(*(second.take_care(event_id) for _ in range(3)))

    assert sorted(ended) == [0, 0, 60 - done]
    assert await progress(world, event_id) == {"bookings": 60, "done": 60}
    aftercare.begin = begun  # type: ignore[method-assign]


async def test_booking_that_comes_late_out_of_a_journal_is_cancelled_at_the_next_look(world: World) -> None:
    booking = await world.booked("A-1")
    event_id = booking["event_id"]
    await world.put(booking, status="rejected")  # as good as not there
    await ok(await world.olga.post(f"/v1/events/{event_id}/cancel"))

    async def is_looked_through() -> bool:
        (row,) = await world.rows("SELECT aftercare_at - now() AS pause FROM events WHERE id = $1", event_id)
        return dt.timedelta() < row["pause"] <= dt.timedelta(seconds=SOON_S)

    await until_so(is_looked_through, within_s=5)
    await world.put(booking, status="confirmed")
    await world.rows("UPDATE events SET aftercare_at = now() WHERE id = $1 RETURNING 1", event_id)

    assert await world.services.aftercare.take_care(event_id) == 1
    assert (await ok(await world.ana.get(path_of(booking))))["status"] == "cancelled"


@pytest.mark.parametrize(("age", "pause"), [("1 minute", 10), ("1 hour", 600), ("25 hours", None)])
async def test_event_of_which_nothing_is_left_is_looked_at_again_for_a_day(
    world: World, age: str, pause: int | None
) -> None:
    event_id = await world.event()
    await world.rows(
        f"UPDATE events SET status = 'cancelled', updated_at = now() - interval '{age}', aftercare_at = now() "
        "WHERE id = $1 RETURNING 1",
        event_id,
    )
    await world.services.aftercare.take_care(event_id)

    (row,) = await world.rows("SELECT aftercare_at - now() AS pause FROM events WHERE id = $1", event_id)
    assert (None if row["pause"] is None else round(row["pause"].total_seconds())) == pause


async def test_one_booking_that_cannot_be_ended_holds_up_no_other(world: World) -> None:
    event_id = await crowd(world, 5)
    bad = (await ok(await world.olga.get(f"/v1/events/{event_id}/bookings")))["items"][-1]
    await world.put(bad, items="{}")
    aftercare = world.services.aftercare
    aftercare.begin = lambda _: None  # type: ignore[method-assign]
    await ok(await world.olga.post(f"/v1/events/{event_id}/cancel"))

    with pytest.raises(ValueError, match="array"):
        await aftercare.take_care(event_id)

    rows = await world.rows("SELECT status FROM bookings WHERE event_id = $1", event_id)
    assert {row["status"] for row in rows} == {"cancelled"}
    audit = await ok(await world.root.get(f"/v1/admin/audit?event_id={event_id}"))
    assert audit["drift"] == 0


async def test_event_that_is_cancelled_while_it_is_looked_through_stays_due(world: World) -> None:
    event_id = await world.event()
    await world.rows("UPDATE events SET aftercare_at = now() WHERE id = $1 RETURNING 1", event_id)
    aftercare = world.services.aftercare
    aftercare.begin = lambda _: None  # type: ignore[method-assign]
    put_off = aftercare._put_off

    async def cancelled_first(*arguments: Any) -> Any:
        await ok(await world.olga.post(f"/v1/events/{event_id}/cancel"))
        return await put_off(*arguments)

    aftercare._put_off = cancelled_first  # type: ignore[method-assign]
    await aftercare.take_care(event_id)

    assert await aftercare.find_due(limit=10) == [event_id]
