"""The machine that figures are from."""

import os
import platform
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True):
    """Figures without it say nothing; the load is that of the last minute, before the run."""

    cpu: str
    cores: int
    load_average: float
    system: str
    python: str


def this_machine() -> Machine:
    """As the system tells it."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return Machine(
        cpu=model or platform.processor() or platform.machine(),
        cores=(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1,
        load_average=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )
