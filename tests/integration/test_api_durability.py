"""Bookings while Postgres is slow or away: 202, 503 once too many wait, and 201 where the event leaves it to Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
import redis
import sqlalchemy as sa
from api_app import Person, claim, composed, connected, drain, open_event
from postgres_outage import postgres_away

from api.services import Services
from engine.keys import partition_key, partition_of
from persistence.database import in_transaction

BOUND = 16_384  # reached by some dozens of bookings
PARTITIONS = 4


@pytest.fixture
async def services(redis_url: str, database_url: str) -> AsyncIterator[Services]:
    async with composed(redis_url, database_url, journal_bytes_max=BOUND) as made:
        yield made


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx2.AsyncClient]:
    async with connected(services) as opened:
        yield opened


@pytest.fixture
def ana(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ana", "customer")


@pytest.fixture
def olga(client: httpx2.AsyncClient) -> Person:
    return Person(client, "olga", "organizer")


class Shop:
    """An event of many places, and how to buy one."""

    def __init__(self, ana: Person, event_id: str) -> None:
        self.ana = ana
        self.event_id = event_id

    async def book(self, **headers: str) -> httpx2.Response:
        return await self.ana.post("/v1/bookings", {"event_id": self.event_id} | claim(floor=1), **headers)

    async def book_until(self, status: int) -> httpx2.Response:
        for _ in range(100):
            response = await self.book()
            if response.status_code == status:
                return response
        raise AssertionError(f"no {status}, the last was {response.status_code}")

    async def sold(self) -> int:
        sections = (await self.ana.get(f"/v1/events/{self.event_id}/availability")).json()["sections"]
        return int(sections[0]["sold"])

    async def find(self, booking: dict[str, Any]) -> httpx2.Response:
        return await self.ana.get(f"/v1/bookings/{booking['id']}")

    async def until_durable(self, booking: dict[str, Any]) -> dict[str, Any]:
        return await self.until(booking, lambda found: found["durable"])

    async def until(self, booking: dict[str, Any], is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                found: dict[str, Any] = (await self.find(booking)).json()
                if is_so(found):
                    return found
                await asyncio.sleep(0.02)


async def open_shop(ana: Person, olga: Person, **policy: Any) -> Shop:
    sections = [{"id": "floor", "price": 4500, "capacity": 500}]
    policy = {"max_places_per_customer": 500} | policy
    return Shop(ana, await open_event(olga, sections=sections, policy=policy))


async def test_bookings_are_refused_with_503_when_the_journal_is_full_and_taken_again_after_the_drain(
    ana: Person, olga: Person, redis_url: str, database_url: str
) -> None:
    shop = await open_shop(ana, olga)
    hold = (await ana.post(f"/v1/events/{shop.event_id}/holds", claim(floor=1))).json()
    with redis.Redis.from_url(redis_url) as server:
        async with postgres_away(database_url):
            assert (await shop.book()).status_code == 202
            refused = await shop.book_until(503)
            problem = refused.json()
            assert (problem["code"], refused.headers["retry-after"]) == ("journal-full", "5")
            sold = await shop.sold()
            before = server.xlen(partition_key(partition_of(shop.event_id, None, PARTITIONS), "journal"))
            confirmed = await ana.post("/v1/bookings", {"hold_id": hold["id"]}, idempotency_key="k")
            assert (confirmed.status_code, confirmed.json()["code"]) == (503, "journal-full")
            assert await shop.sold() == sold == before
            assert (await ana.get(f"/v1/holds/{hold['id']}")).status_code == 200

    drained = await drain(redis_url, database_url)

    assert (drained.settled, drained.left) == (sold, 0)
    confirmed = await ana.post("/v1/bookings", {"hold_id": hold["id"]}, idempotency_key="k")
    assert (confirmed.status_code, confirmed.json()["durable"]) == (201, True)


async def test_booking_that_postgres_will_not_have_is_answered_202_and_stays_confirming(
    services: Services, ana: Person, olga: Person, database_url: str
) -> None:
    shop = await open_shop(ana, olga)

    async def constrain(connection: Any) -> None:
        await connection.execute(sa.text("ALTER TABLE bookings ADD CONSTRAINT nobody CHECK (customer_id <> 'ana')"))

    async def relax(connection: Any) -> None:
        await connection.execute(sa.text("ALTER TABLE bookings DROP CONSTRAINT nobody"))

    await in_transaction(services.bookings.engine, constrain)
    try:
        first, again = await shop.book(idempotency_key="k"), await shop.book(idempotency_key="k")
        found = await shop.find(first.json())
    finally:
        await in_transaction(services.bookings.engine, relax)
    assert [response.status_code for response in (first, again, found)] == [202, 202, 200]
    assert first.json() == again.json() == found.json()
    assert (first.json()["status"], first.json()["durable"], again.headers["idempotent-replayed"]) == (
        "confirming",
        False,
        "true",
    )
    assert await shop.sold() == 1


async def test_details_that_are_too_long_to_wait_in_the_journal_are_refused(ana: Person, olga: Person) -> None:
    shop = await open_shop(ana, olga)
    body = {"event_id": shop.event_id, "metadata": {"essay": "x" * 70_000}} | claim(floor=1)
    response = await ana.post("/v1/bookings", body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    assert await shop.sold() == 0


# --- durability: redis -----------------------------------------------------------------------------------------------


async def test_event_that_leaves_it_to_redis_answers_201_that_becomes_durable(ana: Person, olga: Person) -> None:
    shop = await open_shop(ana, olga, durability="redis")
    response = await shop.book(idempotency_key="k")
    booking = response.json()
    assert (response.status_code, booking["status"], booking["durable"]) == (201, "confirmed", False)
    assert (booking["reference"], booking["version"], response.headers["etag"]) == (None, 0, '"0"')
    durable = await shop.until_durable(booking)
    assert durable["reference"].startswith("HF-")
    changed = {"durable", "reference", "version"}
    assert {k: v for k, v in durable.items() if k not in changed} == {
        k: v for k, v in booking.items() if k not in changed
    }
    again = await shop.book(idempotency_key="k")
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (201, durable, "true")


async def test_event_that_waits_for_postgres_says_that_its_bookings_are_durable(ana: Person, olga: Person) -> None:
    shop = await open_shop(ana, olga)
    assert (await shop.book()).json()["durable"] is True


async def test_event_that_leaves_it_to_redis_sells_without_postgres(
    ana: Person, olga: Person, redis_url: str, database_url: str
) -> None:
    shop = await open_shop(ana, olga, durability="redis")
    hold = (await ana.post(f"/v1/events/{shop.event_id}/holds", claim(floor=1))).json()
    async with postgres_away(database_url):
        confirmed = await ana.post("/v1/bookings", {"hold_id": hold["id"]}, idempotency_key="k")
        again = await ana.post("/v1/bookings", {"hold_id": hold["id"]}, idempotency_key="k")
        reused = await ana.post("/v1/bookings", {"hold_id": hold["id"], "notes": "x"}, idempotency_key="k")
        booked = await shop.book()
        assert [one.status_code for one in (confirmed, again, reused, booked)] == [201, 201, 422, 201]
        assert confirmed.json() == again.json() == (await shop.find(hold)).json()
        assert (confirmed.json()["status"], confirmed.json()["durable"]) == ("confirmed", False)

    assert (await drain(redis_url, database_url)).settled == 2

    for booking in (confirmed.json(), booked.json()):
        found = (await shop.find(booking)).json()
        assert (found["status"], found["durable"], found["version"]) == ("confirmed", True, 1)


@contextlib.asynccontextmanager
async def nothing_written(services: Services, shop: Shop) -> AsyncIterator[None]:
    """Let no booking of the shop's get into the ledger until the context ends; all else goes on."""
    async with services.bookings.engine.connect() as connection:
        locked = sa.text("SELECT FROM events WHERE id = :id FOR UPDATE")
        await connection.execute(locked, {"id": shop.event_id})
        yield
        await connection.rollback()


async def test_steps_and_quotes_of_a_booking_that_was_left_to_redis_wait_until_it_is_written(
    services: Services, ana: Person, olga: Person
) -> None:
    shop = await open_shop(ana, olga, durability="redis")
    async with nothing_written(services, shop):
        booked = [(await shop.book()).json()["id"] for _ in range(4)]
        asked = [
            asyncio.create_task(ana.get(f"/v1/bookings/{booked[0]}/refund-quote")),
            asyncio.create_task(ana.patch(f"/v1/bookings/{booked[1]}", {"notes": "x"})),
            asyncio.create_task(ana.post(f"/v1/bookings/{booked[2]}/cancel")),
            asyncio.create_task(olga.post(f"/v1/bookings/{booked[3]}/check-in")),
        ]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in asked)
    answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert answers[0].json()["amount"] == 4500
    assert [answer.json().get("version") for answer in answers[1:]] == [2] * 3


async def test_steps_and_quotes_of_a_booking_that_is_not_written_in_time_are_told_so(
    services: Services, ana: Person, olga: Person
) -> None:
    shop = await open_shop(ana, olga, durability="redis")
    stranger = Person(ana._client, "ben", "customer")
    async with nothing_written(services, shop):
        path = f"/v1/bookings/{(await shop.book()).json()['id']}"
        answers = await asyncio.gather(
            ana.get(f"{path}/refund-quote"),
            ana.patch(path, {"notes": "x"}),
            ana.patch(path, claim(floor=2)),
            ana.post(f"{path}/cancel"),
            olga.post(f"{path}/check-in"),
        )
        foreign = await asyncio.gather(stranger.get(f"{path}/refund-quote"), stranger.post(f"{path}/cancel"))
        assert (await ana.get(path)).status_code == 200
    assert [(one.status_code, one.json()["code"], one.headers["retry-after"]) for one in answers] == [
        (503, "not-written-yet", "1")
    ] * 5
    assert not any("does not answer" in one.json()["detail"] for one in answers)
    assert [one.json()["code"] for one in foreign] == ["booking-not-found"] * 2


async def test_version_that_was_told_before_a_booking_was_written_is_good_until_somebody_changes_it(
    ana: Person, olga: Person
) -> None:
    shop = await open_shop(ana, olga, durability="redis")
    first, second = await shop.book(), await shop.book()
    assert [one.json()["version"] for one in (first, second)] == [0, 0]
    for booked, told in ((first, {"if_match": first.headers["etag"]}), (second, {})):
        path = f"/v1/bookings/{booked.json()['id']}"
        body = {"notes": "x"} if told else {"notes": "x", "expected_version": booked.json()["version"]}
        changed = await ana.patch(path, body, **told)
        assert (changed.status_code, changed.json()["version"]) == (200, 2), changed.text
        again = await ana.patch(path, body, **told)
        assert (again.status_code, again.json()["code"], again.json()["current_version"]) == (
            409,
            "version-conflict",
            2,
        )


async def test_booking_that_was_left_to_redis_and_lost_in_the_ledger_is_refused_afterwards(
    services: Services, ana: Person, olga: Person
) -> None:
    shop = await open_shop(ana, olga, durability="redis")
    await shop.until_durable((await shop.book()).json())

    async def lose(connection: Any) -> None:
        await connection.execute(sa.text("UPDATE events SET epoch = epoch + 1"))

    await in_transaction(services.bookings.engine, lose)
    response = await shop.book()
    assert (response.status_code, response.json()["status"]) == (201, "confirmed")
    gone = await shop.until(response.json(), lambda found: "durable" not in found)
    assert gone["code"] == "booking-refused"
    assert await shop.sold() == 1
