"""Where the tests keep their files: in memory, if there is plenty of it."""

import os
import shutil
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")
NEEDED_BYTES = 4 << 30  # several times what a whole run has there at a time


def roomy_memory(directory: Path = MEMORY) -> Path | None:
    """*directory*, if it is there, has room for a whole run, and lets programs be run from it: containers differ."""
    if not os.access(directory, os.W_OK | os.X_OK):
        return None
    may_run = not os.statvfs(directory).f_flag & getattr(os, "ST_NOEXEC", 0)
    room = min(shutil.disk_usage(directory).free, psutil.virtual_memory().available)
    return directory if may_run and room >= NEEDED_BYTES else None
