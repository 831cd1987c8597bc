"""Connections to the API with one request under way: as little work for the client as HTTP allows."""

import asyncio
import re
from collections.abc import Callable, Generator
from typing import Any

from holdfast.demo.client import UNANSWERED, Answer

Asking = Generator[bytes, Answer, None]  # requests, each of which is given its answer
Hearing = Callable[[Answer], None]

AGAIN_S = 0.05  # after a refusal because of too much at once
OVERLOADED = 503
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BODILESS = (b"204", b"304")  # whatever length they tell of


class Exchange(asyncio.Protocol):
    """One request at a time, whose answer has a Content-Length or no body.

    When the connection ends before that, or what comes is not HTTP, ``UNANSWERED`` is heard.
    """

    def __init__(self) -> None:
        self._received = b""
        self._hearing: Hearing | None = None
        self._transport: Any = None  # uvloop's are no asyncio.Transport

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None

    def ask(self, request: bytes, hearing: Hearing) -> None:
        """Send *request*, and let *hearing* have its answer, once; the one before must have been heard."""
        self._hearing = hearing
        self._transport.write(request)

    def close(self) -> None:
        """Let the connection end when all is sent; nothing more is heard."""
        self._hearing = None
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """The same at once."""
        self._hearing = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        received = self._received + data
        head, end, body = received.partition(b"\r\n\r\n")
        if not end:
            self._received = received
            return
        length, status = _LENGTH.search(head), head[9:12]
        if not (head.startswith(b"HTTP/1.") and status.isdigit()):
            self._transport.abort()
        elif length is not None and len(body) < int(length[1]) and status not in _BODILESS:
            self._received = received
        else:
            self._received = b""
            self._tell(Answer(int(status), body))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self._transport = None
        self._tell(Answer(UNANSWERED, b""))

    def _tell(self, answer: Answer) -> None:
        hearing, self._hearing = self._hearing, None
        if hearing is not None:
            hearing(answer)


class Connection(Exchange):
    """Sends what *asking* yields, one after the other.

    With *on_overload* a request that is refused for overload is sent again, which *asking* does not hear of.
    ``ended`` is done when *asking* has returned, or has raised. When the connection fails, *asking* is given
    ``UNANSWERED``, and may note it, but nothing more is sent.
    """

    def __init__(self, asking: Asking, *, on_overload: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking = asking
        self._on_overload = on_overload
        self._request = b""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._go_on(lambda: next(self._asking))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.ended.done():  # it waits to be sent again
            self._hear(Answer(UNANSWERED, b""))

    def _hear(self, answer: Answer) -> None:
        if answer.status == OVERLOADED and self._on_overload is not None:
            self._on_overload()
            asyncio.get_running_loop().call_later(AGAIN_S, self._send)
        else:
            self._go_on(lambda: self._asking.send(answer))

    def _go_on(self, step: Callable[[], bytes]) -> None:
        try:
            self._request = step()
        except StopIteration:
            self.ended.set_result(None)
            self.close()
        except Exception as error:
            self.ended.set_exception(error)
            self.close()
        else:
            if self.is_open:
                self._send()
            else:
                self.ended.set_result(None)

    def _send(self) -> None:
        if self.is_open:
            self.ask(self._request, self._hear)
