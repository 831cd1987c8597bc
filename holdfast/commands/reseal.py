"""``holdfast reseal``: seal everything anew with the first data key."""

import click

from holdfast.cli import run_async
from holdfast.commands.installation import open_installation, print_json
from holdfast.commands.progress import progress
from holdfast.counted import counted
from holdfast.settings import data_keys
from persistence.resealing import Resealed, Resealer
from persistence.sealing import AesSealer

EXIT_LEFT = 1  # a key that is dropped now would be missed


@click.command("reseal", short_help="Seal guests' data anew with the first data key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@run_async
async def command(context: click.Context, as_json: bool) -> int:
    """Seal what bookings say about people, and secrets of webhooks, anew with HOLDFAST_DATA_KEY.

    The step before HOLDFAST_DATA_KEYS_OTHER is dropped: docs/operations.md, "Another data key". May be broken off and
    run again at any time. Exit code 0: nothing has another key any more. 1: something has, and what is printed.
    """
    async with open_installation(context) as (settings, parts):
        resealer = Resealer(parts.database, parts.kernel, parts.sinks, AesSealer(data_keys(settings)))
        with progress(await resealer.count(), "bookings") as on_progress:
            resealed = await resealer.run(on_progress)
    if as_json:
        print_json(resealed)
    else:
        _print(resealed)
    return EXIT_LEFT if resealed.left else 0


def _print(resealed: Resealed) -> None:
    done = f"{counted(resealed.bookings, 'booking')} and {counted(resealed.webhooks, 'webhook')}"
    click.echo(f"sealed anew: {done}")
    if resealed.unopened_bookings or resealed.unopened_webhooks:
        unopened = counted(resealed.unopened_bookings, "booking"), counted(resealed.unopened_webhooks, "webhook")
        click.echo(f"left: {' and '.join(unopened)}, which no key here opens")
    if resealed.journal:
        entries = counted(resealed.journal, "entry", "entries")
        click.echo(f"left: {entries} of the journal, on the way to the ledger: run this again")
    if resealed.dead_letters:
        letters = counted(resealed.dead_letters, "dead letter")
        click.echo(f"left: {letters}: retry or discard them with `holdfast dead-letters`, and run this again")
    if not resealed.left:
        click.echo(
            "nothing has another key than HOLDFAST_DATA_KEY: HOLDFAST_DATA_KEYS_OTHER can go,"
            " once tickets of admission queues from before the change have lapsed"
        )
