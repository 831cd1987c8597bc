"""One process of an open load: sends each request when it is due, whether or not earlier ones have been answered.

``arrivals.py`` starts it with the names of two files: its ``Orders`` are in one, its ``Tally`` is left in the other.
"""

import asyncio
import itertools
import random
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop
from hdrh.histogram import HdrHistogram

from holdfast.bench.connection import Exchange
from holdfast.demo.client import UNANSWERED, Answer

HIGHEST_US = 120_000_000  # no request is waited for as long
DIGITS = 3
RIGHT, LATE, UNSENT, TIMED_OUT, BROKEN = "right", "late", "not sent", "time-out", "broken"
CLOCK_STEP_S = 0.001  # uvloop's timers count in it
HEAR_EVERY_S = 0.001  # answers must be heard although we are late; what is due together is sent together
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


class _Caller(msgspec.Struct, frozen=True, kw_only=True):
    """What one customer sends, packed once."""

    hold: bytes
    read: bytes
    booking: str

    def book(self, hold_id: str) -> bytes:
        """The request that confirms a hold."""
        return _with_body(self.booking, f'{{"hold_id":"{hold_id}"}}')


def _with_body(head: str, body: str) -> bytes:
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def encode_latencies(took_us: Iterable[int]) -> str:
    """An HDR histogram of them, encoded."""
    histogram = HdrHistogram(1, HIGHEST_US, DIGITS)
    for value_us, count in Counter(took_us).items():
        histogram.record_value(min(HIGHEST_US, max(1, value_us)), count)
    return str(histogram.encode().decode())


class Client:
    """Sends by the orders; a request for which no connection is idle is not sent, and counted as such."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._host = urlsplit(orders.url).netloc
        self._callers = itertools.cycle([self._pack_caller(token) for token in orders.tokens])
        self._idle: list[Exchange] = []
        self._busy: set[Exchange] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._took_us = array("L")  # put into a histogram when all is over: that takes longer than sending
        self._outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in orders.kinds}
        self._held = self._booked = 0
        self._lag_s = 0.0

    async def run(self) -> Tally:
        """Send everything, and wait for the last answers no longer than their time-out."""
        orders = self._orders
        await asyncio.gather(*(self._open() for _ in range(orders.connections)))
        kinds = itertools.cycle(orders.kinds)
        heard_s = time.monotonic()
        for at_s in due_times(orders):
            due_s, now_s = orders.begin_s + at_s, time.monotonic()
            while now_s < due_s:  # the event loop counts in whole milliseconds, and may wake us before
                await asyncio.sleep(max(CLOCK_STEP_S, due_s - now_s))
                now_s = heard_s = time.monotonic()
            if now_s - heard_s > HEAR_EVERY_S:
                await asyncio.sleep(0)
                now_s = heard_s = time.monotonic()
            self._lag_s = max(self._lag_s, now_s - due_s)
            self._send(next(kinds), due_s)
        end_s = time.monotonic() + orders.timeout_s + 1
        while self._busy and time.monotonic() < end_s:  # noqa: ASYNC110 - an event would cost every answer a look
            await asyncio.sleep(0.01)
        return Tally(
            outcomes={kind: dict(counted) for kind, counted in self._outcomes.items()},
            latencies=encode_latencies(self._took_us),
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
                _, connection = await loop.create_connection(Exchange, host, int(port))
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
            if connection.is_open:
                break
            self._reopen()  # the server has closed it meanwhile
        else:
            self._outcomes[kind][UNSENT] += 1
            return
        self._busy.add(connection)
        left_s = self._orders.timeout_s - (time.monotonic() - due_s)
        caller = next(self._callers)
        timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._give_up, connection, kind)

        def hear(answer: Answer) -> None:
            self._finish(connection, timer, kind, due_s, answer.status)

        def hear_hold(answer: Answer) -> None:
            self._held += answer.status == 201
            if kind == "holds" or answer.status != 201:
                hear(answer)
                return
            hold_id = msgspec.json.decode(answer.body)["id"]
            connection.ask(caller.book(hold_id), hear_booking)

        def hear_booking(answer: Answer) -> None:
            self._booked += answer.status == 201
            hear(answer)

        if kind == "reads":
            connection.ask(caller.read, hear)
        else:
            connection.ask(caller.hold, hear_hold)

    def _finish(self, connection: Exchange, timer: Any, kind: str, due_s: float, status: int) -> None:
        timer.cancel()
        self._busy.discard(connection)
        if connection.is_open:
            self._idle.append(connection)
        else:
            self._reopen()
        if status != (200 if kind == "reads" else 201):
            self._outcomes[kind][BROKEN if status == UNANSWERED else str(status)] += 1
            return
        took_s = time.monotonic() - due_s
        self._took_us.append(int(took_s * 1e6))
        self._outcomes[kind][RIGHT if took_s <= self._orders.deadline_s else LATE] += 1

    def _give_up(self, connection: Exchange, kind: str) -> None:
        self._busy.discard(connection)
        connection.abort()
        self._outcomes[kind][TIMED_OUT] += 1
        self._reopen()

    def _pack_caller(self, token: str) -> "_Caller":
        event = f"/v1/events/{self._orders.event_id}"
        rest = f" HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {token}\r\n"
        return _Caller(
            hold=_with_body(f"POST {event}/holds{rest}", '{"items":[{"section":"floor","quantity":1}]}'),
            read=f"GET {event}/availability{rest}\r\n".encode(),
            booking=f"POST /v1/bookings{rest}",
        )


def main(orders_file: Path, tally_file: Path) -> None:
    """Do as ordered."""
    orders = msgspec.json.decode(orders_file.read_bytes(), type=Orders)
    tally_file.write_bytes(msgspec.json.encode(uvloop.run(Client(orders).run())))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
