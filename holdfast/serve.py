"""``holdfast serve``: servers, migrations, workers, one line that says they are ready, and a reconciler beside them."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import click
import httpx2
import msgspec

from holdfast.figures_board import BOARD_VARIABLE, open_board
from holdfast.migrating import migrate_database
from holdfast.processes import bind_listener, bind_unix_listener, supervise
from holdfast.reaching_redis import require_redis
from holdfast.servers import own_servers
from holdfast.settings import SETTINGS_VARIABLE, Settings, encode_settings
from holdfast.simulator.process import LISTENER_VARIABLE as SIMULATOR_VARIABLE
from holdfast.simulator.process import WEBHOOK_PATH, WEBHOOK_URL_VARIABLE
from holdfast.worker import LISTENER_VARIABLE

READY_WAIT_S = 60.0
READY_POLL_S = 0.02

Announce = Callable[[str], Awaitable[None]]


async def print_address(url: str) -> None:
    """The line that scripts wait for."""
    click.echo(f"listening on {url}")
    sys.stdout.flush()


async def serve(settings: Settings, *, announce: Announce = print_address) -> None:
    """Serve until SIGTERM or SIGINT; *announce* is called with the URL when ``/readyz`` answers 200.

    Raises:
        EmbeddedError: Embedded servers cannot be started.
        ListenFailed: The address cannot be listened on.
        WorkersFailed: A worker keeps failing as it starts.
        LedgerUnavailable: Postgres does not answer.
        NotSent: Redis does not answer.
    """
    listener = bind_listener(settings.host, settings.port)
    with ExitStack() as stack:
        stack.enter_context(listener)
        listeners = [listener]
        if settings.uds is not None:
            listeners.append(stack.enter_context(bind_unix_listener(settings.uds)))
        descriptors = [each.fileno() for each in listeners]
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        async with own_servers(settings) as filled:
            await migrate_database(filled)
            if settings.redis_url is not None:  # the embedded one has just answered
                await require_redis(settings.redis_url)
            simulator = None
            if "simulator" in filled.payment_providers and filled.simulator_url is None:
                simulator = stack.enter_context(bind_listener("127.0.0.1", 0))
                address = f"http://127.0.0.1:{simulator.getsockname()[1]}"
                filled = msgspec.structs.replace(filled, simulator_url=address)
            board = stack.enter_context(open_board(workers=settings.workers))
            environment = {
                **os.environ,
                SETTINGS_VARIABLE: encode_settings(filled),
                LISTENER_VARIABLE: ",".join(map(str, descriptors)),
                BOARD_VARIABLE: str(board.descriptor),
            }
            inherited = [*descriptors, board.descriptor]
            if simulator is not None:
                environment[SIMULATOR_VARIABLE] = str(simulator.fileno())
                environment[WEBHOOK_URL_VARIABLE] = _reachable(url) + WEBHOOK_PATH
                inherited.append(simulator.fileno())

            async def ready() -> None:
                await _wait_until_ready(url)
                await announce(url)

            await supervise(
                [sys.executable, "-m", "holdfast.worker"],
                count=settings.workers,
                env=environment,
                pass_fds=inherited,
                ready=ready,
                companion=[sys.executable, "-m", "holdfast.reconciler"] if settings.reconciler else None,
                beside=[] if simulator is None else [[sys.executable, "-m", "holdfast.simulator.process"]],
            )


async def _wait_until_ready(url: str) -> None:
    target = _reachable(url)
    deadline = asyncio.get_running_loop().time() + READY_WAIT_S
    async with httpx2.AsyncClient(timeout=5.0, trust_env=False) as client:
        while True:
            try:
                if (await client.get(f"{target}/readyz")).status_code == 200:
                    return
            except httpx2.TransportError:
                pass  # no worker accepts yet
            if asyncio.get_running_loop().time() > deadline:
                raise click.ClickException(f"the server is not ready after {READY_WAIT_S:.0f} s; see the log above")
            await asyncio.sleep(READY_POLL_S)


def _reachable(url: str) -> str:
    """Where this machine itself reaches what listens on *url*."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
