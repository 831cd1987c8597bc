"""A pricing or inventory service that stands in for somebody else's: answers as told, late, wrong, or not at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

HEAD_MAX = 16_384


class StandIn:
    """What it is to answer next, and what it was asked. ``drop`` hangs up on so many requests before it answers one."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.answer: Any = {}
        self.delay_s = 0.0
        self.drop = 0
        self.errors = 0
        self.questions: list[dict[str, Any]] = []

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            self.questions.append(msgspec.json.decode(await reader.readexactly(length)))
            if self.drop:
                self.drop -= 1
                return
            await asyncio.sleep(self.delay_s)
            status = self.status
            if self.errors:
                self.errors -= 1
                status = 503
            body = self.answer if isinstance(self.answer, bytes) else msgspec.json.encode(self.answer)
            writer.write(
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                % (status, len(body), body)
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the caller has given up waiting
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def stand_in(**members: Any) -> AsyncIterator[StandIn]:
    """One that listens on the loopback, until the context ends."""
    service = StandIn()
    for name, value in members.items():
        setattr(service, name, value)
    server = await asyncio.start_server(service.serve_one, "127.0.0.1", 0, limit=HEAD_MAX)
    async with server:
        service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/quote"
        yield service
