"""What profiles of API requests share: a worker that looks at itself, its CPU time by stage, and two tables of it."""

import asyncio
import contextlib
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import click
import httpx2
import msgspec
import uvloop
from bench import Bench, open_bench
from harness import FULL
from http_load import Outcome
from measure_http import CUSTOMERS, PLACES, Worker, running_worker
from rich.console import Console
from rich.table import Table
from venues import definition

from holdfast.bench.machine import this_machine
from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

PROFILE_WAIT_S = 10.0
FUNCTIONS_SHOWN = 20
LOOP = "event loop and system calls of its own"

Stages = Sequence[tuple[str, str]]
"""Names of stages and regular expressions of ``file:function``. Of a stack the innermost frame that any of them matches
says what the time was spent on, the first of them that does; what none matches is the event loop's."""


class Profile(msgspec.Struct, frozen=True):
    """CPU microseconds of one operation, and how the samples are spread."""

    operation: str
    generator: str
    us: float
    per_second: float
    stacks: Counter[str]


class Profiled(msgspec.Struct, frozen=True):
    """A worker that is being looked at, and an event on sale."""

    bench: Bench
    worker: Worker
    event_id: str
    tokens: Sequence[str]


Drive = Callable[[Profiled, int], Awaitable[Outcome]]
"""Keeps the worker busy for so many seconds."""


async def profile(bench: Bench, drive: Drive, *, operation: str, generator: str, seconds: int) -> Profile:
    """Have *drive* keep a worker busy that looks at itself, and read what it saw."""
    stacks_file = bench.scratch / "stacks"
    async with _profiled(bench, stacks_file) as profiled:
        await drive(profiled, 1)
        began_s = profiled.worker.cpu_s()
        outcome = await drive(profiled, seconds)
        us = (profiled.worker.cpu_s() - began_s) / outcome.answers * 1e6
    async with asyncio.timeout(PROFILE_WAIT_S):
        while not stacks_file.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.1)
    stacks: Counter[str] = Counter()
    for line in stacks_file.read_text("utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        if "run_until_complete" in stack or "Runner.run" in stack:
            stacks[stack] += int(count)
    return Profile(operation, generator, us, outcome.answers / outcome.wall_s, stacks)


@contextlib.asynccontextmanager
async def _profiled(bench: Bench, stacks_file: Path) -> AsyncIterator[Profiled]:
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    document: dict[str, Any] = definition("counted", places=PLACES)
    event = f"/v1/events/{document['id']}"
    environment = {SETTINGS_VARIABLE: encode_settings(bench.settings), "HOLDFAST_PROFILE": str(stacks_file)}
    worker = str(Path(__file__).with_name("profiled_worker.py"))
    async with running_worker([worker], environment) as api:
        async with httpx2.AsyncClient(base_url=api.url, headers=organizer, trust_env=False, timeout=60) as client:
            (await client.post("/v1/events", json=document)).raise_for_status()
            (await client.post(f"{event}/open")).raise_for_status()
        yield Profiled(bench, api, document["id"], tokens)


def by_stage(stacks: Counter[str], stages: Stages) -> Counter[str]:
    """Samples of each stage."""
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        found[_stage_of(stack, stages)] += count
    return found


def _stage_of(stack: str, stages: Stages) -> str:
    for frame in reversed(stack.split(";")):
        for name, pattern in stages:
            if re.search(pattern, frame):
                return name
    return LOOP


def by_function(stacks: Counter[str]) -> Counter[str]:
    """Samples by the function that was running, its file without the directories of others."""
    functions: Counter[str] = Counter()
    for stack, count in stacks.items():
        file, _, name = stack.rpartition(";")[2].rpartition(":")
        functions[f"{name} ({'/'.join(Path(file).parts[-2:])})"] += count
    return functions


def print_profile(found: Profile, stages: Stages, console: Console) -> None:
    """Two tables: stages, and functions."""
    where, total = this_machine(), found.stacks.total()
    console.print(
        f"{where.cpu}, {where.cores} cores, Python {where.python}; {found.generator}: "
        f"{found.per_second:,.0f} {found.operation}s/s, {found.us:.0f} µs of the worker's CPU each, {total:,} samples"
    )
    shown = (
        ("stage", by_stage(found.stacks, stages).most_common()),
        ("function", by_function(found.stacks).most_common(FUNCTIONS_SHOWN)),
    )
    for heading, counts in shown:
        table = Table(show_edge=False, pad_edge=False)
        table.add_column(heading)
        table.add_column("µs", justify="right")
        table.add_column("share", justify="right")
        for name, count in counts:
            table.add_row(name, f"{count / total * found.us:.1f}", f"{count / total:.0%}")
        console.print(table)


def run_profile(drive: Drive, stages: Stages, *, operation: str, generator: str) -> None:
    """The program of one profile."""

    @click.command(help=f"Profile a {operation}, print where its time goes.")
    @click.option("--seconds", default=10, show_default=True, type=click.IntRange(1, 60))
    def program(seconds: int) -> None:
        async def run() -> Profile:
            async with open_bench(FULL) as bench:
                return await profile(bench, drive, operation=operation, generator=generator, seconds=seconds)

        print_profile(uvloop.run(run()), stages, Console(width=None if sys.stdout.isatty() else 120))

    program()
