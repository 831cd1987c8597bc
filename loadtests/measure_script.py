"""G2: what a hold costs the server, against the least that a script can cost."""

import asyncio
import csv
import random
import resource
import subprocess
import time

from bench import Bench, find_program
from goal_program import Measurement, run_alone
from harness import Cost, CpuClock, Goal, Measure, Result, Void, by_cpu_of, compare
from venues import SEATS_MAX_OF_GOALS as SEATS
from venues import Venue, definition

import lua
from engine.transport.wire import pack_command

G2 = Goal(name="G2", title='hold script / EVALSHA "return 1"', must=0.10, aim=0.18)

DEPTH = 16
HOLDS = 20_000
TRIVIAL_CALLS = 300_000
PLACES = 2_000_000
SEATS_REFUSED_MAX = 0.03  # seats are drawn at random: 1 % are drawn twice, 20 000 out of a million
RANDOM = "__rand_int__"  # redis-benchmark puts twelve digits below -r in its place
RANDOM_MAX = 2**31 - 1


async def measure(bench: Bench) -> list[Result]:
    """The counted place is the goal's case; a numbered seat has two bits to read and one to write more."""
    bench.pipe.ask("SCRIPT", "LOAD", lua.load("hold_places").source)
    trivial_sha = bench.pipe.ask("SCRIPT", "LOAD", "return 1").decode()
    program = find_program("valkey-benchmark", "redis-benchmark")
    note = program.rpartition("/")[2] if program else "a driver in Python: the ratio is not the goal's"

    async def trivial() -> Cost:
        return await _call(bench, program, [trivial_sha, "0"], calls=TRIVIAL_CALLS, random_max=RANDOM_MAX)

    counted = bench.venue(definition("counted", places=PLACES))
    seated = bench.venue(definition("seated", seats=SEATS))
    results = []
    for case, venue, subject in (
        ("counted place", counted, _hold(bench, program, counted, "0:1;0*1", random_max=RANDOM_MAX, refused_max=0)),
        (
            "named seat",
            seated,
            _hold(bench, program, seated, f"0:1;0#{RANDOM}", random_max=SEATS, refused_max=SEATS_REFUSED_MAX),
        ),
    ):
        results.append(
            await compare(G2, case, subject, trivial, plan=bench.plan, cpu_metric=by_cpu_of("valkey"), note=note)
        )
        venue.check()
        venue.forget()
    return results


def _hold(
    bench: Bench, program: str | None, venue: Venue, places: str, *, random_max: int, refused_max: float
) -> Measure:
    keys = [key.decode() for key in venue.keys("hold_places").keys]
    arguments = [argument.decode() for argument in venue.hold_arguments(places, hold_id=RANDOM + RANDOM)]
    words = [lua.load("hold_places").sha.decode(), str(len(keys)), *keys, *arguments]

    async def measure() -> Cost:
        venue.load()
        cost = await _call(bench, program, words, calls=HOLDS, random_max=random_max)
        venue.check_held(round(cost.operations * (1 - refused_max)), cost.operations)
        return cost

    return measure


async def _call(bench: Bench, program: str | None, words: list[str], *, calls: int, random_max: int) -> Cost:
    """Run ``EVALSHA`` of *words* over and over."""
    count = bench.plan.count(calls)
    server_cpu_s = bench.server_cpu_s()
    if program is None:
        client_cpu = CpuClock()
        wall_s = _call_from_python(bench, words, count=count, random_max=random_max)
    else:
        client_cpu = CpuClock(resource.RUSAGE_CHILDREN)
        wall_s = await asyncio.to_thread(
            _call_from_program, program, bench.socket_path, words, count=count, random_max=random_max
        )
    cpu_s = {"client": client_cpu.elapsed_s(), "valkey": bench.server_cpu_s() - server_cpu_s}
    return Cost(operations=count, wall_s=wall_s, cpu_s=cpu_s)


def _call_from_program(program: str, socket_path: str, words: list[str], *, count: int, random_max: int) -> float:
    options = ["-s", socket_path, "-c", "1", "-P", str(DEPTH), "-n", str(count), "-r", str(random_max), "--csv"]
    ended = subprocess.run(
        [program, *options, "EVALSHA", *words], capture_output=True, text=True, timeout=120, check=False
    )
    # Its progress is written over itself with carriage returns; figures stand in the last two lines.
    header, *rows = csv.reader(line for line in ended.stdout.replace("\r", "\n").splitlines() if line.startswith('"'))
    if ended.returncode or len(rows) != 1:
        raise Void(f"{program} answered {ended.stdout[-300:]!r} {ended.stderr[-300:]!r}")
    return count / float(dict(zip(header, rows[0], strict=True))["rps"])


def _call_from_python(bench: Bench, words: list[str], *, count: int, random_max: int) -> float:
    wires = []
    for _ in range(count):
        drawn = [word.replace(RANDOM, f"{random.randrange(random_max):012d}") for word in words]
        wires.append(pack_command("EVALSHA", *drawn))
    began = time.perf_counter()
    bench.pipe.send(wires, depth=DEPTH)
    return time.perf_counter() - began


MEASUREMENT = Measurement("G2", G2, measure)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
