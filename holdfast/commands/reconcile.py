"""``holdfast reconcile``."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from holdfast.cli import run_async_failing_with, settings_from
from holdfast.commands.installation import console, open_installation, print_json, require_installation
from holdfast.compose import make_equipment
from holdfast.counted import counted
from holdfast.logs import configure_logs
from holdfast.reconciler import reconcile_until_told_to_stop
from holdfast.servers import any_servers
from holdfast.settings import Settings
from persistence.reconciling.rounds import EventRound, Round
from persistence.reconciling.single_round import Progress as OnProgress
from persistence.reconciling.single_round import SingleRound

EVENTS_SHOWN_MAX = 100  # in the table; JSON has them all
EXIT_CODES = {"clean": 0, "repaired": 1, "person": 2}


@click.command("reconcile", short_help="Drain, wake, audit, repair, rebuild and archive.")
@click.option("--once", is_flag=True, help="One full round over all partitions, then end; for cron.")
@click.option("--dry-run", is_flag=True, help="With --once: only say what is found. Nothing is written.")
@click.option(
    "--event", "event_ids", metavar="ID", multiple=True, help="With --once: this event only; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON.")
@click.option("--metrics-port", type=click.IntRange(1, 65_535), help="Tell figures to Prometheus at this port.")
@click.pass_context
@run_async_failing_with(EXIT_CODES["person"])
async def command(
    context: click.Context,
    once: bool,
    dry_run: bool,
    event_ids: tuple[str, ...],
    as_json: bool,
    metrics_port: int | None,
) -> int | None:
    """Do what must happen though nobody asks for it: drain, wake, audit, repair, rebuild, archive.

    Runs until SIGTERM; several may run, and share the work. `holdfast serve` runs one by itself.

    With --once, exit code 0 when there was nothing wrong, 1 when something was and has been put right (or, with
    --dry-run, would be), 2 when something needs a person or a server does not answer: of a cluster, the partitions of
    the other nodes are gone through all the same, and those that were not are named. To end lapsed holds and to
    archive events that are over is daily work, and so are journal entries younger than ten seconds, which it leaves
    alone. Older ones, missing events and differences are not.
    """
    if once:
        if metrics_port is not None:
            raise click.UsageError("--metrics-port does not go with --once")
        return await _once(context, event_ids or None, dry_run=dry_run, as_json=as_json)
    if dry_run or event_ids or as_json:
        raise click.UsageError("--dry-run, --event and --json go with --once")
    await _daemon(settings_from(context), metrics_port)
    return None


async def _daemon(settings: Settings, metrics_port: int | None) -> None:
    require_installation(settings)
    configure_logs(settings.log_level)  # a daemon tells what it does, as serve does
    async with any_servers(settings) as filled:
        await reconcile_until_told_to_stop(filled, metrics_port=metrics_port)


async def _once(context: click.Context, event_ids: tuple[str, ...] | None, *, dry_run: bool, as_json: bool) -> int:
    async with open_installation(context) as (settings, parts):
        with _progress(as_json) as on_progress:
            single = SingleRound(make_equipment(parts, settings), dry_run=dry_run, on_progress=on_progress)
            found = await single.run(event_ids)
    if as_json:
        print_json(found)
    else:
        _print(console(), found)
    return EXIT_CODES[found.verdict]


@contextmanager
def _progress(as_json: bool) -> Iterator[OnProgress | None]:
    """A bar on standard error, where that is a terminal."""
    screen = Console(stderr=True)
    if as_json or not screen.is_terminal:
        yield None
        return
    columns = (TextColumn("auditing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("auditing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(out: Console, found: Round) -> None:
    if found.events:
        out.print(_events(found))
        out.print()
    duties = Table("duty", box=None, pad_edge=False)
    duties.add_column("found" if found.dry_run else "done", justify="right")
    for duty, count in (
        ("journal entries drained", found.drained),
        ("journal entries set aside", found.buried),
        ("journal entries left", found.left),
        ("lapsed holds ended", found.reaped),
        ("requests expired", found.lapsed),
        ("blocks given back", found.unblocked),
        ("payments settled", found.settled),
        ("bookings of events that are over or cancelled ended", found.ended),
        ("events audited", found.audited),
        ("events rebuilt", sum(event.missing for event in found.events) if found.dry_run else found.rebuilt),
        ("differences repaired", _repairs(found)),
        ("differences for a person", found.unresolved),
        ("events archived", found.archived),
        ("outbox rows published", found.published),
    ):
        duties.add_row(duty, f"{count:,}")
    out.print(duties)
    for told in _away(found):
        out.print(told, markup=False)
    verdict = {
        "clean": "Nothing was wrong.",
        "repaired": "Something is wrong, and would be put right." if found.dry_run else "What was wrong was put right.",
        "person": "Something needs a person: see `holdfast audit` and `holdfast dead-letters list`.",
    }
    if found.unreached or found.held_up:
        verdict["person"] = "Not all could be done: see what is away, then do it again."
    out.print(f"\n{verdict[found.verdict]} {found.seconds:.1f} s.", markup=False)


def _away(found: Round) -> Iterator[str]:
    """What could not be reached, a line for each reason."""
    partitions: dict[str, list[int]] = {}
    for one in found.unreached:
        partitions.setdefault(one.error, []).append(one.partition)
    for error, numbers in partitions.items():
        yield f"\nnot reached: partition {', '.join(map(str, numbers))}: {error}"
    for duty, error in found.held_up.items():
        yield f"\nnot done in full: {duty}: {error}"


def _repairs(found: Round) -> int:
    """Those done; of a dry run those to do."""
    if not found.dry_run:
        return found.repaired
    return sum(sum(event.found.values()) for event in found.events) - found.unresolved


def _events(found: Round) -> Table:
    table = Table("event", "found", "done", "left", box=None, pad_edge=False)
    if len(found.events) > EVENTS_SHOWN_MAX:
        table.title = f"{counted(len(found.events), 'event')}, the first {EVENTS_SHOWN_MAX}"
    for event in found.events[:EVENTS_SHOWN_MAX]:
        table.add_row(event.event_id, _found(event), _done(event, dry_run=found.dry_run), _left(event))
    return table


def _found(event: EventRound) -> str:
    missing = ["not in Redis"] if event.missing or event.rebuilt else []
    lapsed = [counted(event.reaped, "lapsed hold")] if event.reaped else []
    over = [counted(event.ended, "booking") + " to end"] if event.ended else []
    return ", ".join([*missing, *lapsed, *over, *_kinds(event.found)])


def _done(event: EventRound, *, dry_run: bool) -> str:
    if dry_run:
        return "would be archived" if event.archived else ""
    said = [("rebuilt", event.rebuilt), ("holds ended", event.reaped), ("bookings ended", event.ended)]
    said.append(("archived", event.archived))
    return ", ".join([*(words for words, is_so in said if is_so), *(f"repaired {k}" for k in _kinds(event.repaired))])


def _left(event: EventRound) -> str:
    return ", ".join([*_kinds(event.unresolved), *([event.error] if event.error else [])])


def _kinds(counts: dict[str, int]) -> list[str]:
    return [f"{kind} {count:,}" for kind, count in sorted(counts.items())]
