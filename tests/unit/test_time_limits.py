"""Time limits for many short waits: who is late is told, who is not is left alone, and a cancellation stays one."""

import asyncio
import socket
import time

import pytest

from engine.time_limits import TICK_S, TimeLimit, give_up_after


class Late(Exception):
    pass


async def wait_within(limit: TimeLimit, seconds: float) -> str:
    wait = limit.begin()
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if not wait.is_over():
            raise
        raise Late from None
    finally:
        wait.end()
    return "in time"


async def test_only_the_wait_that_is_late_is_ended() -> None:
    limit = TimeLimit(0.1)
    began = time.monotonic()
    outcomes = await asyncio.gather(
        *[wait_within(limit, seconds) for seconds in (0, 0.02, 5, 0.04)], return_exceptions=True
    )
    assert [outcome if isinstance(outcome, str) else type(outcome) for outcome in outcomes] == [
        "in time",
        "in time",
        Late,
        "in time",
    ]
    assert 0.1 <= time.monotonic() - began < 0.1 + 2 * TICK_S + 0.3


async def test_wait_may_be_late_as_long_as_something_comes() -> None:
    moves = True
    limit = TimeLimit(0.02, stands_still=lambda: not moves, late_max_s=5)
    assert await wait_within(limit, 0.3) == "in time"
    late = asyncio.create_task(wait_within(limit, 5))
    await asyncio.sleep(0.2)
    assert not late.done()
    moves = False
    with pytest.raises(Late):
        await late


async def test_wait_is_not_late_for_ever() -> None:
    limit = TimeLimit(0.02, stands_still=lambda: False, late_max_s=0.2)
    with pytest.raises(Late):
        await wait_within(limit, 5)


async def test_answer_that_lies_there_after_a_long_turn_of_the_loop_is_not_late() -> None:
    limit = TimeLimit(0.05, late_max_s=5)
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    loop = asyncio.get_running_loop()

    async def read() -> bytes:
        wait = limit.begin()
        try:
            return await loop.sock_recv(reader, 1)
        finally:
            wait.end()

    with reader, writer:
        reading = asyncio.create_task(read())
        await asyncio.sleep(0.01)
        writer.send(b"x")
        time.sleep(0.2)  # noqa: ASYNC251 - the loop is to be busy with something else
        assert await reading == b"x"


async def test_task_can_be_limited_again_after_it_was_late() -> None:
    limit = TimeLimit(0.02)
    for _ in range(3):
        with pytest.raises(Late):
            await wait_within(limit, 5)
        assert await wait_within(limit, 0) == "in time"
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_cancellation_by_somebody_else_is_let_through() -> None:
    limit = TimeLimit(0.2)
    task = asyncio.create_task(wait_within(limit, 5))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_by_somebody_else_wins_over_a_limit_that_passes_at_the_same_time() -> None:
    limit = TimeLimit(10)
    task = asyncio.create_task(wait_within(limit, 5))
    await asyncio.sleep(0)
    limit._waits[0].expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_limit_inside_asyncios_own_leaves_that_one_to_its_owner() -> None:
    limit = TimeLimit(0.2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await wait_within(limit, 5)


async def test_waits_that_are_over_keep_nothing_alive() -> None:
    limit = TimeLimit(0.1)
    for _ in range(1_000):
        await wait_within(limit, 0)
    await asyncio.sleep(3 * TICK_S)
    assert (len(limit._waits), limit._timer) == (0, None)


async def test_work_that_takes_long_to_clean_up_is_given_up_in_time() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0.5)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await give_up_after(0.05, stubborn())
    assert time.monotonic() - began < 0.4


async def test_work_that_is_done_in_time_gives_what_it_gives() -> None:
    async def fail() -> None:
        raise Late

    assert await give_up_after(1, asyncio.sleep(0, "done")) == "done"
    with pytest.raises(Late):
        await give_up_after(1, fail())
