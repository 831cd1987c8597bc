"""Locks that several processes agree on by name, kept by Postgres and released with the connection that took them."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from engine.errors import LedgerUnavailable
from persistence.database import driver_connection, ledger_errors

POLL_PAUSE_S = 0.05  # times a random factor of 0.5 to 1.5


@asynccontextmanager
async def advisory_lock(engine: AsyncEngine, name: str, *, wait_s: float) -> AsyncIterator[Any]:
    """Hold the lock *name* until the block ends; lends the asyncpg connection that holds it.

    Those who wait poll, and hold no connection meanwhile: a crowd of waiters must not use up the pool, and a blocking
    wait would run into ``statement_timeout``. Needs a session of its own (no pooler in transaction mode between).

    Raises:
        LedgerUnavailable: Somebody else held it for all of *wait_s* seconds, or Postgres does not answer.
    """
    key = lock_key(name)
    deadline = time.monotonic() + wait_s
    while True:
        async with driver_connection(engine) as connection:
            with ledger_errors():
                taken = await connection.fetchval("SELECT pg_try_advisory_lock($1)", key)
            if taken:
                yield connection
                with ledger_errors():
                    await connection.execute("SELECT pg_advisory_unlock($1)", key)
                return
        if time.monotonic() > deadline:
            raise LedgerUnavailable(f"another process has held the lock {name!r} for more than {wait_s:g} s")
        await asyncio.sleep(POLL_PAUSE_S * (0.5 + random.random()))  # noqa: S311 - spreads the waiters, no secret


def lock_key(name: str) -> int:
    """The 64-bit number of *name*; two names of one number would wait for each other, and do no other harm."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
