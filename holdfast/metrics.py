"""``/metrics``: the figures of all processes of a ``serve``, and the state of the installation, for Prometheus.

Figures are counted in memory (:mod:`engine.figures`) and left on a board once a second
(:mod:`holdfast.figures_board`); whichever process is scraped adds up what all have left. What concerns the installation
rather than a process (journal, reconcilers) is asked for at the scrape, within a bound; what cannot be learned is left
out, never told from memory.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

from api.services import Scrape, Scraped
from engine.backlog import Backlog
from engine.figures import FIGURES, Counter, FiguresState, Histogram, read_figures, resume_figures
from engine.time_limits import give_up_after
from holdfast.figures_board import ProcessReport, Seat

PUBLISH_EVERY_S = 1.0  # what a killed process has counted since is lost; a write is about 0.1 ms
ASKING_MAX_S = 1.0  # for journal and reconcilers together: Prometheus waits, but a server that is away is no reason to
HEAD_MAX = 8 * 1024  # of a request to a port that serves nothing but metrics
HEAD_WAIT_S = 5.0

PROCESS_GAUGES = {
    "holdfast_redis_links": "Connections to Redis that the process should have: one for each master.",
    "holdfast_redis_links_up": "Those that are there.",
    "holdfast_redis_waiting": "Commands that wait to be sent.",
    "holdfast_redis_unanswered": "Commands sent and not answered yet.",
    "holdfast_commit_waiting": "Bookings that wait for their group commit.",
}
INSTALLATION_GAUGES = {
    "holdfast_journal_entries": "Bookings accepted in Redis that are not known to be in the ledger.",
    "holdfast_journal_oldest_seconds": "Age of the one that waits longest; 0 when none waits.",
    "holdfast_dead_letters": "Journal entries set aside that wait for a person.",
    "holdfast_reconcilers": "Reconcilers seen lately.",
}
PROCESS_UP = ("holdfast_process_up", "1 for a process that has told its figures lately, 0 for one that has not.")

logger = structlog.get_logger("holdfast.metrics")


def metric_labels() -> dict[str, tuple[str, ...]]:
    """Every metric that ``/metrics`` can tell, with its labels."""
    told: dict[str, tuple[str, ...]] = {}
    for figure in FIGURES:
        labels = figure.labels
        if isinstance(figure, Histogram) and figure.counted_as is not None:
            told[figure.counted_as], labels = labels, labels[:-1]
        told[figure.name] = labels
    told |= dict.fromkeys((PROCESS_UP[0], *PROCESS_GAUGES), ("process",))
    return told | dict.fromkeys(INSTALLATION_GAUGES, ())


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where states are asked for: of this process, and of the installation."""

    gauges: Callable[[], Mapping[str, float]]
    backlog: Callable[[], Coroutine[Any, Any, Backlog]]
    reconcilers: Callable[[], Coroutine[Any, Any, int]]


class Figures:
    """The figures of this process, and through its seat those of its siblings."""

    def __init__(self, sources: Sources, seat: Seat | None, *, process: str = "worker-0") -> None:
        self._sources = sources
        self._seat = seat
        self._process = process if seat is None else seat.process

    @asynccontextmanager
    async def published(self) -> AsyncIterator[None]:
        """Leave the figures on the board, again and again, until the context ends."""
        if self._seat is None:
            yield
            return
        if (predecessor := self._seat.board.read(self._seat.slot)) is not None:
            resume_figures(predecessor.figures)
        publishing = asyncio.create_task(self._publish_for_ever(), name="publish figures")
        try:
            yield
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            self._seat.board.write(self._seat.slot, self._report(ended=True))

    async def scrape(self, accept: str) -> Scraped:
        """Everything, in the format that *accept* asks for."""
        own = self._report()
        if self._seat is None:
            reports = [own]
        else:
            self._seat.board.write(self._seat.slot, own)
            reports = self._seat.board.read_all()
        families = [*_figures(reports), *_process_states(reports), *await self._installation_states()]
        encode, content_type = choose_encoder(accept)
        return Scraped(body=encode(_Collected(families)), content_type=content_type.encode("ascii"))

    async def _publish_for_ever(self) -> None:
        assert self._seat is not None
        while True:
            self._seat.board.write(self._seat.slot, self._report())
            await asyncio.sleep(PUBLISH_EVERY_S)

    def _report(self, *, ended: bool = False) -> ProcessReport:
        gauges = {} if ended else dict(self._sources.gauges())
        return ProcessReport(self._process, 0.0 if ended else time.monotonic(), gauges, read_figures())

    async def _installation_states(self) -> list[Metric]:
        backlog, reconcilers = await asyncio.gather(
            _asked(self._sources.backlog, "backlog"), _asked(self._sources.reconcilers, "reconcilers")
        )
        values: dict[str, float] = {}
        if backlog is not None:
            values["holdfast_journal_entries"] = backlog.entries
            values["holdfast_journal_oldest_seconds"] = backlog.oldest_age_s or 0.0
            values["holdfast_dead_letters"] = backlog.dead_letters
        if reconcilers is not None:
            values["holdfast_reconcilers"] = reconcilers
        return [GaugeMetricFamily(name, INSTALLATION_GAUGES[name], value=value) for name, value in values.items()]


def process_figures(process: str) -> Figures:
    """The figures of a process that neither shares a board nor knows the state of the installation."""

    async def unknown() -> Any:
        raise LookupError("not known here")

    return Figures(Sources(gauges=dict, backlog=unknown, reconcilers=unknown), None, process=process)


@asynccontextmanager
async def serve_metrics(
    port: int, scrape: Scrape | None = None, *, host: str = "127.0.0.1", process: str = "reconciler"
) -> AsyncIterator[int]:
    """Answer every request to *port* with the figures, until the context ends; gives the port listened on.

    For processes without an API. It needs no more of HTTP than the end of a request's head.
    """
    answer = scrape if scrape is not None else process_figures(process).scrape

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_WAIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                scraped = await answer(_accepted(head))
                writer.write(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
                    % (scraped.content_type, len(scraped.body), scraped.body)
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks like this gets no answer
        finally:
            writer.close()

    server = await asyncio.start_server(serve_one, host, port, limit=HEAD_MAX)
    async with server:
        yield server.sockets[0].getsockname()[1]


class _Collected(msgspec.Struct, frozen=True):
    """Families that are there already, in the shape of a registry."""

    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


async def _asked(ask: Callable[[], Coroutine[Any, Any, Any]], what: str) -> Any | None:
    """The answer, or ``None`` when there is none in time."""
    try:
        return await give_up_after(ASKING_MAX_S, ask())
    except Exception as error:  # whatever it is, the other figures are wanted all the more
        logger.debug("not known at the scrape", what=what, error=type(error).__name__)
        return None


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
        yield _counter(figure.counted_as, f"How many, by {labels[-1]}: {figure.meaning}", labels, counts)
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


def _accepted(head: bytes) -> str:
    """The ``Accept`` header of a request's head."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"accept":
            return value.strip().decode("latin-1")
    return ""
