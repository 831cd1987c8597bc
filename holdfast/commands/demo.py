"""``holdfast demo``."""

from pathlib import Path

import click

from holdfast.cli import run_async


@click.command("demo", short_help="Sell a concert, a train and a festival to a crowd.")
@click.option("--buyers", type=click.IntRange(1, 100_000), default=2_000, show_default=True, help="How many come.")
@click.option(
    "--connections",
    type=click.IntRange(1, 1_000),
    default=32,
    show_default=True,
    help="HTTP connections they share; more of them only queue longer.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="What every buyer sets out to do depends on it.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Port to listen on.  [a free one]")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Keep the servers' data here.")
@click.option("--keep", is_flag=True, help="Leave the server running afterwards, with tokens and curl lines to try.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
@run_async
async def command(
    context: click.Context,
    buyers: int,
    connections: int,
    seed: int,
    port: int,
    data_dir: Path | None,
    keep: bool,
    as_json: bool,
) -> int:
    """Sell a concert, a train and a festival to a crowd, on real servers, and check every place sold."""
    from holdfast.demo.run import DemoOptions, run_demo  # here: an interrupt meets run_async, not half an import

    return await run_demo(
        DemoOptions(
            buyers=buyers,
            connections=connections,
            seed=seed,
            port=port,
            data_dir=data_dir or context.obj["data_dir"],
            keep=keep,
            as_json=as_json,
        )
    )
