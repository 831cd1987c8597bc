"""``holdfast migrate``."""

import click

from holdfast.cli import run_async, settings_from
from holdfast.migrating import migrate_database
from holdfast.servers import any_servers


@click.command("migrate", short_help="Bring the database to this version's schema.")
@click.pass_context
@run_async
async def command(context: click.Context) -> None:
    """Bring the database to this version's schema; `holdfast serve` does so by itself."""
    async with any_servers(settings_from(context)) as settings:
        applied = await migrate_database(settings)
    click.echo(f"applied {', '.join(applied)}" if applied else "nothing to do")
