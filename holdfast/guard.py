"""The process in between: runs one command, and ends it when the process that asked for it ends, however that ends.

    parent ── lifeline (a pipe) ──▶ guard ── fork ──▶ command

A parent-death signal set by the command itself would be simpler, and is not enough: it fires when the *thread* that
forked ends, it needs Python code between fork and exec of a threaded parent, it is one signal with nothing after it
when the command hangs, and only Linux has it. The guard has one thread; it learns of its parent's end from the pipe
(end of file, which the kernel delivers even after SIGKILL) or, should a stray fork hold the pipe open, from its own
parent's id changing. It then ends the command in stages, the last of them SIGKILL. On Linux the command also gets a
parent-death signal, so that it ends too when the guard itself is killed. The guard leads a session of its own: Ctrl-C
at the terminal reaches the parent only, which decides in what order things stop.

The lifeline carries bytes: 0 asks for a stop in stages, as end of file does; any other byte is the number of a signal
to pass on at once. The exit status is the command's, or 128 + the number of the signal that ended it.

This file is run by its path with ``python -I -S`` and imports the standard library only, to start in some 15 ms.
Arguments: parent's pid, lifeline's descriptor, ``uid:gid`` to become or ``-``, stages as ``signal:seconds,…``, command.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

STOP = 0
PARENT_CHECK_S = 2.0  # the second line of defence; the pipe reports at once
_PR_SET_PDEATHSIG = 1
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HANDLED = (*_STOP_SIGNALS, signal.SIGCHLD)


def main(arguments: Sequence[str]) -> int:
    parent_pid, lifeline, account, stages, *command = arguments
    os.set_inheritable(int(lifeline), False)
    stops = [(int(number), float(grace)) for number, _, grace in (stage.partition(":") for stage in stages.split(","))]
    ask_for_death_signal = _death_signal_request()
    wakeups = _report_signals_on_a_pipe()

    # Blocked across the fork: a signal sent before the child has its default handlers back must not be swallowed.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    guard_pid = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, account=account, ask_for_death_signal=lambda: ask_for_death_signal(stops[0][0], guard_pid))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    return _watch(child, parent_pid=int(parent_pid), lifeline=int(lifeline), wakeups=wakeups, stops=stops)


def _watch(child: int, *, parent_pid: int, lifeline: int, wakeups: int, stops: list[tuple[int, float]]) -> int:
    inputs = select.poll()
    inputs.register(lifeline, select.POLLIN)
    inputs.register(wakeups, select.POLLIN)
    stopping = False
    next_stage_at = 0.0
    while True:
        # The child is not reaped before this line, so its pid cannot have passed to someone else when we signal it.
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if stopping and time.monotonic() >= next_stage_at:
            number, grace_s = stops.pop(0) if stops else (int(signal.SIGKILL), PARENT_CHECK_S)
            os.kill(child, number)
            next_stage_at = time.monotonic() + grace_s
        patience_s = max(0.0, next_stage_at - time.monotonic()) if stopping else PARENT_CHECK_S
        for descriptor, _ in inputs.poll(patience_s * 1000 + 1):
            received = os.read(descriptor, 64)
            if descriptor == wakeups:
                stopping = stopping or any(number in _STOP_SIGNALS for number in received)
                continue
            if not received:
                inputs.unregister(lifeline)
            stopping = stopping or not received or STOP in received
            for number in received:
                if number != STOP:
                    os.kill(child, number)
        stopping = stopping or os.getppid() != parent_pid


def _report_signals_on_a_pipe() -> int:
    """Turn signals into bytes of their numbers on a pipe, so that one poll waits for everything."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in _HANDLED:
        signal.signal(number, lambda *_: None)
    return readable


def _become(command: list[str], *, account: str, ask_for_death_signal: Callable[[], None]) -> NoReturn:
    try:
        for number in (*_HANDLED, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        if account != "-":
            uid, _, gid = account.partition(":")
            os.setgroups([])
            os.setgid(int(gid))
            os.setuid(int(uid))
        ask_for_death_signal()  # after setuid, which clears it
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except BaseException as error:  # nothing may escape into the parent's code in a forked child
        os.write(2, f"holdfast guard: cannot run {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _death_signal_request() -> Callable[[int, int], None]:
    """Load beforehand what the child needs: once it is unprivileged, our files may be out of its reach."""
    if sys.platform != "linux":
        return lambda _number, _guard_pid: None
    import ctypes  # here, because only Linux needs it

    libc = ctypes.CDLL(None, use_errno=True)

    def ask(number: int, guard_pid: int) -> None:
        if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != guard_pid:  # the guard ended before the signal was asked for
            os._exit(128 + number)

    return ask


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
