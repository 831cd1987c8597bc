"""uvicorn, taught two things about streams: to end them before it stops, and to let them break a connection off."""

import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.live import LiveMaps


class HttpProtocol(HttpToolsProtocol):
    """Offers the ASGI extension ``holdfast.abort``: a reader that reads nothing can only be left, not seen off."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["extensions"] = {"holdfast.abort": {"abort": self.transport.abort}}


class Server(uvicorn.Server):
    """Streams would hold up a stop for as long as it may take: they are told of it, and end first."""

    def __init__(self, config: uvicorn.Config, live: LiveMaps) -> None:
        super().__init__(config)
        self._live = live

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._live.close()
        await super().shutdown(sockets)
