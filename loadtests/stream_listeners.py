"""A crowd that listens to one event: ``python stream_listeners.py <url> <path> <token> <count>``.

Says ``listening`` when all of them are told of the event; when its input ends, how many frames they got, and how many
connections were lost.
"""

import asyncio
import sys
from functools import partial
from urllib.parse import urlsplit


class _Listener(asyncio.Protocol):
    """One stream; counts what it is told, and does not look at it."""

    def __init__(self, request: bytes, lost: list[int]) -> None:
        self._request, self._lost = request, lost
        self.told = 0
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.told += data.count(b"event: ")
        if self.told and not self.began.done():
            self.began.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - however it was lost
        self._lost[0] += 1


async def _listen(url: str, path: str, token: str, count: str) -> None:
    host, _, port = urlsplit(url).netloc.rpartition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    loop, lost = asyncio.get_running_loop(), [0]
    all_of_them = []
    for _ in range(int(count)):
        _, one = await loop.create_connection(partial(_Listener, request, lost), host, int(port))
        all_of_them.append(one)
    await asyncio.gather(*(one.began for one in all_of_them))
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(sum(one.told for one in all_of_them), lost[0], flush=True)


if __name__ == "__main__":
    asyncio.run(_listen(*sys.argv[1:]))
