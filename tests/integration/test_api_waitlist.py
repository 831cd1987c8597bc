"""Waitlists over HTTP: standing in line, being offered what came free, taking it or not; and nobody else's."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
import redis
from api_app import Person, claim, composed, connected, open_event
from shops import at_once

from api.services import Services
from persistence.database import driver_connection, open_database
from persistence.waitlist_entries import cancel_past

OUTSIDERS = 50


@pytest.fixture
async def services(redis_url: str, database_url: str) -> AsyncIterator[Services]:
    async with composed(redis_url, database_url) as made:
        yield made


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx2.AsyncClient]:
    async with connected(services) as opened:
        yield opened


@pytest.fixture
def olga(client: httpx2.AsyncClient) -> Person:
    return Person(client, "olga", "organizer")


@pytest.fixture
def ana(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ana", "customer")


@pytest.fixture
def ben(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ben", "customer")


@pytest.fixture
def cy(client: httpx2.AsyncClient) -> Person:
    return Person(client, "cy", "customer")


@pytest.fixture
async def event_id(olga: Person) -> str:
    """An event with a floor of five."""
    return await open_event(olga)


async def sell_out(ben: Person, event_id: str) -> list[str]:
    """Ben holds the five places of the floor, in holds of one each."""
    holds = [await ben.post(f"/v1/events/{event_id}/holds", claim(floor=1, ttl=600)) for _ in range(5)]
    return [hold.json()["id"] for hold in holds]


async def join(person: Person, event_id: str, *, status: int = 201, **members: Any) -> dict[str, Any]:
    body = {"items": [{"section": "floor", "quantity": 1}]} | members
    response = await person.post(f"/v1/events/{event_id}/waitlist", body)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def look(person: Person, entry: dict[str, Any]) -> dict[str, Any]:
    response = await person.get(f"/v1/waitlist/{entry['id']}")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def told(database_url: str, event_id: str) -> list[tuple[str, str]]:
    """What the outbox has of the event's waitlist: type and customer."""
    database = open_database(database_url)
    try:
        async with driver_connection(database) as connection:
            rows = await connection.fetch(
                "SELECT type, payload FROM outbox WHERE event_id = $1 AND type LIKE 'waitlist.%' ORDER BY id", event_id
            )
    finally:
        await database.dispose()
    return [(row["type"], msgspec.json.decode(row["payload"])["customer_id"]) for row in rows]


async def test_joining_answers_201_with_the_position_in_line(
    ana: Person, ben: Person, cy: Person, event_id: str
) -> None:
    await sell_out(ben, event_id)

    response = await ana.post(f"/v1/events/{event_id}/waitlist", claim(floor=2))

    assert response.status_code == 201
    entry = response.json()
    assert response.headers["location"] == f"/v1/waitlist/{entry['id']}"
    assert (entry["event_id"], entry["customer_id"], entry["status"]) == (event_id, "ana", "waiting")
    assert (entry["position"], entry["priority"], entry["offer"], entry["booking_id"]) == (1, 0, None, None)
    assert entry["items"][0]["quantity"] == 2
    assert entry["joined_at"].endswith("Z")
    assert (await join(cy, event_id))["position"] == 2
    assert await look(ana, entry) == entry


async def test_priority_comes_before_time_and_is_not_for_customers_to_say(
    ana: Person, ben: Person, cy: Person, olga: Person, client: httpx2.AsyncClient, event_id: str
) -> None:
    await sell_out(ben, event_id)
    first = await join(ana, event_id)
    friend = await join(olga, event_id, priority=10, customer_id="dora")
    partner = await join(Person(client, "reseller", "service"), event_id, priority=10)

    refused = await join(cy, event_id, status=422, priority=1)
    assert refused["path"] == "$.priority"
    assert (await join(cy, event_id, status=422, customer_id="ana"))["path"] == "$.customer_id"

    assert friend["customer_id"] == "dora"
    assert [(await look(olga, entry))["position"] for entry in (friend, partner, first)] == [1, 2, 3]


async def test_only_those_who_need_to_can_stand_in_line(ana: Person, ben: Person, olga: Person, event_id: str) -> None:
    assert (await join(ana, event_id, status=409))["code"] == "places-available"
    assert (await join(ana, "no-such-event", status=404))["code"] == "event-not-found"
    await sell_out(ben, event_id)

    assert (await join(ana, event_id, status=422, items=[{"section": "floor", "quantity": 6}]))["path"] == "$.items[0]"
    too_many = [{"section": "floor", "quantity": 5}, {"section": "stalls", "best": 6}]
    assert (await join(ana, event_id, status=409, items=too_many))["code"] == "limit-exceeded"
    entry = await join(ana, event_id)
    again = await join(ana, event_id, status=409)
    assert (again["code"], again["entry_id"]) == ("already-in-line", entry["id"])
    await olga.post(f"/v1/events/{event_id}/close")
    assert (await join(ben, event_id, status=409))["code"] == "event-not-open"


async def test_event_without_a_waitlist_says_so(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga, policy={"waitlist": False})

    assert (await join(ana, event_id, status=409))["code"] == "no-waitlist"


async def test_offer_is_made_and_accepted_as_a_booking(
    services: Services, ana: Person, ben: Person, event_id: str, database_url: str
) -> None:
    holds = await sell_out(ben, event_id)
    entry = await join(ana, event_id)
    early = await ana.post(f"/v1/waitlist/{entry['id']}/accept")
    assert (early.status_code, early.json()["code"]) == (409, "invalid-transition")
    await ben.delete(f"/v1/holds/{holds[0]}")

    assert await services.waitlist.offer(event_id) == 1

    offered = await look(ana, entry)
    assert (offered["status"], offered["position"]) == ("offered", None)
    hold = (await ana.get(f"/v1/holds/{offered['offer']['hold_id']}")).json()
    assert hold["expires_at"] == offered["offer"]["expires_at"]
    assert hold["ttl"] == 86_400
    body = {"guest": {"name": "Ana Ruiz"}, "notes": "aisle, please"}
    booked = await ana.post(f"/v1/waitlist/{entry['id']}/accept", body, idempotency_key="k")
    assert booked.status_code == 201, booked.text
    assert booked.json()["status"] == "confirmed"
    assert (booked.json()["guest"], booked.json()["source"]) == ({"name": "Ana Ruiz"}, "waitlist")
    done = await look(ana, entry)
    assert (done["status"], done["offer"], done["booking_id"]) == ("booked", None, booked.json()["id"])
    again = await ana.post(f"/v1/waitlist/{entry['id']}/accept", body, idempotency_key="k")
    assert (again.status_code, again.json()["id"]) == (201, booked.json()["id"])
    assert again.headers["idempotent-replayed"] == "true"
    twice = await ana.post(f"/v1/waitlist/{entry['id']}/accept", body)
    assert (twice.status_code, twice.json()["code"]) == (410, "hold-confirmed")
    steps = ["waitlist.joined", "waitlist.offered", "waitlist.booked"]
    assert await told(database_url, event_id) == [(step, "ana") for step in steps]


async def test_accepting_does_not_depend_on_whether_postgres_has_heard_of_the_offer(
    services: Services, ana: Person, ben: Person, event_id: str
) -> None:
    holds = await sell_out(ben, event_id)
    entry = await join(ana, event_id)
    await ben.delete(f"/v1/holds/{holds[0]}")
    assert (await ben.post(f"/v1/events/{event_id}/holds", claim(floor=1))).status_code == 409  # serves the line first
    assert (await look(ana, entry))["status"] == "waiting"

    assert (await ana.post(f"/v1/waitlist/{entry['id']}/accept")).status_code == 201

    await services.waitlist.offer(event_id)  # the notice comes late, and changes nothing
    assert (await look(ana, entry))["status"] == "booked"


async def test_declined_and_abandoned_offers_go_to_the_next_in_line(
    services: Services,
    ana: Person,
    ben: Person,
    cy: Person,
    event_id: str,
    database_url: str,
    client: httpx2.AsyncClient,
) -> None:
    dora = Person(client, "dora", "customer")
    holds = await sell_out(ben, event_id)
    entries = [await join(person, event_id) for person in (ana, cy, dora)]
    assert (await ana.post(f"/v1/waitlist/{entries[0]['id']}/decline")).status_code == 409  # nothing is offered yet
    await ben.delete(f"/v1/holds/{holds[0]}")
    await services.waitlist.offer(event_id)

    declined = await ana.post(f"/v1/waitlist/{entries[0]['id']}/decline")
    assert (declined.status_code, declined.json()["status"]) == (200, "declined")
    assert (await ana.post(f"/v1/waitlist/{entries[0]['id']}/decline")).status_code == 200
    await services.waitlist.offer(event_id)
    assert (await look(cy, entries[1]))["status"] == "offered"
    for _ in range(2):
        assert (await cy.delete(f"/v1/waitlist/{entries[1]['id']}")).status_code == 204
    await services.waitlist.offer(event_id)

    assert [(await look(p, e))["status"] for p, e in zip((ana, cy, dora), entries, strict=True)] == [
        "declined",
        "cancelled",
        "offered",
    ]
    late = await ana.post(f"/v1/waitlist/{entries[0]['id']}/accept")
    assert (late.status_code, late.json()["allowed"]) == (409, [])
    assert (await join(ana, event_id))["position"] == 1  # and may come again, at the end
    assert await told(database_url, event_id) == [
        ("waitlist.joined", "ana"),
        ("waitlist.joined", "cy"),
        ("waitlist.joined", "dora"),
        ("waitlist.offered", "ana"),
        ("waitlist.declined", "ana"),
        ("waitlist.offered", "cy"),
        ("waitlist.cancelled", "cy"),
        ("waitlist.offered", "dora"),
        ("waitlist.joined", "ana"),
    ]


async def test_offer_that_lapses_ends_its_entry_and_goes_to_the_next(
    services: Services, ana: Person, ben: Person, cy: Person, olga: Person, database_url: str
) -> None:
    event_id = await open_event(olga, policy={"offer_ttl": 1})
    holds = await sell_out(ben, event_id)
    first, second = await join(ana, event_id), await join(cy, event_id)
    await ben.delete(f"/v1/holds/{holds[0]}")
    await services.waitlist.offer(event_id)
    assert (await look(ana, first))["status"] == "offered"

    await asyncio.sleep(1.0)
    assert (await services.waitlist.settle(first["id"])).status == "expired"
    await services.waitlist.offer(event_id)

    assert (await look(ana, first))["status"] == "expired"
    assert (await look(cy, second))["status"] == "offered"
    assert ("waitlist.expired", "ana") in await told(database_url, event_id)


async def test_outsiders_never_get_what_somebody_waits_for(
    services: Services, ana: Person, ben: Person, client: httpx2.AsyncClient, event_id: str
) -> None:
    holds = await sell_out(ben, event_id)
    entry = await join(ana, event_id)
    assert await services.waitlist.offer(event_id) == 0
    outsiders = [Person(client, f"out-{number}", "customer") for number in range(OUTSIDERS)]
    body = {"event_id": event_id} | claim(floor=1)
    calls = [
        outsider.post(f"/v1/events/{event_id}/holds", claim(floor=1))
        if number % 2
        else outsider.post("/v1/bookings", body)
        for number, outsider in enumerate(outsiders)
    ]

    answers = await at_once([*calls[:25], ben.delete(f"/v1/holds/{holds[0]}"), *calls[25:]])

    statuses = [answer.status_code for answer in answers if isinstance(answer, httpx2.Response)]
    assert sorted(statuses) == [204, *[409] * OUTSIDERS]
    accepted = await ana.post(f"/v1/waitlist/{entry['id']}/accept")
    assert accepted.status_code == 201, accepted.text


async def test_who_has_used_up_their_limit_is_passed_over_and_told(
    services: Services, ana: Person, ben: Person, cy: Person, olga: Person, database_url: str
) -> None:
    event_id = await open_event(olga, policy={"max_places_per_customer": 5})
    holds = await sell_out(ben, event_id)
    first, second = await join(ana, event_id), await join(cy, event_id)
    await ana.post(f"/v1/events/{event_id}/holds", {"items": [{"section": "stalls", "best": 5}], "ttl": 600})
    await ben.delete(f"/v1/holds/{holds[0]}")

    await services.waitlist.offer(event_id)

    passed = await look(ana, first)
    assert (passed["status"], passed["position"], passed["passed_over"]) == ("waiting", 1, "max_places_per_customer")
    assert (await look(cy, second))["status"] == "offered"
    assert ("waitlist.passed_over", "ana") in await told(database_url, event_id)


async def test_line_survives_a_redis_that_loses_everything(
    services: Services, ana: Person, ben: Person, cy: Person, olga: Person, redis_url: str
) -> None:
    event_id = await open_event(olga)
    body = {"event_id": event_id} | claim(floor=4)
    assert (await ben.post("/v1/bookings", body)).status_code == 201
    hold = await ben.post(f"/v1/events/{event_id}/holds", claim(floor=1))
    entries = [await join(person, event_id) for person in (ana, cy)]
    await ben.delete(f"/v1/holds/{hold.json()['id']}")
    await services.waitlist.offer(event_id)
    assert (await look(ana, entries[0]))["status"] == "offered"

    redis.Redis.from_url(redis_url).flushall()
    outsider = await ben.post(f"/v1/events/{event_id}/holds", claim(floor=1))

    assert (outsider.status_code, outsider.json()["code"]) == (409, "places-unavailable")
    await services.waitlist.offer(event_id)
    assert [(await look(p, e))["status"] for p, e in zip((ana, cy), entries, strict=True)] == ["offered", "waiting"]
    assert (await ana.post(f"/v1/waitlist/{entries[0]['id']}/accept")).status_code == 201
    redis.Redis.from_url(redis_url).flushall()
    assert (await services.waitlist.settle(entries[0]["id"])).status == "booked"
    assert (await services.waitlist.settle(entries[1]["id"])).position == 1
    assert (await cy.delete(f"/v1/waitlist/{entries[1]['id']}")).status_code == 204


async def test_entry_ends_with_the_sale_and_an_offer_with_the_event(
    services: Services, ana: Person, ben: Person, cy: Person, olga: Person, event_id: str, database_url: str
) -> None:
    holds = await sell_out(ben, event_id)
    offered, waiting = await join(ana, event_id), await join(cy, event_id)
    await ben.delete(f"/v1/holds/{holds[0]}")
    await services.waitlist.offer(event_id)
    database = open_database(database_url)
    await olga.post(f"/v1/events/{event_id}/close")

    assert await cancel_past(database, limit=10) == 1
    assert (await look(cy, waiting))["status"] == "cancelled"
    assert (await look(ana, offered))["status"] == "offered"
    await services.reservations.publish(await services.events.transition(event_id, "cancelled"))
    assert await cancel_past(database, limit=10) == 1

    await services.waitlist.settle(offered["id"])
    gone = await ana.get(f"/v1/holds/{offered['id']}")
    assert (gone.status_code, gone.json()["code"]) == (410, "hold-released")
    assert [step for step, _ in await told(database_url, event_id)][-2:] == ["waitlist.cancelled"] * 2
    await database.dispose()


async def test_entries_are_listed_to_their_customer_the_organizer_and_admins(
    ana: Person, ben: Person, cy: Person, olga: Person, client: httpx2.AsyncClient, event_id: str
) -> None:
    await sell_out(ben, event_id)
    first, second = await join(ana, event_id), await join(cy, event_id)

    async def ids(person: Person, query: str = "") -> list[str]:
        response = await person.get(f"/v1/waitlist{query}")
        assert response.status_code == 200, response.text
        return [entry["id"] for entry in response.json()["items"]]

    root = Person(client, "root", "admin")
    assert await ids(ana) == [first["id"]]
    assert await ids(ana, f"?event_id={event_id}") == [first["id"]]
    assert await ids(olga) == []
    assert await ids(olga, f"?event_id={event_id}") == [second["id"], first["id"]]
    assert await ids(root, "?status=waiting&limit=1") == [second["id"]]
    assert await ids(root, f"?customer_id=ana&event_id={event_id}") == [first["id"]]
    page = (await root.get(f"/v1/waitlist?event_id={event_id}&limit=1")).json()
    assert await ids(root, f"?event_id={event_id}&cursor={page['next_cursor']}") == [first["id"]]
    assert (await ana.get(f"/v1/waitlist?event_id={event_id}&customer_id=cy")).status_code == 403
    await cy.delete(f"/v1/waitlist/{second['id']}")
    assert await ids(cy, "?status=cancelled") == [second["id"]]


async def test_somebody_elses_entry_is_not_there(
    ana: Person, ben: Person, cy: Person, olga: Person, client: httpx2.AsyncClient, event_id: str
) -> None:
    await sell_out(ben, event_id)
    path = f"/v1/waitlist/{(await join(ana, event_id))['id']}"
    other_organizer = Person(client, "otto", "organizer", "customer")
    for person in (cy, other_organizer):
        for answer in (
            await person.get(path),
            await person.delete(path),
            await person.post(f"{path}/accept"),
            await person.post(f"{path}/decline"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "entry-not-found")
    root = Person(client, "root", "admin")
    assert (await root.post(f"{path}/accept")).status_code == 403  # the offer is not theirs
    assert (await ana.get("/v1/waitlist/nonsense")).status_code == 404
    assert (await olga.delete(path)).status_code == 204
