"""An application over real servers, people who call it, and short ways to bring a booking to where a test begins."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
from api_app import Person, claim, open_event

from api.services import Services
from engine.ids import number_from_reference
from persistence.database import driver_connection


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

    def person(self, sub: str, *roles: str) -> Person:
        """Somebody else."""
        return Person(self.client, sub, *roles)

    async def event(self, **members: Any) -> str:
        """The id of an event of olga's, on sale."""
        return await open_event(self.olga, **members)

    async def requested(self, *seats: str, floor: int = 0, **members: Any) -> dict[str, Any]:
        """A booking of ana's that waits for olga's approval; of one seat when it is not said of what."""
        policy = {"approval": "manual"} | members.pop("policy", {})
        return await self.booked(*seats, floor=floor, policy=policy, **members)

    async def booked(self, *seats: str, floor: int = 0, **members: Any) -> dict[str, Any]:
        """A booking of ana's on an event of its own."""
        return await self.book(self.ana, await self.event(**members), *seats, floor=floor)

    async def book(self, person: Person, event_id: str, *seats: str, floor: int = 0) -> dict[str, Any]:
        """A booking of somebody's."""
        wanted = claim(*seats, floor=floor) if seats or floor else claim("A-1")
        response = await person.post("/v1/bookings", {"event_id": event_id} | wanted)
        assert response.status_code == 201, response.text
        booking: dict[str, Any] = response.json()
        return booking

    async def put(self, booking: dict[str, Any], **columns: object) -> None:
        """Write columns of a booking's row past all rules, as a test's beginning."""
        names = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, start=2))
        number = number_from_reference(booking["reference"])
        await self.rows(f"UPDATE bookings SET {names} WHERE number = $1 RETURNING 1", number, *columns.values())

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        async with driver_connection(self.services.bookings.engine) as connection:
            rows: list[Any] = await connection.fetch(statement, *arguments)
            return rows


def path_of(booking: dict[str, Any], step: str = "") -> str:
    return f"/v1/bookings/{booking['id']}" + (f"/{step}" if step else "")


async def ok(answer: httpx2.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


async def die(_: str) -> None:
    """Stands for the end of the process at this very step."""
    raise RuntimeError("the process is dead")


async def until_so(condition: Callable[[], Awaitable[object]], *, within_s: float) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.02)
