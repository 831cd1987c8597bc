"""How G9 is measured: nothing is held unheard of, cores are given back, and a load that never came is void."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

sys.path.append(str(Path(__file__).parents[2] / "loadtests"))  # programs, which are no package
import overload
from arrivals import Point, Shape
from bench import open_bench
from harness import QUICK, Void
from measure_overload import GOODPUT, LATENCY, judge
from overload import Seen, cores_apart, see
from overload_curve import draw

CORES = sorted(os.sched_getaffinity(0))
IMMEDIATE = Shape(seconds=0.5, processes=1, connections=200, deadline_s=30, timeout_s=30)


def seen(goodput: float, *, p99_ms: float = 10.0, capacity: float = 1_000.0, **changes: Any) -> Seen:
    """A window in which *goodput* of the capacity was right."""
    point: dict[str, Any] = {
        "rate": 2 * capacity,
        "offered": 2 * capacity,
        "goodput": goodput * capacity,
        "p50_ms": p99_ms / 2,
        "p99_ms": p99_ms,
        "p999_ms": p99_ms * 2,
        "outcomes": {"right": 900, "503": 1_100},
        "by_kind": {},
        "generator_lag_ms": 1.0,
        "generator_cpu_s": 1.0,
        "held": 900,
        "booked": 0,
    }
    window: dict[str, Any] = {"multiple": 2.0, "capacity": capacity, "refused_before": 0.0, "cpu_us": 50.0}
    own = {name: changes.pop(name) for name in list(changes) if name in window}
    return Seen(point=Point(**point | changes), **window | own)


@pytest.fixture
def affinity() -> Iterator[None]:
    """Put back what a test that fails may leave."""
    yield
    os.sched_setaffinity(0, CORES)


@pytest.mark.slow
async def test_window_counts_all_that_arrived_and_finds_it_held_and_gives_the_cores_back(
    affinity: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "CAPACITY_S", 1)
    async with open_bench(QUICK) as bench:
        found = await see(bench, {"usual": bench.settings}, (0.1, 0.2), rounds=1, shape=IMMEDIATE)
        children = psutil.Process().children(recursive=True)
        confined = [child for child in children if sorted(child.cpu_affinity()) != CORES]

    assert [(name, [one.multiple for one in windows]) for (name, _), windows in found.items()] == [
        ("usual", [0.1]),
        ("usual", [0.2]),
    ]
    for one in (one for windows in found.values() for one in windows):
        assert one.point.rate == pytest.approx(one.capacity * one.multiple)
        told = one.point.outcomes
        assert told["right"] + told.get("late", 0) == one.point.held
        # A machine that stands still for a moment gets what was due meanwhile all at once, and refuses some of it.
        assert one.refused + one.unsent == pytest.approx(1 - one.point.held / sum(told.values()))
        assert one.refused_before == 0
        assert one.cpu_us > 0
    assert confined == []
    assert sorted(os.sched_getaffinity(0)) == CORES


@pytest.mark.slow
async def test_window_is_void_when_less_is_held_than_was_acknowledged(
    affinity: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = overload.drive

    async def drive_and_lose(*arguments: Any) -> Point:
        point = await drive(*arguments)
        with redis.Redis.from_url(arguments[0].settings.redis_url) as store:
            (state,) = store.keys("*:overload:state")
            store.hincrby(state, "held:0:0", -1)
        return point

    monkeypatch.setattr(overload, "drive", drive_and_lose)
    monkeypatch.setattr(overload, "SETTLE_S", 1.0)
    monkeypatch.setattr(overload, "CAPACITY_S", 1)
    async with open_bench(QUICK) as bench:
        with pytest.raises(Void, match="places are held"):
            await see(bench, {"usual": bench.settings}, (0.1,), rounds=1, shape=IMMEDIATE)


@pytest.mark.skipif(len(CORES) < 2, reason="there is no core to spare")
def test_core_of_the_server_is_nobody_elses_until_the_block_ends_however_it_ends(affinity: None) -> None:
    with pytest.raises(ZeroDivisionError), cores_apart() as core:  # noqa: PT012 - how it is inside is the point
        assert list(core) == CORES[:1]
        assert sorted(os.sched_getaffinity(0)) == CORES[1:]
        raise ZeroDivisionError

    assert sorted(os.sched_getaffinity(0)) == CORES


def test_goodput_is_over_the_best_that_was_seen_of_the_process_and_latency_over_that_at_70_percent() -> None:
    low = [seen(0.7, p99_ms=10), seen(0.7, p99_ms=20), seen(0.7, p99_ms=10)]
    saturated = [seen(1.25), seen(0.9), seen(0.9)]  # the first process did more than in the closed loop
    high = [seen(1.0, p99_ms=20), seen(0.9, p99_ms=60), seen(0.9, p99_ms=30)]

    goodput, latency = judge("with", low, saturated, high)

    assert (goodput.goal, latency.goal) == (GOODPUT, LATENCY)
    assert list(goodput.ratios) == [pytest.approx(0.8), pytest.approx(0.9), pytest.approx(0.9)]
    assert list(latency.ratios) == [2, 3, 3]
    assert (goodput.figure, goodput.verdict) == (pytest.approx(0.9), "must")
    assert (latency.figure, latency.verdict) == (3, "must")
    assert goodput.low == pytest.approx(0.85)


def test_capacity_against_itself_says_how_much_the_machine_changed() -> None:
    low, high = [seen(0.7, capacity=1_000), seen(0.7, capacity=1_000)], [seen(1, capacity=800), seen(1, capacity=1_100)]

    goodput, _ = judge("with", low, high, high)

    assert (goodput.null_low, goodput.null_high) == (0.8, 1.1)


def test_figures_without_admission_control_are_only_told() -> None:
    windows = [seen(0.1), seen(0.1)]

    assert [result.verdict for result in judge("without", windows, windows, windows)] == ["told", "told"]


def test_load_that_never_left_the_generator_is_void_for_the_goal_and_told_without_a_bound() -> None:
    fine, stuck = [seen(1.0)] * 2, [seen(1.0, outcomes={"right": 900, "not sent": 100})] * 2

    with pytest.raises(Void, match="10% of what was due was not sent"):
        judge("with", fine, fine, stuck)
    assert len(judge("without", fine, fine, stuck)) == 2


def test_capacity_with_refusals_is_none() -> None:
    fine, refused = [seen(1.0)] * 2, [seen(1.0, refused_before=0.25)] * 2

    with pytest.raises(Void, match="25% of the requests of 64 connections were refused"):
        judge("with", fine, refused, fine)


def test_curve_is_drawn_past_the_points_where_nobody_was_answered(tmp_path: Path) -> None:
    curves = {
        ("bound 128", 0.5): [seen(0.5)],
        ("bound 128", 2.0): [seen(0.9), seen(0.8), seen(0.7)],
        ("no bound", 0.5): [seen(0.5)],
        ("no bound", 2.0): [seen(0.0, p99_ms=math.nan, p50_ms=math.nan)],
    }

    draw(curves, tmp_path / "curve.svg")

    drawn = (tmp_path / "curve.svg").read_text("utf-8")
    assert drawn.count("<polyline") == 4 + 3  # p50 and p99 of either; right of either, and what arrives
    assert "nan" not in drawn
    for name in ("p99, bound 128", "p50, no bound", "right, bound 128", "all that arrive"):
        assert f">{name}</text>" in drawn
