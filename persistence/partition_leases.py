"""Which partitions this reconciler takes care of: session locks in Postgres, one a partition, shared out evenly.

::

    presence   one shared lock that every reconciler holds; ``pg_locks`` counts the holders, so all know how many live
    lease      one exclusive lock a partition; each keeps at most ceil(partitions / live) of them

Nobody hands anything over. A reconciler that finds itself with more than its share gives the surplus up, one with less
takes what is free, both once a second; so a newcomer has its share within a few seconds. The locks are the session's:
they end with the process, or with its connection, and the others take over.

Two may believe in the same lease for a moment: a session can end on the server before its client hears of it. Every
duty is therefore made such that doing it twice at once does no harm; leases spare work, they guard nothing.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from persistence.advisory import lock_key
from persistence.database import driver_connection, ledger_errors

TICK_S = 1.0  # between two looks at who lives; a newcomer's share comes with the second
# A machine that vanishes without a word is noticed by Postgres after 5 + 3 × 2 s, where the platform can.
_KEEPALIVES = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
# The two-number form of advisory locks, whose numbers have 32 bits; loads of events use the other form.
_PRESENCE = abs(lock_key("holdfast reconcilers")) % 2**31
_LEASE = abs(lock_key("holdfast partitions")) % 2**31

_LOOK = """
    SELECT count(*) FILTER (WHERE classid = $1 AND objid = 0) AS live,
           array_agg(objid::int) FILTER (WHERE classid = $2 AND pid = pg_backend_pid()) AS owned
      FROM pg_locks
     WHERE locktype = 'advisory' AND objsubid = 2 AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_TAKE = "SELECT p FROM unnest($2::int[]) AS p WHERE pg_try_advisory_lock($1, p) LIMIT $3"
_GIVE = "SELECT pg_advisory_unlock($1, p) FROM unnest($2::int[]) AS p"

logger = structlog.get_logger("holdfast.reconciler")


class Territory(Protocol):
    """The partitions to take care of, as they are at any moment: they may change while a duty is at work."""

    @property
    def partitions(self) -> Sequence[int]:
        """Those owned now; none while Postgres is away."""
        ...

    @property
    def latest(self) -> Sequence[int]:
        """Those owned now, or last before Postgres went away: for duties that need nothing of it."""
        ...


class Everywhere:
    """All partitions, whoever else is at work: for a single round."""

    def __init__(self, partitions: Sequence[int]) -> None:
        self.partitions = self.latest = tuple(partitions)


class PartitionLeases:
    """This reconciler's leases, kept by :meth:`keep` on a connection of their own."""

    def __init__(self, engine: AsyncEngine, partitions: int) -> None:
        self._engine = engine
        self._count = partitions
        self._lost = asyncio.Event()
        self.partitions: Sequence[int] = ()
        self.latest: Sequence[int] = ()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["LeaseSession"]:
        """A session that may hold leases, until the block ends; all are given up then, and :attr:`partitions` is empty.

        Raises:
            LedgerUnavailable: Postgres does not answer. What was owned is owned no longer.
        """
        try:
            async with driver_connection(self._engine) as connection:
                self._lost.clear()
                connection.add_termination_listener(self._note_lost)
                with ledger_errors():
                    for name, value in _KEEPALIVES.items():
                        await connection.execute("SELECT set_config($1, $2, false)", name, value)
                    await connection.execute("SELECT pg_advisory_lock_shared($1, 0)", _PRESENCE)
                yield LeaseSession(self, connection)
                connection.remove_termination_listener(self._note_lost)
                with ledger_errors():
                    await connection.execute("SELECT pg_advisory_unlock_all()")
        finally:
            self.partitions = ()

    async def keep(self, stop: asyncio.Event) -> None:
        """Hold a fair share of the partitions until *stop* is set.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        async with self.connected() as session:
            while not stop.is_set():
                await session.adjust()
                ended = [asyncio.ensure_future(event.wait()) for event in (stop, self._lost)]
                await asyncio.wait(ended, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
                for waiter in ended:
                    waiter.cancel()

    def _own(self, partitions: Sequence[int]) -> None:
        if len(partitions) != len(self.partitions):
            logger.info("partitions owned", count=len(partitions), of=self._count)
        self.partitions = self.latest = tuple(sorted(partitions))

    def _note_lost(self, _connection: Any) -> None:
        self.partitions = ()
        self._lost.set()


class LeaseSession:
    """One connection's hold on its leases."""

    def __init__(self, leases: PartitionLeases, connection: Any) -> None:
        self._leases = leases
        self._connection = connection

    async def adjust(self) -> None:
        """Give up what is more than a fair share, or take what is free up to it. What is owned is what Postgres says.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        leases, count = self._leases, self._leases._count
        with ledger_errors():
            row = await self._connection.fetchrow(_LOOK, _PRESENCE, _LEASE)
            owned = list(row["owned"] or ())
            share = math.ceil(count / max(1, row["live"]))
            if len(owned) > share:
                leases._own(owned[:share])  # first, so that duties have let go when somebody else begins
                await self._connection.execute(_GIVE, _LEASE, owned[share:])
            elif len(owned) < share:
                # In another order each time, so that several newcomers do not all try the same ones first.
                others = list(set(range(count)).difference(owned))
                random.shuffle(others)
                taken = await self._connection.fetch(_TAKE, _LEASE, others, share - len(owned))
                leases._own([*owned, *(row["p"] for row in taken)])
            else:
                leases._own(owned)
