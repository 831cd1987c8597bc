"""Leases of partitions: shared out evenly, taken over when their owner is gone, and held by nobody twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from reconciling import until

from engine.errors import LedgerUnavailable
from persistence.database import driver_connection, open_database
from persistence.partition_leases import LeaseSession, PartitionLeases

COUNT = 10


@asynccontextmanager
async def session(url: str) -> AsyncIterator[tuple[PartitionLeases, LeaseSession]]:
    """One reconciler's leases, which are looked at when the test says so."""
    engine = open_database(url, pool_size=1)
    leases = PartitionLeases(engine, COUNT)
    try:
        async with leases.connected() as opened:
            yield leases, opened
    finally:
        await engine.dispose()


@pytest.fixture
def url(fresh_database: Callable[..., str]) -> str:
    return fresh_database()


async def settle(*sessions: tuple[PartitionLeases, LeaseSession]) -> list[int]:
    """Two looks of each, which must be enough; how many partitions each has, none of them twice."""
    for _ in range(2):
        for _, opened in sessions:
            await opened.adjust()
    owned = [partition for leases, _ in sessions for partition in leases.partitions]
    assert len(owned) == len(set(owned))
    return [len(leases.partitions) for leases, _ in sessions]


async def test_one_alone_has_all_and_newcomers_get_their_share(url: str) -> None:
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(session(url))]
        assert await settle(*sessions) == [10]
        sessions.append(await stack.enter_async_context(session(url)))
        assert await settle(*sessions) == [5, 5]
        sessions.append(await stack.enter_async_context(session(url)))
        assert sorted(await settle(*sessions)) == [2, 4, 4]


async def test_the_others_take_over_from_one_that_ends(url: str) -> None:
    async with session(url) as first:
        async with session(url) as second:
            assert await settle(first, second) == [5, 5]
        assert second[0].partitions == ()

        assert await settle(first) == [10]


async def test_a_lost_connection_is_a_lost_lease_and_is_known_at_once(url: str) -> None:
    async def lose(other: tuple[PartitionLeases, LeaseSession]) -> None:
        async with session(url) as lost:
            assert await settle(lost, other) == [5, 5]
            await cut_others(other[1], lost[1])
            await until(lambda: not lost[0].partitions, within_s=2)
            assert len(lost[0].latest) == 5, "for duties that need nothing of Postgres"
            await lost[1].adjust()

    async with session(url) as other:
        with pytest.raises(LedgerUnavailable):
            await lose(other)

        assert await settle(other) == [10]


async def test_reconcilers_of_another_database_do_not_count(url: str, fresh_database: Callable[..., str]) -> None:
    async with session(url) as one, session(fresh_database()) as elsewhere:
        assert await settle(one) == [10]
        assert await settle(elsewhere) == [10]


async def test_leases_are_kept_until_told_to_stop_and_then_given_up(url: str) -> None:
    engine, stop = open_database(url, pool_size=1), asyncio.Event()
    leases = PartitionLeases(engine, COUNT)
    keeping = asyncio.create_task(leases.keep(stop))
    await until(lambda: len(leases.partitions) == COUNT, within_s=3)
    stop.set()
    await asyncio.wait_for(keeping, timeout=1)

    assert leases.partitions == ()
    async with driver_connection(engine) as connection:
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        assert await connection.fetchval(held) == 0
    await engine.dispose()


async def cut_others(by: LeaseSession, other: LeaseSession) -> None:
    pid = other._connection.get_server_pid()
    assert await by._connection.fetchval("SELECT pg_terminate_backend($1)", pid)
