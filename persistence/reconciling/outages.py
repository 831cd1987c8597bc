"""What fails is told once when it begins to fail and once when it is over, however often it is tried meanwhile."""

import structlog

from engine.errors import Unavailable

SUBJECTS_MAX = 1_000  # told apart at a time; past it, more of them would fill the log and tell nobody anything

logger = structlog.get_logger("holdfast.reconciler")


class Outages:
    """What is failing now, by subject. Duties and events are kept apart: no number of events may silence a duty."""

    def __init__(self) -> None:
        self._failing: dict[str, str] = {}

    def note(self, subject: str, error: Exception) -> None:
        """*subject* has failed: logged unless it was failing for the same reason already."""
        kind = type(error).__name__
        if self._failing.get(subject) == kind or len(self._failing) >= SUBJECTS_MAX:
            return
        self._failing[subject] = kind
        if isinstance(error, Unavailable):
            logger.warning("reconciler is held up", subject=subject, error=kind, reason=str(error))
        else:  # foreseen by nobody: a bug, here or in what was found
            logger.error("reconciler has failed", subject=subject, error=kind, exc_info=error)

    def over(self, subject: str) -> None:
        """*subject* has succeeded."""
        if self._failing.pop(subject, None) is not None:
            logger.info("reconciler goes on", subject=subject)
