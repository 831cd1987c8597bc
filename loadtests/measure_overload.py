"""G9: holds that arrive at twice the capacity, with admission control and without.

The capacity is what 64 connections get answered in a closed loop, of the same process, just before: what arrives at a
multiple of it comes from ``arrivals.py``. The API's process has one core, everything else the other cores: twice as
many requests cost the generator twice as much, and where it takes that from the server, it looks like overload.
"""

import itertools
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import psutil  # type: ignore[import-untyped]
from arrivals import Point, Shape, Target, drive
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Goal, Result, Void
from http_load import send_requests
from measure_http import Worker, running_worker
from venues import definition

from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

GOODPUT = Goal(name="G9", title="open loop at twice capacity: goodput / peak", must=0.85, aim=0.95)
LATENCY = Goal(name="G9", title="admitted p99 at twice capacity / p99 at 70 % load", must=4, aim=2, is_ceiling=True)

PLACES = 10_000_000
CUSTOMERS = 256
CAPACITY_S = 2
_CORES = os.sched_getaffinity(0)
UNBOUNDED = 65_536
SHAPE = Shape(seconds=3.0, processes=1, connections=2_000, timeout_s=2.0)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One rate: what came of it, and the CPU of the API's process for each request that arrived.

    ``refused_before`` is the share of refusals in the closed loop that the capacity is taken from; it must be 0.
    """

    refused_before: float
    capacity: float
    factor: float
    point: Point
    cpu_us: float

    @property
    def goodput(self) -> float:
        """As a share of the capacity."""
        return self.point.goodput / self.capacity

    def __str__(self) -> str:
        refused = self.point.outcomes.get("503", 0) / self.point.rate / SHAPE.seconds
        others = {name: count for name, count in self.point.outcomes.items() if name not in ("right", "503")}
        point = self.point
        return (
            f"{self.factor:4.1f}x of {self.capacity:5.0f}/s: goodput {self.goodput:4.2f}, refused {refused:4.2f}"
            f" (of 64 connections {self.refused_before:4.2f}), p50 {point.p50_ms:6.1f} ms, p99 {point.p99_ms:6.1f} ms,"
            f" {self.cpu_us:4.0f} µs, generator late by {point.generator_lag_ms:4.0f} ms {others or ''}"
        )


async def measure(bench: Bench) -> list[Result]:
    """In turns: 70 % and twice the capacity with the default bound, and twice the capacity without one."""
    variants = {"with": bench.settings, "without": msgspec.structs.replace(bench.settings, in_flight=UNBOUNDED)}
    seen = await see(bench, variants, (0.7, 2.0), rounds=bench.plan.pairs)
    if refused := [one.refused_before for every in seen.values() for one in every if one.refused_before]:
        raise Void(f"{max(refused):.0%} of the requests of 64 connections were refused")
    results = []
    for name in variants:
        low, high = seen[name, 0.7], seen[name, 2.0]
        parts = {
            "capacity": statistics.median(one.capacity for one in high),
            "p50 ms": statistics.median(one.point.p50_ms for one in high),
            "p99 ms": statistics.median(one.point.p99_ms for one in high),
            "p99 ms at 70 %": statistics.median(one.point.p99_ms for one in low),
        }
        goodputs = [one.goodput for one in high]
        latencies = [two.point.p99_ms / one.point.p99_ms for one, two in zip(low, high, strict=True)]
        for goal, ratios in ((GOODPUT, goodputs), (LATENCY, latencies)):
            figure = statistics.median(ratios)
            verdict = goal.verdict(figure) if name == "with" else "told"
            case = f"holds, {name} admission control"
            results.append(Result(goal=goal, case=case, figure=figure, verdict=verdict, parts=parts, ratios=ratios))
    return results


async def see(
    bench: Bench, variants: Mapping[str, Any], factors: Sequence[float], *, rounds: int, case: str = "holds"
) -> dict[tuple[str, float], list[Seen]]:
    """Each of *variants*, which are settings, at each of *factors*, in turns; a fresh process for each."""
    rest = _keep_one_core()
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    event = definition("overload", places=PLACES)
    await _open_event(bench, event)
    seen: dict[tuple[str, float], list[Seen]] = {}
    for number in range(rounds):
        for name in list(variants)[:: -1 if number % 2 else 1]:
            arguments = {SETTINGS_VARIABLE: encode_settings(variants[name])}
            async with running_worker(["-m", "holdfast.worker"], arguments) as api:
                for process in api.processes:
                    process.cpu_affinity(list(_CORES - rest) or list(rest))
                target = Target(api.url, bench.settings, event, tokens)
                for factor in factors:
                    one = await _see_one(api, target, factor, case)
                    seen.setdefault((name, factor), []).append(one)
    return seen


def _keep_one_core() -> set[int]:
    """Confine this program, and all that it has started, to all cores but one; the cores that it has then."""
    rest = _CORES - {min(_CORES)} or _CORES
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        process.cpu_affinity(list(rest))
    return rest


async def _see_one(api: Worker, target: Target, factor: float, case: str) -> Seen:
    outcome = await send_requests(api.url, _requests(target), duration_s=CAPACITY_S)
    capacity = (outcome.answers - outcome.refused) / outcome.wall_s
    cpu_s = api.cpu_s()
    point = await drive(target, msgspec.structs.replace(SHAPE, profile=case), capacity * factor)
    cpu_us = (api.cpu_s() - cpu_s) / (point.offered * SHAPE.seconds) * 1e6
    return Seen(
        refused_before=outcome.refused / outcome.answers, capacity=capacity, factor=factor, point=point, cpu_us=cpu_us
    )


async def _open_event(bench: Bench, event: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    async with (
        running_worker(["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(bench.settings)}) as api,
        httpx2.AsyncClient(base_url=api.url, headers=headers, trust_env=False, timeout=60) as client,
    ):
        (await client.post("/v1/events", json=event)).raise_for_status()
        (await client.post(f"/v1/events/{event['id']}/open")).raise_for_status()


def _requests(target: Target) -> Iterator[bytes]:
    body = '{"items":[{"section":"floor","quantity":1}]}'
    return itertools.cycle(
        f"POST /v1/events/{target.event['id']}/holds HTTP/1.1\r\nHost: {urlsplit(target.url).netloc}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        for token in target.tokens
    )


MEASUREMENT = Measurement("G9", GOODPUT, measure, slow=True)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
