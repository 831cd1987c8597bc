"""What fails is told once when it begins to fail and once when it is over, however often it is tried meanwhile."""

import time
from collections.abc import Callable

import structlog

from engine.errors import Unavailable

SUBJECTS_MAX = 1_000  # told apart at a time; past it, more of them would fill the log and tell nobody anything
FORGOTTEN_AFTER_S = 600.0  # whatever still fails is tried every minute; what is not has ended, or is somebody else's

logger = structlog.get_logger("holdfast.reconciler")


class Outages:
    """What is failing now, by subject. Duties and events are kept apart: no number of events may silence a duty."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._failing: dict[str, tuple[str, float]] = {}  # by when it was last noted, the oldest first
        self._monotonic = monotonic

    def note(self, subject: str, error: Exception) -> None:
        """*subject* has failed: logged unless it was failing for the same reason already."""
        kind, now = type(error).__name__, self._monotonic()
        self._forget_before(now - FORGOTTEN_AFTER_S)
        known, _ = self._failing.pop(subject, (None, now))
        if len(self._failing) >= SUBJECTS_MAX:
            return
        self._failing[subject] = (kind, now)
        if known == kind:
            return
        if isinstance(error, Unavailable):
            logger.warning("reconciler is held up", subject=subject, error=kind, reason=str(error))
        else:  # foreseen by nobody: a bug, here or in what was found
            logger.error("reconciler has failed", subject=subject, error=kind, exc_info=error)

    def over(self, subject: str) -> None:
        """*subject* has succeeded."""
        if self._failing.pop(subject, None) is not None:
            logger.info("reconciler goes on", subject=subject)

    def _forget_before(self, moment: float) -> None:
        """Forget what was last noted before *moment*: events that are over, say, which nobody audits any more."""
        while self._failing:
            subject, (_, noted) = next(iter(self._failing.items()))
            if noted >= moment:
                return
            del self._failing[subject]
