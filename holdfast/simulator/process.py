"""The simulator as a process: ``python -m holdfast.simulator.process``, started by ``holdfast serve``, or by hand."""

import asyncio
import os
import signal
import socket
import sys

from holdfast.collector import paused_collector

with paused_collector():
    import uvicorn

    from holdfast.logs import configure_logs
    from holdfast.payments.secrets import simulator_secrets
    from holdfast.settings import SETTINGS_VARIABLE, Settings, decode_settings
    from holdfast.simulator.app import Simulator

LISTENER_VARIABLE = "HOLDFAST_SIMULATOR_LISTENER"
WEBHOOK_URL_VARIABLE = "HOLDFAST_SIMULATOR_WEBHOOK_URL"
WEBHOOK_PATH = "/v1/payments/webhooks/simulator"


def main() -> int:
    """Simulate until SIGTERM."""
    settings = decode_settings(os.environ.pop(SETTINGS_VARIABLE))
    configure_logs(settings.log_level)
    listener = socket.socket(fileno=int(os.environ[LISTENER_VARIABLE]))
    asyncio.run(simulate(settings, listener, webhook_url=os.environ[WEBHOOK_URL_VARIABLE]))
    return 0


async def simulate(
    settings: Settings, listener: socket.socket, *, webhook_url: str | None, fail_rate: float = 0.0, seed: int = 0
) -> None:
    """Serve the simulator at *listener* until SIGTERM or SIGINT."""
    host, port = listener.getsockname()[:2]
    simulator = Simulator(
        secret=simulator_secrets(settings)[0],
        public_url=f"http://{host}:{port}",
        webhook_url=webhook_url,
        fail_rate=fail_rate,
        seed=seed,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            simulator.app(), log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=1
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)  # the command's; uvicorn has its own
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
