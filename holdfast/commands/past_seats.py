"""How ``holdfast inspect --at`` shows who had a seat in the past."""

import datetime as dt
from collections.abc import Sequence

import msgspec
from rich.table import Table

from engine.layout import Layout
from holdfast.commands.installation import console, print_json
from holdfast.inspection import OFF_SALE
from persistence.seat_history import ClaimThen, SeatThen


def show_past(seats: Sequence[SeatThen], layout: Layout, *, made_at: dt.datetime, as_json: bool) -> None:
    """Print one table, or JSON, for seats of one event, which was made at *made_at*, at one moment."""
    if _is_before_event(seats, made_at):
        # Nobody could have had the seats, which is not the same as that somebody could have taken them.
        why = f"the event did not exist yet: it was made at {_utc(made_at)}"
        seats = [msgspec.structs.replace(seat, notes=(why,)) for seat in seats]
    if as_json:
        print_json({"seats": seats})
        return
    out = console()
    out.print(f"[bold]{seats[0].event_id}[/bold] at {_utc(seats[0].at)}\n")
    if _is_before_event(seats, made_at):
        out.print(seats[0].notes[0], soft_wrap=True, markup=False)
        return
    table = Table("seat", "section", "leg", "was", "by", "from", "until", "ended", "id", box=None, pad_edge=False)
    for seat in seats:
        for claim in seat.claims:
            table.add_row(seat.seat, seat.section, _leg(layout, claim.leg), *_cells(claim))
    out.print(table)
    notes = dict.fromkeys(note for seat in seats for note in seat.notes)  # of several seats the same one once
    for number, note in enumerate(notes):
        out.print(("\n" if number == 0 else "") + note, soft_wrap=True, markup=False)


def _is_before_event(seats: Sequence[SeatThen], made_at: dt.datetime) -> bool:
    """Whether all was before the event; a claim from before it says that clocks differ, and is worth more."""
    return seats[0].at < made_at and all(claim.status == "free" for seat in seats for claim in seat.claims)


def _leg(layout: Layout, leg: int) -> str:
    return f"{layout.stop_name(leg)} → {layout.stop_name(leg + 1)}" if layout.stops else str(leg)


def _cells(claim: ClaimThen) -> tuple[str, ...]:
    if claim.status == "free":
        return ("free",)
    until = ("at most " if not claim.certain and claim.until else "") + (_utc(claim.until) if claim.until else "")
    since = _utc(claim.since) if claim.since else ""
    who = OFF_SALE if claim.is_block else claim.customer_id or ""
    return claim.status, who, since, until, claim.ended or "", claim.id or ""


def _utc(moment: dt.datetime) -> str:
    """To the millisecond: two customers may have had the seat in one second."""
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
