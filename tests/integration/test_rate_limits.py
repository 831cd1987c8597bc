"""Callers make no more requests than they may, whichever process they ask, and are told when the next may come."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest
from api_app import Person, composed, connected
from script_runner import Runner, Venue

from engine.errors import RateLimited, StoreUnavailable
from engine.kernel import Kernel
from engine.rate_limits import RateLimit, RateLimiter
from engine.transport.open import open_transport

BURST = 5
SLOW = RateLimit(requests=1, window_s=3600, burst=BURST)
QUICK = RateLimit(requests=100, window_s=10, burst=1)


@pytest.fixture
async def kernel(redis_url: str) -> AsyncIterator[Kernel]:
    transport = await open_transport(redis_url)
    yield Kernel(transport, partitions=4)
    await transport.aclose()


async def test_as_many_as_the_burst_come_at_once_and_then_no_more(kernel: Kernel) -> None:
    limiter = RateLimiter(kernel, SLOW)

    left = [await limiter.take("ana") for _ in range(BURST)]

    assert left == [4, 3, 2, 1, 0]
    with pytest.raises(RateLimited) as refused:
        await limiter.take("ana")
    assert 3_590_000 < refused.value.retry_after_ms <= 3_600_000
    assert await limiter.take("bob") == 4


async def test_allowance_is_earned_again_at_the_steady_rate(kernel: Kernel) -> None:
    limiter = RateLimiter(kernel, QUICK)
    await limiter.take("ana")
    with pytest.raises(RateLimited) as refused:
        await limiter.take("ana")
    assert 0 < refused.value.retry_after_ms <= 100

    await asyncio.sleep(refused.value.retry_after_ms / 1000)

    assert await limiter.take("ana") == 0


async def test_processes_share_a_callers_allowance(redis_url: str, kernel: Kernel) -> None:
    transport = await open_transport(redis_url)
    limiters = [RateLimiter(kernel, SLOW), RateLimiter(Kernel(transport, partitions=4), SLOW)]

    outcomes = await asyncio.gather(*(limiters[number % 2].take("ana") for number in range(40)), return_exceptions=True)

    assert sum(isinstance(outcome, RateLimited) for outcome in outcomes) == 40 - BURST
    await transport.aclose()


def test_a_caller_in_anothers_slot_begins_anew_and_owes_nothing_of_the_other(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))
    assert [venue.take_token("ana", burst=1)[0] for _ in range(2)] == ["TAKEN", "LIMITED"]

    assert venue.take_token("bob", burst=1) == ["TAKEN", 0]
    assert len(venue.redis.hgetall(venue.partition_key("rates"))) == 1  # type: ignore[arg-type]


def test_a_clock_that_was_set_back_costs_a_caller_no_more_than_the_burst(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))
    future = b"ana|9000000000000000"
    venue.redis.hset(venue.partition_key("rates"), "7", future)  # type: ignore[arg-type]

    status, wait_ms = venue.take_token("ana", interval_us=1_000_000, burst=3)

    assert (status, wait_ms) == ("LIMITED", 1000)


async def test_nobody_is_limited_while_redis_is_away(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*arguments: object, **named: object) -> object:
        raise StoreUnavailable("away")

    monkeypatch.setattr(kernel, "run_in_partition", away)

    assert await RateLimiter(kernel, SLOW).take("ana") is None


@pytest.fixture
async def client(redis_url: str, database_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with composed(redis_url, database_url) as services:
        transport = await open_transport(redis_url)
        limiter = RateLimiter(Kernel(transport, partitions=4), SLOW)
        async with connected(msgspec.structs.replace(services, limiter=limiter)) as client:
            yield client
        await transport.aclose()


async def test_http_tells_the_allowance_and_answers_429_when_it_is_used_up(client: httpx2.AsyncClient) -> None:
    ana = Person(client, "ana", "customer")
    answers = [await ana.get("/v1/bookings") for _ in range(BURST + 1)]

    assert [answer.status_code for answer in answers] == [200] * BURST + [429]
    assert [answer.headers["ratelimit"] for answer in answers][:2] == ['"caller";r=4', '"caller";r=3']
    refused = answers[-1]
    assert refused.json()["code"] == "rate-limited"
    assert 3_590 < int(refused.headers["retry-after"]) <= 3_600
    assert refused.headers["ratelimit-policy"] == '"caller";q=1;w=3600'


async def test_a_forged_address_earns_nobody_more(client: httpx2.AsyncClient) -> None:
    ana = Person(client, "ana", "customer")
    statuses = [
        (await ana.get("/v1/bookings", x_forwarded_for=f"203.0.113.{number}")).status_code for number in range(8)
    ]
    assert statuses.count(200) == BURST


async def test_admins_and_services_are_not_counted(client: httpx2.AsyncClient) -> None:
    for role in ("admin", "service"):
        person = Person(client, role, role)
        answers = [await person.get("/v1/bookings") for _ in range(BURST + 3)]
        assert {answer.status_code for answer in answers} == {200}
        assert "ratelimit" not in answers[0].headers
