"""Locks that several processes agree on by name, kept by Postgres and released with the connection that took them."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from engine.errors import LedgerUnavailable
from persistence.database import driver_connection, ledger_errors

POLL_PAUSE_S = 0.05  # times a random factor of 0.5 to 1.5


_TRY = "SELECT key FROM unnest($1::bigint[]) AS key WHERE pg_try_advisory_lock(key)"
_UNLOCK = "SELECT pg_advisory_unlock(key) FROM unnest($1::bigint[]) AS key"


@asynccontextmanager
async def advisory_lock(engine: AsyncEngine, name: str, *, wait_s: float) -> AsyncIterator[Any]:
    """Hold the lock *name* until the block ends; lends the asyncpg connection that holds it.

    Raises:
        LedgerUnavailable: Somebody else held it for all of *wait_s* seconds, or Postgres does not answer.
    """
    async with advisory_locks(engine, [name], wait_s=wait_s) as (connection, _):
        yield connection


@asynccontextmanager
async def advisory_locks(
    engine: AsyncEngine, names: Sequence[str], *, wait_s: float
) -> AsyncIterator[tuple[Any, list[str]]]:
    """Hold those of the locks *names* that are free, one at least, until the block ends; tells which.

    Lends the asyncpg connection that holds them. As nobody who has one waits for another, nobody waits in a circle.
    Those who wait poll, and hold no connection meanwhile: a crowd of waiters must not use up the pool, and a blocking
    wait would run into ``statement_timeout``. Needs a session of its own (no pooler in transaction mode between).

    Raises:
        LedgerUnavailable: Others held all of them for all of *wait_s* seconds, or Postgres does not answer.
    """
    keys = {lock_key(name): name for name in names}
    deadline = time.monotonic() + wait_s
    while True:
        async with driver_connection(engine) as connection:
            with ledger_errors():
                taken = [row["key"] for row in await connection.fetch(_TRY, list(keys))]
            if taken:
                yield connection, [keys[key] for key in taken]
                with ledger_errors():
                    await connection.fetch(_UNLOCK, taken)
                return
        if time.monotonic() > deadline:
            raise LedgerUnavailable(f"another process has held the lock {names[0]!r} for more than {wait_s:g} s")
        await asyncio.sleep(POLL_PAUSE_S * (0.5 + random.random()))  # noqa: S311 - spreads the waiters, no secret


def lock_key(name: str) -> int:
    """The 64-bit number of *name*; two names of one number would wait for each other, and do no other harm."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
