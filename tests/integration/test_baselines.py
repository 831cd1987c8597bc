"""What Holdfast is measured against sells right: no strategy oversells, and each keeps to deadlines."""

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import pytest

sys.path.append(str(Path(__file__).parents[2] / "loadtests"))  # programs, which are no package
from baselines.app import create_app, open_pool, prepare
from baselines.strategies import STRATEGIES, Strategy

EVENT = "/v1/events/hall/holds"
CALLERS = 100
CAPACITY = 60


@pytest.fixture(params=STRATEGIES.values(), ids=lambda strategy: strategy.schema)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return request.param


@pytest.fixture
async def shop(strategy: Strategy, fresh_database: Callable[..., str]) -> AsyncIterator["Shop"]:
    url = fresh_database()
    await prepare(url, strategy)
    async with open_pool(url, strategy) as holds, open_pool(url, strategy, volatile=True) as sales:
        transport = httpx2.ASGITransport(create_app(strategy, holds=holds, sales=sales))
        async with httpx2.AsyncClient(transport=transport, base_url="http://baseline.test") as client:
            yield Shop(strategy, client, holds)


class Shop:
    """A baseline with one event, the people who buy there, and what its tables say."""

    def __init__(self, strategy: Strategy, client: httpx2.AsyncClient, pool) -> None:
        self._strategy, self._client, self._pool = strategy, client, pool

    async def stock(self, capacity: int) -> None:
        await self._pool.execute(self._strategy.stock, ["hall", "other hall"], capacity)

    async def hold(self, quantity: int = 1, *, caller: int = 0, ttl: float = 600) -> httpx2.Response:
        body = {"items": [{"section": "floor", "quantity": quantity}], "ttl": ttl}
        return await self._client.post(EVENT, json=body, headers=authorization(caller))

    async def confirm(self, held: httpx2.Response, *, caller: int = 0) -> httpx2.Response:
        body = {"hold_id": held.json()["id"]}
        return await self._client.post("/v1/bookings", json=body, headers=authorization(caller))

    async def taken(self) -> tuple[int, int, int]:
        """Places held, places sold, and how many events or holds are wrong."""
        return tuple(await self._pool.fetchrow(self._strategy.taken))


async def test_baseline_sells_every_place_once_when_a_hundred_callers_race(shop):
    await shop.stock(CAPACITY)
    begin = asyncio.Barrier(CALLERS)

    async def buy(caller: int) -> tuple[int, int | None]:
        await begin.wait()
        held = await shop.hold(caller=caller)
        return held.status_code, (
            (await shop.confirm(held, caller=caller)).status_code if held.status_code == 201 else None
        )

    answers = Counter(await asyncio.gather(*(buy(caller) for caller in range(CALLERS))))
    sold = answers[201, 201]
    assert set(answers) <= {(201, 201), (409, None)}
    assert await shop.taken() == (0, sold, 0)
    for _ in range(CAPACITY - sold):  # rivals that pass each other by may leave a place to the next
        sold += (await shop.hold()).status_code == 201
    assert (await shop.hold()).status_code == 409
    held, confirmed, wrong = await shop.taken()
    assert (held + confirmed, sold, wrong) == (CAPACITY, CAPACITY, 0)


async def test_baseline_never_oversells_when_holds_lapse_while_callers_race(shop):
    await shop.stock(CAPACITY)
    numbers, confirmed = itertools.count(), 0

    async def buy(caller: int) -> None:
        nonlocal confirmed
        for number in itertools.islice(numbers, 5):
            held = await shop.hold(1 + number % 3, caller=caller, ttl=0.05)
            if held.status_code == 201 and (await shop.confirm(held, caller=caller)).status_code == 201:
                confirmed += held.json()["items"][0]["quantity"]

    await asyncio.gather(*(buy(caller) for caller in range(CALLERS)))
    _, sold, wrong = await shop.taken()
    assert (sold, wrong) == (confirmed, 0)
    assert sold <= CAPACITY


async def test_baseline_gives_places_of_a_lapsed_hold_to_the_next_and_refuses_its_confirmation(shop):
    await shop.stock(2)
    lapsed = await shop.hold(2, ttl=0)
    held = await shop.hold(2, caller=1)
    assert (lapsed.status_code, held.status_code) == (201, 201)
    assert (await shop.confirm(lapsed)).status_code == 410
    assert (await shop.confirm(held, caller=1)).status_code == 201
    assert (await shop.hold()).status_code == 409


async def test_baseline_refuses_to_confirm_a_hold_that_has_lapsed_although_nobody_took_its_places(shop):
    await shop.stock(2)
    lapsed = await shop.hold(ttl=0)
    assert (await shop.confirm(lapsed)).status_code == 410
    held, sold, _ = await shop.taken()
    assert (held, sold) == (1, 0)


async def test_baseline_confirms_a_hold_once_and_for_its_holder_only(shop):
    await shop.stock(2)
    held = await shop.hold()
    assert (await shop.confirm(held, caller=1)).status_code == 410
    assert (await shop.confirm(held)).status_code == 201
    assert (await shop.confirm(held)).status_code == 410


async def test_baseline_holds_all_places_of_a_wish_or_none(shop):
    await shop.stock(2)
    assert (await shop.hold(3)).status_code == 409
    assert (await shop.taken())[:2] == (0, 0)
    assert (await shop.hold(2)).status_code == 201


def authorization(caller: int) -> dict[str, str]:
    return {"authorization": f"Bearer caller-{caller:010}"}
