"""Idempotency keys of requests that have no script of their own, over the real store."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from api.answers import Answer
from api.idempotency import REPEATED_MAX, REPLAYED, answer_once, once_for, part_of
from engine.errors import IdempotencyInFlight, IdempotencyKeyReused, InvalidRequest
from engine.kernel import Kernel
from engine.once import Once, OnceStore
from engine.transport.open import open_transport

ONCE = Once(scope=b"5" * 32, body=b"b" * 32)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[OnceStore]:
    transport = await open_transport(redis_url)
    yield OnceStore(Kernel(transport, partitions=4))
    await transport.aclose()


def answering(*statuses: int) -> Callable[[], Awaitable[Answer]]:
    """A handler that answers these statuses one after the other, and how often it was called."""
    numbers = itertools.count(1)

    async def handle() -> Answer:
        number = next(numbers)
        return Answer(statuses[number - 1], b"%d" % number, headers=((b"etag", b'"1"'),))

    return handle


async def test_first_answer_comes_again_with_its_headers_and_says_so(store: OnceStore) -> None:
    handle = answering(201)
    first = await answer_once(store, ONCE, handle)
    again = await answer_once(store, ONCE, handle)
    assert (again.status, again.body, again.content_type) == (first.status, first.body, first.content_type)
    assert again.headers == (*first.headers, REPLAYED)
    assert REPLAYED not in first.headers


@pytest.mark.parametrize("status", [409, 429, 500, 503])
async def test_answer_that_may_differ_later_is_not_remembered(store: OnceStore, status: int) -> None:
    handle = answering(status, 201)
    assert (await answer_once(store, ONCE, handle)).status == status
    assert (await answer_once(store, ONCE, handle)).status == 201


@pytest.mark.parametrize("status", [200, 204, 207, 403, 404, 410, 422])
async def test_answer_that_is_final_is_remembered(store: OnceStore, status: int) -> None:
    handle = answering(status)
    await answer_once(store, ONCE, handle)
    assert (await answer_once(store, ONCE, handle)).status == status


async def test_answer_that_says_it_is_not_memorable_is_not_remembered(store: OnceStore) -> None:
    async def handle() -> Answer:
        return Answer(207, b"[]", memorable=False)

    await answer_once(store, ONCE, handle)
    assert REPLAYED not in (await answer_once(store, ONCE, handle)).headers


async def test_other_body_under_the_same_key_is_refused(store: OnceStore) -> None:
    await answer_once(store, ONCE, answering(201))
    with pytest.raises(IdempotencyKeyReused):
        await answer_once(store, Once(scope=ONCE.scope, body=b"c" * 32), answering(201))


async def test_repetition_is_told_to_wait_while_the_first_is_under_way(store: OnceStore) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def handle() -> Answer:
        entered.set()
        await go_on.wait()
        return Answer(201)

    first = asyncio.create_task(answer_once(store, ONCE, handle))
    await entered.wait()
    with pytest.raises(IdempotencyInFlight):
        await answer_once(store, ONCE, answering(201))
    go_on.set()
    assert (await first).status == 201
    assert (await answer_once(store, ONCE, answering())).status == 201


async def test_key_stays_in_flight_when_the_outcome_is_not_known(store: OnceStore) -> None:
    entered = asyncio.Event()

    async def handle() -> Answer:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(answer_once(store, ONCE, handle))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(IdempotencyInFlight):
        await answer_once(store, ONCE, answering(201))


async def test_of_many_at_once_exactly_one_is_run(store: OnceStore) -> None:
    runs = 0

    async def handle() -> Answer:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return Answer(201, b"x")

    outcomes = await asyncio.gather(*(answer_once(store, ONCE, handle) for _ in range(50)), return_exceptions=True)
    assert runs == 1
    assert all(isinstance(outcome, Answer | IdempotencyInFlight) for outcome in outcomes)


@pytest.mark.parametrize(
    "changed",
    [{"key": b"k2"}, {"caller": "ben"}, {"route": "PATCH /v1/x"}, {"params": {"event_id": "f"}}],
    ids=lambda changed: next(iter(changed)),
)
def test_scope_is_of_one_caller_route_and_key(changed: dict[str, object]) -> None:
    request = {"key": b"k1", "caller": "ana", "route": "POST /v1/x", "params": {"event_id": "e"}, "body": b"{}"}
    other = request | changed
    one = once_for(**request)  # type: ignore[arg-type]
    two = once_for(**other)  # type: ignore[arg-type]
    assert one.scope != two.scope
    assert one.body == two.body
    assert len(one.scope) == len(one.body) == 32


def test_scope_cannot_be_made_to_look_like_another_by_choosing_a_key() -> None:
    def scope(caller: str, key: bytes) -> bytes:
        return once_for(key, caller=caller, route="POST /v1/x", params={}, body=b"").scope

    assert scope("a", b'b","c') != scope('a","b', b"c")


def test_parts_of_a_request_have_scopes_of_their_own() -> None:
    assert len({part_of(ONCE, number).scope for number in range(100)} | {ONCE.scope}) == 101
    assert len(part_of(ONCE, 7).scope) == 32


@pytest.mark.parametrize("key", [b"x", b"x" * 255, b"a b", b"~!"], ids=repr)
def test_every_printable_key_will_do(key: bytes) -> None:
    once = once_for(key, caller="ana", route="POST /v1/x", params={}, body=b"{}")
    assert once == once_for(key, caller="ana", route="POST /v1/x", params={}, body=b"{}")


@pytest.mark.parametrize("size", [2, REPEATED_MAX, REPEATED_MAX + 1])
@pytest.mark.parametrize("repeats", [True, False])
def test_bodies_are_told_apart_whether_or_not_their_digests_are_remembered(size: int, repeats: bool) -> None:
    def body_of(content: bytes) -> bytes:
        return once_for(b"k", caller="ana", route="POST /v1/x", params={}, body=content, body_repeats=repeats).body

    first, second = b"a" * size, b"a" * (size - 1) + b"b"
    assert body_of(first) == body_of(bytes(bytearray(first))) != body_of(second)


@pytest.mark.parametrize("key", [b"", b" ", b" a", b"a ", b"x" * 256, b"\xc3\xbc", b"a\tb", b"a\0b"], ids=repr)
def test_key_must_be_printable_ascii(key: bytes) -> None:
    with pytest.raises(InvalidRequest):
        once_for(key, caller="ana", route="POST /v1/x", params={}, body=b"")
