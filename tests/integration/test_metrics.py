"""``holdfast serve`` with several processes: one scrape tells of all of them, and so it does when some die."""

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest
from processes_under_test import seconds_until
from prometheus_client.parser import text_string_to_metric_families
from test_cli_serve import EVENT, Served, serving

WORKERS = 2
BACK_WITHIN_S = 10.0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "serve.log"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, log: Path) -> Iterator[Served]:
    with log.open("w") as errors, serving(tmp_path_factory.mktemp("serve") / "data", workers=WORKERS,
                                          stderr=errors.fileno()) as running:  # fmt: skip
        running.call("POST", "/v1/events", EVENT, sub="olga", role="organizer")
        running.call("POST", "/v1/events/concert/open", sub="olga", role="organizer")
        seconds_until(lambda: live_workers(running) == WORKERS, within_s=20)
        yield running


def scrape(served: Served) -> dict[tuple[str, str], float]:
    """Samples by name and labels, over a connection of its own: whichever worker takes it."""
    text = httpx2.get(f"{served.url}/metrics", trust_env=False).raise_for_status().text
    return {
        (sample.name, ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def live_workers(served: Served) -> int:
    figures = scrape(served).items()
    return sum(int(value) for (name, of), value in figures if name == "holdfast_process_up" and "worker" in of)


def held(served: Served) -> float:
    return scrape(served).get(("holdfast_script_calls_total", "script=hold_places,status=HELD"), 0)


def hold(served: Served, seat: str) -> None:
    body = {"items": [{"section": "stalls", "seats": [seat]}]}
    served.call("POST", "/v1/events/concert/holds", body)


def sells(served: Served) -> bool:
    try:
        hold_id = served.call("POST", "/v1/events/concert/holds", {"items": [{"section": "stalls", "best": 1}]})["id"]
        httpx2.delete(f"{served.url}/v1/holds/{hold_id}", headers={"authorization": f"Bearer {served.token('ana')}"})
    except OSError:
        return False
    return True


def server_process(served: Served, name: str) -> psutil.Process:
    return next(process for process in served.processes() if process.name() == name)


def test_every_worker_tells_the_figures_of_all(served: Served) -> None:
    before = held(served)
    for number in range(1, 11):  # each over a connection of its own
        hold(served, f"A-{number}")
    seconds_until(lambda: held(served) == before + 10, within_s=5)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert held(served) == before + 10
    told = scrape(served)
    assert told["holdfast_requests_total", "method=POST,route=/v1/events/{event_id}/holds,status=201"] >= 10
    assert told["holdfast_redis_links_up", "process=worker-1"] == 1
    assert told["holdfast_journal_entries", ""] == 0


def test_worker_that_is_killed_takes_no_figures_with_it(served: Served) -> None:
    before = held(served)
    time.sleep(1.1)  # every worker has told by now
    victim = served.workers()[0]
    victim.send_signal(signal.SIGKILL)
    seconds_until(lambda: not victim.is_running(), within_s=5)
    assert held(served) >= before
    seconds_until(lambda: len(served.workers()) == WORKERS, within_s=BACK_WITHIN_S)
    seconds_until(lambda: live_workers(served) == WORKERS, within_s=BACK_WITHIN_S)
    assert held(served) >= before


def test_valkey_that_is_killed_is_back_by_itself_each_time_after_a_longer_delay(served: Served, log: Path) -> None:
    for _ in range(3):
        server_process(served, "valkey-server").kill()
        seconds_until(lambda: sells(served), within_s=BACK_WITHIN_S)
    said = [line for line in log.read_text().splitlines() if "embedded server died" in line and "valkey" in line]
    delays = [float(match[1]) for line in said if (match := re.search(r"restart_in_s\W+([\d.]+)", line))]
    assert delays == [0.1, 0.2, 0.4]
    assert log.read_text().count("embedded server runs again") >= 3


def test_holds_go_on_and_readiness_is_degraded_while_postgres_is_away(served: Served) -> None:
    postmaster = min(
        (process for process in served.processes() if process.name() == "postgres"), key=lambda p: p.create_time()
    )
    with ThreadPoolExecutor(
        8
    ) as crowd:  # of which no worker takes all: each knows the event now, or would ask Postgres
        assert all(crowd.map(lambda _: sells(served), range(80)))
    stopped = [postmaster, *postmaster.children(recursive=True)]
    for process in stopped:
        process.suspend()
    try:
        assert sells(served)
        response = httpx2.get(f"{served.url}/readyz", timeout=10, trust_env=False)
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["checks"]["postgres"]["severity"] == "degraded"
        assert response.json()["checks"]["redis"]["ok"]
        told = scrape(served)
        assert ("holdfast_reconcilers", "") not in told
        assert ("holdfast_journal_entries", "") in told
    finally:
        for process in stopped:
            process.resume()
    seconds_until(lambda: _is_well(served, "postgres"), within_s=BACK_WITHIN_S)


def _is_well(served: Served, check: str) -> bool:
    verdicts = httpx2.get(f"{served.url}/readyz", timeout=10, trust_env=False).json()["checks"]
    return bool(verdicts[check]["ok"])
