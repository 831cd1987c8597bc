"""What can go wrong with embedded servers.

EmbeddedError
├── DataDirBusy      another instance owns the data directory
├── DataDirUnusable  the directory, an account or a program is not as it must be; a person has to act
└── ServerFailed     a server did not start, or did not become ready
"""

from pathlib import Path


class EmbeddedError(Exception):
    """Embedded servers cannot be run; the message says why, and what to do."""


class DataDirBusy(EmbeddedError):
    """Another instance owns the data directory. May succeed once that one has stopped."""

    def __init__(self, data_dir: Path, owner_pid: int | None) -> None:
        self.data_dir = data_dir
        self.owner_pid = owner_pid
        owner = f"process {owner_pid}" if owner_pid else "another process"
        super().__init__(
            f"{data_dir} is in use by {owner}: stop it, or give this instance a directory of its own"
            " (--data-dir, HOLDFAST_DATA_DIR); to share its installation, set REDIS_URL and DATABASE_URL to its servers"
        )


class DataDirUnusable(EmbeddedError):
    """Something a person must change first: rights, an account, a version, a full path."""


class ServerFailed(EmbeddedError):
    """A server ended while starting, or was not ready in time; carries the end of its log."""

    def __init__(self, server: str, reason: str, *, log: Path, log_tail: str) -> None:
        self.server = server
        self.reason = reason
        self.log = log
        self.log_tail = log_tail
        shown = "\n".join(f"    {line}" for line in log_tail.splitlines()) or "    (nothing)"
        super().__init__(f"embedded {server}: {reason}\n  the end of {log}:\n{shown}")
