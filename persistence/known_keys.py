"""Whether the ledger knows an idempotency key: asked by many at once, answered to all of them together.

Every confirmation with a key asks, and nearly always the answer is no. By itself such a question took the API seven
times as long as all the rest of the confirmation. As with the group commit nothing waits on a timer: who asks while a
question is under way is in the next one.
"""

import asyncio
from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from engine.errors import LedgerUnavailable
from persistence.bookings import IDEMPOTENCY_TIME
from persistence.database import driver_connection, retrying

_FIND = "SELECT scope FROM idempotency WHERE scope = ANY($1::bytea[]) AND created_at > now() - $2::interval"

_Waiting = dict[bytes, asyncio.Future[bool | LedgerUnavailable]]


class KnownKeys:
    """One question to Postgres at a time, for all keys that are asked for."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: _Waiting = {}
        self._reader: asyncio.Task[None] | None = None

    async def is_known(self, scope: bytes) -> bool:
        """Whether a booking was made under the key in the last 24 hours, as of some moment after the call.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        answer = self._waiting.get(scope)
        if answer is None:
            answer = self._waiting[scope] = asyncio.get_running_loop().create_future()
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_all(), name="known keys")
            self._reader.add_done_callback(self._clear_unstarted)
        said = await asyncio.shield(answer)  # others may wait for it too
        if isinstance(said, LedgerUnavailable):
            raise LedgerUnavailable(*said.args)  # one for each: a traceback grows wherever it is raised
        return said

    async def _read_all(self) -> None:
        asked: _Waiting = {}
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, {}
                await self._read(asked)
        finally:
            self._stop(asked)

    async def _read(self, asked: _Waiting) -> None:
        async def attempt() -> set[bytes]:
            async with driver_connection(self._engine) as connection:
                return {row["scope"] for row in await connection.fetch(_FIND, list(asked), IDEMPOTENCY_TIME)}

        try:
            known = await retrying(attempt)
        except LedgerUnavailable as error:
            _answer(asked, dict.fromkeys(asked, error))
        else:
            _answer(asked, {scope: scope in known for scope in asked})

    def _clear_unstarted(self, reader: asyncio.Task[None]) -> None:
        """Do what the reader does at its end, when it was cancelled before it had begun."""
        if self._reader is reader:
            self._stop({})

    def _stop(self, asked: _Waiting) -> None:
        """The reader ends: because nobody asks any more, or because something is wrong."""
        self._reader = None
        left = asked | self._waiting
        self._waiting = {}
        _answer(left, dict.fromkeys(left, LedgerUnavailable("nobody asked Postgres")))


def _answer(waiting: _Waiting, answers: Mapping[bytes, bool | LedgerUnavailable]) -> None:
    for scope, future in waiting.items():
        if not future.done():
            future.set_result(answers[scope])
