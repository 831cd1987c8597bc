"""What commands that work on the ledger and Redis directly have in common: the way there, and how they print."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click
import msgspec
from rich.console import Console

from holdfast.cli import settings_from
from holdfast.compose import Parts, open_parts
from holdfast.embedded.data_dir import has_servers
from holdfast.migrating import migrate_database
from holdfast.servers import any_servers
from holdfast.settings import Settings

PIPE_WIDTH = 200  # columns of a table that does not go to a terminal: nobody there wraps lines


@asynccontextmanager
async def open_installation(context: click.Context, *, may_make: bool = False) -> AsyncIterator[tuple[Settings, Parts]]:
    """The parts of the installation, beside a running ``holdfast serve`` or on embedded servers for the moment.

    An embedded database is brought up to date, as ``serve`` would; a configured one is its administrator's business.
    Only a command that *may_make* an installation does so; to any other, where there is none, the directory is
    mistyped.

    Raises:
        click.UsageError: There is no installation, and this command makes none.
    """
    settings = settings_from(context)
    if not may_make:
        require_installation(settings)
    async with any_servers(settings) as filled:
        if settings.database_url is None:
            await migrate_database(filled)
        async with open_parts(filled) as parts:
            yield filled, parts


def require_installation(settings: Settings) -> None:
    """Refuse to go on when embedded servers are meant and nothing of them is there.

    Raises:
        click.UsageError: No servers have ever been started in the data directory.
    """
    embedded = settings.redis_url is None or settings.database_url is None
    if embedded and not has_servers(settings.data_dir):
        raise click.UsageError(
            f"there is no installation in {settings.data_dir}. Name the directory of its `holdfast serve` with"
            " `holdfast --data-dir DIR ...` or HOLDFAST_DATA_DIR, or its servers with REDIS_URL and DATABASE_URL"
        )


def console(*, stderr: bool = False) -> Console:
    """Where tables go; as wide as they like when it is no terminal."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made


def print_json(value: Any) -> None:
    """Print *value* as indented JSON, as the API would encode it."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
