"""What the fault tests measured: printed as a table, kept as JSON, and put into docs/faults.md between its markers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from checker import Figures

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "faults.json"
DOCUMENT = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- results: written by make faults -->", "<!-- end of results -->"
COLUMNS = ("F", "fault", "operations", "acknowledged", "lost", "duplicates", "unknown", "s to recover", "besides")


class Row(msgspec.Struct, kw_only=True):
    """One line of the table; *besides* is what else was measured, in words."""

    number: int
    name: str
    operations: int
    acknowledged: int
    lost: int
    duplicates: int
    unknown: int
    recovery_s: float | None
    besides: str


def make_row(number: int, name: str, figures: Figures, besides: str) -> Row:
    """The line of a fault after which the checker ran."""
    recovery_s = figures.recovery_s
    return Row(
        number=number,
        name=name,
        operations=figures.operations,
        acknowledged=figures.acknowledged,
        lost=figures.lost,
        duplicates=figures.duplicates,
        unknown=figures.unknown,
        recovery_s=None if recovery_s is None or math.isinf(recovery_s) else round(recovery_s, 2),
        besides=besides,
    )


def sort_rows(rows: Sequence[Row]) -> list[Row]:
    """In the order of the matrix."""
    return sorted(rows, key=lambda row: (row.number, row.name))


def table(rows: Sequence[Row]) -> str:
    """A table in Markdown, which is readable in a terminal too."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---:|---|" + "---:|" * 6 + "---|"]
    for row in sort_rows(rows):
        recovery = "" if row.recovery_s is None else f"{row.recovery_s:.1f}"
        counts = (row.operations, row.acknowledged, row.lost, row.duplicates, row.unknown)
        shown = (str(row.number), row.name, *(f"{count:,}" for count in counts), recovery, row.besides)
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def keep(rows: Sequence[Row], machine: str, seconds: float) -> None:
    """Write the results, and the document's table from them."""
    RESULTS.parent.mkdir(exist_ok=True)
    document: dict[str, Any] = {
        "machine": machine,
        "seconds": round(seconds),
        "rows": msgspec.to_builtins(sort_rows(rows)),
    }
    RESULTS.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    rewrite_document()


def rewrite_document() -> None:
    """Bring the document's table to what the results say."""
    text = DOCUMENT.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{results_text()}\n\n{END}{after}", encoding="utf-8")


def results_text() -> str:
    """What stands between the markers."""
    document = json.loads(RESULTS.read_text("utf-8"))
    rows = msgspec.convert(document["rows"], list[Row])
    return f"{table(rows)}\n\nMeasured on {document['machine']}, all of it in {document['seconds']} s."
