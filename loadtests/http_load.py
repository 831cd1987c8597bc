"""Holds over HTTP as fast as they are answered: by wrk where it is installed, else by a small generator in Python."""

import asyncio
import itertools
import re
import resource
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from bench import find_program
from harness import CpuClock, Void

from holdfast.bench.connection import Asking, Connection
from holdfast.demo.client import UNANSWERED, Answer

CONNECTIONS = 64
LAST_ANSWERS_MAX_S = 10
_SCRIPT = Path(__file__).with_name("hold.lua")
_RESULT = re.compile(r"^RESULT (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)
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

    def ask(counts: Counter[bool], until_s: float) -> Asking:
        for request in requests:
            answer = _answered((yield request))
            counts[not 200 <= answer.status < 300] += 1
            if time.perf_counter() >= until_s:
                return

    return await _keep_busy(url, ask, duration_s=duration_s)


async def send_sales(
    url: str, make: Callable[[], tuple[Iterator[bytes], Callable[[bytes], bytes]]], *, duration_s: int
) -> Outcome:
    """Keep 64 connections busy with a hold and then its confirmation; *make* tells what one of them sends.

    That is requests of holds, and how a hold's id becomes the request that confirms it. Answers are those of
    confirmations, and of holds that were refused; what is not answered 201 is refused, also a booking that is not
    durable yet.

    Raises:
        Void: Connections failed.
    """

    def ask(counts: Counter[bool], until_s: float) -> Asking:
        holds, confirm = make()
        for request in holds:
            answer = _answered((yield request))
            if answer.status == 201 and (hold_id := _ID.search(answer.body)):
                answer = _answered((yield confirm(hold_id[1])))
            counts[answer.status != 201] += 1
            if time.perf_counter() >= until_s:
                return

    return await _keep_busy(url, ask, duration_s=duration_s)


async def _keep_busy(url: str, ask: Callable[[Counter[bool], float], Asking], *, duration_s: int) -> Outcome:
    """What 64 of *ask* count by whether it was refused, each on a connection of its own."""
    host, _, port = urlsplit(url).netloc.rpartition(":")
    loop = asyncio.get_running_loop()
    counts: Counter[bool] = Counter()
    cpu, began_s = CpuClock(), time.perf_counter()
    connections = [
        (await loop.create_connection(lambda: Connection(ask(counts, began_s + duration_s)), host, int(port)))[1]
        for _ in range(CONNECTIONS)
    ]
    async with asyncio.timeout(duration_s + LAST_ANSWERS_MAX_S):
        await asyncio.gather(*(connection.ended for connection in connections))
    return Outcome(
        answers=counts.total(),
        refused=counts[True],
        wall_s=time.perf_counter() - began_s,
        cpu_s=cpu.elapsed_s(),
    )


def _answered(answer: Answer) -> Answer:
    if answer.status == UNANSWERED:
        raise Void("a connection was lost")
    return answer


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
