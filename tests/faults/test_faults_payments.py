"""The payment provider is slow, fails, answers late or twice, and API processes die: the money fits the bookings."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from checker import Figures, check, fault
from crowd import WARM_UP, crowd_buying
from http_calls import NoAnswer
from on_sale import one_row
from payment_lab import SECRET, RunningSimulator, check_money, running_simulator
from rig import Rig, open_rig

from engine.ids import parse_claim_id
from holdfast.compose import open_parts

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

METHODS = (
    "sim_ok",
    "sim_ok",
    "sim_declined",
    "sim_slow_400",
    "sim_slow_4000",
    "sim_timeout",
    "sim_twice",
    "sim_late_ok",
)
BUYERS = 8
PAYMENT_TTL_S = 12  # of this test's events, so that what comes late comes within the test
SETTLED_S = 150.0  # past the holds, the look-ups' backoff, and the age at which an unheard payment is given up


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator"), "--seed", "16") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(directory: Path, shared_dir: Path, simulator: RunningSimulator) -> AsyncIterator[Rig]:
    """An installation that takes payments."""
    payments = {
        "HOLDFAST_PAYMENT_PROVIDERS": "simulator",
        "HOLDFAST_PAYMENT_SIMULATOR_URL": simulator.url,
        "HOLDFAST_PAYMENT_SIMULATOR_SECRETS": SECRET,
    }
    async with open_rig(directory, shared_dir=shared_dir, **payments) as opened:
        simulator.send_webhooks_to(f"{opened.urls[0]}/v1/payments/webhooks/simulator")
        yield opened


class Payers:
    """Customers who pay for a seat each, by any method, and repeat what was not answered."""

    def __init__(self, rig: Rig, event_id: str, seats: list[str]) -> None:
        self.codes: Counter[str] = Counter()
        self.acknowledged: list[str] = []
        self._rig = rig
        self._event_id = event_id
        self._seats = seats
        self._random = random.Random(16)
        self._stop = asyncio.Event()

    @contextlib.asynccontextmanager
    async def paying(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._pay_on(f"payer-{number}")) for number in range(BUYERS)]
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)

    async def _pay_on(self, customer: str) -> None:
        number = 0
        while not self._stop.is_set() and self._seats:
            number += 1
            await self._pay(f"{customer}-{number}", self._seats.pop(), self._random.choice(METHODS))

    async def _pay(self, customer: str, seat: str, method: str) -> None:
        body = {
            "event_id": self._event_id,
            "items": [{"section": "box", "seats": [seat]}],
            "payment": {"provider": "simulator", "method": method},
        }
        key = uuid4().hex
        for _ in range(20):
            try:
                answer = await self._rig.ask("POST", "/v1/bookings", customer=customer, body=body, key=key)
            except NoAnswer:
                self.codes["no answer"] += 1
                await asyncio.sleep(0.2)
                continue
            self.codes[str(answer.status)] += 1
            if answer.status == 201:
                self.acknowledged.append(answer.json()["id"])
            if answer.status < 500:
                return
            await asyncio.sleep(0.2)


async def test_nobody_pays_for_nothing_and_nobody_sits_unpaid_whatever_the_provider_does(
    rig: Rig, simulator: RunningSimulator, report: Callable[..., None]
) -> None:
    event = one_row("paid", 800)
    policy = {"payment": "required", "payment_ttl": PAYMENT_TTL_S, "hold_ttl": PAYMENT_TTL_S}
    await rig.put_on_sale([event.definition | {"policy": policy}])
    payers = Payers(rig, event.id, list(event.seats["box"]))

    async with crowd_buying(rig, "beside-payments", clients=2, pause_s=0.1) as crowd, payers.paying():
        await crowd.until_operations(WARM_UP // 4)
        with fault() as window:
            for faults in ({"delay_ms": 300}, {"fail_rate": 0.4}, {"down": True}, {"delay_ms": 3_000}, {}):
                simulator.set_faults(**faults)
                await asyncio.sleep(3.0)
                for worker in rig.apis[0].workers()[:1]:
                    worker.kill()
            simulator.set_faults()
        await asyncio.sleep(5.0)
    began = time.monotonic()
    counts = await _settled(rig, simulator, payers)
    settled_s = time.monotonic() - began

    figures = await check(rig, crowd, window)
    besides = (
        f"{counts['booked']} paid and booked, {counts['ended']} ended and given back, "
        f"{payers.codes['202']} answered 202, {payers.codes['402']} declined; all settled {settled_s:.0f} s later"
    )
    report(16, "payment provider slow, failing, late, twice", _with(figures, payers), besides)
    assert counts["waiting"] == 0
    assert counts["booked"] >= len(set(payers.acknowledged)) > 0


def _with(figures: Figures, payers: Payers) -> Figures:
    figures.operations += sum(payers.codes.values())
    figures.acknowledged += len(set(payers.acknowledged))
    return figures


async def _settled(rig: Rig, simulator: RunningSimulator, payers: Payers) -> dict[str, int]:
    """Wait until no payment is due any more, and compare: bookings, the provider's ledger, places."""
    async with open_parts(rig.settings) as parts:
        deadline = time.monotonic() + SETTLED_S
        while True:
            waiting = await rig.database.value(
                "SELECT count(*) FROM payments JOIN bookings ON bookings.id = booking_id"
                " WHERE check_at IS NOT NULL OR status = 'payment_initiated'"
            )
            if waiting == 0:
                break
            assert time.monotonic() < deadline, f"{waiting} payments are not settled"
            await asyncio.sleep(0.5)
        counts = await check_money(parts.database, simulator)
    rows = await rig.database.fetch("SELECT id, status FROM bookings WHERE payment_status <> 'none'")
    status = {row["id"]: row["status"] for row in rows}
    lost = [one for one in payers.acknowledged if status.get(_uuid(one)) != "confirmed"]
    assert lost == [], "acknowledged, and not booked"
    return counts


def _uuid(booking_id: str) -> Any:
    key = parse_claim_id(booking_id)
    assert key is not None
    return key.uuid
