"""``holdfast bench``."""

import click

from holdfast.cli import run_async


@click.command("bench", short_help="Measure holds and bookings a second on this machine.")
@click.option(
    "--seconds", type=click.IntRange(1, 60), default=5, show_default=True, help="How long to hold, and then to book."
)
@click.option(
    "--connections",
    type=click.IntRange(1, 512),
    default=64,
    show_default=True,
    help="HTTP connections that are kept busy; a worker refuses some of more than 64.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="API processes.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@run_async
async def command(seconds: int, connections: int, workers: int, as_json: bool) -> int:
    """Measure holds and bookings a second on this machine, and check every one of them.

    It starts a Valkey, a Postgres and a server of its own in a temporary directory, and removes them afterwards. No
    live installation is touched: REDIS_URL, DATABASE_URL, --data-dir and the HOLDFAST_ settings are ignored.

    At most 200,000 holds are made and 50,000 seats booked; a phase that gets there ends early. Client and servers share
    this machine, so it is worth more when idle. Exits with 1 when anything is oversold, lost, or otherwise wrong.
    """
    from holdfast.bench.run import BenchOptions, run_bench  # here: an interrupt meets run_async, not half an import

    return await run_bench(BenchOptions(seconds=seconds, connections=connections, workers=workers, as_json=as_json))
