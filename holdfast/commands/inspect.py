"""``holdfast inspect``."""

import datetime as dt
from functools import partial

import click
import msgspec
from rich.console import Console
from rich.table import Table

from engine.definition import EventDefinition
from engine.errors import InvalidRequest
from engine.layout import Layout
from holdfast.cli import run_async
from holdfast.commands.events import sale_in_words
from holdfast.commands.installation import console, open_installation, print_json
from holdfast.commands.option_types import moment
from holdfast.commands.past_seats import show_past
from holdfast.counted import counted
from holdfast.inspection import OFF_SALE, Inspection, inspect_event
from holdfast.redis_cli import inspection_lines
from persistence.seat_history import who_held


@click.command("inspect", short_help="Show what is held and sold of an event, and by whom.")
@click.argument("event_id", metavar="EVENT")
@click.option("--seat", help="Who has this seat, on each leg: A-12.")
@click.option("--section", help="Only this section; needed where several have a seat of this label.")
@click.option("--at", type=moment, help="Who had the seat then, on each leg: 2026-11-25T20:00:07Z. Needs --seat.")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="Holds and bookings shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@run_async
async def command(
    context: click.Context,
    event_id: str,
    seat: str | None,
    section: str | None,
    at: dt.datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show what is held and sold of an event, by whom, and the keys in Redis that say so. Changes nothing.

    With --at, show who held or owned a seat at a moment in the past instead.
    """
    if at is not None and seat is None:
        raise click.UsageError("--at needs --seat")
    async with open_installation(context) as (settings, parts):
        event = await parts.catalog.get(event_id)
        seats = _find_seats(event.layout, seat, section)
        if at is not None:
            kept_for = dt.timedelta(days=settings.hold_history_days)
            try:
                told = [await who_held(parts.kernel, parts.database, event, s, at, kept_for=kept_for) for s in seats]
            except InvalidRequest as error:  # that it is still to come is all that can be wrong with it
                raise click.ClickException(f"--at {error.reason}") from error
            show_past(told, event.layout, made_at=event.event.created_at, as_json=as_json)
            return
        found = await inspect_event(parts.kernel, event, limit=limit, section=section, seats=seats)
        assert settings.redis_url is not None  # open_installation has filled it in
        lines = inspection_lines(
            settings.redis_url,
            parts.kernel.transport.nodes()[0],
            partition=found.partition,
            event_id=event_id,
            seat=seats[0] if seats else 0,
        )
    if found.loaded:
        found = msgspec.structs.replace(found, redis_cli=tuple(lines))
    elif seats:
        click.echo("Warning: of the seat nothing is told: the event is not in Redis; --at tells who had it", err=True)
    if as_json:
        print_json(found)
    else:
        _print(console(), found, event.layout, event.definition)


def _find_seats(layout: Layout, label: str | None, section: str | None) -> list[int]:
    if section is not None and section not in layout.section_index:
        raise click.UsageError(f"the event has no section {section!r}: {', '.join(layout.section_index)}")
    if label is None:
        return []
    found = [
        seats[label]
        for of_section, seats in zip(layout.sections, layout.seat_index, strict=True)
        if label in seats and section in (None, of_section.id)
    ]
    if not found:
        raise click.UsageError(f"there is no seat {label!r}" + (f" in section {section!r}" if section else ""))
    return found


def _print(out: Console, found: Inspection, layout: Layout, definition: EventDefinition) -> None:
    where = f"epoch {found.epoch}, seq {found.seq}" if found.loaded else "not in Redis: it is loaded when first needed"
    out.print(f"[bold]{found.event_id}[/bold] is {found.status}; partition {found.partition}, {where}")
    out.print(f"Its sale {sale_in_words(definition)}.\n")
    shown = (
        (found.loaded, _sections),
        (found.seats, partial(_seats, layout=layout)),
        (found.hold_count, _holds),
        (found.booking_count, _bookings),
        (found.keys, _keys),
    )
    for wanted, make_table in shown:
        if wanted:
            out.print(make_table(found))
            out.print()
    if found.redis_cli:
        out.print("The same by hand:")
    for line in found.redis_cli:
        out.print(f"  {line}", soft_wrap=True, markup=False)


def _sections(found: Inspection) -> Table:
    table = _table("section", numbers=("capacity", "free", "held", "sold"))
    for section in found.sections:
        counters = (_over_legs(values) for values in (section.free, section.held, section.sold))
        table.add_row(section.section, f"{section.capacity:,}", *counters)
    return table


def _over_legs(values: tuple[int, ...]) -> str:
    """One number, or the least and the most of the legs."""
    least, most = min(values), max(values)
    return f"{least:,}" if least == most else f"{least:,}–{most:,}"


def _seats(found: Inspection, layout: Layout) -> Table:
    table = _table("seat", "section", "leg", "status", "whose", "customer")
    for seat in found.seats:
        leg = f"{layout.stop_name(seat.leg)} → {layout.stop_name(seat.leg + 1)}" if layout.stops else str(seat.leg)
        customer = OFF_SALE if seat.is_block else seat.customer_id or ""
        table.add_row(seat.seat, seat.section, leg, seat.status, seat.owner or "", customer)
    return table


def _holds(found: Inspection) -> Table:
    shown = "" if found.hold_count == len(found.holds) else f", the next {len(found.holds)} to lapse"
    table = _table("hold", "customer", "places", "deadline", numbers=("seconds left",))
    table.title = f"{counted(found.hold_count - found.lapsed_count, 'live hold')}{shown}"
    if found.lapsed_count:
        table.title += f"; {found.lapsed_count:,} lapsed, not yet ended: held until the next call for this event"
    for hold in found.holds:
        table.add_row(hold.id, hold.customer_id, hold.places, _utc(hold.deadline_ms), _seconds_left(hold.seconds_left))
    return table


def _bookings(found: Inspection) -> Table:
    shown = "" if found.booking_count == len(found.latest_bookings) else f", the latest {len(found.latest_bookings)}"
    table = _table("booking", "customer", "places", "confirmed", "journal entry")
    table.title = f"{counted(found.booking_count, 'booking')}{shown}"
    for booking in found.latest_bookings:
        journal = booking.journal_id or "(loaded)"
        customer = OFF_SALE if booking.is_block else booking.customer_id
        table.add_row(booking.id, customer, booking.places, _utc(booking.confirmed_ms), journal)
    return table


def _seconds_left(seconds: float) -> str:
    return "lapsed" if seconds <= 0 else f"{seconds:.0f}"


def _keys(found: Inspection) -> Table:
    table = _table("key", "type", numbers=("size",))
    for key in found.keys:
        one = "entry" if key.unit == "entries" else key.unit.removesuffix("s")
        table.add_row(key.key, key.type, counted(key.size, one, key.unit))
    return table


def _table(*names: str, numbers: tuple[str, ...] = ()) -> Table:
    table = Table(*names, box=None, pad_edge=False, title_justify="left")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _utc(moment_ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(moment_ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
