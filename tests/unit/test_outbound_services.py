"""Asking a service over HTTP: time limits, repetitions, answers that make no sense, and the breaker's part in it."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator

import pytest
from service_stand_in import StandIn, stand_in

from engine import figures
from engine.bookings import Price
from engine.claims import ClaimedItem
from engine.errors import InventoryUnavailable
from engine.inventory import InventoryAnswer
from engine.pricing import AMOUNT_MAX, WantedPlaces
from holdfast.services.breaker import CircuitBreaker
from holdfast.services.inventory import HttpInventory
from holdfast.services.outbound import ANSWER_MAX, ServiceClient
from holdfast.services.pricing import HttpPricing

WANTED = WantedPlaces(
    event_id="concert-42",
    items=(ClaimedItem("stalls", 2, ("A-1", "A-2"), 9000, 18_000), ClaimedItem("floor", 1, None, 4500, 4500)),
    from_="SJC",
    to="SFO",
    customer_id="ana",
    currency="EUR",
    starts_at=dt.datetime(2027, 5, 1, 19, tzinfo=dt.UTC),
    amount=22_500,
)
FALLBACK = Price(22_500, 0, 0, 22_500, "fallback")
QUOTED = {"base": 22_500, "tax": 2_250, "discount": 750, "total": 24_000}


@contextlib.asynccontextmanager
async def asking(url: str, *, timeout_s: float = 2.0, pause_s: float = 60.0) -> AsyncIterator[ServiceClient]:
    client = ServiceClient("pricing", url, timeout_s=timeout_s, breaker=CircuitBreaker(opens_after=3, pause_s=pause_s))
    try:
        yield client
    finally:
        await client.aclose()


def outcomes() -> dict[str, float]:
    return {str(labels[1]): sum(cell[:-1]) for labels, cell in figures.SERVICES.cells.items()}


@pytest.fixture(autouse=True)
def _no_figures_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures.SERVICES, "cells", {})


async def test_a_price_is_asked_for_by_places_and_money_and_kept_as_it_was_said() -> None:
    async with stand_in(answer=QUOTED | {"campaign": "spring"}) as service, asking(service.url) as client:
        assert await HttpPricing(client).price(WANTED) == Price(22_500, 2_250, 750, 24_000, "service")
    assert service.questions == [
        {
            "event_id": "concert-42",
            "items": [
                {"section": "stalls", "quantity": 2, "seats": ["A-1", "A-2"], "price": 9000, "amount": 18_000},
                {"section": "floor", "quantity": 1, "seats": None, "price": 4500, "amount": 4500},
            ],
            "from": "SJC",
            "to": "SFO",
            "customer_id": "ana",
            "currency": "EUR",
            "starts_at": "2027-05-01T19:00:00Z",
            "amount": 22_500,
        }
    ]
    assert outcomes() == {"answered": 1}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (QUOTED | {"total": 24_001}, "invalid"),
        (QUOTED | {"tax": -1, "total": 21_749}, "invalid"),
        (QUOTED | {"discount": 30_000, "total": -5_250}, "invalid"),
        ({"base": AMOUNT_MAX + 1, "tax": 0, "discount": 0, "total": AMOUNT_MAX + 1}, "invalid"),
        (QUOTED | {"base": 22_500.5}, "invalid"),
        (QUOTED | {"base": "22500"}, "invalid"),
        ({"total": 24_000}, "invalid"),
        (b"<html>", "invalid"),
        (b"[" * 100_000, "invalid"),
        (b" " * (ANSWER_MAX + 1), "invalid"),
    ],
)
async def test_a_price_that_makes_no_sense_is_not_taken(answer: object, outcome: str) -> None:
    async with stand_in(answer=answer) as service, asking(service.url) as client:
        assert await HttpPricing(client).price(WANTED) == FALLBACK
    assert outcomes() == {outcome: 1}


@pytest.mark.parametrize("trouble", ["drop", "errors"])
async def test_one_failure_is_made_good_by_asking_again(trouble: str) -> None:
    async with stand_in(answer=QUOTED, **{trouble: 1}) as service, asking(service.url) as client:
        assert (await HttpPricing(client).price(WANTED)).source == "service"
    assert len(service.questions) == 2
    assert outcomes() == {"answered": 1}


@pytest.mark.parametrize(("trouble", "outcome"), [("drop", "unreachable"), ("errors", "error")])
async def test_two_failures_are_not_asked_about_again(trouble: str, outcome: str) -> None:
    async with stand_in(answer=QUOTED, **{trouble: 2}) as service, asking(service.url) as client:
        assert await HttpPricing(client).price(WANTED) == FALLBACK
    assert len(service.questions) == 2
    assert outcomes() == {outcome: 1}


async def test_a_service_that_is_slow_is_waited_for_once_and_no_longer_than_said() -> None:
    async with stand_in(answer=QUOTED, delay_s=5.0) as service, asking(service.url, timeout_s=0.1) as client:
        async with asyncio.timeout(1.5):
            assert await HttpPricing(client).price(WANTED) == FALLBACK
    assert len(service.questions) == 1
    assert outcomes() == {"timeout": 1}


async def test_nobody_listening_is_a_failure_too() -> None:
    async with stand_in() as service:
        url = service.url
    async with asking(url) as client:
        assert await HttpPricing(client).price(WANTED) == FALLBACK
    assert outcomes() == {"unreachable": 1}


async def test_a_service_that_keeps_failing_is_left_alone_and_tried_by_one_after_the_pause() -> None:
    async with stand_in(answer=QUOTED, status=500) as service, asking(service.url, pause_s=0.2) as client:
        pricing = HttpPricing(client)
        for _ in range(3):
            assert await pricing.price(WANTED) == FALLBACK
        assert client.breaker.is_open
        asked = len(service.questions)
        assert await pricing.price(WANTED) == FALLBACK
        assert len(service.questions) == asked
        service.status, service.delay_s = 200, 0.1
        await asyncio.sleep(0.25)
        prices = await asyncio.gather(*(pricing.price(WANTED) for _ in range(5)))
        assert sorted(price.source for price in prices) == ["fallback"] * 4 + ["service"]
        assert not client.breaker.is_open
    assert outcomes() == {"error": 3, "circuit_open": 5, "answered": 1}


async def test_questions_that_the_service_refuses_do_not_open_the_breaker() -> None:
    async with stand_in(answer={}, status=422) as service, asking(service.url) as client:
        for _ in range(4):
            assert await HttpPricing(client).price(WANTED) == FALLBACK
        assert not client.breaker.is_open
    assert len(service.questions) == 4
    assert outcomes() == {"refused": 4}


async def test_a_caller_that_gives_up_as_the_probe_leaves_the_turn_to_the_next() -> None:
    async with stand_in(answer=QUOTED, status=500) as service, asking(service.url, pause_s=0.05) as client:
        pricing = HttpPricing(client)
        for _ in range(3):
            await pricing.price(WANTED)
        service.status, service.delay_s = 200, 1.0
        await asyncio.sleep(0.1)
        probe = asyncio.create_task(pricing.price(WANTED))
        await _until_asked(service, 7)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        service.delay_s = 0.0
        assert (await pricing.price(WANTED)).source == "service"
    assert outcomes()["abandoned"] == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"available": True}, InventoryAnswer(True)),
        ({"available": False}, InventoryAnswer(False)),
        ({"available": False, "reason": "kitchen closed"}, InventoryAnswer(False, "kitchen closed")),
    ],
)
async def test_inventory_says_yes_or_no_and_why(answer: object, told: InventoryAnswer) -> None:
    async with stand_in(answer=answer) as service, asking(service.url) as client:
        assert await HttpInventory(client).check(WANTED) == told


@pytest.mark.parametrize("answer", [{}, {"available": "yes"}, {"available": False, "reason": "a\nb"}, b"true"])
async def test_inventory_that_makes_no_sense_is_no_consent(answer: object) -> None:
    async with stand_in(answer=answer) as service, asking(service.url) as client:
        with pytest.raises(InventoryUnavailable, match="invalid"):
            await HttpInventory(client).check(WANTED)


async def _until_asked(service: StandIn, times: int) -> None:
    async with asyncio.timeout(2):
        while len(service.questions) < times:  # noqa: ASYNC110 - the stand-in is no program of events
            await asyncio.sleep(0.01)
