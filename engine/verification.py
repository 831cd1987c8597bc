"""After another server has taken over, nothing is booked on an event before its state was held against the ledger.

The state says on which life of which server it was built or last audited, and the scripts that book ask the server who
it is. So no process needs to have noticed a failover, or to agree with others about it, or to have lived then::

    promoted replica, without the last writes
    -----------------------------------------
    audited on the old primary               confirm: UNAUDITED; audit, repair, mark
    audited here                             confirm again: CONFIRMED

Holds go on meanwhile: two customers may hold one place for as long as it takes, and one of them is told at the confirm.
"""

import asyncio

from engine.errors import StoreUnavailable
from engine.events import SellableEvent
from engine.ports import Auditor


class Verification:
    """Has an event audited when the server behind it has changed, once for all who wait for it in this process."""

    def __init__(self, auditor: Auditor, *, wait_s: float) -> None:
        self._auditor = auditor
        self._wait_s = wait_s
        self._under_way: dict[str, asyncio.Task[None]] = {}

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

    async def close(self) -> None:
        """Give up what is under way: it is begun again by whoever needs it next."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, event_id: str, task: "asyncio.Task[None]") -> None:
        self._under_way.pop(event_id, None)
        if not task.cancelled():
            task.exception()  # whoever still waits has it
