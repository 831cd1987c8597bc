"""``holdfast.worker`` that lets everybody in and counts nothing: what that costs is the difference to the real one.

Run as ``python unguarded_worker.py [identity] [figures]``: without what is named. Without identity every request is
made by one of 256 customers in turn, whatever token it brings.
"""

import itertools
import sys
from typing import Any

from api.identity import CUSTOMER, Caller, TokenVerifier
from engine import figures
from holdfast.worker import main

CUSTOMERS = 256
_callers = itertools.cycle([Caller(f"customer-{number}", frozenset({CUSTOMER})) for number in range(CUSTOMERS)])


def _nothing(*_: Any, **__: Any) -> None:
    """Take an observation and forget it."""


def _anybody(*_: Any) -> Caller:
    """Whose turn it is."""
    return next(_callers)


if __name__ == "__main__":
    if "figures" in sys.argv[1:]:
        figures.Histogram.observe = _nothing  # type: ignore[method-assign]
        figures.Counter.add = _nothing  # type: ignore[method-assign]
    if "identity" in sys.argv[1:]:
        TokenVerifier.recall = _anybody  # type: ignore[method-assign]
    sys.exit(main())
