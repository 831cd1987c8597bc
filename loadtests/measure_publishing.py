"""How fast the outbox reaches a Redis stream, and one webhook on the loopback, whose receiver is a process of its own.

``python loadtests/measure_publishing.py [--events N]`` starts servers of its own and ends them, and prints JSON.
"""

import asyncio
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from typing import Any

import click
import msgspec
import uvloop
from bench import open_bench
from harness import QUICK

from holdfast.compose import Parts, open_parts
from persistence.database import driver_connection
from persistence.publishing.relay import Relay, RelayOptions

BOOKINGS_PER_EVENT = 2  # rows of one booking: created, confirmed
FILL = """
    INSERT INTO outbox (booking_id, number, event_id, type, payload, created_at)
    SELECT id, number, 'concert-42', type, jsonb_build_object('customer_id', 'ana', 'status', 'confirmed', 'version', 1,
             'payment_status', 'none', 'items', '[{"section": "floor", "quantity": 2, "unit_price": 4500}]'::jsonb,
             'amount', 9000, 'currency', 'EUR', 'created_at', now(), 'confirmed_at', now()), now()
      FROM (SELECT gen_random_uuid() AS id, number FROM generate_series(1, $1) AS number) AS booking
     CROSS JOIN (VALUES ('booking.created'), ('booking.confirmed')) AS types(type)
"""
LOOKS = 200


class Answering(asyncio.Protocol):
    """The least that a receiver can do: it reads a request to its end, and takes it."""

    taken = 0

    def connection_made(self, transport: Any) -> None:
        self._transport, self._buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def receive(pipe: Connection) -> None:
    """The receiver's process; it ends with ours."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    uvloop.run(serve())


async def drain(parts: Parts, events: int, options: RelayOptions) -> dict[str, float]:
    """Fill the outbox, and publish until nothing waits."""
    async with driver_connection(parts.database) as connection:
        await connection.execute(FILL, events // BOOKINGS_PER_EVENT)
    relay = Relay(parts.database, parts.kernel, parts.sinks, options)
    began, cpu = time.perf_counter(), time.process_time()
    queued = await relay.run_once(within_s=300.0)
    seconds, spent = time.perf_counter() - began, time.process_time() - cpu
    async with driver_connection(parts.database) as connection:
        left = await connection.fetchval("SELECT count(*) FROM deliveries")
    if queued != events or left:
        raise RuntimeError(f"{queued} of {events} were queued, {left} are left")
    return {
        "events": events,
        "seconds": round(seconds, 2),
        "events_per_s": round(events / seconds),
        "cpu": round(spent, 2),
    }


async def measure(events: int, port: int) -> dict[str, Any]:
    async with open_bench(QUICK) as bench, open_parts(bench.settings) as parts:
        found: dict[str, Any] = {}
        found["no sink"] = await drain(parts, events, RelayOptions())
        found["stream"] = await drain(parts, events, RelayOptions(stream="hf:events"))
        await parts.sinks.disable("stream", "measured")
        await parts.sinks.add("loopback", f"http://127.0.0.1:{port}/")
        found["webhook"] = await drain(parts, events // 4, RelayOptions(allow_private=True))
        found["both"] = await drain(parts, events // 4, RelayOptions(allow_private=True, stream="hf:events"))
        queue = Relay(parts.database, parts.kernel, parts.sinks, RelayOptions()).queue
        began = time.perf_counter()
        for _ in range(LOOKS):
            await queue.look()
        found["look_ms"] = round((time.perf_counter() - began) / LOOKS * 1000, 3)
        found["memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return found


@click.command()
@click.option("--events", default=20_000, show_default=True)
def main(events: int) -> None:
    """Measure, and print JSON."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    receiver = multiprocessing.get_context("spawn").Process(target=receive, args=(theirs,), daemon=True)
    receiver.start()
    try:
        found = uvloop.run(measure(events, ours.recv()))
    finally:
        receiver.terminate()
        receiver.join()
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


if __name__ == "__main__":
    main()
