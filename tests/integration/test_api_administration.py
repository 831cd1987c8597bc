"""Administrators over HTTP: what differs is told as it is now, repair event by event, strangers are turned away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import msgspec
import pytest
import redis
from api_app import Person, claim, composed, connected, open_event

from api import administration
from api.services import Services
from engine.errors import StoreUnavailable
from engine.events import SellableEvent
from persistence import oversight
from persistence.differences import Difference
from persistence.oversight import EventRound, Oversight


@pytest.fixture
async def services(redis_url: str, database_url: str) -> AsyncIterator[Services]:
    async with composed(redis_url, database_url) as composed_services:
        yield composed_services


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx2.AsyncClient]:
    async with connected(services) as connection:
        yield connection


@pytest.fixture
def root(client: httpx2.AsyncClient) -> Person:
    return Person(client, "root", "admin")


def repairing(services: Services, repair: Callable[[SellableEvent], Awaitable[EventRound]]) -> Oversight:
    """The installation's oversight, with another way to repair."""
    services.oversight._repair = repair
    return services.oversight


async def sold(client: httpx2.AsyncClient, **definition: Any) -> str:
    """An event on sale of which a seat is booked and another held."""
    event_id = await open_event(Person(client, "olga", "organizer"), **definition)
    ana = Person(client, "ana", "customer")
    booked = await ana.post("/v1/bookings", {"event_id": event_id} | claim("A-1"))
    assert booked.status_code == 201, booked.text
    assert (await ana.post(f"/v1/events/{event_id}/holds", claim("A-2", floor=1))).status_code == 201
    return event_id


def corrupt(redis_url: str, event_id: str, seat: int) -> None:
    """Mark a seat as sold that nobody has."""
    with redis.Redis.from_url(redis_url) as store:
        [sold_bits] = store.keys(f"hf:*:{event_id}:sold")
        store.setbit(sold_bits, seat, 1)


async def test_audit_of_an_installation_where_all_agree(client: httpx2.AsyncClient, root: Person) -> None:
    await sold(client)
    audit = (await root.get("/v1/admin/audit")).json()
    assert (audit["events"], audit["drift"], audit["differences"]) == (1, 0, [])
    assert set(audit["journal"]) == {"entries", "oldest_age"}
    assert audit["checked_at"].endswith("Z")


async def test_audit_names_what_differs_and_only_of_the_event_asked_for(
    client: httpx2.AsyncClient, root: Person, redis_url: str
) -> None:
    spoilt, sound = await sold(client), await sold(client)
    corrupt(redis_url, spoilt, seat=3)
    audit = (await root.get(f"/v1/admin/audit?event_id={spoilt}")).json()
    assert (audit["events"], audit["drift"]) == (1, 1)
    [difference] = audit["differences"]
    assert (
        difference.items() >= {"event_id": spoilt, "kind": "cell_not_owned", "section": "stalls", "seat": "A-4"}.items()
    )
    assert {"redis", "ledger"} <= difference.keys()
    assert audit["by_kind"] == {"cell_not_owned": 1}
    assert (await root.get(f"/v1/admin/audit?event_id={sound}")).json()["drift"] == 0
    everything = (await root.get("/v1/admin/audit")).json()
    assert (everything["events"], everything["drift"]) == (2, 1)


@pytest.mark.parametrize(("method", "path"), [("GET", "audit"), ("POST", "reconcile")])
async def test_administration_of_an_event_that_is_not_there_is_a_404(root: Person, method: str, path: str) -> None:
    response = await root.call(method, f"/v1/admin/{path}?event_id=nothing")
    assert (response.status_code, response.json()["code"]) == (404, "event-not-found")


@pytest.mark.parametrize(("method", "path"), [("GET", "audit"), ("POST", "reconcile"), ("GET", "overview")])
async def test_administration_is_for_administrators_and_confined_ones_ask_for_their_events(
    client: httpx2.AsyncClient, method: str, path: str
) -> None:
    for stranger in (Person(client, "olga", "organizer"), Person(client, "ana", "customer")):
        assert (await stranger.call(method, f"/v1/admin/{path}")).status_code == 403
    event_id = await open_event(Person(client, "olga", "organizer"))
    confined = Person(client, "till", "admin", "service", scope=[event_id])
    assert (await confined.call(method, f"/v1/admin/{path}")).status_code == 403
    if path != "overview":
        assert (await confined.call(method, f"/v1/admin/{path}?event_id={event_id}")).status_code == 200
        assert (await confined.call(method, f"/v1/admin/{path}?event_id=another")).status_code == 403


async def test_round_of_repair_tells_of_each_event_with_differences_and_leaves_none(
    client: httpx2.AsyncClient, root: Person, redis_url: str
) -> None:
    spoilt, _ = await sold(client), await sold(client)
    corrupt(redis_url, spoilt, seat=3)
    response = await root.post("/v1/admin/reconcile")
    done = response.json()
    assert (response.status_code, done["status"]) == (200, "finished")
    assert (done["events"], done["done"], done["found"], done["failures"]) == (2, 2, 1, [])
    [result] = done["results"]
    assert result["event_id"] == spoilt
    assert [difference["kind"] for difference in result["found"]] == ["cell_not_owned"]
    assert (done["repaired"], done["unresolved"]) == (1, 0)
    metrics = (await client.get("/metrics")).text
    assert 'holdfast_drift_repaired_total{kind="cell_not_owned"}' in metrics
    assert (await root.get("/v1/admin/audit")).json()["drift"] == 0


async def test_event_named_in_a_body_does_not_begin_a_round_over_all(
    client: httpx2.AsyncClient, root: Person, redis_url: str
) -> None:
    spoilt = await sold(client)
    corrupt(redis_url, spoilt, seat=3)
    refused = await root.post("/v1/admin/reconcile", {"event_id": "another"})
    assert (refused.status_code, refused.json()["path"]) == (422, "$.event_id")
    assert refused.json()["detail"] == "this request takes no body: event_id is a parameter of its query"
    assert (await root.get("/v1/admin/audit")).json()["drift"] == 1
    assert (await root.post("/v1/admin/reconcile", {})).json()["found"] == 1


async def test_long_round_is_answered_202_and_joined_by_whoever_asks_again(
    services: Services, client: httpx2.AsyncClient, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(administration, "RECONCILE_WAIT_S", 0.05)
    for _ in range(3):
        await sold(client)
    may_end = asyncio.Event()
    begun: list[str] = []

    async def slow(event: SellableEvent) -> EventRound:
        begun.append(event.event.id)
        if len(begun) > 1:
            await may_end.wait()
        return EventRound(event.event.id, (), (), ())

    repairing(services, slow)
    first = await root.post("/v1/admin/reconcile", idempotency_key="r")
    assert (first.status_code, first.json()["status"], first.json()["done"]) == (202, "running", 1)
    again = await root.post("/v1/admin/reconcile", idempotency_key="r")
    assert (again.status_code, again.json()["begun_at"]) == (202, first.json()["begun_at"])
    may_end.set()
    last = await root.post("/v1/admin/reconcile")
    assert (last.status_code, last.json()["done"]) == (200, 3)
    assert len(begun) == 3


async def test_event_that_cannot_be_repaired_now_does_not_stop_the_others(
    services: Services, client: httpx2.AsyncClient, root: Person
) -> None:
    broken, sound = await sold(client), await sold(client)

    async def repair(event: SellableEvent) -> EventRound:
        if event.event.id == broken:
            raise StoreUnavailable("it is being loaded")
        found = (Difference(sound, "counter_wrong"),)
        return EventRound(sound, found, found, ())

    repairing(services, repair)
    done = (await root.post("/v1/admin/reconcile")).json()
    assert done["failures"] == [{"event_id": broken, "reason": "StoreUnavailable"}]
    assert (done["found"], done["repaired"], done["unresolved"]) == (1, 1, 0)


async def test_round_over_more_than_can_be_told_counts_all_of_it(
    services: Services, client: httpx2.AsyncClient, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oversight, "DETAILS_MAX", 2)
    event_id = await sold(client)
    found = tuple(Difference(event_id, "cell_not_set", seat=f"A-{number}") for number in range(5))

    async def repair(event: SellableEvent) -> EventRound:
        return EventRound(event_id, found, found[:4], found[4:])

    repairing(services, repair)
    done = (await root.post("/v1/admin/reconcile")).json()
    assert (done["found"], done["repaired"], done["unresolved"]) == (5, 4, 1)
    assert [len(done["results"][0][name]) for name in ("found", "repaired", "unresolved")] == [2, 2, 1]


async def test_same_key_for_another_event_is_another_request(client: httpx2.AsyncClient, root: Person) -> None:
    one, other = await sold(client), await sold(client)
    first = await root.post(f"/v1/admin/reconcile?event_id={one}", idempotency_key="r")
    assert first.status_code == 200
    reused = await root.post(f"/v1/admin/reconcile?event_id={other}", idempotency_key="r")
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency-key-reused")


async def test_overview_counts_what_there_is(client: httpx2.AsyncClient, root: Person) -> None:
    await sold(client)
    await sold(client)
    overview = (await root.get("/v1/admin/overview")).json()
    assert (overview["events"], overview["live_events"], overview["holds"]) == ({"open": 2}, 2, 2)
    assert overview["bookings"] >= 2
    assert (overview["dead_letters"], overview["reconcilers"]) == (0, [])


def test_answer_of_the_audit_has_the_members_of_the_contract() -> None:
    contract = {"events", "drift", "differences", "journal", "checked_at"}
    assert contract <= set(administration.AuditView.__struct_fields__)
    assert {"event_id", "kind", "section", "seat", "redis", "ledger"} <= set(Difference.__struct_fields__)
    encoded = msgspec.json.decode(msgspec.json.encode(Difference("e", "oversold")))
    assert encoded.keys() >= {"event_id", "kind", "section", "seat", "redis", "ledger"}
