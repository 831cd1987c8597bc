"""The connection that loads are sent over: each answer is heard once and whole, a broken one is not taken for any."""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "loadtests"))  # programs, which are no package
from harness import Void
from http_load import CONNECTIONS, send_requests, send_sales

from holdfast.bench.connection import Asking, Connection
from holdfast.demo.client import UNANSWERED, Answer

MADE = b'HTTP/1.1 201 Created\r\nContent-Length: 12\r\n\r\n{"id":"h~e"}'
OVERLOAD = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}"
CUT = b""  # in place of an answer: the connection ends
REQUEST = b"POST /v1/events/e/holds HTTP/1.1\r\n\r\n"


@contextlib.asynccontextmanager
async def answering(*answers: bytes | Sequence[bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers each connection's requests in this order, in pieces where they are; and what it is sent."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            for answer in itertools.chain(answers, itertools.repeat(answers[-1])):
                received.append(await reader.readuntil(b"\r\n\r\n"))
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.01)  # or the pieces would travel together
                if answer == CUT:
                    return

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", received
    finally:
        server.close()


async def heard(url: str, count: int, *, on_overload: Callable[[], None] | None = None) -> list[Answer]:
    """The answers to *count* requests on one connection."""
    answers: list[Answer] = []

    def ask() -> Asking:
        for _ in range(count):
            answer = yield REQUEST
            answers.append(answer)

    await connected(url, ask(), on_overload=on_overload)
    return answers


async def connected(url: str, asking: Asking, *, on_overload: Callable[[], None] | None = None) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(asking, on_overload=on_overload), host, int(port))
    await connection.ended


async def test_answer_in_pieces_is_heard_once_and_whole() -> None:
    async with answering([MADE[:9], MADE[9:40], MADE[40:48], MADE[48:]]) as (url, _):
        assert await heard(url, 3) == [Answer(201, b'{"id":"h~e"}')] * 3


@pytest.mark.parametrize("status", [204, 304])
async def test_answer_without_a_body_is_whole_whatever_length_it_tells_of(status: int) -> None:
    async with answering(b"HTTP/1.1 %d X\r\ncontent-length: 99\r\n\r\n" % status) as (url, _):
        assert await heard(url, 2) == [Answer(status, b"")] * 2


@pytest.mark.parametrize("answer", [CUT, b"garbage\r\n\r\n"], ids=["the end", "garbage"])
async def test_request_that_gets_no_answer_is_told_so_and_is_the_last(answer: bytes) -> None:
    async with answering(MADE, answer) as (url, received):
        assert [each.status for each in await heard(url, 9)] == [201, UNANSWERED]
        assert len(received) == 2


async def test_refusal_for_overload_is_sent_again_where_that_is_asked_for_and_heard_where_not() -> None:
    refused: list[None] = []
    async with answering(OVERLOAD, OVERLOAD, MADE) as (url, received):
        assert [answer.status for answer in await heard(url, 1, on_overload=lambda: refused.append(None))] == [201]
        assert (len(refused), len(received)) == (2, 3)
        assert [answer.status for answer in await heard(url, 2)] == [503, 503]


async def test_connection_that_ends_before_a_request_is_sent_again_leaves_it_unanswered() -> None:
    closing = OVERLOAD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(closing)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert [answer.status for answer in await heard(url, 1, on_overload=lambda: None)] == [UNANSWERED]


async def test_error_of_who_asks_is_the_end_of_the_connection_and_is_not_lost() -> None:
    def ask() -> Asking:
        yield REQUEST
        raise Void("not what was to come")

    async with answering(MADE) as (url, _):
        with pytest.raises(Void, match="not what was to come"):
            await connected(url, ask())


async def test_load_counts_answers_and_those_that_are_refusals() -> None:
    async with answering(MADE, OVERLOAD) as (url, received):
        outcome = await send_requests(url, itertools.repeat(REQUEST), duration_s=1)

    assert outcome.answers == len(received) > CONNECTIONS
    assert outcome.refused == outcome.answers - CONNECTIONS


async def test_load_of_sales_confirms_each_hold_and_counts_it_once() -> None:
    async with answering(MADE) as (url, received):
        outcome = await send_sales(
            url,
            lambda: (itertools.repeat(REQUEST), lambda hold_id: b"POST /confirm/%b HTTP/1.1\r\n\r\n" % hold_id),
            duration_s=1,
        )

    assert (outcome.answers, outcome.refused) == (len(received) / 2, 0)
    assert received.count(b"POST /confirm/h~e HTTP/1.1\r\n\r\n") == outcome.answers


async def test_load_of_sales_takes_a_booking_that_is_not_durable_yet_for_refused() -> None:
    async with answering(MADE, MADE.replace(b"201", b"202")) as (url, received):
        outcome = await send_sales(url, lambda: (iter([REQUEST]), lambda _: REQUEST), duration_s=1)

    assert (outcome.answers, outcome.refused, len(received)) == (CONNECTIONS, CONNECTIONS, 2 * CONNECTIONS)


async def test_load_is_void_when_a_connection_is_lost() -> None:
    async with answering(MADE, CUT) as (url, _):
        with pytest.raises(Void, match="a connection was lost"):
            await send_requests(url, itertools.repeat(REQUEST), duration_s=5)
