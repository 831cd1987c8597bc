"""A cluster under a mixed load loses a primary, and has a hot slot moved from under it."""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from checker import Figures
from cluster_fixture import Cluster, running_cluster
from ledger_lab import Lab
from script_runner import PARTITIONS
from shops import Shop, claim, open_shops
from transport_servers import Valkey, eventually

from engine.bookings import BookingDetails
from engine.definition import Policy
from engine.errors import HoldfastError, PlacesUnavailable
from engine.events import SellableEvent
from engine.keys import partition_key, partition_of
from engine.transport.wire import pack_keys
from persistence.repair import repair_event

pytest_plugins = ["ledger_fixtures"]

BUYERS = 24  # a multiple of shops and events together: every shop has some for every event
CAPACITY = 100_000  # of the floor: the sale never ends by itself
LIMITLESS = Policy(max_places_per_customer=1_000)
DETAILS = BookingDetails(guest={"name": "Ana"})
NODE_TIMEOUT_MS = 1_000  # a primary is given up, and its replica elected, a second or two later
BEFORE_S, AFTER_S = 1.5, 2.0  # of undisturbed load
RECOVERY_MAX_S = 15.0


class Deal(msgspec.Struct, frozen=True):
    """One operation of a buyer: a booking's id when it was acknowledged, or the error's name."""

    partition: int
    began_s: float
    ended_s: float
    booking_id: str | None
    error: str | None


class Load:
    """Buyers that hold and confirm, or book at once, places on the floor and seats, in one event of every partition."""

    def __init__(self, shops: list[Shop], events: list[SellableEvent]) -> None:
        self.deals: list[Deal] = []
        self._shops = shops
        self.events = events
        self._numbers = itertools.count()
        self._dice = random.Random(7)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        # Each keeps to one event, so that those of an event that is away do not keep the others from buying.
        buyers = [
            asyncio.create_task(
                self._buy_for_ever(
                    self._shops[n // len(self.events) % len(self._shops)], self.events[n % len(self.events)]
                )
            )
            for n in range(BUYERS)
        ]
        try:
            yield
        finally:
            for buyer in buyers:
                buyer.cancel()
            await asyncio.gather(*buyers, return_exceptions=True)
            for shop in self._shops:
                await shop.settlement.close()

    def errors_since(self, moment_s: float) -> Counter[tuple[int, str]]:
        """How often which partition answered with which error."""
        return Counter((deal.partition, deal.error) for deal in self.deals if deal.error and deal.ended_s >= moment_s)

    def booked_between(self, partition: int, from_s: float, to_s: float) -> int:
        """How much the partition sold meanwhile."""
        return sum(from_s <= deal.began_s and deal.ended_s <= to_s for deal in self._booked(partition))

    def first_success_s(self, partition: int, moment_s: float) -> float:
        """Seconds from *moment_s* to the end of the first booking of the partition that began after it."""
        ends = [deal.ended_s for deal in self._booked(partition) if deal.began_s >= moment_s]
        return min(ends, default=float("inf")) - moment_s

    async def until_booked(self, partition: int, moment_s: float) -> None:
        """Wait until the partition has sold something that was asked for after *moment_s*."""
        await eventually(
            lambda: self.first_success_s(partition, moment_s) < float("inf"),
            f"partition {partition} sells nothing",
            timeout_s=RECOVERY_MAX_S,
        )

    def _booked(self, partition: int) -> Iterator[Deal]:
        return (deal for deal in self.deals if deal.partition == partition and deal.booking_id)

    async def _buy_for_ever(self, shop: Shop, event: SellableEvent) -> None:
        while True:
            began_s, booking_id, error = time.monotonic(), None, None
            try:
                booking_id = await self._buy(shop, event.event.id)
            except PlacesUnavailable:
                pass
            except HoldfastError as problem:
                error = type(problem).__name__
                await asyncio.sleep(0.05)
            partition = shop.kernel.partition_of(event)
            self.deals.append(Deal(partition, began_s, time.monotonic(), booking_id, error))

    async def _buy(self, shop: Shop, event_id: str) -> str | None:
        customer_id = f"c{next(self._numbers)}"
        # A seat now and then: whoever wants one of the twenty is mostly refused, and that is load too.
        seat = self._dice.random() < 0.1
        wish = claim(section="stalls", best=1, ttl=30) if seat else claim(section="floor", quantity=1, ttl=30)
        if self._dice.random() < 0.5:
            booked = await shop.reservations.book(event_id, wish, DETAILS, customer_id=customer_id)
        else:
            held = await shop.reservations.hold(event_id, wish, customer_id=customer_id)
            booked = await shop.reservations.confirm(held.hold.id, DETAILS, customer_id=customer_id)
        return booked.booking.id if booked.booking.status == "confirmed" else None


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "cluster", node_timeout_ms=NODE_TIMEOUT_MS) as running:
        running.add_replicas()
        yield running


@pytest.fixture
async def shops(cluster: Cluster, lab: Lab) -> AsyncIterator[list[Shop]]:
    async with open_shops(cluster.url(), lab, 2) as opened:
        yield opened


@pytest.fixture
async def load(shops: list[Shop], lab: Lab) -> Load:
    events = []
    for partition in range(PARTITIONS):
        event_id = next(
            f"gig-{n}" for n in itertools.count() if partition_of(f"gig-{n}", None, PARTITIONS) == partition
        )
        events.append(await lab.event(id=event_id, capacity=CAPACITY, policy=LIMITLESS))
    return Load(shops, events)


def slot_of(partition: int) -> int:
    return pack_keys([partition_key(partition, "journal")]).slot


def primary_of(cluster: Cluster, partition: int) -> Valkey:
    """Who had the partition's slot in the beginning."""
    share = 16384 // cluster.master_count
    return cluster.servers[min(slot_of(partition) // share, cluster.master_count - 1)]


async def settled_figures(load: Load, shops: list[Shop], lab: Lab, recovery_s: float) -> Figures:
    """Drain, audit and repair, and compare what was acknowledged with what the ledger has."""
    began_s = time.monotonic()
    for partition in range(PARTITIONS):
        await shops[0].drainer.drain(partition)
    shop = shops[0]
    findings: list[str] = []
    for event in load.events:
        repair = await repair_event(shop.kernel, shop.bookings, shop.loader, event)
        findings += [str(difference) for difference in (*repair.unresolved, *repair.audit.differences)]
    acknowledged = [deal.booking_id for deal in load.deals if deal.booking_id]
    found = [await shops[1].bookings.find_booking(booking_id) for booking_id in acknowledged]  # type: ignore[arg-type]
    duplicates = await lab.value("SELECT count(*) - count(DISTINCT (event_id, seat, leg)) FROM claims")
    return Figures(
        operations=len(load.deals),
        acknowledged=len(acknowledged),
        lost=sum(booking is None for booking in found),
        duplicates=duplicates + len(acknowledged) - len(set(acknowledged)),
        unknown=sum(deal.error is not None for deal in load.deals),
        recovery_s=recovery_s,
        whole_s=time.monotonic() - began_s,
        late=sum(deal.error is None and deal.booking_id is None for deal in load.deals),
        findings=findings,
    )


async def test_other_slots_sell_on_and_nothing_is_lost_when_a_primary_is_killed(
    cluster: Cluster, load: Load, shops: list[Shop], lab: Lab, report: Callable[..., None]
) -> None:
    victim = primary_of(cluster, 0)
    hit = {partition for partition in range(PARTITIONS) if primary_of(cluster, partition) is victim}
    assert len(hit) < PARTITIONS
    async with load.running():
        await asyncio.sleep(BEFORE_S)
        await asyncio.to_thread(victim.kill)
        killed_s = time.monotonic()  # not before: what begins until then may still be served
        for partition in hit:
            await load.until_booked(partition, killed_s)
        await asyncio.sleep(AFTER_S)

    recovery_s = max(load.first_success_s(partition, killed_s) for partition in hit)
    errors = load.errors_since(0.0)
    assert {partition for partition, _ in errors} <= hit, errors
    assert {error for _, error in errors} <= {"StoreUnavailable"}, errors
    others = [
        load.booked_between(partition, killed_s, killed_s + recovery_s) for partition in {*range(PARTITIONS)} - hit
    ]
    assert min(others) > 0, "the other slots stood still"
    figures = await settled_figures(load, shops, lab, recovery_s)
    besides = f"{errors.total()} answers 503, all of its slots; meanwhile {sum(others)} bookings in the others"
    report(7, "cluster: one primary of three killed", figures, besides)


async def test_callers_notice_nothing_when_a_hot_slot_is_moved_key_by_key(
    cluster: Cluster, load: Load, shops: list[Shop], lab: Lab, report: Callable[..., None]
) -> None:
    source = primary_of(cluster, 1)
    target = next(server for server in cluster.servers[: cluster.master_count] if server is not source)
    async with load.running():
        await asyncio.sleep(BEFORE_S)
        began_s = time.monotonic()
        moved = await asyncio.to_thread(_move_slot, cluster, slot_of(1), source, target)
        took_s = time.monotonic() - began_s
        await load.until_booked(1, time.monotonic())
        await asyncio.sleep(AFTER_S)

    assert load.errors_since(0.0) == {}
    assert moved > 5
    figures = await settled_figures(load, shops, lab, load.first_success_s(1, began_s + took_s))
    report(7, "cluster: a hot slot moved", figures, f"{moved} keys in {took_s:.1f} s, no error")


def _move_slot(cluster: Cluster, slot: int, source: Valkey, target: Valkey) -> int:
    """Key by key, as resharding tools do; returns how many there were."""
    cluster.begin_migration(slot, source, target)
    moved = 0
    while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 1):
        cluster.migrate_keys(source, target, *keys)
        moved += 1
    cluster.end_migration(slot, target)
    return moved
