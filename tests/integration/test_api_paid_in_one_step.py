"""Bookings held and paid for in one request, which is sent again under its idempotency key when it came to nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from api_app import Person, claim, composed, connected, open_event
from payment_lab import RunningSimulator, check_money, running_simulator, simulated, until
from service_stand_in import StandIn, stand_in

from api.services import Services
from engine.errors import LedgerUnavailable
from holdfast.services.breaker import CircuitBreaker
from holdfast.services.inventory import HttpInventory
from holdfast.services.outbound import ServiceClient
from persistence import checkout

ASKING = {"payment": "required", "inventory": "service"}
SHORT = {"payment": "required", "hold_ttl": 1, "hold_ttl_max": 1, "payment_ttl": 1}


class Shop:
    """A server that takes payments and asks an inventory service, and people."""

    def __init__(self, services: Services, client: httpx2.AsyncClient, inventory: StandIn) -> None:
        self.services = services
        self.client = client
        self.inventory = inventory
        self.ana = Person(client, "ana", "customer")
        self.ben = Person(client, "ben", "customer")
        self.olga = Person(client, "olga", "organizer")

    async def sold_and_held(self, event_id: str) -> tuple[int, int]:
        sections = (await self.ana.get(f"/v1/events/{event_id}/availability")).json()["sections"]
        return sum(section["sold"] for section in sections), sum(section["held"] for section in sections)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
async def shop(redis_url: str, database_url: str, simulator: RunningSimulator) -> AsyncIterator[Shop]:
    simulator.forget()
    async with contextlib.AsyncExitStack() as stack:
        inventory = await stack.enter_async_context(stand_in(answer={"available": True}))
        asking = ServiceClient("inventory", inventory.url, timeout_s=1.0, breaker=CircuitBreaker(opens_after=100))
        stack.push_async_callback(asking.aclose)
        http = await stack.enter_async_context(httpx2.AsyncClient())
        providers = {"simulator": simulated(simulator, http)}
        services = await stack.enter_async_context(
            composed(redis_url, database_url, inventory=HttpInventory(asking), providers=providers)
        )
        yield Shop(services, await stack.enter_async_context(connected(services)), inventory)


def wish_for(event_id: str, *seats: str) -> dict[str, Any]:
    return {"event_id": event_id, "payment": {"provider": "simulator", "method": "sim_ok"}} | claim(*seats)


async def lapse_of_holds(shop: Shop, event_id: str) -> None:
    async def nothing_is_held() -> bool:
        return (await shop.sold_and_held(event_id))[1] == 0

    await until(nothing_is_held)


async def test_the_same_request_succeeds_once_the_inventory_answers_again(
    shop: Shop, simulator: RunningSimulator
) -> None:
    event_id = await open_event(shop.olga, policy=ASKING)
    shop.inventory.status = 500
    refused = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")
    assert (refused.status_code, refused.json()["code"]) == (503, "inventory-unavailable")
    assert await shop.sold_and_held(event_id) == (0, 0)

    shop.inventory.status = 200
    shop.inventory.answer = {"available": False}
    refused = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")
    assert (refused.status_code, refused.json()["code"]) == (409, "places-unavailable")
    assert await shop.sold_and_held(event_id) == (0, 0)

    shop.inventory.answer = {"available": True}
    booked = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")
    assert booked.status_code == 201, booked.text
    again = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")
    assert (again.status_code, again.json()["id"]) == (201, booked.json()["id"])
    assert again.headers["idempotent-replayed"] == "true"
    assert await shop.sold_and_held(event_id) == (1, 0)
    assert (await check_money(shop.services.bookings.engine, simulator))["booked"] == 1


@pytest.mark.parametrize("key", [{"idempotency_key": "k"}, {}])
async def test_refusal_for_another_booking_of_the_customer_s_takes_nothing(
    shop: Shop, simulator: RunningSimulator, key: dict[str, str]
) -> None:
    event_id = await open_event(shop.olga, policy={"payment": "required", "one_booking_per_customer": True})
    first = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="first")
    assert first.status_code == 201, first.text
    refused = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-2", "A-3"), **key)
    assert (refused.status_code, refused.json()["limit"]) == (409, "one_booking_per_customer")
    assert await shop.sold_and_held(event_id) == (1, 0)

    await shop.ana.post(f"/v1/bookings/{first.json()['id']}/cancel", {})
    again = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-2", "A-3"), **key)
    assert again.status_code == 201, again.text
    assert await shop.sold_and_held(event_id) == (2, 0)
    assert (await check_money(shop.services.bookings.engine, simulator))["booked"] == 1


async def test_the_same_request_succeeds_where_its_hold_lapsed_before_a_payment_was_written_down(
    shop: Shop, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = await open_event(shop.olga, policy=SHORT)

    async def is_away(*_: object) -> None:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as away:
        away.setattr(checkout, "begin_payment", is_away)
        unknown = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")
    assert unknown.status_code == 503, unknown.text
    assert await shop.sold_and_held(event_id) == (0, 1)
    await lapse_of_holds(shop, event_id)

    booked = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")
    assert booked.status_code == 201, booked.text
    assert await shop.sold_and_held(event_id) == (1, 0)
    assert (await check_money(shop.services.bookings.engine, simulator))["booked"] == 1


async def test_the_same_request_goes_on_with_the_hold_that_is_still_there(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = await open_event(shop.olga, policy={"payment": "required"})

    async def is_away(*_: object) -> None:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as away:
        away.setattr(checkout, "begin_payment", is_away)
        assert (await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")).status_code == 503
    booked = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")
    assert booked.status_code == 201, booked.text
    assert await shop.sold_and_held(event_id) == (1, 0)


async def test_what_somebody_else_has_taken_meanwhile_is_refused_as_taken(shop: Shop) -> None:
    event_id = await open_event(shop.olga, policy=ASKING)
    shop.inventory.status = 500
    assert (await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")).status_code == 503
    shop.inventory.status = 200
    assert (await shop.ben.post("/v1/bookings", wish_for(event_id, "A-1"))).status_code == 201
    refused = await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")
    assert (refused.status_code, refused.json()["code"]) == (409, "places-unavailable")


async def test_the_same_request_sent_four_times_at_once_after_a_failure_is_one_booking(
    shop: Shop, simulator: RunningSimulator
) -> None:
    event_id = await open_event(shop.olga, policy=ASKING)
    shop.inventory.status = 500
    assert (await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k")).status_code == 503
    shop.inventory.status = 200
    shop.inventory.delay_s = 0.1
    answers = await asyncio.gather(
        *(shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k") for _ in range(4))
    )
    assert {answer.status_code for answer in answers} <= {201, 202}, [answer.text for answer in answers]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await shop.sold_and_held(event_id) == (1, 0)
    assert (await check_money(shop.services.bookings.engine, simulator))["booked"] == 1


async def test_repetition_of_a_payment_that_was_not_begun_waits_for_its_turn_like_any_request(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = await open_event(shop.olga, policy={"payment": "required", "admission": {"rate": 100}})
    ticket = (await shop.ana.post(f"/v1/events/{event_id}/queue")).json()["ticket"]

    async def is_away(*_: object) -> None:
        raise LedgerUnavailable("away")

    async def book(**headers: str) -> httpx2.Response:
        return await shop.ana.post("/v1/bookings", wish_for(event_id, "A-1"), idempotency_key="k", **headers)

    with monkeypatch.context() as away:
        away.setattr(checkout, "begin_payment", is_away)
        assert (await book(holdfast_admission=ticket)).status_code == 503
    refused = await book()
    assert (refused.status_code, refused.json()["code"]) == (409, "admission-required")
    booked = await book(holdfast_admission=ticket)
    assert booked.status_code == 201, booked.text
    again = await book()
    assert (again.status_code, again.json()["id"]) == (201, booked.json()["id"])
