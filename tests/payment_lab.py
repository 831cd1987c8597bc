"""A payment simulator as a process of its own, what its ledger says, and the invariant between money and places."""

import asyncio
import contextlib
import datetime as dt
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from engine.ids import claim_id
from engine.lifecycle import OWNING_STATUSES
from holdfast.payments.simulated import SimulatedProvider
from persistence.database import driver_connection

SECRET = "the simulator's secret"
START_S = 20.0
_READY = re.compile(r"simulating payments at (http://\S+)")


class RunningSimulator:
    """The simulator at ``url``, spoken to as a test does."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ledger(self) -> list[dict[str, Any]]:
        """Every payment it has heard of."""
        payments: list[dict[str, Any]] = httpx2.get(f"{self.url}/ledger").json()
        return payments

    def of(self, booking_id: str) -> list[dict[str, Any]]:
        """Those for one booking, in the order in which they were asked for."""
        return [payment for payment in self.ledger() if payment["booking_id"] == booking_id]

    def forget(self) -> None:
        """Begin anew, without faults."""
        assert httpx2.delete(f"{self.url}/ledger").status_code == 204
        self.set_faults()

    def set_faults(self, **faults: Any) -> None:
        assert httpx2.put(f"{self.url}/faults", json=faults).status_code == 200

    def send_webhooks_to(self, url: str | None) -> None:
        assert httpx2.put(f"{self.url}/webhook-url", content=json.dumps(url)).status_code == 200


@contextlib.contextmanager
def running_simulator(data_dir: Path, *options: str) -> Iterator[RunningSimulator]:
    """``holdfast simulator`` on a free port; it sends no webhooks until it is told where to."""
    environment = os.environ | {
        "HOLDFAST_DATA_DIR": str(data_dir),
        "HOLDFAST_PAYMENT_SIMULATOR_SECRETS": SECRET,
        "HOLDFAST_LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", "holdfast", "simulator", "--port", "0", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = _READY.match(process.stdout.readline())
            assert match is not None, "the simulator has not started"
            simulator = RunningSimulator(match[1])
            _wait_for(simulator.url)
            simulator.send_webhooks_to(None)
            yield simulator
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait_for(url: str) -> None:
    with httpx2.Client(transport=httpx2.HTTPTransport(retries=5)) as client:
        assert client.get(f"{url}/ledger").status_code == 200


def simulated(simulator: RunningSimulator, client: httpx2.AsyncClient, *secrets: str) -> SimulatedProvider:
    """The adapter that speaks to *simulator*."""
    return SimulatedProvider(simulator.url, client, secrets or (SECRET,))


async def until(condition: Callable[[], Awaitable[object]], *, within_s: float = 10.0) -> None:
    """Wait for something to be true."""
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() - began < within_s, f"not so after {within_s} s"
        await asyncio.sleep(0.02)


async def check_money(database: Any, simulator: RunningSimulator) -> dict[str, int]:
    """Never paid without a booking or a refund, never booked without a payment; counts what there is.

    By the provider's own ledger, not by ours: what was taken and not given back belongs to a booking that owns its
    places, or had them and keeps a part; and a booking that owns places has had its whole price taken, or set aside.
    """
    async with driver_connection(database) as connection:
        bookings = await connection.fetch("SELECT * FROM bookings WHERE payment_status <> 'none'")
        claimed = {row["booking_id"] for row in await connection.fetch("SELECT booking_id FROM claims")}
        due = await connection.fetch("SELECT payment_id, amount FROM refunds WHERE state <> 'done'")
    owed = {str(row["payment_id"]): row["amount"] for row in due}
    money: dict[str, int] = {}
    aside: dict[str, int] = {}
    for payment in simulator.ledger():
        kept = payment["captured"] - payment["refunded"] - owed.get(payment["key"], 0)
        money[payment["booking_id"]] = money.get(payment["booking_id"], 0) + kept
        if payment["status"] == "authorized":
            aside[payment["booking_id"]] = aside.get(payment["booking_id"], 0) + payment["amount"]
    counts = {"booked": 0, "ended": 0, "waiting": 0}
    for row in bookings:
        booking_id = claim_id(row["id"].int, row["event_id"])
        kept, held = money.pop(booking_id, 0), aside.pop(booking_id, 0)
        if row["status"] in OWNING_STATUSES:
            counts["booked"] += 1
            assert kept + held == row["amount"] - row["refunded"], (booking_id, row["status"], kept, held)
        elif row["status"] == "payment_initiated":
            counts["waiting"] += 1
            assert row["id"] not in claimed
        else:
            counts["ended"] += 1
            may_keep = row["amount"] - row["refunded"] if row["confirmed_at"] is not None else 0
            assert row["id"] not in claimed
            assert kept == may_keep, (booking_id, row["status"], kept)
            assert held == 0, (booking_id, row["status"], held)
    assert not any(money.values()), money
    assert not any(aside.values()), aside
    return counts


def moments_ago(seconds: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
