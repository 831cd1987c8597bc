"""Figures and states as Prometheus reads them: sums over processes, families, text.

Imported at the first scrape: prometheus_client takes 40 ms, which neither a worker's start nor a short command should.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

from api.services import Scraped
from engine.figures import FIGURES, Counter, FiguresState, Histogram
from holdfast.figures_board import ProcessReport

PROCESS_GAUGES = {
    "holdfast_redis_links": "Connections to Redis that the process should have: one for each master.",
    "holdfast_redis_links_up": "Those that are there.",
    "holdfast_redis_waiting": "Commands that wait to be sent.",
    "holdfast_redis_unanswered": "Commands sent and not answered yet.",
    "holdfast_in_flight": "Requests let in and not answered yet.",
    "holdfast_commit_waiting": "Bookings that wait for their group commit.",
    "holdfast_stream_listeners": "Streams of events that are open.",
    "holdfast_pricing_circuit_open": "1 while the pricing service is not asked because it failed too often.",
    "holdfast_inventory_circuit_open": "The same of the inventory service.",
}
INSTALLATION_GAUGES = {
    "holdfast_journal_entries": "Bookings accepted in Redis that are not known to be in the ledger.",
    "holdfast_journal_oldest_seconds": "Age of the one that waits longest; 0 when none waits.",
    "holdfast_dead_letters": "Journal entries set aside that wait for a person.",
    "holdfast_reconcilers": "Reconcilers seen lately.",
    "holdfast_outbox_oldest_seconds": "Age of the event that waits longest for a sink; 0 when none waits.",
    "holdfast_outbox_waiting": "Deliveries that wait; of one sink, ten thousand are counted.",
    "holdfast_outbox_dead": "Deliveries given up that wait for a person.",
}
PROCESS_UP = ("holdfast_process_up", "1 for a process that has told its figures lately, 0 for one that has not.")


def metric_labels() -> dict[str, tuple[str, ...]]:
    """Every metric that ``/metrics`` can tell, with its labels."""
    told: dict[str, tuple[str, ...]] = {}
    for figure in FIGURES:
        labels = figure.labels
        if isinstance(figure, Histogram) and figure.counted_as is not None:
            told[figure.counted_as[0]], labels = labels, labels[:-1]
        told[figure.name] = labels
    told |= dict.fromkeys((PROCESS_UP[0], *PROCESS_GAUGES), ("process",))
    return told | dict.fromkeys(INSTALLATION_GAUGES, ())


def render(reports: Iterable[ProcessReport], states: Mapping[str, float], *, accept: str) -> Scraped:
    """All metrics, in the format that *accept* asks for; *states* are the installation's gauges, as far as known."""
    reports = list(reports)
    installation = (GaugeMetricFamily(name, INSTALLATION_GAUGES[name], value=value) for name, value in states.items())
    families = [*_figures(reports), *_process_states(reports), *installation]
    encode, content_type = choose_encoder(accept)
    return Scraped(body=encode(_Collected(families)), content_type=content_type.encode("ascii"))


class _Collected(msgspec.Struct, frozen=True):
    """Families that are there already, in the shape of a registry."""

    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _figures(reports: Iterable[ProcessReport]) -> Iterator[Metric]:
    """The sums over all processes, those that have ended included."""
    states = [report.figures for report in reports]
    for figure in FIGURES:
        if isinstance(figure, Counter):
            yield _counter(figure.name, figure.meaning, figure.labels, _totals(states, figure.name))
        else:
            yield from _histogram(figure, _cells(states, figure))


def _totals(states: Iterable[FiguresState], name: str) -> Mapping[tuple[str, ...], float]:
    totals: dict[tuple[str, ...], float] = defaultdict(float)
    for state in states:
        for counter in state.counters:
            if counter.name == name:
                for labels, value in counter.values:
                    totals[labels] += value
    return totals


def _cells(states: Iterable[FiguresState], figure: Histogram) -> dict[tuple[str, ...], list[float]]:
    cells: dict[tuple[str, ...], list[float]] = {}
    for state in states:
        for histogram in state.histograms:
            if histogram.name == figure.name:
                for labels, cell in histogram.cells:
                    _add(cells, labels, cell)
    return cells


def _histogram(figure: Histogram, cells: Mapping[tuple[str, ...], list[float]]) -> Iterator[Metric]:
    labels = figure.labels
    if figure.counted_as is not None:
        counts = {values: sum(cell[:-1]) for values, cell in cells.items()}
        yield _counter(*figure.counted_as, labels, counts)
        labels = labels[:-1]
        spread: dict[tuple[str, ...], list[float]] = {}
        for values, cell in cells.items():
            _add(spread, values[:-1], cell)
        cells = spread
    family = HistogramMetricFamily(figure.name, figure.meaning, labels=labels)
    bounds = [*map(floatToGoString, figure.bounds), "+Inf"]
    for values, cell in cells.items():
        total = 0.0
        buckets = []
        for bound, count in zip(bounds, cell, strict=False):  # the cell's last is the sum
            total += count
            buckets.append((bound, total))
        family.add_metric(values, buckets=buckets, sum_value=cell[-1])
    yield family


def _add(cells: dict[tuple[str, ...], list[float]], labels: tuple[str, ...], cell: list[float]) -> None:
    before = cells.get(labels)
    cells[labels] = cell if before is None else [had + more for had, more in zip(before, cell, strict=True)]


def _counter(
    name: str, meaning: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _process_states(reports: Iterable[ProcessReport]) -> Iterator[Metric]:
    """What processes say of themselves, if they have said it lately."""
    reports = list(reports)
    up = GaugeMetricFamily(*PROCESS_UP, labels=("process",))
    for report in reports:
        up.add_metric((report.process,), float(report.is_live))
    yield up
    for name, meaning in PROCESS_GAUGES.items():
        family = GaugeMetricFamily(name, meaning, labels=("process",))
        for report in reports:
            if report.is_live and name in report.gauges:
                family.add_metric((report.process,), report.gauges[name])
        yield family
