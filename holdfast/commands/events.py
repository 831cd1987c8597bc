"""``holdfast events``: made from files, put on sale and taken off it, listed, shown."""

import datetime as dt
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from api.decoding import invalid_value
from api.events import view_event
from engine.definition import EventDefinition, Policy
from engine.errors import EventExists, InvalidRequest, InvalidTransition, Refusal
from engine.events import EVENT_STATUSES, Event, sales_end_at
from engine.layout import compile_layout
from holdfast.cli import in_words, run_async
from holdfast.commands.installation import console, open_installation, print_json
from holdfast.commands.option_types import car, date, moment, price
from holdfast.commands.progress import progress
from holdfast.compose import Parts
from holdfast.counted import counted
from holdfast.event_files import EventFileError, ImportOptions, read_event_files

LIST_PAGE = 200
LIST_MAX = 10_000


@click.group("events")
def command() -> None:
    """Make, open, close, list and show events."""


def _creating(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that makes events."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the events as JSON."),
        click.option("--open", "and_open", is_flag=True, help="Put them on sale at once."),
        click.option("--organizer", default="cli", show_default=True, help="Whose events they are."),
    ):
        function = option(function)
    return function


@command.command("create", short_help="Make events of definitions in JSON.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_creating
@click.pass_context
@run_async
async def create(
    context: click.Context, files: tuple[Path, ...], organizer: str, and_open: bool, as_json: bool
) -> None:
    """Make events of definitions in JSON: an event or a list of events in each file; all of them or none."""
    await _create(context, files, ImportOptions(), organizer=organizer, and_open=and_open, as_json=as_json)


@command.command("import", short_help="Make events of seating plans, timetables or JSON.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--currency", help="ISO 4217, of all prices.")
@click.option("--policy", "policy_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A JSON file with members of a policy.")  # fmt: skip
@click.option("--price", "prices", type=price, metavar="[CATEGORY=]AMOUNT", multiple=True,
              help="Plan: CATEGORY=AMOUNT, for each. Timetable: AMOUNT of any ride.")  # fmt: skip
@click.option("--id", "event_id", help="Plan: the event's id.  [one is made]")
@click.option("--name", help="Plan: the event's name.  [the plan's]")
@click.option("--starts-at", type=moment, metavar="MOMENT", help="Plan: when the event starts.")
@click.option("--ends-at", type=moment, metavar="MOMENT", help="Plan: when it ends.")
@click.option("--date", "first_date", type=date, metavar="DATE", help="Timetable: the day of the trips.")
@click.option("--until", "last_date", type=date, metavar="DATE", help="Timetable: the last day, to have several.")
@click.option("--trip", "trips", multiple=True, help="Timetable: only this trip, by id or short name.")
@click.option("--route", "routes", multiple=True, help="Timetable: only this route, by id or short name.")
@click.option("--car", "cars", type=car, metavar="CAR", multiple=True,
              help="Timetable: A1:80x4 is 80 seats, four abreast; B:120 is 120 counted places.")  # fmt: skip
@click.option("--leg-price", type=click.IntRange(min=0), help="Timetable: price of each hop between two stops.")
@click.option("--id-prefix", default="", help="Timetable: what the events' ids begin with.")
@_creating
@click.pass_context
@run_async
async def import_(
    context: click.Context,
    paths: tuple[Path, ...],
    prices: tuple[tuple[str | None, int], ...],
    policy_file: Path | None,
    organizer: str,
    and_open: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make events of files: definitions in JSON, seating plans in pretix's format, timetables in GTFS.

    A timetable (a directory or .zip file) becomes one event for each trip and date. Either all events are made or, if
    anything is wrong, none.
    """
    general = [amount for category, amount in prices if category is None]
    if len(general) > 1:
        raise click.UsageError("--price: an amount without category can be given once")
    import_options = ImportOptions(
        prices={category: amount for category, amount in prices if category is not None},
        price=general[0] if general else None,
        policy=_read_policy(policy_file) if policy_file else Policy(),
        **options,
    )
    await _create(context, paths, import_options, organizer=organizer, and_open=and_open, as_json=as_json)


@command.command("open")
@click.argument("event_ids", metavar="ID...", nargs=-1, required=True)
@click.pass_context
@run_async
async def open_(context: click.Context, event_ids: tuple[str, ...]) -> int:
    """Put events on sale."""
    return await _change_all(context, event_ids, _open)


@command.command("close", short_help="Take events off sale; what is held can be booked.")
@click.argument("event_ids", metavar="ID...", nargs=-1, required=True)
@click.pass_context
@run_async
async def close(context: click.Context, event_ids: tuple[str, ...]) -> int:
    """Take events off sale; holds that customers have can still be confirmed."""
    return await _change_all(context, event_ids, _close)


@command.command("list")
@click.option("--status", type=click.Choice(EVENT_STATUSES))
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@run_async
async def list_(context: click.Context, status: str | None, limit: int, as_json: bool) -> None:
    """List events by the time they start, drafts among them."""
    events: list[Event] = []
    cursor: str | None = None
    async with open_installation(context) as (_, parts):
        while len(events) < limit:
            wanted = min(LIST_PAGE, limit - len(events))
            page = await parts.events.list_events(status=status, all_drafts=True, limit=wanted, cursor=cursor)
            events += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    _print_events(events, as_json=as_json)
    if cursor is not None and not as_json:
        click.echo(f"and more: --limit {LIST_MAX} lists up to {LIST_MAX}", err=True)


@command.command("show", short_help="Show an event as it is defined.")
@click.argument("event_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@run_async
async def show(context: click.Context, event_id: str, as_json: bool) -> None:
    """Show an event; `holdfast inspect` shows what is held and sold of it."""
    async with open_installation(context) as (_, parts):
        event = await parts.events.find_event(event_id)
    if as_json:
        print_json(view_event(event))
    else:
        _print_event(event)


async def _create(
    context: click.Context,
    paths: Sequence[Path],
    options: ImportOptions,
    *,
    organizer: str,
    and_open: bool,
    as_json: bool,
) -> None:
    definitions = read_event_files(paths, options=options)
    async with open_installation(context, may_make=True) as (_, parts):
        if and_open:  # what cannot be put on sale is not made either
            for definition in definitions:
                _require_services(parts, definition)
        with progress(len(definitions), "making events") as report:
            try:
                events = await parts.events.create_many(definitions, organizer_id=organizer, on_written=report)
            except EventExists as error:
                raise click.ClickException(f"there is an event {error.event_id!r} already; nothing was made") from error
        if and_open:
            with progress(len(events), "opening events") as report:
                for number, event in enumerate(events):
                    events[number] = await _open(parts, event.id)
                    report(number + 1)
    if and_open:
        _warn_of_ended_sales(events)
    _print_events(events, as_json=as_json)


def _read_policy(path: Path) -> Policy:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Policy)
    except msgspec.ValidationError as error:
        invalid = invalid_value(error, Policy)
        raise EventFileError(path, invalid.reason, json_path=invalid.path) from error
    except (msgspec.DecodeError, OSError) as error:
        raise EventFileError(path, str(error)) from error


async def _open(parts: Parts, event_id: str) -> Event:
    parts.terms.require_services((await parts.events.find_event(event_id)).definition)
    event = await parts.events.transition(event_id, "open")
    parts.checkout.warn_if_unpayable(event)
    await parts.reservations.publish(event)
    return event


def _require_services(parts: Parts, definition: EventDefinition) -> None:
    """Make sure that an event's services are known here, as they must be where it is sold.

    Raises:
        click.ClickException: One is not, by this command's environment.
    """
    try:
        parts.terms.require_services(definition)
    except InvalidRequest as error:
        raise click.ClickException(f"{error.path}: {error.reason}; set it for this command as for `serve`") from error


async def _close(parts: Parts, event_id: str) -> Event:
    event = await parts.events.transition(event_id, "closed")
    await parts.reservations.publish(event)
    return event


async def _change_all(
    context: click.Context, event_ids: Sequence[str], change: Callable[[Parts, str], Awaitable[Event]]
) -> int:
    """Change every event that can be; exit code 1 if one cannot."""
    failed = 0
    async with open_installation(context) as (_, parts):
        for event_id in event_ids:
            try:
                event = await change(parts, event_id)
            except InvalidTransition as error:
                failed += 1
                click.echo(f"Error: {event_id!r} is {error.from_status} and cannot become {error.to_status}", err=True)
            except Refusal as error:
                failed += 1
                click.echo(f"Error: {in_words(error)}", err=True)
            else:
                click.echo(f"{event.id} is {event.status}")
                if event.status == "open":
                    _warn_of_ended_sales([event])
    return 1 if failed else 0


def _warn_of_ended_sales(events: Sequence[Event]) -> None:
    """Open is what the organizer wants; that nothing can be sold any more they may not know."""
    for event in events:
        if (ended_at := sales_end_at(event.definition)) <= dt.datetime.now(dt.UTC):
            click.echo(f"Warning: {event.id!r} takes no holds: its sale ended at {_utc(ended_at)}", err=True)


def _print_events(events: Sequence[Event], *, as_json: bool) -> None:
    if as_json:
        print_json([view_event(event) for event in events])
        return
    table = Table("id", "name", "starts at", "status", "sale", box=None, pad_edge=False)
    table.add_column("sections", justify="right")
    table.add_column("places", justify="right")
    table.add_column("legs", justify="right")
    for event in events:
        layout = compile_layout(event.definition)
        table.add_row(
            event.id,
            event.definition.name,
            _utc(event.definition.starts_at),
            event.status,
            sale_in_words(event.definition),
            str(len(layout.sections)),
            f"{sum(section.capacity for section in layout.sections):,}",
            str(layout.legs),
        )
    console().print(table)


def _print_event(event: Event) -> None:
    definition, layout = event.definition, compile_layout(event.definition)
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(event, definition):
        facts.add_row(name, value)
    sections = Table("section", "name", "kind", box=None, pad_edge=False)
    sections.add_column("places", justify="right")
    sections.add_column("price", justify="right")
    for section, given in zip(layout.sections, definition.sections, strict=True):
        prices = (
            {seat.price for seat in layout.seats[section.first_seat :][: section.capacity]} if section.seated else set()
        )
        shown = sorted(prices - {None}, key=int) or section.leg_prices or [section.price]  # type: ignore[arg-type]
        kind = f"seated, {counted(section.block_count, 'block')}" if section.seated else "counted"
        sections.add_row(
            section.id, given.name or "", kind, f"{section.capacity:,}", " ".join(f"{price}" for price in shown)
        )
    out = console()
    out.print(facts)
    out.print()
    out.print(sections)


def _facts(event: Event, definition: EventDefinition) -> Iterator[tuple[str, str]]:
    yield "id", event.id
    yield "name", definition.name
    yield "status", f"{event.status} (version {event.version}, epoch {event.epoch})"
    yield "organizer", event.organizer_id
    yield "starts at", _utc(definition.starts_at)
    if definition.ends_at is not None:
        yield "ends at", _utc(definition.ends_at)
    if definition.group is not None:
        yield "group", definition.group
    if definition.stops is not None:
        yield "stops", " → ".join(definition.stops)
    if definition.slots is not None:
        minutes = counted(definition.slots.minutes, "minute")
        yield "slots", f"{definition.slots.count} of {minutes} from {definition.slots.start}"
    yield "sale", sale_in_words(definition)
    yield "currency", f"{definition.currency}, amounts in minor units"


def sale_in_words(definition: EventDefinition) -> str:
    """When the sale of an event ends, or ended, by the clock; whether it is open is another matter."""
    at = sales_end_at(definition)
    return f"{'ended' if at <= dt.datetime.now(dt.UTC) else 'ends'} {_utc(at)}"


def _utc(at: dt.datetime) -> str:
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
