"""Redis's clock, by which deadlines are kept, held against this machine's monotonic one, which nobody can set."""

import time
from collections.abc import Callable

import msgspec
import structlog

from engine.errors import StoreUnavailable
from engine.figures import CLOCK_JUMPS
from engine.kernel import Kernel
from engine.transport.servers import NodeAddress
from persistence.audit_reading import CLOCK_LEEWAY_MS
from persistence.heartbeats import Figures
from persistence.partition_leases import Territory
from persistence.reconciling.duty import Duty
from persistence.reconciling.partitions import for_each
from persistence.reconciling.roster import Roster
from persistence.reconciling.watch import Suspicions

JUMP_MS = CLOCK_LEEWAY_MS  # holds that lapse so much early or late are worth a word
BLUR_MAX_MS = 500  # a look that took longer than this tells nothing: we were held up, not the clock
LOOK_PAUSE_S = 1.0
NODES_MAX = 1_000  # known clocks; a cluster has no more masters, and those that left are forgotten with the oldest

logger = structlog.get_logger("holdfast.reconciler")


class ClockJump(msgspec.Struct, frozen=True):
    """A server's clock that moved by *ms* more (or less, below zero) than time has passed."""

    node: str
    ms: int


class StoreClock:
    """What time it is for the Redis nodes, without asking every time."""

    def __init__(self, kernel: Kernel, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._transport = kernel.transport
        self._kernel = kernel
        self._monotonic = monotonic
        self._offsets: dict[NodeAddress, float] = {}

    async def look(self, tell: Callable[[ClockJump], object] = lambda _: None) -> None:
        """Ask every node, and *tell* which clocks have jumped since they were last asked.

        Raises:
            StoreUnavailable: A node does not answer; the others were asked.
        """

        async def step(node: NodeAddress) -> None:
            if (jump := await self._look_at(node)) is not None:
                tell(jump)

        await for_each(self._transport.nodes(), step)

    async def now_ms(self) -> int:
        """The time now, by the clock that is furthest ahead: what is not due elsewhere is only looked at too early.

        Raises:
            StoreUnavailable: It is not known yet, and cannot be had.
        """
        if not self._offsets:
            try:
                await self.look()
            except StoreUnavailable:  # of another node, if any is known now
                if not self._offsets:
                    raise
        if not self._offsets:
            return await self._kernel.time_ms(0)
        return round(self._monotonic() * 1000 + max(self._offsets.values()))

    async def _look_at(self, node: NodeAddress) -> ClockJump | None:
        before_ms = self._monotonic() * 1000
        time_ms = await self._kernel.node_time_ms(node)
        after_ms = self._monotonic() * 1000
        if after_ms - before_ms > BLUR_MAX_MS:
            return None
        offset = time_ms - (before_ms + after_ms) / 2
        known = self._offsets.pop(node, offset)
        self._offsets[node] = offset
        while len(self._offsets) > NODES_MAX:
            self._offsets.pop(next(iter(self._offsets)))
        return ClockJump(str(node), round(offset - known)) if abs(offset - known) > JUMP_MS else None


class WatchClock(Duty):
    """The duty: a jump is an error in the log, and counted. Forwards, holds end early by it; no place is sold twice.

    Backwards, time stands still in all events until their audits have set their clocks back too: these come at once.
    """

    name = "clock"
    pause_s = LOOK_PAUSE_S

    def __init__(self, clock: StoreClock, roster: Roster, suspicions: Suspicions, figures: Figures) -> None:
        super().__init__()
        self._clock = clock
        self._roster = roster
        self._suspicions = suspicions
        self._figures = figures

    async def work(self, territory: Territory) -> None:  # noqa: ARG002 - clocks belong to nodes, not to partitions
        await self._clock.look(self._tell)

    def _tell(self, jump: ClockJump) -> None:
        self._figures.clock_jumps += 1
        CLOCK_JUMPS.add()
        logger.error("Redis's clock has jumped", node=jump.node, by_ms=jump.ms)
        if jump.ms < 0:
            for sighting in self._roster:
                sighting.urgent = True
            self._suspicions.ring()
