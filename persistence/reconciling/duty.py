"""A duty of the reconciler: something to be done again and again, whatever becomes of the other duties."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from persistence.heartbeats import Figures
from persistence.partition_leases import Territory
from persistence.reconciling.outages import Outages
from persistence.reconciling.partitions import for_each

BACKOFF_FIRST_S = 0.2
AT_ONCE_MAX = 4  # partitions beside each other: each may keep a connection of the pool for a while
BACKOFF_MAX_S = 2.0  # how much later than the servers themselves a duty is back


class Duty(ABC):
    """One duty. ``pause_s`` lies between two rounds; whoever rings ``bell`` has the next one begin at once."""

    name: str = ""
    pause_s: float = 1.0

    def __init__(self) -> None:
        self.bell = asyncio.Event()

    @abstractmethod
    async def work(self, territory: Territory) -> None:
        """Do one round: a step of a few seconds at most, that may be done twice, or by two at once, without harm."""

    async def close(self) -> None:  # noqa: B027 - most duties have nothing to stop
        """Stop what goes on between rounds; called once, after the last one."""


class EachPartition(Duty):
    """A duty that is a function of one partition; what it returns is counted under its name."""

    def __init__(self, name: str, work: Callable[[int], Awaitable[int]], figures: Figures, *, pause_s: float) -> None:
        super().__init__()
        self.name, self.pause_s = name, pause_s
        self._work = work
        self._figures = figures

    async def work(self, territory: Territory) -> None:
        async def step(partition: int) -> None:
            if (count := await self._work(partition)) > 0:
                self._figures.count("done", {self.name: count})

        await for_each(territory.partitions, step, at_once=AT_ONCE_MAX)


class Once(Duty):
    """A duty of the whole installation: it falls to whoever has its first partition."""

    def __init__(self, name: str, work: Callable[[], Awaitable[int]], figures: Figures, *, pause_s: float) -> None:
        super().__init__()
        self.name, self.pause_s = name, pause_s
        self._work = work
        self._figures = figures

    async def work(self, territory: Territory) -> None:
        if 0 in territory.partitions and (count := await self._work()) > 0:
            self._figures.count("done", {self.name: count})


async def keep_doing(
    duty: Duty, territory: Territory, *, outages: Outages, figures: Figures, stop: asyncio.Event
) -> None:
    """Do *duty* until *stop* is set. A failure is told once, and tried again within two seconds, or once rung for."""
    backoff_s = BACKOFF_FIRST_S
    while not stop.is_set():
        duty.bell.clear()
        try:
            await duty.work(territory)
        except Exception as error:  # whatever it is, giving up would not help
            outages.note(duty.name, error)
            figures.count("failures", {duty.name: 1})
            # Whoever rings is heard, but no sooner: it may ring at every failure. One node's outage holds up no other.
            await pause(BACKOFF_FIRST_S, stop)
            await pause(backoff_s - BACKOFF_FIRST_S, duty.bell)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
        else:
            outages.over(duty.name)
            backoff_s = BACKOFF_FIRST_S
            await pause(duty.pause_s, duty.bell)


async def pause(seconds: float, until: asyncio.Event) -> None:
    """Wait for *seconds*, or until the event."""
    try:
        async with asyncio.timeout(seconds):
            await until.wait()
    except TimeoutError:
        pass
