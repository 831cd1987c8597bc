"""Webhooks of payment providers: believed only when signed, done once, in any order, early and late."""

import asyncio
import datetime as dt
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from api_app import Person, claim, composed, connected, open_event
from payment_lab import SECRET, RunningSimulator, check_money, running_simulator, simulated, until

from api.payments import NOTICE_MAX
from api.services import Services
from holdfast.payments.signatures import sign
from persistence import payment_notices
from persistence.database import driver_connection
from persistence.payment_notices import Notices

URL = "/v1/payments/webhooks/simulator"
PAID = {"payment": "required"}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
async def services(redis_url: str, database_url: str, simulator: RunningSimulator) -> AsyncIterator[Services]:
    simulator.forget()
    async with httpx2.AsyncClient() as http:
        providers = {"simulator": simulated(simulator, http, "a newer secret", SECRET)}
        async with composed(redis_url, database_url, providers=providers, confirm_timeout_s=1.0) as opened:
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


async def open_payment(ana: Person, olga: Person, **policy: Any) -> str:
    """The id of a booking whose payment is pending."""
    event_id = await open_event(olga, policy=PAID | policy)
    order = {"payment": {"provider": "simulator", "method": "sim_redirect"}, "event_id": event_id}
    response = await ana.post("/v1/bookings", order | claim("A-1"))
    assert response.status_code == 202, response.text
    booking_id: str = response.json()["id"]
    return booking_id


def notice(simulator: RunningSimulator, booking_id: str, **changes: Any) -> bytes:
    """A webhook of the booking's payment as the simulator has it, but for *changes*."""
    (payment,) = simulator.of(booking_id)
    return json.dumps({"id": changes.pop("id", uuid.uuid4().hex), "payment": payment | changes}).encode()


async def send(client: httpx2.AsyncClient, body: bytes, *, signature: str | None = None) -> httpx2.Response:
    if signature is None:
        signature = sign(body, SECRET, at=dt.datetime.now(dt.UTC))
    headers = {"holdfast-signature": signature, "content-type": "application/json"}
    return await client.post(URL, content=body, headers=headers)


async def settled(services: Services) -> None:
    """Wait for what webhooks have set going."""
    while tasks := services.checkout._tasks:
        await asyncio.wait(tasks)


async def status_of(person: Person, booking_id: str) -> tuple[str, str]:
    booking = (await person.get(f"/v1/bookings/{booking_id}")).json()
    return booking["status"], booking["payment_status"]


async def events_kept(services: Services) -> int:
    async with driver_connection(services.bookings.engine) as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM payment_events")
        return count


def pay(simulator: RunningSimulator, booking_id: str) -> None:
    (payment,) = simulator.of(booking_id)
    assert httpx2.post(payment["redirect_url"]).status_code == 200


async def test_webhook_of_an_authorized_payment_books(
    client: httpx2.AsyncClient, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    booking_id = await open_payment(ana, olga)
    pay(simulator, booking_id)
    assert (await send(client, notice(simulator, booking_id))).status_code == 202
    await settled(services)
    assert await status_of(ana, booking_id) == ("confirmed", "completed")
    await check_money(services.bookings.engine, simulator)


async def test_webhook_that_comes_twice_is_kept_once_and_does_nothing_again(
    client: httpx2.AsyncClient, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    booking_id = await open_payment(ana, olga)
    pay(simulator, booking_id)
    body = notice(simulator, booking_id)
    answers = await asyncio.gather(*[send(client, body) for _ in range(5)])
    await settled(services)
    assert {answer.status_code for answer in answers} == {202}
    assert await events_kept(services) == 1
    assert simulator.of(booking_id)[0]["captured"] == 9000
    await check_money(services.bookings.engine, simulator)


async def test_webhooks_may_come_out_of_order(
    client: httpx2.AsyncClient, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    booking_id = await open_payment(ana, olga)
    pay(simulator, booking_id)
    early = notice(simulator, booking_id)
    (payment,) = simulator.of(booking_id)
    httpx2.post(f"{simulator.url}/payments/{payment['key']}/capture", json={"amount": 9000})
    for body in (notice(simulator, booking_id), early, notice(simulator, booking_id, status="declined")):
        assert (await send(client, body)).status_code == 202
    await settled(services)
    assert await status_of(ana, booking_id) == ("confirmed", "completed")
    await check_money(services.bookings.engine, simulator)


async def test_webhook_of_a_payment_that_is_not_ours_is_written_down(
    client: httpx2.AsyncClient, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    booking_id = await open_payment(ana, olga)
    for key in (str(uuid.uuid4()), "not even a key of ours"):
        assert (await send(client, notice(simulator, booking_id, key=key, status="authorized"))).status_code == 202
    assert await events_kept(services) == 2
    assert await status_of(ana, booking_id) == ("payment_initiated", "pending")


async def test_webhook_for_a_booking_that_has_ended_has_the_money_given_back(
    client: httpx2.AsyncClient, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    booking_id = await open_payment(ana, olga, late_payment="refund")
    simulator.set_faults(down=True)  # nobody can void it in time
    async with driver_connection(services.bookings.engine) as connection:
        await connection.execute("UPDATE bookings SET expires_at = now() - interval '2 hours'")
    await services.checkout.settler.settle(booking_id)
    simulator.set_faults()
    assert (await status_of(ana, booking_id))[0] == "expired"

    (payment,) = simulator.of(booking_id)
    pay(simulator, booking_id)
    httpx2.post(f"{simulator.url}/payments/{payment['key']}/capture", json={"amount": 9000})
    await send(client, notice(simulator, booking_id))
    await settled(services)

    (payment,) = simulator.of(booking_id)
    assert (payment["captured"], payment["refunded"]) == (9000, 9000)
    await check_money(services.bookings.engine, simulator)


@pytest.mark.parametrize("age_s", [-301, 301, 86_400])
async def test_webhook_of_another_time_is_refused(
    age_s: int, client: httpx2.AsyncClient, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    body = notice(simulator, await open_payment(ana, olga), status="authorized")
    signature = sign(body, SECRET, at=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age_s))
    response = await send(client, body, signature=signature)
    assert (response.status_code, response.json()["code"]) == (401, "webhook-not-signed")
    assert await events_kept(services) == 0


@pytest.mark.parametrize(
    "forged",
    [
        lambda body, right: "",
        lambda body, right: "t=1,v1=",
        lambda body, right: right.replace("v1=", "v0="),
        lambda body, right: right[:-1],
        lambda body, right: f"{right},t=1",
        lambda body, right: sign(body, "another secret", at=dt.datetime.now(dt.UTC)),
        lambda body, right: sign(body + b" ", SECRET, at=dt.datetime.now(dt.UTC)),
        lambda body, right: "v1=" + "a" * 10_000,
        lambda body, right: right.split(",")[1],
    ],
)
async def test_webhook_whose_signature_does_not_fit_is_refused(
    forged: Any, client: httpx2.AsyncClient, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    booking_id = await open_payment(ana, olga)
    body = notice(simulator, booking_id, status="authorized")
    right = sign(body, SECRET, at=dt.datetime.now(dt.UTC))
    response = await send(client, body, signature=forged(body, right))
    assert (response.status_code, response.json()["code"]) == (401, "webhook-not-signed")
    assert await status_of(ana, booking_id) == ("payment_initiated", "pending")


@pytest.mark.parametrize("secret", [SECRET, "a newer secret"])
async def test_webhook_may_be_signed_with_either_secret_while_one_replaces_the_other(
    secret: str, client: httpx2.AsyncClient, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    body = notice(simulator, await open_payment(ana, olga))
    assert (await send(client, body, signature=sign(body, secret, at=dt.datetime.now(dt.UTC)))).status_code == 202
    assert await events_kept(services) == 1


async def test_webhook_that_cannot_be_read_is_an_invalid_request_once_it_is_signed(
    client: httpx2.AsyncClient, services: Services
) -> None:
    deep = b'{"x": ' + b"[" * 10_000
    for body in (b"", b"{}", b'{"x": 1}', b"[" * 10_000, deep, b'{"id": 7}', b'{"id": "\xff"}', b'{"id": "\\ud800"}'):
        response = await send(client, body)
        assert (response.status_code, response.json()["code"]) == (422, "invalid-request"), body[:50]
        unsigned = await send(client, body, signature="t=1,v1=0")
        assert (unsigned.status_code, unsigned.json()["code"]) == (401, "webhook-not-signed"), body[:50]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"id": ""}, "$.id"),
        ({"id": "a\0b"}, "$.id"),
        ({"id": "x" * 256}, "$.id"),
        ({"key": ""}, "$.payment.key"),
        ({"key": "x\0"}, "$.payment.key"),
        ({"key": "x" * 256}, "$.payment.key"),
        ({"status": "captured", "captured": 2**63}, "$.payment.captured"),
        ({"status": "captured", "captured": 10**400}, None),
        ({"status": "captured", "captured": -1}, "$.payment.captured"),
        ({"status": "captured", "captured": float("nan")}, None),
        ({"amount": -1}, "$.payment.amount"),
        ({"refunded": 2**64}, "$.payment.refunded"),
        ({"status": "declined", "reason": "a\0b"}, "$.payment.reason"),
        ({"redirect_url": "http://bank.example/\0"}, "$.payment.redirect_url"),
    ],
)
async def test_webhook_that_says_what_cannot_be_kept_is_refused_and_leaves_nothing(
    changes: dict[str, Any],
    path: str | None,
    client: httpx2.AsyncClient,
    ana: Person,
    olga: Person,
    services: Services,
    simulator: RunningSimulator,
) -> None:
    booking_id = await open_payment(ana, olga)
    response = await send(client, notice(simulator, booking_id, **changes))
    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    if path is not None:
        assert [one["path"] for one in response.json()["errors"]] == [path]
    assert await events_kept(services) == 0
    assert await status_of(ana, booking_id) == ("payment_initiated", "pending")


async def test_webhook_above_the_cap_is_not_read(client: httpx2.AsyncClient, services: Services) -> None:
    assert (await send(client, b"x" * (NOTICE_MAX + 1))).status_code == 413


async def test_webhook_of_no_provider_of_ours_is_a_404(client: httpx2.AsyncClient, services: Services) -> None:
    response = await client.post("/v1/payments/webhooks/acme", content=b"{}")
    assert (response.status_code, response.json()["code"]) == (404, "not-found")


async def test_webhook_of_a_payment_whose_answer_is_lost_is_acted_on_while_the_answer_is_waited_for(
    ana: Person, olga: Person, client: httpx2.AsyncClient, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    order = {"payment": {"provider": "simulator", "method": "sim_timeout"}, "event_id": event_id}
    booking_id = (await ana.post("/v1/bookings", order | claim("A-1"))).json()["id"]

    assert (await send(client, notice(simulator, booking_id))).status_code == 202

    async def is_booked() -> bool:
        return bool((await ana.get(f"/v1/bookings/{booking_id}")).json()["payment_status"] == "completed")

    await until(is_booked, within_s=5.0)


async def test_old_webhooks_are_purged_unless_their_payment_is_not_settled(
    client: httpx2.AsyncClient, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    booking_id = await open_payment(ana, olga)
    pay(simulator, booking_id)
    assert (await send(client, notice(simulator, booking_id))).status_code == 202
    await settled(services)
    database = services.bookings.engine
    notices = Notices(database)
    async with driver_connection(database) as connection:
        stranger = "INSERT INTO payment_events VALUES ('simulated', $1, NULL, 'captured', 'no payment of ours', $2)"
        for number in range(5):
            await connection.execute(stranger, f"old-{number}", dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        await connection.execute(stranger, "new", dt.datetime.now(dt.UTC))
        assert await notices.purge() == 5

        await connection.execute("UPDATE payment_events SET received_at = now() - interval '91 days'")
        await connection.execute("UPDATE payments SET check_at = now() + interval '1 minute'")
        assert await notices.purge() == 1  # the stranger's: nobody knows yet what becomes of the other's payment
        kept = await events_kept(services)
        assert kept > 0
        await connection.execute("UPDATE payments SET check_at = NULL")
        assert await notices.purge() == kept

    assert await status_of(ana, booking_id) == ("confirmed", "completed")
    assert (await send(client, notice(simulator, booking_id))).status_code == 202  # which comes once more, much later
    await settled(services)
    assert await status_of(ana, booking_id) == ("confirmed", "completed")
    await check_money(database, simulator)


async def test_a_round_of_purging_is_bounded(
    client: httpx2.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payment_notices, "PURGED_AT_ONCE", 2)
    monkeypatch.setattr(payment_notices, "PURGED_MAX", 3)
    old = """
        INSERT INTO payment_events
        SELECT 'simulated', n::text, NULL, 'captured', 'none of ours', now() - interval '91 days'
          FROM generate_series(1, 4) AS n
    """
    async with driver_connection(services.bookings.engine) as connection:
        await connection.execute(old)
    assert [await Notices(services.bookings.engine).purge() for _ in range(3)] == [3, 1, 0]
