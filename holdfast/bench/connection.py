"""One connection to the API with one request under way: as little work for the client as HTTP allows."""

import asyncio
import re
from collections.abc import Callable, Generator
from typing import Any

from holdfast.demo.client import UNANSWERED, Answer

Asking = Generator[bytes, Answer, None]  # requests, each of which is given its answer

AGAIN_S = 0.05  # after a refusal because of too much at once
OVERLOADED = 503
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """Sends what *asking* yields, one after the other; a request that is refused for overload is sent again.

    ``ended`` is done when *asking* has returned. When the connection fails, *asking* is given ``UNANSWERED``, and may
    note it, but nothing more is sent.
    """

    def __init__(self, asking: Asking, *, on_overload: Callable[[], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking = asking
        self._on_overload = on_overload
        self._request = b""
        self._received = b""
        self._transport: Any = None  # uvloop's are no asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask(lambda: next(self._asking))

    def data_received(self, data: bytes) -> None:
        received = self._received + data
        head, end, body = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length is not None and len(body) < int(length[1])):
            self._received = received
            return
        self._received = b""
        answer = Answer(int(head[9:12]), body)
        if answer.status == OVERLOADED:
            self._on_overload()
            asyncio.get_running_loop().call_later(AGAIN_S, self._send)
        else:
            self._ask(lambda: self._asking.send(answer))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        if self.ended.done():
            return
        try:
            self._asking.send(Answer(UNANSWERED, b""))
        except StopIteration:
            pass
        finally:
            self.ended.set_result(None)

    def _ask(self, request: Callable[[], bytes]) -> None:
        try:
            self._request = request()
        except StopIteration:
            self.ended.set_result(None)
            self._transport.close()
        except Exception as error:
            self.ended.set_exception(error)
            self._transport.close()
        else:
            self._send()

    def _send(self) -> None:
        self._transport.write(self._request)
