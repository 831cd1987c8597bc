"""Steps in the life of a booking over HTTP: each by those who may, from where the table says, and seen at once."""

import asyncio
from typing import Any

import pytest
from api_app import claim
from life_world import World, ok, path_of

from engine.lifecycle import STORED_STATUSES, TRANSITIONS, allowed_from
from persistence.database import driver_connection

pytest_plugins = ("life_fixtures",)

# The step of the table behind each URL, and a body that it takes.
STEPS: dict[str, tuple[str, Any]] = {
    "approve": ("approve", {}),
    "reject": ("reject", {"organizer_notes": "full"}),
    "cancel": ("cancel", {"reason": "ill"}),
    "check-in": ("check_in", None),
    "complete": ("complete", {}),
    "no-show": ("mark_no_show", None),
}
STAFF_STEPS = {path: step for path, step in STEPS.items() if path != "cancel"} | {"refund": ("", {"amount": 1})}


async def test_request_is_pending_and_keeps_its_places_until_it_is_approved(world: World) -> None:
    booking = await world.requested("A-1", "A-2")
    assert (booking["status"], booking["confirmed_at"]) == ("pending", None)
    assert booking["expires_at"] is not None
    rival = await world.ben.post("/v1/bookings", {"event_id": booking["event_id"]} | claim("A-1"))
    assert (rival.status_code, rival.json()["code"]) == (409, "places-unavailable")

    approval = {
        "organizer_notes": "north exit",
        "estimated_pickup_time": "2035-05-01T16:30:00Z",
        "estimated_dropoff_time": "2035-05-01T17:30:00Z",
    }
    answer = await world.olga.post(path_of(booking, "approve"), approval)

    approved = await ok(answer)
    assert {name: approved[name] for name in approval} == approval
    assert (approved["status"], approved["version"], approved["expires_at"]) == ("confirmed", 2, None)
    assert approved["confirmed_at"] is not None
    assert answer.headers["etag"] == '"2"'
    assert (await world.ana.get(path_of(booking))).json() == approved


async def test_rejection_says_why_and_its_places_can_be_booked_at_once(world: World) -> None:
    booking = await world.requested("A-1", floor=5)

    rejected = await ok(await world.olga.post(path_of(booking, "reject"), {"organizer_notes": "workshop"}))

    assert (rejected["status"], rejected["organizer_notes"], rejected["refunded"]) == ("rejected", "workshop", 0)
    again = await world.book(world.ben, booking["event_id"], "A-1", floor=5)
    assert again["status"] == "pending"


@pytest.mark.parametrize("body", [None, {}, {"organizer_notes": ""}, {"organizer_notes": "  "}, {"organizer_notes": 1}])
async def test_rejection_without_a_reason_names_the_field(world: World, body: Any) -> None:
    booking = await world.requested()
    answer = await world.olga.post(path_of(booking, "reject"), body)
    assert (answer.status_code, answer.json()["path"]) == (422, "$.organizer_notes")


async def test_history_tells_every_step_of_a_booking_and_who_took_it(world: World) -> None:
    booking = await world.requested()
    await ok(await world.olga.post(path_of(booking, "approve"), {}, x_request_id="req-1"))
    await ok(await world.ana.patch(path_of(booking), {"notes": "a guitar"}))
    await ok(await world.root.post(path_of(booking, "check-in")))
    await ok(await world.ana.post(path_of(booking, "cancel"), {"reason": "ill"}))

    page = await ok(await world.ana.get(path_of(booking, "history") + "?limit=3"))
    rest = await ok(await world.olga.get(path_of(booking, "history") + f"?cursor={page['next_cursor']}"))

    lines = page["items"] + rest["items"]
    assert [(line["version"], line["from"], line["to"], line["actor"], line["role"]) for line in lines] == [
        (1, None, "pending", "ana", "customer"),
        (2, "pending", "confirmed", "olga", "organizer"),
        (3, "confirmed", "confirmed", "ana", "customer"),
        (4, "confirmed", "checked_in", "root", "admin"),
        (5, "checked_in", "cancelled", "ana", "customer"),
    ]
    assert lines[1]["request_id"] == "req-1"
    assert lines[4]["reason"] == "ill"
    assert all(line["request_id"] and line["at"] for line in lines)
    assert rest["next_cursor"] is None
    assert (await world.ben.get(path_of(booking, "history"))).status_code == 404


@pytest.mark.parametrize("path", STEPS)
async def test_step_is_taken_from_where_the_table_says_and_refused_everywhere_else(world: World, path: str) -> None:
    step, body = STEPS[path]
    arrows = {arrow.from_status: arrow.to_status for arrow in TRANSITIONS if arrow.step == step}
    (to_status,) = set(arrows.values())
    sections = [{"id": "floor", "price": 4500, "capacity": 50}]
    event_id = await world.event(sections=sections)
    for status in STORED_STATUSES:
        booking = await world.book(world.ana, event_id, floor=1)
        await world.put(booking, status=status)

        answer = await world.olga.post(path_of(booking, path), body)

        if status in arrows:
            assert (await ok(answer))["status"] == to_status
            continue
        told = await ok(answer, 409)
        assert (told["code"], told["from"], told["to"]) == ("invalid-transition", status, to_status)
        assert told["allowed"] == list(allowed_from(status))
        assert (await ok(await world.ana.get(path_of(booking))))["version"] == 1


LAPSED = {"code": "invalid-transition", "from": "pending", "allowed": ["rejected", "cancelled", "expired"]}


@pytest.mark.parametrize(
    ("step", "body", "to_status"),
    [
        ("approve", {}, "confirmed"),
        ("transfer", {"customer_id": "ben"}, "pending"),
        ("", {"notes": "a guitar"}, "pending"),
        ("", {"items": [{"section": "stalls", "seats": ["A-2"]}]}, "pending"),
    ],
)
async def test_request_past_its_time_is_as_good_as_expired_though_no_reconciler_has_come(
    world: World, step: str, body: Any, to_status: str
) -> None:
    booking = await world.requested("A-1")
    await world.rows("UPDATE bookings SET expires_at = now() RETURNING 1")

    send = world.olga.post if step else world.olga.patch
    told = await ok(await send(path_of(booking, step), body), 409)

    assert {name: told[name] for name in LAPSED} == LAPSED
    assert told["to"] == to_status
    seen = await ok(await world.ana.get(path_of(booking)))
    assert (seen["status"], seen["version"]) == ("pending", 1)
    free = (await ok(await world.ana.get(f"/v1/events/{booking['event_id']}/seats")))["seats"]
    assert [seat["seat"] for seat in free if seat["status"] != "free"] == ["A-1"]


@pytest.mark.parametrize(("path", "to_status"), [("reject", "rejected"), ("cancel", "cancelled")])
async def test_request_past_its_time_can_still_be_ended(world: World, path: str, to_status: str) -> None:
    booking = await world.requested("A-1")
    await world.rows("UPDATE bookings SET expires_at = now() - interval '1 hour' RETURNING 1")
    _, body = STEPS[path]
    assert (await ok(await world.olga.post(path_of(booking, path), body)))["status"] == to_status


async def test_approval_that_waits_for_somebody_else_until_the_time_is_over_comes_too_late(world: World) -> None:
    booking = await world.requested("A-1")
    await world.rows("UPDATE bookings SET expires_at = now() + interval '400 milliseconds' RETURNING 1")
    async with driver_connection(world.services.bookings.engine) as connection, connection.transaction():
        await connection.fetch("SELECT 1 FROM bookings FOR UPDATE")
        approval = asyncio.create_task(world.olga.post(path_of(booking, "approve"), {}))
        await asyncio.sleep(0.6)
        assert not approval.done()
    assert (await ok(await approval, 409))["code"] == "invalid-transition"


async def test_approval_in_time_is_answered_again_when_the_time_is_over(world: World) -> None:
    booking = await world.requested("A-1")
    await ok(await world.olga.post(path_of(booking, "approve"), {}, idempotency_key="yes"))
    await world.rows("UPDATE bookings SET expires_at = now() - interval '1 hour' RETURNING 1")
    again = await world.olga.post(path_of(booking, "approve"), {}, idempotency_key="yes")
    assert (await ok(again))["status"] == "confirmed"


@pytest.mark.parametrize("path", STAFF_STEPS)
async def test_step_of_the_staff_is_not_for_customers_nor_for_other_organizers(world: World, path: str) -> None:
    booking = await world.requested()
    _, body = STAFF_STEPS[path]

    assert (await world.ana.post(path_of(booking, path), body)).status_code == 403
    assert (await world.ben.post(path_of(booking, path), body)).status_code == 403
    other = await world.otto.post(path_of(booking, path), body)
    assert (other.status_code, other.json()["code"]) == (404, "booking-not-found")
    assert (await ok(await world.ana.get(path_of(booking))))["version"] == 1


async def test_organizer_has_no_say_in_a_booking_of_theirs_on_anothers_event(world: World) -> None:
    event_id = await world.event(policy={"approval": "manual"})
    otto = world.person("otto", "organizer", "customer")
    booking = await world.book(otto, event_id)

    assert (await otto.post(path_of(booking, "approve"), {})).status_code == 403
    assert (await ok(await otto.post(path_of(booking, "cancel"))))["cancelled_by"] == "otto"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "cancel", None),
        ("PATCH", "", {"notes": "mine"}),
        ("GET", "refund-quote", None),
        ("GET", "history", None),
    ],
)
async def test_booking_of_somebody_else_is_not_there(world: World, method: str, path: str, body: Any) -> None:
    booking = await world.booked()
    answer = await world.ben.call(method, path_of(booking, path), body)
    assert (answer.status_code, answer.json()["code"]) == (404, "booking-not-found")


@pytest.mark.parametrize("booking_id", ["nonsense", "01jt2x9k4mzq8v7c5e3h1n6b0r~nowhere"])
async def test_step_of_a_booking_that_is_not_there_is_a_404(world: World, booking_id: str) -> None:
    for path, (_, body) in STEPS.items():
        answer = await world.root.post(f"/v1/bookings/{booking_id}/{path}", body)
        assert (answer.status_code, answer.json()["code"]) == (404, "booking-not-found")


async def test_check_in_completion_and_payment_on_the_spot_are_noted(world: World) -> None:
    booking = await world.booked()
    arrived = await ok(await world.olga.post(path_of(booking, "check-in")))
    assert (arrived["status"], arrived["payment_status"]) == ("checked_in", "none")
    assert arrived["checked_in_at"] is not None

    times = {"actual_pickup_time": "2035-05-01T16:31:00Z", "actual_dropoff_time": "2035-05-01T17:40:00Z"}
    done = await ok(await world.olga.post(path_of(booking, "complete"), times))

    assert {name: done[name] for name in times} == times
    assert (done["status"], done["payment_status"]) == ("completed", "completed")
    assert done["completed_at"] is not None


async def test_places_of_whoever_did_not_come_stay_taken(world: World) -> None:
    booking = await world.booked("A-1")
    assert (await ok(await world.olga.post(path_of(booking, "no-show"))))["status"] == "no_show"
    rival = await world.ben.post("/v1/bookings", {"event_id": booking["event_id"]} | claim("A-1"))
    assert rival.status_code == 409


async def test_what_goes_with_a_booking_is_changed_and_sealed_anew(world: World) -> None:
    booking = await world.booked()
    said = {
        "guest": {"name": "Ana Ruiz"},
        "attendees": [{"name": "Rui", "seat": "A-1"}],
        "notes": "a guitar",
        "metadata": {"campaign": "autumn"},
    }
    changed = await ok(await world.ana.patch(path_of(booking), said))
    assert {name: changed[name] for name in said} == said
    assert (changed["version"], changed["source"], changed["items"]) == (2, "api", booking["items"])

    again = await ok(await world.olga.patch(path_of(booking), {"guest": None}))

    assert (again["guest"], again["notes"], again["version"]) == (None, "a guitar", 3)
    (row,) = await world.rows("SELECT sealed FROM bookings WHERE event_id = $1", booking["event_id"])
    assert b"guitar" not in row["sealed"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$"),
        ({"guest": {"email": "nobody"}}, "$.guest.email"),
        ({"metadata": {"n": 2**60}}, "$.metadata.n"),
        ({"status": "confirmed"}, "$.status"),
        ({"metadata": {"text": "x" * 70_000}}, "$"),
        ({"attendees": [{"name": "Rui"}, {"name": "Ana"}]}, "$.attendees"),
        ({"attendees": [{"name": "Rui", "seat": "A-2"}]}, "$.attendees[0].seat"),
        ({"items": [{"section": "stalls", "seats": ["A-2"]}], "attendees": [{"seat": "A-1"}]}, "$.attendees[0].seat"),
    ],
)
async def test_change_that_cannot_be_kept_names_the_field(world: World, body: Any, path: str) -> None:
    booking = await world.booked()
    answer = await world.ana.patch(path_of(booking), body)
    assert (answer.status_code, answer.json()["path"]) == (422, path)


@pytest.mark.parametrize("status", sorted(set(STORED_STATUSES) - {"pending", "confirmed"}))
async def test_what_goes_with_a_booking_is_changed_only_while_it_is_pending_or_confirmed(
    world: World, status: str
) -> None:
    booking = await world.booked()
    await world.put(booking, status=status)
    told = await ok(await world.ana.patch(path_of(booking), {"notes": "late"}), 409)
    assert (told["code"], told["from"]) == ("invalid-transition", status)


async def test_moment_that_cannot_be_stored_is_refused(world: World) -> None:
    booking = await world.requested()
    answer = await world.olga.post(path_of(booking, "approve"), {"estimated_pickup_time": "9999-12-31T23:00:00Z"})
    assert (answer.status_code, answer.json()["path"]) == (422, "$.estimated_pickup_time")


@pytest.mark.parametrize(("step", "kind"), [("approve", "estimated"), ("complete", "actual")])
async def test_ride_that_ends_before_it_begins_is_refused(world: World, step: str, kind: str) -> None:
    booking = await (world.requested() if step == "approve" else world.booked())
    times = {f"{kind}_pickup_time": "2035-05-01T17:00:00Z", f"{kind}_dropoff_time": "2035-05-01T18:59:59+02:00"}
    refused = await world.olga.post(path_of(booking, step), times)
    assert (refused.status_code, refused.json()["path"]) == (422, f"$.{kind}_dropoff_time")
    await ok(await world.olga.post(path_of(booking, step), dict.fromkeys(times, "2035-05-01T17:00:00Z")))


async def test_admin_lists_all_bookings_with_the_usual_filters(world: World) -> None:
    mine, theirs = await world.requested(), await world.booked()
    everything = await ok(await world.root.get("/v1/admin/bookings"))
    pending = await ok(await world.root.get(f"/v1/admin/bookings?status=pending&event_id={mine['event_id']}"))
    named = await ok(await world.root.get(f"/v1/admin/bookings?q={theirs['reference']}"))

    assert {one["id"] for one in everything["items"]} == {mine["id"], theirs["id"]}
    assert [one["id"] for one in pending["items"]] == [mine["id"]]
    assert [one["id"] for one in named["items"]] == [theirs["id"]]
    assert (await world.olga.get("/v1/admin/bookings")).status_code == 403


async def test_version_that_has_been_overtaken_is_told_and_changes_nothing(world: World) -> None:
    booking = await world.requested()
    await ok(await world.ana.patch(path_of(booking), {"notes": "a guitar"}))

    for headers, body in (({"if_match": '"1"'}, {}), ({}, {"expected_version": 1})):
        told = await ok(await world.olga.post(path_of(booking, "approve"), body, **headers), 409)
        assert (told["code"], told["current_version"]) == ("version-conflict", 2)

    approved = await ok(await world.olga.post(path_of(booking, "approve"), {"expected_version": 2}, if_match='"2"'))
    assert (approved["status"], approved["version"]) == ("confirmed", 3)
