"""Holds over HTTP as fast as they are answered: by wrk where it is installed, else by a small generator in Python."""

import asyncio
import itertools
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from bench import find_program
from harness import CpuClock, Void

CONNECTIONS = 64
LAST_ANSWERS_MAX_S = 10
_SCRIPT = Path(__file__).with_name("hold.lua")
_RESULT = re.compile(r"^RESULT (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)
_STATUS = re.compile(rb"HTTP/1\.1 (\d)")


class Load(msgspec.Struct, frozen=True):
    """Where to send holds: every request comes from the next token; *seats_per_row* 0 takes places of the floor."""

    url: str
    path: str
    tokens_file: Path
    seats_per_row: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came back: answers, those outside of 2xx, and what the generator itself cost."""

    answers: int
    refused: int
    wall_s: float
    cpu_s: float


def generator_name() -> str:
    """Which generator is used here."""
    return "wrk" if find_program("wrk") else "a generator in Python"


async def send(load: Load, *, duration_s: int) -> Outcome:
    """Keep 64 connections busy.

    Raises:
        Void: Connections failed.
    """
    program = find_program("wrk")
    if program is None:
        return await send_requests(load.url, _requests(load), duration_s=duration_s)
    cpu = CpuClock(resource.RUSAGE_CHILDREN)
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{duration_s}s", "-s", str(_SCRIPT), load.url]
    arguments = ["--", str(load.tokens_file), load.path, str(load.seats_per_row)]
    process = await asyncio.create_subprocess_exec(program, *options, *arguments, stdout=asyncio.subprocess.PIPE)
    printed = (await process.communicate())[0].decode()
    match = _RESULT.search(printed)
    if process.returncode or match is None:
        raise Void(f"wrk failed: {printed[-300:]}")
    answers, wall_us, refused, broken = map(int, match.groups())
    if broken:
        raise Void(f"{broken} connections or answers failed")
    return Outcome(answers=answers, refused=refused, wall_s=wall_us / 1e6, cpu_s=cpu.elapsed_s())


async def send_requests(url: str, requests: Iterator[bytes], *, duration_s: int) -> Outcome:
    """Keep 64 connections busy with *requests*, from this process.

    Raises:
        Void: Connections failed.
    """
    host, _, port = urlsplit(url).netloc.rpartition(":")
    loop = asyncio.get_running_loop()
    cpu, began = CpuClock(), time.perf_counter()
    senders = [
        (await loop.create_connection(lambda: _Sender(requests, until=began + duration_s), host, int(port)))[1]
        for _ in range(CONNECTIONS)
    ]
    async with asyncio.timeout(duration_s + LAST_ANSWERS_MAX_S):
        await asyncio.gather(*(sender.ended for sender in senders))
    return Outcome(
        answers=sum(sender.answers for sender in senders),
        refused=sum(sender.refused for sender in senders),
        wall_s=time.perf_counter() - began,
        cpu_s=cpu.elapsed_s(),
    )


def _requests(load: Load) -> Iterator[bytes]:
    """The same bytes as hold.lua makes."""
    host = urlsplit(load.url).netloc
    heads = itertools.cycle(
        f"POST {load.path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
        for token in load.tokens_file.read_text().split()
    )
    for number in itertools.count():
        if load.seats_per_row:
            row, position = divmod(number, load.seats_per_row)
            body = f'{{"items":[{{"section":"stalls","seats":["R{row}-{position + 1}"]}}]}}'
        else:
            body = '{"items":[{"section":"floor","quantity":1}]}'
        yield f"{next(heads)}{len(body)}\r\n\r\n{body}".encode()


class _Sender(asyncio.Protocol):
    """One connection: the next request goes out when an answer has come. Answers here fit into one segment."""

    def __init__(self, requests: Iterator[bytes], *, until: float) -> None:
        self._requests = requests
        self._until = until
        self._send: Callable[[bytes], None] = lambda _: None
        self._close: Callable[[], None] = lambda: None
        self.answers = self.refused = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport
        self._send, self._close = transport.write, transport.close
        self._send(next(self._requests))

    def data_received(self, data: bytes) -> None:
        status = _STATUS.match(data)
        if status is None:  # the body of an answer whose head came before
            return
        self.answers += 1
        self.refused += status[1] != b"2"
        if time.perf_counter() < self._until:
            self._send(next(self._requests))
        else:
            self._close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and not self.ended.done():
            self.ended.set_exception(Void(f"a connection was lost: {error}"))
        elif not self.ended.done():
            self.ended.set_result(None)
