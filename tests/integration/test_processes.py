"""Supervision of workers: one socket, restarts, giving up, stopping, killing."""

import asyncio
import contextlib
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes_under_test import Program, are_gone, program, seconds_until
from structlog.testing import capture_logs

from holdfast import processes
from holdfast.processes import (
    FAILED_STARTS_MAX,
    ListenFailed,
    WorkersFailed,
    bind_listener,
    bind_unix_listener,
    supervise,
)

WORKER = """
import http.server, os, signal, socket, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.environ['HOLDFAST_WORKER']} {os.getpid()}".encode())

    def log_message(self, *_):
        pass

if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = http.server.HTTPServer(("", 0), Answer, bind_and_activate=False)
server.socket = socket.socket(fileno=int(sys.argv[1]))
server.serve_forever()
"""

SUPERVISOR = """
    import asyncio, sys
    from holdfast.processes import bind_listener, supervise

    async def main():
        listener = bind_listener("127.0.0.1", 0)
        async def ready():
            print(listener.getsockname()[1], flush=True)
        argv = [sys.executable, "-c", sys.argv[1], str(listener.fileno()), sys.argv[2]]
        companion = ["sleep", "600"] if sys.argv[2] == "accompanied" else None
        await supervise(argv, count=2, pass_fds=[listener.fileno()], ready=ready, companion=companion)

    asyncio.run(main())
    print("stopped", flush=True)
"""


@contextlib.contextmanager
def _supervisor(kind: str) -> Iterator[Program]:
    with program(SUPERVISOR, WORKER, kind) as running:
        seconds_until(lambda: len(_workers(running)) == 2, within_s=20)
        yield running


def _workers(running: Program) -> dict[str, int]:
    """Ask often enough to hear of every worker; return pids by number."""
    answers: dict[str, int] = {}
    for asked in range(200):  # one may get twenty in a row while the other has no core
        if asked >= 20 and len(answers) == 2:
            break
        with urllib.request.urlopen(f"http://127.0.0.1:{running.said}/", timeout=10) as response:
            number, pid = response.read().decode().split()
            answers[number] = int(pid)
    return answers


def test_workers_share_one_socket_and_are_numbered() -> None:
    with _supervisor("polite") as running:
        assert set(_workers(running)) == {"0", "1"}


def test_worker_is_started_again_when_it_dies_and_its_sibling_goes_on() -> None:
    with _supervisor("polite") as running:
        before = _workers(running)
        os.kill(before["0"], signal.SIGKILL)
        seconds_until(lambda: _workers(running).get("0", before["0"]) != before["0"], within_s=20)

        assert _workers(running)["1"] == before["1"]


def test_companion_is_started_again_when_it_dies_and_ends_with_the_workers() -> None:
    with _supervisor("accompanied") as running:

        def sleeping() -> list[psutil.Process]:
            return [process for process in running.descendants() if process.name() == "sleep"]

        seconds_until(sleeping, within_s=10)
        (first,) = sleeping()
        first.kill()
        seconds_until(lambda: sleeping() not in ([], [first]), within_s=10)
        processes = running.descendants()
        running.process.send_signal(signal.SIGTERM)

        assert running.process.wait(timeout=10) == 0
        assert are_gone(processes)


async def test_companion_that_cannot_run_ends_nothing() -> None:
    async def ready() -> None:
        pass

    async def stop_soon() -> None:
        await asyncio.sleep(0.8)  # several attempts
        os.kill(os.getpid(), signal.SIGTERM)

    stopping = asyncio.create_task(stop_soon())
    with capture_logs() as logs:
        await supervise(["sleep", "60"], count=1, ready=ready, companion=["sh", "-c", "exit 3"])
    await stopping
    failures = sum(log["event"] == "companion died" for log in logs)
    assert failures >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervisor_stops_its_workers_when_it_is_asked_to(number: signal.Signals) -> None:
    with _supervisor("polite") as running:
        processes = running.descendants()
        running.process.send_signal(number)

        assert running.process.wait(timeout=10) == 0
        assert running.read_rest().endswith("stopped\n")
        assert are_gone(processes)


def test_supervisor_kills_workers_that_do_not_stop_when_it_is_asked_twice() -> None:
    with _supervisor("stubborn") as running:
        processes = running.descendants()
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGTERM)

        assert running.process.wait(timeout=5) == 0, "much less than the 15 s that a polite stop is given"
        assert running.read_rest().endswith("stopped\n")
        assert are_gone(processes)


def test_workers_end_when_their_supervisor_is_killed() -> None:
    with _supervisor("polite") as running:
        processes = running.descendants()
        running.process.kill()

        seconds_until(lambda: are_gone(processes), within_s=10)


@pytest.mark.parametrize("lasting_s", [0.0, 0.2])
async def test_supervisor_gives_up_on_a_worker_that_keeps_ending_before_any_was_ready(
    monkeypatch: pytest.MonkeyPatch, lasting_s: float
) -> None:
    """However long it takes to find out that it cannot start, and whatever its sibling does meanwhile."""
    monkeypatch.setattr(processes, "LASTED_S", 0.1)

    async def never() -> None:
        await asyncio.Event().wait()

    failing = ["sh", "-c", f"test $HOLDFAST_WORKER = 0 && exec sleep 60; sleep {lasting_s}; exit 3"]

    before = psutil.Process().children()
    with pytest.raises(WorkersFailed, match=r"worker 1 ended 5 times before the server was ready .*exit status 3"):
        await supervise(failing, count=2, ready=never)
    seconds_until(lambda: set(psutil.Process().children()) <= set(before), within_s=10)


async def test_supervisor_keeps_trying_when_a_worker_was_ready_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres goes away while a worker starts again: its sibling, which needs nothing just now, must go on."""
    monkeypatch.setattr(processes, "RESTART_DELAY_MAX_S", 0.1)
    starts = tmp_path / "starts"
    starts.touch()
    workers = ["sh", "-c", f"test $HOLDFAST_WORKER = 0 && exec sleep 60; echo >>{starts}; exit 3"]

    async def ready() -> None:
        pass

    async def stop_when_it_was_started_often() -> None:
        async with asyncio.timeout(15):
            while len(starts.read_text()) < FAILED_STARTS_MAX + 4:  # noqa: ASYNC110 - other processes write it
                await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.TaskGroup() as both:
        both.create_task(stop_when_it_was_started_often())
        both.create_task(supervise(workers, count=2, ready=ready))


async def test_supervisor_stops_its_workers_when_they_do_not_get_ready() -> None:
    async def never() -> None:
        raise TimeoutError("no answer from the workers")

    before = psutil.Process().children()
    with pytest.raises(TimeoutError, match="no answer"):
        await supervise(["sleep", "60"], count=2, ready=never)
    seconds_until(lambda: set(psutil.Process().children()) <= set(before), within_s=10)


def test_listener_says_why_an_address_cannot_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ListenFailed, match=f"127.0.0.1 port {port}: Address already in use.*; --port or HOLDFAST_PORT"
        ):
            bind_listener("127.0.0.1", port)


def test_unix_listener_replaces_the_socket_of_a_server_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(path))
    with bind_unix_listener(path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.connect(str(path))
    assert not path.exists()


def test_unix_listener_is_refused_and_leaves_the_other_alone_when_a_server_listens_there(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with bind_unix_listener(path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        taken = pytest.raises(ListenFailed, match=r"Address already in use.*; --uds or HOLDFAST_UDS")
        with taken, bind_unix_listener(path):
            pass
        caller.connect(str(path))


def test_unix_listener_leaves_a_file_alone_when_it_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("kept")
    with pytest.raises(ListenFailed, match="Address already in use"), bind_unix_listener(path):
        pass
    assert path.read_text() == "kept"
