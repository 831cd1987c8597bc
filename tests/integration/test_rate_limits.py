"""Callers and addresses make no more requests than they may, whichever process is asked, and are told of the next."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest
from api_app import Person, claim, composed, open_event
from script_runner import Runner, Venue
from stores import on_both_stores

from api.app import create_app
from api.clients import Proxies
from engine.errors import RateLimited, StoreUnavailable
from engine.kernel import Kernel
from engine.rate_leases import LEASED
from engine.rate_limits import REQUESTS_MAX, UNKNOWN, RateLimit, RateLimiter
from engine.transport.open import open_transport

BURST = 5
ADDRESS_BURST = 8
SECRET = b"of this installation"
SLOW = RateLimit(requests=1, window_s=3600, burst=BURST)
SLOW_BY_ADDRESS = RateLimit(requests=2, window_s=3600, burst=ADDRESS_BURST)
QUICK = RateLimit(requests=100, window_s=10, burst=1)
HOME, AWAY = "192.0.2.1", "192.0.2.2"


@pytest.fixture
async def kernel(redis_url: str) -> AsyncIterator[Kernel]:
    transport = await open_transport(redis_url)
    yield Kernel(transport, partitions=4)
    await transport.aclose()


def limiter_of(kernel: Kernel, limit: RateLimit | None = SLOW, by_address: RateLimit | None = None) -> RateLimiter:
    return RateLimiter(kernel, secret=SECRET, by_caller=limit, by_address=by_address)


async def left_of(limiter: RateLimiter, **who: str) -> dict[str, int]:
    of_caller, of_address = await limiter.take(**who)
    return {name: left for name, left in (("address", of_address), ("caller", of_caller)) if left is not None}


@on_both_stores
async def test_as_many_as_the_burst_come_at_once_and_then_no_more(kernel: Kernel) -> None:
    limiter = limiter_of(kernel)

    left = [await left_of(limiter, caller="ana") for _ in range(BURST)]

    assert left == [{"caller": number} for number in (4, 3, 2, 1, 0)]
    with pytest.raises(RateLimited) as refused:
        await limiter.take(caller="ana")
    assert refused.value.policy == "caller"
    assert (refused.value.left_of_caller, refused.value.left_of_address) == (0, None)
    assert 3_590_000 < refused.value.retry_after_ms <= 3_600_000
    assert await left_of(limiter, caller="bob") == {"caller": 4}


async def test_allowance_is_earned_again_at_the_steady_rate(kernel: Kernel) -> None:
    limiter = limiter_of(kernel, QUICK)
    await limiter.take(caller="ana")
    with pytest.raises(RateLimited) as refused:
        await limiter.take(caller="ana")
    assert 0 < refused.value.retry_after_ms <= 100

    await asyncio.sleep(refused.value.retry_after_ms / 1000)

    assert await left_of(limiter, caller="ana") == {"caller": 0}


async def test_processes_share_allowances(redis_url: str, kernel: Kernel) -> None:
    transport = await open_transport(redis_url)
    limiters = [limiter_of(each, SLOW, SLOW_BY_ADDRESS) for each in (kernel, Kernel(transport, partitions=4))]

    by_caller = await asyncio.gather(
        *(limiters[number % 2].take(caller="ana") for number in range(40)), return_exceptions=True
    )
    by_address = await asyncio.gather(
        *(limiters[number % 2].take(address=HOME) for number in range(40)), return_exceptions=True
    )

    assert sum(isinstance(outcome, RateLimited) for outcome in by_caller) == 40 - BURST
    assert sum(isinstance(outcome, RateLimited) for outcome in by_address) == 40 - ADDRESS_BURST
    await transport.aclose()


async def test_a_caller_who_takes_turns_between_processes_gets_exactly_the_burst(
    redis_url: str, kernel: Kernel
) -> None:
    transport = await open_transport(redis_url)
    limiters = [limiter_of(each) for each in (kernel, Kernel(transport, partitions=4))]

    for number in range(BURST):
        await limiters[number % 2].take(caller="ana")

    for limiter in limiters:
        with pytest.raises(RateLimited):
            await limiter.take(caller="ana")
    await transport.aclose()


async def test_both_limits_are_asked_in_one_call_that_all_requests_of_the_moment_share(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    run = kernel.run_in_partition

    async def counted(*arguments: object, **named: object) -> object:
        calls.append(arguments[0])
        return await run(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel, "run_in_partition", counted)
    limiter = limiter_of(kernel, SLOW, SLOW_BY_ADDRESS)

    left = await asyncio.gather(*(left_of(limiter, caller=f"c{n}", address=f"10.0.0.{n}") for n in range(50)))

    assert left == [{"address": ADDRESS_BURST - 1, "caller": BURST - 1}] * 50
    assert calls == ["take_tokens"]


async def test_more_requests_at_once_than_one_call_may_bring_go_in_several(kernel: Kernel) -> None:
    limiter = limiter_of(kernel)
    count = 2 * REQUESTS_MAX + 1

    outcomes = await asyncio.gather(*(left_of(limiter, caller=f"c{n % 50}") for n in range(count)))

    assert len(outcomes) == count
    assert outcomes[-1] == {"caller": 0}


async def test_what_the_address_refuses_is_not_taken_from_the_caller_nor_the_other_way_round(kernel: Kernel) -> None:
    limiter = limiter_of(kernel, SLOW, SLOW_BY_ADDRESS)
    for _ in range(ADDRESS_BURST):
        await limiter.take(address=HOME)
    for _ in range(3 * BURST):
        with pytest.raises(RateLimited) as refused:
            await limiter.take(caller="ana", address=HOME)
        assert refused.value.policy == "address"
        assert (refused.value.left_of_caller, refused.value.left_of_address) == (BURST, 0)
    assert await left_of(limiter, caller="ana", address=AWAY) == {"address": ADDRESS_BURST - 1, "caller": BURST - 1}

    for _ in range(BURST - 1):
        await limiter.take(caller="ana")
    for _ in range(3 * ADDRESS_BURST):
        with pytest.raises(RateLimited) as refused:
            await limiter.take(caller="ana", address=AWAY)
        assert refused.value.policy == "caller"
    assert await left_of(limiter, caller="bob", address=AWAY) == {"address": ADDRESS_BURST - 2, "caller": BURST - 1}


async def test_an_address_and_a_caller_of_the_same_name_have_nothing_to_do_with_each_other(kernel: Kernel) -> None:
    limiter = limiter_of(kernel, SLOW, SLOW_BY_ADDRESS)
    for _ in range(BURST):
        await limiter.take(caller=HOME)

    assert await left_of(limiter, address=HOME) == {"address": ADDRESS_BURST - 1}


def test_requests_of_one_call_see_what_those_before_them_took(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))

    answers = venue.take_tokens(("c1:ana", ""), ("c2:bob", ""), ("c1:ana", ""), burst=2)
    again = venue.take_tokens(("c1:ana", ""), ("c2:bob", ""), burst=2)

    assert answers == ["COUNTED", 1, 0, 1, 0, 0, 0]
    assert again[0] == "COUNTED"
    assert 59_000 < -again[1] <= 60_000
    assert again[3] == 0


def test_a_caller_in_anothers_slot_begins_anew_and_owes_nothing_of_the_other(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))
    assert [venue.take_tokens(("c1:ana", ""), burst=1)[1] < 0 for _ in range(2)] == [False, True]

    assert venue.take_tokens(("c1:bob", ""), burst=1) == ["COUNTED", 0, 0]
    assert len(venue.redis.hgetall(venue.partition_key("rates"))) == 1  # type: ignore[arg-type]


def test_who_shares_a_slot_or_a_beginning_is_still_somebody_else(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))
    venue.take_tokens(("c1:anabel", ""), burst=1)

    assert venue.take_tokens(("c1:ana", ""), burst=1) == ["COUNTED", 0, 0]


def test_a_refused_request_writes_nothing(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))
    venue.take_tokens(("c1:ana", ""), burst=1)
    before = venue.redis.hgetall(venue.partition_key("rates"))

    venue.take_tokens(("c1:ana", "a1:home"), burst=1)

    assert venue.redis.hgetall(venue.partition_key("rates")) == before


def test_a_clock_that_was_set_back_costs_a_caller_no_more_than_the_burst(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))
    venue.redis.hset(venue.partition_key("rates"), "c1", b"9000000000000000ana")  # type: ignore[arg-type]

    _, wait_ms, _ = venue.take_tokens(("c1:ana", ""), interval_us=1_000_000, burst=3)

    assert wait_ms == -1000


async def test_nobody_is_limited_while_redis_is_away_and_it_is_not_asked_again_for_a_moment(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def away(*arguments: object, **named: object) -> object:
        nonlocal asked
        asked += 1
        raise StoreUnavailable("away")

    limiter = limiter_of(kernel, SLOW, SLOW_BY_ADDRESS)
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "run_in_partition", away)
        assert [await limiter.take(caller="ana", address=HOME) for _ in range(2 * BURST)] == [UNKNOWN] * (2 * BURST)
    assert asked == 1

    monkeypatch.setattr("engine.rate_limits.time.monotonic", lambda: 1e12)  # the moment has passed
    assert await left_of(limiter, caller="ana") == {"caller": BURST - 1}


async def test_a_bug_is_told_to_every_request_of_the_call(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*arguments: object, **named: object) -> object:
        raise ValueError("on purpose")

    monkeypatch.setattr(kernel, "run_in_partition", broken)
    limiter = limiter_of(kernel)

    outcomes = await asyncio.gather(*(limiter.take(caller=f"c{n}") for n in range(3)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [ValueError] * 3


async def test_a_request_that_is_cancelled_takes_no_other_with_it(kernel: Kernel) -> None:
    limiter = limiter_of(kernel)
    tasks = [asyncio.create_task(left_of(limiter, caller=name)) for name in ("ana", "bob")]
    await asyncio.sleep(0)
    tasks[0].cancel()

    assert await tasks[1] == {"caller": BURST - 1}
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def taken(limiters: list[RateLimiter], count: int) -> int:
    """How many of *count* requests one after the other, to each process in turn, are not refused."""
    granted = 0
    for number in range(count):
        with contextlib.suppress(RateLimited):
            await limiters[number % len(limiters)].take(caller="ana")
            granted += 1
    return granted


@pytest.mark.parametrize("burst", [20, 127])
async def test_nothing_is_taken_in_advance_of_a_small_allowance_which_counts_exactly(
    redis_url: str, kernel: Kernel, burst: int
) -> None:
    transport = await open_transport(redis_url)
    limit = RateLimit(requests=1, window_s=3600, burst=burst)
    limiters = [limiter_of(each, limit) for each in (kernel, Kernel(transport, partitions=4), kernel)]

    assert await taken(limiters, burst + 30) == burst
    await transport.aclose()


async def test_who_asks_often_is_asked_for_in_advance_and_never_gets_more_than_the_burst(
    redis_url: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    run = kernel.run_in_partition

    async def counted(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        return await run(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel, "run_in_partition", counted)
    limit = RateLimit(requests=1, window_s=3600, burst=4_000)
    limiters = [limiter_of(kernel, limit) for _ in range(2)]

    assert await taken(limiters, 1_000) == 1_000
    assert calls < 200
    assert 0.95 * 4_000 < 1_000 + await taken(limiters, 4_000) <= 4_000


def test_no_more_is_taken_in_advance_than_leaves_half_of_the_burst(redis_url: str) -> None:
    venue = Venue(Runner(redis_url))

    def take(ahead: int) -> list[int]:
        return venue.take_tokens(("c1:ana", ""), burst=100, ahead=bytes((ahead, 0)))[1:]

    assert take(0) == [99, 0]
    assert take(48) == [50 + LEASED, 0]
    assert take(1) == [49, 0]  # refused in advance, but not the request itself
    assert take(0) == [48, 0]


async def test_a_request_taken_in_advance_is_given_back_where_the_address_refuses(kernel: Kernel) -> None:
    limiter = limiter_of(kernel, RateLimit(requests=1, window_s=3600, burst=1_000), SLOW_BY_ADDRESS)
    left = [(await limiter.take(caller="ana"))[0] for _ in range(3)]
    for _ in range(ADDRESS_BURST):
        await limiter.take(address=HOME)

    for _ in range(10):
        with pytest.raises(RateLimited):
            await limiter.take(caller="ana", address=HOME)

    assert left == [999, 998, 997]
    assert (await limiter.take(caller="ana"))[0] == 996


async def test_what_was_taken_in_advance_is_spent_at_once_and_nothing_else_is(kernel: Kernel) -> None:
    limiter = limiter_of(kernel, RateLimit(requests=1, window_s=3600, burst=1_000), SLOW_BY_ADDRESS)
    assert limiter.spend(caller="ana") is None
    left = [(await limiter.take(caller="ana"))[0] for _ in range(3)]

    assert limiter.spend(caller="ana", address=HOME) is None  # of the address nothing is taken in advance
    assert limiter.spend(caller="ana") == (left[-1] - 1, None)
    assert limiter.spend() == (None, None)
    assert await left_of(limiter, caller="ana", address=HOME) == {"address": ADDRESS_BURST - 1, "caller": left[-1] - 2}


@contextlib.asynccontextmanager
async def serving(
    redis_url: str, database_url: str, limit: RateLimit | None, by_address: RateLimit | None
) -> AsyncIterator[httpx2.ASGITransport]:
    """The application, called by a proxy that it trusts."""
    async with composed(redis_url, database_url) as services:
        transport = await open_transport(redis_url)
        limiter = limiter_of(Kernel(transport, partitions=4), limit, by_address)
        proxies = Proxies(("127.0.0.0/8",))
        yield httpx2.ASGITransport(
            create_app(msgspec.structs.replace(services, limiter=limiter, proxies=proxies)), client=("127.0.0.1", 4711)
        )
        await transport.aclose()


@pytest.fixture
async def client(redis_url: str, database_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Callers are counted, addresses are not."""
    async with (
        serving(redis_url, database_url, SLOW, None) as app,
        httpx2.AsyncClient(transport=app, base_url="http://holdfast.test") as client,
    ):
        yield client


@pytest.fixture
async def home(redis_url: str, database_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Both are counted."""
    async with (
        serving(redis_url, database_url, SLOW, SLOW_BY_ADDRESS) as app,
        httpx2.AsyncClient(transport=app, base_url="http://holdfast.test", headers={"x-forwarded-for": HOME}) as client,
    ):
        yield client


async def test_http_tells_the_allowance_and_answers_429_when_it_is_used_up(client: httpx2.AsyncClient) -> None:
    ana = Person(client, "ana", "customer")
    answers = [await ana.get("/v1/bookings") for _ in range(BURST + 1)]

    assert [answer.status_code for answer in answers] == [200] * BURST + [429]
    assert [answer.headers["ratelimit"] for answer in answers][:2] == ['"caller";r=4', '"caller";r=3']
    refused = answers[-1]
    assert refused.json()["code"] == "rate-limited"
    assert 3_590 < int(refused.headers["retry-after"]) <= 3_600
    assert refused.headers["ratelimit-policy"] == '"caller";q=1;w=3600'
    assert refused.headers["ratelimit"] == '"caller";r=0'


async def test_an_answer_that_is_a_problem_tells_the_allowance_too(client: httpx2.AsyncClient) -> None:
    answer = await Person(client, "ana", "customer").get("/v1/bookings/none")

    assert answer.status_code == 404
    assert answer.headers["ratelimit"] == '"caller";r=4'


async def test_a_forged_address_earns_no_caller_more(client: httpx2.AsyncClient) -> None:
    ana = Person(client, "ana", "customer")
    statuses = [
        (await ana.get("/v1/bookings", x_forwarded_for=f"203.0.113.{number}")).status_code for number in range(8)
    ]
    assert statuses.count(200) == BURST


async def test_admins_and_services_are_not_counted_as_callers(client: httpx2.AsyncClient) -> None:
    for role in ("admin", "service"):
        person = Person(client, role, role)
        answers = [await person.get("/v1/bookings") for _ in range(BURST + 3)]
        assert {answer.status_code for answer in answers} == {200}
        assert "ratelimit" not in answers[0].headers


async def test_http_tells_both_allowances_and_which_one_is_used_up(home: httpx2.AsyncClient) -> None:
    ana, root = Person(home, "ana", "customer"), Person(home, "root", "admin")
    first = await ana.get("/v1/bookings")
    second = await ana.get("/v1/bookings")  # by now the token is known, and both are asked at once

    for answer, left in ((first, 1), (second, 2)):
        assert answer.headers["ratelimit-policy"] == '"address";q=2;w=3600, "caller";q=1;w=3600'
        assert answer.headers["ratelimit"] == f'"address";r={ADDRESS_BURST - left}, "caller";r={BURST - left}'
    assert (await root.get("/v1/bookings")).headers["ratelimit"] == f'"address";r={ADDRESS_BURST - 3}'
    for _ in range(ADDRESS_BURST - 3):
        await root.get("/v1/bookings")
    refused = await ana.get("/v1/bookings")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
    assert refused.headers["ratelimit"] == f'"address";r=0, "caller";r={BURST - 2}'
    assert 1_790 < int(refused.headers["retry-after"]) <= 1_800


async def test_addresses_are_counted_before_anything_is_looked_up(home: httpx2.AsyncClient) -> None:
    requests = [
        ("/v1/bookings", {"authorization": "Bearer forged"}, 401),
        ("/v1/bookings", {}, 401),
        ("/nowhere", {}, 404),
        ("/v1/info", {}, 200),
        ("/v1/events/none", {"authorization": "Basic YTpi"}, 401),
    ]
    for number in range(ADDRESS_BURST):
        path, headers, status = requests[number % len(requests)]
        answer = await home.get(path, headers=headers)
        assert (answer.status_code, answer.headers["ratelimit"]) == (
            status,
            f'"address";r={ADDRESS_BURST - 1 - number}',
        )
    assert (await home.delete("/healthz")).status_code == 429  # no such method: it is as unknown as any

    for path, headers, _ in requests:
        assert (await home.get(path, headers=headers)).status_code == 429
    for path in ("/healthz", "/readyz", "/metrics"):
        answer = await home.get(path)
        assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)


async def test_an_address_that_is_used_up_does_not_have_tokens_checked(
    home: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(ADDRESS_BURST):
        await home.get("/v1/info")
    monkeypatch.setattr("api.identity.jwt.decode", None)

    assert (await Person(home, "ana", "customer").get("/v1/bookings")).status_code == 429


async def test_entries_that_a_client_puts_in_front_earn_its_address_nothing(home: httpx2.AsyncClient) -> None:
    statuses = [
        (await home.get("/v1/info", headers={"x-forwarded-for": f"203.0.113.{number}, {HOME}"})).status_code
        for number in range(ADDRESS_BURST + 3)
    ]

    assert statuses == [200] * ADDRESS_BURST + [429] * 3
    assert (await home.get("/v1/info", headers={"x-forwarded-for": AWAY})).status_code == 200


async def test_a_client_of_ipv6_is_counted_by_its_network(home: httpx2.AsyncClient) -> None:
    statuses = [
        (await home.get("/v1/info", headers={"x-forwarded-for": f"2001:db8:1:2::{number:x}"})).status_code
        for number in range(ADDRESS_BURST + 1)
    ]

    assert statuses == [200] * ADDRESS_BURST + [429]
    assert (await home.get("/v1/info", headers={"x-forwarded-for": "2001:db8:1:3::1"})).status_code == 200


async def test_a_batch_of_holds_counts_once(redis_url: str, database_url: str) -> None:
    async with (
        serving(redis_url, database_url, SLOW, SLOW_BY_ADDRESS) as app,
        httpx2.AsyncClient(transport=app, base_url="http://holdfast.test") as client,
    ):
        event_id = await open_event(Person(client, "olga", "organizer"))  # two requests
        batch = [{"event_id": event_id, **claim(seat)} for seat in ("A-1", "A-2", "A-3")]
        answer = await Person(client, "ana", "customer").post("/v1/holds:batch", {"holds": batch})

    assert [result["status"] for result in answer.json()["results"]] == [201, 201, 201]
    assert answer.headers["ratelimit"] == f'"address";r={ADDRESS_BURST - 3}, "caller";r={BURST - 1}'
