"""``holdfast.worker`` that looks at itself: every so many microseconds of its CPU time it notes which code is running.

At its end it writes a line for each stack seen, with how often, to the file that ``HOLDFAST_PROFILE`` names. Time spent
in compiled code (the event loop, the JSON decoder, system calls) is its Python caller's.
"""

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from holdfast.worker import main

INTERVAL_S = 0.001
_stacks: Counter[str] = Counter()


def _note(_: int, frame: FrameType | None) -> None:
    names = []
    while frame is not None:
        names.append(f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    _stacks[";".join(reversed(names))] += 1


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, _note)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
    code = main()
    signal.setitimer(signal.ITIMER_PROF, 0)
    lines = [f"{stack} {count}" for stack, count in _stacks.items()]
    Path(os.environ["HOLDFAST_PROFILE"]).write_text("\n".join(lines), "utf-8")
    sys.exit(code)
