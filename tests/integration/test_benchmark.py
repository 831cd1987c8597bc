"""The benchmark's own ground: its venues load, sell and add up, and no measurement meets what another has left."""

import asyncio
import contextlib
import datetime as dt
import importlib
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import msgspec
import psutil
import pytest
import redis
from processes_under_test import are_gone
from rich.console import Console

sys.path.append(str(Path(__file__).parents[2] / "loadtests"))  # programs, which are no package
import goal_program
import measure_stream
import measure_trail
import readme_figures
import run_goals
from bench import Bench
from harness import QUICK, Goal, Plan, Result, Void
from pipe import Pipe
from plot import Line, Panel, write_lines, write_plot
from report import Report, read_reports, write_reports
from venues import Venue, definition, sellable

import lua
from engine.keys import partition_key
from engine.transport.wire import pack_evalsha
from holdfast.admission import IN_FLIGHT

LOADTESTS = Path(goal_program.__file__).parent
GOAL = Goal(name="G0", title="nothing", must=1, aim=1)


@pytest.fixture
def venue(redis_url: str) -> Iterator[Venue]:
    with contextlib.ExitStack() as opened:
        client = opened.enter_context(redis.Redis.from_url(redis_url))
        pipe = opened.enter_context(contextlib.closing(Pipe(client.connection_pool.connection_kwargs["path"])))
        yield Venue(client, pipe, sellable(definition("arena", seats=100)))


def test_benchmarks_venue_is_loaded_and_sells_and_is_loaded_anew(venue):
    venue.load()
    assert hold(venue, "0:1;0#0", "0:1;0?2") == [b"HELD", b"HELD"]
    venue.check_held(3)
    venue.load(sold=["0:1;0#3", "0:1;0#4,5"])
    assert hold(venue, "0:1;0#0") == [b"HELD"]
    venue.check_held(1)
    venue.check()


def test_benchmark_is_void_when_its_venue_does_not_add_up(venue):
    venue.load()
    hold(venue, "0:1;0#0")
    with pytest.raises(Void, match="1 places are held, not 2 to 2"):
        venue.check_held(2)
    venue.drop_trail()
    venue._client.hincrby(venue._key("state"), "free:0:0", 1)
    with pytest.raises(Void, match="free, held and sold do not make 100"):
        venue.check_held(1)
    with pytest.raises(Void, match="invariants are broken"):
        venue.check()


async def test_benchmark_measures_each_goal_on_servers_of_its_own(monkeypatch, redis_url):
    measured: list[Bench] = []

    @contextlib.asynccontextmanager
    async def open_bench(plan: Plan) -> AsyncIterator[Bench]:
        with redis.Redis.from_url(redis_url) as client:
            yield Bench(plan, None, "", client, None, None)

    async def measure(bench: Bench) -> Sequence[Result]:
        measured.append(bench)
        return [Result(goal=GOAL, case="", figure=1, verdict=GOAL.verdict(1))]

    monkeypatch.setattr(goal_program, "open_bench", open_bench)
    for name in ("G0", "G00"):
        measurement = goal_program.Measurement(name, GOAL, measure)
        report = await goal_program.measure_goal(measurement, QUICK, Console(quiet=True))
        assert [result.figure for result in report.results] == [1]
        assert report.machine["valkey"]
    assert len({id(bench) for bench in measured}) == 2


async def test_benchmark_tells_of_a_broken_invariant_instead_of_a_figure(monkeypatch, redis_url):
    @contextlib.asynccontextmanager
    async def open_bench(plan: Plan) -> AsyncIterator[Bench]:
        with redis.Redis.from_url(redis_url) as client:
            yield Bench(plan, None, "", client, None, None)

    async def measure(_: Bench) -> Sequence[Result]:
        raise Void("a seat was sold twice")

    monkeypatch.setattr(goal_program, "open_bench", open_bench)
    report = await goal_program.measure_goal(goal_program.Measurement("G0", GOAL, measure), QUICK, Console(quiet=True))
    assert report.is_void
    assert "a seat was sold twice" in report.results[0].note


def test_benchmark_keeps_what_an_earlier_run_found(tmp_path):
    path = tmp_path / "goals.json"
    write_reports({"G2": report_of(2), "G1": report_of(1)}, path)
    merged = run_goals.merge(read_reports(path), {"G1": report_of(3)})
    assert [(name, report.results[0].figure) for name, report in merged.items()] == [("G1", 3), ("G2", 2)]


def test_benchmark_leaves_slow_goals_out_of_a_quick_run_unless_they_are_named():
    names = [each.name for each in run_goals.MEASUREMENTS]
    quick = [each.name for each in run_goals.choose(run_goals.MEASUREMENTS, [], quick=True)]
    assert set(names) - set(quick) == {each.name for each in run_goals.MEASUREMENTS if each.slow} != set()
    assert [each.name for each in run_goals.choose(run_goals.MEASUREMENTS, ["G8"], quick=True)] == ["G8"]
    assert [each.name for each in run_goals.choose(run_goals.MEASUREMENTS, [], quick=False)] == names


def test_benchmarks_plot_and_table_show_every_figure_and_what_is_only_to_be_told(tmp_path):
    told = Result(goal=Goal(name="G00", title="<told>"), case="", figure=0.5, verdict="told")
    reports = {"G0": report_of(2), "G00": msgspec.structs.replace(report_of(1), results=[told])}
    write_plot(reports, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text("utf-8")
    assert "G0 nothing" in drawn
    assert "G00 &lt;told&gt;" in drawn
    table = readme_figures.figures(reports)
    assert "| G0 nothing | 2 |" in table
    assert "| G00 <told> | 0.5 |  |  |  |" in table


def report_of(figure: float) -> Report:
    result = Result(goal=GOAL, case="", figure=figure, verdict=GOAL.verdict(figure), low=figure / 2, high=figure * 2)
    machine = {"cpu": "a", "cores": 2, "python": "3", "valkey": "9"}
    return Report(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), False, machine, [result])


@pytest.mark.parametrize("program", sorted(path.stem for path in LOADTESTS.glob("measure_*.py")))
def test_measurement_finds_all_that_it_imports(program):
    assert importlib.import_module(program).__doc__


def hold(venue: Venue, *wishes: str) -> list[bytes]:
    return [reply[0] for reply in venue._pipe.send([venue.hold_wire(wish) for wish in wishes])]


def test_benchmarks_lines_are_drawn_for_rates_and_latencies(tmp_path):
    latency = Panel("ms", [Line("p50", [(100, 1.5), (200, 2)]), Line("p99", [(100, 9), (200, 80)])], is_log=True)
    write_lines([latency, Panel("a second", [Line("goodput", [(100, 100), (200, 150)])])], tmp_path / "lines.svg")
    drawn = (tmp_path / "lines.svg").read_text("utf-8")
    assert drawn.count("<polyline") == 3
    assert ">p99</text>" in drawn


def test_benchmarks_hold_without_its_line_of_the_trail_is_the_same_hold(venue: Venue) -> None:
    """The line is cut out of the script's source, which may change."""
    cut = measure_trail.without_line()
    venue.load()
    hold(venue, "0:1;0#0")  # without a hold no claim is the usual one
    venue._pipe.ask("SCRIPT", "LOAD", cut.source)
    trail = partition_key(venue._partition, "trail")
    lines = venue._client.xlen(trail)

    wires = [
        pack_evalsha(script.sha, venue.keys("hold_places"), venue.hold_arguments(f"0:1;0#{seat}"))
        for seat, script in enumerate((cut, lua.load("hold_places")), start=1)
    ]

    assert [reply[0] for reply in venue._pipe.send(wires[:1])] == [b"HELD"]
    assert venue._client.xlen(trail) == lines
    assert [reply[0] for reply in venue._pipe.send(wires[1:])] == [b"HELD"]
    assert venue._client.xlen(trail) == lines + 1
    venue.check_held(3)
    venue.check()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}", "503 Service Unavailable"),
        (b"", "a connection was lost"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "nothing was heard of them"),
    ],
    ids=["refused", "cut off", "told nothing"],
)
async def test_measurement_with_listeners_is_void_and_ends_when_not_all_are_let_in(
    answer: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_stream, "JOIN_WAIT_S", 30.0 if "nothing" not in words else 1.0)
    monkeypatch.setattr(measure_stream, "LISTENERS", 10)
    open_for_ever = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if answer:
            await open_for_ever.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        with pytest.raises(Void, match=words):
            async with measure_stream.listeners(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "/x", "t"):
                pass
    finally:
        open_for_ever.set()
        server.close()

    left = [child for child in psutil.Process().children(recursive=True) if "stream_listeners" in str(child.cmdline())]
    assert are_gone(left)


async def test_measurement_with_listeners_asks_for_no_more_at_once_than_a_worker_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure_stream, "LISTENERS", 100)
    ended = asyncio.Event()
    waiting = most = let_in = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting, most, let_in
        await reader.readuntil(b"\r\n\r\n")
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0.05)  # all come meanwhile who do not wait for others
        waiting -= 1
        let_in += 1
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nevent: a\ndata: 1\n\nevent: b\ndata: 2\n\n")
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        async with measure_stream.listeners(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "/x", "t"):
            assert let_in == 100
    finally:
        ended.set()
        server.close()

    assert 1 < most <= IN_FLIGHT // 2
