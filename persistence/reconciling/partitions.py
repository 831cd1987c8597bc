"""One step for each of many partitions: one whose server is away keeps no other from its step, and is told of at last.

In a cluster, one node that is down is an outage of its partitions alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from engine.errors import LedgerUnavailable, Unavailable

K = TypeVar("K")
T = TypeVar("T")


class Unreached:
    """What could not be done in one round, by partition (or node, or event): it is left alone until the next one."""

    def __init__(self) -> None:
        self._errors: dict[Any, Exception] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._errors

    def __bool__(self) -> bool:
        return bool(self._errors)

    @property
    def errors(self) -> Mapping[Any, Exception]:
        """What kept each of them from being done."""
        return self._errors

    @contextmanager
    def noting(self, key: object) -> Iterator[None]:
        """Go on behind the block if what it does for *key* fails; Postgres, though, is the same one for all.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        try:
            yield
        except LedgerUnavailable:
            raise
        except Exception as error:
            self._errors.setdefault(key, error)

    def tell(self) -> None:
        """Raise the first of what has failed, now that everything else is done; what nobody foresaw before all."""
        for error in sorted(self._errors.values(), key=lambda error: isinstance(error, Unavailable)):
            raise error


async def for_each(
    keys: Iterable[K],
    step: Callable[[K], Awaitable[T]],
    *,
    at_once: int | None = None,
    unreached: Unreached | None = None,
) -> list[T]:
    """Take *step* for each of *keys*, all beside each other or *at_once* of them; returns what the steps returned.

    With *unreached*, keys in it are left out, and those whose step fails are put there; without, the first failure is
    raised once every other step has been taken.

    Raises:
        StoreUnavailable: A server did not answer.
        LedgerUnavailable: Postgres does not answer; steps that had not begun by then were not taken.
    """
    failed = Unreached() if unreached is None else unreached
    wanted = [key for key in keys if key not in failed]
    turns = asyncio.Semaphore(at_once or max(1, len(wanted)))
    stopped = False

    async def take(key: K) -> list[T]:
        nonlocal stopped
        async with turns:
            if stopped:
                return []
            try:
                with failed.noting(key):
                    return [await step(key)]
            except BaseException:
                stopped = True
                raise
            return []

    outcomes = await asyncio.gather(*map(take, wanted), return_exceptions=True)
    results: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results += outcome
    if unreached is None:
        failed.tell()
    return results
