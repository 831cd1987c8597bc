"""The reconciler settles payments that nobody else comes back to; and what the desk does is followed by the money."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import structlog
from api_app import Person, claim, composed, connected, open_event
from payment_lab import SECRET, RunningSimulator, check_money, running_simulator, simulated, until
from reconciling import Installation, reconciling

from api.services import Services
from engine.bookings import BookingDetails
from engine.definition import Policy
from engine.errors import InvalidRequest
from engine.lifecycle import SYSTEM
from holdfast.compose import make_equipment, open_parts
from holdfast.settings import Settings, load_settings
from persistence.booking_desk import Order
from persistence.reconciling.findings import Findings
from persistence.reconciling.settle import Settle
from persistence.reconciling.single_round import SingleRound
from persistence.trouble_checks import examine_trouble

pytest_plugins = ("ledger_fixtures",)

PAID = {"payment": "required"}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
def settings(
    redis_url: str,
    fresh_database: Callable[..., str],
    migrated_database: str,
    tmp_path: Path,
    simulator: RunningSimulator,
) -> Settings:
    simulator.forget()
    return load_settings(
        {
            "REDIS_URL": redis_url,
            "DATABASE_URL": fresh_database(template=migrated_database),
            "HOLDFAST_DATA_DIR": str(tmp_path),
            "HOLDFAST_PARTITIONS": "8",
            "HOLDFAST_CONFIRM_TIMEOUT": "0.5",
            "HOLDFAST_PAYMENT_PROVIDERS": "simulator",
            "HOLDFAST_PAYMENT_SIMULATOR_URL": simulator.url,
            "HOLDFAST_PAYMENT_SIMULATOR_SECRETS": SECRET,
        }
    )


async def left_unknown(settings: Settings, event_id: str = "gig") -> str:
    """The id of a booking whose process died before it had heard of its payment, which was authorized."""
    async with open_parts(settings) as parts:
        shop = Installation(parts, settings)
        await shop.open_event(event_id, policy=Policy(payment="required"))
        hold_id = await shop.hold(event_id)
        paid = await parts.checkout.pay(
            hold_id, BookingDetails(), customer_id="ana", provider="simulator", method="sim_timeout"
        )
        assert paid.booking.status == "payment_initiated"
        await shop.postgres("UPDATE payments SET check_at = now()")
        return hold_id


async def test_reconciler_finds_the_payment_of_a_process_that_is_gone(
    settings: Settings, simulator: RunningSimulator
) -> None:
    booking_id = await left_unknown(settings)
    async with open_parts(settings) as parts, reconciling(settings):
        shop = Installation(parts, settings)

        async def is_booked() -> bool:
            return await shop.status_of(booking_id) == "confirmed"

        await until(is_booked)
        await until(_is_captured(simulator, booking_id))
        await check_money(parts.database, simulator)


async def test_of_several_reconcilers_each_payment_falls_to_one(
    settings: Settings, simulator: RunningSimulator
) -> None:
    booking_ids = [await left_unknown(settings, f"gig-{number}") for number in range(3)]
    async with open_parts(settings) as parts:
        store = parts.checkout.store
        taken = await asyncio.gather(*[store.take_due(limit=10) for _ in range(5)])
        assert sorted(one for some in taken for one in some) == sorted(booking_ids)
        await asyncio.gather(*[parts.checkout.settler.settle(one) for one in booking_ids * 3])
        assert (await check_money(parts.database, simulator))["booked"] == 3


async def test_single_round_settles_what_is_due_and_a_dry_one_only_says_so(settings: Settings) -> None:
    booking_id = await left_unknown(settings)
    async with open_parts(settings) as parts:
        shop, equipment = Installation(parts, settings), make_equipment(parts, settings)
        assert (await SingleRound(equipment, dry_run=True).run()).settled == 1
        assert await shop.status_of(booking_id) == "payment_initiated"
        assert (await SingleRound(equipment, dry_run=False).run()).settled == 1
        assert await shop.status_of(booking_id) == "confirmed"


def _is_captured(simulator: RunningSimulator, booking_id: str) -> Any:
    async def look() -> bool:
        return [payment["status"] for payment in simulator.of(booking_id)] == ["captured"]

    return look


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


async def paid_booking(client: httpx2.AsyncClient, **policy: Any) -> dict[str, Any]:
    event_id = await open_event(Person(client, "olga", "organizer"), policy=PAID | policy)
    order = {"payment": {"provider": "simulator", "method": "sim_ok"}, "event_id": event_id}
    response = await Person(client, "ana", "customer").post("/v1/bookings", order | claim("A-1"))
    assert response.status_code == 201, response.text
    booking: dict[str, Any] = response.json()
    return booking


async def test_approval_takes_the_money_that_was_set_aside(
    client: httpx2.AsyncClient, services: Services, simulator: RunningSimulator
) -> None:
    booking = await paid_booking(client, approval="manual")
    assert (booking["status"], booking["payment_status"]) == ("pending", "held")
    olga = Person(client, "olga", "organizer")
    response = await olga.post(f"/v1/bookings/{booking['id']}/approve", {})
    assert response.status_code == 200, response.text
    assert (response.json()["status"], response.json()["payment_status"]) == ("confirmed", "completed")
    assert simulator.of(booking["id"])[0]["captured"] == 9000
    await check_money(services.bookings.engine, simulator)


async def test_rejection_lets_the_money_go(
    client: httpx2.AsyncClient, services: Services, simulator: RunningSimulator
) -> None:
    booking = await paid_booking(client, approval="manual")
    olga = Person(client, "olga", "organizer")
    response = await olga.post(f"/v1/bookings/{booking['id']}/reject", {"organizer_notes": "fully booked"})
    assert response.status_code == 200, response.text
    told = response.json()
    assert (told["status"], told["payment_status"], told["refunded"]) == ("rejected", "refunded", 9000)
    statistics = (await olga.get(f"/v1/events/{booking['event_id']}/statistics")).json()
    assert (statistics["rejected"], statistics["revenue"], statistics["refunded"]) == (1, 0, 9000)
    assert simulator.of(booking["id"])[0]["status"] == "voided"
    await check_money(services.bookings.engine, simulator)


async def test_request_that_nobody_decided_on_lets_the_money_go(
    client: httpx2.AsyncClient, services: Services, simulator: RunningSimulator
) -> None:
    booking = await paid_booking(client, approval="manual")
    expired = await services.desk.expire(booking["id"], Order(admit=lambda _: SYSTEM), reason="nobody decided")
    ended = expired.booking
    assert (ended.status, ended.payment_status, ended.refunded) == ("expired", "refunded", 9000)
    assert simulator.of(booking["id"])[0]["status"] == "voided"
    await check_money(services.bookings.engine, simulator)


@pytest.mark.parametrize(
    ("who", "roles", "percent", "given_back", "payment_status"),
    [("ana", "customer", 50, 4500, "partially_refunded"), ("olga", "organizer", 50, 9000, "refunded")],
)
async def test_cancellation_gives_back_what_it_grants(
    who: str,
    roles: str,
    percent: int,
    given_back: int,
    payment_status: str,
    client: httpx2.AsyncClient,
    services: Services,
    simulator: RunningSimulator,
) -> None:
    booking = await paid_booking(client, refunds=[{"hours_before": 0, "percent": percent}])
    person = Person(client, who, roles)
    response = await person.post(f"/v1/bookings/{booking['id']}/cancel", {"reason": "ill"})
    assert response.status_code == 200, response.text
    assert (response.json()["status"], response.json()["payment_status"]) == ("cancelled", payment_status)
    assert simulator.of(booking["id"])[0]["refunded"] == given_back
    await check_money(services.bookings.engine, simulator)


async def test_receiver_of_a_paid_booking_may_cancel_it_and_the_money_goes_back_to_who_paid(
    client: httpx2.AsyncClient, services: Services, simulator: RunningSimulator
) -> None:
    booking = await paid_booking(client)
    path = f"/v1/bookings/{booking['id']}"
    ana, ben = Person(client, "ana", "customer"), Person(client, "ben", "customer")
    assert (await ana.post(f"{path}/transfer", {"customer_id": "ben"})).status_code == 200
    assert (await ana.post(f"{path}/cancel", {})).status_code == 404

    cancelled = await ben.post(f"{path}/cancel", {})

    assert cancelled.status_code == 200, cancelled.text
    assert (cancelled.json()["refunded"], cancelled.json()["payment_status"]) == (9000, "refunded")
    (payment,) = simulator.of(booking["id"])  # the one that ana made: there is no other
    assert (payment["captured"], payment["refunded"]) == (9000, 9000)
    await check_money(services.bookings.engine, simulator)


async def test_reconciler_leaves_payments_of_providers_that_it_has_not_to_those_which_have_them(
    settings: Settings, simulator: RunningSimulator
) -> None:
    booking_id = await left_unknown(settings)
    blind = msgspec.structs.replace(settings, payment_providers=())
    async with open_parts(blind) as parts:
        shop, equipment = Installation(parts, blind), make_equipment(parts, blind)
        await shop.postgres("UPDATE payments SET check_at = now() - interval '2 minutes'")
        before = await shop.postgres("SELECT check_at, tries FROM payments")
        assert (await SingleRound(equipment, dry_run=True).run()).settled == 0
        assert (await SingleRound(equipment, dry_run=False).run()).settled == 0
        await parts.checkout.settler.settle(booking_id)  # as a step of the booking's life does
        assert await shop.postgres("SELECT check_at, tries FROM payments") == before
        with structlog.testing.capture_logs() as logs:
            await Settle(equipment, Findings()).tell_stranded()
        assert [(line["log_level"], line["providers"]) for line in logs] == [("error", ["simulator"])]
    async with open_parts(settings) as parts:
        shop, equipment = Installation(parts, settings), make_equipment(parts, settings)
        assert await equipment.payments.find_stranded() == []
        assert (await SingleRound(equipment, dry_run=False).run()).settled == 1
        assert await shop.status_of(booking_id) == "confirmed"


async def test_reconciler_without_the_provider_that_came_first_keeps_no_other_from_settling(
    settings: Settings, simulator: RunningSimulator
) -> None:
    booking_id = await left_unknown(settings)
    blind = msgspec.structs.replace(settings, payment_providers=())
    async with open_parts(settings) as parts, reconciling(blind) as first:
        shop = Installation(parts, settings)

        async def has_the_first_partition() -> bool:
            return 0 in first.owned

        async def is_booked() -> bool:
            return await shop.status_of(booking_id) == "confirmed"

        await until(has_the_first_partition)
        async with reconciling(settings):
            await until(is_booked)


async def test_installation_without_provider_says_so_to_who_opens_an_event_and_to_who_pays(settings: Settings) -> None:
    async with open_parts(msgspec.structs.replace(settings, payment_providers=())) as parts:
        shop = Installation(parts, settings)
        event = await shop.open_event("gig", policy=Policy(payment="required"))
        with structlog.testing.capture_logs() as logs:
            parts.checkout.warn_if_unpayable(event.event)
        assert [(line["log_level"], line["event_id"]) for line in logs] == [("warning", "gig")]
        with pytest.raises(InvalidRequest) as refused:
            parts.checkout.require_provider("simulator")
        assert "no payment provider configured (HOLDFAST_PAYMENT_PROVIDERS)" in refused.value.reason


async def test_doctor_tells_payments_that_are_stuck_refunds_for_a_person_and_events_nobody_can_pay_for(
    settings: Settings, simulator: RunningSimulator
) -> None:
    await left_unknown(settings)
    async with open_parts(settings) as parts:
        shop = Installation(parts, settings)
        told = {one.subject: one.verdict for one in await examine_trouble(parts.database, providers=["simulator"])}
        assert set(told.values()) == {"ok"}
        await shop.postgres("UPDATE payments SET check_at = now() - interval '5 minutes'")
        await shop.postgres(
            "INSERT INTO refunds (id, payment_id, booking_id, amount, state, created_at, updated_at)"
            " SELECT gen_random_uuid(), id, booking_id, 1, 'refused', now(), now() FROM payments"
        )
        told = {one.subject: one.verdict for one in await examine_trouble(parts.database, providers=())}
        for subject in ("payments", "refunds", "payment providers"):
            assert told[subject] == "warning", told
        assert told["webhooks"] == "ok"
        await shop.postgres(
            "WITH made AS (INSERT INTO sinks (name, kind, target, types, created_at)"
            " VALUES ('crm', 'webhook', 'https://crm', '{}', now()) RETURNING id)"
            " INSERT INTO deliveries (sink_id, outbox_id, booking_id, queued_at, due_at, attempts, error)"
            " SELECT id, 1, gen_random_uuid(), now(), now(), 9, 'away' FROM made"
        )
        told = {one.subject: one.verdict for one in await examine_trouble(parts.database, providers=())}
        assert told["webhooks"] == "warning"
