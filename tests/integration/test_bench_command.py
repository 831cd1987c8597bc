"""``holdfast bench`` as a user runs it: its figures add up, wrong ones fail, and stopped it leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from processes_under_test import ROOT, are_gone

COMMAND = [sys.executable, "-m", "holdfast", "bench"]


def environment() -> dict[str, str]:
    """With the temporary directory of the test, and servers that it must not touch: these would not even answer."""
    return os.environ | {
        "REDIS_URL": "redis://127.0.0.1:1",
        "DATABASE_URL": "postgresql://127.0.0.1:1/live",
        "HOLDFAST_PARTITIONS": "1",
        "PYTHONPATH": str(ROOT),
    }


def bench(*arguments: str, exit_code: int = 0) -> Any:
    """The report of a benchmark of one second a phase."""
    done = subprocess.run(
        [*COMMAND, "--seconds", "1", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(),
    )
    assert done.returncode == exit_code, done.stderr
    return msgspec.json.decode(done.stdout)


def test_bench_reports_figures_that_add_up_with_the_audit_and_leaves_nothing_behind(private_tmp: Path) -> None:
    report = bench("--connections", "8")

    assert report["ok"] is True
    assert (report["findings"], report["unexpected"], report["server_output"]) == ([], {}, [])
    assert report["audit"] == {"events": 2, "drift": 0, "differences": []}
    assert report["left"] == {"held": report["holds"]["count"], "sold": report["bookings"]["count"]}
    for seen in (report["holds"], report["bookings"]):
        latency = seen["latency"]
        assert seen["count"] == latency["count"] > 8, "more than one for each connection"
        assert seen["seconds"] >= 1
        assert abs(seen["per_second"] - seen["count"] / seen["seconds"]) < 0.02 * seen["per_second"]
        assert 0 < latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"]
        assert seen["worker_cpu_us"] > 0
    assert (report["connections"], report["workers"]) == (8, 1)
    assert report["machine"]["cores"] >= 1
    assert list(private_tmp.iterdir()) == []


@pytest.mark.slow
def test_bench_keeps_on_when_more_come_than_the_server_takes(private_tmp: Path) -> None:
    report = bench("--connections", "200", "--workers", "1")

    assert report["ok"] is True
    assert report["holds"]["overloaded"] > 0
    assert report["left"] == {"held": report["holds"]["count"], "sold": report["bookings"]["count"]}
    assert list(private_tmp.iterdir()) == []


@pytest.mark.slow
def test_bench_stops_everything_when_it_is_terminated_in_the_middle(private_tmp: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--seconds", "60"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if " holds" in line and " of 60 s" in line:
                    break
            processes = psutil.Process(process.pid).children(recursive=True)
            assert any("holdfast.bench.client" in child.cmdline() for child in processes)
            process.send_signal(signal.SIGTERM)
            output = process.stdout.read()
            assert process.wait(timeout=30) == 128 + signal.SIGTERM, output
        finally:
            process.kill()

    assert "Stopping." in output
    assert "Traceback" not in output
    assert are_gone(processes)
    assert list(private_tmp.iterdir()) == []
