"""Embedded servers end with the process that runs them, however that one ends."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from processes_under_test import Program, are_gone, program, seconds_until

pytestmark = pytest.mark.usefixtures("private_tmp")

STOP_BOUND_S = 10.0

OWNER = """
    import asyncio, signal, sys
    from pathlib import Path
    import asyncpg
    from holdfast.embedded.servers import embedded_servers

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it, and that is inherited

    async def main():
        stop = asyncio.Event()
        if sys.argv[2] == "graceful":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with embedded_servers(Path(sys.argv[1])) as servers:
            client = await asyncpg.connect(servers.database_url)
            await client.execute("BEGIN; CREATE TABLE half_done (n int)")
            print("ready", flush=True)
            await stop.wait()

    asyncio.run(main())
"""


def _server_pids(data: Path) -> list[int]:
    postmaster = (data / "postgres" / "postmaster.pid").read_text().splitlines()[0]
    return [int((data / "valkey" / "valkey.pid").read_text()), int(postmaster)]


def _assert_ended_cleanly(data: Path) -> None:
    assert "database system is shut down" in (data / "logs" / "postgres.log").read_text()
    assert "ready to exit, bye bye" in (data / "logs" / "valkey.log").read_text()
    assert not (data / "postgres" / "postmaster.pid").exists()
    assert not (data / "valkey" / "valkey.pid").exists()


def _processes(owner: Program, data: Path) -> list[psutil.Process]:
    processes = owner.descendants()
    assert set(_server_pids(data)) <= {process.pid for process in processes}
    return processes


def test_servers_end_cleanly_when_their_owner_is_asked_to_stop(tmp_path: Path) -> None:
    with program(OWNER, tmp_path / "data", "graceful") as owner:
        processes = _processes(owner, tmp_path / "data")
        owner.process.terminate()

        assert owner.process.wait(timeout=STOP_BOUND_S) == 0
        assert are_gone(processes)
        _assert_ended_cleanly(tmp_path / "data")


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_servers_end_cleanly_when_their_owner_is_killed(tmp_path: Path, fatal: signal.Signals) -> None:
    with program(OWNER, tmp_path / "data", "unprepared") as owner:
        processes = _processes(owner, tmp_path / "data")
        owner.process.send_signal(fatal)

        assert owner.process.wait(timeout=STOP_BOUND_S) == -fatal
        seconds_until(lambda: are_gone(processes), within_s=STOP_BOUND_S)
        _assert_ended_cleanly(tmp_path / "data")


def test_servers_end_when_their_owner_and_their_guards_are_killed_together(tmp_path: Path) -> None:
    assert sys.platform == "linux", "elsewhere a guard killed together with its parent leaves its server behind"
    with program(OWNER, tmp_path / "data", "unprepared") as owner:
        processes = _processes(owner, tmp_path / "data")
        guards = psutil.Process(owner.pid).children()
        assert len(guards) == 2
        for victim in (*guards, owner.process):
            victim.kill()

        seconds_until(lambda: are_gone(processes), within_s=STOP_BOUND_S)
        _assert_ended_cleanly(tmp_path / "data")


def test_ctrl_c_at_the_terminal_reaches_the_owner_only(tmp_path: Path) -> None:
    with program(OWNER, tmp_path / "data", "graceful") as owner:
        assert all(os.getsid(process.pid) != os.getsid(owner.pid) for process in _processes(owner, tmp_path / "data"))
