"""``holdfast webhooks``: where the outbox goes, trying it out, and having the past told again."""

import datetime as dt
from typing import Literal

import click
import msgspec
import uuid_utils.compat
from rich.table import Table

from engine.ids import parse_claim_id
from holdfast.cli import run_async
from holdfast.commands.installation import console, open_installation, print_json
from holdfast.commands.option_types import moment_or_date
from holdfast.compose import Parts
from holdfast.counted import counted
from holdfast.settings import Settings
from persistence.publishing.attempt import Attempt
from persistence.publishing.envelope import OutboxRow, envelope, message_id
from persistence.publishing.event_types import ALL_OF_BOOKINGS, UnknownType, require_types
from persistence.publishing.letters import QueueState, Range, dead_deliveries, queue_states, replay, revive
from persistence.publishing.signing import new_secret, secret_key
from persistence.publishing.sinks import Sink
from persistence.publishing.targets import check_url, why_private
from persistence.publishing.webhooks import WebhookSender

EXIT_NOT_DELIVERED = 2
SAMPLE_EVENT = "sample-event"
SAMPLE_PAYLOAD = {  # a test holds its members to those of what is really sent
    "customer_id": "sample-customer",
    "status": "confirmed",
    "payment_status": "none",
    "version": 1,
    "items": [{"section": "floor", "quantity": 2, "seats": None, "price": 4500, "amount": 9000}],
    "from": None,
    "to": None,
    "amount": 9000,
    "currency": "EUR",
    "created_at": "2027-04-01T09:30:00Z",
    "confirmed_at": "2027-04-01T09:30:00Z",
}


class ShownSink(msgspec.Struct, frozen=True, kw_only=True):
    """A sink as it is listed, without its secrets; ``waiting`` is counted up to ten thousand.

    Where something waits that was tried in vain, ``last_error`` is why the last of ``attempts`` to tell it failed.
    """

    name: str
    kind: str
    target: str
    types: tuple[str, ...]
    secrets: int
    waiting: int
    dead: int
    oldest_s: float | None
    last_error: str | None
    attempts: int
    disabled_at: dt.datetime | None
    disabled_reason: str | None
    lost: str | None


class ShownSecret(msgspec.Struct, frozen=True):
    """The secret that the receiver must know."""

    name: str
    secret: str


class ShownState(msgspec.Struct, frozen=True):
    """What has become of a sink."""

    name: str
    state: Literal["removed", "disabled", "at work"]


class ShownLetter(msgspec.Struct, frozen=True):
    """A dead letter; ``id`` is the outbox row's."""

    id: int
    sink: str
    message_id: str
    type: str
    event_id: str
    created_at: dt.datetime
    dead_at: dt.datetime
    attempts: int
    error: str | None


class Counted(msgspec.Struct, frozen=True):
    """For how many events something was done, by sink."""

    sinks: dict[str, int]


@click.group("webhooks", short_help="Tell others of bookings: webhooks, and a Redis stream.")
def command() -> None:
    """Tell others of bookings: signed webhooks, and the Redis stream that HOLDFAST_STREAM names."""


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@command.command("add")
@click.argument("name")
@click.argument("url")
@click.option("--type", "types", multiple=True, help="booking.confirmed, booking.*, hold.expired; may be repeated.")
@click.option("--secret", envvar="HOLDFAST_WEBHOOK_SECRET", help="whsec_…; one is made when none is given.")
@as_json_option
@click.pass_context
@run_async
async def add(
    context: click.Context, name: str, url: str, types: tuple[str, ...], secret: str | None, as_json: bool
) -> None:
    """Add a webhook and print its secret. It is told what happens from now on."""
    async with open_installation(context, may_make=True) as (settings, parts):
        check_url(url, allow_private=settings.webhooks_allow_private)
        sink = await parts.sinks.add(name, url, types=types or ALL_OF_BOOKINGS, secret=secret)
    _print_secret(sink, as_json=as_json)
    await _note_private(url)


@command.command("list", short_help="List all, with what waits for them.")
@as_json_option
@click.pass_context
@run_async
async def list_sinks(context: click.Context, as_json: bool) -> None:
    """List all sinks with what waits for them, and why what was tried in vain was not taken."""
    async with open_installation(context) as (_, parts):
        states = await queue_states(parts.database)
        shown = [_show(sink, states.get(sink.id)) for sink in await parts.sinks.all()]
    if as_json:
        print_json(shown)
        return
    table = Table("name", "target", "types", "waiting", "oldest", "dead", "state", box=None, pad_edge=False)
    for sink in shown:
        oldest = "" if sink.oldest_s is None else f"{sink.oldest_s:,.0f} s"
        table.add_row(
            *(sink.name, sink.target, ", ".join(sink.types)),
            *(f"{sink.waiting:,}", oldest, f"{sink.dead:,}", _state_in_words(sink)),
        )
    if shown:
        console().print(table)
    console().print(counted(len(shown), "sink"))


@command.command("remove")
@click.argument("name")
@as_json_option
@click.pass_context
@run_async
async def remove(context: click.Context, name: str, as_json: bool) -> None:
    """Take one away, with all that it was still to be told."""
    async with open_installation(context) as (_, parts):
        await parts.sinks.remove(name)
    _print_state(ShownState(name, "removed"), as_json=as_json)


@command.command("disable")
@click.argument("name")
@as_json_option
@click.pass_context
@run_async
async def disable(context: click.Context, name: str, as_json: bool) -> None:
    """Tell one nothing more. What happens until `enable` it can be told by `replay`."""
    async with open_installation(context) as (_, parts):
        await parts.sinks.disable(name, "by hand")
    _print_state(ShownState(name, "disabled"), as_json=as_json)


@command.command("enable", short_help="Go on with one that was disabled.")
@click.argument("name")
@as_json_option
@click.pass_context
@run_async
async def enable(context: click.Context, name: str, as_json: bool) -> None:
    """Go on with one that was disabled, by hand or because it answered 410 Gone."""
    async with open_installation(context) as (_, parts):
        await parts.sinks.enable(name)
    _print_state(ShownState(name, "at work"), as_json=as_json)


@command.command("rotate", short_help="Make a new secret, and sign with both for a while.")
@click.argument("name")
@click.option("--finish", is_flag=True, help="Drop the old secret.")
@as_json_option
@click.pass_context
@run_async
async def rotate(context: click.Context, name: str, finish: bool, as_json: bool) -> None:
    """Make a new secret and sign with both; once the receiver knows it, --finish drops the old one.

    Secrets that were sealed with a data key that is lost are replaced.
    """
    async with open_installation(context) as (_, parts):
        sink = await parts.sinks.rotate(name, finish=finish)
    if finish and not as_json:  # nobody has to copy the secret any more
        click.echo(f"requests to {name} are signed with the new secret alone")
    else:
        _print_secret(sink, as_json=as_json)


@command.command("test")
@click.argument("target", metavar="NAME|URL")
@click.option("--secret", envvar="HOLDFAST_WEBHOOK_SECRET", help="For a URL; one is made when none is given.")
@as_json_option
@click.pass_context
@run_async
async def test(context: click.Context, target: str, secret: str | None, as_json: bool) -> int:
    """Send a signed sample and show the answer. Exit code 0 when it was taken, 2 when not."""
    async with open_installation(context) as (settings, parts):
        url, secrets = await _target(parts, target, secret)
        attempt, body = await _send_sample(settings, url, secrets)
    if as_json:
        print_json(attempt)
    else:
        if "://" in target and secret is None:
            click.echo(f"signed with {secrets[0]}")
        click.echo(body)
        click.echo(_in_words(attempt))
        click.echo(attempt.answer, nl=bool(attempt.answer))
    if settings.webhooks_allow_private and attempt.outcome == "delivered":
        await _note_private(url)
    return 0 if attempt.outcome == "delivered" else EXIT_NOT_DELIVERED


@command.command("replay", short_help="Have one told again what happened, or all.")
@click.argument("name", required=False)
@click.option("--from", "since", type=moment_or_date, metavar="MOMENT", help="What happened then and later.")
@click.option("--to", "until", type=moment_or_date, metavar="MOMENT", help="What happened before then.")
@click.option("--type", "type_", help="booking.confirmed, booking.*; those that the sink wants, when not said.")
@click.option("--booking", help="Of one booking.")
@as_json_option
@click.pass_context
@run_async
async def replay_events(
    context: click.Context,
    name: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    type_: str | None,
    booking: str | None,
    as_json: bool,
) -> None:
    """Have a sink, or all that are at work, told again what happened; the outbox is kept HOLDFAST_OUTBOX_DAYS days.

    A MOMENT is a time with its zone, as 2027-05-01T19:00:00Z or 2027-05-01T21:00:00+02:00, or a date alone, as
    2027-05-01: its midnight in UTC.
    """
    which = _range(since, until, type_, booking)
    async with open_installation(context) as (_, parts):
        counts = {sink.name: await replay(parts.database, sink.id, which) for sink in await _named(parts, name)}
    _print_counts(counts, "queued again", as_json=as_json)


@command.command("dead", short_help="List what was given up.")
@click.argument("name", required=False)
@as_json_option
@click.pass_context
@run_async
async def list_dead(context: click.Context, name: str | None, as_json: bool) -> None:
    """List what was given up after HOLDFAST_WEBHOOKS_RETRY_HOURS hours; of very much the first thousand."""
    async with open_installation(context) as (_, parts):
        shown = [
            ShownLetter(
                dead.row.id,
                dead.sink,
                message_id(dead.row),
                dead.row.type,
                dead.row.event_id,
                dead.row.created_at,
                dead.dead_at,
                dead.attempts,
                dead.error,
            )
            for dead in await dead_deliveries(parts.database, name)
        ]
    if as_json:
        print_json(shown)
        return
    table = Table("id", "sink", "type", "event", "dead since", "attempts", "reason", box=None, pad_edge=False)
    for letter in shown:
        moment = f"{letter.dead_at:%Y-%m-%d %H:%M:%S} UTC"
        row = (str(letter.id), letter.sink, letter.type, letter.event_id, moment, str(letter.attempts))
        table.add_row(*row, letter.error or "")
    if shown:
        console().print(table)
    console().print(counted(len(shown), "dead letter"))


@command.command("retry", short_help="Try again what was given up.")
@click.argument("name")
@click.argument("ids", metavar="[ID]...", nargs=-1, type=int)
@click.option("--all", "every", is_flag=True, help="All of the sink's.")
@as_json_option
@click.pass_context
@run_async
async def retry(context: click.Context, name: str, ids: tuple[int, ...], every: bool, as_json: bool) -> None:
    """Try dead letters again, from the beginning of their hours."""
    if every == bool(ids):
        raise click.UsageError("name the dead letters, or say --all")
    async with open_installation(context) as (_, parts):
        sink = await parts.sinks.find(name)
        counts = {name: await revive(parts.database, sink.id, None if every else list(ids))}
    _print_counts(counts, "tried again", as_json=as_json)


async def _named(parts: Parts, name: str | None) -> list[Sink]:
    if name is not None:
        return [await parts.sinks.find(name)]
    return [sink for sink in await parts.sinks.all() if sink.disabled_at is None]


async def _target(parts: Parts, target: str, secret: str | None) -> tuple[str, tuple[str, ...]]:
    if "://" in target:
        secret = secret or new_secret()
        try:
            secret_key(secret)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        return target, (secret,)
    sink = await parts.sinks.find(target)
    if sink.kind != "webhook":
        raise click.UsageError(
            f"{target!r} is the Redis stream that HOLDFAST_STREAM names ({sink.target}): there is no receiver whose"
            " answer could be shown, and no sample is put among what has happened. Read it with"
            f" `redis-cli XRANGE {sink.target} - +`; `holdfast webhooks list` says what waits for it"
        )
    if sink.lost is not None:
        raise click.UsageError(f"{sink.lost}; holdfast webhooks rotate {target} makes a new one")
    return sink.target, sink.secrets


async def _send_sample(settings: Settings, url: str, secrets: tuple[str, ...]) -> tuple[Attempt, str]:
    payload = msgspec.json.encode(SAMPLE_PAYLOAD).decode()
    now = dt.datetime.now(dt.UTC)
    row = OutboxRow(0, uuid_utils.compat.uuid7(), 0, SAMPLE_EVENT, "booking.confirmed", payload, now)
    sender = WebhookSender(url, secrets, allow_private=settings.webhooks_allow_private)
    try:
        return await sender.send(message_id(row), envelope(row)), envelope(row).decode()
    finally:
        await sender.close()


def _range(since: dt.datetime | None, until: dt.datetime | None, type_: str | None, booking: str | None) -> Range:
    if type_ is not None:
        try:
            require_types([type_])
        except UnknownType as error:
            raise click.UsageError(str(error)) from None
    claim = None if booking is None else parse_claim_id(booking)
    if booking is not None and claim is None:
        raise click.UsageError(f"{booking!r} is no booking's id")
    return Range(since=since, until=until, type=type_, booking=None if claim is None else claim.uuid)


def _show(sink: Sink, state: QueueState | None) -> ShownSink:
    return ShownSink(
        name=sink.name,
        kind=sink.kind,
        target=sink.target,
        types=sink.types,
        secrets=len(sink.secrets),
        waiting=0 if state is None else state.waiting,
        dead=0 if state is None else state.dead,
        oldest_s=None if state is None else state.oldest_s,
        last_error=None if state is None else state.last_error,
        attempts=0 if state is None else state.attempts,
        disabled_at=sink.disabled_at,
        disabled_reason=sink.disabled_reason,
        lost=sink.lost,
    )


def _state_in_words(sink: ShownSink) -> str:
    state = "at work" if sink.disabled_at is None else f"disabled: {sink.disabled_reason}"
    state += ", two secrets" if sink.secrets > 1 else ""
    state += f"; told nothing: {sink.lost}" if sink.lost is not None else ""
    if sink.last_error is not None:
        state += f"; failing: {sink.last_error}, after {counted(sink.attempts, 'attempt')}"
    return state


async def _note_private(url: str) -> None:
    """Say on standard error what this command's own environment cannot show: that others deliver, with theirs."""
    if (reason := await why_private(url)) is not None:
        click.echo(f"Warning: {reason}: `serve` and `reconcile`, which deliver, need that setting too", err=True)


def _in_words(attempt: Attempt) -> str:
    what = "taken" if attempt.outcome == "delivered" else f"not taken: {attempt.reason}"
    status = "" if attempt.status is None else f"status {attempt.status}, "
    return f"{status}{what} ({attempt.seconds:.3f} s)"


def _print_secret(sink: Sink, *, as_json: bool) -> None:
    if as_json:
        print_json(ShownSecret(sink.name, sink.secrets[0]))
    else:
        click.echo(sink.secrets[0])


def _print_state(state: ShownState, *, as_json: bool) -> None:
    if as_json:
        print_json(state)
    else:
        click.echo(f"{state.name} is {state.state}")


def _print_counts(counts: dict[str, int], done: str, *, as_json: bool) -> None:
    if as_json:
        print_json(Counted(counts))
        return
    for name, count in counts.items():
        click.echo(f"{name}: {count:,} {done}")
    if not counts:
        click.echo(f"no sink is at work: nothing was {done}")
