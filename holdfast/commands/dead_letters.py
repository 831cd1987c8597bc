"""``holdfast dead-letters``: entries of the journal that the ledger could never take."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import click
import msgspec
from rich.table import Table

from engine.dead_letters import DeadLetter, find_letters, scan_letters
from engine.errors import EventNotFound, EventNotOpen
from engine.kernel import Kernel
from engine.mending import Discarded, Retried, give_up, retry
from holdfast.cli import run_async
from holdfast.commands.installation import console, open_installation, print_json
from holdfast.compose import Parts
from holdfast.counted import counted
from holdfast.inspection import describe_places

EXIT_UNSOLVED = 2  # something still needs a person
SEALED = "details"  # what customers say of people: its length is shown, never what is in it


class ShownLetter(msgspec.Struct, frozen=True):
    """A letter as it is listed; ``places`` as a person reads them, where the event is known."""

    id: str
    partition: int
    buried_at: dt.datetime
    reason: str
    event_id: str
    booking_id: str | None
    customer_id: str
    places: str
    in_ledger: bool | None = None
    fields: dict[str, str] = {}


@click.group("dead-letters", short_help="Bookings that the ledger can never take as they are.")
def command() -> None:
    """Bookings that were accepted and that the ledger can never take: look at them, retry, discard.

    An ID is the one that `list` shows. Their places stay taken until then.
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@run_async
async def list_letters(context: click.Context, as_json: bool) -> None:
    """List all of them, the oldest first."""
    async with open_installation(context) as (_, parts):
        shown = [await _show(parts, dead) for dead in await _all_letters(parts.kernel)]
    if as_json:
        print_json(shown)
        return
    table = Table("id", "buried", "event", "booking", "customer", "places", "reason", box=None, pad_edge=False)
    for letter in shown:
        booking = letter.booking_id or ""
        moment = f"{letter.buried_at:%Y-%m-%d %H:%M:%S} UTC"
        table.add_row(letter.id, moment, letter.event_id, booking, letter.customer_id, letter.places, letter.reason)
    if shown:
        console().print(table)
    console().print(counted(len(shown), "dead letter"))


@command.command("show")
@click.argument("letter_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@run_async
async def show_letter(context: click.Context, letter_id: str, as_json: bool) -> None:
    """Show one with its fields. What the customer said of people stays sealed."""
    async with open_installation(context) as (_, parts):
        (dead,) = await _find(parts.kernel, [letter_id])
        shown = await _show(parts, dead, in_full=True)
    if as_json:
        print_json(shown)
        return
    table = Table("field", "value", box=None, pad_edge=False, show_header=False)
    for name, value in msgspec.to_builtins(shown).items():
        if name != "fields":
            table.add_row(name, "unknown" if value is None else str(value))
    for name, value in shown.fields.items():
        table.add_row(f"entry: {name}", value)
    console().print(table)


@command.command("retry", short_help="Put them back into the journal, and write them.")
@click.argument("letter_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them, the oldest first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@run_async
async def retry_letters(context: click.Context, letter_ids: tuple[str, ...], every: bool, as_json: bool) -> int:
    """Put them back into the journal and write them, after what kept them out is mended.

    Of one whose event was built anew since, the places are taken again first, if they are free.

    Exit code 0 when all are written, 2 when one could still not be written, or was refused by the ledger.
    """
    if every == bool(letter_ids):
        raise click.UsageError("name the dead letters, or say --all")
    async with open_installation(context) as (_, parts):
        letters = await (_all_letters(parts.kernel) if every else _find(parts.kernel, letter_ids))
        retried = [await _retry(parts, dead) for dead in letters]
    if as_json:
        print_json(retried)
    else:
        for one in retried:
            click.echo(_retried_in_words(one))
        click.echo(f"{len(retried):,} retried")
    return EXIT_UNSOLVED if any(one.outcome in ("unwritable", "waiting", "refused") for one in retried) else 0


@command.command("discard", short_help="Give them up for good; their places are free again.")
@click.argument("letter_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; needs --yes.")
@click.pass_context
@run_async
async def discard_letters(context: click.Context, letter_ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Give them up for good: their places are free again, and their customers are told that they were refused."""
    if as_json and not yes:
        raise click.UsageError("--json cannot ask: say --yes")
    async with open_installation(context) as (_, parts):
        letters = await _find(parts.kernel, letter_ids)
        if not yes:
            for dead in letters:
                click.echo(_loss_in_words(await _show(parts, dead, in_full=True)))
            click.confirm("Discard?", abort=True)
        discarded = [await give_up(parts.kernel, parts.ledger, dead) for dead in letters]
    if as_json:
        print_json(discarded)
    else:
        for one in discarded:
            click.echo(_discarded_in_words(one))


async def _retry(parts: Parts, dead: DeadLetter) -> Retried:
    accept_again = parts.reservations.accept_again
    return await retry(parts.kernel, parts.settlement, parts.catalog, parts.ledger, dead, accept_again=accept_again)


async def _all_letters(kernel: Kernel) -> list[DeadLetter]:
    letters = [dead for partition in range(kernel.partitions) async for dead in scan_letters(kernel, partition)]
    return sorted(letters, key=lambda dead: (dead.letter.buried_ms, dead.journal_id))


async def _find(kernel: Kernel, letter_ids: Sequence[str]) -> list[DeadLetter]:
    """The letters of these ids: ``<journal id>``, or ``<partition>/<journal id>`` where two partitions have it."""
    found = []
    for letter_id in dict.fromkeys(letter_ids):
        partition, _, journal_id = letter_id.rpartition("/")
        letters = await find_letters(kernel, journal_id)
        if partition:
            letters = [dead for dead in letters if str(dead.partition) == partition]
        if not letters:
            raise click.ClickException(f"there is no dead letter {letter_id!r}")
        if len(letters) > 1:
            names = " and ".join(f"{dead.partition}/{dead.journal_id}" for dead in letters)
            raise click.ClickException(f"there are several dead letters {letter_id!r}: say {names}")
        found += letters
    return found


async def _show(parts: Parts, dead: DeadLetter, *, in_full: bool = False) -> ShownLetter:
    in_ledger = None
    if in_full and dead.booking_id is not None:
        in_ledger = await parts.bookings.find_standing(dead.booking_id) == "written"
    return ShownLetter(
        id=dead.journal_id,
        partition=dead.partition,
        buried_at=dt.datetime.fromtimestamp(dead.letter.buried_ms / 1000, dt.UTC),
        reason=dead.letter.reason,
        event_id=dead.text_of("event"),
        booking_id=dead.booking_id,
        customer_id=dead.text_of("owner"),
        places=await _places(parts, dead),
        in_ledger=in_ledger,
        fields=_readable_fields(dead) if in_full else {},
    )


async def _places(parts: Parts, dead: DeadLetter) -> str:
    try:
        event = await parts.catalog.get(dead.text_of("event"))
        return describe_places(event.layout, dead.entry.places)
    except (EventNotFound, EventNotOpen, ValueError, IndexError):
        return dead.text_of("places")  # what cannot be told in words is shown as it stands


def _readable_fields(dead: DeadLetter) -> dict[str, str]:
    def value(name: str, text: str | None, raw: bytes | None) -> str:
        if name == SEALED or text is None:
            length = len(raw if text is None and raw else (text or "").encode())
            return f"({counted(length, 'byte')}, sealed)"
        return text

    return {field.name: value(field.name, field.text, field.base64) for field in dead.letter.fields}


def _retried_in_words(one: Retried) -> str:
    about = f"{one.journal_id} ({one.booking_id or 'no booking that can be told'})"
    words: dict[str, Any] = {
        "written": f"written as {one.reference}",
        "refused": f"refused, and undone: {one.reason}",
        "waiting": f"in the journal again, but not written yet: {one.reason}",
        "unwritable": f"cannot be written still: {one.reason}",
        "gone": "is not there any more",
    }
    return f"{about}: {words[one.outcome]}"


def _loss_in_words(letter: ShownLetter) -> str:
    about = f"{letter.id}: booking {letter.booking_id or '(none that can be told)'}"
    if letter.in_ledger:
        return f"{about} is in the ledger: only the letter goes"
    return (
        f"{about} of {letter.customer_id or '?'} on {letter.event_id or '?'} is undone; it frees {letter.places or '?'}"
    )


def _discarded_in_words(one: Discarded) -> str:
    if one.outcome == "gone":
        return f"{one.journal_id} is not there any more"
    return f"{one.journal_id} discarded" + (", its places are free" if one.freed else "")
