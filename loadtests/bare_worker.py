"""The least that Starlette can do with a POST, served with the very settings of ``holdfast.worker``.

Run as ``python bare_worker.py <path>``, with the descriptor of its socket in ``HOLDFAST_LISTENER``.
"""

import asyncio
import os
import signal
import socket
import sys

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.worker import BACKLOG, GRACE_S, LISTENER_VARIABLE


async def answer(_: Request) -> Response:
    """Answer without reading the body."""
    return Response(status_code=201)


async def _serve(listener: socket.socket, path: str) -> None:
    config = uvicorn.Config(
        Starlette(routes=[Route(path, answer, methods=["POST"])]),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_S,
    )
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Serve until SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn sends them once more when it has stopped
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(socket.socket(fileno=int(os.environ[LISTENER_VARIABLE])), sys.argv[1]))


if __name__ == "__main__":
    main()
