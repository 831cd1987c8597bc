"""Tasks that answer one request after another, so that nobody makes a new one for each.

Before Python 3.14 asyncio keeps its tasks in a ``WeakSet``, whose code is Python: entering and leaving it costs more
than all else of a task that has little to do. A runner is in it once, and then waits for its next request. In the
server's own set of tasks, which a stop waits for and in the end cancels, it stands only while it has one.

A task has one context: what a request sets in a ``ContextVar`` and does not set back, the next one finds. So nothing
here sets any; a test sees to it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

IDLE_MAX = 256  # runners kept: more than holds and reads are let in by default; beyond it new ones are made

Work = Coroutine[Any, Any, None]
Ended = Callable[[], None]
"""Is told, once, that the work has ended, however that was, or that it will not be begun."""


class Runners:
    """Those of one event loop; *busy* has the tasks that have something to do."""

    def __init__(self, loop: asyncio.AbstractEventLoop, busy: "set[asyncio.Task[None]]") -> None:
        self.loop = loop
        self.busy = busy
        self.idle: list[_Runner] = []

    def run(self, work: Work, ended: Ended) -> None:
        """Begin *work* in the next turn of the loop, in a task that does nothing else meanwhile."""
        while self.idle:
            runner = self.idle.pop()  # who ran last: what it works with is still in the processor's caches
            if not runner.turn.done():  # else it has been cancelled
                runner.given = (work, ended)
                runner.turn.set_result(None)
                self.busy.add(runner.task)
                return
        self.busy.add(_Runner(self, work, ended).task)


class _Runner:
    """One task, and what it has been given and not ended."""

    __slots__ = ("_runners", "given", "task", "turn")

    def __init__(self, runners: Runners, work: Work, ended: Ended) -> None:
        self._runners = runners
        self.given: tuple[Work, Ended] | None = (work, ended)
        self.turn: asyncio.Future[None]
        # Not by the loop's factory of tasks: an eager one would run it before there is a task to speak of.
        self.task = asyncio.Task(self._run(), loop=runners.loop)
        self.task.add_done_callback(self._give_up)

    async def _run(self) -> None:
        runners, task = self._runners, self.task
        while True:
            assert self.given is not None
            work, ended = self.given
            try:
                await work
            except BaseException:
                self._end(ended)
                del self, runners, task, work, ended  # the error refers to this frame: no cycle must keep the request
                raise
            self._end(ended)
            # A cancellation that came too late for this request must not reach the next.
            if task.cancelling() or len(runners.idle) >= IDLE_MAX:
                return
            del work, ended  # and all that they refer to
            self.turn = runners.loop.create_future()
            runners.idle.append(self)
            await self.turn

    def _end(self, ended: Ended) -> None:
        self.given = None
        self._runners.busy.discard(self.task)
        ended()

    def _give_up(self, _: "asyncio.Task[None]") -> None:
        """Cancelled between being given a request and beginning it: somebody still waits to be told."""
        if self.given is not None:
            work, ended = self.given
            work.close()
            self._end(ended)
