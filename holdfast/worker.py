"""One API process: ``python -m holdfast.worker``, started by ``holdfast serve`` with listening sockets to share.

Its settings come whole, as JSON, in ``HOLDFAST_SETTINGS``, so that nothing is decided twice and no secret stands in a
command line.
"""

import asyncio
import os
import signal
import socket
import sys

from holdfast.collector import paused_collector, spare_the_collector

with paused_collector():
    import structlog
    import uvicorn
    import uvloop

    from api.app import create_app
    from holdfast.admission import Admission
    from holdfast.compose import open_services
    from holdfast.figures_board import worker_seat
    from holdfast.http_gate import Gate
    from holdfast.http_server import Server
    from holdfast.logs import configure_logs
    from holdfast.settings import SETTINGS_VARIABLE as SETTINGS_VARIABLE
    from holdfast.settings import Settings, decode_settings
    from holdfast.unreachable import unreachable_in_words

LISTENER_VARIABLE = "HOLDFAST_LISTENER"  # descriptors, with commas between
GRACE_S = 8  # requests under way may take a confirm's time limit and a little more
BACKLOG = 2048

logger = structlog.get_logger("holdfast.worker")


class StopRequest:
    """Whether SIGTERM or SIGINT has come, from the very start of the process: also before there is a server to tell."""

    def __init__(self) -> None:
        self._requested = False
        self._server: uvicorn.Server | None = None
        # uvicorn stops at these signals, and sends them once more when it has: our own clean-up must still follow then.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._request())

    def tell(self, server: uvicorn.Server) -> None:
        """Have *server* stop when asked; at once if that was already."""
        self._server = server
        server.should_exit = self._requested

    def _request(self) -> None:
        self._requested = True
        if self._server is not None:
            self._server.should_exit = True


def main() -> int:
    """Serve until SIGTERM."""
    stop = StopRequest()
    settings = decode_settings(os.environ.pop(SETTINGS_VARIABLE))
    configure_logs(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        descriptors = os.environ[LISTENER_VARIABLE].split(",")
        return runner.run(_serve(settings, [socket.socket(fileno=int(each)) for each in descriptors], stop))


async def _serve(settings: Settings, listeners: list[socket.socket], stop: StopRequest) -> int:
    try:
        admission = Admission(settings.in_flight)
        async with open_services(settings, worker_seat(os.environ), admission) as services:
            gate = Gate(admission, connections_max=settings.connections_max, proxies=services.proxies)
            server = Server(
                uvicorn.Config(
                    create_app(services),
                    http=gate.protocol,  # type: ignore[arg-type]  # anything that makes protocols will do
                    ws="none",  # there are none; an upgrade would go around the gate
                    proxy_headers=False,  # api.clients looks at those that matter when they matter
                    lifespan="off",  # the services are open before the first request, and closed after the last
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    backlog=BACKLOG,
                    timeout_graceful_shutdown=GRACE_S,
                ),
                services.live,
            )
            stop.tell(server)
            spare_the_collector()
            await server.serve(sockets=listeners)
    except Exception as error:
        reason = unreachable_in_words(error) or str(error)
        logger.error("worker cannot serve", error=type(error).__name__, reason=reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
