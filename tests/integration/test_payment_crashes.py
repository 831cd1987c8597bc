"""Whoever pays dies in between, at every point there is; the reconciler finds what it left and brings it to an end.

A crash is an exception that nothing catches, on its way out of the process's last step; what comes later is done by
another process's parts, which know nothing but what is in Postgres, in Redis and at the provider.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
from api_app import DATA_KEY, Person, claim, composed, connected, open_event
from payment_lab import RunningSimulator, check_money, running_simulator, simulated

from api.services import Services
from engine.bookings import BookingDetails
from engine.payments import Charge
from persistence.checkout import Decided
from persistence.database import driver_connection
from persistence.payment_beginning import Order, begin_payment, new_payment_id
from persistence.sealing import AesSealer


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
async def services(redis_url: str, database_url: str, simulator: RunningSimulator) -> AsyncIterator[Services]:
    simulator.forget()
    async with httpx2.AsyncClient() as http:
        providers = {"simulator": simulated(simulator, http)}
        async with composed(redis_url, database_url, providers=providers) as opened:
            yield opened


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx2.AsyncClient]:
    async with connected(services) as opened:
        yield opened


def crashing(target: Any, name: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process die before or after its first call of *name*."""
    real = getattr(target, name)

    async def die(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            await real(*args, **kwargs)
        raise Crash(name)

    def dying(*args: Any, **kwargs: Any) -> asyncio.Future[Any]:  # as the ledger's commit is one
        return asyncio.ensure_future(die(*args, **kwargs))

    monkeypatch.setattr(target, name, dying)


POINTS: list[tuple[str, Callable[[Services], Any]]] = [
    ("authorize", lambda services: services.checkout.providers["simulator"]),
    ("note", lambda services: services.checkout.store),
    ("_book", lambda services: services.checkout.settler),
    ("commit", lambda services: services.reservations._ledger),
    ("capture", lambda services: services.checkout.providers["simulator"]),
    ("say", lambda services: services.checkout.store),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "of"), POINTS, ids=[name for name, *_ in POINTS])
async def test_payment_is_brought_to_an_end_wherever_its_process_died(
    name: str,
    of: Callable[[Services], Any],
    when: str,
    client: httpx2.AsyncClient,
    services: Services,
    simulator: RunningSimulator,
) -> None:
    booking_id = await _held(client)
    with pytest.MonkeyPatch.context() as monkeypatch:
        crashing(of(services), name, when, monkeypatch)
        with pytest.raises(Crash):
            await _carry_out(services, booking_id)

    await _come_back(services)

    status = await _value(services, "SELECT status FROM bookings")
    if (name, when) == ("authorize", "before"):
        assert (status, simulator.of(booking_id)) == ("payment_initiated", [])
        assert await _value(services, "SELECT state FROM payments") == "voided"
    else:
        assert status == "confirmed"
        assert [payment["status"] for payment in simulator.of(booking_id)] == ["captured"]
    await check_money(services.bookings.engine, simulator)


STRAIGHT_POINTS: list[tuple[str, Callable[[Services], Any]]] = [
    ("authorize", lambda services: services.checkout.providers["simulator"]),
    ("book", lambda services: services.checkout._straight),
    ("commit", lambda services: services.reservations._ledger),
    ("capture", lambda services: services.checkout.providers["simulator"]),
    ("take", lambda services: services.checkout._straight),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "of"), STRAIGHT_POINTS, ids=[name for name, *_ in STRAIGHT_POINTS])
async def test_payment_on_the_straight_way_is_brought_to_an_end_wherever_its_process_died(
    name: str,
    of: Callable[[Services], Any],
    when: str,
    client: httpx2.AsyncClient,
    services: Services,
    simulator: RunningSimulator,
) -> None:
    booking_id = await _held(client)
    with pytest.MonkeyPatch.context() as monkeypatch:
        crashing(of(services), name, when, monkeypatch)
        with pytest.raises(Crash):
            await _carry_out(services, booking_id, straight=True)

    await _come_back(services)

    if (name, when) == ("authorize", "before"):
        assert await _value(services, "SELECT state FROM payments") == "voided"
    else:
        assert await _value(services, "SELECT payment_status FROM bookings") == "completed"
        assert [payment["status"] for payment in simulator.of(booking_id)] == ["captured"]
    await check_money(services.bookings.engine, simulator)


FREE_POINTS: list[tuple[str, Callable[[Services], Any]]] = [
    ("_authorize", lambda services: services.checkout),
    ("note", lambda services: services.checkout.store),
    ("_book", lambda services: services.checkout.settler),
    ("commit", lambda services: services.reservations._ledger),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "of"), FREE_POINTS, ids=[name for name, *_ in FREE_POINTS])
async def test_booking_that_costs_nothing_is_made_wherever_its_process_died(
    name: str,
    of: Callable[[Services], Any],
    when: str,
    client: httpx2.AsyncClient,
    services: Services,
    simulator: RunningSimulator,
) -> None:
    """No provider knows of its payment, so that none can tell whoever comes later that nothing is in the way."""
    booking_id = await _held(client, price=0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        crashing(of(services), name, when, monkeypatch)
        with pytest.raises(Crash):
            await _carry_out(services, booking_id, straight=True)

    await _come_back(services)

    async with driver_connection(services.bookings.engine) as connection:
        (booking,) = await connection.fetch("SELECT status, payment_status FROM bookings")
        (payment,) = await connection.fetch("SELECT state, chosen FROM payments")
    assert (*booking, *payment) == ("confirmed", "completed", "captured", True)
    assert simulator.of(booking_id) == []


async def test_payment_that_was_let_go_before_its_booking_was_written_does_not_buy_it(
    client: httpx2.AsyncClient, services: Services, simulator: RunningSimulator
) -> None:
    booking_id = await _held(client)
    real = services.checkout._straight.book

    async def book(*args: Any) -> Any:
        """Meanwhile somebody else has taken the payment for an abandoned one."""
        charge = Charge(
            key=simulator.of(booking_id)[0]["key"],
            booking_id=booking_id,
            method="sim_ok",
            amount=9000,
            currency="EUR",
            expires_at=dt.datetime.now(dt.UTC),
        )
        said = await services.checkout.providers["simulator"].void(charge)
        assert await services.checkout.store.note(booking_id, charge.key, said)
        return await real(*args)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(services.checkout._straight, "book", book)
        await _carry_out(services, booking_id, straight=True)

    assert await _value(services, "SELECT status FROM bookings") == "payment_initiated"
    assert await _value(services, "SELECT count(*) FROM claims") == 0
    await check_money(services.bookings.engine, simulator)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("open_refund", lambda services: services.checkout.store),
        ("refund", lambda services: services.checkout.providers["simulator"]),
        ("finish_refund", lambda services: services.checkout.store),
    ],
)
async def test_refund_is_made_once_wherever_its_process_died(
    name: str,
    of: Callable[[Services], Any],
    when: str,
    client: httpx2.AsyncClient,
    services: Services,
    simulator: RunningSimulator,
) -> None:
    booking_id = await _held(client)
    await _carry_out(services, booking_id)
    async with driver_connection(services.bookings.engine) as connection:
        await connection.execute("UPDATE bookings SET refunded = 4000")
    with pytest.MonkeyPatch.context() as monkeypatch:
        crashing(of(services), name, when, monkeypatch)
        with pytest.raises(Crash):
            await services.checkout.settler.settle(booking_id)

    await _come_back(services)

    assert simulator.of(booking_id)[0]["refunded"] == 4000
    assert await _value(services, "SELECT payment_status FROM bookings") == "partially_refunded"
    await check_money(services.bookings.engine, simulator)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["end", "void"])
async def test_money_is_let_go_wherever_the_process_died_that_ended_its_booking(
    name: str, when: str, client: httpx2.AsyncClient, services: Services, simulator: RunningSimulator
) -> None:
    booking_id = await _held(client, late_payment="refund")
    ana = Person(client, "ana", "customer")
    real = services.checkout.providers["simulator"].authorize

    async def authorize(charge: Any) -> Any:
        """Meanwhile the customer gives the hold back."""
        assert (await ana.delete(f"/v1/holds/{booking_id}")).status_code == 204
        return await real(charge)

    target = services.checkout.store if name == "end" else services.checkout.providers["simulator"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(services.checkout.providers["simulator"], "authorize", authorize)
        crashing(target, name, when, monkeypatch)
        with pytest.raises(Crash):
            await _carry_out(services, booking_id)

    await _come_back(services)

    assert await _value(services, "SELECT status FROM bookings") == "expired"
    assert [payment["status"] for payment in simulator.of(booking_id)] == ["voided"]
    await check_money(services.bookings.engine, simulator)


async def _held(client: httpx2.AsyncClient, *, price: int = 9000, **policy: Any) -> str:
    """The id of a hold whose payment has been written down, and not been asked for yet."""
    olga, ana = Person(client, "olga", "organizer"), Person(client, "ana", "customer")
    stalls = {"id": "stalls", "price": price, "rows": [{"id": "A", "seats": "1-6"}]}
    event_id = await open_event(olga, policy={"payment": "required"} | policy, sections=[stalls])
    held = await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))
    hold_id: str = held.json()["id"]
    return hold_id


async def _carry_out(services: Services, hold_id: str, *, straight: bool = False) -> None:
    """As a request does, up to its end or the crash's; without *straight* step by step, as the reconciler goes."""
    hold = await services.reservations.begin_payment(hold_id, customer_id="ana")
    order = Order(
        hold_id=hold_id,
        hold=hold,
        details=BookingDetails(payment_id=new_payment_id()),
        customer_id="ana",
        provider="simulator",
        method="sim_ok",
        once=None,
    )
    begun = await begin_payment(services.bookings.engine, AesSealer([DATA_KEY]), order)
    assert begun.charge is not None
    await services.checkout._carry_out(hold_id, "simulator", begun.charge, Decided(), order if straight else None)


async def _come_back(services: Services) -> None:
    """Somebody else looks at what is due, when the time for it has come."""
    for _ in range(2):
        async with driver_connection(services.bookings.engine) as connection:
            await connection.execute("UPDATE payments SET created_at = created_at - interval '5 minutes'")
            await connection.execute("UPDATE payments SET check_at = now() WHERE check_at IS NOT NULL")
        for booking_id in await services.checkout.store.take_due(limit=10):
            await services.checkout.settler.settle(booking_id)


async def _value(services: Services, statement: str) -> Any:
    async with driver_connection(services.bookings.engine) as connection:
        return await connection.fetchval(statement)
