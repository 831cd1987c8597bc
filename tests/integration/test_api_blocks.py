"""Places off sale over HTTP: who may take them, what they look like, and how they come back."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import redis
from api_app import Person, claim, composed, connected, drain, event_definition, open_event
from shops import at_once

from api.services import Services
from engine.blocks import BLOCKS_MAX
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.errors import LedgerUnavailable
from engine.keys import event_key
from engine.lifecycle import Actor
from engine.once import Once
from persistence import blocks as blocks_of_the_ledger
from persistence.database import driver_connection, open_database
from persistence.statistics import read_statistics

HOLDERS = 12


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
async def event_id(olga: Person) -> str:
    return await open_event(olga)


async def block(person: Person, event_id: str, *seats: str, floor: int = 0, **members: Any) -> dict[str, Any]:
    response = await person.post(f"/v1/events/{event_id}/blocks", claim(*seats, floor=floor, **members))
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def seats(person: Person, event_id: str) -> dict[str, str]:
    response = await person.get(f"/v1/events/{event_id}/seats")
    assert response.status_code == 200, response.text
    return {seat["seat"]: seat["status"] for seat in response.json()["seats"]}


async def counts(person: Person, event_id: str) -> dict[str, tuple[int, int, int]]:
    response = await person.get(f"/v1/events/{event_id}/availability")
    assert response.status_code == 200, response.text
    sections = response.json()["sections"]
    assert all(one["free"] + one["held"] + one["sold"] == one["capacity"] for one in sections)
    return {one["id"]: (one["free"], one["held"], one["sold"]) for one in sections}


async def drift(services: Services) -> dict[str, int]:
    return dict((await services.oversight.audit(None)).by_kind)


def soon(seconds: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)).isoformat()


async def test_blocking_answers_201_and_the_places_are_blocked_for_everybody(
    olga: Person, ana: Person, services: Services, event_id: str
) -> None:
    response = await olga.post(
        f"/v1/events/{event_id}/blocks",
        claim("A-1", "A-2", floor=2, release_at="2035-04-24T19:00:00+02:00", reason="House seats"),
    )

    assert response.status_code == 201
    made = response.json()
    assert response.headers["location"] == f"/v1/events/{event_id}/blocks/{made['id']}"
    assert made["items"] == [
        {"section": "stalls", "quantity": 2, "seats": ["A-1", "A-2"]},
        {"section": "floor", "quantity": 2, "seats": None},
    ]
    assert (made["event_id"], made["from"], made["to"]) == (event_id, None, None)
    assert (made["release_at"], made["reason"]) == ("2035-04-24T17:00:00Z", "House seats")
    assert made["created_at"].endswith("Z")
    statuses = await seats(ana, event_id)
    assert (statuses["A-1"], statuses["A-2"], statuses["A-3"]) == ("blocked", "blocked", "free")
    assert await counts(ana, event_id) == {"floor": (3, 0, 2), "stalls": (4, 0, 2)}
    refused = await ana.post(f"/v1/events/{event_id}/holds", claim("A-2", "A-3"))
    assert (refused.status_code, refused.json()["code"]) == (409, "places-unavailable")
    assert refused.json()["unavailable"] == [{"section": "stalls", "seat": "A-2"}]
    assert (await ana.post(f"/v1/events/{event_id}/holds", claim(floor=4))).status_code == 409
    assert (await ana.post(f"/v1/events/{event_id}/holds", claim("A-3", floor=3))).status_code == 201
    assert await drift(services) == {}


async def test_a_released_block_gives_its_places_back_and_is_not_there_any_more(
    olga: Person, ana: Person, services: Services, event_id: str
) -> None:
    made = await block(olga, event_id, "A-1", floor=5)
    path = f"/v1/events/{event_id}/blocks/{made['id']}"
    assert (await olga.get(path)).json() == made

    released = await olga.delete(path)

    assert (released.status_code, released.content) == (204, b"")
    assert (await seats(ana, event_id))["A-1"] == "free"
    assert await counts(ana, event_id) == {"floor": (5, 0, 0), "stalls": (6, 0, 0)}
    assert (await ana.post(f"/v1/events/{event_id}/holds", claim("A-1", floor=5))).status_code == 201
    for again in (await olga.delete(path), await olga.get(path)):
        assert (again.status_code, again.json()["code"]) == (404, "block-not-found")
    assert (await olga.get(f"/v1/events/{event_id}/blocks")).json() == {"items": [], "next_cursor": None}
    assert await drift(services) == {}


async def test_lists_are_paged_the_newest_first(olga: Person, event_id: str) -> None:
    made = [await block(olga, event_id, seat) for seat in ("A-1", "A-2", "A-3")]

    first = await olga.get(f"/v1/events/{event_id}/blocks?limit=2")
    second = await olga.get(first.links["next"]["url"])

    assert first.json()["items"] == made[:0:-1]
    assert second.json() == {"items": made[:1], "next_cursor": None}


@pytest.mark.parametrize(
    "taken", [{"hold": True}, {"hold": False}, {"hold": None}], ids=["held", "sold", "blocked already"]
)
async def test_what_somebody_has_cannot_be_blocked(
    olga: Person, ana: Person, event_id: str, taken: dict[str, bool | None]
) -> None:
    wanted = claim("A-2", floor=5)
    if taken["hold"] is None:
        await block(olga, event_id, "A-2", floor=5)
    else:
        held = await ana.post(f"/v1/events/{event_id}/holds", wanted)
        if not taken["hold"]:
            assert (await ana.post("/v1/bookings", {"hold_id": held.json()["id"]})).status_code == 201

    response = await olga.post(f"/v1/events/{event_id}/blocks", claim("A-1", "A-2", floor=1))

    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "places-unavailable")
    assert problem["unavailable"] == [
        {"section": "stalls", "seat": "A-2"},
        {"section": "floor", "requested": 1, "free": 0},
    ]
    assert (problem["held"], problem["sold"]) == ((2, 0) if taken["hold"] else (0, 2))
    assert (await seats(ana, event_id))["A-1"] == "free"


async def test_customers_and_other_organizers_may_not(client: httpx2.AsyncClient, olga: Person, ana: Person) -> None:
    event_id = await open_event(olga)
    made = await block(olga, event_id, "A-1")
    other, admin = Person(client, "otto", "organizer"), Person(client, "root", "admin")
    service = Person(client, "reseller", "service")
    path = f"/v1/events/{event_id}/blocks"
    for person in (ana, other, service):
        for response in (
            await person.post(path, claim("A-2")),
            await person.get(path),
            await person.get(f"{path}/{made['id']}"),
            await person.delete(f"{path}/{made['id']}"),
            await person.call("DELETE", path, {"id": made["id"]}),
        ):
            assert (response.status_code, response.json()["code"]) == (403, "forbidden"), person.sub
    draft = (await olga.post("/v1/events", event_definition())).json()["id"]
    hidden = await other.post(f"/v1/events/{draft}/blocks", claim("A-1"))
    assert (hidden.status_code, hidden.json()["code"]) == (404, "event-not-found")
    assert (await olga.get(path)).json()["items"] == [made]
    assert (await admin.post(path, claim("A-2"))).status_code == 201
    assert (await admin.delete(f"{path}/{made['id']}")).status_code == 204


async def test_a_block_of_another_event_is_not_found(olga: Person, event_id: str) -> None:
    made = await block(olga, event_id, "A-1")
    other = await open_event(olga)

    for block_id in (made["id"], "nonsense", made["id"].replace(event_id, other)):
        response = await olga.delete(f"/v1/events/{other}/blocks/{block_id}")
        assert (response.status_code, response.json()["code"]) == (404, "block-not-found"), block_id
    assert (await olga.get(f"/v1/events/{event_id}/blocks")).json()["items"] == [made]


async def test_limits_lines_and_a_closed_sale_are_not_in_the_way(olga: Person, ana: Person) -> None:
    limited = {"max_places_per_hold": 1, "max_places_per_customer": 1, "one_booking_per_customer": True}
    event_id = await open_event(olga, policy=limited | {"approval": "manual"})
    hold = await ana.post(f"/v1/events/{event_id}/holds", claim("B-1"))
    assert (await ana.post(f"/v1/events/{event_id}/waitlist", claim("B-1"))).status_code in (201, 409)

    first = await block(olga, event_id, "A-1", "A-2", "A-3", floor=2)
    await ana.delete(f"/v1/holds/{hold.json()['id']}")  # now the line comes first, for everybody else
    await olga.post(f"/v1/events/{event_id}/close")
    second = await block(olga, event_id, "A-4", floor=3)

    assert [one["id"] for one in (await olga.get(f"/v1/events/{event_id}/blocks")).json()["items"]] == [
        second["id"],
        first["id"],
    ]


async def test_nothing_is_blocked_of_an_event_that_is_cancelled_or_over(olga: Person, event_id: str) -> None:
    await olga.post(f"/v1/events/{event_id}/cancel")
    over = await open_event(olga, starts_at="2020-05-01T19:00:00Z", ends_at="2020-05-01T22:00:00Z")
    for one in (event_id, over):
        refused = await olga.post(f"/v1/events/{one}/blocks", claim("A-1"))
        assert (refused.status_code, refused.json()["code"]) == (409, "event-not-open"), one


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$.items"),
        ({"items": []}, "$.items"),
        ({"items": [{"section": "stalls", "best": 2}]}, "$.items[0].best"),
        ({"items": [{"section": "stalls"}]}, "$.items[0]"),
        ({"items": [{"section": "stalls", "seats": ["Z-9"]}]}, "$.items[0].seats[0]"),
        ({"items": [{"section": "floor", "quantity": 1}], "ttl": 60}, "$.ttl"),
        ({"items": [{"section": "floor", "quantity": 1}], "from": "SJC"}, "$.from"),
        ({"items": [{"section": "floor", "quantity": 1}], "reason": " "}, "$.reason"),
        ({"items": [{"section": "floor", "quantity": 1}], "release_at": "2020-01-01T00:00:00Z"}, "$.release_at"),
        ({"items": [{"section": "floor", "quantity": 1}], "release_at": "2035-05-03T00:00:00Z"}, "$.release_at"),
        ({"items": [{"section": "floor", "quantity": 1}], "release_at": "2030-01-01T00:00:00"}, "$.release_at"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    olga: Person, event_id: str, body: dict[str, Any], path: str
) -> None:
    response = await olga.post(f"/v1/events/{event_id}/blocks", body)
    assert (response.status_code, response.json()["path"]) == (422, path)


async def test_the_same_key_gets_the_same_block(olga: Person, event_id: str) -> None:
    path = f"/v1/events/{event_id}/blocks"
    first = await olga.post(path, claim("A-1"), idempotency_key="house")
    again = await olga.post(path, claim("A-1"), idempotency_key="house")
    other = await olga.post(path, claim("A-2"), idempotency_key="house")

    assert (first.status_code, again.status_code) == (201, 201)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    gone = [await olga.delete(f"{path}/{first.json()['id']}", idempotency_key="gone") for _ in range(2)]
    assert [one.status_code for one in gone] == [204, 204]


@pytest.mark.parametrize("status", ["open", "draft"])
async def test_the_same_key_gets_the_same_block_though_its_answer_was_never_kept(
    olga: Person, redis_url: str, status: str
) -> None:
    event_id = (await olga.post("/v1/events", event_definition())).json()["id"]
    if status == "open":
        await olga.post(f"/v1/events/{event_id}/open")
    path = f"/v1/events/{event_id}/blocks"
    first = await olga.post(path, claim("A-1"), idempotency_key="house")
    _forget_answers(redis_url)  # as a process that dies before it has kept it would leave it

    again = await olga.post(path, claim("A-1"), idempotency_key="house")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"

    gone = await olga.delete(f"{path}/{first.json()['id']}", idempotency_key="gone")
    _forget_answers(redis_url)
    once_more = await olga.delete(f"{path}/{first.json()['id']}", idempotency_key="gone")
    assert (gone.status_code, once_more.status_code) == (204, 204)


def _forget_answers(redis_url: str) -> None:
    """Of routes that keep whole answers; what the scripts remember stays."""
    client = redis.Redis.from_url(redis_url)
    for key in client.scan_iter("hf:*:once:*"):
        if b"|=" in client.get(key):
            client.delete(key)


async def test_blocks_are_given_back_by_the_places_they_consist_of(olga: Person, ana: Person, event_id: str) -> None:
    path = f"/v1/events/{event_id}/blocks"
    await block(olga, event_id, "A-1", "A-2", floor=2)
    await block(olga, event_id, "A-3")
    kept = await block(olga, event_id, "B-1", floor=1)

    for places in (claim("A-1"), claim("A-1", "A-2", "A-4", floor=2), claim("A-1", "A-2", floor=3)):
        partly = await olga.call("DELETE", path, places)
        assert (partly.status_code, partly.json()["code"]) == (404, "block-not-found"), places
    whole = await olga.call("DELETE", path, claim("A-3", "A-2", "A-1", floor=2))

    assert whole.status_code == 204
    assert (await olga.get(path)).json()["items"] == [kept]
    assert [status for status in (await seats(ana, event_id)).values() if status != "free"] == ["blocked"]
    assert await counts(ana, event_id) == {"floor": (4, 0, 1), "stalls": (5, 0, 1)}


async def test_counted_places_are_given_back_by_whichever_blocks_add_up(
    olga: Person, ana: Person, services: Services, event_id: str
) -> None:
    path = f"/v1/events/{event_id}/blocks"
    one, *twos = [await block(olga, event_id, floor=count) for count in (1, 2, 2)]

    assert (await olga.call("DELETE", path, claim(floor=4))).status_code == 204

    assert (await olga.get(path)).json()["items"] == [one]
    assert await counts(ana, event_id) == {"floor": (4, 0, 1), "stalls": (6, 0, 0)}
    assert await drift(services) == {}
    for made in twos:
        assert (await olga.get(f"{path}/{made['id']}")).status_code == 404


@pytest.mark.parametrize("place", ["query", "body"])
async def test_a_block_is_given_back_by_its_id_without_a_path_of_its_own(
    olga: Person, event_id: str, place: str
) -> None:
    made, path = await block(olga, event_id, "A-1"), f"/v1/events/{event_id}/blocks"
    named = (f"{path}?id={made['id']}", None) if place == "query" else (path, {"id": made["id"]})

    assert (await olga.call("DELETE", *named)).status_code == 204
    assert (await olga.call("DELETE", *named)).status_code == 404
    for nothing in ((path, None), (path, {}), (f"{path}?id={made['id']}", claim("A-1"))):
        assert (await olga.call("DELETE", *nothing)).status_code == 422


async def test_a_block_on_legs_takes_these_and_no_others(olga: Person, ana: Person) -> None:
    event_id = await open_event(olga, stops=["SJC", "PAO", "SFO"])
    made = await block(olga, event_id, "A-1", floor=5, **{"from": "PAO", "to": "SFO"})

    assert (made["from"], made["to"]) == ("PAO", "SFO")
    first_leg = await ana.get(f"/v1/events/{event_id}/seats?from=SJC&to=PAO")
    assert first_leg.json()["seats"][0]["status"] == "free"
    assert (await seats(ana, event_id))["A-1"] == "blocked"
    riding = claim("A-1", floor=5, **{"from": "SJC", "to": "PAO"})
    assert (await ana.post(f"/v1/events/{event_id}/holds", riding)).status_code == 201
    wrong = await olga.call("DELETE", f"/v1/events/{event_id}/blocks", claim("A-1", floor=5))
    right = claim("A-1", floor=5, **{"from": "PAO", "to": "SFO"})
    assert wrong.status_code == 404
    assert (await olga.call("DELETE", f"/v1/events/{event_id}/blocks", right)).status_code == 204


async def test_a_block_is_no_booking_of_anybody(
    client: httpx2.AsyncClient, olga: Person, services: Services, database_url: str, event_id: str
) -> None:
    made, admin = await block(olga, event_id, "A-1", floor=2, reason="House seats"), Person(client, "root", "admin")

    for path in (
        "/v1/bookings",
        "/v1/bookings?status=confirmed",
        f"/v1/bookings?q={made['id'].replace('~', '%7E')}",
        f"/v1/events/{event_id}/bookings",
        "/v1/admin/bookings",
    ):
        for person in (olga, admin):
            response = await person.get(path)
            assert response.status_code in (200, 403), response.text
            assert response.json().get("items", []) == [], (path, person.sub)
    for method, path in (
        ("GET", ""), ("GET", "/history"), ("GET", "/refund-quote"), ("POST", "/cancel"), ("POST", "/check-in"),
        ("POST", "/complete"), ("POST", "/no-show"), ("POST", "/approve"),
    ):  # fmt: skip
        response = await admin.call(method, f"/v1/bookings/{made['id']}{path}", {} if method == "POST" else None)
        assert (response.status_code, response.json()["code"]) == (404, "booking-not-found"), path
    event = await services.events.find_event(event_id)
    told = await read_statistics(services.bookings.engine, event)
    assert (told.total_requests, told.seats_booked, told.revenue, told.occupancy_percent) == (0, 0, 0, 0.0)
    assert await _rows(database_url, "SELECT type FROM outbox WHERE event_id = $1", event_id) == []
    row = (await _rows(database_url, "SELECT * FROM bookings WHERE event_id = $1", event_id))[0]
    assert (row["amount"], row["status"], row["exclusive"]) == (0, "blocked", False)
    assert not any("House seats" in str(value) for value in row.values())


async def test_history_has_who_blocked_and_who_gave_back(
    client: httpx2.AsyncClient, olga: Person, database_url: str, event_id: str
) -> None:
    made = await block(olga, event_id, "A-1")
    await Person(client, "root", "admin").delete(f"/v1/events/{event_id}/blocks/{made['id']}")

    rows = await _rows(
        database_url,
        "SELECT history.* FROM history JOIN bookings ON booking_id = id WHERE event_id = $1 ORDER BY history.version",
        event_id,
    )
    assert [(row["from_status"], row["to_status"], row["actor"], row["role"]) for row in rows] == [
        (None, "blocked", "olga", "organizer"),
        ("blocked", "unblocked", "root", "admin"),
    ]


async def _rows(database_url: str, query: str, *args: object) -> list[dict[str, Any]]:
    database = open_database(database_url)
    try:
        async with driver_connection(database) as connection:
            return [dict(row) for row in await connection.fetch(query, *args)]
    finally:
        await database.dispose()


async def test_of_a_block_and_many_holds_of_one_seat_exactly_one_wins(
    client: httpx2.AsyncClient, olga: Person, services: Services
) -> None:
    for _ in range(8):
        event_id = await open_event(olga)
        buyers = [Person(client, f"buyer-{number}", "customer") for number in range(HOLDERS)]
        answers = await at_once(
            [
                *[buyer.post(f"/v1/events/{event_id}/holds", claim("A-1")) for buyer in buyers[::2]],
                *[olga.post(f"/v1/events/{event_id}/blocks", claim("A-1")) for _ in range(2)],
                *[buyer.post("/v1/bookings", claim("A-1", event_id=event_id)) for buyer in buyers[1::2]],
            ]
        )
        assert _statuses(answers) == [201, *[409] * (HOLDERS + 1)]
    assert await drift(services) == {}


def _statuses(answers: list[httpx2.Response | BaseException]) -> list[int]:
    return sorted(answer.status_code for answer in answers if isinstance(answer, httpx2.Response))


async def test_blocks_are_there_after_redis_has_lost_everything(
    olga: Person, ana: Person, services: Services, redis_url: str, event_id: str
) -> None:
    made = await block(olga, event_id, "A-1", "A-3", floor=2)
    kept, given_back = await block(olga, event_id, "B-1"), await block(olga, event_id, "B-3")
    await olga.delete(f"/v1/events/{event_id}/blocks/{given_back['id']}")
    before = (await seats(ana, event_id), await counts(ana, event_id))

    redis.Redis.from_url(redis_url).flushall()

    assert (await seats(ana, event_id), await counts(ana, event_id)) == before
    assert before[0] == {
        "A-1": "blocked",
        "A-2": "free",
        "A-3": "blocked",
        "A-4": "free",
        "B-1": "blocked",
        "B-3": "free",
    }
    assert await drift(services) == {}
    assert (await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))).status_code == 409
    for one in (made, kept):
        assert (await olga.delete(f"/v1/events/{event_id}/blocks/{one['id']}")).status_code == 204
    assert set((await seats(ana, event_id)).values()) == {"free"}
    assert await drift(services) == {}


async def test_a_block_of_a_draft_is_there_when_it_is_opened(olga: Person, ana: Person, services: Services) -> None:
    event_id = (await olga.post("/v1/events", event_definition())).json()["id"]
    path = f"/v1/events/{event_id}/blocks"
    made = await block(olga, event_id, "A-1", floor=3, reason="House seats")
    given_back = await block(olga, event_id, "A-2")

    taken = await olga.post(path, claim("A-1"))
    crowded = await olga.post(path, claim(floor=3))
    assert [(one.status_code, one.json()["code"]) for one in (taken, crowded)] == [(409, "places-unavailable")] * 2
    assert (await olga.delete(f"{path}/{given_back['id']}")).status_code == 204
    assert (await olga.get(path)).json()["items"] == [made]
    assert (await olga.post(f"/v1/events/{event_id}/open")).status_code == 200

    statuses = await seats(ana, event_id)
    assert (statuses["A-1"], statuses["A-2"]) == ("blocked", "free")
    assert await counts(ana, event_id) == {"floor": (2, 0, 3), "stalls": (5, 0, 1)}
    assert await drift(services) == {}
    assert (await olga.delete(f"{path}/{made['id']}")).status_code == 204
    assert await drift(services) == {}


async def test_of_a_draft_being_opened_no_block_is_lost(olga: Person, ana: Person, services: Services) -> None:
    for _ in range(8):
        event_id = (await olga.post("/v1/events", event_definition())).json()["id"]
        path = f"/v1/events/{event_id}/blocks"
        answers = await at_once(
            [
                olga.post(path, claim("A-1")),
                olga.post(f"/v1/events/{event_id}/open"),
                olga.post(path, claim("A-1")),
                olga.post(path, claim("A-2")),
            ]
        )
        assert _statuses(answers) == [200, 201, 201, 409]
        statuses = await seats(ana, event_id)
        assert (statuses["A-1"], statuses["A-2"], statuses["A-3"]) == ("blocked", "blocked", "free")
    assert await drift(services) == {}


async def test_blocks_of_a_draft_keep_their_seats_by_name_when_its_layout_changes(
    olga: Person, ana: Person, services: Services
) -> None:
    event_id = (await olga.post("/v1/events", event_definition())).json()["id"]
    path = f"/v1/events/{event_id}/blocks"
    made = await block(olga, event_id, "A-2", "B-3", floor=3)
    sections = [
        {"id": "balcony", "price": 100, "rows": [{"id": "Z", "seats": "1-9"}]},
        {"id": "stalls", "price": 8000, "rows": [{"id": "B", "seats": "1-3"}, {"id": "A", "seats": "1-4"}]},
        {"id": "floor", "price": 4500, "capacity": 3},
    ]

    too_few = await olga.patch(
        f"/v1/events/{event_id}", {"sections": [*sections[:2], {"id": "floor", "price": 4500, "capacity": 2}]}
    )
    without = await olga.patch(f"/v1/events/{event_id}", {"sections": [sections[0], sections[2]]})
    assert [(one.status_code, one.json()["code"]) for one in (too_few, without)] == [(422, "invalid-request")] * 2
    assert (await olga.patch(f"/v1/events/{event_id}", {"sections": sections})).status_code == 200
    assert (await olga.get(path)).json()["items"] == [made]
    await olga.post(f"/v1/events/{event_id}/open")

    statuses = await seats(ana, event_id)
    assert {seat for seat, status in statuses.items() if status == "blocked"} == {"A-2", "B-3"}
    assert (await counts(ana, event_id))["floor"] == (0, 0, 3)
    assert await drift(services) == {}


async def test_places_come_back_by_themselves_at_their_time(
    olga: Person, ana: Person, services: Services, event_id: str
) -> None:
    made = await block(olga, event_id, "A-1", floor=5, release_at=soon(0.4))
    later = await block(olga, event_id, "A-2", release_at="2035-05-01T19:00:00Z")
    assert await services.blocks.release_due() == 0
    joined = await ana.post(f"/v1/events/{event_id}/waitlist", claim(floor=1))
    assert joined.status_code == 201

    await asyncio.sleep(0.45)
    assert await services.blocks.count_due() == 1
    assert await services.blocks.release_due() == 1

    assert (await olga.get(f"/v1/events/{event_id}/blocks")).json()["items"] == [later]
    assert (await olga.delete(f"/v1/events/{event_id}/blocks/{made['id']}")).status_code == 404
    assert (await seats(ana, event_id))["A-1"] == "free"
    # What came free is for whoever was in line first.
    await services.waitlist.offer(event_id)
    assert (await ana.get(f"/v1/waitlist/{joined.json()['id']}")).json()["status"] == "offered"
    assert await drift(services) == {}


async def test_a_block_that_its_process_did_not_live_to_commit_is_committed_by_the_drain(
    olga: Person, ana: Person, services: Services, redis_url: str, database_url: str, event_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def dies(*_: object, **__: object) -> None:
        raise LedgerUnavailable("killed between Redis and Postgres")

    monkeypatch.setattr(services.reservations, "_settle", dies)
    lost = await olga.post(f"/v1/events/{event_id}/blocks", claim("A-1", reason="House seats"))
    assert lost.status_code == 503
    assert (await seats(ana, event_id))["A-1"] == "blocked"
    assert (await olga.get(f"/v1/events/{event_id}/blocks")).json()["items"] == []
    assert await drift(services) == {}

    assert (await drain(redis_url, database_url)).settled == 1

    (made,) = (await olga.get(f"/v1/events/{event_id}/blocks")).json()["items"]
    assert (made["items"][0]["seats"], made["reason"]) == (["A-1"], "House seats")
    assert (await seats(ana, event_id))["A-1"] == "blocked"
    assert await drift(services) == {}


async def test_a_block_that_was_given_back_is_not_brought_back_by_its_journal_entry(
    olga: Person, ana: Person, services: Services, redis_url: str, database_url: str, event_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("engine.settlement.Settlement._drop", lambda *_: None)
    made = await block(olga, event_id, "A-1")
    await olga.delete(f"/v1/events/{event_id}/blocks/{made['id']}")

    await drain(redis_url, database_url)

    assert (await olga.get(f"/v1/events/{event_id}/blocks")).json()["items"] == []
    assert (await seats(ana, event_id))["A-1"] == "free"
    assert await drift(services) == {}


async def test_a_block_that_the_ledger_refuses_is_undone(
    olga: Person, ana: Person, services: Services, event_id: str
) -> None:
    """The second guard: Redis was made to forget a booking, and does not know that A-1 is sold."""
    booked = await ana.post("/v1/bookings", claim("A-1", event_id=event_id))
    assert booked.status_code == 201
    await services.desk._free(booked.json()["id"])  # Redis frees what the ledger still has
    assert (await seats(ana, event_id))["A-1"] == "free"

    refused = await olga.post(f"/v1/events/{event_id}/blocks", claim("A-1", "A-2"))

    assert (refused.status_code, refused.json()["code"]) == (409, "places-unavailable")
    statuses = await seats(ana, event_id)
    assert "blocked" not in statuses.values()
    assert (await olga.get(f"/v1/events/{event_id}/blocks")).json()["items"] == []


@pytest.mark.parametrize(
    "harm", ["mark lost", "mark left", "mark differs", "miscounted", "not counted", "block lost", "block left"]
)
async def test_an_audit_finds_what_is_wrong_with_blocks_and_the_repair_mends_it(
    olga: Person, ana: Person, services: Services, redis_url: str, event_id: str, harm: str
) -> None:
    made = await block(olga, event_id, "A-1", floor=1)
    key, client = made["id"].partition("~")[0], redis.Redis.from_url(redis_url)
    sellable = await services.reservations._catalog.get(event_id)  # to find its keys
    partition = services.reservations._kernel.partition_of(sellable)  # the same
    state = event_key(partition, event_id, "state")
    match harm:
        case "mark lost":
            client.hdel(state, f"blocked:{key}")
        case "mark left":
            client.hset(state, "blocked:00000000000000000000000000", "0:1;1#3")
        case "mark differs":
            client.hset(state, f"blocked:{key}", "0:1;1#3")
        case "miscounted":
            client.hincrby(state, "off_sale", 7)
        case "not counted":  # by a version that did not
            client.hdel(state, "off_sale")
        case "block lost":
            await services.desk._free(made["id"])  # Redis frees what the ledger still has
        case "block left":
            database = services.bookings.engine
            async with driver_connection(database) as connection:
                await connection.execute("UPDATE bookings SET status = 'unblocked' WHERE event_id = $1", event_id)
                await connection.execute("DELETE FROM claims WHERE event_id = $1", event_id)
                await connection.execute("UPDATE usage SET sold = 0 WHERE event_id = $1", event_id)
    kinds = await drift(services)
    assert set(kinds) == {"block lost": {"missing_in_redis"}, "block left": {"missing_in_ledger"}}.get(
        harm, {"mark_wrong"}
    )

    repaired = await services.oversight.reconcile(event_id, wait_s=10.0)

    assert (repaired.unresolved, repaired.status) == (0, "finished")
    assert await drift(services) == {}
    assert (await seats(ana, event_id))["A-1"] == ("free" if harm == "block left" else "blocked")
    assert list((await seats(ana, event_id)).values()).count("blocked") == (harm != "block left")
    assert client.hget(state, "off_sale") == (b"0" if harm == "block left" else b"1")


async def test_a_block_waits_for_the_ledger_though_bookings_of_its_event_do_not(
    olga: Person, services: Services, database_url: str
) -> None:
    event_id = await open_event(olga, policy={"durability": "redis"})
    await block(olga, event_id, "A-1")
    rows = await _rows(database_url, "SELECT status FROM bookings WHERE event_id = $1", event_id)
    assert rows == [{"status": "blocked"}]


async def test_a_block_has_a_bound_of_numbered_seats_and_none_of_counted_places(olga: Person) -> None:
    event_id = await open_event(
        olga,
        sections=[
            {"id": "floor", "price": 1, "capacity": 20_000},
            {"id": "stalls", "price": 1, "rows": [{"id": row, "seats": "1-600"} for row in "AB"]},
        ],
    )
    many = [f"{row}-{seat}" for row in "AB" for seat in range(1, 601)]
    path = f"/v1/events/{event_id}/blocks"

    assert (await olga.post(path, claim(floor=15_000))).status_code == 201
    assert (await olga.post(path, claim(*many[:1000]))).status_code == 201
    split = {"items": [{"section": "stalls", "seats": many[600:1200]}, {"section": "stalls", "seats": many[:600]}]}
    for too_many in (claim(*many[:1001]), split):
        assert (await olga.post(path, too_many)).status_code == 422


async def block_at_once(person: Person, event_id: str, count: int) -> list[int]:
    """Block a place of the floor so many times together; the statuses, sorted."""
    path = f"/v1/events/{event_id}/blocks"
    answers = await asyncio.gather(*(person.post(path, claim(floor=1)) for _ in range(count)))
    refused = [answer.json() for answer in answers if answer.status_code != 201]
    assert {(one["code"], one["limit"]) for one in refused} <= {("limit-exceeded", "blocks_per_event")}
    return sorted(answer.status_code for answer in answers)


async def test_an_event_has_no_more_blocks_than_it_may_have_though_they_are_made_at_once(
    olga: Person, services: Services, redis_url: str
) -> None:
    event_id = await open_event(olga, sections=[{"id": "floor", "price": 1, "capacity": BLOCKS_MAX + 100}])
    made = BLOCKS_MAX - 5
    while made:  # few at once: fifty would wait for each other's connections longer than a request may
        count = min(made, 10)
        assert set(await block_at_once(olga, event_id, count)) == {201}
        made -= count

    assert await block_at_once(olga, event_id, 20) == [201] * 5 + [409] * 15

    assert await drift(services) == {}
    redis.Redis.from_url(redis_url).flushall()  # whoever loads the event counts them as well
    assert await block_at_once(olga, event_id, 1) == [409]
    for one in (await olga.get(f"/v1/events/{event_id}/blocks?limit=2")).json()["items"]:
        assert (await olga.delete(f"/v1/events/{event_id}/blocks/{one['id']}")).status_code == 204
    assert await block_at_once(olga, event_id, 3) == [201, 201, 409]


async def test_a_draft_has_no_more_blocks_than_an_event_may_have_though_they_are_made_at_once(
    olga: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_of_the_ledger, "BLOCKS_MAX", 3)
    event_id = (await olga.post("/v1/events", event_definition())).json()["id"]

    assert await block_at_once(olga, event_id, 5) == [201] * 3 + [409] * 2

    (newest, *_) = (await olga.get(f"/v1/events/{event_id}/blocks")).json()["items"]
    assert (await olga.delete(f"/v1/events/{event_id}/blocks/{newest['id']}")).status_code == 204
    assert await block_at_once(olga, event_id, 2) == [201, 409]


async def test_a_block_of_a_draft_waits_for_a_change_of_its_layout_and_goes_by_what_it_is_then(
    olga: Person, database_url: str
) -> None:
    event_id = (await olga.post("/v1/events", event_definition())).json()["id"]
    database = open_database(database_url)
    try:
        async with driver_connection(database) as connection:
            changing = connection.transaction()
            await changing.start()
            await connection.execute("UPDATE events SET layout_digest = 'another' WHERE id = $1", event_id)
            blocking = asyncio.create_task(olga.post(f"/v1/events/{event_id}/blocks", claim("A-1")))
            await asyncio.sleep(0.2)
            assert not blocking.done()
            await changing.commit()
        # The definition was left as it was, so that no attempt fits the layout.
        assert (await blocking).status_code == 503
    finally:
        await database.dispose()
    assert await _rows(database_url, "SELECT * FROM claims WHERE event_id = $1", event_id) == []


async def test_a_release_by_places_that_is_repeated_leaves_alone_what_was_blocked_since(
    services: Services, olga: Person, ana: Person, event_id: str
) -> None:
    """As after a crash between the ledger and Redis: the route's own memory of the key is not there."""
    places, once = ClaimRequest([ItemRequest("stalls", seats=["A-1"])]), Once(b"s" * 32, b"b" * 32)
    for _ in range(2):
        if (await seats(ana, event_id))["A-1"] != "blocked":
            await block(olga, event_id, "A-1")
        await services.blocks.release_places(event_id, places, actor=Actor("olga", "organizer", "r"), once=once)
        await services.blocks.release_places(event_id, places, actor=Actor("olga", "organizer", "r"), once=once)

    assert (await seats(ana, event_id))["A-1"] == "blocked"
