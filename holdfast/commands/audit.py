"""``holdfast audit``."""

import click
import msgspec
from rich.console import Console
from rich.table import Table

from holdfast.cli import run_async
from holdfast.commands.installation import console, open_installation, print_json
from holdfast.counted import counted
from persistence.audit import Audit, audit_events

SHOWN_MAX = 100  # differences in the table; JSON has them all
EXIT_DRIFT = 2


@click.command("audit", short_help="Compare Redis with the ledger and the journal.")
@click.argument("event_ids", metavar="[EVENT]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@run_async
async def command(context: click.Context, event_ids: tuple[str, ...], as_json: bool) -> int:
    """Compare Redis with the ledger and the journal, for all events in Redis or those named. Changes nothing.

    Exit code 0 when all agree, 2 when something differs.
    """
    async with open_installation(context) as (_, parts):
        audit = await audit_events(parts.kernel, parts.bookings, parts.catalog, event_ids or None)
    if as_json:
        print_json(audit)
    else:
        _print(console(), audit)
    return EXIT_DRIFT if audit.drift else 0


def _print(out: Console, audit: Audit) -> None:
    table = Table("event", box=None, pad_edge=False)
    for name in ("epoch", "seq", "holds", "bookings", "differences"):
        table.add_column(name, justify="right")
    table.add_column("")
    for event in audit.audited:
        note = "" if event.steady else "busy: customers' totals were not compared"
        note = note if event.exact else "busy: not all sums were compared"
        table.add_row(
            event.event_id,
            *("" if number is None else str(number) for number in (event.epoch, event.seq)),
            f"{event.holds:,}",
            f"{event.bookings:,}",
            f"{event.drift:,}",
            note if event.loaded else "not in Redis",
        )
    if audit.audited:
        out.print(table)
    if audit.differences:
        out.print("\n", _differences(audit), sep="")
    waiting = f"{counted(audit.journal.entries, 'booking')} waiting in the journal"
    if audit.journal.oldest_age is not None:
        waiting += f", the oldest for {audit.journal.oldest_age:.1f} s"
    verdict = counted(audit.drift, "difference") if audit.drift else "Redis and ledger agree"
    out.print(f"\n{counted(audit.events, 'event')}: {verdict}. {waiting}.")


def _differences(audit: Audit) -> Table:
    more = f", the first {SHOWN_MAX}" if audit.drift > SHOWN_MAX else ""
    by_kind = ", ".join(f"{kind} {count:,}" for kind, count in sorted(audit.by_kind.items()))
    names = ("event", "kind", "section", "seat", "leg", "of", "Redis", "ledger", "expected")
    table = Table(*names, box=None, pad_edge=False, title=f"{by_kind}{more}", title_justify="left")
    for difference in audit.differences[:SHOWN_MAX]:
        table.add_row(*("" if value is None else str(value) for value in msgspec.structs.astuple(difference)))
    return table
