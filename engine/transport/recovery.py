"""What to do about error replies that prove a command did not run, and for how long."""

import asyncio

from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from engine.transport.errors import NotSent
from engine.transport.multiplexer import Multiplexer, ScriptLike

ATTEMPTS_MAX = 16
PERSIST_MAX_S = 0.7  # a caller is to hear of an outage within a second, of one that answers too
REDIRECTS_AT_ONCE = 3  # a stale map costs one, a migration two; more means that two nodes disagree for the moment
PAUSE_FIRST_S = 0.005  # a slot's migration moves a key in about a millisecond
PAUSE_MAX_S = 0.25


class Budget:
    """How often, and until when, one command may be sent again."""

    def __init__(self) -> None:
        self._attempts = 0
        self._pause_s = PAUSE_FIRST_S
        self._deadline = asyncio.get_running_loop().time() + PERSIST_MAX_S

    def spend(self, error: Exception) -> None:
        """Count one more attempt.

        Raises:
            NotSent: The attempts or the time are used up; *error*, the last answer, is the cause.
        """
        self._attempts += 1
        if self._attempts > ATTEMPTS_MAX or asyncio.get_running_loop().time() > self._deadline:
            raise NotSent(f"gave up after {self._attempts} attempts: {error}") from error

    async def redirect(self, error: Exception) -> None:
        """Spend on following a redirection: at once at first, slower when nodes keep pointing at each other."""
        self.spend(error)
        if self._attempts > REDIRECTS_AT_ONCE:
            await self.pause()

    async def pause(self) -> None:
        """Wait a little, longer each time."""
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)


async def recover(multiplexer: Multiplexer, error: RedisError, *, script: ScriptLike | None, budget: Budget) -> None:
    """Return when the command that was answered *error* may be sent again.

    Raises:
        ResponseError: *error* itself, when it is the server's final word.
        NotSent: The budget is used up, or the server refuses us altogether (logins withdrawn, say).
    """
    match error:
        case NoScriptError() if script is not None:
            budget.spend(error)
            await multiplexer.load(script)
        case BusyLoadingError() | TryAgainError() | ClusterDownError():
            budget.spend(error)
            await budget.pause()
        case ReadOnlyError():  # a failover has left us with a replica
            budget.spend(error)
            multiplexer.leave_replica()
            await budget.pause()
        case ResponseError():
            raise error
        case _:
            raise NotSent(f"refused by the server: {error}") from error
