"""Children and their guards: signals passed on, stops in stages, exit statuses told apart."""

import os
import signal
import sys
from collections.abc import Iterator
from tempfile import TemporaryFile

import psutil
import pytest
from processes_under_test import are_gone, program, seconds_until

from holdfast.children import Stage, describe_exit, start_child

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def output() -> Iterator[int]:
    with TemporaryFile() as file:
        yield file.fileno()


def _said(output: int) -> str:
    return os.pread(output, 65_536, 0).decode()


async def test_child_reports_its_exit_status(output: int) -> None:
    child = await start_child(["sh", "-c", "echo hello; exit 7"], output=output)

    assert await child.wait() == 7
    assert await child.stop() == 7
    assert _said(output) == "hello\n"


async def test_child_reports_the_signal_that_ended_it(output: int) -> None:
    child = await start_child(["sleep", "60"], output=output)
    child.send(signal.SIGUSR1)

    assert describe_exit(await child.wait()) == "killed by SIGUSR1"


async def test_child_is_killed_when_no_stage_of_a_stop_has_an_effect(output: int) -> None:
    stages = [Stage(signal=signal.SIGTERM, grace_s=0.05), Stage(signal=signal.SIGTERM, grace_s=0.05)]
    child = await start_child([sys.executable, "-c", STUBBORN], stages=stages, output=output)
    seconds_until(lambda: "up" in _said(output), within_s=10)

    assert describe_exit(await child.stop()) == "killed by SIGKILL"


async def test_child_that_cannot_be_run_says_so(output: int) -> None:
    child = await start_child(["/no/such/program"], output=output)

    assert await child.wait() == 127
    assert "cannot run /no/such/program: [Errno 2]" in _said(output)


async def test_child_ends_when_its_guard_is_killed(output: int) -> None:
    assert sys.platform == "linux", "elsewhere there is no parent-death signal"
    child = await start_child(["sleep", "60"], output=output)
    guard = psutil.Process(child.guard_pid)
    seconds_until(lambda: [each for each in guard.children() if each.name() == "sleep"], within_s=10)
    sleeping = guard.children()
    guard.kill()

    assert describe_exit(await child.wait()) == "its guard was killed by SIGKILL"
    seconds_until(lambda: are_gone(sleeping), within_s=5)


def test_child_ends_with_its_parent_when_a_fork_holds_the_lifeline_open() -> None:
    parent = """
        import asyncio, os, time
        from holdfast.children import start_child

        async def main():
            await start_child(["sleep", "60"])
            if os.fork() == 0:
                time.sleep(60)
            print("ready", flush=True)
            time.sleep(60)

        asyncio.run(main())
    """
    with program(parent) as running:
        seconds_until(lambda: "sleep" in [each.name() for each in running.descendants()], within_s=10)
        sleeping = [each for each in running.descendants() if each.name() == "sleep"]
        running.process.kill()

        seconds_until(lambda: are_gone(sleeping), within_s=10)
