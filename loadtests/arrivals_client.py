"""One process of an open load: sends each request when it is due, whether or not earlier ones have been answered.

``arrivals.py`` starts it with the names of two files: its ``Orders`` are in one, its ``Tally`` is left in the other.
"""

import asyncio
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop
from hdrh.histogram import HdrHistogram

HIGHEST_US = 120_000_000  # no request is waited for as long
DIGITS = 3
RIGHT, LATE, UNSENT, TIMED_OUT, BROKEN = "right", "late", "not sent", "time-out", "broken"
STEPS = 4  # of the schedule "step"
SCHEDULES = ("constant", "poisson", "ramp", "step")
KINDS = ("holds", "sales", "reads")


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What one of *processes* sends: *rate* and *connections* are those of all and of this one; *begin_s* is of the
    monotonic clock, which processes of a machine share. ``kinds`` are taken in turn."""

    url: str
    event_id: str
    tokens: Sequence[str]
    kinds: Sequence[str]
    schedule: str
    rate: float
    seconds: float
    process: int
    processes: int
    connections: int
    begin_s: float
    deadline_s: float
    timeout_s: float


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: ``outcomes`` by kind; ``latencies`` of all right answers from their intended start, in µs, as an
    encoded HDR histogram; ``lag_s`` is by how much the generator itself was late at worst; ``held`` and
    ``booked`` count what was acknowledged."""

    outcomes: dict[str, dict[str, int]]
    latencies: str
    lag_s: float
    cpu_s: float
    held: int
    booked: int


def due_times(orders: Orders) -> Iterator[float]:
    """Seconds after the beginning at which this process sends: its share of the arrivals of all, the same every time.

    No answer has any influence on them. Those of "poisson" are by chance, and so is the first.
    """
    chance = random.Random(orders.process)
    is_random = orders.schedule == "poisson"
    number = orders.processes * chance.expovariate(1.0) if is_random else float(orders.process)
    while True:
        at_s = _moment(orders, number / orders.rate)
        if at_s >= orders.seconds:
            return
        yield at_s
        number += orders.processes * (chance.expovariate(1.0) if is_random else 1.0)


def _moment(orders: Orders, work_s: float) -> float:
    """When as much has arrived as the full rate would bring in *work_s*."""
    if orders.schedule == "ramp":  # from nothing to the rate: half as much arrives as at the rate
        return float((2 * orders.seconds * work_s) ** 0.5)
    if orders.schedule == "step":
        length_s = orders.seconds / STEPS
        for step in range(1, STEPS + 1):
            if work_s < length_s * step / STEPS:
                return length_s * (step - 1) + work_s * STEPS / step
            work_s -= length_s * step / STEPS
        return orders.seconds
    return work_s


class _Connection(asyncio.Protocol):
    """One request at a time; ``answer`` hears its status and body, 0 when the connection has ended without."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.answer: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._tell(self._parser.get_status_code(), body)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self._tell(0, b"")

    def _tell(self, status: int, body: bytes) -> None:
        answer, self.answer = self.answer, None
        if answer is not None:
            answer(status, body)


class Client:
    """Sends by the orders; a request for which no connection is idle is not sent, and counted as such."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._host = urlsplit(orders.url).netloc
        self._tokens = itertools.cycle(orders.tokens)
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._histogram = HdrHistogram(1, HIGHEST_US, DIGITS)
        self._outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in orders.kinds}
        self._held = self._booked = 0
        self._lag_s = 0.0

    async def run(self) -> Tally:
        """Send everything, and wait for the last answers no longer than their time-out."""
        orders = self._orders
        await asyncio.gather(*(self._open() for _ in range(orders.connections)))
        kinds = itertools.cycle(orders.kinds)
        for at_s in due_times(orders):
            due_s = orders.begin_s + at_s
            if (wait_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            else:
                await asyncio.sleep(0)  # answers must be heard although we are late
            self._lag_s = max(self._lag_s, time.monotonic() - due_s)
            self._send(next(kinds), due_s)
        end_s = time.monotonic() + orders.timeout_s + 1
        while self._busy and time.monotonic() < end_s:  # noqa: ASYNC110 - an event would cost every answer a look
            await asyncio.sleep(0.01)
        return Tally(
            outcomes={kind: dict(counted) for kind, counted in self._outcomes.items()},
            latencies=self._histogram.encode().decode(),
            lag_s=self._lag_s,
            cpu_s=time.process_time(),
            held=self._held,
            booked=self._booked,
        )

    async def _open(self) -> None:
        host, _, port = self._host.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._orders.timeout_s):
                _, connection = await loop.create_connection(_Connection, host, int(port))
        except OSError:  # among them TimeoutError: fewer are left, which "not sent" tells
            return
        self._idle.append(connection)

    def _reopen(self) -> None:
        task = asyncio.get_running_loop().create_task(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _send(self, kind: str, due_s: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None:
                break
            self._reopen()  # the server has closed it meanwhile
        else:
            self._outcomes[kind][UNSENT] += 1
            return
        self._busy.add(connection)
        left_s = self._orders.timeout_s - (time.monotonic() - due_s)
        token = next(self._tokens)
        timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._give_up, connection, kind)

        def hear(status: int, _: bytes) -> None:
            self._finish(connection, timer, kind, due_s, status)

        def hear_hold(status: int, body: bytes) -> None:
            if status != 201:
                hear(status, body)
                return
            self._held += 1
            if kind == "holds":
                hear(status, body)
                return
            connection.answer = hear_booking
            hold_id = msgspec.json.decode(body)["id"]
            booking = b'{"hold_id":"%b"}' % hold_id.encode()
            connection.transport.write(self._request("POST", "/v1/bookings", token, booking))

        def hear_booking(status: int, body: bytes) -> None:
            self._booked += status == 201
            hear(status, body)

        path = f"/v1/events/{self._orders.event_id}"
        if kind == "reads":
            connection.answer = hear
            connection.transport.write(self._request("GET", f"{path}/availability", token))
        else:
            connection.answer = hear_hold
            body = b'{"items":[{"section":"floor","quantity":1}]}'
            connection.transport.write(self._request("POST", f"{path}/holds", token, body))

    def _finish(self, connection: _Connection, timer: Any, kind: str, due_s: float, status: int) -> None:
        timer.cancel()
        self._busy.discard(connection)
        if connection.transport is None:
            self._reopen()
        else:
            self._idle.append(connection)
        if status != (200 if kind == "reads" else 201):
            self._outcomes[kind][str(status) if status else BROKEN] += 1
            return
        took_s = time.monotonic() - due_s
        self._histogram.record_value(min(HIGHEST_US, max(1, int(took_s * 1e6))))
        self._outcomes[kind][RIGHT if took_s <= self._orders.deadline_s else LATE] += 1

    def _give_up(self, connection: _Connection, kind: str) -> None:
        self._busy.discard(connection)
        connection.answer = None
        self._outcomes[kind][TIMED_OUT] += 1
        if connection.transport is not None:
            connection.transport.abort()
        self._reopen()

    def _request(self, method: str, path: str, token: str, body: bytes = b"") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {token}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body


def main(orders_file: Path, tally_file: Path) -> None:
    """Do as ordered."""
    orders = msgspec.json.decode(orders_file.read_bytes(), type=Orders)
    tally_file.write_bytes(msgspec.json.encode(uvloop.run(Client(orders).run())))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
