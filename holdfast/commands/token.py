"""``holdfast token``."""

import click

from api.identity import SUBJECT_MAX
from holdfast.cli import settings_from
from holdfast.settings import SettingsError, has_jwt_secret
from holdfast.tokens import TTL_S, make_token


def _subject(text: str) -> str:
    """What the API will take for one."""
    if not 1 <= len(text) <= SUBJECT_MAX or not text.isprintable() or text.isspace():
        raise click.BadParameter(f"{text!r} is nobody's id: 1 to {SUBJECT_MAX} printable characters are")
    return text


@click.command("token")
@click.option("--sub", type=_subject, metavar="ID", required=True, help="Who: the id of a customer or organizer.")
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
    """Print a bearer token, for development.

    It is signed with HOLDFAST_JWT_SECRET, or else with the secret in the data directory of `holdfast serve`.
    """
    try:
        settings = settings_from(context)
        is_made = not has_jwt_secret(settings)
        token = make_token(settings, sub, roles, ttl_s=ttl)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if is_made:  # before `serve` that is as good as after it; in a mistyped directory, nobody takes this token
        click.echo(
            f"Warning: there was no secret in {settings.data_dir}, so one was made. Only a `holdfast serve` with this"
            " --data-dir (or HOLDFAST_DATA_DIR) takes this token",
            err=True,
        )
    click.echo(token)
