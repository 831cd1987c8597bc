"""One step for each of many partitions: who is kept from it by whose failure, and what is told of it."""

import asyncio

import pytest

from engine.errors import LedgerUnavailable, StoreUnavailable
from persistence.reconciling.partitions import Unreached, for_each


async def test_results_come_in_order() -> None:
    async def step(partition: int) -> int:
        await asyncio.sleep(0.001 * (3 - partition))
        return 10 * partition

    assert await for_each([0, 1, 2], step) == [0, 10, 20]


async def test_a_failure_is_raised_when_all_other_steps_have_been_taken() -> None:
    done = []

    async def step(partition: int) -> None:
        if partition in (0, 1):
            raise StoreUnavailable(f"{partition} is away")
        await asyncio.sleep(0.001)
        done.append(partition)

    with pytest.raises(StoreUnavailable, match="0 is away"):
        await for_each(range(4), step, at_once=2)
    assert done == [2, 3]


async def test_a_failure_that_nobody_foresaw_is_told_before_others() -> None:
    async def step(partition: int) -> None:
        raise KeyError(partition) if partition else StoreUnavailable("away")

    with pytest.raises(KeyError):
        await for_each(range(2), step)


async def test_those_that_failed_are_left_out_for_the_rest_of_the_round() -> None:
    unreached, asked = Unreached(), []

    async def step(partition: int) -> int:
        asked.append(partition)
        if partition == 1:
            raise StoreUnavailable("away")
        return partition

    assert await for_each(range(3), step, unreached=unreached) == [0, 2]
    assert await for_each(range(3), step, unreached=unreached) == [0, 2]
    assert asked == [0, 1, 2, 0, 2]
    with pytest.raises(StoreUnavailable):
        unreached.tell()


async def test_without_postgres_no_further_step_is_begun() -> None:
    asked = []

    async def step(partition: int) -> None:
        asked.append(partition)
        raise LedgerUnavailable("away")

    with pytest.raises(LedgerUnavailable):
        await for_each(range(8), step, at_once=2)
    assert len(asked) <= 2


async def test_no_more_are_at_it_than_may_be() -> None:
    at_it = most = 0

    async def step(_partition: int) -> None:
        nonlocal at_it, most
        at_it += 1
        most = max(most, at_it)
        await asyncio.sleep(0.001)
        at_it -= 1

    await for_each(range(9), step, at_once=3)
    assert most == 3
