"""A picture of a run: every goal's figure with its quartiles, as a multiple of what it must be."""

from collections.abc import Mapping
from html import escape
from math import log10
from pathlib import Path

from harness import Result
from report import Report

ROW, LEFT, WIDTH, TOP = 22, 360, 420, 40
DECADES = (-1.0, 1.0)  # a tenth of the goal to ten times as good
_COLOURS = {"aim": "#1a7f37", "must": "#9a6700", "missed": "#cf222e"}


def write_plot(reports: Mapping[str, Report], path: Path) -> None:
    """As SVG, without any library: right of the line is as good as it must be, or better."""
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
