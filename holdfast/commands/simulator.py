"""``holdfast simulator``."""

import click

from holdfast.cli import run_async, settings_from
from holdfast.logs import configure_logs
from holdfast.processes import bind_listener
from holdfast.simulator.process import WEBHOOK_PATH, simulate


@click.command("simulator", short_help="Simulate a payment provider, for development.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8001, show_default=True, help="0 takes a free one.")
@click.option("--webhook-url", metavar="URL", help="Where Holdfast takes its webhooks; by default at 127.0.0.1:8000.")
@click.option("--fail-rate", type=click.FloatRange(0.0, 1.0), default=0.0, help="Of calls that are answered 503.")
@click.option("--seed", type=int, default=0, help="Which calls these are.")
@click.pass_context
@run_async
async def command(context: click.Context, port: int, webhook_url: str | None, fail_rate: float, seed: int) -> None:
    """Simulate a payment provider, for development: it moves no money, and forgets all when it ends.

    `holdfast serve` runs one by itself where nothing else is configured. Its answers go by the payment's method:
    sim_ok, sim_declined, sim_slow_<ms>, sim_timeout, sim_redirect, sim_late_ok, sim_twice.
    """
    settings = settings_from(context)
    configure_logs(settings.log_level)
    with bind_listener("127.0.0.1", port) as listener:
        click.echo(f"simulating payments at http://127.0.0.1:{listener.getsockname()[1]}")
        url = webhook_url or f"http://127.0.0.1:{settings.port}{WEBHOOK_PATH}"
        await simulate(settings, listener, webhook_url=url, fail_rate=fail_rate, seed=seed)
