"""``holdfast dead-letters``: list, show, retry, discard, and what they exit with."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import redis
from script_runner import FLOOR, STALLS
from warm_commands import WarmCommandLine

from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.definition import EventDefinition
from engine.errors import BookingRefused
from engine.ids import parse_claim_id
from holdfast.compose import Parts, open_parts
from holdfast.settings import load_settings
from persistence.database import driver_connection

SECRET = "Ana Ruiz, gluten-free"
REFUSE_ALL = "ALTER TABLE bookings ADD CONSTRAINT nobody CHECK (customer_id = 'nobody') NOT VALID"
TAKE_ALL = "ALTER TABLE bookings DROP CONSTRAINT nobody"


@pytest.fixture(scope="module")
def cli(servers: Any, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> WarmCommandLine:
    line = WarmCommandLine(
        REDIS_URL=servers.redis_url, DATABASE_URL=database_url, HOLDFAST_DATA_DIR=tmp_path_factory.mktemp("data")
    )
    line.ok("migrate")
    return line


@pytest.fixture
def client(servers: Any) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as opened:
        opened.flushall()
        yield opened


@pytest.fixture
async def parts(cli: WarmCommandLine, client: redis.Redis) -> AsyncIterator[Parts]:
    assert client.dbsize() == 0
    async with open_parts(load_settings(cli.environment)) as opened:
        yield opened


async def refused_by_postgres(parts: Parts, event_id: str) -> str:
    """A booking of two floor places and a seat that Postgres will not have; its constraint stays."""
    document = {"id": event_id, "name": "Gig", "starts_at": "2037-05-01T19:00:00Z", "currency": "EUR"}
    definition = msgspec.convert(document | {"sections": [FLOOR, STALLS]}, EventDefinition)
    await parts.events.create(definition, organizer_id="olga")
    await parts.reservations.publish(await parts.events.transition(event_id, "open"))
    await execute(parts, REFUSE_ALL)
    wish = ClaimRequest([ItemRequest("floor", quantity=2), ItemRequest("stalls", seats=["A-1"])])
    details = BookingDetails(guest={"name": SECRET}, notes=SECRET)
    booked = await parts.reservations.book(event_id, wish, details, customer_id="ana")
    assert booked.booking.status == "confirming"
    return booked.booking.id


async def execute(parts: Parts, statement: str) -> None:
    async with driver_connection(parts.database) as connection:
        await connection.execute(statement)


async def test_dead_letter_is_listed_shown_and_written_once_its_cause_is_mended(
    cli: WarmCommandLine, client: redis.Redis, parts: Parts
) -> None:
    booking_id = await refused_by_postgres(parts, "gig-1")

    (listed,) = cli.json("dead-letters", "list")
    assert (listed["booking_id"], listed["customer_id"], listed["event_id"]) == (booking_id, "ana", "gig-1")
    assert listed["places"] == "floor × 2, stalls A-1"
    assert "nobody" in listed["reason"]
    shown = cli.ok("dead-letters", "show", listed["id"])
    assert all(text in shown for text in ("in_ledger", "False", "0:1;0*2;1#0", "bytes, sealed"))
    assert SECRET not in shown

    failed = cli.run("dead-letters", "retry", "--all")
    assert (failed.returncode, "cannot be written still" in failed.stdout) == (2, True)
    await execute(parts, TAKE_ALL)
    (written,) = cli.json("dead-letters", "retry", "--all")
    assert (written["outcome"], written["booking_id"]) == ("written", booking_id)
    found = await parts.reservations.find_booking(booking_id, customer_id="ana")
    assert (found.status, found.reference) == ("confirmed", written["reference"])
    assert client.keys("hf:*:dead") == []


async def test_discarding_says_what_it_frees_asks_and_frees_it(
    cli: WarmCommandLine, client: redis.Redis, parts: Parts
) -> None:
    booking_id = await refused_by_postgres(parts, "gig-2")
    await execute(parts, TAKE_ALL)
    (listed,) = cli.json("dead-letters", "list")

    asked = cli.run("dead-letters", "discard", listed["id"])  # nobody is there to answer
    assert (asked.returncode, len(client.keys("hf:*:dead"))) == (1, 1)
    assert f"{booking_id} of ana on gig-2 is undone; it frees floor × 2, stalls A-1" in asked.stdout

    assert "its places are free" in cli.ok("dead-letters", "discard", listed["id"], "--yes")
    availability = await parts.reservations.availability("gig-2")
    assert [section.sold for section in availability.sections] == [0, 0]
    missing = cli.run("dead-letters", "discard", listed["id"], "--yes")
    assert (missing.returncode, "there is no dead letter" in missing.stderr) == (1, True)


async def test_retry_of_what_the_ledger_refuses_exits_2_and_names_the_booking(
    cli: WarmCommandLine, client: redis.Redis, parts: Parts
) -> None:
    stale = await refused_by_postgres(parts, "gig-3")
    await execute(parts, TAKE_ALL)
    await execute(parts, "UPDATE events SET epoch = epoch + 1 WHERE id = 'gig-3'")
    kept = cli.run("dead-letters", "retry", "--all")
    assert (kept.returncode, len(client.keys("hf:*:dead"))) == (2, 1)
    assert f"({stale}): cannot be written still: its event was built anew" in kept.stdout
    (listed,) = cli.json("dead-letters", "list")
    cli.ok("dead-letters", "discard", listed["id"], "--yes")

    taken = await refused_by_postgres(parts, "gig-4")
    await execute(parts, TAKE_ALL)
    claim = parse_claim_id(taken)
    assert claim is not None
    event = await parts.catalog.get("gig-4")
    await parts.kernel.run("unbook_places", event, [claim.key.encode(), b"", b"", b""])  # a Redis that has lost it
    wish = ClaimRequest([ItemRequest("stalls", seats=["A-1"])])
    await parts.reservations.book("gig-4", wish, BookingDetails(), customer_id="bob")
    refused = cli.run("dead-letters", "retry", "--all")
    assert (refused.returncode, client.keys("hf:*:dead")) == (2, [])
    assert f"({taken}): refused, and undone: PlacesUnavailable" in refused.stdout
    with pytest.raises(BookingRefused):
        await parts.reservations.find_booking(taken, customer_id="ana")


def test_letters_of_one_id_in_two_partitions_are_told_apart(cli: WarmCommandLine, client: redis.Redis) -> None:
    for partition in (3, 7):
        client.hset(f"hf:{{{partition}}}:dead", "5-0", "gibberish")
    ambiguous = cli.run("dead-letters", "discard", "5-0", "--yes")
    assert (ambiguous.returncode, "say 3/5-0 and 7/5-0" in ambiguous.stderr) == (1, True)
    cli.ok("dead-letters", "discard", "7/5-0", "--yes")
    assert client.keys("hf:*:dead") == ["hf:{3}:dead"]
