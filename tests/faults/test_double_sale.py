"""A real run in which places are sold twice: the checker of histories must see it, and nothing when they are not."""

import random
from collections.abc import Awaitable
from typing import Any

import pytest
from ledger_lab import Lab
from linearizability import Verdict, check_history
from mutants import claims_in_the_way_are_not_looked_at
from recording import Op, Operation, Place, Recording, now
from script_mutants import mutated
from shops import Shop, at_once, claim, open_shops

import lua
from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.errors import HoldRefusal, PlacesUnavailable

pytest_plugins = ["ledger_fixtures"]
pytestmark = pytest.mark.short

CLIENTS = 12
ERRANDS = 6  # of each client: in all about as many as there are places, which are all fought for
DETAILS = BookingDetails(guest={"name": "Ana"})


async def test_a_run_of_the_real_scripts_can_have_happened(redis_url: str, lab: Lab) -> None:
    verdict = await _judged_run(redis_url, lab)

    print(verdict)
    assert verdict.findings == []
    assert verdict.operations > 40  # what ended in time is not the same in any two runs


async def test_a_planted_double_sale_is_found(redis_url: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = {
        "hold_places": mutated(
            "hold_places",
            ("if sold[i] then", "if false then"),
            ("redis.call('GETBIT', KEYS[3], cell) == 1", "false"),
        ),
        "book_places": mutated("book_places", ("if sold[i] then", "if false then")),
    }  # fmt: skip
    load = lua.load
    monkeypatch.setattr(lua, "load", lambda name: blind.get(name) or load(name))
    claims_in_the_way_are_not_looked_at(monkeypatch)  # or the ledger would refuse the second one

    verdict = await _judged_run(redis_url, lab)

    print(verdict)
    sold_twice = await lab.value(
        "SELECT count(*) FROM (SELECT FROM bookings GROUP BY places, first_leg, last_leg HAVING count(*) > 1) AS twice"
    )
    assert sold_twice > 0
    assert verdict.findings != []


async def _judged_run(redis_url: str, lab: Lab) -> Verdict:
    """Clients of three processes hold, confirm, release and book the same few seats at once."""
    event = await lab.event(stops=["A", "B", "C"])
    recording = Recording()
    async with open_shops(redis_url, lab, 3) as shops:
        clients = [_Client(shops[n % 3], recording, event.event.id, n) for n in range(CLIENTS)]
        failures = [end for end in await at_once([client.run() for client in clients]) if end is not None]
    assert failures == []
    return check_history(recording.operations, {(event.event.id, "floor"): 100})


class _Client:
    """One customer after the other, each of whom wants one seat of six for a part of the journey."""

    def __init__(self, shop: Shop, recording: Recording, event_id: str, number: int) -> None:
        self._sell = shop.reservations
        self._recording = recording
        self._event_id = event_id
        self._number = number
        self._rng = random.Random(number)

    async def run(self) -> None:
        for errand in range(ERRANDS):
            customer = f"c{self._number}-{errand}"
            first = self._rng.randrange(2)
            places = (Place("stalls", f"A-{self._rng.randint(1, 6)}", first, self._rng.randint(first + 1, 2)),)
            if self._rng.random() < 0.2:
                await self._try("book", customer, places, self._book(customer, places))
                continue
            hold = await self._try("hold", customer, places, self._hold(customer, places))
            if hold is None:
                continue
            release = self._rng.random() < 0.5
            call = self._sell.release(hold.id, customer_id=customer)
            if not release:
                call.close()
                call = self._confirm(hold.id, customer)
            await self._try("release" if release else "confirm", customer, places, call, hold_id=hold.id)

    async def _hold(self, customer: str, places: tuple[Place, ...]) -> Any:
        return (await self._sell.hold(self._event_id, _wish(places), customer_id=customer)).hold

    async def _book(self, customer: str, places: tuple[Place, ...]) -> Any:
        return (await self._sell.book(self._event_id, _wish(places), DETAILS, customer_id=customer)).booking

    async def _confirm(self, hold_id: str, customer: str) -> Any:
        return (await self._sell.confirm(hold_id, DETAILS, customer_id=customer)).booking

    async def _try(
        self, op: Op, customer: str, places: tuple[Place, ...], call: Awaitable[Any], *, hold_id: str | None = None
    ) -> Any:
        invoked_at, result, code = now(), None, None
        try:
            result = await call
        except PlacesUnavailable:
            code = "places-unavailable"
        except HoldRefusal as error:
            code = type(error).__name__
        held = result if op == "hold" else None
        self._recording.add(
            Operation(
                process=self._number,
                op=op,
                event=self._event_id,
                customer=customer,
                invoked_at=invoked_at,
                completed_at=now(),
                outcome="ok" if code is None else "fail",
                places=places,
                hold_id=hold_id if result is None else result.id,
                booking_id=result.id if result is not None and op in ("confirm", "book") else None,
                expires_at=None if held is None else held.expires_at.timestamp(),
                code=code,
            )
        )
        return held


def _wish(places: tuple[Place, ...]) -> ClaimRequest:
    (place,) = places
    stops = "ABC"
    return claim(section=place.section, seats=[place.seat], from_=stops[place.first_leg], to=stops[place.last_leg])
