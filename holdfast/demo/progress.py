"""How far the demo is: a line for what is done, and for the crowd bars on a terminal, elsewhere lines."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from holdfast.counted import counted
from holdfast.demo.tally import Tally

BAR_EVERY_S = 0.2
LINE_EVERY_S = 2.0


def print_step(console: Console, what: str, how: str) -> None:
    """Say that something is done."""
    console.print(f"[bold green]✓[/] [bold]{what:8}[/]  {how}")


@asynccontextmanager
async def shown_progress(console: Console, tally: Tally, *, buyers: int) -> AsyncIterator[None]:
    """Show *tally* as it fills, until the end of the block."""
    console.print()
    show = _show_bars if console.is_terminal else _show_lines
    showing = asyncio.create_task(show(console, tally, buyers))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _show_bars(console: Console, tally: Tally, buyers: int) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}", justify="right"),
        TextColumn("[dim]{task.fields[what]}"),
    )
    with Progress(*columns, console=console, auto_refresh=False, expand=True) as progress:
        crowd = progress.add_task("[bold]Buyers", total=buyers, what="through")
        bars = [progress.add_task(books.event.title, total=books.event.places, what="sold") for books in tally.events]
        try:
            while True:
                _refresh(progress, tally, crowd, bars)
                await asyncio.sleep(BAR_EVERY_S)
        finally:
            _refresh(progress, tally, crowd, bars)


def _refresh(progress: Progress, tally: Tally, crowd: TaskID, bars: list[TaskID]) -> None:
    progress.update(crowd, completed=tally.buyers_done)
    for bar, books in zip(bars, tally.events, strict=True):
        progress.update(bar, completed=books.places_sold)
    progress.refresh()


async def _show_lines(console: Console, tally: Tally, buyers: int) -> None:
    began_s = time.monotonic()
    try:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            _print_line(console, tally, buyers, began_s)
    finally:
        _print_line(console, tally, buyers, began_s)


def _print_line(console: Console, tally: Tally, buyers: int, began_s: float) -> None:
    sold = ", ".join(f"{books.event.title} {books.places_sold:,} of {books.event.places:,}" for books in tally.events)
    console.print(
        f"{time.monotonic() - began_s:4.1f} s: {tally.buyers_done:,} of {counted(buyers, 'buyer')} through;"
        f" sold: {sold}",
        soft_wrap=True,
    )
