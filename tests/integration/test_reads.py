"""What readers are told: the state at a moment after they asked, whoever changed it, and 304 when they have it."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
import redis
from api_app import PARTITIONS, Person, claim, composed, connected, open_event
from stores import on_both_stores

from api.services import Services
from engine.catalog import Catalog
from engine.kernel import Kernel
from engine.transport.open import open_transport
from engine.views import Views

SEATMAP = "application/vnd.holdfast.seatmap+json"


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
def olga(client: httpx2.AsyncClient) -> Person:
    return Person(client, "olga", "organizer")


def free(answer: httpx2.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [section["free"] for section in answer.json()["sections"]]


@on_both_stores
@pytest.mark.parametrize(
    ("path", "headers"), [("availability", {}), ("seats", {}), ("seats", {"accept": SEATMAP})], ids=str
)
async def test_reader_who_has_the_bytes_is_told_so_until_something_changes(
    ana: Person, olga: Person, path: str, headers: dict[str, str]
) -> None:
    url = f"/v1/events/{await open_event(olga)}"
    first = await ana.get(f"{url}/{path}", **headers)
    tag = first.headers["etag"]
    assert "no-cache" in first.headers["cache-control"]
    again = await ana.get(f"{url}/{path}", if_none_match=f'"other", {tag}', **headers)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await ana.post(f"{url}/holds", claim("A-1", floor=1))).status_code == 201
    changed = await ana.get(f"{url}/{path}", if_none_match=tag, **headers)
    assert (changed.status_code, changed.headers["etag"] == tag) == (200, False)


@on_both_stores
async def test_forms_and_ranges_have_tags_of_their_own(ana: Person, olga: Person) -> None:
    seats = {"id": "stalls", "price": 1, "rows": [{"id": "A", "seats": "1-4"}]}
    url = f"/v1/events/{await open_event(olga, sections=[seats], stops=['A', 'B', 'C'])}"
    assert (await ana.post(f"{url}/holds", claim("A-1", to="B"))).status_code == 201
    answers = [
        await ana.get(f"{url}/availability?from=A&to=B"),
        await ana.get(f"{url}/availability?from=B&to=C"),
        await ana.get(f"{url}/seats?from=A&to=B"),
        await ana.get(f"{url}/seats?from=B&to=C"),
        await ana.get(f"{url}/seats", accept=SEATMAP),
    ]
    assert len({answer.headers["etag"] for answer in answers}) == 5
    assert [free(answer) for answer in answers[:2]] == [[3], [4]]


@on_both_stores
async def test_reader_sees_at_once_what_was_done_in_their_own_and_in_another_process(
    ana: Person, olga: Person, redis_url: str, services: Services
) -> None:
    event_id = await open_event(olga)
    transport = await open_transport(redis_url)
    try:
        elsewhere = Views(Kernel(transport, partitions=PARTITIONS), Catalog(services.events))
        for number in range(1, 5):
            hold = (await ana.post(f"/v1/events/{event_id}/holds", claim(f"A-{number}"))).json()
            assert free(await ana.get(f"/v1/events/{event_id}/availability")) == [5, 5]
            assert [section.free for section in (await elsewhere.availability(event_id)).sections] == [5, 5]
            assert (await ana.delete(f"/v1/holds/{hold['id']}")).status_code == 204
            assert [section.free for section in (await elsewhere.availability(event_id)).sections] == [5, 6]
            assert free(await ana.get(f"/v1/events/{event_id}/availability")) == [5, 6]
    finally:
        await transport.aclose()


@on_both_stores
async def test_lapsed_hold_is_free_for_a_reader_though_nobody_has_ended_it(ana: Person, olga: Person) -> None:
    url = f"/v1/events/{await open_event(olga)}"
    assert (await ana.post(f"{url}/holds", claim("A-1", ttl=1))).status_code == 201
    before = await ana.get(f"{url}/availability")
    assert (free(before), before.json()["next_release_at"] is None) == ([5, 5], False)
    async with asyncio.timeout(10):
        while free(after := await ana.get(f"{url}/availability")) != [5, 6]:  # noqa: ASYNC110 - for Redis
            await asyncio.sleep(0.05)
    assert after.json()["next_release_at"] is None


async def test_state_that_was_lost_and_built_anew_is_not_taken_for_the_one_before(
    ana: Person, olga: Person, redis_url: str
) -> None:
    url = f"/v1/events/{await open_event(olga)}"
    for path in ("availability", "seats"):
        await ana.get(f"{url}/{path}")
    assert (await ana.post(f"{url}/holds", claim("A-1"))).status_code == 201
    held = await ana.get(f"{url}/seats")
    redis.Redis.from_url(redis_url).flushall()
    anew = await ana.get(f"{url}/seats", if_none_match=held.headers["etag"])
    assert anew.status_code == 200
    assert {seat["status"] for seat in anew.json()["seats"]} == {"free"}
    assert free(await ana.get(f"{url}/availability")) == [5, 6]


async def test_tag_of_a_state_counts_for_nothing_at_another_server(ana: Person, olga: Person, redis_url: str) -> None:
    url = f"/v1/events/{await open_event(olga)}"
    assert (await ana.post(f"{url}/holds", claim("A-1"))).status_code == 201
    assert free(await ana.get(f"{url}/availability")) == [5, 5]
    server = redis.Redis.from_url(redis_url)
    [state] = server.scan_iter("*:state")
    server.hset(state, mapping={"free:1:0": 6, "held:1:0": 0})  # as a replica might have it, at the same seq
    assert free(await ana.get(f"{url}/availability")) == [5, 5]
    server.execute_command("REPLICAOF", "127.0.0.1", "1")
    server.execute_command("REPLICAOF", "NO", "ONE")  # a promotion: the replication id is another from here on
    assert free(await ana.get(f"{url}/availability")) == [5, 6]
