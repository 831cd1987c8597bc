"""What memory costs that was not touched for a while: ``python loadtests/measure_memory_of_host.py [--pause 8]``.

Hosts of virtual machines may take pages away that nobody uses, and give them back when they are touched: to whoever
touches them, time stands still. Latencies of the first calls after a pause, and of data that grows, have that in them,
whatever program it is. Compare it with them before you look for the reason anywhere else.
"""

import mmap
import random
import statistics
import time
from collections.abc import Sequence

import click

SIZE = 64 << 20
PAGE = mmap.PAGESIZE
TOUCHED = 1_000  # pages, each in another place
ROUNDS = 3


@click.command(help="What it costs to touch memory again, by how long it was left alone.")
@click.option("--pause", default=8.0, show_default=True, type=click.FloatRange(0.1, 600), help="In seconds.")
def program(pause: float) -> None:
    """Print microseconds a page, at once and after the pause."""
    hot, cold = list[float](), list[float]()
    with mmap.mmap(-1, SIZE) as memory:
        for start in range(0, SIZE, PAGE):
            memory[start] = 1
        for _ in range(ROUNDS):
            pages = random.sample(range(SIZE // PAGE), TOUCHED)
            _touch(memory, pages)
            hot += _touch(memory, pages)
            time.sleep(pause)
            cold += _touch(memory, pages)
    for name, found in (("at once", hot), (f"after {pause:g} s", cold)):
        spread = statistics.quantiles(found, n=100)
        click.echo(
            f"{name}: {statistics.fmean(found):.1f} µs a page, median {spread[49]:.1f}, p99 {spread[98]:.0f}, "
            f"longest {max(found):.0f}"
        )


def _touch(memory: mmap.mmap, pages: Sequence[int]) -> list[float]:
    """Microseconds that each took."""
    took = list[float]()
    for page in pages:
        began = time.perf_counter()
        memory[page * PAGE]  # reading it is touching it
        took.append((time.perf_counter() - began) * 1e6)
    return took


if __name__ == "__main__":
    program()
