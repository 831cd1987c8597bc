"""Admission queues over HTTP: customers hold in their turn, with tickets that are theirs, at whichever process."""

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import pytest
import redis
from api_app import DATA_KEY, PARTITIONS, Person, claim, composed, connected, event_definition, open_event

from api.services import Services
from engine.admission_queue import CLOCK_LEEWAY_MS, AdmissionQueue
from engine.catalog import Catalog
from engine.errors import AdmissionRequired
from engine.kernel import Kernel
from engine.keys import event_key, partition_of
from engine.transport.open import open_transport

ONE_AFTER_ANOTHER = {"admission": {"rate": 1, "ticket_ttl": 600}}
QUICK = {"admission": {"rate": 100, "ticket_ttl": 600}}
FLOOR = {"id": "floor", "price": 1, "capacity": 1000}


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
    return Person(client, "olga", "organizer", "customer")


@pytest.fixture
def ana(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ana", "customer")


@pytest.fixture
def ben(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ben", "customer")


async def queued(olga: Person, **members: Any) -> str:
    return await open_event(olga, **({"policy": ONE_AFTER_ANOTHER, "sections": [FLOOR]} | members))


async def take(person: Person, event_id: str) -> dict[str, Any]:
    answer = await person.post(f"/v1/events/{event_id}/queue")
    assert answer.status_code == 200, answer.text
    ticket: dict[str, Any] = answer.json()
    return ticket


async def hold(person: Person, event_id: str, ticket: str | None = None, **headers: str) -> tuple[int, str]:
    """The status of a hold, and the code of the problem if it is one."""
    given = headers if ticket is None else headers | {"holdfast_admission": ticket}
    answer = await person.post(f"/v1/events/{event_id}/holds", claim(floor=1), **given)
    return answer.status_code, answer.json().get("code", "")


@contextlib.asynccontextmanager
async def another_process(services: Services, redis_url: str, *keys: bytes) -> AsyncIterator[AdmissionQueue]:
    """The queue as another process has it: a connection and a catalog of its own; the same secret, or other *keys*."""
    transport = await open_transport(redis_url)
    try:
        yield AdmissionQueue(
            Kernel(transport, partitions=PARTITIONS), Catalog(services.events), secrets=keys or [DATA_KEY]
        )
    finally:
        await transport.aclose()


def clocked(services: Services, seconds: float) -> None:
    """Let this process's clock go *seconds* ahead of Redis's."""
    now = services.admission_queue._clock
    services.admission_queue._clock = lambda: now() + seconds


REQUIRED = (409, "admission-required")


async def test_first_in_line_is_let_in_at_once_and_the_next_in_their_turn(
    olga: Person, ana: Person, ben: Person, services: Services
) -> None:
    event_id = await queued(olga)
    first, second, third = [await take(person, event_id) for person in (ana, ben, olga)]

    assert (first["admitted"], first["position"], first["estimated_wait"]) == (True, 0, 0)
    assert (third["admitted"], third["position"], third["estimated_wait"]) == (False, 1, 2)
    assert await hold(ana, event_id, first["ticket"]) == (201, "")
    clocked(services, -CLOCK_LEEWAY_MS / 1000)  # so that what the tests themselves take does not count
    early = await ben.post(f"/v1/events/{event_id}/holds", claim(floor=1), holdfast_admission=second["ticket"])
    assert (early.status_code, early.json()["code"]) == (409, "admission-pending")
    assert 0 < int(early.headers["retry-after"]) <= 2
    clocked(services, CLOCK_LEEWAY_MS / 1000 + 1)
    assert dt.datetime.fromisoformat(early.json()["admitted_at"]) < dt.datetime.fromisoformat(second["expires_at"])
    assert await hold(ben, event_id, second["ticket"]) == (201, "")


async def test_asking_again_gives_the_same_ticket_at_another_process(
    olga: Person, ana: Person, ben: Person, redis_url: str, services: Services
) -> None:
    event_id = await queued(olga)
    await take(ben, event_id)
    mine = await take(ana, event_id)
    async with another_process(services, redis_url) as other:
        again = await other.take(event_id, customer_id="ana")
        other.check(event_id, (await other.take(event_id, customer_id="ben")).ticket.encode(), customer_id="ben")

    assert again.ticket == mine["ticket"]
    assert (await take(ana, event_id))["ticket"] == mine["ticket"]


async def test_ticket_is_good_at_processes_that_have_another_data_key_and_know_the_one_of_before(
    olga: Person, ana: Person, redis_url: str, services: Services
) -> None:
    event_id = await queued(olga)
    ticket = (await take(ana, event_id))["ticket"].encode()
    async with another_process(services, redis_url, b"n" * 32, DATA_KEY) as changed:
        changed.check(event_id, ticket, customer_id="ana")
        theirs = (await changed.take(event_id, customer_id="ana")).ticket.encode()
    async with another_process(services, redis_url, DATA_KEY, b"n" * 32) as learned:
        learned.check(event_id, theirs, customer_id="ana")
    async with another_process(services, redis_url, b"n" * 32) as forgot:
        forgot.check(event_id, theirs, customer_id="ana")
        with pytest.raises(AdmissionRequired):
            forgot.check(event_id, ticket, customer_id="ana")


async def test_processes_together_let_in_no_more_than_the_rate(
    olga: Person, redis_url: str, services: Services
) -> None:
    event_id = await queued(olga, policy=QUICK)
    async with another_process(services, redis_url) as other:
        queues = (services.admission_queue, other)
        tickets = await asyncio.gather(
            *(queues[number % 2].take(event_id, customer_id=f"c{number}") for number in range(200))
        )

    turns = sorted(int(ticket.ticket.partition("~")[0]) for ticket in tickets)
    assert len({ticket.ticket for ticket in tickets}) == 200
    assert all(later - earlier >= 999 for earlier, later in zip(turns, turns[100:], strict=False))
    assert turns[-1] - turns[0] <= 2_500  # 199 intervals of 10 ms, and what asking took where it was slower


async def test_ticket_of_somebody_else_of_another_event_or_none_lets_nobody_in(
    olga: Person, ana: Person, ben: Person
) -> None:
    event_id, other = await queued(olga), await queued(olga)
    mine = (await take(ana, event_id))["ticket"]

    assert await hold(ana, event_id) == REQUIRED
    assert await hold(ben, event_id, mine) == REQUIRED
    assert await hold(ana, other, mine) == REQUIRED
    assert await hold(ana, other, mine.replace(event_id, other)) == REQUIRED
    assert await hold(ana, event_id, mine) == (201, "")


@pytest.mark.parametrize(
    "change",
    [
        lambda turn, until, mac, event: f"{int(turn) - 1}~{until}~{mac}~{event}",
        lambda turn, until, mac, event: f"{turn}~{int(until) + 1}~{mac}~{event}",
        lambda turn, until, mac, event: f"{turn}~{until}~{mac[:-2]}~{event}",
        lambda turn, until, mac, event: f"{turn}~{until}~~{event}",
        lambda turn, until, mac, event: f"{turn}~{until}",
        lambda turn, until, mac, event: f"{'9' * 5000}~{until}~{mac}~{event}",
        lambda turn, until, mac, event: f"-1~{until}~{mac}~{event}",
        lambda turn, until, mac, event: "," * 5000,
        lambda turn, until, mac, event: "",
    ],
)
async def test_ticket_that_was_changed_lets_nobody_in(olga: Person, ana: Person, change: Any) -> None:
    event_id = await queued(olga)
    turn, until, mac, event = (await take(ana, event_id))["ticket"].split("~")

    assert await hold(ana, event_id, change(turn, until, mac, event)) == REQUIRED
    assert await hold(ana, event_id, f"{turn}~{until}~{mac}~{event}") == (201, "")


async def test_lapsed_ticket_lets_nobody_in_but_a_repetition_is_told_the_same(
    olga: Person, ana: Person, services: Services
) -> None:
    event_id = await queued(olga)
    ticket = (await take(ana, event_id))["ticket"]
    held = await ana.post(
        f"/v1/events/{event_id}/holds", claim(floor=1), holdfast_admission=ticket, idempotency_key="k1"
    )
    request = {"event_id": event_id, **claim(floor=1)}
    booked = await ana.post("/v1/bookings", request, holdfast_admission=ticket, idempotency_key="k2")
    assert (held.status_code, booked.status_code) == (201, 201)
    clocked(services, 600 + CLOCK_LEEWAY_MS / 1000)

    assert await hold(ana, event_id, ticket) == REQUIRED
    again = await ana.post(f"/v1/events/{event_id}/holds", claim(floor=1), idempotency_key="k1")
    booked_again = await ana.post("/v1/bookings", request, idempotency_key="k2")
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (held.json()["id"], "true")
    assert (booked_again.json()["id"], booked_again.headers["idempotent-replayed"]) == (booked.json()["id"], "true")
    assert (await ana.post("/v1/bookings", request, idempotency_key="k3")).json()["code"] == "admission-required"


async def test_every_way_to_claim_places_asks_for_a_ticket_and_what_is_held_needs_none(
    olga: Person, ana: Person
) -> None:
    event_id, other = await queued(olga, group="weekend"), await queued(olga, group="weekend")
    entry = {"event_id": event_id, **claim(floor=1)}
    both = {"holds": [entry, entry | {"event_id": other}]}
    tickets = ", ".join([(await take(ana, event))["ticket"] for event in (event_id, other)])

    async def outcomes(**headers: str) -> list[Any]:
        direct = await ana.post("/v1/bookings", entry, **headers)
        group = await ana.post("/v1/holds", both, idempotency_key="group", **headers)
        batch = await ana.post("/v1/holds:batch", both, **headers)
        return [direct.status_code, group.status_code, *(result["status"] for result in batch.json()["results"])]

    assert await outcomes() == [409, 409, 409, 409]
    assert await outcomes(holdfast_admission=tickets) == [201, 201, 201, 201]
    held = (await ana.post(f"/v1/events/{event_id}/holds", claim(floor=1), holdfast_admission=tickets)).json()["id"]
    assert (await ana.post(f"/v1/holds/{held}/extend", {"ttl": 60})).status_code == 200
    assert (await ana.post("/v1/bookings", {"hold_id": held})).status_code == 201


@pytest.mark.parametrize(
    ("sub", "roles", "expected"),
    [
        ("olga", ("organizer", "customer"), 201),
        ("oscar", ("organizer", "customer"), 409),
        ("box", ("service",), 201),
        ("root", ("admin",), 201),
    ],
)
async def test_staff_of_the_event_need_no_ticket(
    client: httpx2.AsyncClient, olga: Person, sub: str, roles: tuple[str, ...], expected: int
) -> None:
    assert (await hold(Person(client, sub, *roles), await queued(olga)))[0] == expected


async def test_event_without_a_queue_admits_at_once_and_asks_redis_nothing(
    olga: Person, ana: Person, redis_url: str
) -> None:
    event_id = await open_event(olga, sections=[FLOOR])
    assert await hold(ana, event_id) == (201, "")
    with redis.Redis.from_url(redis_url) as store:
        before = _calls(store)
        ticket = await take(ana, event_id)
        assert _calls(store) == before

    assert (ticket["admitted"], ticket["position"], ticket["estimated_wait"]) == (True, 0, 0)
    assert await hold(ana, event_id, ticket["ticket"]) == (201, "")


async def test_queue_begins_anew_and_tickets_stay_good_when_redis_loses_its_memory(
    olga: Person, ana: Person, ben: Person, redis_url: str
) -> None:
    event_id = await queued(olga)
    ticket = (await take(ana, event_id))["ticket"]
    with redis.Redis.from_url(redis_url) as store:
        store.flushall()

    assert (await take(ben, event_id))["admitted"] is True
    assert await hold(ana, event_id, ticket) == (201, "")


async def test_no_ticket_is_given_for_what_is_not_on_sale(olga: Person, ana: Person) -> None:
    event_id = await queued(olga)
    assert (await olga.post(f"/v1/events/{event_id}/close")).status_code == 200

    closed, absent = [await ana.post(f"/v1/events/{name}/queue") for name in (event_id, "nowhere")]

    assert (closed.status_code, closed.json()["code"]) == (409, "event-not-open")
    assert (absent.status_code, absent.json()["code"]) == (404, "event-not-found")


async def test_no_ticket_is_given_after_the_end_of_sale_and_the_answer_says_when_that_was(
    olga: Person, ana: Person
) -> None:
    event_id = await queued(olga, starts_at="2023-05-01T19:00:00Z")
    refused = await ana.post(f"/v1/events/{event_id}/queue")
    assert (refused.status_code, refused.json()["code"]) == (409, "event-not-open")
    assert refused.json()["sales_ended_at"] == "2023-05-01T19:00:00Z"


async def test_draft_of_somebody_else_has_no_queue_and_one_s_own_is_not_open(olga: Person, ana: Person) -> None:
    definition = event_definition(policy=ONE_AFTER_ANOTHER, sections=[FLOOR])
    path = f"/v1/events/{(await olga.post('/v1/events', definition)).json()['id']}/queue"
    foreign, own = await ana.post(path), await olga.post(path)

    assert (foreign.status_code, foreign.json()["code"]) == (404, "event-not-found")
    assert (own.status_code, own.json()["code"]) == (409, "event-not-open")


@pytest.mark.parametrize("admission", [{"rate": 0}, {"rate": 10_001}, {"rate": 1, "ticket_ttl": 0}, {}, {"speed": 1}])
async def test_admission_policy_that_makes_no_sense_is_refused(olga: Person, admission: Mapping[str, int]) -> None:
    document = {"name": "x", "starts_at": "2035-01-01T20:00:00Z", "currency": "EUR", "sections": [FLOOR]}

    refused = await olga.post("/v1/events", document | {"policy": {"admission": admission}})

    assert (refused.status_code, refused.json()["path"][:18]) == (422, "$.policy.admission")


def _calls(store: "redis.Redis") -> int:
    """How many scripts the server has run."""
    stats: Any = store.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_queue_goes_on_once_the_clock_was_set_back(
    client: httpx2.AsyncClient, redis_url: str, olga: Person, ana: Person
) -> None:
    event_id = await queued(olga)
    state = event_key(partition_of(event_id, None, PARTITIONS), event_id, "state")
    with redis.Redis.from_url(redis_url) as store:  # as a clock leaves it that was an hour ahead
        store.hset(state, "clock", int((time.time() + 3600) * 1000))
    early = await take(ana, event_id)
    assert await hold(ana, event_id, early["ticket"]) == (409, "admission-pending")

    (done,) = (await Person(client, "root", "admin").post(f"/v1/admin/reconcile?event_id={event_id}")).json()["results"]
    assert [one["kind"] for one in done["repaired"]] == ["clock_wrong"]

    ticket = await take(ana, event_id)
    assert ticket["admitted"]
    assert await hold(ana, event_id, ticket["ticket"]) == (201, "")
