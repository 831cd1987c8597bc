"""Tasks that are used again: who is told what, whatever ends a request, and that no request inherits another's end."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast import http_runners
from holdfast.http_runners import Runners

ROOT = Path(__file__).parents[2]
Task = asyncio.Task[None]


class Thing:
    """Something that a request refers to."""


class Server:
    """Runners, the server's set of tasks, and what happened."""

    def __init__(self) -> None:
        self.busy: set[Task] = set()
        self.runners = Runners(asyncio.get_running_loop(), self.busy)
        self.tasks: list[asyncio.Task[object] | None] = []
        self.ended: list[str] = []
        self.may_end = asyncio.Event()

    def run(self, name: str, error: BaseException | None = None, *, waits: bool = False) -> None:
        self.runners.run(self._work(error, waits), lambda: self.ended.append(name))

    async def idle(self) -> None:
        for _ in range(100):
            if not self.busy:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"still busy: {self.busy}")

    async def _work(self, error: BaseException | None, waits: bool) -> None:
        self.tasks.append(asyncio.current_task())
        if waits:
            await self.may_end.wait()
        if error is not None:
            raise error


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    for task in {*server.busy, *(runner.task for runner in server.runners.idle)}:
        task.cancel()
    await asyncio.sleep(0)


async def test_next_request_is_answered_by_the_same_task(server: Server) -> None:
    for name in ("one", "two", "three"):
        server.run(name)
        assert len(server.busy) == 1
        await server.idle()
    assert len(set(server.tasks)) == 1
    assert server.ended == ["one", "two", "three"]


async def test_requests_at_once_have_tasks_of_their_own(server: Server) -> None:
    for number in range(5):
        server.run(str(number), waits=True)
    await asyncio.sleep(0)
    assert len(set(server.tasks)) == len(server.busy) == 5
    server.may_end.set()
    await server.idle()
    assert sorted(server.ended) == list("01234")


async def test_no_more_runners_are_kept_than_the_bound(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_runners, "IDLE_MAX", 2)
    for number in range(5):
        server.run(str(number))
    await server.idle()
    assert len(server.runners.idle) == 2


async def test_cancelled_request_ends_its_runner_and_the_next_one_is_answered(server: Server) -> None:
    server.run("cancelled", waits=True)
    await asyncio.sleep(0)
    (task,) = server.busy
    task.cancel()
    await server.idle()
    server.run("next")
    await server.idle()
    assert server.ended == ["cancelled", "next"]
    assert server.tasks[0] is not server.tasks[1]


async def test_cancellation_that_a_request_survives_does_not_reach_the_next(server: Server) -> None:
    async def stubborn() -> None:
        server.tasks.append(asyncio.current_task())
        try:
            await server.may_end.wait()
        except asyncio.CancelledError:
            return

    server.runners.run(stubborn(), lambda: server.ended.append("stubborn"))
    await asyncio.sleep(0)
    next(iter(server.busy)).cancel()
    await server.idle()
    server.run("next")
    await server.idle()
    assert server.ended == ["stubborn", "next"]
    assert server.tasks[0] is not server.tasks[1]


@pytest.mark.parametrize("is_used_again", [False, True], ids=["a new task", "a task used again"])
async def test_request_whose_task_is_cancelled_before_it_begins_is_told_to_have_ended(
    server: Server, is_used_again: bool
) -> None:
    if is_used_again:
        server.run("before")
        await server.idle()
        server.tasks.clear()
        server.ended.clear()
    server.run("cancelled")
    (task,) = server.busy
    task.cancel()
    await server.idle()
    assert (server.ended, server.tasks) == (["cancelled"], [])


async def test_runner_cancelled_while_it_waits_is_not_given_anything(server: Server) -> None:
    server.run("one")
    await server.idle()
    server.runners.idle[0].task.cancel()
    server.run("two")
    await server.idle()
    assert server.ended == ["one", "two"]
    assert server.tasks[0] is not server.tasks[1]


async def test_request_that_raises_is_told_to_have_ended_and_its_error_is_its_tasks(server: Server) -> None:
    server.run("bad", RuntimeError("on purpose"))
    (task,) = server.busy
    with pytest.raises(RuntimeError, match="on purpose"):
        await task
    server.run("next")
    await server.idle()
    assert server.ended == ["bad", "next"]


async def test_error_of_a_request_keeps_nothing_of_it_alive(server: Server) -> None:
    async def work(_: Thing) -> None:
        raise RuntimeError("on purpose")

    told: list[str] = []
    server.runners.loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    thing = Thing()
    gone = weakref.ref(thing)
    gc.disable()  # else it might come by just now
    try:
        server.runners.run(work(thing), lambda: None)
        del thing
        await server.idle()
        await asyncio.sleep(0)
        assert gone() is None
        assert told == ["Task exception was never retrieved"]
    finally:
        gc.enable()


@pytest.mark.parametrize("package", ["api", "engine", "holdfast", "persistence"])
def test_no_package_that_answers_requests_sets_what_the_next_one_would_find(package: str) -> None:
    words = ("ContextVar(", "bind_contextvars", "bound_contextvars")
    sources = {path: path.read_text("utf-8") for path in (ROOT / package).rglob("*.py")}
    assert sources
    assert [path for path, text in sources.items() if any(word in text for word in words)] == []


async def test_waiting_runner_keeps_nothing_of_the_last_request(server: Server) -> None:
    async def work(_: Thing) -> None:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    server.runners.run(work(thing), lambda: None)
    del thing
    await server.idle()
    gc.collect()
    assert gone() is None
