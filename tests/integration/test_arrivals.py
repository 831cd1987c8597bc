"""The open load keeps its word: what is due leaves when it is due, and how long it took counts from then."""

import asyncio
import contextlib
import itertools
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import uvloop
from hdrh.histogram import HdrHistogram
from processes_under_test import ROOT, are_gone, seconds_until
from transport_servers import eventually

sys.path.append(str(Path(__file__).parents[2] / "loadtests"))  # programs, which are no package
from arrivals import Shape, Target, drive, sum_up
from arrivals_client import Client, Orders, Tally, due_times, encode_latencies
from harness import Void

from holdfast.settings import load_settings

PROGRAM = [sys.executable, str(ROOT / "loadtests" / "arrivals.py")]
IN_US = 1e-6  # what a latency is rounded down to
MADE = b'{"id":"made"}'


def environment() -> dict[str, str]:
    """As it is when asked, with the temporary directory of the test."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def orders(url: str = "", **changes: Any) -> Orders:
    """A tenth of a second of holds by one process, which waits for answers as long as a slow machine needs."""
    usual: dict[str, Any] = {
        "url": url,
        "event_id": "hall",
        "tokens": ["ana", "ben"],
        "kinds": ["holds"],
        "schedule": "constant",
        "rate": 200.0,
        "seconds": 0.1,
        "process": 0,
        "processes": 1,
        "connections": 20,
        "begin_s": time.monotonic(),
        "deadline_s": 30.0,
        "timeout_s": 30.0,
    }
    return Orders(**usual | changes)


class Stall:
    """A server that answers nothing until as many requests as it waits for have come, and then everything.

    A caller that waits for one answer before its next request waits for ever here.
    """

    def __init__(
        self, waits_for: float, *, only: bytes = b"POST", status: int = 201, answer: bytes | None = None
    ) -> None:
        self.received_s: list[float] = []
        self.opened_s = math.inf
        self._answer = answer or b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(MADE), MADE)
        self._only = only
        self._waits_for = waits_for
        self._open = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Stall":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0.05)  # to their ends, or the event loop would tell of them

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while head := await reader.readuntil(b"\r\n\r\n"):
                _, is_there, length = head.lower().partition(b"content-length: ")
                await reader.readexactly(int(length.split()[0]) if is_there else 0)
                if head.startswith(self._only):
                    await self._stall()
                writer.write(self._answer)
                if not self._answer.startswith(b"HTTP/"):
                    return

    async def _stall(self) -> None:
        self.received_s.append(time.monotonic())
        if len(self.received_s) == self._waits_for:
            self.opened_s = time.monotonic()
            self._open.set()
        await self._open.wait()


def latencies_s(encoded: str) -> list[float]:
    """Every latency of a histogram, the least first; each is a thousandth too long at most."""
    histogram = HdrHistogram.decode(encoded)
    count = histogram.get_total_count()
    return [histogram.get_value_at_percentile(100 * (number + 0.5) / count) * 1e-6 for number in range(count)]


def right_tally(values_us: Sequence[int], **changes: Any) -> Tally:
    usual: dict[str, Any] = {
        "outcomes": {"holds": {"right": len(values_us)}},
        "latencies": encode_latencies(values_us),
        "lag_s": 0.0,
        "cpu_s": 0.0,
        "held": len(values_us),
        "booked": 0,
    }
    return Tally(**usual | changes)


def all_due(processes: int, **changes: Any) -> list[float]:
    """When requests are due, of all processes together."""
    each = (due_times(orders(process=number, processes=processes, **changes)) for number in range(processes))
    return sorted(itertools.chain.from_iterable(each))


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_constant_arrivals_of_all_processes_are_one_every_interval(processes: int) -> None:
    assert all_due(processes, rate=250.0, seconds=4.0) == [number / 250 for number in range(1_000)]


@pytest.mark.parametrize("processes", [1, 3])
def test_ramp_of_all_processes_brings_as_many_by_each_moment_as_a_rate_that_grows_evenly(processes: int) -> None:
    due = all_due(processes, schedule="ramp", rate=300.0, seconds=4.0)

    assert len(due) == 300 * 4 / 2
    assert [300 * at_s**2 / (2 * 4) for at_s in due] == pytest.approx(range(len(due)))


@pytest.mark.parametrize("processes", [1, 2])
def test_steps_of_all_processes_are_quarters_of_the_rate_evenly_spread(processes: int) -> None:
    due = all_due(processes, schedule="step", rate=400.0, seconds=4.0)

    expected = [step + number / (100 * (step + 1)) for step in range(4) for number in range(100 * (step + 1))]
    assert due == pytest.approx(expected)


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_gaps_of_a_poisson_process_are_exponential_from_the_first_to_the_last(processes: int) -> None:
    due = all_due(processes, schedule="poisson", rate=500.0, seconds=20.0)

    expected = 500 * 20
    assert abs(len(due) - expected) < 4 * expected**0.5
    assert due[0] > 0
    gaps = [late - early for early, late in itertools.pairwise([0.0, *due])]
    # The statistic of Kolmogorov and Smirnov; by chance alone it is larger once in a hundred times.
    farthest = max(abs((n + 0.5) / len(gaps) - (1 - math.exp(-gap * 500))) for n, gap in enumerate(sorted(gaps)))
    assert farthest < 1.63 / len(gaps) ** 0.5
    assert abs(statistics.correlation(gaps[:-1], gaps[1:])) < 4 / len(gaps) ** 0.5


def test_poisson_arrivals_are_the_same_in_every_run_and_others_in_every_process() -> None:
    first, again, other = (
        list(due_times(orders(schedule="poisson", process=process, processes=2))) for process in (0, 0, 1)
    )

    assert first == again
    assert not set(first) & set(other)


async def test_every_request_leaves_when_it_is_due_although_none_is_answered() -> None:
    async with Stall(waits_for=20) as server:
        asked = orders(server.url, begin_s=time.monotonic() + 0.05)
        tally = await Client(asked).run()

    assert tally.outcomes == {"holds": {"right": 20}}
    assert tally.held == 20
    due_s = [asked.begin_s + at_s for at_s in due_times(asked)]
    assert all(received_s >= at_s for received_s, at_s in zip(server.received_s, due_s, strict=True))


def test_no_request_leaves_before_it_is_due_by_a_clock_of_whole_milliseconds() -> None:
    async def run() -> tuple[list[float], list[float]]:
        async with Stall(waits_for=1) as server:
            asked = orders(server.url, rate=300.0, seconds=0.5, begin_s=time.monotonic() + 0.5)
            await Client(asked).run()
        return [asked.begin_s + at_s for at_s in due_times(asked)], server.received_s

    due_s, received_s = uvloop.run(run())  # which rounds its timers, and is what the processes run on
    assert all(one_s >= at_s for one_s, at_s in zip(received_s, due_s, strict=True))


@pytest.mark.parametrize("late_s", [0.0, 0.4], ids=["in time", "by a generator that is late itself"])
async def test_latency_counts_from_when_a_request_was_due_while_the_server_stalls(late_s: float) -> None:
    async with Stall(waits_for=20) as server:
        asked = orders(server.url, begin_s=time.monotonic() - late_s)
        tally = await Client(asked).run()
        ended_s = time.monotonic()

    due_s = [asked.begin_s + at_s for at_s in due_times(asked)][::-1]  # who was due last has waited least
    took_s = latencies_s(tally.latencies)
    for took, at_s in zip(took_s, due_s, strict=True):
        assert server.opened_s - at_s - IN_US <= took <= (ended_s - at_s) * 1.001
    assert tally.lag_s >= late_s


async def test_sale_is_timed_as_one_from_its_hold_to_the_answer_of_its_booking() -> None:
    async with Stall(waits_for=20, only=b"POST /v1/bookings") as server:
        asked = orders(server.url, kinds=["sales"])
        tally = await Client(asked).run()

    assert tally.outcomes == {"sales": {"right": 20}}
    assert (tally.held, tally.booked) == (20, 20)
    due_s = [asked.begin_s + at_s for at_s in due_times(asked)][::-1]
    took_s = latencies_s(tally.latencies)
    assert all(took >= server.opened_s - at_s - IN_US for took, at_s in zip(took_s, due_s, strict=True))


async def test_kinds_are_sent_in_turn_and_read_their_own_status() -> None:
    async with Stall(waits_for=7, status=200) as server:  # which is not what a hold is answered
        tally = await Client(orders(server.url, kinds=["reads", "holds", "reads"])).run()

    assert tally.outcomes == {"reads": {"right": 13}, "holds": {"200": 7}}


async def test_request_without_an_idle_connection_is_told_as_not_sent_and_one_without_an_answer_as_timed_out() -> None:
    async with Stall(waits_for=math.inf) as server:
        tally = await Client(orders(server.url, rate=1e6, seconds=5e-6, connections=2, timeout_s=0.5)).run()

    assert tally.outcomes == {"holds": {"not sent": 3, "time-out": 2}}
    assert len(server.received_s) == 2
    assert latencies_s(tally.latencies) == []


async def test_answer_past_its_deadline_is_late_and_no_goodput() -> None:
    async with Stall(waits_for=20) as server:
        tally = await Client(orders(server.url, deadline_s=0.0)).run()

    point = sum_up([tally], Shape(seconds=0.1), 200)
    assert tally.outcomes == {"holds": {"late": 20}}
    assert len(latencies_s(tally.latencies)) == 20
    assert (point.offered, point.goodput) == (pytest.approx(200), 0)


async def test_refusals_are_told_by_status_and_have_no_part_in_the_percentiles() -> None:
    async with Stall(waits_for=20, status=503) as server:
        tally = await Client(orders(server.url)).run()

    point = sum_up([tally], Shape(seconds=0.1), 200)
    assert (point.outcomes, point.goodput, tally.held) == ({"503": 20}, 0, 0)
    assert math.isnan(point.p99_ms)


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"\r\n"], ids=["garbage", "half an answer"])
async def test_broken_connection_is_told_and_opened_anew_for_who_comes_next(answer: bytes) -> None:
    async with Stall(waits_for=1, answer=answer) as server:
        client = Client(orders(server.url, rate=40.0, seconds=0.5, connections=20))
        tally = await client.run()
        await eventually(lambda: len(client._idle) == 20, "connections are not opened anew")

    assert tally.outcomes == {"holds": {"broken": 20}}


def test_histograms_of_processes_are_one_histogram_in_the_end() -> None:
    chance = random.Random(1)
    fast = [chance.randrange(100, 2_000) for _ in range(9_000)]
    slow = [chance.randrange(200_000, 900_000) for _ in range(900)]
    stuck = [4_000_000] * 100

    together = sum_up([right_tally(fast), right_tally(slow), right_tally(stuck)], Shape(seconds=2.0), 5_000)

    alone = sum_up([right_tally([*slow, *stuck, *fast])], Shape(seconds=2.0), 5_000)
    assert together == alone
    values = sorted([*fast, *slow, *stuck])
    for found_ms, rank in ((together.p50_ms, 0.5), (together.p99_ms, 0.99), (together.p999_ms, 0.999)):
        assert found_ms == pytest.approx(values[math.ceil(rank * len(values)) - 1] / 1000, rel=1e-3)


def test_outcomes_of_processes_add_up_and_the_latest_generator_is_told() -> None:
    mixed = {"holds": {"right": 3, "503": 1}, "reads": {"not sent": 2}}
    point = sum_up(
        [right_tally([10] * 5, lag_s=0.2, cpu_s=1.0), right_tally([10] * 3, outcomes=mixed, cpu_s=2.0, booked=1)],
        Shape(seconds=2.0),
        7,
    )

    assert point.outcomes == {"right": 8, "503": 1, "not sent": 2}
    assert point.by_kind == {"holds": {"right": 8, "503": 1}, "reads": {"not sent": 2}}
    assert (point.offered, point.goodput) == (11 / 2, 8 / 2)
    assert (point.generator_lag_ms, point.generator_cpu_s, point.held, point.booked) == (200, 3.0, 8, 1)


@contextlib.asynccontextmanager
async def stalled_target(waits_for: float) -> AsyncIterator[tuple[Stall, Target]]:
    async with Stall(waits_for) as server:
        yield server, Target(server.url, load_settings({}), {"id": "hall"}, ["ana"])


async def test_processes_send_their_shares_at_once_and_are_seen_as_one() -> None:
    async with stalled_target(60) as (server, target):
        shape = Shape(schedule="constant", seconds=0.6, processes=3, connections=60, deadline_s=30, timeout_s=30)
        point = await drive(target, shape, 100)

    assert point.outcomes == {"right": 60}
    assert point.held == 60
    waited_ms = sorted((server.opened_s - received_s) * 1000 for received_s in server.received_s)
    assert point.p50_ms >= waited_ms[29]
    assert point.p99_ms >= waited_ms[58]


async def test_generator_that_loses_a_process_is_void_and_leaves_no_other() -> None:
    async with stalled_target(math.inf) as (server, target):
        shape = Shape(schedule="constant", seconds=60, processes=3, connections=30, timeout_s=60)
        driving = asyncio.create_task(drive(target, shape, 100))
        await eventually(lambda: len(server.received_s) >= 3, "nothing is sent")
        senders = [each for each in psutil.Process().children(recursive=True) if is_sender(each)]
        guards = [sender.parent() for sender in senders]
        assert len(senders) == 3
        senders[1].terminate()
        with pytest.raises(Void, match="SIGTERM"):
            await driving

    assert are_gone([*senders, *guards])


def is_sender(process: psutil.Process) -> bool:
    """One that sends, not its guard, which has the same words behind its own."""
    return any(word.endswith("arrivals_client.py") for word in process.cmdline()[1:2])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_open_load_that_is_ended_leaves_no_process_and_told_to_end_no_file(
    number: signal.Signals, private_tmp: Path
) -> None:
    arguments = ["--rate", "50", "--seconds", "60", "--output", str(private_tmp.parent / "never.json")]
    with subprocess.Popen([*PROGRAM, *arguments], env=environment(), stdout=subprocess.PIPE) as process:
        try:
            started: list[psutil.Process] = []

            def senders_run() -> bool:
                started[:] = psutil.Process(process.pid).children(recursive=True)
                return sum(map(is_sender, started)) == 2

            seconds_until(senders_run, within_s=60)
            process.send_signal(number)
            code = process.wait(timeout=30)
            seconds_until(lambda: are_gone(started), within_s=30)
        finally:
            process.kill()

    if number == signal.SIGTERM:
        assert code == 128 + signal.SIGTERM
        assert list(private_tmp.iterdir()) == []


def test_open_load_counts_all_that_was_due_and_finds_it_all_in_the_end(private_tmp: Path, tmp_path: Path) -> None:
    arguments = ["--rate", "30", "--rate", "60", "--seconds", "1", "--profile", "mix", "--schedule", "constant"]
    output = tmp_path / "arrivals.json"
    done = subprocess.run(
        [*PROGRAM, *arguments, "--deadline", "30", "--timeout", "30", "--output", str(output)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = msgspec.json.decode(output.read_bytes())
    assert [point["outcomes"] for point in report["points"]] == [{"right": 30}, {"right": 60}]
    assert [(point["held"], point["booked"]) for point in report["points"]] == [(20, 10), (40, 20)]
    for point in report["points"]:
        assert 0 < point["p50_ms"] <= point["p99_ms"] <= point["p999_ms"]
    assert output.with_suffix(".svg").read_text("utf-8").count("<polyline") == 5
    assert list(private_tmp.iterdir()) == []
