"""Overload at several bounds and multiples of the capacity, a line each; the goal is ``measure_overload.py``'s."""

from collections.abc import Sequence

import click
import msgspec
import uvloop
from bench import open_bench
from harness import QUICK
from measure_overload import UNBOUNDED, see


async def _explore(bounds: Sequence[int], factors: Sequence[float], rounds: int, case: str) -> None:
    async with open_bench(QUICK) as bench:
        variants = {str(bound): msgspec.structs.replace(bench.settings, in_flight=bound) for bound in bounds}
        seen = await see(bench, variants, factors, rounds=rounds, case=case)
    for (name, _), every in seen.items():
        for one in every:
            print(f"{case}, bound {name:>5}: {one}")


@click.command()
@click.option("--in-flight", "bounds", multiple=True, type=int, default=(16, 32, 64, 128, 256, UNBOUNDED))
@click.option("--factor", "factors", multiple=True, type=float, default=(0.7, 2.0))
@click.option("--rounds", default=1)
@click.option("--case", default="holds")
def main(bounds: Sequence[int], factors: Sequence[float], rounds: int, case: str) -> None:
    """Print what came of each bound and multiple."""
    uvloop.run(_explore(bounds, factors, rounds, case))


if __name__ == "__main__":
    main()
