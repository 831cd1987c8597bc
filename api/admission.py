"""Admission control: how much a process works on at once, who waits for how long, and who is turned away.

The event loop has one queue, its ready list, and everything that is in it shares the core. Were every request begun as
it comes, all of them would get slower together past capacity, until none is answered in time. So each class of
requests has a bound of its own, and what is over it waits, in order of urgency:

- ``confirm``  bookings, their steps, payments' webhooks: they wait for Postgres, which costs no CPU, and commit in
  groups, so many may be under way;
- ``hold``     what is done to holds: it waits for Redis alone, so more under way than a batch makes nothing faster;
- ``read``     what is read from Redis or memory; ``record`` what is read from or written to Postgres otherwise. Both
  give way while a hold waits; they are bounded apart, so that requests stuck on a Postgres that is away keep neither
  holds nor availability waiting.

How long one may wait is not a fixed length but Controlled Delay, as in wangle and in "Fail at Scale" (Maurer, 2015): a
queue that was empty lately is a burst and may take ``queue_time_s`` to drain; one that has stood for that long is
overload, and then nobody waits longer than ``STANDING`` of it: those who are served are served soon, the others know at
once. Whether somebody would wait too long is reckoned from the pace of the class, when they come; so they are turned
away before their token is looked at and their body is read, and (:mod:`holdfast.http_protocol`) before their head is
parsed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from math import inf

from engine import figures
from engine.errors import Overloaded

IN_FLIGHT = 64  # holds under way; half of it costs throughput, twice as much only makes everybody wait (decision 0031)
CONFIRMS = 4  # times as many confirms: they wait for a commit, or a payment provider
QUEUE_TIME_S = 0.2
STANDING = 0.125  # of the queue time: what may be waited in a queue that never empties
PACE_WINDOW_S = 0.05  # answers come in batches of the event loop: over less the pace would jump
EXPIRE_EVERY_S = 0.02
RETRY_AFTER_MAX_S = 4

CONFIRM, HOLD, READ, RECORD = "confirm", "hold", "read", "record"
_GIVING_WAY = (READ, RECORD)
_NEVER = frozenset(("/healthz", "/readyz", "/metrics"))
_CONFIRMS = ("/v1/bookings", "/v1/payments/")
_READS = ("/availability", "/seats")


def class_of(method: str, path: str) -> str | None:
    """The class of a request by its head alone; ``None`` for what is never turned away.

    Paths of routes may be given as well as those of requests. Anything unknown is a ``record``, the least urgent.
    """
    if method in ("GET", "HEAD"):
        if path in _NEVER:
            return None
        return READ if path.endswith(_READS) or path.startswith("/v1/holds/") else RECORD
    if path.endswith("/holds") or path.startswith("/v1/holds"):
        return HOLD
    return CONFIRM if path.startswith(_CONFIRMS) else RECORD


class _Class:
    """One class: what is under way, who waits since when, and how fast it goes."""

    __slots__ = ("ended", "in_flight", "limit", "name", "pace_s", "standing_since", "stood_at", "waiting", "window_at")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.in_flight = 0
        self.waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self.pace_s = 0.0  # mean time between two that end while somebody waits
        self.ended = 0  # in the window that began at window_at
        self.window_at = 0.0
        self.standing_since = 0.0
        self.stood_at = -inf  # when its queue was last seen to have stood for the queue time


class Admission:
    """The requests of one process; used in its event loop only.

    ``require_room`` is asked as soon as the class is known; ``begin`` and ``end`` enclose the work, not the reading of
    the request nor the sending of its answer: those are as slow as a client likes.
    """

    def __init__(
        self,
        *,
        in_flight: int = IN_FLIGHT,
        queue_time_s: float = QUEUE_TIME_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        limits = {CONFIRM: in_flight * CONFIRMS, HOLD: in_flight, READ: in_flight, RECORD: in_flight}
        self._classes = {name: _Class(name, limit) for name, limit in limits.items()}
        self._hold = self._classes[HOLD]
        self._queue_time_s = queue_time_s
        self._standing_s = queue_time_s * STANDING
        self._clock = clock
        self._waiting = 0
        self._arriving_free = in_flight
        self._expiry: asyncio.TimerHandle | None = None
        self._refusals = 0

    def retry_after_s(self) -> int:
        """When to come again: those who are turned away together are told different seconds, in turn."""
        self._refusals += 1
        return 1 + self._refusals % RETRY_AFTER_MAX_S

    def gauges(self) -> dict[str, float]:
        """How much is under way, and how much waits."""
        return {
            "holdfast_in_flight": sum(one.in_flight for one in self._classes.values()),
            "holdfast_queue_waiting": self._waiting,
        }

    def may_refuse(self, arriving: int) -> bool:
        """Whether it is worth asking :meth:`would_refuse` at all; cheap, for every request asks."""
        return self._waiting > 0 or arriving > self._arriving_free

    def would_refuse(self, name: str, *, arriving: int = 0) -> bool:
        """Whether a request of this class, come now, would wait too long.

        *arriving* requests have come in this pass of the event loop, and are on their way to :meth:`begin`; they are
        taken to be of the same class.
        """
        one = self._classes[name]
        ahead = len(one.waiting) + max(0, arriving - max(0, one.limit - one.in_flight))
        if name in _GIVING_WAY:
            ahead += len(self._hold.waiting)
        now = self._clock()
        if not ahead or ahead * one.pace_s <= self._patience_s(one, now):
            return False
        self._note_refusal(one, now)
        return True

    def count_refused(self, name: str) -> None:
        """Count a request that was refused for that."""
        figures.SHED.add(name)

    def require_room(self, name: str) -> None:
        """Raise unless a request that has just come may be looked at.

        Raises:
            Overloaded: It would wait too long; nothing was done.
        """
        if self._waiting and self.would_refuse(name):
            self.count_refused(name)
            raise self._overloaded()

    def begin_at_once(self, name: str) -> bool:
        """Take a turn if one is free; else nothing is changed, and :meth:`begin` waits for one."""
        one = self._classes[name]
        if one.in_flight < one.limit and (not self._waiting or not (one.waiting or self._gives_way(one))):
            one.in_flight += 1
            return True
        return False

    async def begin(self, name: str) -> None:
        """Wait for a turn; whoever has got one must give it back with :meth:`end`.

        Raises:
            Overloaded: It did not come in time; nothing was done.
        """
        one = self._classes[name]
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        began = self._clock()
        if not one.waiting:
            one.standing_since = one.window_at = began
            one.ended = 0
        one.waiting.append((began, turn))
        self._waiting += 1
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(EXPIRE_EVERY_S, self._expire)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.end(name)  # the turn had come in the same moment
            raise
        figures.QUEUE_SECONDS.observe(self._clock() - began, name)

    def end(self, name: str) -> None:
        """Give a turn back; the next one gets it."""
        one = self._classes[name]
        one.in_flight -= 1
        if self._waiting:
            now = self._clock()
            if one.waiting:
                one.ended += 1
                if (took_s := now - one.window_at) >= PACE_WINDOW_S:
                    one.pace_s = (one.pace_s + took_s / one.ended) / 2 if one.pace_s else took_s / one.ended
                    one.window_at, one.ended = now, 0
            self._serve(now)

    def _overloaded(self) -> Overloaded:
        return Overloaded("too many are waiting", retry_after_s=self.retry_after_s())

    def _gives_way(self, one: _Class) -> bool:
        return bool(self._hold.waiting) and one.name in _GIVING_WAY

    def _patience_s(self, one: _Class, now: float) -> float:
        """How long one may wait: long in a burst, hardly in a queue that stands, or did just now."""
        if one.waiting and now - one.standing_since > self._queue_time_s:
            one.stood_at = now
        return self._standing_s if now - one.stood_at < self._queue_time_s else self._queue_time_s

    def _note_refusal(self, one: _Class, now: float) -> None:
        """Overload that was seen goes on for as long as anybody is turned away.

        A queue that is kept short empties now and then. Were that taken for the end, it would be let grow again.
        """
        if now - one.stood_at < self._queue_time_s:
            one.stood_at = now

    def _serve(self, now: float) -> None:
        """Give every free turn to who has waited longest, and turn away who has waited too long."""
        for one in self._classes.values():
            if self._gives_way(one):
                self._drop_late(one, now)
                continue
            while one.waiting:
                self._drop_late(one, now)
                if not one.waiting or one.in_flight >= one.limit:
                    break
                turn = one.waiting.popleft()[1]
                self._waiting -= 1
                if not turn.done():  # a caller that has gone has left it behind
                    one.in_flight += 1
                    turn.set_result(None)

    def _drop_late(self, one: _Class, now: float) -> None:
        latest = now - self._patience_s(one, now)
        while one.waiting and (one.waiting[0][0] < latest or one.waiting[0][1].done()):
            turn = one.waiting.popleft()[1]
            self._waiting -= 1
            if not turn.done():
                figures.SHED.add(one.name)
                self._note_refusal(one, now)
                turn.set_exception(self._overloaded())

    def _expire(self) -> None:
        """Turn away the late even when nothing ends: Redis or Postgres may be away."""
        self._expiry = None
        self._serve(self._clock())
        if self._waiting:
            self._expiry = asyncio.get_running_loop().call_later(EXPIRE_EVERY_S, self._expire)
