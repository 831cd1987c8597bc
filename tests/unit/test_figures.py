"""Figures: what is counted, how it is spread, handed on, added up, and told."""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest
from api_kit import client_for
from prometheus_client.parser import text_string_to_metric_families

from api.routes import ROUTES
from engine import figures
from engine.backlog import Backlog
from engine.errors import LedgerUnavailable, StoreUnavailable
from engine.figures import CounterState, FiguresState, HistogramState, read_figures, resume_figures
from holdfast.exposition import metric_labels
from holdfast.figures_board import (
    BOARD_VARIABLE,
    SLOT_BYTES,
    FiguresBoard,
    ProcessReport,
    Seat,
    open_board,
    reconciler_seat,
    worker_seat,
)
from holdfast.metrics import Figures, Sources, process_figures, serve_metrics
from persistence.publishing.letters import OutboxState

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def _no_figures_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    for figure in figures.FIGURES:
        if isinstance(figure, figures.Counter):
            monkeypatch.setattr(figure, "values", {} if figure.labels else {(): 0})
        else:
            monkeypatch.setattr(figure, "cells", {})


@pytest.fixture
def board() -> Iterator[FiguresBoard]:
    with open_board(workers=2) as board:
        yield board


def samples(text: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(told: Samples, name: str, **labels: str) -> float:
    return told[name, tuple(sorted(labels.items()))]


async def scraped(source: Figures) -> Samples:
    return samples((await source.scrape("")).body)


def report(process: str, *, committed: int, waiting: float = 0, at_s: float | None = None) -> ProcessReport:
    counted = FiguresState([CounterState("holdfast_commits_total", [(("committed",), committed)])], [])
    gauges = {"holdfast_redis_waiting": waiting}
    return ProcessReport(process, time.monotonic() if at_s is None else at_s, gauges, counted)


def figures_at(seat: Seat) -> Figures:
    async def backlog() -> Backlog:
        return Backlog(entries=3, oldest_age_s=1.5, dead_letters=1)

    async def reconcilers() -> int:
        return 2

    async def outbox() -> OutboxState:
        return OutboxState(oldest_s=2.5, waiting=4, dead=1)

    return Figures(Sources(gauges=dict, backlog=backlog, reconcilers=reconcilers, outbox=outbox), seat)


async def test_observation_is_told_as_a_spread_and_as_a_count_by_outcome() -> None:
    for seconds, status in ((0.0004, 201), (0.0006, 201), (9.0, 503)):
        figures.REQUESTS.observe(seconds, "POST", "/v1/holds", status)
    told = await scraped(process_figures("p"))
    route = {"method": "POST", "route": "/v1/holds"}
    assert value(told, "holdfast_requests_total", status="201", **route) == 2
    assert value(told, "holdfast_requests_total", status="503", **route) == 1
    assert value(told, "holdfast_request_seconds_bucket", le="0.0005", **route) == 1
    assert value(told, "holdfast_request_seconds_bucket", le="0.001", **route) == 2
    assert value(told, "holdfast_request_seconds_bucket", le="2.048", **route) == 2
    assert value(told, "holdfast_request_seconds_bucket", le="+Inf", **route) == 3
    assert value(told, "holdfast_request_seconds_count", **route) == 3
    assert value(told, "holdfast_request_seconds_sum", **route) == pytest.approx(9.001)


async def test_each_metric_is_explained_in_a_sentence_of_its_own() -> None:
    told = (await process_figures("p").scrape("")).body.decode()
    explained = dict(re.findall(r"^# HELP (\w+) (.*)$", told, re.MULTILINE))

    assert explained["holdfast_payments_total"] == "Calls of payment providers, by what came of them."
    assert [name for name, text in explained.items() if not re.fullmatch(r"[A-Z0-9].*\.", text)] == []
    assert [name for name, text in explained.items() if name.endswith("_total") and "Seconds" in text] == []


async def test_requests_are_told_by_template_and_those_to_no_route_by_one_name() -> None:
    async with client_for(ROUTES) as client:
        await client.get("/healthz")
        for path in ("/a", "/b", "/v1/holds/x/y/z"):
            await client.get(path)
        await client.request("BREW", "/healthz")
        await client.get("/problems/overloaded")
        told = samples((await client.get("/metrics")).content)
    assert value(told, "holdfast_requests_total", method="GET", route="/healthz", status="200") == 1
    assert value(told, "holdfast_requests_total", method="GET", route="/problems/{code}", status="200") == 1
    assert value(told, "holdfast_requests_total", method="unknown", route="unknown", status="404") == 3
    assert value(told, "holdfast_requests_total", method="unknown", route="unknown", status="405") == 1


async def test_any_process_tells_the_sums_of_all(board: FiguresBoard) -> None:
    board.write(1, report("worker-1", committed=40))
    figures.COMMITS.add("committed", count=2)
    told = await scraped(figures_at(Seat(board, 0, "worker-0")))
    assert value(told, "holdfast_commits_total", outcome="committed") == 42
    assert value(told, "holdfast_process_up", process="worker-0") == 1
    assert value(told, "holdfast_process_up", process="worker-1") == 1


async def test_state_of_a_process_that_is_gone_is_not_told_but_what_it_counted_is(board: FiguresBoard) -> None:
    board.write(1, report("worker-1", committed=40, waiting=7, at_s=time.monotonic() - 60))
    told = await scraped(figures_at(Seat(board, 0, "worker-0")))
    assert value(told, "holdfast_commits_total", outcome="committed") == 40
    assert value(told, "holdfast_process_up", process="worker-1") == 0
    assert ("holdfast_redis_waiting", (("process", "worker-1"),)) not in told


async def test_successor_counts_on_from_where_the_dead_one_stopped(board: FiguresBoard) -> None:
    board.write(0, report("worker-0", committed=40, at_s=0))
    successor = figures_at(Seat(board, 0, "worker-0"))
    async with successor.published():
        figures.COMMITS.add("committed")
        assert value(await scraped(successor), "holdfast_commits_total", outcome="committed") == 41
    left = board.read(0)
    assert left is not None
    assert left.figures.counters[0].values == [(("committed",), 41)]
    assert not left.is_live


def test_figures_of_another_cut_are_left_behind() -> None:
    unknown = CounterState("holdfast_of_an_older_version_total", [((), 5)])
    other_bounds = HistogramState("holdfast_commit_bookings", [((), [1, 2, 3])])
    resume_figures(FiguresState([unknown], [other_bounds]))
    assert [cell for histogram in read_figures().histograms for cell in histogram.cells] == []


def test_torn_report_is_not_believed_and_the_last_good_one_stands(board: FiguresBoard) -> None:
    board.write(0, report("worker-0", committed=1))
    assert board.read(0) == board.read(0)
    before = board.read(0)
    os.pwrite(board.descriptor, b"\xff\xff", 20)
    assert board.read(0) == before
    assert FiguresBoard(board.descriptor).read(0) is None


def test_report_of_every_route_and_script_fits_into_its_slot(board: FiguresBoard) -> None:
    for route in ROUTES:
        for status in range(20):
            for bucket in figures.FAST_S:
                figures.REQUESTS.observe(bucket, route.method, route.path, 400 + status)
    for script in range(60):
        for status in range(12):
            figures.SCRIPTS.observe(1.1, f"a_script_with_a_long_name_{script}", f"A_LONG_STATUS_{status}")
    whole = ProcessReport("worker-0", time.monotonic(), {}, read_figures())
    assert len(msgspec.msgpack.encode(whole)) < SLOT_BYTES
    board.write(0, whole)
    assert board.read(0) is not None


def test_board_leaves_nothing_in_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_board(workers=1) as board:
        board.write(0, report("worker-0", committed=1))
        assert list(tmp_path.iterdir()) == []


def test_every_process_of_a_serve_has_a_seat_of_its_own(board: FiguresBoard) -> None:
    environment = {BOARD_VARIABLE: str(board.descriptor)}
    seats = [worker_seat({**environment, "HOLDFAST_WORKER": str(number)}) for number in range(2)]
    taken = [(seat.slot, seat.process) for seat in (*seats, reconciler_seat(environment)) if seat is not None]
    assert taken == [(0, "worker-0"), (1, "worker-1"), (2, "reconciler")]
    assert board.slots == 3


def test_process_without_a_board_has_no_seat() -> None:
    assert reconciler_seat({}) is None
    assert worker_seat({"HOLDFAST_WORKER": "3"}) is None


async def test_what_cannot_be_learned_is_left_out_and_the_rest_is_told(board: FiguresBoard) -> None:
    async def away() -> Backlog:
        raise StoreUnavailable("gone")

    async def reconcilers() -> int:
        return 1

    async def outbox() -> OutboxState:
        raise LedgerUnavailable("gone")

    sources = Sources(gauges=dict, backlog=away, reconcilers=reconcilers, outbox=outbox)
    told = await scraped(Figures(sources, Seat(board, 0, "worker-0")))
    assert value(told, "holdfast_reconcilers") == 1
    assert ("holdfast_journal_entries", ()) not in told
    assert ("holdfast_outbox_waiting", ()) not in told


async def test_metrics_port_of_a_process_without_an_api_tells_its_figures() -> None:
    figures.REAPED.add(count=4)
    async with (
        serve_metrics(0) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        plain = await client.get("/metrics")
        opened = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert plain.headers["content-type"].startswith("text/plain")
    assert value(samples(plain.content), "holdfast_reaped_total") == 4
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.text.endswith("# EOF\n")


async def test_every_metric_that_is_told_is_one_of_the_list(board: FiguresBoard) -> None:
    for figure in figures.FIGURES:
        labels = ["x"] * len(figure.labels)
        figure.add(*labels) if isinstance(figure, figures.Counter) else figure.observe(1.0, *labels)
    board.write(1, ProcessReport("worker-1", time.monotonic(), dict.fromkeys(metric_labels(), 1.0), read_figures()))
    text = (await figures_at(Seat(board, 0, "worker-0")).scrape("")).body.decode()
    assert set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE)) == set(metric_labels())


def test_nothing_that_is_told_names_an_event_a_seat_or_a_customer() -> None:
    labels = {label for names in metric_labels().values() for label in names}
    ours = {"method", "route", "status", "script", "outcome", "kind", "process", "reason", "policy"}
    assert labels == ours | {"sink", "service", "provider", "call", "class"}
