"""HTTP as plainly as it can be had: one connection that is kept, one request at a time, and no repetition of any."""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

TIMEOUT_S = 15.0  # longer than any answer may take, a confirm's time limit included
# Below uvicorn's five seconds, so that the server never closes a connection in the moment we send on it.
KEEP_ALIVE_S = 3.0


class NoAnswer(Exception):
    """The connection failed, or nothing came in time: what became of the request is not known."""


class Answer(msgspec.Struct, frozen=True):
    """What came back; header names in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    asked: bytes
    """The request id that was sent along."""

    def json(self) -> Any:
        """The body decoded; an empty dictionary where there is none."""
        return msgspec.json.decode(self.body) if self.body else {}

    @property
    def code(self) -> str | None:
        """The problem's code, where it is one."""
        return self.json().get("code") if self.status >= 400 else None


class Connection:
    """One client's connection to one API process, made anew when it was lost."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        assert target.hostname is not None
        assert target.port is not None
        self._host, self._port = target.hostname, target.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._used_at = 0.0

    async def call(
        self, method: str, path: str, *, token: str, body: Any = None, key: str | None = None, headers: str = ""
    ) -> Answer:
        """Send one request and wait for its answer.

        Raises:
            NoAnswer: There was none; the request may have taken effect.
        """
        asked = uuid4().hex.encode()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await self._open()
                writer.write(self.request(method, path, token=token, body=body, key=key, asked=asked, headers=headers))
                answer = await _read_answer(reader, asked)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            self.close()
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self.close()  # an answer on its way would be taken for the next one's
            raise
        self._used_at = time.monotonic()
        if answer.headers.get(b"connection") == b"close":
            self.close()
        return answer

    async def send_and_vanish(self, request: bytes) -> None:
        """Send bytes, be they a request or part of one, and hang up without reading.

        Raises:
            NoAnswer: They could not even be sent.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                _, writer = await self._open()
                writer.write(request)
                await writer.drain()
        except (OSError, TimeoutError) as error:
            raise NoAnswer(str(error)) from error
        finally:
            self.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str,
        body: Any = None,
        key: str | None = None,
        asked: bytes = b"vanishing",
        headers: str = "",
    ) -> bytes:
        """The bytes of a request; *headers* are lines that end in CR LF."""
        content = b"" if body is None else msgspec.json.encode(body)
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\nauthorization: Bearer {token}\r\n"
        head += f"x-request-id: {asked.decode()}\r\n{headers}"
        if key is not None:
            head += f"idempotency-key: {key}\r\n"
        if content:
            head += "content-type: application/json\r\n"
        return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content

    def close(self) -> None:
        """Hang up; the next call dials again."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._writer is not None and time.monotonic() - self._used_at > KEEP_ALIVE_S:
            self.close()
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self._reader, self._writer


async def _read_answer(reader: asyncio.StreamReader, asked: bytes) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    return Answer(int(first.split()[1]), headers, body, asked)
