"""``holdfast token``."""

import click

from holdfast.cli import settings_from
from holdfast.tokens import TTL_S, make_token


@click.command("token")
@click.option("--sub", required=True, help="Who: the id of a customer or organizer.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["customer", "organizer", "admin", "service"]),
    default=["customer"],
    show_default=True,
    help="May be given several times.",
)
@click.option("--ttl", type=click.IntRange(min=1), default=TTL_S, show_default=True, help="Seconds it is valid for.")
@click.pass_context
def command(context: click.Context, sub: str, roles: tuple[str, ...], ttl: int) -> None:
    """Print a bearer token, for development."""
    click.echo(make_token(settings_from(context), sub, roles, ttl_s=ttl))
