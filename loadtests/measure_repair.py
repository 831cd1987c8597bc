"""What audit and repair cost: a large event, and damage spread over many small ones. Prints JSON.

Run it with ``python loadtests/measure_repair.py``; ``--quick`` measures a tenth of it. It starts servers of its own.
"""

import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import redis

from engine.definition import EventDefinition, RowDefinition, SectionDefinition
from engine.events import SellableEvent
from engine.ids import new_claim_id, parse_claim_id
from engine.keys import event_key
from holdfast.compose import Parts, open_parts
from holdfast.embedded.servers import embedded_servers
from holdfast.settings import load_settings
from persistence import audit
from persistence.audit import audit_event
from persistence.audit_picture import HOLDS_AT_ONCE_MAX
from persistence.database import driver_connection, open_database
from persistence.migrate import migrate
from persistence.repair import repair_events

SEATS, BOOKINGS, HOLDS = 1_000_000, 100_000, HOLDS_AT_ONCE_MAX
EVENTS, CORRUPTED = 1_000, 1_000
STARTS_AT = "2035-05-01T19:00:00Z"
SLOW_US = 200  # commands that take longer are looked at
_FILL_BOOKINGS = """
    INSERT INTO bookings (id, event_id, customer_id, status, payment_status, version, epoch, first_leg, last_leg,
                          places, items, amount, currency, sealed, created_at, updated_at, confirmed_at)
    SELECT gen_random_uuid(), $1, 'customer-' || n, 'confirmed', 'none', 1, 1, 0, 1, '0:1;0#' || n * 10,
           '[]', 0, 'EUR', '', now(), now(), now() FROM generate_series(0, $2::int - 1) AS n
"""
_FILL_CLAIMS = """
    INSERT INTO claims (event_id, seat, leg, booking_id)
    SELECT event_id, substring(places FROM '#([0-9]+)')::int, 0, id FROM bookings WHERE event_id = $1
"""


async def measure(data_dir: Path, scale: float) -> dict[str, Any]:
    """Both measurements, on servers under *data_dir*."""
    async with embedded_servers(data_dir, durable=False) as servers, _open(servers, data_dir) as parts:
        client = redis.Redis.from_url(servers.redis_url)
        client.config_set("slowlog-log-slower-than", SLOW_US)
        client.config_set("slowlog-max-len", 10_000)
        return {
            "large_event": await _large_event(parts, client, scale),
            "many_events": await _many_events(parts, client, scale),
        }


@asynccontextmanager
async def _open(servers: Any, data_dir: Path) -> AsyncIterator[Parts]:
    environment = {"REDIS_URL": servers.redis_url, "DATABASE_URL": servers.database_url, "HOME": str(data_dir)}
    settings = load_settings(environment | {"HOLDFAST_DATA_DIR": str(data_dir)})
    database = open_database(servers.database_url)
    await migrate(database)
    await database.dispose()
    async with open_parts(settings) as parts:
        yield parts


async def _large_event(parts: Parts, client: Any, scale: float) -> dict[str, Any]:
    seat_count, booking_count = int(SEATS * scale), int(BOOKINGS * scale)
    rows = [RowDefinition(str(row), "1-100") for row in range(seat_count // 100)]
    section = SectionDefinition("all", rows=rows, price=1)
    event = await _open_event(parts, "large", [section], publish=False)
    async with driver_connection(parts.database) as connection:
        await connection.execute("SET statement_timeout = '120s'")
        await connection.execute(_FILL_BOOKINGS, "large", booking_count, timeout=120)
        await connection.execute(_FILL_CLAIMS, "large", timeout=120)
        await connection.execute("RESET statement_timeout")
    load_s = await _timed(parts.loader.load("large"))
    holds = [_claim(event, parts, seat) for seat in range(1, 10 * HOLDS, 10)]
    for start in range(0, len(holds), 500):
        await asyncio.gather(*holds[start : start + 500])
    client.slowlog_reset()
    started_s = time.perf_counter()
    found = await audit_event(parts.kernel, parts.bookings, event)
    audit_s = time.perf_counter() - started_s
    assert (found.drift, found.exact, found.holds) == (0, True, HOLDS), found
    return {
        "seats": seat_count,
        "bookings": booking_count,
        "holds": HOLDS,
        "load_s": load_s,
        "audit_s": audit_s,
        "longest_commands_us": _longest(client),
    }


async def _claim(event: SellableEvent, parts: Parts, seat: int) -> None:
    claim = parse_claim_id(new_claim_id("large"))
    assert claim is not None
    args = [f"customer-{seat}", "", "1", claim.key, event.layout.digest, f"0:1;0#{seat}", "600000"]
    reply = await parts.kernel.run("hold_places", event, [arg.encode() for arg in args])
    assert reply[0] == b"HELD", reply


async def _many_events(parts: Parts, client: Any, scale: float) -> dict[str, Any]:
    count, corrupted = int(EVENTS * scale), int(CORRUPTED * scale)
    section = SectionDefinition("all", rows=[RowDefinition("A", "1-50")], price=1)
    ids = [f"small-{number}" for number in range(count)]
    events = [await _open_event(parts, event_id, [section]) for event_id in ids]
    quiet_s = await _timed(_repair(parts, ids))
    chance = random.Random(13)
    cells = chance.sample(list(itertools.product(range(count), range(50))), corrupted)
    for number, seat in cells:
        partition = parts.kernel.partition_of(events[number])
        client.setbit(event_key(partition, ids[number], chance.choice(("held", "sold"))), seat, 1)
    client.slowlog_reset()
    started_s = time.perf_counter()
    repairs = await _repair(parts, ids)
    repair_s = time.perf_counter() - started_s
    assert sum(len(one.repaired) for one in repairs) == corrupted
    assert not any(one.unresolved for one in repairs)
    return {
        "events": count,
        "corrupted_places": corrupted,
        "damaged_events": len({number for number, _ in cells}),
        "round_without_damage_s": quiet_s,
        "detect_and_repair_s": repair_s,
        "settle_s": audit.SETTLE_S,
        "longest_commands_us": _longest(client),
    }


async def _repair(parts: Parts, ids: list[str]) -> list[Any]:
    return [one async for one in repair_events(parts.kernel, parts.bookings, parts.catalog, parts.loader, ids)]


async def _open_event(
    parts: Parts, event_id: str, sections: list[SectionDefinition], *, publish: bool = True
) -> SellableEvent:
    document = {"name": event_id, "starts_at": STARTS_AT, "currency": "EUR", "id": event_id, "sections": sections}
    definition = msgspec.convert(msgspec.to_builtins(document), EventDefinition)
    await parts.events.create(definition, organizer_id="olga")
    event = await parts.events.transition(event_id, "open")
    if publish:
        await parts.reservations.publish(event)
    return await parts.catalog.get(event_id)


async def _timed(work: Awaitable[Any]) -> float:
    started_s = time.perf_counter()
    await work
    return time.perf_counter() - started_s


def _longest(client: Any) -> dict[str, int]:
    """The longest run of each command since the log was emptied, in microseconds; none is below the threshold."""
    longest: dict[str, int] = {}
    for entry in client.slowlog_get(10_000):
        name = entry["command"].split(b" ")[0].decode()
        longest[name] = max(longest.get(name, 0), entry["duration"])
    return longest


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="hf-") as name:
        Path(name).chmod(0o711)  # servers started by root run as another account
        found = asyncio.run(measure(Path(name), 0.1 if "--quick" in sys.argv[1:] else 1.0))
    print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
