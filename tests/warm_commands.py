"""The real command in processes forked from one that has imported it: starting Python takes ten times as long."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from command_line import COMMAND_TIMEOUT_S, CommandLine

from holdfast.cli import LazyGroup

# A server of forks, and not a fork of this process: servers of the tests run on a thread here, and threads stay behind.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["holdfast.cli", *LazyGroup.modules.values()])


class WarmCommandLine(CommandLine):
    """``holdfast`` as ``python -m holdfast`` runs it, but for its imports, which another process has made before.

    For commands on running servers. What ends with the interpreter (servers started for the moment) has to be tried on
    a process that is a command's from its start: ``CommandLine``.
    """

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        words = [*map(str, arguments)]
        with tempfile.TemporaryDirectory(prefix="hf-command-") as directory:
            outputs = [Path(directory, name) for name in ("stdout", "stderr")]
            process = _PROCESSES.Process(target=_be_holdfast, args=(words, self.environment | variables, *outputs))
            process.start()
            process.join(COMMAND_TIMEOUT_S)
            if process.exitcode is None:
                process.kill()
                process.join()
                raise subprocess.TimeoutExpired(words, COMMAND_TIMEOUT_S, *(path.read_bytes() for path in outputs))
            printed = [path.read_text() for path in outputs]
            return subprocess.CompletedProcess(words, process.exitcode, *printed)


def _be_holdfast(arguments: Sequence[str], environment: Mapping[str, str], stdout: Path, stderr: Path) -> None:
    """Be, from here on, a process that was started with all of these."""
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((1, stdout), (2, stderr)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv[1:] = arguments
    runpy.run_module("holdfast", run_name="__main__", alter_sys=True)
