"""Redis and the ledger are falsified behind Holdfast's back: all of it is found, and put right as the ledger has it."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from checker import WHOLE_WITHIN_S, check, fault
from crowd import WARM_UP, Crowd, crowd_buying
from on_sale import OnSale, one_row
from rig import PARTITIONS, Rig

from engine.keys import event_key, partition_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

SEATS = 1_000
BOOKINGS = 20  # inserted, and as many deleted
_INSERT = """
    INSERT INTO bookings (id, event_id, customer_id, status, payment_status, version, epoch, first_leg, last_leg,
                          places, items, amount, currency, sealed, created_at, updated_at, confirmed_at)
    SELECT $2::uuid, event_id, 'forged', status, payment_status, version, epoch, first_leg, last_leg, $3::text,
           $4::jsonb, amount, currency, sealed, created_at, updated_at, confirmed_at
      FROM bookings WHERE event_id = $1::text LIMIT 1
"""


async def test_all_drift_is_found_and_repaired_towards_the_ledger(rig: Rig, report: Callable[..., None]) -> None:
    quiet = one_row("drift", 3 * BOOKINGS)
    async with crowd_buying(rig, "drift") as crowd:
        await rig.put_on_sale([quiet.definition])
        await crowd.until_operations(WARM_UP)
        for seat in quiet.seats["box"][:BOOKINGS]:
            body = {"event_id": quiet.id, "items": [{"section": "box", "seats": [seat]}]}
            assert (await rig.ask("POST", "/v1/bookings", customer=seat, body=body)).status == 201
        with fault() as window:
            _falsify_cells(rig, crowd, random.Random(13))
            await _insert(rig, quiet, quiet.seats["box"][BOOKINGS : 2 * BOOKINGS])
            await _delete(rig, quiet)
            seconds = await _until_sold(rig, quiet, set(quiet.seats["box"][BOOKINGS : 2 * BOOKINGS]))
        await crowd.until_operations(WARM_UP)

    figures = await check(rig, crowd, window)
    besides = f"bookings put right after {seconds:.0f} s, all of it {figures.whole_s:.0f} s after the sale at most"
    report(13, f"{SEATS:,} seats and {2 * BOOKINGS} bookings falsified", figures, besides)
    assert rig.command.run("reconcile", "--once", "--json").returncode == 0  # nothing is left to put right


def _falsify_cells(rig: Rig, crowd: Crowd, rng: random.Random) -> None:
    """Turn bits over, of holds and of bookings alike."""
    for _ in range(SEATS):
        event = rng.choice(list(crowd.events.values()))
        key = event_key(partition_of(event.id, None, PARTITIONS), event.id, rng.choice(("held", "sold")))
        cell = rng.randrange(sum(map(len, event.seats.values())) * event.legs)
        rig.store.call("SETBIT", key, cell, 1 - int(rig.store.call("GETBIT", key, cell)))


async def _insert(rig: Rig, event: OnSale, labels: tuple[str, ...]) -> None:
    for label in labels:
        index, booking_id = event.seats["box"].index(label), str(uuid4())
        items = f'[{{"section":"box","quantity":1,"seats":["{label}"],"price":1000,"amount":1000}}]'
        await rig.database.fetch(_INSERT, event.id, booking_id, f"0:1;0#{index}", items)
        await rig.database.fetch("INSERT INTO claims VALUES ($1, $2, 0, $3::uuid)", event.id, index, booking_id)


async def _delete(rig: Rig, event: OnSale) -> None:
    for table, column in (("claims", "booking_id"), ("bookings", "id")):
        await rig.database.fetch(
            f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM bookings WHERE event_id = $1"
            " AND customer_id <> 'forged')",
            event.id,
        )


async def _until_sold(rig: Rig, event: OnSale, wanted: set[str]) -> float:
    """Seconds until exactly the seats wanted are sold, as anybody sees it."""
    began_s = time.monotonic()
    while True:
        seats: list[dict[str, Any]] = (await rig.organize("GET", f"/v1/events/{event.id}/seats"))["seats"]
        if {seat["seat"] for seat in seats if seat["status"] == "sold"} == wanted:
            return time.monotonic() - began_s
        assert time.monotonic() - began_s < WHOLE_WITHIN_S, "drift is not repaired"
        await asyncio.sleep(0.2)
