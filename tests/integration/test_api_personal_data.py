"""Personal data: found nowhere in the clear but in answers to those it concerns, and erased when they ask."""

import io
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from api_app import DATA_KEY, Person, claim, composed, connected, open_event
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import open_client
from structlog.testing import capture_logs

from api.services import Services
from engine.bookings import BookingDetails
from engine.ids import BookingId, parse_claim_id
from engine.lifecycle import SYSTEM, Actor
from persistence.database import in_transaction
from persistence.erasure import ERASED, PAGE
from persistence.schema import bookings, history, outbox
from persistence.sealing import AesSealer
from persistence.steps import Step, lock_booking, take_step

NAME, EMAIL, PHONE = "Wilhelmina Quetzal", "wilhelmina@quetzal.example", "+49 30 5550199"
NOTE, CAMPAIGN, SAID = "brings a tame heron", "heron-lovers", "the heron has a cold"
PLANTED = (NAME, "Quetzal", EMAIL, PHONE, NOTE, CAMPAIGN, SAID)
PEOPLE: dict[str, Any] = {
    "guest": {"name": NAME, "email": EMAIL, "phone": PHONE},
    "attendees": [{"name": NAME, "email": EMAIL, "age": 41, "gender": "female", "seat": "A-1"}],
    "notes": NOTE,
    "metadata": {"campaign": CAMPAIGN},
}


@pytest.fixture
async def services(redis_url: str, database_url: str) -> AsyncIterator[Services]:
    async with composed(redis_url, database_url) as opened:
        yield opened


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx2.AsyncClient]:
    async with connected(services) as opened:
        yield opened


@pytest.fixture
def ana(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ana", "customer")


@pytest.fixture
def ada(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ada", "admin")


@pytest.fixture
def olga(client: httpx2.AsyncClient) -> Person:
    return Person(client, "olga", "organizer")


async def booking_of(person: Person, event_id: str, *seats: str, **members: Any) -> dict[str, Any]:
    response = await person.post("/v1/bookings", {"event_id": event_id} | claim(*seats) | members)
    assert response.status_code == 201, response.text
    booking: dict[str, Any] = response.json()
    return booking


async def rows_of(services: Services, table: sa.Table) -> list[dict[str, Any]]:
    async def read(connection: AsyncConnection) -> list[dict[str, Any]]:
        return [dict(row) for row in (await connection.execute(sa.select(table))).mappings()]

    return await in_transaction(services.bookings.engine, read)


async def cancel(services: Services, booking_id: str, reason: str, actor: Actor) -> None:
    async def step(connection: AsyncConnection) -> None:
        row = await lock_booking(connection, booking_id)
        changes = {"cancellation_reason": reason, "cancelled_by": actor.id, "organizer_notes": SAID}
        await take_step(connection, row, Step(to_status="cancelled", reason=reason, changes=changes), actor)

    await in_transaction(services.bookings.engine, step)


def everything_in_redis(url: str) -> bytes:
    """Every key with its value as the server would write it to disk, and as it tells it."""
    store = open_client(url)
    found = io.BytesIO()
    for key in store.scan_iter(count=1000):
        kind = store.type(key)
        found.write(key + b"\n" + (store.dump(key) or b"") + b"\n")
        read = {
            b"string": lambda key: store.get(key),
            b"hash": lambda key: store.hgetall(key),
            b"set": lambda key: store.smembers(key),
            b"zset": lambda key: store.zrange(key, 0, -1),
            b"stream": lambda key: store.xrange(key),
            b"list": lambda key: store.lrange(key, 0, -1),
        }[kind]
        found.write(repr(read(key)).encode() + b"\n")
    return found.getvalue()


async def test_a_bookings_full_life_leaves_nothing_personal_in_redis_logs_metrics_or_the_ledger_in_the_clear(
    services: Services, client: httpx2.AsyncClient, ana: Person, olga: Person, redis_url: str, caplog: Any
) -> None:
    event_id = await open_event(olga)
    with capture_logs() as logs, caplog.at_level(logging.DEBUG):
        held = (await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))).json()
        request = {"hold_id": held["id"]} | PEOPLE
        booked = await ana.post("/v1/bookings", request, idempotency_key="k")
        assert (await ana.post("/v1/bookings", request, idempotency_key="k")).json() == booked.json()
        redis_only = await open_event(olga, policy={"durability": "redis"})
        await booking_of(ana, redis_only, "A-1", **PEOPLE)
        await ana.post("/v1/bookings", {"event_id": event_id} | claim("A-1") | PEOPLE)  # taken
        await ana.post("/v1/bookings", request | {"guest": {"name": NAME, "email": PHONE}})  # not valid
        await Person(client, "ben", "customer").get(f"/v1/bookings/{booked.json()['id']}")  # not theirs
        shown = (await ana.get(f"/v1/bookings/{booked.json()['id']}")).json()
        path = f"/v1/bookings/{booked.json()['id']}"
        amended = await ana.patch(path, {"notes": NOTE, "guest": {"name": NAME, "phone": PHONE}}, idempotency_key="p")
        assert amended.status_code == 200, amended.text
        assert (await ana.post(f"{path}/cancel", {"reason": "plans have changed"}, idempotency_key="c")).is_success
        metrics = (await client.get("/metrics")).content
    assert {name: shown[name] for name in PEOPLE} == PEOPLE
    ledger = [await rows_of(services, table) for table in (bookings, history, outbox)]
    told = [repr(logs), caplog.text, metrics.decode(), everything_in_redis(redis_url).decode("latin-1")]
    written = [repr(row | {"organizer_notes": None}) for rows in ledger for row in rows]
    assert len(everything_in_redis(redis_url)) > 1000
    assert any("access_refused" in repr(entry) for entry in logs)
    for planted in PLANTED:
        assert [text for text in (*told, *written) if planted in text] == []


def people_in(seat: str) -> dict[str, Any]:
    return PEOPLE | {"attendees": [PEOPLE["attendees"][0] | {"seat": seat}]}


async def test_erasing_takes_what_is_personal_and_leaves_places_money_and_the_history(
    services: Services, ana: Person, olga: Person
) -> None:
    event_id = await open_event(olga)
    cancelled = await booking_of(ana, event_id, "A-1", **PEOPLE)
    kept = await booking_of(ana, event_id, "A-2", **people_in("A-2"))
    others = await booking_of(Person(ana._client, "ben", "customer"), event_id, "A-3", **people_in("A-3"))
    await cancel(services, cancelled["id"], SAID, Actor("olga", "organizer"))

    response = await ana.delete("/v1/customers/ana/personal-data")

    assert (response.status_code, response.json()) == (200, {"bookings": 2})
    nothing = {"guest": None, "attendees": [], "notes": None, "metadata": {}}
    after = (await ana.get(f"/v1/bookings/{kept['id']}")).json()
    assert after == kept | nothing | {"version": 2, "updated_at": after["updated_at"]}
    after = (await ana.get(f"/v1/bookings/{cancelled['id']}")).json()
    assert {name: after[name] for name in nothing} == nothing
    assert (after["status"], after["organizer_notes"], after["cancellation_reason"]) == ("cancelled", None, None)
    ben = Person(ana._client, "ben", "customer")
    assert (await ben.get(f"/v1/bookings/{others['id']}")).json() == others
    availability = (await ana.get(f"/v1/events/{event_id}/availability")).json()
    assert availability["sections"][1]["sold"] == 3  # freeing what was cancelled is the desk's, not the eraser's
    reasons = sorted((str(row["reason"]), row["role"]) for row in await rows_of(services, history))
    assert reasons == [("None", "customer")] * 3 + [("None", "organizer")] + [(ERASED, "customer")] * 2
    ledger = [row for table in (bookings, history, outbox) for row in await rows_of(services, table)]
    assert [row for row in ledger if any(planted in repr(row) for planted in PLANTED)] == []
    (own,) = [row for row in await rows_of(services, bookings) if row["id"] == uuid_of(kept["id"])]
    details = AesSealer([DATA_KEY]).unseal(bytes(own["sealed"]), BookingId(kept["id"]))
    assert details == BookingDetails(request_id=details.request_id)


async def test_erasing_again_changes_nothing_and_says_the_same(services: Services, ana: Person, olga: Person) -> None:
    await booking_of(ana, await open_event(olga), "A-1", **PEOPLE)
    first = await ana.delete("/v1/customers/ana/personal-data")
    before = [await rows_of(services, table) for table in (bookings, history, outbox)]
    again = await ana.delete("/v1/customers/ana/personal-data")
    assert again.json() == first.json() == {"bookings": 1}
    assert [await rows_of(services, table) for table in (bookings, history, outbox)] == before


async def test_what_holdfast_itself_gave_as_a_reason_stays(services: Services, ana: Person, olga: Person) -> None:
    booking = await booking_of(ana, await open_event(olga), "A-1", **PEOPLE)
    await cancel(services, booking["id"], "the event was cancelled", SYSTEM)
    assert (await ana.delete("/v1/customers/ana/personal-data")).json() == {"bookings": 1}
    after = (await ana.get(f"/v1/bookings/{booking['id']}")).json()
    assert after["cancellation_reason"] == "the event was cancelled"
    assert "the event was cancelled" in {row["reason"] for row in await rows_of(services, history)}


async def test_bookings_are_erased_page_by_page(services: Services, ana: Person, ada: Person, olga: Person) -> None:
    event_id = await open_event(
        olga, sections=[{"id": "floor", "price": 1, "capacity": 500}], policy={"max_places_per_customer": 500}
    )
    for _ in range(PAGE + 1):
        await booking_of(ana, event_id, items=[{"section": "floor", "quantity": 1}], notes=NOTE)
    assert (await ada.delete("/v1/customers/ana/personal-data")).json() == {"bookings": PAGE + 1}
    assert {(row["reason"], row["role"]) for row in await rows_of(services, history) if row["version"] == 2} == {
        (ERASED, "admin")
    }
    assert {row["version"] for row in await rows_of(services, bookings)} == {2}


async def test_booking_whose_key_is_lost_is_erased_all_the_same(services: Services, ana: Person, olga: Person) -> None:
    booking = await booking_of(ana, await open_event(olga), "A-1", **PEOPLE)
    lost = AesSealer([b"l" * 32]).seal(BookingDetails(notes=NOTE), BookingId(booking["id"]))

    async def reseal(connection: AsyncConnection) -> None:
        await connection.execute(sa.update(bookings).values(sealed=lost))

    await in_transaction(services.bookings.engine, reseal)
    listings = ("/v1/bookings", "/v1/bookings/upcoming", f"/v1/events/{booking['event_id']}/bookings")
    listed = [(await person.get(path)).json()["items"] for path, person in zip(listings, (ana, ana, olga), strict=True)]
    shown = (await ana.get(f"/v1/bookings/{booking['id']}")).json()
    for each in (shown, *(item for (item,) in listed)):
        assert (each["id"], each["status"], each["amount"]) == (booking["id"], booking["status"], booking["amount"])
        assert (each["guest"], each["attendees"], each["notes"], each["metadata"]) == (None, [], None, {})
    assert (await ana.delete("/v1/customers/ana/personal-data")).status_code == 200
    assert (await ana.get(f"/v1/bookings/{booking['id']}")).json()["notes"] is None


@pytest.mark.parametrize("role", ["customer", "organizer", "service"])
async def test_nobody_else_may_erase(client: httpx2.AsyncClient, role: str) -> None:
    response = await Person(client, "eve", role).delete("/v1/customers/ana/personal-data")
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


async def test_customer_without_bookings_has_nothing_to_erase(ana: Person) -> None:
    assert (await ana.delete("/v1/customers/ana/personal-data")).json() == {"bookings": 0}


def uuid_of(booking_id: str) -> Any:
    key = parse_claim_id(booking_id)
    assert key is not None
    return key.uuid
