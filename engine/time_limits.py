"""A time limit for each of thousands of short waits, at a cost that a hold does not notice.

``asyncio.timeout`` arms and disarms a timer of the event loop per wait: 12 µs on uvloop, an eighth of a whole hold over
HTTP. All waits here have the same limit, so they end in the order in which they began: a queue and one timer for all
of them will do, for about 1 µs.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TICK_S = 0.05  # how late a limit may be noticed
MOST_OF_IT = 0.6  # of a limit: for so much of it nothing may have come


async def give_up_after(limit_s: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of *work*; past the limit it is cancelled, and what its cleaning up takes is not waited for.

    A connection to a server that has fallen silent may take seconds to close: longer than whoever asks has time.

    Raises:
        TimeoutError: The limit has passed.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may come to look at it
    try:
        done, _ = await asyncio.wait([task], timeout=limit_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        raise TimeoutError
    return task.result()


class TimeLimit:
    """Ends waits of one event loop that take longer than *limit_s*, if what they wait for has come to a standstill.

    *stands_still* is asked at every look whether nothing has come since the one before. While something has, in most
    of the limit, a wait may be late, up to *late_max_s*: then it is this process that has so much to do. Looks are
    counted rather than seconds, because an answer may lie there unread for as long as a turn of the loop takes.
    """

    def __init__(
        self, limit_s: float, *, stands_still: Callable[[], bool] = lambda: True, late_max_s: float = 0.0
    ) -> None:
        self.limit_s = limit_s
        self._stands_still = stands_still
        self._grace_s = max(0.0, late_max_s - limit_s)
        self._looks_needed = max(2, int(MOST_OF_IT * limit_s / TICK_S))
        self._still_looks = 0
        self._waits: deque[Wait] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> "Wait":
        """A limit for what the current task awaits from now on; it must be told when that is over.

        The task is cancelled when the limit has passed; :meth:`Wait.is_over` tells whether that was why.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # only tasks await
        wait = Wait(task, loop.time() + self.limit_s)
        self._waits.append(wait)
        if self._timer is None:
            self._still_looks = 0
            self._timer = loop.call_later(TICK_S, self._look, loop)
        return wait

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        waits = self._waits
        self._still_looks = self._still_looks + 1 if self._stands_still() else 0
        late_at = loop.time()
        if self._still_looks < self._looks_needed:
            late_at -= self._grace_s
        while waits and (waits[0].task is None or waits[0].deadline <= late_at):
            waits.popleft().expire()
        self._timer = loop.call_later(TICK_S, self._look, loop) if waits else None


class Wait:
    """One wait, from :meth:`TimeLimit.begin` until :meth:`end`."""

    __slots__ = ("_cancelling", "_expired", "deadline", "task")

    def __init__(self, task: "asyncio.Task[object]", deadline: float) -> None:
        self.task: asyncio.Task[object] | None = task
        self.deadline = deadline
        self._cancelling = task.cancelling()
        self._expired = False

    def end(self) -> None:
        """What was awaited has come, or failed."""
        self.task = None

    def is_over(self) -> bool:
        """Whether a cancellation that has arrived is this limit's, and nobody else has asked for one; forgets it."""
        task = asyncio.current_task()
        return self._expired and task is not None and task.uncancel() <= self._cancelling

    def expire(self) -> None:
        """End the wait, unless it has ended."""
        if self.task is not None:
            self._expired = True
            self.task.cancel()
            self.task = None
