"""Bookings that are sold against payment, with a real simulator in a process of its own: every way a payment can go."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from api_app import Person, claim, composed, connected, open_event
from payment_lab import RunningSimulator, check_money, running_simulator, simulated, until
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import open_client

from api.services import Services
from engine.errors import LedgerUnavailable
from engine.lifecycle import Actor
from engine.payments import Said
from persistence.database import driver_connection, in_transaction
from persistence.steps import Step, lock_booking, take_step

PAID = {"payment": "required"}
HELD_S = 1
SHORT = PAID | {"hold_ttl": HELD_S, "hold_ttl_max": HELD_S, "payment_ttl": HELD_S}  # over before a slow payment is


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
async def services(redis_url: str, database_url: str, simulator: RunningSimulator) -> AsyncIterator[Services]:
    simulator.forget()
    async with httpx2.AsyncClient() as http:
        providers = {"simulator": simulated(simulator, http)}
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


def order(method: str, **members: Any) -> dict[str, Any]:
    return {"payment": {"provider": "simulator", "method": method}} | members


async def hold_of(person: Person, event_id: str, *seats: str, floor: int = 0, **members: Any) -> str:
    response = await person.post(f"/v1/events/{event_id}/holds", claim(*seats, floor=floor, **members))
    assert response.status_code == 201, response.text
    hold_id: str = response.json()["id"]
    return hold_id


async def rows(services: Services, statement: str, *arguments: object) -> list[Any]:
    async with driver_connection(services.bookings.engine) as connection:
        return list(await connection.fetch(statement, *arguments))


async def lapse(services: Services, booking_id: str) -> None:
    """Let the booking's time be over, by the ledger's clock."""
    async with driver_connection(services.bookings.engine) as connection:
        await connection.execute("UPDATE bookings SET expires_at = now() - interval '2 hours'")
        await connection.execute("UPDATE payments SET check_at = now() - interval '1 second'")


async def test_payment_that_goes_well_ends_in_a_booking_whose_money_is_taken(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1", "A-2")

    response = await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id, guest={"name": "Ana"}))

    assert response.status_code == 201, response.text
    booking = response.json()
    assert (booking["id"], booking["status"], booking["payment_status"]) == (hold_id, "confirmed", "completed")
    assert booking["guest"] == {"name": "Ana"}
    (payment,) = simulator.of(hold_id)
    assert (payment["status"], payment["captured"]) == ("captured", 18000)
    steps = await rows(services, "SELECT from_status, to_status FROM history ORDER BY version")
    assert [tuple(step) for step in steps] == [
        (None, "payment_initiated"),
        ("payment_initiated", "paid"),
        ("paid", "confirmed"),
        ("confirmed", "confirmed"),
    ]
    assert (await check_money(services.bookings.engine, simulator))["booked"] == 1


async def test_booking_without_a_prior_hold_is_held_first_and_then_paid(
    ana: Person, olga: Person, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    response = await ana.post("/v1/bookings", order("sim_ok", event_id=event_id, **claim(floor=2)))
    assert response.status_code == 201, response.text
    assert simulator.of(response.json()["id"])[0]["captured"] == 9000


async def settle_due(services: Services) -> None:
    """What the reconciler's duty does, without waiting for its turn."""
    for booking_id in await services.checkout.store.take_due(limit=100):
        await services.checkout.settler.settle(booking_id)


async def status_of(person: Person, booking_id: str) -> tuple[str, str]:
    booking = (await person.get(f"/v1/bookings/{booking_id}")).json()
    return booking["status"], booking["payment_status"]


async def free_seats(person: Person, event_id: str) -> int:
    sections = (await person.get(f"/v1/events/{event_id}/availability")).json()["sections"]
    return next(section["free"] for section in sections if section["id"] == "stalls")


async def test_declined_payment_answers_402_and_the_hold_can_be_paid_for_otherwise(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")

    declined = await ana.post("/v1/bookings", order("sim_declined", hold_id=hold_id), idempotency_key="one")

    assert declined.status_code == 402, declined.text
    problem = declined.json()
    assert (problem["code"], problem["booking_id"], problem["reason"]) == ("payment-declined", hold_id, "card_declined")
    assert "`booking_id` is its `hold_id`" in problem["detail"]
    assert (await ana.get(f"/v1/holds/{hold_id}")).json()["status"] == "paying"
    assert await status_of(ana, hold_id) == ("payment_initiated", "failed")

    paid = await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id), idempotency_key="two")
    assert (paid.status_code, paid.json()["payment_status"]) == (201, "completed")
    assert [payment["status"] for payment in simulator.of(hold_id)] == ["declined", "captured"]

    again = await ana.post("/v1/bookings", order("sim_declined", hold_id=hold_id), idempotency_key="one")
    assert (again.status_code, again.json()["code"]) == (402, "payment-declined")
    assert ("idempotent-replayed" in declined.headers, again.headers["idempotent-replayed"]) == (False, "true")
    await check_money(services.bookings.engine, simulator)


async def test_booking_of_a_declined_payment_is_the_hold_to_pay_for_otherwise_when_there_was_no_hold_before(
    ana: Person, olga: Person
) -> None:
    event_id = await open_event(olga, policy=PAID)
    declined = await ana.post("/v1/bookings", order("sim_declined", event_id=event_id, **claim("A-1")))
    assert declined.status_code == 402, declined.text
    paid = await ana.post("/v1/bookings", order("sim_ok", hold_id=declined.json()["booking_id"]))
    assert (paid.status_code, paid.json()["id"]) == (201, declined.json()["booking_id"])


async def test_repetition_with_the_same_key_gets_the_same_booking_and_pays_once(
    ana: Person, olga: Person, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    body = order("sim_ok", event_id=event_id, **claim("B-1"))
    first, second = await asyncio.gather(*[ana.post("/v1/bookings", body, idempotency_key="k") for _ in range(2)])
    third = await ana.post("/v1/bookings", body, idempotency_key="k")

    assert {first.status_code, second.status_code} <= {201, 202}
    assert third.status_code == 201
    assert third.headers["idempotent-replayed"] == "true"
    assert {answer.json()["id"] for answer in (first, second, third)} == {third.json()["id"]}
    assert len(simulator.of(third.json()["id"])) == 1
    other = await ana.post(
        "/v1/bookings", order("sim_declined", event_id=event_id, **claim("B-1")), idempotency_key="k"
    )
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$.payment"),
        ({"payment": {"provider": "acme", "method": "card"}}, "$.payment.provider"),
    ],
)
async def test_order_without_a_payment_that_can_be_taken_is_refused_before_anything_is_done(
    body: dict[str, Any], path: str, ana: Person, olga: Person
) -> None:
    event_id = await open_event(olga, policy=PAID)
    response = await ana.post("/v1/bookings", {"event_id": event_id} | claim("A-1") | body)
    assert (response.status_code, response.json()["path"]) == (422, path)
    assert await free_seats(olga, event_id) == 6


async def test_slow_payment_answers_202_in_time_and_ends_in_a_booking(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    response = await ana.post("/v1/bookings", order("sim_slow_1500", hold_id=hold_id))

    assert response.status_code == 202, response.text
    assert (response.json()["status"], response.json()["payment_status"]) == ("payment_initiated", "pending")
    assert response.headers["location"] == f"/v1/bookings/{hold_id}"
    assert int(response.headers["retry-after"]) > 0

    async def is_paid() -> bool:
        return await status_of(ana, hold_id) == ("confirmed", "completed")

    await until(is_paid)
    await check_money(services.bookings.engine, simulator)


async def test_payment_whose_answer_is_lost_is_looked_up_and_booked(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    response = await ana.post("/v1/bookings", order("sim_timeout", hold_id=hold_id))
    assert response.status_code == 202
    assert simulator.of(hold_id)[0]["status"] == "authorized"

    await services.checkout.settler.settle(hold_id)

    assert await status_of(ana, hold_id) == ("confirmed", "completed")
    await check_money(services.bookings.engine, simulator)


async def test_second_order_for_a_hold_whose_payment_is_open_begins_no_second_payment(
    ana: Person, olga: Person, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    first = await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))
    second = await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))

    assert (first.status_code, second.status_code) == (202, 202)
    (payment,) = simulator.of(hold_id)
    assert first.json()["redirect_url"] == second.json()["redirect_url"] == payment["redirect_url"]


async def test_customer_who_refuses_on_the_banks_page_pays_for_the_same_hold_otherwise(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    first = await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id), idempotency_key="one")
    url = first.json()["redirect_url"]
    again = await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id), idempotency_key="one")
    assert (again.status_code, again.json()["redirect_url"]) == (202, url)
    assert "redirect_url" not in (await ana.get(f"/v1/bookings/{hold_id}")).json()

    httpx2.post(url, data={"outcome": "declined"})
    await services.checkout.settler.settle(hold_id)
    other = await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))

    assert (other.status_code, other.json()["id"]) == (201, hold_id)
    assert [payment["status"] for payment in simulator.of(hold_id)] == ["declined", "captured"]
    await check_money(services.bookings.engine, simulator)


async def test_redirected_payment_is_booked_once_the_customer_has_paid(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    redirect_url = (await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))).json()["redirect_url"]

    async with httpx2.AsyncClient() as browser:
        assert "<form" in (await browser.get(redirect_url)).text
        await browser.post(redirect_url, data={"outcome": "ok"})
    await services.checkout.settler.settle(hold_id)

    assert await status_of(ana, hold_id) == ("confirmed", "completed")


async def test_hold_whose_payment_has_begun_keeps_the_deadline_that_the_payment_gave_it(
    ana: Person, olga: Person
) -> None:
    event_id = await open_event(olga, policy=PAID | {"payment_ttl": 900})
    hold_id = await hold_of(ana, event_id, "A-1", ttl=60)
    before = (await ana.get(f"/v1/holds/{hold_id}")).json()
    booking = (await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))).json()
    after = (await ana.post(f"/v1/holds/{hold_id}/extend", {"ttl": 5})).json()

    assert before["status"] == "active"
    assert (after["status"], after["ttl"]) == ("paying", pytest.approx(900, abs=5))
    assert booking["expires_at"] == after["expires_at"]


async def test_booking_that_needs_approval_has_its_money_set_aside_until_then(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID | {"approval": "manual"})
    hold_id = await hold_of(ana, event_id, "A-1")
    response = await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))

    assert response.status_code == 201, response.text
    assert (response.json()["status"], response.json()["payment_status"]) == ("pending", "held")
    assert simulator.of(hold_id)[0]["status"] == "authorized"
    await check_money(services.bookings.engine, simulator)


async def change(services: Services, booking_id: str, **changes: Any) -> None:
    """A step as the desk takes it: in the ledger, by the organizer."""
    step = Step(to_status=changes.pop("to_status", None), changes=changes)

    async def work(connection: AsyncConnection) -> None:
        await take_step(connection, await lock_booking(connection, booking_id), step, Actor("olga", "organizer"))

    await in_transaction(services.bookings.engine, work)


@pytest.mark.parametrize(
    ("to_status", "money", "payment_status"),
    [("confirmed", "captured", "completed"), ("rejected", "voided", "refunded"), ("expired", "voided", "refunded")],
)
async def test_money_set_aside_follows_what_is_decided_about_the_booking(
    to_status: str,
    money: str,
    payment_status: str,
    ana: Person,
    olga: Person,
    services: Services,
    simulator: RunningSimulator,
) -> None:
    event_id = await open_event(olga, policy=PAID | {"approval": "manual"})
    hold_id = await hold_of(ana, event_id, "A-1")
    await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))
    now = {"confirmed_at": sa.func.now()} if to_status == "confirmed" else {}
    await change(services, hold_id, to_status=to_status, **now)

    await services.checkout.settler.settle(hold_id)

    assert simulator.of(hold_id)[0]["status"] == money
    assert await status_of(ana, hold_id) == (to_status, payment_status)
    await check_money(services.bookings.engine, simulator)


async def test_what_is_granted_back_is_refunded_once_and_in_steps(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))

    await change(services, hold_id, refunded=2000)
    await asyncio.gather(*[services.checkout.settler.settle(hold_id) for _ in range(4)])
    assert (simulator.of(hold_id)[0]["refunded"], await status_of(ana, hold_id)) == (
        2000,
        ("confirmed", "partially_refunded"),
    )
    await change(services, hold_id, to_status="cancelled", refunded=9000)
    await settle_due_now(services)
    assert (simulator.of(hold_id)[0]["refunded"], await status_of(ana, hold_id)) == (9000, ("cancelled", "refunded"))
    await check_money(services.bookings.engine, simulator)


async def settle_due_now(services: Services) -> None:
    """As the reconciler, once the time for it has come."""
    async with driver_connection(services.bookings.engine) as connection:
        await connection.execute("UPDATE payments SET check_at = now() WHERE check_at IS NOT NULL")
    await settle_due(services)


async def test_cancellation_before_the_money_was_taken_takes_no_more_than_is_kept(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID | {"approval": "manual"})
    hold_id = await hold_of(ana, event_id, "A-1")
    await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))
    await change(services, hold_id, to_status="confirmed", confirmed_at=sa.func.now())
    await change(services, hold_id, to_status="cancelled", refunded=4500)
    await services.checkout.settler.settle(hold_id)

    (payment,) = simulator.of(hold_id)
    assert (payment["captured"], payment["refunded"]) == (4500, 0)
    assert await status_of(ana, hold_id) == ("cancelled", "partially_refunded")
    await check_money(services.bookings.engine, simulator)


async def test_booking_whose_payment_was_declined_has_failed_once_its_hold_is_over(
    ana: Person, olga: Person, services: Services
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    await ana.post("/v1/bookings", order("sim_declined", hold_id=hold_id))
    await lapse(services, hold_id)
    await settle_due(services)
    assert await status_of(ana, hold_id) == ("failed", "failed")
    assert await rows(services, "SELECT 1 FROM payments WHERE check_at IS NOT NULL") == []


async def test_booking_whose_payment_never_came_expires_and_the_payment_is_void(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    request = order("sim_redirect", hold_id=hold_id)
    assert (await ana.post("/v1/bookings", request, idempotency_key="k")).status_code == 202
    await lapse(services, hold_id)
    await settle_due(services)
    assert await status_of(ana, hold_id) == ("expired", "failed")
    assert simulator.of(hold_id)[0]["status"] == "voided"
    again = await ana.post("/v1/bookings", request, idempotency_key="k")
    assert (again.status_code, again.json()["code"]) == (410, "hold-expired")
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("late_payment", ["book", "refund"])
async def test_payment_that_comes_when_the_hold_is_gone_is_booked_or_let_go_as_the_policy_says(
    late_payment: str, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=SHORT | {"late_payment": late_payment})
    hold_id = await hold_of(ana, event_id, "A-1")
    url = (await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))).json()["redirect_url"]
    await asyncio.sleep(HELD_S + 0.2)
    httpx2.post(url)

    await services.checkout.settler.settle(hold_id)

    (payment,) = simulator.of(hold_id)
    if late_payment == "book":
        assert await status_of(ana, hold_id) == ("confirmed", "completed")
        assert (payment["status"], await free_seats(olga, event_id)) == ("captured", 5)
    else:
        assert await status_of(ana, hold_id) == ("expired", "refunded")
        assert (await ana.get(f"/v1/bookings/{hold_id}")).json()["refunded"] == 9000
        assert (payment["status"], await free_seats(olga, event_id)) == ("voided", 6)
    await check_money(services.bookings.engine, simulator)


async def test_late_payment_whose_places_are_sold_is_let_go(
    ana: Person, olga: Person, client: httpx2.AsyncClient, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=SHORT)
    hold_id = await hold_of(ana, event_id, "A-1")
    url = (await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))).json()["redirect_url"]
    await asyncio.sleep(HELD_S + 0.2)
    ben = Person(client, "ben", "customer")
    assert (await ben.post("/v1/bookings", order("sim_ok", event_id=event_id, **claim("A-1")))).status_code == 201
    httpx2.post(url)

    await services.checkout.settler.settle(hold_id)

    assert await status_of(ana, hold_id) == ("failed", "refunded")
    assert simulator.of(hold_id)[0]["status"] == "voided"
    await check_money(services.bookings.engine, simulator)


@pytest.mark.parametrize("who", ["customer", "organizer", "event"])
@pytest.mark.parametrize("is_paid", [False, True], ids=["open", "just paid"])
async def test_cancelling_a_booking_before_it_is_paid_for_frees_its_places_and_lets_its_payment_go(
    who: str, is_paid: bool, ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    url = (await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))).json()["redirect_url"]
    if is_paid:  # and nobody has told us yet
        httpx2.post(url)

    if who == "event":
        assert (await olga.post(f"/v1/events/{event_id}/cancel", {})).status_code == 200

        async def is_cancelled() -> bool:
            return (await status_of(ana, hold_id))[0] == "cancelled" and await free_seats(olga, event_id) == 6

        await until(is_cancelled)
    else:
        person = ana if who == "customer" else olga
        answer = await person.post(f"/v1/bookings/{hold_id}/cancel", {"reason": "ill"})
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")

    assert await free_seats(olga, event_id) == 6
    for gone in (
        await ana.get(f"/v1/holds/{hold_id}"),
        await ana.delete(f"/v1/holds/{hold_id}"),
        await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id)),
    ):
        assert (gone.status_code, gone.json()["code"]) == (410, "hold-released")
    httpx2.post(url)  # the page was still open
    await settle_due_now(services)
    assert (await status_of(ana, hold_id))[0] == "cancelled"
    assert (simulator.of(hold_id)[0]["status"], await free_seats(olga, event_id)) == ("voided", 6)
    await check_money(services.bookings.engine, simulator)


async def test_hold_of_a_booking_that_was_cancelled_is_released_at_the_next_order_after_a_crash(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))
    await change(services, hold_id, to_status="cancelled")  # and whoever did that is gone before Redis hears of it

    answer = await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))

    assert (answer.status_code, answer.json()["code"]) == (410, "hold-released")
    assert await free_seats(olga, event_id) == 6
    await settle_due_now(services)
    assert [payment["status"] for payment in simulator.of(hold_id)] == ["voided"]


async def test_payment_that_finds_its_event_cancelled_is_let_go_and_frees_the_places(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.aftercare, "begin", lambda _: None)  # it comes later
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    url = (await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))).json()["redirect_url"]
    assert (await olga.post(f"/v1/events/{event_id}/cancel", {})).status_code == 200
    httpx2.post(url)

    await services.checkout.settler.settle(hold_id)

    assert await status_of(ana, hold_id) == ("failed", "refunded")
    assert (simulator.of(hold_id)[0]["status"], await free_seats(olga, event_id)) == ("voided", 6)
    await check_money(services.bookings.engine, simulator)


async def test_payment_of_a_hold_that_was_given_back_meanwhile_is_let_go(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID | {"late_payment": "book"})
    hold_id = await hold_of(ana, event_id, "A-1")
    url = (await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))).json()["redirect_url"]
    assert (await ana.delete(f"/v1/holds/{hold_id}")).status_code == 204
    httpx2.post(url)

    await services.checkout.settler.settle(hold_id)

    assert await status_of(ana, hold_id) == ("expired", "refunded")
    assert (simulator.of(hold_id)[0]["status"], await free_seats(olga, event_id)) == ("voided", 6)
    await check_money(services.bookings.engine, simulator)


@pytest.mark.parametrize("is_free", [True, False])
async def test_payment_of_a_hold_that_was_given_back_long_ago_is_booked_if_its_places_are_free_else_let_go(
    is_free: bool,
    ana: Person,
    olga: Person,
    client: httpx2.AsyncClient,
    services: Services,
    simulator: RunningSimulator,
    redis_url: str,
) -> None:
    event_id = await open_event(olga, policy=PAID | {"late_payment": "book"})
    hold_id = await hold_of(ana, event_id, "A-1")
    url = (await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))).json()["redirect_url"]
    assert (await ana.delete(f"/v1/holds/{hold_id}")).status_code == 204
    with open_client(redis_url) as redis:  # which forgets how a hold ended, when there have been many others
        (ended,) = redis.keys(f"*:{event_id}:ended")
        redis.delete(ended)
    if not is_free:
        await hold_of(Person(client, "ben", "customer"), event_id, "A-1")
    httpx2.post(url)

    await services.checkout.settler.settle(hold_id)

    assert await status_of(ana, hold_id) == (("confirmed", "completed") if is_free else ("failed", "refunded"))
    assert simulator.of(hold_id)[0]["status"] == ("captured" if is_free else "voided")
    await check_money(services.bookings.engine, simulator)


async def test_hold_that_is_given_back_after_a_declined_payment_ends_its_booking(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    assert (await ana.post("/v1/bookings", order("sim_declined", hold_id=hold_id))).status_code == 402

    assert (await ana.delete(f"/v1/holds/{hold_id}")).status_code == 204

    assert await status_of(ana, hold_id) == ("failed", "failed")
    assert await free_seats(olga, event_id) == 6


async def test_payment_that_is_authorized_after_its_booking_has_ended_is_let_go(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID | {"late_payment": "refund"})
    hold_id = await hold_of(ana, event_id, "A-1")
    url = (await ana.post("/v1/bookings", order("sim_redirect", hold_id=hold_id))).json()["redirect_url"]
    await lapse(services, hold_id)
    httpx2.post(url)
    await settle_due(services)

    assert (await status_of(ana, hold_id))[0] in ("confirmed", "expired")
    await check_money(services.bookings.engine, simulator)


async def test_provider_that_is_down_leaves_the_payment_unknown_until_it_is_back(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID)
    hold_id = await hold_of(ana, event_id, "A-1")
    simulator.set_faults(down=True)
    response = await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))
    assert (response.status_code, response.json()["status"]) == (202, "payment_initiated")
    await settle_due_now(services)
    assert await status_of(ana, hold_id) == ("payment_initiated", "pending")

    simulator.set_faults()
    await abandon(services)
    await settle_due_now(services)

    assert await status_of(ana, hold_id) == ("payment_initiated", "failed")
    assert simulator.ledger()[-1]["status"] == "voided"  # so that what is still on its way cannot take effect
    paid = await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))
    assert paid.status_code == 201


async def abandon(services: Services) -> None:
    """Let payments be so old that nobody can be waiting for their answer."""
    async with driver_connection(services.bookings.engine) as connection:
        await connection.execute("UPDATE payments SET created_at = now() - interval '5 minutes'")


async def test_money_is_taken_later_when_the_provider_fails_after_the_booking_is_certain(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID | {"approval": "manual"})
    hold_id = await hold_of(ana, event_id, "A-1")
    await ana.post("/v1/bookings", order("sim_ok", hold_id=hold_id))
    await change(services, hold_id, to_status="confirmed", confirmed_at=sa.func.now())
    simulator.set_faults(down=True)
    await services.checkout.settler.settle(hold_id)
    assert await status_of(ana, hold_id) == ("confirmed", "held")

    simulator.set_faults()
    await settle_due_now(services)
    assert await status_of(ana, hold_id) == ("confirmed", "completed")


async def test_customer_with_a_live_booking_begins_no_payment_where_one_is_the_limit(
    ana: Person, olga: Person, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID | {"one_booking_per_customer": True})
    first = await ana.post("/v1/bookings", order("sim_ok", event_id=event_id, **claim("A-1")))
    second = await ana.post("/v1/bookings", order("sim_ok", event_id=event_id, **claim("A-2")))
    assert (first.status_code, second.status_code) == (201, 409)
    assert second.json()["limit"] == "one_booking_per_customer"
    assert len([p for p in simulator.ledger() if p["booking_id"].endswith(f"~{event_id}")]) == 1


async def test_booking_is_durable_when_it_answers_whatever_the_policy_says(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga, policy=PAID | {"durability": "redis"})
    response = await ana.post("/v1/bookings", order("sim_ok", event_id=event_id, **claim("A-1")))
    assert (response.status_code, response.json()["durable"]) == (201, True)


async def test_booking_that_costs_nothing_is_paid_for_without_asking_its_provider(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID, sections=[{"id": "floor", "price": 0, "capacity": 5}])
    body = order("sim_declined", event_id=event_id, **claim(floor=2))

    booked = await ana.post("/v1/bookings", body, idempotency_key="free")
    again = await ana.post("/v1/bookings", body, idempotency_key="free")

    assert booked.status_code == 201, booked.text
    booking = booked.json()
    assert (booking["status"], booking["payment_status"], booking["amount"]) == ("confirmed", "completed", 0)
    assert (again.status_code, again.json()["id"]) == (201, booking["id"])
    assert simulator.of(booking["id"]) == []
    cancelled = await ana.post(f"/v1/bookings/{booking['id']}/cancel", {})
    assert (cancelled.json()["status"], cancelled.json()["payment_status"]) == ("cancelled", "completed")
    await settle_due(services)
    assert simulator.of(booking["id"]) == []


async def test_booking_that_costs_nothing_is_made_though_postgres_goes_away_once_it_has_begun(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    event_id = await open_event(olga, policy=PAID, sections=[{"id": "floor", "price": 0, "capacity": 5}])
    body = order("sim_ok", event_id=event_id, **claim(floor=2))

    async def away(*_: object) -> None:
        raise LedgerUnavailable("a moment")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(services.checkout.store, "note", away)
        accepted = await ana.post("/v1/bookings", body, idempotency_key="free")
    assert (accepted.status_code, accepted.json()["status"]) == (202, "payment_initiated")
    async with driver_connection(services.bookings.engine) as connection:
        await connection.execute("UPDATE payments SET created_at = now() - interval '5 minutes'")
    await settle_due_now(services)

    assert await status_of(ana, accepted.json()["id"]) == ("confirmed", "completed")
    again = await ana.post("/v1/bookings", body, idempotency_key="free")
    assert (again.status_code, again.json()["id"]) == (201, accepted.json()["id"])
    assert simulator.of(accepted.json()["id"]) == []


async def test_payment_that_is_voided_before_its_booking_makes_room_for_another_one(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    """Set aside, then let go by the provider itself before the hold could be turned into a booking."""
    booking_id = await left_pending(ana, olga)
    (payment,) = await rows(services, "SELECT id FROM payments")
    store = services.checkout.store
    assert await store.note(booking_id, str(payment["id"]), Said(outcome="authorized"))
    assert await store.note(booking_id, str(payment["id"]), Said(outcome="voided"))

    response = await ana.post("/v1/bookings", order("sim_ok", hold_id=booking_id))

    assert (response.status_code, response.json()["payment_status"]) == (201, "completed"), response.text
    await services.checkout.settler.settle(booking_id)
    assert [one["status"] for one in simulator.of(booking_id)] == ["pending", "captured"]


async def test_booking_whose_payment_was_voided_before_it_ends_with_its_hold(
    ana: Person, olga: Person, services: Services
) -> None:
    booking_id = await left_pending(ana, olga)
    (payment,) = await rows(services, "SELECT id FROM payments")
    store = services.checkout.store
    await store.note(booking_id, str(payment["id"]), Said(outcome="authorized"))
    await store.note(booking_id, str(payment["id"]), Said(outcome="voided"))
    await lapse(services, booking_id)

    await settle_due(services)

    assert await status_of(ana, booking_id) == ("failed", "failed")
    assert await rows(services, "SELECT FROM payments WHERE check_at IS NOT NULL") == []


async def left_pending(ana: Person, olga: Person) -> str:
    """The id of a booking whose customer has not come back from their bank."""
    event_id = await open_event(olga, policy=PAID)
    response = await ana.post("/v1/bookings", order("sim_redirect", event_id=event_id, **claim("A-1")))
    assert response.status_code == 202, response.text
    booking_id: str = response.json()["id"]
    return booking_id


async def test_look_that_saw_the_booking_before_it_was_changed_leaves_the_next_look_due(
    ana: Person, olga: Person, services: Services, simulator: RunningSimulator
) -> None:
    """The case is read while the booking is cancelled, whose process dies then::

    look    reads the booking: confirmed          reads the payment    all is done: never look again
    cancel                               commit: due in ten seconds    (dies)
    """
    event_id = await open_event(olga, policy=PAID)
    response = await ana.post("/v1/bookings", order("sim_ok", event_id=event_id, **claim("A-1")))
    booking_id = response.json()["id"]
    store = services.checkout.store
    before = await store.read_case(booking_id)
    assert before is not None
    await cancelled_and_died(services, booking_id)
    after = await store.read_case(booking_id)
    assert after is not None

    async def torn(_: str) -> Any:
        return before[0], after[1], before[2]  # the booking as it was, the payment as it is

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "read_case", torn)
        await services.checkout.settler.settle(booking_id)

    assert len(await rows(services, "SELECT FROM payments WHERE check_at IS NOT NULL")) == 1
    await rows(services, "UPDATE payments SET check_at = now()")
    await settle_due(services)
    assert simulator.of(booking_id)[0]["refunded"] == 9000


async def cancelled_and_died(services: Services, booking_id: str) -> None:
    """A cancellation by the organizer whose process died right after its commit."""

    async def work(connection: AsyncConnection) -> None:
        row = await lock_booking(connection, booking_id)
        step = Step(to_status="cancelled", changes={"refunded": row["amount"], "cancelled_at": sa.func.now()})
        await take_step(connection, row, step, Actor("olga", "organizer", None))

    await in_transaction(services.bookings.engine, work)
