"""``holdfast demo`` as a user runs it: a process with a real server, watched from outside, interrupted, and killed."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import msgspec
import psutil
import pytest
from processes_under_test import ROOT, are_gone, seconds_until

SOME = 60  # buyers
ON_SALE = "✓ Festival"  # the last line before the crowd is let in


class Demo:
    """A running demo and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed: list[str] = []

    def read_until(self, words: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line.rstrip("\n"))
            if words in line:
                return
        raise AssertionError(f"it ended without saying {words!r}:\n" + "\n".join(self.printed))

    def read_rest(self) -> str:
        assert self.process.stdout is not None
        rest = self.process.stdout.read()
        self.printed += rest.splitlines()
        return rest

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def running_demo(*arguments: str | Path, buyers: int = SOME) -> Iterator[Demo]:
    """Run ``holdfast demo``; both of its outputs are one, and no process of it is left at the end of the block."""
    # It must not sell on servers that are configured: these would not even answer.
    configured = {"REDIS_URL": "redis://127.0.0.1:1", "HOLDFAST_PARTITIONS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "demo", "--buyers", str(buyers), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | configured,
    )
    left: list[psutil.Process] = []
    try:
        yield Demo(process)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            left = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()
        for orphan in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()


def test_demo_reports_sums_that_add_up_and_leaves_nothing_behind(private_tmp: Path) -> None:
    command = [sys.executable, "-m", "holdfast", "demo", "--buyers", str(SOME), "--seed", "7", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )

    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode(done.stdout)
    assert report["ok"] is True
    assert (report["findings"], report["unexpected"], report["server_output"]) == ([], {}, [])
    assert report["audit"] == {"events": 3, "drift": 0, "differences": []}
    assert [(event["seats"], event["legs"]) for event in report["events"]] == [(1316, 1), (112, 22), (5000, 1)]
    for event in report["events"]:
        assert event["bookings"] > 0
        assert event["capacity"] == event["seats"] * event["legs"]
        assert event["free"] + event["sold"] == event["capacity"]
        assert event["held"] == 0
        assert event["holds"] == event["bookings"] + event["abandoned"]
        assert event["revenue"] > 0
    ends = [event[name] for event in report["events"] for name in ("bookings", "abandoned", "left_with_nothing")]
    assert sum(ends) == report["buyers"] == SOME
    assert report["bookings"] == report["latency"]["booking"]["count"]
    assert report["latency"]["hold"]["p50_ms"] <= report["latency"]["hold"]["p99_ms"]
    assert list(private_tmp.iterdir()) == []


def test_demo_keeps_serving_and_prints_requests_that_work_as_they_stand(private_tmp: Path) -> None:
    with running_demo("--keep", buyers=5) as demo:
        demo.read_until("Ctrl-C stops everything")
        lines = [line for line in demo.printed if line.startswith("curl ")]
        hold, booking, bookings = [_send(shlex.split(line)) for line in lines]

        assert (hold.status_code, hold.json()["status"]) == (201, "active")
        assert (booking.status_code, booking.json()["status"]) == (201, "confirmed")
        assert [listed["id"] for listed in bookings.json()["items"]] == [booking.json()["id"]]
        assert any(line.startswith("eyJ") for line in demo.printed), "tokens to copy"

        _stop(demo, [signal.SIGINT], exit_code=0)  # being stopped is how it ends, and `make` has nothing to report
        assert list(private_tmp.iterdir()) == []


def test_demo_stops_everything_when_it_is_terminated_in_the_middle_however_impatiently(private_tmp: Path) -> None:
    with running_demo(buyers=2000) as demo:
        demo.read_until(ON_SALE)
        output = _stop(demo, [signal.SIGTERM, signal.SIGINT])

        assert "Stopping." in output
        assert "Traceback" not in output
        assert list(private_tmp.iterdir()) == []


@pytest.mark.slow
def test_demo_sells_again_over_the_data_that_an_interrupted_one_kept(private_tmp: Path) -> None:
    data_dir = private_tmp / "kept"
    with running_demo("--data-dir", data_dir, buyers=2000) as demo:
        demo.read_until(ON_SALE)
        output = _stop(demo, [signal.SIGINT])
        assert "Stopping." in output
        assert "Traceback" not in output

    with running_demo("--data-dir", data_dir, "--json", buyers=3) as demo:
        output = demo.read_rest()
        assert demo.process.wait(timeout=30) == 0, output
        report = msgspec.json.decode(output[output.index("\n{") :])
        assert {event["id"] for event in report["events"]} == {"concert-2", "train-101-2", "festival-2"}
    assert list(private_tmp.iterdir()) == [data_dir]


def test_demo_stops_everything_when_it_is_interrupted_while_servers_start(private_tmp: Path) -> None:
    with running_demo() as demo:
        # guard, server, and under it the guards of Valkey and Postgres
        seconds_until(lambda: len(demo.descendants()) >= 4, within_s=30)
        output = _stop(demo, [signal.SIGINT])

        assert "Traceback" not in output
        assert list(private_tmp.iterdir()) == []


@pytest.mark.slow
def test_demo_leaves_no_process_when_it_is_killed(private_tmp: Path) -> None:
    with running_demo(buyers=2000) as demo:
        demo.read_until(ON_SALE)
        processes = demo.descendants()
        assert len(processes) > 8, "guards, the server, two workers, Valkey and Postgres"
        demo.process.kill()

        seconds_until(lambda: are_gone(processes), within_s=30)


def test_demo_fails_with_the_servers_words_when_the_port_is_taken(private_tmp: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, running_demo("--port", str(_port_of(taken))) as demo:
        output = demo.read_rest()
        assert demo.process.wait(timeout=30) == 1
    assert "Address already in use" in output
    assert "Traceback" not in output
    assert list(private_tmp.iterdir()) == []


@pytest.mark.slow
def test_demo_fails_when_the_server_dies_under_the_crowd(private_tmp: Path) -> None:
    with running_demo(buyers=2000) as demo:
        demo.read_until(ON_SALE)
        (server,) = [process for process in demo.descendants() if process.cmdline()[1:3] == ["-m", "holdfast"]]
        processes = demo.descendants()
        server.kill()

        output = demo.read_rest()
        assert demo.process.wait(timeout=30) == 1
        assert "the server has ended: killed by SIGKILL" in output
        assert "Traceback" not in output
        seconds_until(lambda: are_gone(processes), within_s=30)


def _port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def _stop(demo: Demo, signals: Sequence[signal.Signals], *, exit_code: int | None = None) -> str:
    """Send *signals*, and check that the demo ends as the first of them asks, with everything it started."""
    expected = 128 + signals[0] if exit_code is None else exit_code
    processes = demo.descendants()
    demo.process.send_signal(signals[0])
    for number in signals[1:]:
        demo.read_until("Stopping.")  # of two signals that are pending, the kernel delivers the lower number first
        demo.process.send_signal(number)
    demo.read_rest()
    output = "\n".join(demo.printed)
    assert demo.process.wait(timeout=30) == expected, output
    assert are_gone(processes)
    return output


def _send(words: Sequence[str]) -> httpx2.Response:
    """Send the request that a ``curl`` line describes, with the few options of it that the demo prints."""
    assert words[:4] == ["curl", "-sS", "-w", "\\n"]  # so that the answer ends before the prompt
    headers: dict[str, str] = {}
    method, content = "GET", ""
    *options, url = words[4:]
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option == "-H":
            header = Path(value[1:]).read_text().strip() if value.startswith("@") else value
            name, _, headers_value = header.partition(": ")
            headers[name] = headers_value
        else:
            assert option == "-d"
            method, content = "POST", value
    return httpx2.request(method, url, headers=headers, content=content, trust_env=False)
