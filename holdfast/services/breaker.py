"""A circuit breaker: a service that keeps failing is left alone for a while, and nobody waits for it meanwhile."""

import time
from collections.abc import Callable

OPENS_AFTER = 5  # failures in a row: one bad answer is chance, five are a service that is away
PAUSE_S = 5.0  # what a restart takes; then one caller tries, for everybody


class CircuitBreaker:
    """Closed, calls pass. After *opens_after* failures in a row it is open and none does, for *pause_s* seconds; then
    one call passes as a probe, and what becomes of it closes the breaker or opens it anew.

    Not for use from several threads.
    """

    def __init__(
        self,
        *,
        opens_after: int = OPENS_AFTER,
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._opens_after = opens_after
        self._pause_s = pause_s
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are turned away, but for a probe."""
        return self._opened_at is not None

    def admits(self) -> bool:
        """Whether a call may pass. Every one that does must be followed by what became of it: :meth:`succeed`,
        :meth:`fail` or :meth:`forget`."""
        if self._opened_at is None:
            return True
        if self._is_probing or self._clock() - self._opened_at < self._pause_s:
            return False
        self._is_probing = True
        return True

    def succeed(self) -> None:
        """The service answered."""
        self._failures, self._opened_at, self._is_probing = 0, None, False

    def fail(self) -> None:
        """It did not."""
        self._failures += 1
        if self._is_probing or (self._opened_at is None and self._failures >= self._opens_after):
            self._opened_at, self._is_probing = self._clock(), False

    def forget(self) -> None:
        """Nothing was learned: the caller gave up first, or asked what the service would not answer."""
        self._is_probing = False
