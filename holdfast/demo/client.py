"""HTTP for a crowd: a fixed number of connections that buyers take in turn; every request is timed and counted."""

import asyncio
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import httpx2
import msgspec

from holdfast.demo.errors import DemoFailed

TIMEOUT_S = 30.0
# Below uvicorn's five seconds, so that the server never closes a connection in the moment we send on it.
KEEP_ALIVE_S = 3.0
UNANSWERED = 0  # in place of a status


class Answer(msgspec.Struct, frozen=True):
    """A status and a body; ``UNANSWERED`` when the connection failed, which the client has counted."""

    status: int
    body: bytes


class Client:
    """Calls the API for everybody; statuses nobody expected are counted in ``unexpected``, by purpose.

    One ``AsyncClient`` for each connection, because the pool of a shared one searches all its connections at every
    request: a fifth fewer requests a second, measured with 64.
    """

    def __init__(self, url: str, *, connections: int) -> None:
        self.connections = connections
        self.requests = 0
        self.unexpected: Counter[str] = Counter()
        self.latencies_s: defaultdict[str, list[float]] = defaultdict(list)
        tls = ssl.create_default_context()  # made once: each client would load the certificates for itself
        limits = httpx2.Limits(max_connections=1, keepalive_expiry=KEEP_ALIVE_S)
        self._clients = [
            httpx2.AsyncClient(base_url=url, limits=limits, timeout=TIMEOUT_S, trust_env=False, verify=tls)
            for _ in range(connections)
        ]
        self._idle: asyncio.LifoQueue[httpx2.AsyncClient] = asyncio.LifoQueue()
        for client in self._clients:
            self._idle.put_nowait(client)

    async def aclose(self) -> None:
        """Close every connection."""
        for client in self._clients:
            await client.aclose()

    async def call(
        self,
        purpose: str,
        method: str,
        path: str,
        *,
        token: str,
        expect: Collection[int],
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request once a connection is idle; the latency counts from then, and is kept under *purpose*."""
        sent = {"authorization": f"Bearer {token}", **(headers or {})}
        content = None
        if body is not None:
            content = body if isinstance(body, bytes) else msgspec.json.encode(body)
            sent["content-type"] = "application/json"
        client = await self._idle.get()
        began_s = time.perf_counter()
        try:
            response = await client.request(method, path, content=content, headers=sent)
            answer = Answer(response.status_code, response.content)
        except httpx2.TransportError as error:
            self.unexpected[f"{purpose}: {type(error).__name__}"] += 1
            return Answer(UNANSWERED, b"")
        finally:
            self._idle.put_nowait(client)
        self.requests += 1
        self.latencies_s[purpose].append(time.perf_counter() - began_s)
        if answer.status not in expect:
            self.unexpected[f"{purpose}: {describe_answer(answer)}"] += 1
        return answer

    async def require(self, method: str, path: str, *, token: str, body: Any = None) -> bytes:
        """A request the demo cannot go on without.

        Raises:
            DemoFailed: It was not answered with 200 or 201.
        """
        answer = await self.call("set-up", method, path, token=token, expect=(200, 201), body=body)
        if answer.status not in (200, 201):
            text = answer.body.decode(errors="replace") or "no answer"
            raise DemoFailed(f"{method} {path} was answered {answer.status}: {text}")
        return answer.body


class _Problem(msgspec.Struct):
    code: str = ""


def describe_answer(answer: Answer) -> str:
    """Its status, and the code of its problem if it has one."""
    try:
        code = msgspec.json.decode(answer.body, type=_Problem).code
    except msgspec.DecodeError:
        code = ""
    return f"{answer.status} {code}".rstrip()
