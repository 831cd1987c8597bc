"""``holdfast.worker`` that counts nothing: what its figures cost is the difference to the real one."""

import sys
from typing import Any

from engine import figures
from holdfast.worker import main


def _nothing(*_: Any, **__: Any) -> None:
    """Take an observation and forget it."""


if __name__ == "__main__":
    figures.Histogram.observe = _nothing  # type: ignore[method-assign]
    figures.Counter.add = _nothing  # type: ignore[method-assign]
    sys.exit(main())
