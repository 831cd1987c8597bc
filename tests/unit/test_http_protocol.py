"""uvicorn with our protocol on a real socket: cheap refusals, and clients that are slow on purpose."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from api.admission import HOLD, Admission
from holdfast import http_protocol
from holdfast.http_protocol import Gate

HOLDS = b"POST /v1/events/e/holds HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Length: 2\r\n\r\n{}"


class FullUp(Admission):
    """One in whose queue of holds a newcomer would wait too long."""

    def may_refuse(self, arriving: int) -> bool:
        return True

    def would_refuse(self, name: str, *, arriving: int = 0) -> bool:
        return name == HOLD


class App:
    """Reads the body, and answers as much as it is told to."""

    def __init__(self, answer: bytes = b"ok") -> None:
        self.answer = answer
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        length = str(len(self.answer)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": self.answer})


@contextlib.asynccontextmanager
async def serving(app: App, admission: Admission | None = None, *, connections_max: int = 100) -> AsyncIterator[Gate]:
    gate = Gate(admission, connections_max=connections_max)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gate_server = uvicorn.Server(
            uvicorn.Config(app, http=gate.protocol, lifespan="off", log_config=None)  # type: ignore[arg-type]
        )
        gate_server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        running = asyncio.create_task(gate_server.serve(sockets=[listener]))
        while not gate_server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        gate.port = listener.getsockname()[1]  # type: ignore[attr-defined]
        try:
            yield gate
        finally:
            gate_server.should_exit = gate_server.force_exit = True
            await running


@contextlib.asynccontextmanager
async def connection(gate: Gate) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)  # type: ignore[attr-defined]
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.transport.abort()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def test_refused_request_is_answered_without_the_application_and_the_connection_goes_on() -> None:
    app = App()
    async with serving(app, FullUp()) as gate, connection(gate) as (reader, writer):
        for _ in range(3):
            writer.write(HOLDS)
            status, headers, body = await answer(reader)
            assert (status, headers["x-request-id"], headers["retry-after"] in "1234") == (503, "mine", True)
            problem = json.loads(body)
            assert (problem["code"], problem["status"], problem["request_id"]) == ("overloaded", 503, "mine")
        assert app.bodies == []
        writer.write(HOLDS.replace(b"/v1/events/e/holds", b"/v1/bookings"))

        assert (await answer(reader))[0] == 200
        assert app.bodies == [b"{}"]


@pytest.mark.parametrize(
    "parts",
    [
        (HOLDS[:40], HOLDS[40:]),
        (HOLDS[:-1], HOLDS[-1:]),
        (HOLDS.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")[:-2] + b"2\r\n{}\r\n0\r\n\r\n",),
        (HOLDS.replace(b"Host: x", b"Host: x\r\nConnection: close"),),
        (HOLDS + HOLDS,),
    ],
    ids=["head in two parts", "body in two parts", "chunked", "last request", "two at once"],
)
async def test_anything_but_one_whole_plain_request_is_left_to_the_parser(parts: tuple[bytes, ...]) -> None:
    app = App()
    async with serving(app, FullUp()) as gate, connection(gate) as (reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)

        assert (await answer(reader))[0] == 200
        assert app.bodies[0] == b"{}"


async def test_connections_above_the_bound_are_told_so_and_closed() -> None:
    async with serving(App(), connections_max=1) as gate, connection(gate) as (first, writer):
        writer.write(HOLDS)
        assert (await answer(first))[0] == 200
        async with connection(gate) as (second, _):
            assert (await answer(second))[0] == 503
            assert await second.read() == b""


@pytest.mark.parametrize("whole", [b"", HOLDS[:50], HOLDS[:-1]], ids=["nothing", "half a head", "half a body"])
async def test_client_that_sends_a_byte_now_and_then_is_cut_off(whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "RECEIVE_MAX_S", 0.2)
    monkeypatch.setattr(http_protocol, "SWEEP_EVERY_S", 0.05)
    app = App()
    async with serving(app) as gate, connection(gate) as (reader, writer):
        for byte in whole:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)

        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert not gate.open
        assert app.bodies == []


async def test_client_that_does_not_read_its_answer_is_cut_off_and_its_memory_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "STALLED_MAX_S", 0.2)
    monkeypatch.setattr(http_protocol, "SWEEP_EVERY_S", 0.05)
    app = App(answer=b"x" * (32 << 20))
    async with serving(app) as gate:
        with socket.create_connection(("127.0.0.1", gate.port)) as client:  # type: ignore[attr-defined]
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, HOLDS)
            async with asyncio.timeout(10):
                while not app.bodies or gate.open:  # noqa: ASYNC110 - nobody is told of it
                    await asyncio.sleep(0.02)


async def test_client_that_reads_slowly_but_reads_gets_its_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "SWEEP_EVERY_S", 0.02)
    app = App(answer=b"x" * (16 << 20))
    async with serving(app) as gate, connection(gate) as (reader, writer):
        writer.write(HOLDS)
        await reader.readuntil(b"\r\n\r\n")
        left = 16 << 20
        while left:
            left -= len(await reader.read(min(left, 1 << 20)))
            await asyncio.sleep(0.005)
