"""uvicorn with the gate on a real socket: who is refused and when, what counts as under way, and slow clients."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from api.clients import Proxies
from engine import figures
from holdfast import http_bounds
from holdfast.admission import HOLD, Admission
from holdfast.http_gate import Gate

ANSWER_MAX_S = 10.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join((f"{line} HTTP/1.1", "Host: shop.test", *headers, *length, "", "")).encode() + body


HOLDS = request("POST /v1/events/e/holds", "X-Request-Id: mine", body=b"{}")
BOOKINGS = request("POST /v1/bookings", body=b"{}")
READS = request("GET /v1/events/e/availability")
STREAM = request("GET /v1/events/e%31/stream")
WISH = ("Connection: Upgrade", "Upgrade: h2c")
IN_PARTS = (HOLDS[:-1], HOLDS[-1:])


class App:
    """Reads the body, waits until it may answer if the path is one of holds, and answers."""

    def __init__(self, answer: bytes = b"ok") -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.may_answer = asyncio.Event()
        self.fails = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        if scope["path"].endswith("/stream"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if scope["path"].endswith(("/holds", "/stream")):
            await self.may_answer.wait()
        if self.fails:
            raise RuntimeError("on purpose")
        if scope["path"].endswith("/stream"):
            await send({"type": "http.response.body", "body": b""})
            return
        length = str(len(self.answer)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": self.answer})


class Shop:
    """A server, and what it has under way."""

    def __init__(self, app: App, port: int, gate: Gate, server: uvicorn.Server) -> None:
        self.app = app
        self.port = port
        self.gate = gate
        self.server = server

    @property
    def under_way(self) -> float:
        return self.gate.admission.gauges()["holdfast_in_flight"]

    def refused_in_front(self) -> bool:
        """Whether one of the open connections has never had a request parsed."""
        return any(protocol.cycle is None for protocol in self.gate.watch.open)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Streams]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                yield reader, writer
        finally:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def hold_under_way(self) -> AsyncIterator[Streams]:
        async with self.connection() as (reader, writer):
            writer.write(HOLDS)
            await until(lambda: len(self.app.bodies) == 1)
            yield reader, writer


@contextlib.asynccontextmanager
async def serving(
    app: App, *, in_flight: int = 1, connections_max: int = 100, keep_alive_s: int = 5, buffer: int | None = None
) -> AsyncIterator[Shop]:
    gate = Gate(Admission(in_flight), connections_max=connections_max, proxies=Proxies())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if buffer is not None:  # of what the kernel keeps for a client that does not read
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        config = uvicorn.Config(
            app,
            http=gate.protocol,  # type: ignore[arg-type]
            lifespan="off",
            log_config=None,
            timeout_keep_alive=keep_alive_s,
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        try:
            yield Shop(app, listener.getsockname()[1], gate, server)
        finally:
            app.may_answer.set()
            server.should_exit = server.force_exit = True
            await running


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    async with asyncio.timeout(ANSWER_MAX_S):
        while not happened():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.005)


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def status(streams: Streams, asked: bytes) -> int:
    reader, writer = streams
    writer.write(asked)
    return (await answer(reader))[0]


async def test_second_hold_is_refused_before_its_body_is_read_and_everything_urgent_passes() -> None:
    async with serving(App()) as shop, shop.hold_under_way() as (first, _), shop.connection() as (reader, writer):
        writer.write(HOLDS[:-2])  # the head alone
        code, headers, body = await answer(reader)
        assert (code, headers["retry-after"] in "1234", headers["x-request-id"]) == (503, True, "mine")
        problem = json.loads(body)
        assert (problem["type"], problem["request_id"]) == ("http://shop.test/problems/overloaded", "mine")
        async with shop.connection() as another:
            assert await status(another, BOOKINGS) == 200
            assert await status(another, request("GET /healthz")) == 200
            assert await status(another, READS) == 503
        shop.app.may_answer.set()
        assert (await answer(first))[0] == 200
        assert shop.app.bodies.count(b"{}") == 2


@pytest.mark.parametrize(
    "asked",
    [
        HOLDS,
        READS,
        READS.replace(b"GET", b"HEAD"),
        HOLDS.replace(b"Host:", b"X-Forwarded-Proto: https\r\nHost:"),
        HOLDS.replace(b"X-Request-Id: mine", b"X-Request-Id: mine \t"),
        HOLDS.replace(b"Host: shop.test", b"Host: shop.test "),
        HOLDS.replace(b"Host: shop.test", b"Host:"),
        HOLDS.replace(b"Host: shop.test", b"Host: \xfc"),
    ],
    ids=["hold", "read", "HEAD", "https", "id with blanks", "host with a blank", "empty host", "host that is none"],
)
async def test_refusal_says_the_same_in_front_of_the_parser_and_behind_it(asked: bytes) -> None:
    async with serving(App()) as shop, shop.hold_under_way():
        answers = []
        for parts in ((asked,), (asked[:-1], asked[-1:])):
            async with shop.connection() as (reader, writer):
                for part in parts:
                    writer.write(part)
                    await asyncio.sleep(0.02)
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                assert head.startswith("HTTP/1.1 503")
                assert shop.refused_in_front() == (len(parts) == 1)
                writer.write(BOOKINGS)
                rest = await reader.readuntil(b"HTTP/1.1 200")  # the body, if there is one
            fresh = re.sub(r"(?m)^(retry-after|date): .*$", "", head)
            answers.append(re.sub(r"[0-9a-f]{26}", "fresh", fresh + rest.decode()))
        assert answers[0] == answers[1]


async def test_refused_request_leaves_its_connection_for_the_next_and_is_counted() -> None:
    before = figures.SHED.values.get((HOLD,), 0)
    async with serving(App()) as shop, shop.hold_under_way(), shop.connection() as another:
        for _ in range(3):
            assert await status(another, HOLDS) == 503
        assert shop.refused_in_front()
        assert shop.server.server_state.total_requests == 3
        assert await status(another, BOOKINGS) == 200
    assert figures.SHED.values[HOLD,] == before + 3


async def test_body_of_a_refused_wish_for_another_protocol_is_taken_for_no_request() -> None:
    head = request("POST /v1/events/e/holds", *WISH, body=HOLDS)[: -len(HOLDS)]
    async with serving(App()) as shop, shop.hold_under_way(), shop.connection() as another:
        assert await status(another, head) == 503
        another[1].write(HOLDS)
        await asyncio.sleep(0.05)  # so that it is read by itself
        assert await status(another, BOOKINGS) == 200


async def test_wish_for_another_protocol_counts_from_when_its_body_is_there() -> None:
    asked = request("POST /v1/events/e/holds", *WISH, body=b"{}")
    async with serving(App()) as shop, shop.connection() as (_, writer):
        writer.write(asked[:-2])
        await until(lambda: any(protocol.cycle is not None for protocol in shop.gate.watch.open))
        await asyncio.sleep(0.05)
        assert shop.under_way == 0
        writer.write(asked[-2:])
        await until(lambda: shop.under_way == 1)


async def test_long_body_of_a_wish_for_another_protocol_is_no_head() -> None:
    asked = request("POST /v1/bookings", *WISH, body=b"x" * 300_000)
    async with serving(App()) as shop, shop.connection() as (reader, writer):
        for part in (asked[:300], *(asked[at : at + 20_000] for at in range(300, len(asked), 20_000))):
            writer.write(part)
            await asyncio.sleep(0.01)
        assert (await answer(reader))[0] == 200
        assert shop.app.bodies == [b"x" * 300_000]


async def test_refusal_overtakes_no_answer() -> None:
    async with serving(App()) as shop, shop.hold_under_way() as (reader, writer):
        writer.write(HOLDS)
        await asyncio.sleep(0.05)
        shop.app.may_answer.set()
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 200]


async def test_body_of_a_refused_request_is_taken_for_no_request() -> None:
    head = request("POST /v1/events/e/holds", f"Content-Length: {len(HOLDS)}")
    async with serving(App()) as shop, shop.hold_under_way(), shop.connection() as (reader, writer):
        writer.write(head)
        assert (await answer(reader))[0] == 503
        writer.write(HOLDS)
        await asyncio.sleep(0.05)
        writer.write(BOOKINGS)
        assert (await answer(reader))[0] == 200


async def test_connection_whose_requests_are_refused_is_ended_when_it_is_idle_and_not_before() -> None:
    async with serving(App(), keep_alive_s=1) as shop, shop.hold_under_way(), shop.connection() as (reader, writer):
        for _ in range(4):
            assert await status((reader, writer), HOLDS) == 503
            assert shop.refused_in_front()
            await asyncio.sleep(0.5)
        assert await reader.read() == b""


async def test_connection_whose_first_request_is_refused_is_ended_when_it_is_idle() -> None:
    async with serving(App(), keep_alive_s=1) as shop, shop.hold_under_way(), shop.connection() as (reader, writer):
        assert await status((reader, writer), HOLDS) == 503
        assert await reader.read() == b""


async def test_connection_whose_first_request_is_refused_has_sent_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bounds, "RECEIVE_MAX_S", 0.5)
    monkeypatch.setattr(http_bounds, "SWEEP_EVERY_S", 0.1)
    async with serving(App()) as shop, shop.hold_under_way(), shop.connection() as another:
        assert await status(another, HOLDS) == 503
        await asyncio.sleep(1.0)
        assert await status(another, BOOKINGS) == 200


def chunked(line: str, *headers: str, body: bytes) -> bytes:
    """The bytes of a request whose body is one chunk."""
    return request(line, "Transfer-Encoding: chunked", *headers) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


LONG = b"x" * 400  # longer than the head of any request here
HEALTH = request("GET /healthz")


@pytest.mark.parametrize(
    ("together", "codes"),
    [
        ((chunked("POST /v1/events/e/holds", body=LONG), BOOKINGS), [503, 200]),
        ((request("POST /v1/events/e/holds", body=LONG), HOLDS, BOOKINGS), [503, 503, 200]),
        ((request("POST /v1/events/e/holds", body=LONG), HEALTH, BOOKINGS), [503, 200, 200]),
        (
            (HOLDS, HEALTH.replace(b"Host: shop.test\r\n", b""), HEALTH.replace(b"Host: shop.test\r\n", b"")),
            [503, 200, 200],
        ),
        ((HOLDS, BOOKINGS, BOOKINGS, BOOKINGS, BOOKINGS), [503, 200, 200, 200, 200]),
    ],
    ids=["behind chunks", "behind a long body", "behind two", "without hosts", "five"],
)
async def test_every_one_of_pipelined_requests_is_answered(together: tuple[bytes, ...], codes: list[int]) -> None:
    async with serving(App()) as shop, shop.hold_under_way(), shop.connection() as (reader, writer):
        writer.write(b"".join(together))
        assert [(await answer(reader))[0] for _ in codes] == codes
        assert await status((reader, writer), HEALTH) == 200
        assert len(shop.app.bodies) == 1 + codes.count(200) + 1


@pytest.mark.parametrize(
    "parts",
    [
        (HOLDS[:40], HOLDS[40:]),
        (HOLDS[:-2], HOLDS[-2:]),
        (HOLDS.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")[:-2] + b"2\r\n{}\r\n0\r\n\r\n",),
        (HOLDS.replace(b"Host: shop.test", b"Host: shop.test\r\nConnection: close"),),
        (HOLDS.replace(b"/holds", b"/h%6flds"),),
        (request("GET http://shop.test/v1/events/e/availability"),),
    ],
    ids=["head in two parts", "body in two parts", "chunked", "last request", "escaped path", "absolute target"],
)
async def test_what_is_not_one_whole_plain_request_is_refused_behind_the_parser(parts: tuple[bytes, ...]) -> None:
    async with serving(App()) as shop, shop.hold_under_way(), shop.connection() as (reader, writer):
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.02)
        assert (await answer(reader))[0] == 503
        assert shop.app.bodies == [b"{}"]


async def test_hundreds_that_come_together_are_let_in_up_to_the_bound() -> None:
    app = App()
    async with serving(app, in_flight=10) as shop, contextlib.AsyncExitStack() as stack:
        all_of_them = [await stack.enter_async_context(shop.connection()) for _ in range(60)]
        for _, writer in all_of_them:
            writer.write(HOLDS)
        answers = [asyncio.create_task(answer(reader)) for reader, _ in all_of_them]
        await until(lambda: sum(task.done() for task in answers) == 50)
        assert shop.under_way == len(app.bodies) == 10
        app.may_answer.set()
        codes = sorted(code for code, _, _ in await asyncio.gather(*answers))
        assert codes == [200] * 10 + [503] * 50
        assert shop.under_way == 0


async def test_client_that_has_sent_half_of_its_body_holds_nothing_and_may_be_refused_when_it_goes_on() -> None:
    async with serving(App()) as shop, shop.connection() as (slow, writer):
        writer.write(IN_PARTS[0])
        await until(lambda: any(protocol.cycle is not None for protocol in shop.gate.watch.open))
        assert shop.under_way == 0
        async with shop.connection() as (_, other):
            other.write(HOLDS)
            await until(lambda: shop.under_way == 1)
            writer.write(IN_PARTS[1])
            assert (await answer(slow))[0] == 503
            assert shop.under_way == 1
            shop.app.may_answer.set()
            await until(lambda: shop.under_way == 0)
        assert await status((slow, writer), HOLDS) == 200
        assert shop.app.bodies == [b"{}", b"{}"]


@pytest.mark.parametrize("fails", [False, True], ids=["answers", "raises"])
async def test_request_counts_until_its_handler_is_done_when_its_client_has_vanished(fails: bool) -> None:
    app = App()
    app.fails = fails
    async with serving(app) as shop:
        async with shop.hold_under_way():
            pass
        await until(lambda: not shop.gate.watch.open)
        assert shop.under_way == 1
        app.may_answer.set()
        await until(lambda: shop.under_way == 0)


async def test_client_that_vanishes_before_its_body_is_there_leaves_nothing_behind() -> None:
    async with serving(App()) as shop:
        async with shop.connection() as (_, writer):
            writer.write(IN_PARTS[0])
            await until(lambda: bool(shop.server.server_state.tasks))
        await until(lambda: not shop.server.server_state.tasks)
        assert shop.under_way == 0


async def test_requests_are_counted_no_longer_when_a_stop_cancels_them() -> None:
    async with serving(App()) as shop, shop.hold_under_way():
        for task in shop.server.server_state.tasks:
            task.cancel()
        await until(lambda: shop.under_way == 0)


async def test_stream_counts_only_until_its_head_is_sent() -> None:
    async with serving(App()) as shop, shop.connection() as (reader, writer):
        writer.write(STREAM)
        await reader.readuntil(b"begun")
        assert shop.under_way == 0
        async with shop.connection() as another:
            assert await status(another, READS) == 200


async def test_pipelined_requests_are_answered_in_order_and_count_one_at_a_time() -> None:
    async with serving(App()) as shop, shop.connection() as (reader, writer):
        writer.write(HOLDS + BOOKINGS + HOLDS + READS)
        await until(lambda: len(shop.app.bodies) == 1)
        assert shop.under_way == 1
        shop.app.may_answer.set()
        assert [(await answer(reader))[0] for _ in range(4)] == [200] * 4
        assert shop.under_way == 0


async def test_pipelined_requests_without_end_are_all_refused() -> None:
    async with serving(App()) as shop, shop.hold_under_way(), shop.connection() as (reader, writer):
        writer.write(HOLDS * 1_000)
        assert {(await answer(reader))[0] for _ in range(1_000)} == {503}


async def test_refusals_pile_up_for_no_client_that_does_not_read_them() -> None:
    async with serving(App(), buffer=8_192) as shop, shop.hold_under_way():
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.connect(("127.0.0.1", shop.port))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # nothing is read any more
                for _ in range(1_000):
                    client.send(HOLDS)
                    await asyncio.sleep(0.0005)  # so that each is read by itself
            unread = [protocol.transport.get_write_buffer_size() for protocol in shop.gate.watch.open]
            assert max(unread) < 100_000


async def test_connections_above_the_bound_are_told_so_and_closed() -> None:
    async with serving(App(), connections_max=1) as shop, shop.connection() as first:
        assert await status(first, BOOKINGS) == 200
        async with shop.connection() as (second, _):
            code, headers, _ = await answer(second)
            assert (code, headers["connection"]) == (503, "close")
            assert await second.read() == b""


@pytest.mark.parametrize("whole", [b"", HOLDS[:50], HOLDS[:-1]], ids=["nothing", "half a head", "half a body"])
async def test_client_that_sends_a_byte_now_and_then_is_cut_off(whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bounds, "RECEIVE_MAX_S", 0.2)
    monkeypatch.setattr(http_bounds, "SWEEP_EVERY_S", 0.05)
    async with serving(App()) as shop, shop.connection() as (reader, writer):
        with contextlib.suppress(ConnectionError):  # it may be cut off before it has sent all it wanted to
            for byte in whole:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.001)
            assert await reader.read() == b""
        await until(lambda: not shop.gate.watch.open)
        assert (shop.app.bodies, shop.under_way) == ([], 0)


async def test_client_that_does_not_read_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bounds, "STALLED_MAX_S", 0.2)
    monkeypatch.setattr(http_bounds, "SWEEP_EVERY_S", 0.05)
    app = App(answer=b"x" * (32 << 20))
    async with serving(app) as shop:
        with socket.create_connection(("127.0.0.1", shop.port)) as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, BOOKINGS)
            await until(lambda: bool(app.bodies) and not shop.gate.watch.open)
        assert shop.under_way == 0


async def test_client_that_reads_slowly_but_reads_gets_its_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bounds, "SWEEP_EVERY_S", 0.02)
    async with serving(App(answer=b"x" * (16 << 20))) as shop, shop.connection() as (reader, writer):
        writer.write(BOOKINGS)
        await reader.readuntil(b"\r\n\r\n")
        left = 16 << 20
        while left:
            left -= len(await reader.read(min(left, 1 << 20)))
            await asyncio.sleep(0.005)


async def test_blank_line_between_requests_keeps_no_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(App(), in_flight=100) as shop, shop.connection() as streams:
        shop.server.config.timeout_keep_alive = 1
        assert await status(streams, READS) == 200
        streams[1].write(b"\r\n")
        assert await streams[0].read(1) == b""


async def test_head_without_an_end_is_refused() -> None:
    async with serving(App(), in_flight=100) as shop, shop.connection() as (reader, writer):
        writer.write(b"GET /v1/events/e/availability HTTP/1.1\r\nHost: a\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(2_000):
                writer.write(b"x-%d: %b\r\n" % (number, b"a" * 1000))
                await writer.drain()
                await asyncio.sleep(0)
            await reader.read()
        await until(lambda: not shop.gate.watch.open)


async def test_head_that_is_too_large_is_a_problem_like_any_other() -> None:
    async with serving(App(), in_flight=100) as shop, shop.connection() as (reader, writer):
        writer.write(b"GET /v1/events/e/availability HTTP/1.1\r\nHost: a\r\nx: ")
        await until(lambda: any(protocol._midway for protocol in shop.gate.watch.open))
        writer.write(b"a" * (http_bounds.HEAD_MAX + 1))  # one byte too many, so that none is left unread
        code, headers, body = await answer(reader)
        problem = json.loads(body)
        assert (code, headers["content-type"], headers["connection"]) == (431, "application/problem+json", "close")
        assert (problem["code"], problem["request_id"]) == ("head-too-large", headers["x-request-id"])
        assert await reader.read() == b""


async def test_read_that_announces_a_body_is_counted_at_once() -> None:
    read = b"GET /v1/events/e/holds HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"
    async with serving(App(), in_flight=100) as shop, shop.connection() as streams:
        streams[1].write(read)
        await until(lambda: shop.under_way == 1)
    async with serving(App(), in_flight=100) as shop:
        async with shop.connection() as streams:
            streams[1].write(read)
            await until(lambda: shop.under_way == 1)
        await until(lambda: shop.under_way == 0)


async def test_upgrade_behind_a_request_counts_it_once() -> None:
    upgrade = request("GET /x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    async with serving(App(), in_flight=100) as shop:
        async with shop.connection() as (_, writer):
            writer.write(HOLDS + upgrade)
            await asyncio.sleep(0.1)
        shop.app.may_answer.set()
        await until(lambda: shop.under_way == 0)


@pytest.mark.parametrize(
    "line", [b"X: b\nTransfer-Encoding: chunked", b"Transfer-Encoding\x0b: chunked", b"X: \0", b"X: a\rb"]
)
async def test_what_readers_may_understand_in_two_ways_is_left_to_the_parser(line: bytes) -> None:
    async with serving(App()) as shop, shop.hold_under_way(), shop.connection() as (reader, writer):
        writer.write(b"POST /v1/events/e/holds HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"400"
