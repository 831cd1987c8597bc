"""Dead letters of bookings that were paid for: what the ledger has of them decides, and the money follows."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest
import redis
from api_app import Person, claim, composed, connected, open_event
from payment_lab import RunningSimulator, check_money, running_simulator, simulated

from api.services import Services
from engine.dead_letters import DeadLetter, scan_letters
from engine.ids import BookingId
from engine.kernel import Kernel
from engine.keys import event_key
from engine.mending import Discarded, Retried, give_up, retry
from engine.payments import Charge
from engine.ports import Standing
from persistence.database import driver_connection
from persistence.ledger import GIVEN_UP_REASON

PAID = {"payment": "required", "late_payment": "refund"}
# Bookings may begin, and none may be confirmed.
NOBODY = "ALTER TABLE bookings ADD CONSTRAINT nobody CHECK (status <> 'confirmed') NOT VALID"
EVERYBODY = "ALTER TABLE bookings DROP CONSTRAINT nobody"


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


class Scene:
    """Ana's booking of A-1: paid for, accepted by Redis, and buried because Postgres would not have it."""

    def __init__(self, services: Services, simulator: RunningSimulator, redis_url: str, event_id: str) -> None:
        self.event_id = event_id
        self.booking_id = BookingId("")
        self.services = services
        self.ledger = services.reservations._ledger
        self.kernel: Kernel = services.reservations._kernel
        self.store = redis.Redis.from_url(redis_url)
        self.simulator = simulator

    async def execute(self, statement: str) -> Any:
        async with driver_connection(self.services.bookings.engine) as connection:
            return await connection.fetchval(statement)

    async def letters(self) -> list[DeadLetter]:
        return [letter for partition in range(4) async for letter in scan_letters(self.kernel, partition)]

    async def letter(self) -> DeadLetter:
        (letter,) = await self.letters()
        return letter

    async def lose_the_payment(self) -> None:
        """The bank lets the money go, the hold's time is over, and the reconciler ends the booking."""
        (payment,) = self.simulator.of(self.booking_id)
        charge = Charge(
            key=payment["key"],
            booking_id=self.booking_id,
            method="sim_ok",
            amount=payment["amount"],
            currency="EUR",
            expires_at=await self.execute("SELECT expires_at FROM bookings"),
        )
        said = await self.services.checkout.providers["simulator"].void(charge)
        await self.services.checkout.store.note(self.booking_id, charge.key, said)
        await self.execute("UPDATE bookings SET expires_at = now() - interval '2 hours'")
        await self.settle()
        assert await self.status() == "failed"

    async def settle(self) -> None:
        """What the reconciler does about payments, with nothing to wait for."""
        await self.execute("UPDATE payments SET check_at = now() - interval '1 second'")
        for booking_id in await self.services.checkout.store.take_due(limit=10):
            await self.services.checkout.settler.settle(booking_id)

    async def build_anew(self) -> None:
        """Redis forgets the event, and has it again under another epoch."""
        event = await self.services.reservations._catalog.get(self.event_id)
        self.store.delete(event_key(self.kernel.partition_of(event), self.event_id, "state"))
        await self.services.reservations.availability(self.event_id)

    async def retry(self, letter: DeadLetter) -> Retried:
        reservations = self.services.reservations
        retried = await retry(
            self.kernel,
            reservations._settlement,
            reservations._catalog,
            self.ledger,
            letter,
            accept_again=reservations.accept_again,
        )
        await reservations._settlement.close()
        return retried

    async def discard(self, letter: DeadLetter, ledger: Any = None) -> Discarded:
        return await give_up(self.kernel, ledger or self.ledger, letter)

    async def status(self) -> str:
        return str(await self.execute("SELECT status FROM bookings"))

    async def free_seats(self) -> int:
        seen = await self.services.reservations.availability(self.event_id)
        return next(section.free for section in seen.sections if section.id == "stalls")

    async def check(self, *, booked: bool) -> None:
        """Redis and ledger agree, money and places too, and no letter is left."""
        for _ in range(2):
            await self.settle()
        assert await self.free_seats() == (5 if booked else 6)
        assert await self.letters() == []
        assert dict((await self.services.oversight.audit(None)).by_kind) == {}
        told = await check_money(self.services.bookings.engine, self.simulator)
        assert (told["booked"], told["ended"]) == (booked, not booked)


@pytest.fixture
async def scene(services: Services, simulator: RunningSimulator, redis_url: str) -> AsyncIterator[Scene]:
    async with connected(services) as client:
        olga, ana = Person(client, "olga", "organizer"), Person(client, "ana", "customer")
        scene = Scene(services, simulator, redis_url, await open_event(olga, policy=PAID))
        await scene.execute("ALTER TABLE bookings DROP CONSTRAINT IF EXISTS nobody")
        await scene.execute(NOBODY)
        held = (await ana.post(f"/v1/events/{scene.event_id}/holds", claim("A-1"))).json()
        order = {"hold_id": held["id"], "payment": {"provider": "simulator", "method": "sim_ok"}}
        assert (await ana.post("/v1/bookings", order)).status_code == 202
        scene.booking_id = BookingId(held["id"])
        assert (await scene.letter()).booking_id == scene.booking_id
        assert (await scene.status(), await scene.free_seats()) == ("payment_initiated", 5)
        await scene.execute(EVERYBODY)
        yield scene


@pytest.mark.parametrize("forgets", [False, True], ids=["known to redis", "built anew"])
async def test_retry_writes_a_booking_that_still_waits_for_its_payment(scene: Scene, forgets: bool) -> None:
    if forgets:
        await scene.build_anew()
        assert await scene.free_seats() == 6

    retried = await scene.retry(await scene.letter())

    assert (retried.outcome, await scene.status()) == ("written", "confirmed")
    await scene.check(booked=True)


@pytest.mark.parametrize("forgets", [False, True], ids=["known to redis", "built anew"])
async def test_retry_of_a_booking_whose_payment_failed_is_refused_and_not_told_as_written(
    scene: Scene, forgets: bool
) -> None:
    await scene.lose_the_payment()
    if forgets:
        await scene.build_anew()

    retried = await scene.retry(await scene.letter())

    assert (retried.outcome, "HoldExpired" in str(retried.reason)) == ("refused", True)
    assert await scene.status() == "failed"
    await scene.check(booked=False)


@pytest.mark.parametrize("forgets", [False, True], ids=["known to redis", "built anew"])
async def test_discarding_a_booking_whose_payment_failed_frees_its_places(scene: Scene, forgets: bool) -> None:
    await scene.lose_the_payment()
    if forgets:
        await scene.build_anew()
    letter = await scene.letter()

    assert await scene.discard(letter) == Discarded(letter.journal_id, scene.booking_id, "discarded", not forgets)

    await scene.check(booked=False)


async def test_discarding_a_booking_that_waits_for_its_payment_ends_it_and_lets_its_money_go(scene: Scene) -> None:
    letter = await scene.letter()

    assert (await scene.discard(letter)).freed

    assert await scene.status() == "failed"
    assert await scene.execute("SELECT reason FROM history ORDER BY version DESC LIMIT 1") == GIVEN_UP_REASON
    await scene.check(booked=False)
    assert [payment["status"] for payment in scene.simulator.of(scene.booking_id)] == ["voided"]


@pytest.mark.parametrize("decision", ["retry", "discard"])
async def test_letter_whose_booking_the_settling_of_its_payment_has_written_is_but_a_letter(
    scene: Scene, decision: str
) -> None:
    await scene.settle()
    letter = await scene.letter()

    if decision == "retry":
        assert (await scene.retry(letter)).outcome == "written"
    else:
        assert await scene.discard(letter) == Discarded(letter.journal_id, scene.booking_id, "discarded", freed=False)

    assert await scene.status() == "confirmed"
    await scene.check(booked=True)


class LedgerAndSomebodyElse:
    """The real ledger, and what somebody else does before, or after, it ends a booking that waits."""

    def __init__(self, scene: Scene, *, before: bool, meanwhile: Callable[[], Awaitable[Any]]) -> None:
        self._ledger = scene.ledger
        self._before = before
        self._meanwhile = meanwhile

    async def end_waiting(self, booking_id: BookingId) -> bool:
        if self._before:
            await self._meanwhile()
        ended = await self._ledger.end_waiting(booking_id)
        if not self._before:
            await self._meanwhile()
        return ended

    async def find_standing(self, booking_id: BookingId) -> Standing:
        return await self._ledger.find_standing(booking_id)


@pytest.mark.parametrize("forgets", [False, True], ids=["known to redis", "built anew"])
@pytest.mark.parametrize("before", [True, False], ids=["retry first", "discard first"])
async def test_of_a_discard_and_a_retry_that_meet_at_a_waiting_booking_one_has_its_way(
    scene: Scene, before: bool, forgets: bool
) -> None:
    if forgets:
        await scene.build_anew()
    letter, retried = await scene.letter(), []

    async def meanwhile() -> None:
        retried.append(await scene.retry(letter))

    discarded = await scene.discard(letter, LedgerAndSomebodyElse(scene, before=before, meanwhile=meanwhile))

    outcomes = (retried[0].outcome, discarded.outcome)
    assert outcomes == (("written", "gone") if before else ("refused", "discarded"))
    await scene.check(booked=before)


async def test_discard_does_not_free_what_the_settling_of_the_payment_has_written_meanwhile(scene: Scene) -> None:
    letter = await scene.letter()

    discarded = await scene.discard(letter, LedgerAndSomebodyElse(scene, before=True, meanwhile=scene.settle))

    assert (discarded.freed, await scene.status()) == (False, "confirmed")
    await scene.check(booked=True)
