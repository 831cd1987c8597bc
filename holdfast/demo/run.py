"""``holdfast demo``: one real server, three events, a crowd, and a look at whether every place was sold once."""

import asyncio
from contextlib import AbstractContextManager, aclosing, nullcontext
from pathlib import Path

import click
import msgspec
from rich.console import Console

from holdfast.compose import jwt_secret
from holdfast.demo.client import Client
from holdfast.demo.hosting import Hosting, temporary_data_dir
from holdfast.demo.invitation import print_invitation
from holdfast.demo.report import print_report
from holdfast.demo.sale import Sale
from holdfast.demo.server import WORKERS, DemoServer
from holdfast.demo.stopping import run_until_signal
from holdfast.settings import load_settings


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says; without ``data_dir`` the servers' data is removed at the end."""

    buyers: int
    connections: int
    seed: int
    port: int
    data_dir: Path | None
    keep: bool
    as_json: bool


async def run_demo(options: DemoOptions) -> int:
    """Run the demo; the exit code: 0 if all is right, 1 if anything is not, 128 + the signal that stopped it.

    Raises:
        DemoFailed: The server does not start, does not go on, or refuses what the demo needs.
    """
    demo = _Demo(options)
    return await run_until_signal(demo.run(), on_second=demo.hurry)


class _Demo:
    def __init__(self, options: DemoOptions) -> None:
        self._options = options
        # Standard output is the report's; with --json it must hold nothing else.
        self._console = Console(stderr=options.as_json, highlight=False)
        self._hosting = Hosting(self._console, workers=WORKERS, port=options.port)
        self._verdict: int | None = None  # the exit code, once the sale is over and the server is only kept

    def hurry(self) -> None:
        """Make the stop that is under way a quick one."""
        self._hosting.hurry()

    async def run(self) -> int:
        """The whole demo, in a directory that is there as long as it runs."""
        with _data_dir(self._options.data_dir) as data_dir:
            try:
                return await self._hosting.run(data_dir, lambda server: self._sell(server, data_dir))
            except asyncio.CancelledError:
                if self._verdict is None:
                    raise
                return self._verdict  # kept until somebody stopped it: that is how it ends, not a failure

    async def _sell(self, server: DemoServer, data_dir: Path) -> int:
        options, console = self._options, self._console
        settings = load_settings({}, data_dir=str(data_dir))
        settings = msgspec.structs.replace(settings, jwt_secret=jwt_secret(settings))  # read from its file once
        async with aclosing(Client(server.url, connections=options.connections)) as client:
            sale = Sale(client, settings, console, buyers=options.buyers, seed=options.seed)
            report = await sale.run(server.said)
            if options.as_json:
                click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
            else:
                print_report(console, report)
            if options.keep:
                print_invitation(console, await sale.invite(server.url), directory=data_dir)
                self._verdict = 0 if report.ok else 1
                await asyncio.Event().wait()  # until a signal, or the server's end
        return 0 if report.ok else 1


def _data_dir(chosen: Path | None) -> AbstractContextManager[Path]:
    return temporary_data_dir("holdfast-demo-") if chosen is None else nullcontext(chosen.expanduser().absolute())
