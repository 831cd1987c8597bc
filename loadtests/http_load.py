"""Holds over HTTP as fast as they are answered: by wrk where it is installed, else by a small generator in Python."""

import asyncio
import itertools
import re
import resource
import secrets
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
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BODILESS = (b"204", b"304")  # whatever length they tell of
_ID = re.compile(rb'"id": *"([^"]+)"')


class Load(msgspec.Struct, frozen=True):
    """Where to send holds: every request comes from the next token; *seats_per_row* 0 takes places of the floor.

    With a *key_header* every request has one of that name, with a value that none had before.
    """

    url: str
    path: str
    tokens_file: Path
    seats_per_row: int
    key_header: str = ""


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
    arguments = ["--", str(load.tokens_file), load.path, str(load.seats_per_row), load.key_header, _run_key()]
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
    return await _by_senders(url, lambda until: _Sender(requests, until=until), duration_s=duration_s)


async def send_sales(
    url: str, make: Callable[[], tuple[Iterator[bytes], Callable[[bytes], bytes]]], *, duration_s: int
) -> Outcome:
    """Keep 64 connections busy with a hold and then its confirmation; *make* tells what one of them sends.

    That is requests of holds, and how a hold's id becomes the request that confirms it. Answers are those of
    confirmations; what is not answered 201 is refused, also a booking that is not durable yet.

    Raises:
        Void: Connections failed.
    """
    return await _by_senders(url, lambda until: _Buyer(*make(), until=until), duration_s=duration_s)


async def _by_senders(url: str, make: Callable[[float], "_Sender"], *, duration_s: int) -> Outcome:
    host, _, port = urlsplit(url).netloc.rpartition(":")
    loop = asyncio.get_running_loop()
    cpu, began = CpuClock(), time.perf_counter()
    senders = [
        (await loop.create_connection(lambda: make(began + duration_s), host, int(port)))[1] for _ in range(CONNECTIONS)
    ]
    async with asyncio.timeout(duration_s + LAST_ANSWERS_MAX_S):
        await asyncio.gather(*(sender.ended for sender in senders))
    return Outcome(
        answers=sum(sender.answers for sender in senders),
        refused=sum(sender.refused for sender in senders),
        wall_s=time.perf_counter() - began,
        cpu_s=cpu.elapsed_s(),
    )


def _run_key() -> str:
    """What the keys of one run begin with."""
    return secrets.token_hex(8)


def _requests(load: Load) -> Iterator[bytes]:
    """The same bytes as hold.lua makes."""
    host, run_key = urlsplit(load.url).netloc, _run_key()
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
        key = f"\r\n{load.key_header}: {run_key}-{number}" if load.key_header else ""
        yield f"{next(heads)}{len(body)}{key}\r\n\r\n{body}".encode()


class _Sender(asyncio.Protocol):
    """One connection: the next request goes out when the whole of an answer has come."""

    def __init__(self, requests: Iterator[bytes], *, until: float) -> None:
        self._requests = requests
        self._until = until
        self._received = b""
        self._send: Callable[[bytes], None] = lambda _: None
        self._close: Callable[[], None] = lambda: None
        self.answers = self.refused = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport
        self._send, self._close = transport.write, transport.close
        self._send(next(self._requests))

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        head, end, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        is_whole = end and (length is None or head[9:12] in _BODILESS or len(body) >= int(length[1]))
        self._received = b"" if is_whole else data
        if is_whole:
            self._take(head, body)

    def _take(self, head: bytes, body: bytes) -> None:  # noqa: ARG002 - what is bought next depends on it
        self._count(is_refused=head[9:10] != b"2")

    def _count(self, *, is_refused: bool) -> None:
        self.answers += 1
        self.refused += is_refused
        if time.perf_counter() < self._until:
            self._send(next(self._requests))
        else:
            self._close()

    def connection_lost(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        if error is not None or time.perf_counter() < self._until:
            self.ended.set_exception(Void(f"a connection was lost: {error}"))
        else:
            self.ended.set_result(None)


class _Buyer(_Sender):
    """One connection of holds, each of them confirmed before the next."""

    def __init__(self, holds: Iterator[bytes], confirm: Callable[[bytes], bytes], *, until: float) -> None:
        super().__init__(holds, until=until)
        self._confirm = confirm
        self._is_held = False

    def _take(self, head: bytes, body: bytes) -> None:
        is_made = head[9:12] == b"201"
        hold_id = None if self._is_held else _ID.search(body)
        self._is_held = is_made and hold_id is not None
        if self._is_held and hold_id is not None:
            self._send(self._confirm(hold_id[1]))
        else:
            self._count(is_refused=not is_made)
