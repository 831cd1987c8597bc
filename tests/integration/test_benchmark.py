"""The benchmark's own ground: its venues load, sell and add up, and no measurement meets what another has left."""

import contextlib
import importlib
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
import redis
from rich.console import Console

sys.path.append(str(Path(__file__).parents[2] / "loadtests"))  # programs, which are no package
import bench_hold
from bench import Bench
from harness import QUICK, Goal, Plan, Result, Void
from pipe import Pipe
from venues import Venue, definition, sellable

LOADTESTS = Path(bench_hold.__file__).parent
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

    monkeypatch.setattr(bench_hold, "open_bench", open_bench)
    monkeypatch.setattr(bench_hold, "MEASUREMENTS", dict.fromkeys(["G0", "G00"], bench_hold.Measurement(GOAL, measure)))
    report = await bench_hold._measure(QUICK, ["G0", "G00"], Console(quiet=True))
    assert [result.figure for result in report.results] == [1, 1]
    assert report.machine["valkey"]
    assert len({id(bench) for bench in measured}) == 2


@pytest.mark.parametrize("program", sorted(path.stem for path in LOADTESTS.glob("measure_*.py")))
def test_measurement_finds_all_that_it_imports(program):
    assert importlib.import_module(program).__doc__


def hold(venue: Venue, *wishes: str) -> list[bytes]:
    return [reply[0] for reply in venue._pipe.send([venue.hold_wire(wish) for wish in wishes])]
