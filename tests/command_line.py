"""The real command, run as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from processes_under_test import ROOT

COMMAND = [sys.executable, "-m", "holdfast"]
COMMAND_TIMEOUT_S = 60
_OURS = ("HOLDFAST_", "REDIS_URL", "DATABASE_URL")


def clean_environment(**variables: str | Path) -> dict[str, str]:
    """Our environment without any of Holdfast's settings, but for *variables*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | {"PYTHONPATH": str(ROOT)} | {name: str(value) for name, value in variables.items()}


class CommandLine:
    """``holdfast`` with settings of its own."""

    def __init__(self, **variables: str | Path) -> None:
        self.environment = clean_environment(**variables)

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    def ok(self, *arguments: str | Path, **variables: str) -> str:
        """Run a command that must succeed and have nothing to complain of; returns what it printed."""
        done = self.run(*arguments, **variables)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def json(self, *arguments: str | Path) -> Any:
        """The same, of a command that prints JSON."""
        return json.loads(self.ok(*arguments, "--json"))
