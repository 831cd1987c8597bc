"""G9: holds and bookings in an open loop up to three times the capacity, with admission control and without.

``python loadtests/measure_overload.py [--seconds N]`` prints the table. Arrivals come at fixed intervals whatever was
answered; latency counts from when a request was due. The capacity is what 64 connections get answered in a closed loop.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import click
import httpx2
import msgspec
import uvloop
from bench import open_bench
from harness import QUICK
from http_load import send_requests
from measure_http import running_worker
from venues import definition

from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

WARM_UP_S = 1.0
CONNECTIONS_MAX = 1_500
GIVE_UP_S = 3.0
SENT_AT_ONCE_MAX = 8
UNBOUNDED = {"in_flight": 65_536}


class _Client(asyncio.Protocol):
    def __init__(self, load: "_OpenLoad") -> None:
        self.load, self.due, self.transport = load, 0.0, None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 "):
            return
        self.load.answered(self.due, data[9:12])
        self.load.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.load.lost += 1


class _OpenLoad:
    def __init__(self) -> None:
        self.idle: deque[_Client] = deque()
        self.lost = self.unsent = self.sent = 0
        self.answers: list[tuple[float, float, bytes]] = []

    def answered(self, due: float, status: bytes) -> None:
        self.answers.append((due, time.perf_counter() - due, status))

    async def run(self, url: str, requests: Iterator[bytes], *, rate: float, seconds: float) -> dict[str, Any]:
        host, _, port = urlsplit(url).netloc.rpartition(":")
        loop = asyncio.get_running_loop()
        clients = [
            (await loop.create_connection(lambda: _Client(self), host, int(port)))[1] for _ in range(CONNECTIONS_MAX)
        ]
        self.idle.extend(clients)
        began = time.perf_counter()
        number, count = 0, int(rate * seconds)
        while number < count:
            now = time.perf_counter()
            for _ in range(SENT_AT_ONCE_MAX):  # then answers are read: a late generator must not send in clumps
                if number >= count or began + number / rate > now:
                    break
                if self.idle:
                    client = self.idle.pop()
                    client.due = began + number / rate
                    client.transport.write(next(requests))  # type: ignore[attr-defined]
                else:
                    self.unsent += 1
                number += 1
            await asyncio.sleep(0 if began + number / rate <= now else 0.001)
        await asyncio.sleep(min(GIVE_UP_S, 1.0))
        for client in clients:
            client.transport.abort()  # type: ignore[attr-defined]
        kept = [answer for answer in self.answers if answer[0] >= began + WARM_UP_S]
        good = sorted(took for _, took, status in kept if status[:1] == b"2" and took < GIVE_UP_S)
        window = seconds - WARM_UP_S
        return {
            "goodput": len([1 for due, took, status in kept if status[:1] == b"2" and due + took < began + seconds])
            / window,
            "shed": sum(status == b"503" for _, _, status in kept) / window,
            "unsent": self.unsent,
            "p50_ms": good[len(good) // 2] * 1e3 if good else 0.0,
            "p99_ms": good[int(len(good) * 0.99)] * 1e3 if good else 0.0,
        }


def _requests(url: str, tokens: list[str], path: str, body: str) -> Iterator[bytes]:
    heads = [
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        for token in tokens
    ]
    return itertools.cycle(heads)


async def _measure(seconds: float, case: str, variants: dict[str, dict[str, Any]], factors: tuple[float, ...]) -> None:
    async with open_bench(QUICK) as bench:
        organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
        tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(256)]
        event = definition("floor", places=10_000_000)
        items = '"items":[{"section":"floor","quantity":1}]'
        path, body = {
            "holds": (f"/v1/events/{event['id']}/holds", f"{{{items}}}"),
            "bookings": ("/v1/bookings", f'{{"event_id":"{event["id"]}",{items}}}'),
        }[case]
        for position, (name, changes) in enumerate(variants.items()):
            settings = msgspec.structs.replace(bench.settings, **changes)
            async with running_worker(["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(settings)}) as api:
                async with httpx2.AsyncClient(
                    base_url=api.url, headers=organizer, trust_env=False, timeout=60
                ) as client:
                    if not position:
                        (await client.post("/v1/events", json=event)).raise_for_status()
                        (await client.post(f"/v1/events/{event['id']}/open")).raise_for_status()
                requests = _requests(api.url, tokens, path, body)
                outcome = await send_requests(api.url, requests, duration_s=3)
                capacity = outcome.answers / outcome.wall_s
                print(f"{case}, {name}: capacity {capacity:.0f}/s", flush=True)
                for factor in factors:
                    cpu = api.cpu_s()
                    told = await _OpenLoad().run(api.url, requests, rate=capacity * factor, seconds=seconds)
                    busy = (api.cpu_s() - cpu) / (seconds + 1)
                    print(
                        f"  {factor:3.1f}x goodput {told['goodput']:6.0f} ({told['goodput'] / capacity:4.2f})"
                        f" shed {told['shed']:6.0f} unsent {told['unsent']:6d}"
                        f" p50 {told['p50_ms']:7.1f} p99 {told['p99_ms']:7.1f} ms; process {busy:4.2f} cores",
                        flush=True,
                    )


@click.command()
@click.option("--seconds", default=4.0)
@click.option("--case", "cases", multiple=True, default=("holds", "bookings"))
@click.option("--in-flight", "bounds", multiple=True, type=int, default=(64,))
@click.option("--factor", "factors", multiple=True, type=float, default=(0.7, 1.0, 1.5, 2.0, 3.0))
@click.option("--without/--no-without", default=True)
def main(
    seconds: float, cases: tuple[str, ...], bounds: tuple[int, ...], factors: tuple[float, ...], without: bool
) -> None:
    """Measure and print."""
    variants: dict[str, dict[str, Any]] = {"without": UNBOUNDED} if without else {}
    variants |= {f"in flight {bound}": {"in_flight": bound} for bound in bounds}
    for case in cases:
        uvloop.run(_measure(seconds, case, variants, factors))


if __name__ == "__main__":
    main()
