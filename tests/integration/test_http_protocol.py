"""The lean protocol answers what uvicorn's own answers, byte for byte, and keeps and ends connections as it does."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from holdfast.http_protocol import LeanProtocol

KEEP_ALIVE_S = 1
ANSWER_MAX_S = 5.0
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers in as many ways as there are paths, and tells what it was asked."""
    chunks, more = [], True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    heard = " ".join(
        (
            scope["method"],
            scope["path"],
            scope["raw_path"].decode(),
            scope["query_string"].decode(),
            scope["http_version"],
        )
    )
    body = b"%s|%s" % (heard.encode(), b"".join(chunks)[:100])
    length = (b"content-length", b"%d" % len(body))
    match scope["path"]:
        case "/chunked":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        case "/pieces":
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": body[:3], "more_body": True})
            await send({"type": "http.response.body", "body": body[3:]})
        case "/empty":
            await send({"type": "http.response.start", "status": 204, "headers": [(b"x-a", b"b")]})
            await send({"type": "http.response.body"})
        case "/close":
            await send({"type": "http.response.start", "status": 200, "headers": [length, (b"connection", b"close")]})
            await send({"type": "http.response.body", "body": body})
        case "/split":
            header = (b"x-given", b"one\r\nset-cookie: stolen=1")
            await send({"type": "http.response.start", "status": 200, "headers": [length, header]})
            await send({"type": "http.response.body", "body": body})
        case "/raise":
            raise RuntimeError("on purpose")
        case "/too-short":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"900")]})
            await send({"type": "http.response.body", "body": body})
        case "/watch":  # a second receive() waits for the end of the connection
            waiting = asyncio.ensure_future(receive())
            done, _ = await asyncio.wait([waiting], timeout=0.05)
            waiting.cancel()
            told = b"returned at once" if done else b"waited"
            length = (b"content-length", b"%d" % len(told))
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": told})
        case _:
            is_head = scope["method"] == "HEAD"
            await send({"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"b"), length]})
            await send({"type": "http.response.body", "body": b"" if is_head else body})


@contextlib.asynccontextmanager
async def serving(
    protocol: type[HttpToolsProtocol], app: Any = application
) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """A uvicorn in this event loop; its port."""
    config = uvicorn.Config(
        app,
        http=protocol,
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # pytest's are pytest's
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it is a flag of uvicorn's
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 10)


async def exchange(port: int, *pieces: bytes, pause_s: float = 0.02) -> bytes:
    """What comes back for *pieces*, sent one by one, until the server has nothing more to say for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while received := await asyncio.wait_for(reader.read(65536), 0.3):
                answer += received
    finally:
        writer.close()
    return answer


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join((f"{line} HTTP/1.1", "Host: x", *headers, *length, "", "")).encode() + body


_WISH = re.compile(rb"Connection: Upgrade.*?\r\n.*?Upgrade: h2c\r\n", re.DOTALL)
_DATE = re.compile(rb"Date: [^\r\n]*\r\n")
EXCHANGES = {
    "a body with its head": [request("POST /a", body=b"hello")],
    "a body after its head": [request("POST /a", body=b"hello")[:-5], b"hel", b"lo"],
    "a long body": [request("POST /a", body=b"x" * 200_000)],
    "a body in many pieces": [request("POST /a", "Transfer-Encoding: chunked") + b"2\r\nab\r\n" * 5_000 + b"0\r\n\r\n"],
    "no body": [request("GET /a?x=1&y=%20")],
    "an escaped path": [request("GET /a%20b/%C3%A9?q")],
    "an absolute target": [request("GET http://x/a?b")],
    "a fragment": [request("GET /a#b")],
    "two slashes": [request("GET //a/b")],
    "HEAD": [request("HEAD /a")],
    "HEAD of what is chunked": [request("HEAD /chunked")],
    "chunks": [request("GET /chunked")],
    "pieces": [request("GET /pieces")],
    "no content": [request("DELETE /empty")],
    "a chunked request": [request("POST /a", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"],
    "pipelined": [request("POST /a", body=b"1") + request("POST /b", body=b"2") + request("GET /chunked")],
    "pipelined behind a close": [request("GET /close") + request("GET /b")],
    "one after the other": [request("POST /a", body=b"1"), request("GET /empty"), request("POST /b", body=b"2")],
    "a client that closes": [request("GET /a", "Connection: close")],
    "an answer that closes": [request("GET /close")],
    "HTTP/1.0": [b"GET /a HTTP/1.0\r\n\r\n"],
    "an expectation": [request("POST /a", "Expect: 100-continue", "Content-Length: 2"), b"ok"],
    "a header that would end a line": [request("GET /split")],
    "an exception": [request("GET /raise")],
    "a second receive": [request("POST /watch", body=b"hello")],
    "an upgrade to WebSockets": [
        request(
            "GET /a",
            "Connection: upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {'A' * 22}==",
        )
    ],
    "an upgrade nobody offers": [request("GET /a", "Connection: upgrade", "Upgrade: h2c")],
}


async def test_lean_protocol_answers_byte_for_byte_what_uvicorns_own_does() -> None:
    answers = []
    for protocol in (HttpToolsProtocol, LeanProtocol):
        async with serving(protocol) as (port, _):
            received = await asyncio.gather(*(exchange(port, *pieces) for pieces in EXCHANGES.values()))
            undated = [_DATE.sub(b"", answer) for answer in received]  # refused WebSockets are
            answers.append(dict(zip(EXCHANGES, undated, strict=True)))
    assert answers[1] == answers[0]
    unanswered = [name for name, answer in answers[0].items() if not answer.startswith(b"HTTP/1.1 ")]
    assert unanswered == ["a header that would end a line"]


@pytest.mark.parametrize(("path", "method"), [("/chunked", "GET"), ("/chunked?x=%20", "GET"), ("/chunked", "HEAD")])
async def test_lean_protocol_ends_with_the_connection_what_a_client_of_http_1_0_is_told_no_length_of(
    path: str, method: str
) -> None:
    async with serving(LeanProtocol) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{method} {path} HTTP/1.0\r\n\r\n".encode())
        received = await asyncio.wait_for(reader.read(), ANSWER_MAX_S)  # until it is closed
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert b"connection: close" in head
    assert body.startswith(b"GET /chunked /chunked") if method == "GET" else not body


async def test_lean_protocol_counts_to_a_client_of_http_1_0_what_an_answer_is_told_to_be_long() -> None:
    async with serving(LeanProtocol) as (port, _):
        pieces = await exchange(port, b"GET /pieces HTTP/1.0\r\n\r\n")
        short = await exchange(port, b"GET /too-short HTTP/1.0\r\n\r\n")
    assert pieces.endswith(b"connection: close\r\n\r\nGET /pieces /pieces  1.0|")
    assert b"content-length: 900" in short  # and the connection is closed before so many came


def h2c(line: str, *headers: str, body: bytes = b"") -> bytes:
    """As Java's client asks for HTTP/2, with the first request of a connection."""
    wish = ("Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEAAEAA", "Upgrade: h2c")
    return request(line, *wish, *headers, body=body)


NEXT = request("POST /b", body=b"2")
WISHES = {
    "no body": [h2c("GET /a")],
    "no body, and the next one behind it": [h2c("GET /a") + NEXT],
    "a body": [h2c("POST /a", body=b"hello")],
    "a body that is a request, and comes later": [h2c("POST /a", body=NEXT)[: -len(NEXT)], NEXT],
    "a body in parts, and the next one behind it": [h2c("POST /a", body=b"hello")[:-4], b"el", b"lo" + NEXT],
    "a body, then the same again": [h2c("POST /a", body=b"1"), h2c("POST /b", body=b"2") + NEXT],
    "a long body": [h2c("POST /a", body=b"x" * 200_000) + NEXT],
    "a thousand of them": [(h2c("GET /a") + h2c("POST /a", body=b"1")) * 500],
    "a client that closes": [h2c("POST /a", "Connection: close", body=b"1")],
}


async def test_lean_protocol_takes_a_wish_for_another_protocol_for_no_more_than_that() -> None:
    plain = [[_WISH.sub(b"", piece) for piece in pieces] for pieces in WISHES.values()]
    async with serving(LeanProtocol) as (port, _):
        answers = await asyncio.gather(*(exchange(port, *pieces) for pieces in (*WISHES.values(), *plain)))
    for name, wished, expected in zip(WISHES, answers[: len(plain)], answers[len(plain) :], strict=True):
        assert wished == expected, name
        assert wished.startswith(b"HTTP/1.1 201"), name


def check_last_words(received: bytes, status: int, code: str) -> None:
    """One problem like any other, after which the connection is closed."""
    head, _, body = received.partition(b"\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    problem = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (lines["content-type"], lines["connection"]) == ("application/problem+json", "close")
    assert int(lines["content-length"]) == len(body)
    assert (problem["status"], problem["code"], problem["request_id"]) == (status, code, lines["x-request-id"])
    assert problem["type"].endswith(f"/problems/{code}")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01 nonsense\r\n\r\n",
        request("GET /a", "Content-Length: two"),
        request("POST /a", "Content-Length: 1", "Transfer-Encoding: chunked"),
        request("POST /a", "Transfer-Encoding: chunked") + b"2\r\nab\r\nmore\r\n",
        request("GET http://"),
        request("GET /a").replace(b"Host: x", b"Host : x"),
    ],
)
async def test_lean_protocol_says_in_a_problem_what_is_no_http(data: bytes) -> None:
    async with serving(LeanProtocol) as (port, _):
        check_last_words(await exchange(port, data), 400, "bad-request")
        behind = await exchange(port, request("GET /a"), data)
        check_last_words(behind[behind.rindex(b"HTTP/1.1 ") :], 400, "bad-request")


async def test_lean_protocol_answers_no_request_with_what_is_wrong_with_the_next() -> None:
    may_answer = asyncio.Event()

    async def late(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await may_answer.wait()
        await application(scope, receive, send)

    async with serving(LeanProtocol, late) as (port, _):
        bad_chunk = request("POST /a", "Transfer-Encoding: chunked") + b"more\r\n"
        for wrong in (b"nonsense\r\n\r\n", bad_chunk):
            assert await exchange(port, request("GET /a"), wrong) == b""
        may_answer.set()


async def test_lean_protocol_refuses_a_wish_for_another_protocol_with_a_body_of_no_known_length() -> None:
    asked = []
    may_answer = asyncio.Event()

    async def note(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await may_answer.wait()
        await application(scope, receive, send)

    chunked = h2c("POST /a", "Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\n\r\n" + NEXT
    async with serving(LeanProtocol, note) as (port, _):
        received = await exchange(port, chunked)
        assert not asked
        behind_another = await exchange(port, NEXT + chunked)
        may_answer.set()
    check_last_words(received, 411, "length-required")
    assert not behind_another  # it would be taken for the answer of the one before
    assert asked == ["/b"]


@pytest.mark.parametrize("target", ["x:80", "/a"])
async def test_lean_protocol_reads_on_behind_connect(target: str) -> None:
    async with serving(LeanProtocol) as (port, _):
        received = await exchange(port, request(f"CONNECT {target}", body=b"hello") + NEXT)
        plain = await exchange(port, request(f"POST {target}", body=b"hello") + NEXT)
    assert received.count(b"HTTP/1.1") == plain.count(b"HTTP/1.1")
    assert (b"|hello" in received) == (b"|hello" in plain)
    assert (b"|2" in received) == (b"|2" in plain)


async def test_lean_protocol_gives_the_application_all_that_uvicorns_own_does() -> None:
    """What uvicorn adds to a request in a later version must not be missing on the rare ways that are its own."""
    seen: list[tuple[dict[str, Any], Any]] = []

    async def look(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append((scope, receive.__self__))  # type: ignore[attr-defined]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for protocol in (HttpToolsProtocol, LeanProtocol):
        async with serving(protocol, look) as (port, _):
            await exchange(port, request("POST /a?b=c", body=b"hello"))
    (own_scope, own_cycle), (scope, cycle) = seen
    for of_one_connection in ("client", "server"):
        assert type(own_scope.pop(of_one_connection)) is type(scope.pop(of_one_connection))
    assert scope.pop("extensions").keys() == {"holdfast.abort"}
    assert scope == own_scope
    assert [name for name in vars(own_cycle) if not hasattr(cycle, name)] == []


async def test_lean_protocol_writes_head_and_body_together() -> None:
    async with serving(LeanProtocol) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("POST /a", body=b"hello"))
        first = await asyncio.wait_for(reader.read(65536), ANSWER_MAX_S)
        writer.close()
    assert first.endswith(b"|hello")


async def test_lean_protocol_closes_without_an_answer_when_a_body_is_shorter_than_its_head_says() -> None:
    async with serving(LeanProtocol) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("GET /too-short"))
        received = await asyncio.wait_for(reader.read(), ANSWER_MAX_S)  # until it is closed
        writer.close()
    assert not received.endswith(b"0\r\n\r\n")


async def test_lean_protocol_closes_a_connection_that_is_idle_for_too_long_and_none_that_is_not() -> None:
    async with serving(LeanProtocol) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 1.6 * KEEP_ALIVE_S:
            writer.write(request("GET /a"))
            assert await asyncio.wait_for(reader.readuntil(b"|"), ANSWER_MAX_S)
            await asyncio.sleep(0.2 * KEEP_ALIVE_S)
        assert await asyncio.wait_for(reader.read(), 3 * KEEP_ALIVE_S + ANSWER_MAX_S) == b""
        writer.close()


async def test_lean_protocol_lets_an_idle_connection_go_when_the_server_stops() -> None:
    async with serving(LeanProtocol) as (port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("GET /a"))
        await asyncio.wait_for(reader.readuntil(b"|"), ANSWER_MAX_S)
        server.should_exit = True
        assert await asyncio.wait_for(reader.read(), ANSWER_MAX_S) == b""
        writer.close()


async def test_lean_protocol_forgets_its_timer_when_the_client_leaves() -> None:
    lost: asyncio.Future[LeanProtocol] = asyncio.get_running_loop().create_future()

    class Watched(LeanProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set_result(self)

    async with serving(Watched) as (port, _):
        await exchange(port, request("GET /a"))
        protocol = await asyncio.wait_for(lost, ANSWER_MAX_S)
    assert protocol.timeout_keep_alive_task is None


async def test_lean_protocol_takes_whole_answers_and_leaves_to_asgi_what_is_not_plain() -> None:
    taken: list[bool] = []

    async def whole(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        lines, body = b"x-a: b\r\ncontent-length: 5\r\n", b"hello"
        taken.append(send.__self__.write_whole(200, lines, body))  # type: ignore[attr-defined]
        if not taken[-1]:
            headers = [(b"x-a", b"b"), (b"content-length", b"5")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    expected = b"HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 5\r\n"
    async with serving(LeanProtocol, whole) as (port, _):
        assert await exchange(port, request("GET /a") + request("GET /a")) == 2 * (expected + b"\r\nhello")
        assert await exchange(port, request("HEAD /a")) == expected + b"\r\n"
        closing = await exchange(port, request("GET /a", "Connection: close"))
        assert closing == expected + b"connection: close\r\n\r\nhello"
    assert taken == [True, True, False, False]


async def test_lean_protocol_hands_over_a_body_that_is_there_and_leaves_to_asgi_one_that_is_yet_to_come() -> None:
    taken: list[bytes | None] = []

    async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        cycle = receive.__self__  # type: ignore[attr-defined]
        taken.append(cycle.take_body())
        body, more = taken[-1] or b"", taken[-1] is None
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        assert cycle.take_body() is None  # nobody gets it twice
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": body})

    async with serving(LeanProtocol, echo) as (port, _):
        whole = request("POST /a", body=b"hello")
        for pieces in ([whole], [whole[:-5], b"hel", b"lo"]):
            assert (await exchange(port, *pieces)).endswith(b"\r\n\r\nhello")
    assert taken == [b"hello", None]
