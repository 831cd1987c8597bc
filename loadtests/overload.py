"""Holds that arrive at a multiple of what one process of the API can do, with a core of its own for that process.

The capacity is what 64 connections get answered in a closed loop, of the same process, just before: a machine whose
speed changes is compared with itself. What arrives at a multiple of it comes from ``arrivals.py``. All else has the
other cores: twice as many requests cost the generator twice as much, and where it took that from the server, it would
look like overload.
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import psutil  # type: ignore[import-untyped]
from arrivals import Point, Shape, Target, drive
from arrivals_client import UNSENT
from bench import Bench
from harness import Void
from http_load import send_requests
from measure_http import CUSTOMERS, PLACES, Worker, running_worker
from venues import Venue, definition

from holdfast.settings import Settings, encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

CAPACITY_S = 2
REFUSED = "503"
SETTLE_S = 10.0  # for what the server still does when its callers have given up
UNBOUNDED = 65_536  # more than can be under way: no admission control
SHAPE = Shape(seconds=3.0, processes=1, connections=2_000, timeout_s=2.0)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One window: what came of it, and the CPU of the API's process for each request that arrived.

    ``refused_before`` is the share of refusals in the closed loop that the capacity is taken from; it must be 0.
    """

    multiple: float
    capacity: float
    refused_before: float
    point: Point
    cpu_us: float

    @property
    def goodput(self) -> float:
        """Right answers within the deadline, as a share of the capacity."""
        return self.point.goodput / self.capacity

    @property
    def refused(self) -> float:
        """The share of what arrived that was refused at once."""
        return self._share(REFUSED)

    @property
    def unsent(self) -> float:
        """The share of what was due that never left, because so much was outstanding: it was no load."""
        return self._share(UNSENT)

    def _share(self, outcome: str) -> float:
        return self.point.outcomes.get(outcome, 0) / sum(self.point.outcomes.values())


async def see(
    bench: Bench, variants: Mapping[str, Settings], multiples: Sequence[float], *, rounds: int, shape: Shape = SHAPE
) -> dict[tuple[str, float], list[Seen]]:
    """Each of *variants* at each of *multiples* of its capacity, in turns; a fresh process for each.

    Raises:
        Void: More or less is held than was acknowledged, or the event's state contradicts itself.
    """
    seen: dict[tuple[str, float], list[Seen]] = {}
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    document = definition("overload", places=PLACES)
    with cores_apart() as core:
        venue = await _open_event(bench, document)
        for number in range(rounds):
            for name in list(variants)[:: -1 if number % 2 else 1]:
                async with _running(variants[name]) as api:
                    confine(api.processes, core)
                    target = Target(api.url, bench.settings, document, tokens)
                    for multiple in multiples:
                        one = await _see_one(api, target, venue, multiple, shape)
                        seen.setdefault((name, multiple), []).append(one)
        venue.check()
    return seen


@contextlib.contextmanager
def cores_apart() -> Iterator[Sequence[int]]:
    """Keep this program, and all that it has started, off one core, which is yielded, until the block ends.

    Where there is but one, all share it.
    """
    cores = sorted(os.sched_getaffinity(0))
    try:
        confine(_all_of_us(), cores[1:] or cores)
        yield cores[:1]
    finally:
        confine(_all_of_us(), cores)


def confine(processes: Sequence[psutil.Process], cores: Sequence[int]) -> None:
    """Let every thread of *processes* run on *cores* only."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has just ended
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cores)


def _all_of_us() -> Sequence[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


async def _see_one(api: Worker, target: Target, venue: Venue, multiple: float, shape: Shape) -> Seen:
    venue.forget()
    await _reload(api, target)
    closed = await send_requests(api.url, _requests(target), duration_s=CAPACITY_S)
    capacity = (closed.answers - closed.refused) / closed.wall_s
    cpu_s = api.cpu_s()
    point = await drive(target, shape, capacity * multiple)
    arrived = sum(point.outcomes.values())
    cpu_us = (api.cpu_s() - cpu_s) / arrived * 1e6
    made = closed.answers - closed.refused + point.held
    await _check_held(venue, made, made + arrived - point.held)  # a hold may be made that nobody heard of
    return Seen(
        multiple=multiple,
        capacity=capacity,
        refused_before=closed.refused / closed.answers,
        point=point,
        cpu_us=cpu_us,
    )


async def _check_held(venue: Venue, least: int, most: int) -> None:
    """Once nothing is under way any more, as many places are held as were acknowledged."""
    async with asyncio.timeout(SETTLE_S) as settling:
        while True:
            try:
                return venue.check_held(least, most)
            except Void:
                left_s = (settling.when() or 0.0) - asyncio.get_running_loop().time()
                if left_s < 1:
                    raise
            await asyncio.sleep(0.2)


async def _reload(api: Worker, target: Target) -> None:
    headers = {"authorization": f"Bearer {target.tokens[0]}"}
    async with httpx2.AsyncClient(base_url=api.url, headers=headers, trust_env=False, timeout=60) as client:
        (await client.get(f"/v1/events/{target.event['id']}/availability")).raise_for_status()


async def _open_event(bench: Bench, document: dict[str, Any]) -> Venue:
    headers = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    async with (
        _running(bench.settings) as api,
        httpx2.AsyncClient(base_url=api.url, headers=headers, trust_env=False, timeout=60) as client,
    ):
        (await client.post("/v1/events", json=document)).raise_for_status()
        (await client.post(f"/v1/events/{document['id']}/open")).raise_for_status()
    return bench.venue(document)


def _running(settings: Settings) -> contextlib.AbstractAsyncContextManager[Worker]:
    """One worker; what it would warn of in every other request past its capacity is in the outcomes."""
    quiet = msgspec.structs.replace(settings, log_level="error")
    return running_worker(["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(quiet)})


def _requests(target: Target) -> Iterator[bytes]:
    body = '{"items":[{"section":"floor","quantity":1}]}'
    return itertools.cycle(
        f"POST /v1/events/{target.event['id']}/holds HTTP/1.1\r\nHost: {urlsplit(target.url).netloc}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        for token in target.tokens
    )
