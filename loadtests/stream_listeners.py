"""A crowd that listens to one event: ``python stream_listeners.py <url> <path> <token> <count>``.

Says ``listening`` when all of them are told of the event, or what one was told instead, and ends then; when its input
ends, how many frames they got, and how many connections were lost. It ends with its input at any moment.
"""

import asyncio
import sys
from functools import partial
from urllib.parse import urlsplit

JOIN_TOGETHER = 32  # a worker has room for 64 reads that have not begun to be answered, and refuses more


class Refused(Exception):
    """Somebody was not let in."""


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
        if self.began.done():
            return
        if self.told:
            self.began.set_result(None)
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200 "):
            self.began.set_exception(Refused(data.partition(b"\r\n")[0].decode()))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost[0] += 1
        if not self.began.done():
            self.began.set_exception(Refused(f"a connection was lost: {error}"))


async def _listen(url: str, path: str, token: str, count: str) -> None:
    host, _, port = urlsplit(url).netloc.rpartition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    loop, lost = asyncio.get_running_loop(), [0]
    all_of_them: list[_Listener] = []

    async def join() -> None:
        for first in range(0, int(count), JOIN_TOGETHER):
            size = min(JOIN_TOGETHER, int(count) - first)
            made = [loop.create_connection(partial(_Listener, request, lost), host, int(port)) for _ in range(size)]
            group = [one for _, one in await asyncio.gather(*made)]
            all_of_them.extend(group)
            await asyncio.gather(*(one.began for one in group))
        print("listening", flush=True)

    joining, ending = asyncio.create_task(join()), asyncio.create_task(_end_of_input())
    await asyncio.wait((joining, ending), return_when=asyncio.FIRST_COMPLETED)
    try:
        if joining.done():
            joining.result()
            await ending
    except (Refused, OSError) as reason:
        print(reason, flush=True)
        sys.exit(1)
    print(sum(one.told for one in all_of_them), lost[0], flush=True)


async def _end_of_input() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    asyncio.run(_listen(*sys.argv[1:]))
