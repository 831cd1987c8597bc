"""Bookings on the terms of pricing and inventory services: what they say, and what happens when they say nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from api_app import Person, claim, composed, connected, event_definition, open_event
from service_stand_in import StandIn, stand_in

from holdfast.services.breaker import CircuitBreaker
from holdfast.services.inventory import HttpInventory
from holdfast.services.outbound import ServiceClient
from holdfast.services.pricing import HttpPricing

QUOTED = {"base": 9000, "tax": 900, "discount": 400, "total": 9500}
ON_TERMS = {"policy": {"pricing": "service", "inventory": "service"}}


class Shop:
    """A server, the services that it asks, and people."""

    def __init__(self, client: httpx2.AsyncClient, pricing: StandIn, inventory: StandIn) -> None:
        self.client = client
        self.pricing = pricing
        self.inventory = inventory
        self.ana = Person(client, "ana", "customer")
        self.ben = Person(client, "ben", "customer")
        self.olga = Person(client, "olga", "organizer")

    async def sold_and_held(self, event_id: str) -> tuple[int, int]:
        sections = (await self.ana.get(f"/v1/events/{event_id}/availability")).json()["sections"]
        return sum(section["sold"] for section in sections), sum(section["held"] for section in sections)


@pytest.fixture
async def shop(redis_url: str, database_url: str) -> AsyncIterator[Shop]:
    async with contextlib.AsyncExitStack() as stack:
        pricing = await stack.enter_async_context(stand_in(answer=QUOTED))
        inventory = await stack.enter_async_context(stand_in(answer={"available": True}))
        clients = [
            ServiceClient(name, service.url, timeout_s=1.0, breaker=CircuitBreaker(opens_after=100))
            for name, service in (("pricing", pricing), ("inventory", inventory))
        ]
        for one in clients:
            stack.push_async_callback(one.aclose)
        services = await stack.enter_async_context(
            composed(redis_url, database_url, pricing=HttpPricing(clients[0]), inventory=HttpInventory(clients[1]))
        )
        yield Shop(await stack.enter_async_context(connected(services)), pricing, inventory)


async def request_for(shop: Shop, event_id: str, form: str) -> dict[str, Any]:
    """The body that books one seat of the stalls, in one of the forms that there are."""
    if form == "hold":
        held = await shop.ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))
        return {"hold_id": held.json()["id"]}
    if form == "seats":
        return {"event_id": event_id} | claim("A-1")
    return {"event_id": event_id, "items": [{"section": "stalls", "best": 1}]}


FORMS = pytest.mark.parametrize("form", ["hold", "seats", "best"])


@FORMS
async def test_price_is_asked_for_the_very_places_and_kept_with_the_booking(shop: Shop, form: str) -> None:
    event_id = await open_event(shop.olga, **ON_TERMS)
    response = await shop.ana.post("/v1/bookings", await request_for(shop, event_id, form))
    assert response.status_code == 201, response.text
    booking = response.json()
    assert booking["price"] == QUOTED | {"source": "service"}
    assert booking["amount"] == 9500
    assert (await shop.ana.get(f"/v1/bookings/{booking['id']}")).json() == booking
    for service in (shop.pricing, shop.inventory):
        (question,) = service.questions
        assert question["items"] == booking["items"]
        assert (question["event_id"], question["customer_id"], question["amount"]) == (event_id, "ana", 9000)
    assert await shop.sold_and_held(event_id) == (1, 0)


@FORMS
async def test_slow_pricing_service_leaves_the_sections_prices_marked_as_such(shop: Shop, form: str) -> None:
    event_id = await open_event(shop.olga, **ON_TERMS)
    shop.pricing.delay_s = 5.0
    async with asyncio.timeout(3):
        response = await shop.ana.post("/v1/bookings", await request_for(shop, event_id, form))
    assert response.status_code == 201
    assert response.json()["price"] == {"base": 9000, "tax": 0, "discount": 0, "total": 9000, "source": "fallback"}


@FORMS
async def test_inventory_that_says_no_is_a_409_that_names_the_places_and_the_reason(shop: Shop, form: str) -> None:
    event_id = await open_event(shop.olga, **ON_TERMS)
    request = await request_for(shop, event_id, form)
    shop.inventory.answer = {"available": False, "reason": "The kitchen is closed."}
    response = await shop.ana.post("/v1/bookings", request)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "places-unavailable")
    assert problem["detail"] == "The kitchen is closed."
    assert [place["section"] for place in problem["unavailable"]] == ["stalls"]
    assert (problem["held"], problem["sold"], problem["next_release_at"]) == (0, 1, None)
    assert shop.pricing.questions == []
    assert await shop.sold_and_held(event_id) == (0, 1 if form == "hold" else 0)


@FORMS
async def test_inventory_that_is_away_is_a_503_and_the_same_request_succeeds_later(shop: Shop, form: str) -> None:
    event_id = await open_event(shop.olga, **ON_TERMS)
    request = await request_for(shop, event_id, form)
    shop.inventory.status = 500
    refused = await shop.ana.post("/v1/bookings", request, idempotency_key="k")
    assert (refused.status_code, refused.json()["code"]) == (503, "inventory-unavailable")
    assert refused.headers["retry-after"] == "5"
    assert await shop.sold_and_held(event_id) == (0, 1 if form == "hold" else 0)
    shop.inventory.status = 200
    booked = await shop.ana.post("/v1/bookings", request, idempotency_key="k")
    assert booked.status_code == 201
    assert await shop.sold_and_held(event_id) == (1, 0)


@FORMS
async def test_repetition_is_the_first_booking_whatever_the_services_say_by_now(shop: Shop, form: str) -> None:
    event_id = await open_event(shop.olga, **ON_TERMS)
    request = await request_for(shop, event_id, form)
    first = await shop.ana.post("/v1/bookings", request, idempotency_key="k")
    shop.inventory.answer, shop.pricing.answer = {"available": False}, QUOTED | {"tax": 0, "total": 8600}
    again = await shop.ana.post("/v1/bookings", request, idempotency_key="k")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    other = await shop.ana.post("/v1/bookings", request | {"notes": "changed"}, idempotency_key="k")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert await shop.sold_and_held(event_id) == (1, 0)


async def test_the_same_request_sent_twice_at_once_books_once_and_leaves_no_hold(shop: Shop) -> None:
    event_id = await open_event(shop.olga, **ON_TERMS)
    shop.inventory.delay_s = 0.1
    request = {"event_id": event_id} | claim(floor=1)
    answers = await asyncio.gather(*(shop.ana.post("/v1/bookings", request, idempotency_key="k") for _ in range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await shop.sold_and_held(event_id) == (1, 0)


async def test_ten_for_one_seat_are_asked_about_once_and_one_has_it(shop: Shop) -> None:
    event_id = await open_event(shop.olga, **ON_TERMS)
    people = [Person(shop.client, f"c{number}", "customer") for number in range(10)]
    request = {"event_id": event_id} | claim("A-1")
    answers = await asyncio.gather(*(person.post("/v1/bookings", request) for person in people))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    assert len(shop.inventory.questions) == 1


async def test_events_of_other_policies_ask_nobody(shop: Shop) -> None:
    event_id = await open_event(shop.olga)
    booking = (await shop.ana.post("/v1/bookings", {"event_id": event_id} | claim("A-1"))).json()
    assert booking["price"] == {"base": 9000, "tax": 0, "discount": 0, "total": 9000, "source": "fixed"}
    assert shop.pricing.questions + shop.inventory.questions == []


@FORMS
async def test_what_is_not_there_is_refused_as_ever(shop: Shop, form: str) -> None:
    event_id = await open_event(shop.olga, **ON_TERMS)
    request = await request_for(shop, event_id, form)
    if form == "hold":
        await shop.ana.delete(f"/v1/holds/{request['hold_id']}")
        expected = (410, "hold-released")
        foreign = await shop.ben.post("/v1/bookings", request)
        assert (foreign.status_code, foreign.json()["code"]) == (404, "hold-not-found")
    else:
        expected = (409, "places-unavailable")
        for seat in ("A-1", "A-2", "A-3", "A-4", "B-1", "B-3"):
            assert (await shop.ben.post(f"/v1/events/{event_id}/holds", claim(seat))).status_code == 201
    response = await shop.ana.post("/v1/bookings", request)
    assert (response.status_code, response.json()["code"]) == expected
    assert shop.inventory.questions == []


@pytest.mark.parametrize("policy", ["pricing", "inventory"])
async def test_event_cannot_be_opened_where_its_service_is_not_configured(
    redis_url: str, database_url: str, policy: str
) -> None:
    async with composed(redis_url, database_url) as services, connected(services) as client:
        olga = Person(client, "olga", "organizer")
        event_id = (await olga.post("/v1/events", event_definition(policy={policy: "service"}))).json()["id"]
        response = await olga.post(f"/v1/events/{event_id}/open")
        assert (response.status_code, response.json()["path"]) == (422, f"$.policy.{policy}")
        assert (await olga.get(f"/v1/events/{event_id}")).json()["status"] == "draft"


async def test_process_without_the_services_takes_sections_prices_and_no_booking_that_needs_consent(
    shop: Shop, redis_url: str, database_url: str
) -> None:
    priced = await open_event(shop.olga, policy={"pricing": "service"})
    guarded = await open_event(shop.olga, **ON_TERMS)
    terms = shop.client._transport.app._services.terms  # type: ignore[attr-defined]
    terms._pricing = terms._inventory = None
    booked = await shop.ana.post("/v1/bookings", {"event_id": priced} | claim("A-1"))
    assert (booked.status_code, booked.json()["price"]["source"]) == (201, "fallback")
    refused = await shop.ana.post("/v1/bookings", {"event_id": guarded} | claim("A-1"))
    assert (refused.status_code, refused.json()["code"]) == (503, "inventory-unavailable")
