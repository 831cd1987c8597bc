"""``holdfast serve``."""

from pathlib import Path

import click

from holdfast.cli import run_async, settings_from
from holdfast.serve import serve


@click.command("serve", short_help="Serve the API, and reconcile beside it.")
@click.option("--host", help="Address to listen on.  [127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [8000]")
@click.option("--uds", type=click.Path(dir_okay=False, path_type=Path), help="Unix socket to listen on as well.")
@click.option("--workers", type=int, help="API processes.  [one a core]")
@click.option(
    "--reconciler/--no-reconciler", default=None, help="Run a reconciler beside the API processes.  [run one]"
)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Where embedded servers live.")
@click.pass_context
@run_async
async def command(
    context: click.Context,
    host: str | None,
    port: int | None,
    uds: Path | None,
    workers: int | None,
    reconciler: bool | None,
    data_dir: Path | None,
) -> None:
    """Serve the API, and reconcile; with no REDIS_URL and DATABASE_URL, on embedded servers."""
    switch = None if reconciler is None else "on" if reconciler else "off"
    flags = {"host": host, "port": port, "uds": uds, "workers": workers, "reconciler": switch, "data_dir": data_dir}
    await serve(settings_from(context, **flags))
