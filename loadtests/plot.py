"""Pictures of what was measured, as SVG, without any library.

Of a run of all goals: every figure with its quartiles, as a multiple of what it must be. Of an open load: lines against
the rate at which it arrived.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import log10
from pathlib import Path

import msgspec
from harness import Result
from report import Report

ROW, LEFT, WIDTH, TOP = 22, 360, 420, 40
DECADES = (-1.0, 1.0)  # a tenth of the goal to ten times as good
_COLOURS = {"aim": "#1a7f37", "must": "#9a6700", "missed": "#cf222e"}


PANEL_HEIGHT, PANEL_WIDTH, MARGIN = 220, 640, 60
_LINE_COLOURS = ("#0969da", "#bf3989", "#9a6700", "#57606a")


class Line(msgspec.Struct, frozen=True):
    """One line, through its points in their order."""

    name: str
    points: Sequence[tuple[float, float]]


class Panel(msgspec.Struct, frozen=True):
    """Lines that share their axes; the upright one counts in powers of ten if ``is_log``."""

    title: str
    lines: Sequence[Line]
    is_log: bool = False


def write_lines(panels: Sequence[Panel], path: Path) -> None:
    """Panels one below the other, over the same axis."""
    height = (PANEL_HEIGHT + MARGIN) * len(panels) + 20
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{PANEL_WIDTH + 2 * MARGIN + 80}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        pieces += _panel(panel, 40 + number * (PANEL_HEIGHT + MARGIN))
    path.write_text("\n".join((*pieces, "</svg>", "")), "utf-8")


def _panel(panel: Panel, top: float) -> list[str]:
    xs = [x for line in panel.lines for x, _ in line.points]
    ys = [_height(y, panel) for line in panel.lines for _, y in line.points]
    right, low, high = max(xs, default=1) or 1, min(0, *ys) if not panel.is_log else min(ys), max(ys)
    span = (high - low) or 1

    def place(x: float, y: float) -> str:
        return (
            f"{MARGIN + PANEL_WIDTH * x / right:.1f},{top + PANEL_HEIGHT * (1 - (_height(y, panel) - low) / span):.1f}"
        )

    pieces = [
        f'<text x="{MARGIN}" y="{top - 10}">{escape(panel.title)}</text>',
        f'<path d="M{MARGIN} {top}v{PANEL_HEIGHT}h{PANEL_WIDTH}" fill="none" stroke="#57606a"/>',
        f'<text x="{MARGIN + PANEL_WIDTH}" y="{top + PANEL_HEIGHT + 16}" text-anchor="end">{right:,.0f}</text>',
    ]
    for at, height in ((top + PANEL_HEIGHT, low), (top, high)):
        value = 10**height if panel.is_log else height
        pieces.append(f'<text x="{MARGIN - 6}" y="{at + 4:.1f}" text-anchor="end">{value:,.4g}</text>')
    for number, line in enumerate(panel.lines):
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        corners = " ".join(place(x, y) for x, y in line.points)
        pieces.append(f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = MARGIN + PANEL_WIDTH + 10
        pieces.append(f'<text x="{at}" y="{top + 16 * (number + 1)}" fill="{colour}">{escape(line.name)}</text>')
    return pieces


def _height(value: float, panel: Panel) -> float:
    return log10(max(value, 1e-3)) if panel.is_log else value


def write_plot(reports: Mapping[str, Report], path: Path) -> None:
    """Every goal of a run; right of the line is as good as it must be, or better."""
    results = [result for report in reports.values() for result in report.results if result.figure]
    height = TOP + ROW * len(results) + 30
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 110}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="18">how much better than it must be (log scale); | is the aim</text>',
    ]
    for times in (0.1, 0.25, 0.5, 1, 2, 4, 10):
        x = _x(times)
        colour, width = ("black", 1.5) if times == 1 else ("#ddd", 1)
        pieces.append(f'<path d="M{x:.1f} {TOP - 12}V{height - 24}" stroke="{colour}" stroke-width="{width}"/>')
        pieces.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{times:g}</text>')
    for number, result in enumerate(results):
        pieces += _row(result, TOP + ROW * number)
    path.write_text("\n".join((*pieces, "</svg>", "")), "utf-8")


def _row(result: Result, y: int) -> list[str]:
    goal, figure = result.goal, result.figure
    assert figure is not None
    colour = _COLOURS.get(result.verdict, "#57606a")
    name = escape(f"{goal.name} {goal.title}" + (f": {result.case}" if result.case else ""))
    row = [f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{_cut(name)}</text>']
    if goal.must:
        aim_x, x = _x(_goodness(result, goal.aim)), _x(_goodness(result, figure))
        row.append(f'<path d="M{aim_x:.1f} {y - 6}v12" stroke="#57606a" stroke-width="2"/>')
        if result.low is not None and result.high is not None:
            ends = sorted(_x(_goodness(result, value)) for value in (result.low, result.high))
            row.append(f'<path d="M{ends[0]:.1f} {y}H{ends[1]:.1f}" stroke="{colour}" stroke-width="3"/>')
        row.append(f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{colour}"/>')
    row.append(f'<text x="{LEFT + WIDTH + 10}" y="{y + 4}" fill="{colour}">{figure:.3g} {result.verdict}</text>')
    return row


def _goodness(result: Result, figure: float) -> float:
    """1 is as the goal must be; more is better, whichever way the goal points."""
    if figure <= 0:
        return 10.0
    return result.goal.must / figure if result.goal.is_ceiling else figure / result.goal.must


def _x(goodness: float) -> float:
    low, high = DECADES
    return LEFT + WIDTH * (min(max(log10(goodness), low), high) - low) / (high - low)


def _cut(name: str) -> str:
    return name if len(name) <= 58 else name[:57] + "…"
