"""Ratios of two things measured in turns: what a noisy machine can still say about speed."""

import resource
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Void(Exception):
    """An invariant was broken, or an operation refused: what was measured there means nothing."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one run took; ``cpu_s`` is by the part that spent it (client, api, valkey)."""

    operations: int
    wall_s: float
    cpu_s: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.wall_s

    def cpu_us(self, part: str) -> float:
        """Microseconds of CPU that *part* spent on one operation."""
        return self.cpu_s[part] / self.operations * 1e6


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One line of PERFORMANCE.md: ``must`` and ``aim`` bound its figure from below, or from above if ``is_ceiling``.

    Where ``must`` is 0 the figure is to be told, and nothing is asked of it.
    """

    name: str
    title: str
    must: float = 0
    aim: float = 0
    is_ceiling: bool = False

    def verdict(self, figure: float) -> str:
        """How *figure* stands: ``aim``, ``must``, ``missed``, or ``told``."""
        if not self.must:
            return "told"
        sign = -1 if self.is_ceiling else 1
        if sign * figure >= sign * self.aim:
            return "aim"
        return "must" if sign * figure >= sign * self.must else "missed"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A figure and how it came about.

    ``low`` and ``high`` are the quartiles of the paired ratios; ``null_low`` and ``null_high`` the extremes of the
    subject against itself: a difference smaller than that means nothing. ``by_cpu`` is the same ratio made of CPU
    seconds rather than wall time: other programs on the machine disturb it less. ``parts`` are medians, for
    orientation.
    """

    goal: Goal
    case: str
    figure: float | None
    verdict: str
    low: float | None = None
    high: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    by_cpu: float | None = None
    parts: Mapping[str, float] = {}
    note: str = ""
    ratios: Sequence[float] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long to measure: pairs of runs, the pairs of the null run before them, and the size of one run."""

    pairs: int
    null_pairs: int
    scale: float
    http_s: int

    def count(self, operations: int) -> int:
        """*operations* of a full run, scaled."""
        return max(1, round(operations * self.scale))

    def in_short_turns(self) -> "Plan":
        """As long in all, in runs of one second: what else a shared machine does comes and goes within seconds."""
        times = max(1, self.http_s)
        return msgspec.structs.replace(self, pairs=times * self.pairs, null_pairs=times * self.null_pairs, http_s=1)


FULL = Plan(pairs=7, null_pairs=2, scale=1.0, http_s=2)
QUICK = Plan(pairs=3, null_pairs=1, scale=0.2, http_s=1)

Measure = Callable[[], Awaitable[Cost]]
Metric = Callable[[Cost], float]


def by_rate(cost: Cost) -> float:
    """Operations per second."""
    return cost.rate


def by_cpu_of(part: str) -> Metric:
    """Operations per second of CPU of one part: what it would do on a core of its own, never waiting for another."""
    return lambda cost: cost.operations / cost.cpu_s[part]


async def compare(
    goal: Goal,
    case: str,
    subject: Measure,
    baseline: Measure,
    *,
    plan: Plan,
    metric: Metric = by_rate,
    cpu_metric: Metric | None = None,
    note: str = "",
) -> Result:
    """*subject* over *baseline* by *metric*: a warm-up of each, the null run, then pairs in alternating order.

    Raises:
        Void: A run did not do what it was to do.
    """
    await baseline()
    await subject()
    null = [metric(await subject()) / metric(await subject()) for _ in range(plan.null_pairs)]
    subjects: list[Cost] = []
    baselines: list[Cost] = []
    for number in range(plan.pairs):
        for runs, measure in _in_turns(number, (subjects, subject), (baselines, baseline)):
            runs.append(await measure())
    ratios = _ratios(metric, subjects, baselines)
    low, figure, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Result(
        goal=goal,
        case=case,
        figure=figure,
        verdict=goal.verdict(figure),
        low=low,
        high=high,
        null_low=min(null),
        null_high=max(null),
        by_cpu=None if cpu_metric is None else statistics.median(_ratios(cpu_metric, subjects, baselines)),
        parts=_medians("", subjects) | _medians("baseline ", baselines),
        note=note,
        ratios=ratios,
    )


class CpuClock:
    """CPU seconds of this process, or of those of its children that have ended, since this was made."""

    def __init__(self, who: int = resource.RUSAGE_SELF) -> None:
        self._who = who
        self._began = self._now()

    def elapsed_s(self) -> float:
        """Seconds until now."""
        return self._now() - self._began

    def _now(self) -> float:
        usage = resource.getrusage(self._who)
        return usage.ru_utime + usage.ru_stime


def _in_turns(number: int, *sides: T) -> Sequence[T]:
    return sides if number % 2 == 0 else sides[::-1]


def _ratios(metric: Metric, subjects: Sequence[Cost], baselines: Sequence[Cost]) -> list[float]:
    return [metric(subject) / metric(baseline) for subject, baseline in zip(subjects, baselines, strict=True)]


def _medians(prefix: str, costs: Sequence[Cost]) -> dict[str, float]:
    medians = {f"{prefix}per second": statistics.median(cost.rate for cost in costs)}
    for part in costs[0].cpu_s:
        medians[f"{prefix}{part} µs"] = statistics.median(cost.cpu_us(part) for cost in costs)
    return medians
