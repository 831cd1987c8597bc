"""``holdfast serve`` as a person meets it: one command, one line, and nothing left behind however it ends."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import COMMAND, CommandLine
from processes_under_test import are_gone, seconds_until

STOP_BOUND_S = 15.0
AUDIT_BOUND_S = 10.0  # of an event whose server has been replaced
EVENT = {
    "id": "concert",
    "name": "Concert",
    "starts_at": "2035-05-01T19:00:00Z",
    "currency": "EUR",
    "sections": [{"id": "stalls", "price": 9000, "rows": [{"id": "A", "seats": "1-20"}]}],
}


class Served:
    """A running ``holdfast serve``."""

    def __init__(self, process: subprocess.Popen[str], cli: CommandLine, url: str) -> None:
        self.process = process
        self.cli = cli
        self.url = url
        self._tokens: dict[tuple[str, str], str] = {}

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        return [child for child in self.processes() if child.cmdline()[-2:] == ["-m", "holdfast.worker"]
                and "guard.py" not in " ".join(child.cmdline())]  # fmt: skip

    def reconcilers(self) -> list[psutil.Process]:
        return [child for child in self.processes() if child.cmdline()[1:3] == ["-m", "holdfast.reconciler"]]

    def token(self, sub: str, role: str = "customer") -> str:
        if (sub, role) not in self._tokens:
            self._tokens[sub, role] = self.cli.ok("token", "--sub", sub, "--role", role).strip()
        return self._tokens[sub, role]

    def call(self, method: str, path: str, body: Any = None, *, sub: str = "ana", role: str = "customer") -> Any:
        headers = {"Content-Type": "application/json"}
        if path.startswith("/v1/"):
            headers["Authorization"] = f"Bearer {self.token(sub, role)}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def refused(self, method: str, path: str, body: Any) -> Any:
        """The problem that such a call is answered with."""
        with pytest.raises(urllib.error.HTTPError) as error:
            self.call(method, path, body)
        with error.value as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that the tests of this module use one after the other: making one takes seconds."""
    return tmp_path_factory.mktemp("serve") / "data"


def status_over(path: Path, target: str) -> int:
    """The status of a GET over a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(10)
        caller.connect(str(path))
        caller.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return int(caller.makefile("rb").readline().split()[1])


@contextlib.contextmanager
def serving(
    data_dir: Path,
    *arguments: str,
    before: tuple[str, ...] = (),
    workers: int = 1,
    stderr: int | None = None,
    **variables: str,
) -> Iterator[Served]:
    cli = CommandLine(**{"HOLDFAST_DATA_DIR": str(data_dir), "HOLDFAST_WORKERS": str(workers)} | variables)
    process = subprocess.Popen(
        [*COMMAND, *before, "serve", "--port", "0", *arguments],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    assert process.stdout is not None
    left: list[psutil.Process] = []
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        served = Served(process, cli, line.removeprefix("listening on ").strip())
        left = served.processes()
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=STOP_BOUND_S)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()
        seconds_until(lambda: are_gone(left), within_s=STOP_BOUND_S)


def test_serve_says_one_line_is_ready_and_leaves_nothing_when_asked_to_stop(data_dir: Path) -> None:
    with serving(data_dir, workers=2) as served:
        checks = served.call("GET", "/readyz")["checks"]
        assert {name for name, verdict in checks.items() if not verdict["ok"]} <= {"reconciler"}  # it may yet begin
        seconds_until(lambda: len(served.workers()) == 2, within_s=10)
        seconds_until(lambda: len(served.reconcilers()) == 1, within_s=10)
        processes = served.processes()
        names = {process.name() for process in processes}
        assert {"postgres", "valkey-server"} <= names

        began = time.monotonic()
        served.process.terminate()
        assert served.process.wait(timeout=STOP_BOUND_S) == 0
        assert time.monotonic() - began < STOP_BOUND_S
        assert are_gone(processes)
        assert served.process.stdout is not None
        assert served.process.stdout.read() == ""


def test_serve_starts_its_reconciler_again_and_runs_none_when_told_so(data_dir: Path) -> None:
    with serving(data_dir) as served:
        seconds_until(served.reconcilers, within_s=10)
        (first,) = served.reconcilers()
        first.kill()
        seconds_until(lambda: served.reconcilers() not in ([], [first]), within_s=10)
    with serving(data_dir, "--no-reconciler") as served:
        time.sleep(0.5)  # it would be started now
        assert served.reconcilers() == []


def test_serve_takes_simulated_payments_where_nothing_is_configured(data_dir: Path) -> None:
    event = EVENT | {"id": "paid-concert", "policy": {"payment": "required"}}
    order = {"event_id": "paid-concert", "items": [{"section": "stalls", "best": 1}]}
    with serving(data_dir) as served:
        served.call("POST", "/v1/events", event, sub="olga", role="organizer")
        served.call("POST", "/v1/events/paid-concert/open", sub="olga", role="organizer")
        pay = {"payment": {"provider": "simulator", "method": "sim_ok"}}
        assert served.call("POST", "/v1/bookings", order | pay)["status"] == "confirmed"

        pay = {"payment": {"provider": "simulator", "method": "sim_redirect"}}
        booking = served.call("POST", "/v1/bookings", order | pay)
        urllib.request.urlopen(booking["redirect_url"], data=b"outcome=ok", timeout=10).close()
        path = f"/v1/bookings/{booking['id']}"  # the simulator's webhook tells of it
        seconds_until(lambda: served.call("GET", path)["payment_status"] == "completed", within_s=10)
    with serving(data_dir, HOLDFAST_PAYMENT_PROVIDERS="none") as served:
        refused = served.refused("POST", "/v1/bookings", order | pay)
        assert (refused["status"], refused["path"]) == (422, "$.payment.provider")


def test_serve_stops_at_once_when_asked_before_all_workers_have_started(data_dir: Path) -> None:
    with serving(data_dir, workers=4) as served:  # the first of them to answer is enough to be ready
        processes = served.processes()
        served.process.terminate()
        began = time.monotonic()
        assert served.process.wait(timeout=STOP_BOUND_S) == 0
        assert time.monotonic() - began < 12.0  # a worker that does not hear of it is killed after 15 s
        assert are_gone(processes)


def test_serve_unwinds_when_asked_to_stop_while_its_servers_start(data_dir: Path) -> None:
    cli = CommandLine(HOLDFAST_DATA_DIR=str(data_dir))
    with subprocess.Popen([*COMMAND, "serve", "--port", "0"], env=cli.environment, stdout=subprocess.PIPE) as process:
        seconds_until(lambda: psutil.Process(process.pid).children(), within_s=20)
        left = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(timeout=STOP_BOUND_S) in (0, 128 + signal.SIGTERM)
    seconds_until(lambda: are_gone(left), within_s=STOP_BOUND_S)


def test_nothing_is_left_when_serve_is_killed(data_dir: Path) -> None:
    with serving(data_dir, workers=2) as served:
        processes = served.processes()
        served.process.kill()
        assert served.process.wait(timeout=STOP_BOUND_S) == -signal.SIGKILL
        seconds_until(lambda: are_gone(processes), within_s=STOP_BOUND_S)


def test_ctrl_c_stops_serve_without_a_traceback(data_dir: Path) -> None:
    with serving(data_dir, stderr=subprocess.PIPE) as served:
        processes = served.processes()
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=STOP_BOUND_S) == 0
        assert are_gone(processes)
        assert served.process.stderr is not None
        assert "Traceback" not in served.process.stderr.read()
        served.process.stderr.close()


def test_booking_survives_a_restart_and_a_kill_of_everything(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "event.json"
    path.write_text(json.dumps(EVENT))
    with serving(data_dir) as served:
        # Beside the running server: the command finds its servers by the data directory.
        (event,) = served.cli.json("events", "create", path, "--open")
        assert event["status"] == "open"
        first = served.call("POST", "/v1/bookings", _booking("A-1"))
        assert first["status"] == "confirmed"
    with serving(data_dir) as served:
        assert served.call("GET", f"/v1/bookings/{first['id']}")["reference"] == first["reference"]
        second = served.call("POST", "/v1/bookings", _booking("A-2"))
        processes = served.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        seconds_until(lambda: are_gone(processes), within_s=STOP_BOUND_S)
    with serving(data_dir) as served:
        assert served.call("GET", f"/v1/bookings/{second['id']}")["reference"] == second["reference"]

        def both_are_sold() -> bool:
            (section,) = served.call("GET", "/v1/events/concert/availability")["sections"]
            return (section["free"], section["sold"]) == (18, 2)

        # Redis writes its file up to two seconds late where the disk is slow; what it lost the reconciler puts back.
        seconds_until(both_are_sold, within_s=AUDIT_BOUND_S)
        assert served.cli.json("audit", "concert")["drift"] == 0


def _booking(seat: str) -> dict[str, Any]:
    return {"event_id": "concert", "items": [{"section": "stalls", "seats": [seat]}]}


def test_second_serve_on_the_same_data_directory_names_the_first(data_dir: Path) -> None:
    with serving(data_dir) as served:
        second = served.cli.run("serve", "--port", "0")
        assert (second.returncode, second.stdout) == (1, "")
        assert f"{data_dir} is in use by process {served.process.pid}" in second.stderr
        assert "to share its installation, set REDIS_URL and DATABASE_URL" in second.stderr
        assert second.stderr.count("\n") == 1


@pytest.mark.parametrize("place", ["before", "behind"])
def test_data_directory_can_be_named_before_and_behind_the_command(data_dir: Path, tmp_path: Path, place: str) -> None:
    named = ("--data-dir", str(data_dir))
    before, arguments = (named, ()) if place == "before" else ((), named)
    elsewhere = tmp_path / "elsewhere"
    with serving(data_dir, *arguments, before=before, HOLDFAST_DATA_DIR=str(elsewhere)):
        assert not elsewhere.exists()


def test_port_in_use_is_said_before_any_server_is_started(tmp_path: Path) -> None:
    cli = CommandLine(HOLDFAST_DATA_DIR=tmp_path / "data")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli.run("serve", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: cannot listen on 127.0.0.1 port {port}: {os.strerror(errno.EADDRINUSE)}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_short_commands_start_the_servers_for_the_moment_when_none_run(data_dir: Path) -> None:
    cli = CommandLine(HOLDFAST_DATA_DIR=data_dir)
    before = set(psutil.pids())
    cli.ok("migrate")  # which makes the installation, if this test is the first of its process
    assert isinstance(cli.json("events", "list"), list)
    assert cli.json("doctor")["healthy"] is True
    left = [psutil.Process(pid) for pid in set(psutil.pids()) - before if psutil.pid_exists(pid)]
    assert not [process for process in left if str(data_dir) in " ".join(process.cmdline())]


def test_serve_answers_on_a_unix_socket_and_on_its_port_until_it_stops(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with serving(data_dir, "--uds", str(path), workers=2) as served:
        assert status_over(path, "/readyz") == 200
        assert status_over(path, "/v1/nothing") == 404
        assert served.call("GET", "/readyz")
    assert not path.exists()
