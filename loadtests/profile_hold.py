"""Where the microseconds of a hold go in the API's process: ``python loadtests/profile_hold.py [--seconds N]``.

Starts servers and one worker of its own, keeps 64 connections busy with holds of a counted place, as G1 does, and
prints a table of CPU time by stage, and of the functions that take most of it. The sampler itself makes the worker a
little slower, and time of the event loop may fall to the first function that it calls: shares are what to look at.
"""

import asyncio
import re
import sys
from collections import Counter
from pathlib import Path

import click
import httpx2
import msgspec
import uvloop
from bench import Bench, open_bench
from harness import FULL
from http_load import Load, generator_name, send
from measure_http import CUSTOMERS, PLACES, running_worker
from rich.console import Console
from rich.table import Table
from venues import definition

from holdfast.bench.machine import this_machine
from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

PROFILE_WAIT_S = 10.0
FUNCTIONS_SHOWN = 20
# The innermost frame that one of these matches says what the time was spent on; the first match counts.
STAGES = (
    ("metrics", r"/engine/figures\.py"),
    ("transport to Redis, and waiting for it", r"/engine/(transport/|kernel|keys|time_limits)"),
    ("claim, places, ids, the hold as a value", r"/engine/"),
    ("JSON in and out, the answer's headers", r"/api/(decoding|holds|answers)\.py"),
    ("route, token, body, idempotency", r"/api/"),
    ("HTTP: parsing, tasks, writing", r"/(uvicorn|holdfast/http_protocol)"),
    ("event loop and system calls of its own", r""),
)


class Profile(msgspec.Struct, frozen=True):
    """CPU microseconds of one hold, and how the samples are spread."""

    hold_us: float
    holds_per_s: float
    stacks: Counter[str]


async def profile(bench: Bench, seconds: int) -> Profile:
    """Drive a worker that looks at itself, and read what it saw."""
    tokens_file, stacks_file = bench.scratch / "tokens", bench.scratch / "stacks"
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    tokens_file.write_text("\n".join(tokens))
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    document = definition("counted", places=PLACES)
    event = f"/v1/events/{document['id']}"
    environment = {SETTINGS_VARIABLE: encode_settings(bench.settings), "HOLDFAST_PROFILE": str(stacks_file)}
    worker = str(Path(__file__).with_name("profiled_worker.py"))
    async with running_worker([worker], environment) as api:
        async with httpx2.AsyncClient(base_url=api.url, headers=organizer, trust_env=False, timeout=60) as client:
            (await client.post("/v1/events", json=document)).raise_for_status()
            (await client.post(f"{event}/open")).raise_for_status()
        load = Load(api.url, f"{event}/holds", tokens_file, 0)
        await send(load, duration_s=1)
        began_s = api.cpu_s()
        outcome = await send(load, duration_s=seconds)
        hold_us = (api.cpu_s() - began_s) / outcome.answers * 1e6
    async with asyncio.timeout(PROFILE_WAIT_S):
        while not stacks_file.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.1)
    stacks: Counter[str] = Counter()
    for line in stacks_file.read_text("utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        if "run_until_complete" in stack or "Runner.run" in stack:
            stacks[stack] += int(count)
    return Profile(hold_us, outcome.answers / outcome.wall_s, stacks)


def by_stage(stacks: Counter[str]) -> Counter[str]:
    """Samples of each stage."""
    stages: Counter[str] = Counter()
    for stack, count in stacks.items():
        innermost = stack.rpartition(";")[2]
        stages[next(name for name, pattern in STAGES if re.search(pattern, innermost))] += count
    return stages


def by_function(stacks: Counter[str]) -> Counter[str]:
    """Samples by the function that was running, its file without the directories of others."""
    functions: Counter[str] = Counter()
    for stack, count in stacks.items():
        file, _, name = stack.rpartition(";")[2].rpartition(":")
        functions[f"{name} ({'/'.join(Path(file).parts[-2:])})"] += count
    return functions


def print_profile(found: Profile, console: Console) -> None:
    """Two tables: stages, and functions."""
    where, total = this_machine(), found.stacks.total()
    console.print(
        f"{where.cpu}, {where.cores} cores, Python {where.python}; {generator_name()}: "
        f"{found.holds_per_s:,.0f} holds/s, {found.hold_us:.0f} µs of the worker's CPU each, {total:,} samples"
    )
    shown = (
        ("stage", by_stage(found.stacks).most_common()),
        ("function", by_function(found.stacks).most_common(FUNCTIONS_SHOWN)),
    )
    for heading, counts in shown:
        table = Table(show_edge=False, pad_edge=False)
        table.add_column(heading)
        table.add_column("µs", justify="right")
        table.add_column("share", justify="right")
        for name, count in counts:
            table.add_row(name, f"{count / total * found.hold_us:.1f}", f"{count / total:.0%}")
        console.print(table)


@click.command()
@click.option("--seconds", default=10, show_default=True, type=click.IntRange(1, 60))
def main(seconds: int) -> None:
    """Profile a hold, print where its time goes."""

    async def run() -> Profile:
        async with open_bench(FULL) as bench:
            return await profile(bench, seconds)

    print_profile(uvloop.run(run()), Console(width=None if sys.stdout.isatty() else 120))


if __name__ == "__main__":
    main()
