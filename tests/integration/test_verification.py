"""After a change of server nothing is confirmed on an event before it has been held against the ledger."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ledger_lab import Lab
from shops import Shop, at_once, claim, open_shops
from transport_servers import Proxy, Valkey, running_valkey, wait_until

from engine.bookings import BookingDetails
from engine.claim_requests import Booked
from engine.errors import PlacesUnavailable
from engine.events import SellableEvent
from persistence.advisory import advisory_lock

pytest_plugins = ["ledger_fixtures"]

DETAILS = BookingDetails(guest={"name": "Ana"})


class Pair:
    """A primary and its replica behind one address, and three processes that sell through it."""

    def __init__(self, primary: Valkey, replica: Valkey, proxy: Proxy, shops: list[Shop]) -> None:
        self.primary = primary
        self.replica = replica
        self.proxy = proxy
        self.shops = shops

    def cut_off_replica(self) -> None:
        """What is written to the primary from here on, the replica will never know."""
        wait_until(self._is_in_step, "the replica is not in step")
        self.replica.call("REPLICAOF", "NO", "ONE")

    def fail_over(self) -> None:
        self.primary.kill()
        self.proxy.lead_to(self.replica.port)

    def _is_in_step(self) -> bool:
        return bool(self.primary.stat("master_repl_offset") == self.replica.stat("slave_repl_offset"))


@pytest.fixture
def servers_of_a_pair(tmp_path: Path) -> Iterator[tuple[Valkey, Valkey]]:
    with ExitStack() as stack:
        primary = stack.enter_context(running_valkey(tmp_path / "primary", "--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(running_valkey(tmp_path / "replica", "--replicaof", f"127.0.0.1 {primary.port}"))
        wait_until(lambda: replica.call("INFO", "replication")["master_link_status"] == "up", "no replica")
        yield primary, replica


@pytest.fixture
async def pair(servers_of_a_pair: tuple[Valkey, Valkey], lab: Lab) -> AsyncIterator[Pair]:
    primary, replica = servers_of_a_pair
    async with Proxy(primary.port) as proxy, open_shops(proxy.url, lab, 3) as shops:
        yield Pair(primary, replica, proxy, shops)


async def book(shop: Shop, event: SellableEvent, seat: str, customer: str = "ana") -> Booked:
    seats = claim(section="stalls", seats=[seat])
    return await shop.reservations.book(event.event.id, seats, DETAILS, customer_id=customer)


async def audited_on(shop: Shop, event: SellableEvent) -> Any:
    return await shop.kernel.event_command(event, "HGET", "state", "audited")


async def test_booking_that_the_new_primary_lacks_is_restored_before_anybody_confirms(pair: Pair, lab: Lab) -> None:
    event = await lab.event()
    shop = pair.shops[0]
    await book(shop, event, "A-1")
    pair.cut_off_replica()
    await book(shop, event, "A-2", customer="bea")
    before = await audited_on(shop, event)

    pair.fail_over()

    with pytest.raises(PlacesUnavailable) as refused:
        await book(shop, event, "A-2", customer="cem")
    assert [place.seat for place in refused.value.unavailable] == ["A-2"]
    assert await audited_on(shop, event) not in (before, b"", None)
    assert await shop.kernel.event_command(event, "HLEN", "bookings") == 2
    assert (await book(shop, event, "A-3", customer="cem")).booking.status == "confirmed"


async def test_hold_that_the_new_primary_knows_is_confirmed_there(pair: Pair, lab: Lab) -> None:
    event = await lab.event()
    shop = pair.shops[0]
    seats = claim(section="stalls", seats=["B-1", "B-2"])
    hold = (await shop.reservations.hold(event.event.id, seats, customer_id="ana")).hold
    pair.cut_off_replica()

    pair.fail_over()

    booked = await shop.reservations.confirm(hold.id, DETAILS, customer_id="ana")
    assert booked.booking.status == "confirmed"


async def test_event_is_audited_once_for_all_processes(pair: Pair, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    event = await lab.event()
    await book(pair.shops[0], event, "A-1")
    pair.cut_off_replica()
    audits: list[str] = []
    for shop in pair.shops:
        monkeypatch.setattr(shop.kernel, "run", _counting(shop, audits))
    pair.fail_over()

    results = await at_once([book(pair.shops[n % 3], event, f"B-{n + 1}", f"c{n}") for n in range(9)])

    assert [type(result) for result in results] == [Booked] * 9
    assert len(audits) == 1


async def test_many_events_are_audited_without_using_up_the_pool(pair: Pair, lab: Lab) -> None:
    """The shop's pool has four connections, and an audit needs two at a time."""
    shop = pair.shops[0]
    events = [await lab.event() for _ in range(12)]
    for event in events:
        await book(shop, event, "A-1")
    pair.cut_off_replica()

    pair.fail_over()

    results = await at_once([book(shop, event, "A-2") for event in events])
    assert [type(result) for result in results] == [Booked] * 12


def _counting(shop: Shop, audits: list[str]) -> Any:
    original = shop.kernel.run

    async def run(name: str, *args: Any, **options: Any) -> list[Any]:
        if name == "mark_audited":
            audits.append(name)
        return await original(name, *args, **options)

    return run


async def test_restart_of_the_same_server_is_a_change_too(pair: Pair, lab: Lab) -> None:
    event = await lab.event()
    shop = pair.shops[0]
    pair.primary.call("CONFIG", "SET", "appendonly", "yes")
    wait_until(lambda: pair.primary.stat("aof_rewrite_in_progress") == 0, "no append-only file")
    await book(shop, event, "A-1")
    before = await audited_on(shop, event)

    pair.primary.kill()
    pair.primary.start("--appendonly", "yes")
    pair.proxy.cut()

    assert (await book(shop, event, "A-2")).booking.status == "confirmed"
    assert await audited_on(shop, event) != before


async def test_confirm_waits_for_no_repair_that_nobody_waits_for(redis_url: str, lab: Lab) -> None:
    event = await lab.event()
    async with open_shops(redis_url, lab, 1) as (shop,):
        await book(shop, event, "A-1")
        await shop.kernel.event_command(event, "HSET", "state", "audited", "another")
        async with advisory_lock(lab.engine, f"holdfast repair {event.event.id}", wait_s=1.0), asyncio.timeout(5.0):
            shop.verification.suspect(event)
            assert (await book(shop, event, "A-2")).booking.status == "confirmed"
