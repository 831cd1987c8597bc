"""uvicorn, taught to end streams before it stops."""

import socket

import uvicorn

from api.live import LiveMaps


class Server(uvicorn.Server):
    """Streams would hold up a stop for as long as it may take: they are told of it, and end first."""

    def __init__(self, config: uvicorn.Config, live: LiveMaps) -> None:
        super().__init__(config)
        self._live = live

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._live.close()
        await super().shutdown(sockets)
