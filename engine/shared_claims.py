"""Claims of one event that are made at the same time: the usual ones share a call of a script, whoever makes them.

A sale is a crowd that wants places of one event at once, and half of what a claim costs Redis and the engine it costs
for being a call of its own. So while a claim of an event is under way, usual ones that come are gathered until the turn
of the event loop ends, or until they are thirty-two, and go to ``hold_many`` together. Who is alone waits for nobody
(``docs/decisions/0040-claims-of-a-crowd-share-a-call.md``).
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from redis.exceptions import RedisError

from engine import figures
from engine.errors import HoldfastError
from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.once import ONCE_TTL_MS, Once
from engine.places import CountedPlaces, NumberedPlaces, Places
from engine.transport.errors import NotSent

SHARED_BY = 32  # claims in a call: Redis works on them while the next ones are made ready

GENERAL = b"GENERAL"  # what stands for the answer to a claim about which nothing was done
_ONCE_TTL = b"%d" % ONCE_TTL_MS

Answer = tuple[int, Any]
"""When the call ran, in ms, and its answer to one claim: a deadline in ms, or the four numbers of a refusal."""

logger = structlog.get_logger("holdfast.engine")

_Waiting = tuple[bytes, bytes | None, "asyncio.Future[Answer | None]"]


class SharedClaims:
    """Those of one process that are being gathered, by event."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._under_way: dict[str, int] = {}
        self._calls: dict[str, _Call] = {}
        self._repeating: set[asyncio.Task[None]] = set()

    def enter(self, event_id: str) -> bool:
        """A claim of the event begins; whether others are under way. :meth:`leave` follows, whatever comes of it."""
        others = self._under_way.get(event_id, 0)
        self._under_way[event_id] = others + 1
        return others > 0

    def leave(self, event_id: str) -> None:
        """It has ended."""
        if (left := self._under_way[event_id] - 1) > 0:
            self._under_way[event_id] = left
        else:
            del self._under_way[event_id]

    async def ask(self, event: SellableEvent, claim: bytes, once: Once | None) -> Answer | None:
        """The answer to a *claim* that :func:`claim_argument` has made of usual places.

        ``None`` if nothing was done about it, or that is not known: it is to be made by itself then, under its key.

        Raises:
            StoreUnavailable, LedgerUnavailable: As :meth:`Kernel.run`.
        """
        call = self._calls.get(event.event.id)
        if call is None or call.event is not event:  # another layout, say: the one before goes as it was asked
            call = self._calls[event.event.id] = _Call(event)
            asyncio.get_running_loop().call_soon(self._send, call)
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        call.waiting.append((claim, None if once is None else once.scope, answer))
        if len(call.waiting) == SHARED_BY:
            self._send(call)
        return await self._kernel.within_limit(answer)

    def _send(self, call: "_Call") -> None:
        if call.args:  # it left when there were enough of them
            return
        if self._calls.get(call.event.event.id) is call:
            del self._calls[call.event.event.id]
        call.close()
        if not call.waiting:
            return
        figures.CLAIMS_SHARED.observe(len(call.waiting))
        try:
            reply = self._kernel.begin("hold_many", call.event, call.args, onces=call.onces)
        except NotSent:
            self._begin_again(call)
        else:
            reply.add_done_callback(partial(self._take, call))

    def _take(self, call: "_Call", reply: "asyncio.Future[Any]") -> None:
        if reply.cancelled() or reply.exception() is not None or isinstance(reply.result(), RedisError):
            self._begin_again(call)
        else:
            call.tell(reply.result())

    def _begin_again(self, call: "_Call") -> None:
        task = asyncio.get_running_loop().create_task(self._run_again(call))
        self._repeating.add(task)
        task.add_done_callback(self._repeating.discard)

    async def _run_again(self, call: "_Call") -> None:
        """As a call by itself: that is repeated, redirected, and has the script loaded where it is not known."""
        try:
            call.tell(await self._kernel.run("hold_many", call.event, call.args, onces=call.onces))
        except HoldfastError as error:
            call.fail(error)
        except Exception as error:  # a bug of ours: whose claim is at fault, each finds out by itself
            logger.warning("claims that shared a call go alone", event_id=call.event.event.id, reason=repr(error))
            call.tell([GENERAL])


class _Call:
    """Claims that leave together."""

    def __init__(self, event: SellableEvent) -> None:
        self.event = event
        self.waiting: list[_Waiting] = []
        self.args: list[bytes] = []
        self.onces: list[bytes] = []

    def close(self) -> None:
        """No more are taken; who has gone away meanwhile is left out."""
        self.waiting = [each for each in self.waiting if not each[2].done()]
        self.args = many_arguments(self.event, [claim for claim, _, _ in self.waiting])
        self.onces = [once for _, once, _ in self.waiting if once is not None]

    def tell(self, reply: Sequence[Any]) -> None:
        """Give each its answer."""
        if reply[0] == GENERAL:
            for _, _, future in self.waiting:
                if not future.done():
                    future.set_result(None)
            return
        _, ran_ms, *answers = reply
        for (_, _, future), answer in zip(self.waiting, answers, strict=True):
            if not future.done():
                future.set_result(None if answer == GENERAL else (ran_ms, answer))

    def fail(self, error: Exception) -> None:
        """Tell each that there is none."""
        for _, _, future in self.waiting:
            if not future.done():
                future.set_exception(error)


def is_usual(places: Places) -> bool:
    """Whether ``hold_many`` takes a claim of these: one item on one leg, by number; a seat by itself."""
    if len(places.items) != 1 or places.last_leg - places.first_leg != 1:
        return False
    item = places.items[0]
    return isinstance(item, CountedPlaces) or (isinstance(item, NumberedPlaces) and len(item.seats) == 1)


def claim_argument(key: bytes, ttl_ms: bytes, places: bytes, once: Once | None, customer_id: str) -> bytes:
    """One claim, as ``hold_many`` takes it."""
    return b"%b|%b|%b|%b|%b" % (key, ttl_ms, places, b"" if once is None else once.body, customer_id.encode())


def many_arguments(event: SellableEvent, claims: Sequence[bytes]) -> list[bytes]:
    """The arguments of ``hold_many`` for *claims*."""
    return [event.layout.digest.encode(), _ONCE_TTL, *claims]
