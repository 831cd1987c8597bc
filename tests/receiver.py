"""A receiver of webhooks on the loopback, which answers as a test says and remembers what it was sent."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

Answer = tuple[int, dict[str, str]] | None  # None: no answer at all
OK: Answer = (200, {})


class Received:
    """One request."""

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        self.headers = headers
        self.body = body
        self.event: dict[str, Any] = json.loads(body)

    @property
    def id(self) -> str:
        return str(self.event["id"])

    @property
    def step(self) -> tuple[str, int]:
        """The booking, and how far it had come."""
        return self.event["subject"], self.event["data"]["version"]

    def is_signed_with(self, secret: str) -> bool:
        """By the Standard Webhooks scheme, written from its text and sharing nothing with the sender."""
        key = base64.b64decode(secret[len("whsec_") :])
        text = b".".join([self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), self.body])
        expected = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
        return any(one == f"v1,{expected}" for one in self.headers["webhook-signature"].split(" "))


class Receiver:
    """Answers with what ``answer`` says of each request, 200 unless a test puts something else there."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.taken: list[Received] = []
        self.connections = 0
        self.delay_s = 0.0
        self.answer: Callable[[Received], Answer] = lambda _: OK
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    def taken_steps(self) -> dict[str, list[int]]:
        """The versions that were taken, by booking, in the order in which they came."""
        steps: dict[str, list[int]] = {}
        for one in self.taken:
            subject, version = one.step
            steps.setdefault(subject, []).append(version)
        return steps

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
                one = Received(headers, await reader.readexactly(int(headers["content-length"])))
                self.received.append(one)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                answer = self.answer(one)
                if answer is None:
                    return
                status, more = answer
                if 200 <= status < 300:
                    self.taken.append(one)
                lines = [f"HTTP/1.1 {status} So", "content-length: 2", *(f"{k}: {v}" for k, v in more.items())]
                writer.write("\r\n".join([*lines, "", "ok"]).encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the sender has gone
        finally:
            writer.close()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver at a free port, until the block ends."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
