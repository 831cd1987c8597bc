"""A ledger with an outbox to fill by hand, and relays over it."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import msgspec
import uuid_utils.compat
from ledger_lab import Lab

from engine.kernel import Kernel
from persistence.database import open_database
from persistence.publishing.attempt import Patience
from persistence.publishing.letters import outbox_state
from persistence.publishing.relay import Relay, RelayOptions
from persistence.publishing.sinks import Sinks

IMPATIENT = Patience(first_wait_s=0.05, wait_max_s=0.2)
WRITE = """
    INSERT INTO outbox (booking_id, number, event_id, type, payload, created_at)
    SELECT id, 7, 'concert', type, payload::jsonb, now() FROM unnest($1::uuid[], $2::text[], $3::text[])
           AS given(id, type, payload)
"""


class Publishing:
    """Relays of one test; they are stopped at its end."""

    def __init__(self, lab: Lab, kernel: Kernel, stack: AsyncExitStack) -> None:
        self.lab = lab
        self.kernel = kernel
        self.sinks = Sinks(lab.engine, lab.sealer)
        self._stack = stack

    async def tell(self, *bookings: UUID, versions: range = range(1, 2), type_: str = "booking.updated") -> None:
        """Write rows: every version of every booking, a row each, version by version."""
        rows = [(booking, version) for version in versions for booking in bookings]
        payloads = [msgspec.json.encode({"version": version, "customer_id": "ana"}).decode() for _, version in rows]
        await self.lab.fetch(WRITE, [booking for booking, _ in rows], [type_] * len(rows), payloads)

    async def relay(self, **options: Any) -> Relay:
        """A relay at work, with connections of its own."""
        options = {"allow_private": True, "patience": IMPATIENT, "send_timeout_s": 2.0} | options
        database = open_database(self.lab.url)
        relay = Relay(database, self.kernel, Sinks(database, self.lab.sealer), RelayOptions(**options))
        working = asyncio.create_task(_work(relay))

        async def stop() -> None:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await relay.close()
            await database.dispose()

        self._stack.push_async_callback(stop)
        return relay

    async def dead(self) -> int:
        return (await outbox_state(self.lab.engine)).dead

    async def waiting(self) -> int:
        (row,) = await self.lab.fetch("SELECT count(*) FROM deliveries WHERE dead_at IS NULL")
        return int(row[0])

    async def unpublished(self) -> int:
        (row,) = await self.lab.fetch("SELECT count(*) FROM outbox WHERE published_at IS NULL")
        return int(row[0])


async def _work(relay: Relay) -> None:
    while True:
        await relay.step()
        await asyncio.sleep(0.01)


def new_booking() -> UUID:
    return uuid_utils.compat.uuid7()


async def until(condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Wait for something to be true."""
    stop_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < stop_at, f"not so after {within_s} s"
        await asyncio.sleep(0.01)
