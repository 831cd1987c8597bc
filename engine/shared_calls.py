"""What is asked of one event at the same time: the usual requests share a call of a script, whoever makes them.

A sale is a crowd that wants places of one event at once, and half of what a claim costs Redis and the engine it costs
for being a call of its own; so it is with confirmations. So while one of an event is under way, usual ones that come
are gathered until the turn of the event loop ends, or until they are thirty-two, and go together to the script for many
(``hold_many``, ``confirm_many``). Who is alone waits for nobody
(``docs/decisions/0040-claims-of-a-crowd-share-a-call.md``, ``0042-confirmations-share-a-call.md``).
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog
from redis.exceptions import RedisError

from engine import figures
from engine.errors import HoldfastError
from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.transport.errors import NotSent

SHARED_BY = 32  # requests in a call: Redis works on them while the next ones are made ready
ALONE_S = 0.1  # for which those of an event go alone that did nothing together: people are in line, or it is closed
ALONE_MAX = 1_000  # events of which that is remembered; then it begins anew

GENERAL = b"GENERAL"  # what stands for the answer to a request about which nothing was done

Answer = tuple[Any, Any]
"""What the call says of all its requests, and what of one of them."""

MakeArguments = Callable[[SellableEvent, Sequence[Any]], list[bytes]]
"""From an event and the requests about it to the arguments of the script."""

logger = structlog.get_logger("holdfast.engine")

_Waiting = tuple[Any, bytes | None, "asyncio.Future[Answer | None]"]


class SharedCalls:
    """Those of one script that one process is gathering requests for, by event."""

    def __init__(self, kernel: Kernel, script: str, make_arguments: MakeArguments) -> None:
        self._kernel = kernel
        self._script = script
        self._make_arguments = make_arguments
        self._under_way: dict[str, int] = {}
        self._calls: dict[str, _Call] = {}
        self._alone_until: dict[str, float] = {}

    def enter(self, event_id: str) -> bool:
        """A request about the event begins; whether it should share. :meth:`leave` follows, whatever comes of it."""
        others = self._under_way.get(event_id, 0)
        self._under_way[event_id] = others + 1
        return others > 0 and (event_id not in self._alone_until or self._may_share_again(event_id))

    def leave(self, event_id: str) -> None:
        """It has ended."""
        if (left := self._under_way[event_id] - 1) > 0:
            self._under_way[event_id] = left
        else:
            del self._under_way[event_id]

    async def ask(self, event: SellableEvent, request: Any, scope: bytes | None) -> Answer | None:
        """The answer to a usual *request*; *scope* is that of its idempotency key.

        ``None`` if nothing was done about it, or that is not known: it is to be made by itself then, as the same one.

        Raises:
            StoreUnavailable, LedgerUnavailable: As :meth:`Kernel.run`.
        """
        loop = asyncio.get_running_loop()
        call = self._calls.get(event.event.id)
        if call is None or call.event is not event:  # another layout, say: the one before goes as it was asked
            call = self._calls[event.event.id] = _Call(event, self._make_arguments)
            loop.call_soon(self._send, call)
        answer: asyncio.Future[Answer | None] = loop.create_future()
        call.waiting.append((request, scope, answer))
        if len(call.waiting) == SHARED_BY:
            self._send(call)
        try:
            return await answer
        except asyncio.CancelledError:
            call.leave()
            raise

    def _send(self, call: "_Call") -> None:
        if call.is_closed:  # it left when there were enough of them
            return
        call.is_closed = True
        if self._calls.get(call.event.event.id) is call:
            del self._calls[call.event.event.id]
        args, onces = call.arguments()
        if not call.waiting:
            return
        figures.CALLS_SHARED.observe(len(call.waiting), self._script)
        try:
            reply = call.work = self._kernel.begin(self._script, call.event, args, onces=onces)
            reply.add_done_callback(partial(self._take, call))
        except NotSent:  # each may wait for a connection, as long as there is somebody who waits for it
            call.tell([GENERAL])
        except Exception as error:
            _give_up(call, error)

    def _take(self, call: "_Call", reply: "asyncio.Future[Any]") -> None:
        if reply.cancelled():  # nobody waits any more
            return
        if reply.exception() is not None or isinstance(reply.result(), RedisError):
            call.work = asyncio.get_running_loop().create_task(self._run_again(call))
        else:
            self._tell(call, reply.result())

    async def _run_again(self, call: "_Call") -> None:
        """As a call by itself: that is repeated, redirected, and has the script loaded where it is not known."""
        args, onces = call.arguments()
        if not call.waiting:
            return
        try:
            reply = await self._kernel.run(self._script, call.event, args, onces=onces)
        except HoldfastError as error:
            call.fail(error)
        except Exception as error:
            _give_up(call, error)
        else:
            self._tell(call, reply)

    def _tell(self, call: "_Call", reply: Sequence[Any]) -> None:
        """Give each its answer; of an event that answers none it is not asked again for a moment."""
        if reply[0] == GENERAL:
            if len(self._alone_until) >= ALONE_MAX:
                self._alone_until.clear()
            self._alone_until[call.event.event.id] = asyncio.get_running_loop().time() + ALONE_S
        try:
            call.tell(reply)
        except Exception as error:
            _give_up(call, error)

    def _may_share_again(self, event_id: str) -> bool:
        if asyncio.get_running_loop().time() < self._alone_until[event_id]:
            return False
        del self._alone_until[event_id]
        return True


class _Call:
    """Requests that leave together; *work* is what is under way about them."""

    def __init__(self, event: SellableEvent, make_arguments: MakeArguments) -> None:
        self.event = event
        self._make_arguments = make_arguments
        self.waiting: list[_Waiting] = []
        self.is_closed = False
        self.work: asyncio.Future[Any] | None = None

    def arguments(self) -> tuple[list[bytes], list[bytes]]:
        """Those of the call, and its keys, for all that have not gone away."""
        self.waiting = [each for each in self.waiting if not each[2].done()]
        onces = [scope for _, scope, _ in self.waiting if scope is not None]
        return self._make_arguments(self.event, [request for request, _, _ in self.waiting]), onces

    def leave(self) -> None:
        """One has gone away. Nothing more is done for nobody: what waits to be sent again is not."""
        if self.work is not None and all(future.done() for _, _, future in self.waiting):
            self.work.cancel()

    def tell(self, reply: Sequence[Any]) -> None:
        """Give each its answer."""
        if reply[0] == GENERAL:
            for _, _, future in self.waiting:
                if not future.done():
                    future.set_result(None)
            return
        _, common, *answers = reply
        for (_, _, future), answer in zip(self.waiting, answers, strict=True):
            if not future.done():
                future.set_result(None if answer == GENERAL else (common, answer))

    def fail(self, error: Exception) -> None:
        """Tell each that there is none."""
        for _, _, future in self.waiting:
            if not future.done():
                future.set_exception(error)


def _give_up(call: _Call, error: Exception) -> None:
    """A bug of ours: each goes alone, so that whose request is at fault finds out by itself."""
    logger.warning("requests that shared a call go alone", event_id=call.event.event.id, reason=repr(error))
    call.tell([GENERAL])
