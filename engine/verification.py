"""After another server has taken over, nothing is booked on an event before its state was held against the ledger.

The state says on which life of which server it was built or last audited, and the scripts that book ask the server who
it is. So no process needs to have noticed a failover, or to agree with others about it, or to have lived then::

    promoted replica, without the last writes
    -----------------------------------------
    audited on the old primary               confirm: UNAUDITED; audit, repair, mark
    audited here                             confirm again: CONFIRMED

Holds go on meanwhile: two customers may hold one place for as long as it takes, and one of them is told at the confirm.

An event whose state the ledger has proved wrong, by refusing what was sold in it, is repaired as well, at once. Nobody
waits for that: the second guard holds.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from engine.errors import StoreUnavailable
from engine.events import SellableEvent
from engine.ports import Auditor

# Before a suspected event is repaired again, of which not all could be seen, or which could not be read. The
# reconciler's rotation, which comes to it within half a minute, is there for whatever takes longer.
PAUSES_S = (1.0, 5.0, 25.0)

logger = structlog.get_logger("holdfast.engine")


class Verification:
    """Has an event audited when its state may be wrong, once for all in this process who have cause to ask for it."""

    def __init__(self, auditor: Auditor, *, wait_s: float, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._auditor = auditor
        self._wait_s = wait_s
        self._pauses_s = pauses_s
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._repairing: dict[str, asyncio.Task[None]] = {}
        self._suspected: dict[str, asyncio.Event] = {}  # whose repair is under way: set by each suspicion

    async def verify(self, event: SellableEvent, *, epoch: bytes, server: bytes) -> None:
        """Have the state of *epoch* audited on *server*, as a script that answered ``UNAUDITED`` has named them.

        Raises:
            StoreUnavailable: It takes longer than a caller should wait, and goes on; nothing was done, try again.
            LedgerUnavailable: Postgres, which knows what was sold, does not answer.
        """
        task = self._under_way.get(event.event.id)
        if task is None:
            task = asyncio.create_task(self._auditor.audit(event, epoch=epoch, server=server))
            self._under_way[event.event.id] = task
            task.add_done_callback(lambda task: self._end(event.event.id, task))
        try:
            async with asyncio.timeout(self._wait_s):
                await asyncio.shield(task)
        except TimeoutError:
            raise StoreUnavailable("the event is being audited after a change of server") from None

    def suspect(self, event: SellableEvent) -> None:
        """Have *event* repaired from its present state on; returns at once."""
        event_id = event.event.id
        if event_id not in self._repairing:
            self._suspected[event_id] = asyncio.Event()
            self._repairing[event_id] = asyncio.create_task(self._repair(event, self._suspected[event_id]))
        self._suspected[event_id].set()

    async def _repair(self, event: SellableEvent, suspected: asyncio.Event) -> None:
        event_id = event.event.id
        pauses = iter(self._pauses_s)
        try:
            while suspected.is_set():  # again, when there was cause since the last one began
                suspected.clear()
                if await self._is_repaired(event):
                    pauses = iter(self._pauses_s)
                elif (pause := next(pauses, None)) is not None:
                    with contextlib.suppress(TimeoutError):  # a new cause does not wait
                        await asyncio.wait_for(suspected.wait(), pause)
                    suspected.set()
        finally:
            del self._repairing[event_id], self._suspected[event_id]

    async def _is_repaired(self, event: SellableEvent) -> bool:
        try:
            return await self._auditor.repair(event)
        except Exception as error:  # damaged beyond reading, say: nobody waits here who could be told
            reason = f"{type(error).__name__}: {error}"
            logger.warning("event not repaired for now", event_id=event.event.id, reason=reason)
            return False

    async def close(self) -> None:
        """Give up what is under way: it is begun again by whoever needs it next."""
        tasks = [*self._under_way.values(), *self._repairing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, event_id: str, task: "asyncio.Task[None]") -> None:
        self._under_way.pop(event_id, None)
        if not task.cancelled():
            task.exception()  # whoever still waits has it
