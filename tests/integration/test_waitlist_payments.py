"""Offers to people in line of an event that is sold against payment."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from api_app import Person, claim, composed, connected, open_event
from payment_lab import RunningSimulator, running_simulator, simulated

from api.services import Services
from persistence.database import driver_connection
from persistence.schema import waitlist
from persistence.waitlist_entries import rows_to_settle

HELD_S = 1
SHORT = {"payment": "required", "offer_ttl": HELD_S, "hold_ttl_max": HELD_S, "hold_ttl": HELD_S, "payment_ttl": HELD_S}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
async def services(redis_url: str, database_url: str, simulator: RunningSimulator) -> AsyncIterator[Services]:
    async with httpx2.AsyncClient() as http:
        providers = {"simulator": simulated(simulator, http)}
        async with composed(redis_url, database_url, providers=providers, confirm_timeout_s=2.0) as opened:
            yield opened


async def test_offer_lives_on_when_its_payment_is_declined_and_is_booked_with_the_next(services: Services) -> None:
    async with connected(services) as client:
        ana, ben = Person(client, "ana", "customer"), Person(client, "ben", "customer")
        event_id = await open_event(Person(client, "olga", "organizer"), policy={"payment": "required"})
        hold_id = (await ben.post(f"/v1/events/{event_id}/holds", claim(floor=5))).json()["id"]
        path = f"/v1/waitlist/{(await ana.post(f'/v1/events/{event_id}/waitlist', claim(floor=1))).json()['id']}"
        await ben.delete(f"/v1/holds/{hold_id}")
        await services.waitlist.offer(event_id)

        declined = await ana.post(f"{path}/accept", {"payment": {"provider": "simulator", "method": "sim_declined"}})
        assert (declined.status_code, declined.json()["code"]) == (402, "payment-declined")
        assert (await services.waitlist.settle(path.rpartition("/")[2])).status == "offered"

        paid = await ana.post(f"{path}/accept", {"payment": {"provider": "simulator", "method": "sim_ok"}})
        assert paid.status_code == 201, paid.text
        assert (await ana.get(path)).json()["status"] == "booked"


async def settle_entries(services: Services) -> None:
    """What the reconciler's duty does, without waiting for its turn."""
    for condition in (~waitlist.c.settled, waitlist.c.status == "offered"):
        rows = await rows_to_settle(services.bookings.engine, condition, after=uuid.UUID(int=0), limit=100)
        for row in rows:
            await services.waitlist.settle_row(row)


@pytest.mark.parametrize(
    ("ends", "is_paid", "status"),
    [("by itself", True, "booked"), ("by itself", False, "expired"), ("by the customer", True, "cancelled")],
)
async def test_entry_whose_offer_is_over_hears_what_becomes_of_a_payment_that_is_open(
    services: Services, ends: str, is_paid: bool, status: str
) -> None:
    async with connected(services) as client:
        ana, ben = Person(client, "ana", "customer"), Person(client, "ben", "customer")
        event_id = await open_event(Person(client, "olga", "organizer"), policy=SHORT)
        hold_id = (await ben.post(f"/v1/events/{event_id}/holds", claim(floor=5))).json()["id"]
        entry_id = (await ana.post(f"/v1/events/{event_id}/waitlist", claim(floor=1))).json()["id"]
        path = f"/v1/waitlist/{entry_id}"
        await ben.delete(f"/v1/holds/{hold_id}")
        await services.waitlist.offer(event_id)
        order = {"payment": {"provider": "simulator", "method": "sim_redirect"}}
        url = (await ana.post(f"{path}/accept", order)).json()["redirect_url"]
        if ends == "by the customer":
            assert (await ana.delete(path)).status_code == 204
        await asyncio.sleep(HELD_S + 0.2)
        for _ in range(3):
            await settle_entries(services)
        assert (await ana.get(path)).json()["status"] == ("expired" if ends == "by itself" else "cancelled")

        if is_paid:
            httpx2.post(url)
        else:
            async with driver_connection(services.bookings.engine) as connection:  # nobody waits for it any longer
                await connection.execute("UPDATE bookings SET expires_at = now() - interval '2 hours'")
        await services.checkout.settler.settle(entry_id)
        await settle_entries(services)

        entry = (await ana.get(path)).json()
        assert (entry["status"], entry["booking_id"]) == (status, entry_id if status == "booked" else None)
        assert not await rows_to_settle(services.bookings.engine, ~waitlist.c.settled, after=uuid.UUID(int=0), limit=9)


async def offered(services: Services, ana: Person, ben: Person, olga: Person) -> tuple[str, str]:
    """An event that takes one booking per customer, and ana's entry, which has an offer."""
    policy = {"payment": "required", "one_booking_per_customer": True}
    event_id = await open_event(olga, policy=policy)
    hold_id = (await ben.post(f"/v1/events/{event_id}/holds", claim(floor=5))).json()["id"]
    entry_id: str = (await ana.post(f"/v1/events/{event_id}/waitlist", claim(floor=1))).json()["id"]
    await ben.delete(f"/v1/holds/{hold_id}")
    await services.waitlist.offer(event_id)
    return event_id, entry_id


def paid_with(method: str) -> dict[str, dict[str, str]]:
    return {"payment": {"provider": "simulator", "method": method}}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/waitlist/{}/decline", "declined"),
        ("DELETE", "/v1/waitlist/{}", "cancelled"),
        ("DELETE", "/v1/holds/{}", "declined"),
    ],
)
async def test_offer_let_go_after_a_declined_payment_ends_its_booking_and_leaves_its_customer_free_to_book(
    services: Services, method: str, path: str, status: str
) -> None:
    async with connected(services) as client:
        ana, ben = Person(client, "ana", "customer"), Person(client, "ben", "customer")
        event_id, entry_id = await offered(services, ana, ben, Person(client, "olga", "organizer"))
        declined = await ana.post(f"/v1/waitlist/{entry_id}/accept", paid_with("sim_declined"))
        assert declined.status_code == 402

        assert (await ana.call(method, path.format(entry_id))).status_code in (200, 204)

        booking = (await ana.get(f"/v1/bookings/{entry_id}")).json()
        assert (booking["status"], booking["payment_status"]) == ("failed", "failed")
        for _ in range(2):  # of a hold that was given back the entry has yet to hear
            await settle_entries(services)
        assert (await ana.get(f"/v1/waitlist/{entry_id}")).json()["status"] == status
        assert not await rows_to_settle(services.bookings.engine, ~waitlist.c.settled, after=uuid.UUID(int=0), limit=9)
        again = await ana.post("/v1/bookings", {"event_id": event_id} | claim(floor=1) | paid_with("sim_ok"))
        assert again.status_code == 201, again.text


async def test_offer_let_go_while_its_payment_is_open_ends_its_booking_once_the_bank_has_declined(
    services: Services,
) -> None:
    async with connected(services) as client:
        ana, ben = Person(client, "ana", "customer"), Person(client, "ben", "customer")
        _, entry_id = await offered(services, ana, ben, Person(client, "olga", "organizer"))
        begun = await ana.post(f"/v1/waitlist/{entry_id}/accept", paid_with("sim_redirect"))
        assert (await ana.post(f"/v1/waitlist/{entry_id}/decline")).status_code == 200
        assert (await ana.get(f"/v1/bookings/{entry_id}")).json()["status"] == "payment_initiated"  # it may be paid yet

        httpx2.post(begun.json()["redirect_url"], data={"outcome": "declined"})
        await services.checkout.settler.settle(entry_id)
        await settle_entries(services)  # as the reconciler does; it also comes where a process died in between

        assert (await ana.get(f"/v1/bookings/{entry_id}")).json()["status"] == "failed"
        assert not await rows_to_settle(services.bookings.engine, ~waitlist.c.settled, after=uuid.UUID(int=0), limit=9)
