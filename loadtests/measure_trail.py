"""What the history of holds costs: ``python loadtests/measure_trail.py [--rounds 1500]``.

The server's CPU clock around bursts of 64 holds by the straight path, three scripts in turns: as it is with a trail, as
it is without one (history switched off), and with the line cut out. Then a trail is stored in Postgres and purged.
"""

import asyncio
import datetime as dt
import hashlib
import re
import statistics
import time

import click
import msgspec
from bench import Bench, open_bench
from harness import QUICK
from pipe import BURST
from sqlalchemy.ext.asyncio import AsyncEngine
from venues import PARTITIONS, Venue, definition

import lua
from engine.kernel import Kernel
from engine.keys import partition_key, partition_of
from engine.transport.open import open_transport
from engine.transport.wire import pack_evalsha
from holdfast.settings import Settings
from persistence.database import driver_connection, open_database
from persistence.hold_history import purge_hold_history, store_trail

# Of the usual claim, over as many lines as it takes.
LINE = re.compile(rb"^ +redis\.call\('XADD', KEYS\[10\], 'NOMKSTREAM', '\*', KEYS\[1\],[^)]*\)\n", re.MULTILINE)
PLACES = 2_000_000
STORED = 50_000  # holds whose lines are stored


@click.command()
@click.option("--rounds", default=1_500, show_default=True, help="Bursts of each script.")
def main(rounds: int) -> None:
    """Measure and print."""
    asyncio.run(_measure(rounds))


async def _measure(rounds: int) -> None:
    async with open_bench(QUICK) as bench:
        venue = bench.venue(definition("concert-42", places=PLACES))
        partition = partition_of("concert-42", None, PARTITIONS)
        for case, ratios in _compare(bench, venue, partition, rounds).items():
            quartiles = statistics.quantiles(ratios, n=4)
            click.echo(
                f"{case}: {quartiles[1]:.3f} of a hold without the line ({quartiles[0]:.3f} to {quartiles[2]:.3f})"
            )
        await _store(bench, venue, partition)


def _compare(bench: Bench, venue: Venue, partition: int, rounds: int) -> dict[str, list[float]]:
    """The paired ratios of each case to the script without the line; A/A is that script to itself."""
    whole, cut = lua.load("hold_places"), without_line()
    bench.pipe.ask("SCRIPT", "LOAD", cut.source)
    trail = partition_key(partition, "trail")
    cases = {"A/A": cut, "with a trail": whole, "switched off": whole}
    ratios: dict[str, list[float]] = {case: [] for case in cases}
    venue.load()
    bench.pipe.send([venue.hold_wire("0:1;0*1")])  # without a hold no claim is the usual one
    for _ in range(rounds):
        base = _burst(bench, venue, cut)
        for case, script in cases.items():
            if case == "switched off":
                bench.client.rename(trail, trail + b":aside")
            ratios[case].append(_burst(bench, venue, script) / base)
            if case == "switched off":
                bench.client.rename(trail + b":aside", trail)
        bench.client.xtrim(trail, maxlen=0, approximate=False)
    venue.check_held(1 + BURST * rounds * 4)
    click.echo(f"script without the line: {base / BURST * 1e6:.1f} us of the server's time in the last round")
    return ratios


def _burst(bench: Bench, venue: Venue, script: lua.Script) -> float:
    keys = venue.keys("hold_places")
    return bench.pipe.burst(
        [pack_evalsha(script.sha, keys, venue.hold_arguments("0:1;0*1")) for _ in range(BURST)]
    ).cpu_s


def without_line() -> lua.Script:
    """``hold_places`` whose usual claim leaves no line in the trail."""
    script = lua.load("hold_places")
    source, count = LINE.subn(b"", script.source)
    assert count == 1, f"the script has changed: there are {count} lines to cut out, not one"
    return msgspec.structs.replace(script, source=source, sha=hashlib.sha1(source).hexdigest().encode())


async def _store(bench: Bench, venue: Venue, partition: int) -> None:
    """Lines per second into Postgres, and bytes of a hold on either side."""
    trail, settings = partition_key(partition, "trail"), bench.settings
    venue.forget()
    venue.load()
    ids = [argument for _ in range(STORED) for argument in venue.hold_arguments("0:1;0*1")[3:4]]
    bench.pipe.send([venue.hold_wire("0:1;0*1", hold_id=hold_id.decode()) for hold_id in ids])
    used = bench.client.memory_usage(trail, samples=0)
    assert used is not None
    click.echo(f"{used / bench.client.xlen(trail):.0f} bytes a line in Redis")
    bench.pipe.send([venue.release_wire(hold_id.decode()) for hold_id in ids])
    lines = bench.client.xlen(trail)
    assert settings.redis_url is not None
    transport, database = await open_transport(settings.redis_url), _open(settings)
    kernel = Kernel(transport, partitions=PARTITIONS)
    began, stored = time.perf_counter(), 0
    while step := await store_trail(kernel, database, partition):
        stored += step
    elapsed_s = time.perf_counter() - began
    assert stored == lines, (stored, lines)
    click.echo(f"{stored / elapsed_s:,.0f} lines/s stored, {len(ids) / elapsed_s:,.0f} holds/s made and released")
    async with driver_connection(database) as connection:
        size, rows = await connection.fetchrow(
            "SELECT pg_total_relation_size('hold_history'), count(*) FROM hold_history"
        )
    click.echo(f"{size / rows:.0f} bytes a hold in Postgres, with its indexes, {rows:,} rows")
    began = time.perf_counter()
    purged = await purge_hold_history(database, older_than=dt.timedelta())
    click.echo(f"{purged / (time.perf_counter() - began):,.0f} rows/s purged")
    await database.dispose()
    await transport.aclose()


def _open(settings: Settings) -> AsyncEngine:
    assert settings.database_url is not None
    return open_database(settings.database_url)


if __name__ == "__main__":
    main()
