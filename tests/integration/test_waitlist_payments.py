"""Offers to people in line of an event that is sold against payment."""

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from api_app import Person, claim, composed, connected, open_event
from payment_lab import RunningSimulator, running_simulator, simulated

from api.services import Services


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
