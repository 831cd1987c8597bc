"""Steps in the life of a booking over HTTP: each by those who may, from where the table says, and seen at once."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from api_app import Person, claim, composed, connected, open_event

from api.services import Services
from persistence.database import driver_connection

EVERYTHING = {
    "approve": {},
    "reject": {"organizer_notes": "full"},
    "cancel": {"reason": "ill"},
    "check-in": None,
    "complete": {},
    "no-show": None,
}
STEP_OF_PATH = {
    "approve": "approve",
    "reject": "reject",
    "cancel": "cancel",
    "check-in": "check_in",
    "complete": "complete",
    "no-show": "mark_no_show",
}
GIVING_UP = ("cancelled", "rejected", "expired")


class World:
    """An application over real servers, and the people who call it."""

    def __init__(self, services: Services, client: httpx2.AsyncClient) -> None:
        self.services = services
        self.client = client
        self.ana = Person(client, "ana", "customer")
        self.ben = Person(client, "ben", "customer")
        self.olga = Person(client, "olga", "organizer")
        self.otto = Person(client, "otto", "organizer")
        self.root = Person(client, "root", "admin")

    async def requested(self, *seats: str, floor: int = 0, **members: Any) -> dict[str, Any]:
        """A booking of ana's that waits for olga's approval."""
        policy = {"approval": "manual"} | members.pop("policy", {})
        return await self.booked(*seats, floor=floor, policy=policy, **members)

    async def booked(self, *seats: str, floor: int = 0, **members: Any) -> dict[str, Any]:
        """A booking of ana's on an event of its own."""
        event_id = await open_event(self.olga, **members)
        return await self.book(self.ana, event_id, *seats, floor=floor)

    async def book(self, person: Person, event_id: str, *seats: str, floor: int = 0) -> dict[str, Any]:
        response = await person.post("/v1/bookings", {"event_id": event_id} | claim(*(seats or ("A-1",)), floor=floor))
        assert response.status_code == 201, response.text
        booking: dict[str, Any] = response.json()
        return booking

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        async with driver_connection(self.services.bookings.engine) as connection:
            rows: list[Any] = await connection.fetch(statement, *arguments)
            return rows


@pytest.fixture
async def world(redis_url: str, database_url: str) -> AsyncIterator[World]:
    async with composed(redis_url, database_url) as services, connected(services) as client:
        yield World(services, client)


def path_of(booking: dict[str, Any], step: str = "") -> str:
    return f"/v1/bookings/{booking['id']}" + (f"/{step}" if step else "")


async def ok(answer: httpx2.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


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
