"""A crowd comes to a sale: starts a server, lets Locust loose on it, prints the table, and checks what was sold.

``python loadtests/surge.py [--profile NAME] [--users N] [--seconds N] [--places N] [--events N]``; the profiles are
``steady``, ``spike``, ``ramp``, ``expiry`` (all holds lapse at once) and ``race`` (everybody asks once for one place).
The exit status is 1 when anything was oversold, an acknowledged booking is not in the ledger, Redis and the ledger
differ, or a request failed without saying why.
"""

import asyncio
import csv
import datetime as dt
import json
import os
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from engine.definition import EventDefinition, Policy, SectionDefinition
from holdfast.demo.box_office import Booked, BoxOffice, OnSale
from holdfast.demo.checks import differences_from_availability, places_sold_twice, shorten
from holdfast.demo.client import Client
from holdfast.demo.scenario import Draft
from holdfast.demo.server import running_server
from holdfast.settings import Settings, load_settings
from holdfast.tokens import make_token

PROFILES = ("steady", "spike", "ramp", "expiry", "race")
SECTION = "floor"
CUSTOMERS = 500  # tokens that the crowd shares; in a race everybody has their own
EXTRA_S = 90  # past the run itself, for those under way, and for Locust to begin
CONNECTIONS = 8  # of the look at what was sold
SETTLE_S = 30  # for what was answered 202
SHOWN = ("Name", "Request Count", "Failure Count", "Requests/s", "50%", "95%", "99%", "Max Response Time")
_LOCUSTFILE = Path(__file__).with_name("locustfile.py")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    profile: str
    users: int
    seconds: int
    places: int
    events: int


def draft(number: int, places: int) -> Draft:
    """An event with one counted section, at which one customer may have many places: the crowd shares its tokens."""
    definition = EventDefinition(
        id=f"surge-{number}",
        name="Surge",
        starts_at=dt.datetime(2035, 5, 1, 19, tzinfo=dt.UTC),
        currency="EUR",
        sections=[SectionDefinition(SECTION, price=1000, capacity=places)],
        policy=Policy(hold_ttl=30, max_places_per_customer=1_000_000),
    )
    return Draft(kind="places", title=f"Surge {number}", about="", definition=definition)


def make_tokens(settings: Settings, options: Options) -> dict[str, list[str]]:
    """Tokens by role."""
    customers = options.users if options.profile == "race" else CUSTOMERS
    return {
        "customer": [make_token(settings, f"customer-{number}", ["customer"]) for number in range(customers)],
        "service": [make_token(settings, "box-office", ["service"])],
        "organizer": [make_token(settings, "olga", ["organizer"])],
    }


async def let_loose(url: str, options: Options, surge: dict[str, object], directory: Path) -> int:
    """Run Locust to its end; its exit status, which is not 0 when a request failed."""
    arguments = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "--host", url]
    arguments += ["--csv", str(directory / "surge"), "--only-summary", "--stop-timeout", "10", "--loglevel", "WARNING"]
    process = await asyncio.create_subprocess_exec(
        *arguments,
        env={**os.environ, "SURGE": str(_write(surge, directory / "surge.json"))},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), options.seconds + EXTRA_S)
        (directory / "said").write_bytes(said)  # its own summary is the table of below; what else it says may matter
        return process.returncode or 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def print_table(directory: Path, console: Console) -> None:
    """What Locust counted, by kind of request; latencies in ms."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in SHOWN:
        table.add_column(heading, justify="left" if heading == "Name" else "right")
    with (directory / "surge_stats.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            table.add_row(*(_shorten(row[heading]) for heading in SHOWN))
    console.print(table)


def read_acknowledged(path: Path) -> dict[str, str]:
    """Status by id of every booking that somebody was told of."""
    if not path.exists():
        return {}
    told = [json.loads(line) for line in path.read_text().splitlines()]
    return {booking["id"]: booking["status"] for booking in told}


async def check(client: Client, office: BoxOffice, admin: str, events: list[OnSale], told: dict[str, str]) -> list[str]:
    """Everything that is not as it should be."""
    findings: list[str] = []
    listed: list[Booked] = []
    for event in events:
        bookings = await office.list_bookings(event)
        listed += bookings
        findings += places_sold_twice(event, bookings)
        findings += differences_from_availability(event, bookings, await office.count_legs(event))
    in_ledger = {booking.id for booking in listed}
    findings += [f"booking {one} was acknowledged, and the ledger has not got it" for one in told.keys() - in_ledger]
    audit = json.loads(await client.require("GET", "/v1/admin/audit", token=admin))
    findings += [f"Redis and the ledger differ: {difference}" for difference in audit["differences"]]
    return findings


async def run_surge(options: Options) -> int:
    """The whole of it; the exit status."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="hf-surge-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o711)  # servers started by root run as another account, which must pass through here
        directory = Path(name)
        async with running_server(directory / "data", port=0) as server:
            settings = load_settings({"HOLDFAST_DATA_DIR": str(directory / "data")})
            tokens = make_tokens(settings, options)
            admin = make_token(settings, "root", ["admin"])
            async with aclosing(Client(server.url, connections=CONNECTIONS)) as client:
                office = BoxOffice(client, tokens["organizer"][0])
                events = [await office.put_on_sale(draft(n, options.places)) for n in range(options.events)]
                acknowledged = directory / "acknowledged"
                surge = {
                    "profile": options.profile,
                    "users": options.users,
                    "seconds": options.seconds,
                    "events": [event.id for event in events],
                    "section": SECTION,
                    "tokens": tokens,
                    "acknowledged": str(acknowledged),
                }
                console.print(f"{options.profile}: {options.users:,} users for {options.seconds} s …")
                status = await server.beside(let_loose(server.url, options, surge, directory))
                print_table(directory, console)
                told, said = read_acknowledged(acknowledged), (directory / "said").read_text()
                findings = await _settled(client, office, admin, events, told)
    if status:
        findings.append("requests failed without saying why: see the failures in the table")
        console.print(said[-2_000:])
    console.print(f"{len(told):,} bookings acknowledged; {len(findings)} findings")
    for finding in shorten(findings):
        console.print(f"[red]{finding}[/]")
    return 1 if findings else 0


def _write(surge: dict[str, object], path: Path) -> Path:
    path.write_text(json.dumps(surge))
    return path


async def _settled(
    client: Client, office: BoxOffice, admin: str, events: list[OnSale], told: dict[str, str]
) -> list[str]:
    """The findings, once what was answered 202 has had time to end."""
    for _ in range(SETTLE_S):
        findings = await check(client, office, admin, events, told)
        if not findings or not any(status == "confirming" for status in told.values()):
            break
        await asyncio.sleep(1)
    return findings


def _shorten(text: str) -> str:
    try:
        return f"{float(text):,.0f}"
    except ValueError:
        return text


@click.command()
@click.option("--profile", type=click.Choice(PROFILES), default="spike", show_default=True)
@click.option("--users", default=300, show_default=True)
@click.option("--seconds", default=30, show_default=True)
@click.option("--places", default=2_000, show_default=True, help="Of each event.")
@click.option("--events", default=3, show_default=True)
def main(profile: str, users: int, seconds: int, places: int, events: int) -> None:
    """Let a crowd loose on a sale of its own, and check what was sold."""
    options = Options(profile=profile, users=users, seconds=seconds, places=places, events=events)
    sys.exit(asyncio.run(run_surge(options)))


if __name__ == "__main__":
    main()
