"""What a process counts and measures, as plain numbers in memory; how they are told is :mod:`holdfast.metrics`'s part.

Every layer may import this, and names what it counts here, so that one list says all of it (``docs/operations.md``, a
test compares). Labels are route templates, script names, statuses and kinds: never an event, a seat or a customer.
One observation is a look-up and two additions, about a third of a microsecond: that is what a hold can afford.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

Labels = tuple[str | int | bytes, ...]
"""Values of a figure's labels; statuses come as scripts (bytes) and HTTP (int) have them, and are spelled out later."""

FAST_S = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # the group commit's BATCH_MAX is the last


class CounterState(msgspec.Struct, frozen=True):
    """A counter's values, label values spelled out."""

    name: str
    values: list[tuple[tuple[str, ...], float]]


class HistogramState(msgspec.Struct, frozen=True):
    """A histogram's cells, label values spelled out: observations per bucket, the open one behind the last bound, and
    their sum."""

    name: str
    cells: list[tuple[tuple[str, ...], list[float]]]


class FiguresState(msgspec.Struct, frozen=True):
    """All figures of one process at one moment."""

    counters: list[CounterState]
    histograms: list[HistogramState]


class Counter:
    """A number of occurrences that only grows."""

    __slots__ = ("labels", "meaning", "name", "values")

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = labels
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, *labels: str | int | bytes, count: float = 1) -> None:
        """Count *count* more."""
        self.values[labels] = self.values.get(labels, 0) + count


class Histogram:
    """How observations are spread.

    With *counted_as*, a name and a meaning, its last label is an outcome: told as a counter of that name by all
    labels, while the spread is told without it. So a call is observed once and gives both.
    """

    __slots__ = ("bounds", "cells", "counted_as", "labels", "meaning", "name")

    def __init__(
        self, name: str, meaning: str, *labels: str, bounds: Sequence[float], counted_as: tuple[str, str] | None = None
    ) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = labels
        self.bounds = tuple(bounds)
        self.counted_as = counted_as
        self.cells: dict[Labels, list[float]] = {}

    def observe(self, value: float, *labels: str | int | bytes) -> None:
        """Note one observation."""
        cell = self.cells.get(labels)
        if cell is None:
            cell = self.cells[labels] = [0] * (len(self.bounds) + 2)
        cell[bisect_left(self.bounds, value)] += 1
        cell[-1] += value


REQUESTS = Histogram(
    "holdfast_request_seconds",
    "Seconds from a request's head to its answer, by route template.",
    "method",
    "route",
    "status",
    bounds=FAST_S,
    counted_as=("holdfast_requests_total", "Requests answered, by route template and the answer's status."),
)
SCRIPTS = Histogram(
    "holdfast_script_seconds",
    "Seconds that a script takes as its caller sees it: waiting, sending, repetitions and all.",
    "script",
    "status",
    bounds=FAST_S,
    counted_as=("holdfast_script_calls_total", "Calls of scripts, by what the script answered."),
)
CALLS_SHARED = Histogram(
    "holdfast_requests_per_shared_call",
    "Requests about one event, made at the same time, in one call of a script.",
    "script",
    bounds=SIZES,
)
SNAPSHOTS = Counter(
    "holdfast_snapshot_reads_total",
    "Reads of an event's state: nothing had changed, it was read anew, or somebody else's check was shared.",
    "outcome",
)
STREAM_ENDS = Counter("holdfast_stream_ends_total", "Streams of events that ended, by why.", "reason")
COMMIT_BOOKINGS = Histogram("holdfast_commit_bookings", "Bookings in one transaction of a group commit.", bounds=SIZES)
COMMIT_SECONDS = Histogram(
    "holdfast_commit_seconds", "Seconds of one transaction of a group commit, repetitions and all.", bounds=FAST_S
)
COMMITS = Counter("holdfast_commits_total", "Bookings that went to the ledger, by what became of them.", "outcome")
PAYMENTS = Histogram(
    "holdfast_payment_seconds",
    "Seconds of one call of a payment provider.",
    "provider",
    "call",
    "outcome",
    bounds=FAST_S,
    counted_as=("holdfast_payments_total", "Calls of payment providers, by what came of them."),
)
PAYMENT_NOTICES = Counter("holdfast_payment_notices_total", "Webhooks of payment providers.", "provider", "outcome")
SERVICES = Histogram(
    "holdfast_service_seconds",
    "Seconds of one question to a pricing or inventory service, its repetition included.",
    "service",
    "outcome",
    bounds=FAST_S,
    counted_as=("holdfast_service_calls_total", "Questions to a pricing or inventory service, by what came of them."),
)
LOADS = Counter("holdfast_event_loads_total", "Events put into Redis from the ledger, each under a new epoch.")
AUDITS = Counter("holdfast_audits_total", "Audits of one event with repair that came to an end.")
DRIFT_FOUND = Counter("holdfast_drift_found_total", "Differences found between Redis and the ledger, by kind.", "kind")
DRIFT_REPAIRED = Counter("holdfast_drift_repaired_total", "Differences repaired, by kind.", "kind")
REBUILDS = Counter("holdfast_rebuilds_total", "Events built anew because Redis had lost or mistaken their state.")
REAPED = Counter("holdfast_reaped_total", "Lapsed holds that were ended although nobody asked for their places.")
DRAINED = Counter("holdfast_drained_total", "Journal entries settled by somebody else than the request that made them.")
UNRESOLVED = Counter(
    "holdfast_drift_unresolved_total",
    "Differences found that need a person, by kind; again with every audit.",
    "kind",
)
ARCHIVED = Counter("holdfast_archived_total", "Events that are over and have left Redis.")
REGRESSED = Counter("holdfast_regressed_total", "Events that Redis was found to have an older state of.")
CLOCK_JUMPS = Counter("holdfast_clock_jumps_total", "Times that Redis's clock was found to have jumped.")
SERVER_CHANGES = Counter("holdfast_server_changes_total", "Times that another Redis, or another life of it, was met.")
WAITLIST = Counter("holdfast_waitlist_total", "Entries of waitlists that came to a status, by that.", "status")
ENDED = Counter("holdfast_bookings_ended_total", "Bookings that were ended although nobody asked for it.", "kind")
BURIED = Counter("holdfast_buried_total", "Journal entries that can never be written, set aside for a person.")
PUBLISHED = Counter(
    "holdfast_published_total", "Attempts to tell a sink of an event, by what came of them.", "sink", "outcome"
)
SHED = Counter("holdfast_shed_total", "Requests refused because too many were under way, by class.", "class")
RATE_LIMITED = Counter(
    "holdfast_rate_limited_total", "Requests refused because too many came before, by the limit that says so.", "policy"
)

FIGURES: tuple[Counter | Histogram, ...] = (
    REQUESTS,
    SCRIPTS,
    CALLS_SHARED,
    COMMIT_BOOKINGS,
    COMMIT_SECONDS,
    COMMITS,
    SNAPSHOTS,
    STREAM_ENDS,
    PAYMENTS,
    PAYMENT_NOTICES,
    SERVICES,
    LOADS,
    AUDITS,
    DRIFT_FOUND,
    DRIFT_REPAIRED,
    REBUILDS,
    REAPED,
    DRAINED,
    UNRESOLVED,
    ARCHIVED,
    REGRESSED,
    CLOCK_JUMPS,
    SERVER_CHANGES,
    WAITLIST,
    ENDED,
    BURIED,
    PUBLISHED,
    SHED,
    RATE_LIMITED,
)


def read_figures() -> FiguresState:
    """All figures of this process as they stand."""
    return FiguresState(
        counters=[
            CounterState(figure.name, [(_spelled(labels), value) for labels, value in figure.values.items()])
            for figure in FIGURES
            if isinstance(figure, Counter)
        ],
        histograms=[
            HistogramState(figure.name, [(_spelled(labels), cell) for labels, cell in figure.cells.items()])
            for figure in FIGURES
            if isinstance(figure, Histogram)
        ],
    )


def resume_figures(state: FiguresState) -> None:
    """Count on from where a predecessor stopped; what this version does not know, or cuts otherwise, is left out."""
    known = {figure.name: figure for figure in FIGURES}
    for counter in state.counters:
        figure = known.get(counter.name)
        if isinstance(figure, Counter):
            for labels, value in counter.values:
                figure.add(*labels, count=value)
    for histogram in state.histograms:
        figure = known.get(histogram.name)
        if isinstance(figure, Histogram):
            _add_cells(figure, histogram.cells)


def _add_cells(figure: Histogram, cells: Iterable[tuple[tuple[str, ...], list[float]]]) -> None:
    for labels, cell in cells:
        if len(cell) == len(figure.bounds) + 2:
            before = figure.cells.get(labels, [0] * len(cell))
            figure.cells[labels] = [had + more for had, more in zip(before, cell, strict=True)]


def _spelled(labels: Labels) -> tuple[str, ...]:
    return tuple(label.decode() if isinstance(label, bytes) else str(label) for label in labels)
