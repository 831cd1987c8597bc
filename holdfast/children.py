"""Start child processes that cannot outlive this one, each under a guard (see ``holdfast/guard.py``)."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from holdfast.guard import STOP

GUARD = Path(__file__).with_name("guard.py")
GUARD_MARGIN_S = 5.0  # a guard that has not ended this long after its last stage is itself killed


class Stage(msgspec.Struct, frozen=True):
    """One step of ending a process: a signal, and how long to wait for its effect. SIGKILL follows the last."""

    signal: signal.Signals
    grace_s: float


GRACEFUL = (Stage(signal=signal.SIGTERM, grace_s=15.0),)


class Child:
    """A running command and the lifeline of its guard. Made by ``start_child``."""

    def __init__(self, guard: asyncio.subprocess.Process, lifeline: int, stages: Sequence[Stage]) -> None:
        self._guard = guard
        self._lifeline: int | None = lifeline
        self._bound_s = sum(stage.grace_s for stage in stages) + GUARD_MARGIN_S

    @property
    def guard_pid(self) -> int:
        return self._guard.pid

    async def wait(self) -> int:
        """Return the command's exit status, 128 + n after signal n, or below zero when its guard was killed."""
        code = await self._guard.wait()
        self._let_go()
        return code

    def send(self, number: signal.Signals) -> None:
        """Pass a signal to the command at once, beside any stop that is under way."""
        self._write(number)

    async def stop(self) -> int:
        """End the command in stages, and return its exit status; at once when it has ended already.

        When cancelled, the guard still carries the stop through by itself.
        """
        self._write(STOP)
        try:
            async with asyncio.timeout(self._bound_s):
                return await self.wait()
        except TimeoutError:
            if self._guard.returncode is None:
                self._guard.kill()
            return await self.wait()
        finally:
            self._let_go()

    def _write(self, byte: int) -> None:
        if self._lifeline is None:
            return
        try:
            os.write(self._lifeline, bytes([byte]))
        except BrokenPipeError:
            self._let_go()  # the guard has ended; wait() tells how

    def _let_go(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


async def start_child(
    command: Sequence[str],
    *,
    stages: Sequence[Stage] = GRACEFUL,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    run_as: tuple[int, int] | None = None,
    pass_fds: Sequence[int] = (),
    output: int | None = None,
) -> Child:
    """Start *command* under a guard.

    *cwd* is entered before *run_as* (uid, gid) is assumed, so that it may lie where that account could not go by
    itself. *output* is a descriptor for stdout and stderr (absent: ours); stdin is empty. *pass_fds* keep their
    numbers.
    """
    guard_end, our_end = os.pipe()
    account = "-" if run_as is None else f"{run_as[0]}:{run_as[1]}"
    schedule = ",".join(f"{int(stage.signal)}:{stage.grace_s}" for stage in stages)
    arguments = ["-I", "-S", str(GUARD), str(os.getpid()), str(guard_end), account, schedule, *command]
    try:
        guard = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            env=env,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(guard_end, *pass_fds),
            start_new_session=True,
        )
    except BaseException:
        os.close(our_end)
        raise
    finally:
        os.close(guard_end)
    return Child(guard, our_end, stages)


def describe_exit(code: int) -> str:
    """Say in words what an exit status of ``Child.wait`` means."""
    if code < 0:
        return f"its guard was killed by {signal.Signals(-code).name}"
    if code > 128 and code - 128 in {int(number) for number in signal.Signals}:
        return f"killed by {signal.Signals(code - 128).name}"
    return f"exit status {code}"
