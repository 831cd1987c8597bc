"""Redis is away in every way it can be: callers are told within a second, and the API goes on by itself afterwards."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import httpx2
import pytest
import redis
from api_app import Person, claim, composed, connected, open_event
from transport_servers import Proxy, Valkey, eventually, opened, running_valkey, wait_until

from api.idempotency import OnceStore
from engine.errors import IdempotencyInFlight
from engine.kernel import ANSWER_MAX_S, Kernel
from engine.once import ABANDON_WAIT_S, Once
from engine.time_limits import TICK_S

WITHIN_S = 1.0  # promised for an answer, whatever the outage
SLACK_S = 0.8  # of a machine that runs other tests beside this one
RECOVERY_S = 3.0
BURST = 10_000  # of calls at once: more than a tenth of a second of one process


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with running_valkey(tmp_path / "valkey") as server:
        yield server


class Hall:
    """An event on sale, somebody who has a hold there, and every kind of request that needs Redis."""

    def __init__(self, client: httpx2.AsyncClient, event_id: str, ana: Person, hold_id: str) -> None:
        self.client = client
        self.event_id = event_id
        self.ana = ana
        self.hold_id = hold_id

    async def requests(self) -> Mapping[str, tuple[httpx2.Response, float]]:
        """Each request's answer, and the seconds it took; all at once."""
        event, hold = f"/v1/events/{self.event_id}", f"/v1/holds/{self.hold_id}"
        calls = {
            "hold": self.ana.post(f"{event}/holds", claim(floor=1)),
            "hold with a key": self.ana.post(f"{event}/holds", claim(floor=1), idempotency_key="k"),
            "batch": self.ana.post("/v1/holds:batch", {"holds": [{"event_id": self.event_id} | claim(floor=1)]}),
            "show": self.ana.get(hold),
            "extend": self.ana.post(f"{hold}/extend", {"ttl": 60}, idempotency_key="e"),
            "confirm": self.ana.post("/v1/bookings", {"hold_id": self.hold_id}),
            "book": self.ana.post("/v1/bookings", {"event_id": self.event_id} | claim(floor=1)),
            "availability": self.ana.get(f"{event}/availability"),
            "seats": self.ana.get(f"{event}/seats"),
            "readiness": self.ana.get("/readyz"),
        }
        return dict(zip(calls, await asyncio.gather(*map(_timed, calls.values())), strict=True))

    async def sells(self) -> bool:
        return (await self.ana.post(f"/v1/events/{self.event_id}/holds", claim(floor=1))).status_code == 201


async def _timed(call: object) -> tuple[httpx2.Response, float]:
    began = time.monotonic()
    response = await call  # type: ignore[misc]
    return response, time.monotonic() - began


@contextlib.asynccontextmanager
async def open_hall(redis_url: str, database_url: str) -> AsyncIterator[Hall]:
    async with composed(redis_url, database_url) as services, connected(services) as client:
        section = {"id": "floor", "price": 4500, "capacity": 1_000}
        event_id = await open_event(Person(client, "olga", "organizer"), sections=[section])
        ana = Person(client, "ana", "customer")
        hold = await ana.post(f"/v1/events/{event_id}/holds", claim(floor=1))
        assert hold.status_code == 201, hold.text
        yield Hall(client, event_id, ana, hold.json()["id"])


def assert_told_at_once(answers: Mapping[str, tuple[httpx2.Response, float]]) -> None:
    for name, (response, took_s) in answers.items():
        if name == "batch":
            assert response.json()["results"][0]["status"] == 503
        else:
            assert response.status_code == 503, (name, response.text)
            assert response.headers["retry-after"], name
        assert took_s < WITHIN_S + SLACK_S, name


async def assert_recovers(hall: Hall) -> None:
    deadline = time.monotonic() + RECOVERY_S
    while not await hall.sells():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    ready = await hall.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


@contextlib.contextmanager
def killed(valkey: Valkey) -> Iterator[None]:
    valkey.kill()
    yield
    valkey.start()


@contextlib.contextmanager
def frozen(valkey: Valkey) -> Iterator[None]:
    valkey.freeze()
    yield
    valkey.thaw()


@contextlib.contextmanager
def busy(valkey: Valkey) -> Iterator[None]:
    """A script that does not end: the server answers BUSY to everybody else."""
    valkey.call("CONFIG", "SET", "busy-reply-threshold", 50)

    def run() -> None:
        with contextlib.suppress(redis.ResponseError):  # it is killed
            valkey.call("EVAL", "#!lua flags=no-writes\nwhile true do end", 0)

    script = threading.Thread(target=run)
    script.start()
    time.sleep(0.1)
    yield
    valkey.call("SCRIPT", "KILL")
    script.join(timeout=5)


@contextlib.contextmanager
def loading(valkey: Valkey) -> Iterator[None]:
    """A server that is back, and reads its data for some seconds."""
    with redis.Redis(host="127.0.0.1", port=valkey.port) as client:
        client.mset({f"ballast{number}": "x" * 2_000 for number in range(1_000)})
        client.save()
    valkey.kill()
    valkey.start("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
    assert valkey.call("INFO", "persistence")["loading"] == 1
    yield
    wait_until(lambda: valkey.call("INFO", "persistence")["loading"] == 0, "it loads for too long")


OUTAGES: dict[str, Callable[[Valkey], contextlib.AbstractContextManager[None]]] = {
    "killed": killed,
    "frozen": frozen,
    "busy": busy,
    "loading": loading,
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_every_request_is_told_within_a_second_and_served_again_afterwards(
    valkey: Valkey, database_url: str, outage: str
) -> None:
    async with open_hall(valkey.url, database_url) as hall:
        with OUTAGES[outage](valkey):
            assert_told_at_once(await hall.requests())
            assert_told_at_once(await hall.requests())  # the outage is known now, and nothing is queued up behind it
        await assert_recovers(hall)


def test_limits_leave_room_for_http_within_the_second_that_is_promised() -> None:
    assert ANSWER_MAX_S + 2 * TICK_S + ABANDON_WAIT_S < WITHIN_S


async def test_requests_on_their_way_are_told_within_a_second_when_the_server_falls_silent(
    valkey: Valkey, database_url: str
) -> None:
    """Also those with a key, whose claim on it can no more be taken back than it could be acted on."""
    async with open_hall(valkey.url, database_url) as hall:
        extend = f"/v1/holds/{hall.hold_id}/extend"
        for turn in range(20):
            await hall.ana.post(extend, {"ttl": 60}, idempotency_key=f"warm-{turn}")
        calls = [
            asyncio.create_task(_timed(hall.ana.post(extend, {"ttl": 60}, idempotency_key=f"key-{n}")))
            for n in range(40)
        ]
        await asyncio.sleep(0.01)
        valkey.freeze()
        silent_at = time.monotonic()
        answers = await asyncio.gather(*calls)
        assert time.monotonic() - silent_at < WITHIN_S + SLACK_S
        assert {response.status_code for response, _ in answers} <= {200, 503}
        valkey.thaw()
        await assert_recovers(hall)


async def test_hold_whose_reply_was_lost_is_reported_as_unknown_and_made_once(
    valkey: Valkey, database_url: str
) -> None:
    async with Proxy(valkey.port) as proxy, open_hall(proxy.url, database_url) as hall:
        holds = f"/v1/events/{hall.event_id}/holds"
        proxy.mute()
        response, took_s = await _timed(hall.ana.post(holds, claim(floor=2), idempotency_key="once"))
        assert (response.status_code, response.json()["code"]) == (503, "store-unavailable")
        assert "not known" in response.json()["detail"]
        assert "same idempotency key" in response.json()["detail"]
        assert took_s < WITHIN_S + SLACK_S
        answered: list[httpx2.Response] = []

        async def ask() -> None:
            while not answered or answered[-1].status_code == 503:
                await asyncio.sleep(0.02)
                answered.append(await hall.ana.post(holds, claim(floor=2), idempotency_key="once"))

        await asyncio.wait_for(ask(), 5)
        assert answered[-1].status_code == 201
        assert answered[-1].headers["idempotent-replayed"] == "true"
        [floor] = (await hall.ana.get(f"/v1/events/{hall.event_id}/availability")).json()["sections"]
        assert floor["held"] == 3  # two, and the one that the hall began with


async def test_confirm_whose_reply_was_lost_is_never_called_a_failure_and_books_once(
    valkey: Valkey, database_url: str
) -> None:
    async with Proxy(valkey.port) as proxy, open_hall(proxy.url, database_url) as hall:
        body = {"hold_id": hall.hold_id}
        proxy.mute()
        response, took_s = await _timed(hall.ana.post("/v1/bookings", body, idempotency_key="pay"))
        assert (response.status_code, response.json()["code"]) == (503, "store-unavailable")
        assert took_s < WITHIN_S + SLACK_S
        answered: list[httpx2.Response] = []

        async def ask() -> None:
            while not answered or answered[-1].status_code == 503:
                await asyncio.sleep(0.02)
                answered.append(await hall.ana.post("/v1/bookings", body, idempotency_key="pay"))

        await asyncio.wait_for(ask(), 5)
        assert (answered[-1].status_code, answered[-1].json()["status"]) == (201, "confirmed")
        assert len((await hall.ana.get("/v1/bookings")).json()["items"]) == 1


async def test_short_restart_of_the_server_goes_unnoticed(valkey: Valkey, database_url: str) -> None:
    async with open_hall(valkey.url, database_url) as hall:
        valkey.kill()
        call = asyncio.create_task(hall.sells())
        await asyncio.sleep(0.05)
        valkey.start()
        assert await call
        await eventually(lambda: valkey.stat("total_connections_received") > 0, "nobody is back")


async def test_key_of_a_failed_request_is_given_up_without_waiting_for_a_silent_server(
    valkey: Valkey, database_url: str
) -> None:
    async with composed(valkey.url, database_url) as services:
        once = Once(scope=b"5" * 32, body=b"b" * 32)
        assert await services.once.begin(once, in_flight_ttl_s=60) is None
        valkey.freeze()
        began = time.monotonic()
        await services.once.abandon(once)
        assert time.monotonic() - began < 0.3
        valkey.thaw()
        while not await _is_free(services.once, once):  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.02)


async def _is_free(store: OnceStore, once: Once) -> bool:
    try:
        return await store.begin(once, in_flight_ttl_s=60) is None
    except IdempotencyInFlight:
        return False


async def test_audit_waits_for_a_server_that_is_slow_and_alive(valkey: Valkey, database_url: str) -> None:
    async with open_hall(valkey.url, database_url) as hall:
        root = Person(hall.client, "root", "admin")
        valkey.freeze()
        audit = asyncio.create_task(root.get(f"/v1/admin/audit?event_id={hall.event_id}"))
        await asyncio.sleep(WITHIN_S + 0.2)
        valkey.thaw()
        answer = await audit
        assert (answer.status_code, answer.json()["drift"]) == (200, 0)


async def test_burst_that_keeps_the_process_busy_for_longer_than_the_limit_is_served(valkey: Valkey) -> None:
    """Redis answers all the while: to call it away would turn a burst into an outage."""
    limit_s = 0.1
    async with opened(valkey.url) as transport:
        kernel = Kernel(transport, partitions=1, answer_max_s=limit_s)
        began = time.monotonic()
        await asyncio.gather(*[kernel.time_ms(0) for _ in range(BURST)])
        assert time.monotonic() - began > limit_s
