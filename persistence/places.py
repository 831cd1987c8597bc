"""An event's layout as rows: sections and seats for reports, and the counters that guard its counted sections."""

from collections.abc import Iterable
from typing import Any

from engine.layout import Layout

TIMEOUT_S = 60  # a million seats take a few seconds


async def replace_places(connection: Any, event_id: str, layout: Layout) -> None:
    """Write the rows of *layout* instead of what was there; nothing may have been sold.

    *connection* is asyncpg's own, inside the transaction that writes the event.
    """
    await connection.execute(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'")
    for table in ("sections", "seats", "usage"):
        statement = f"DELETE FROM {table} WHERE event_id = $1"  # noqa: S608 - names from the line above
        await connection.execute(statement, event_id, timeout=TIMEOUT_S)
    await _copy(
        connection,
        "sections",
        ("event_id", "index", "id", "seated", "capacity"),
        ((event_id, section.index, section.id, section.seated, section.capacity) for section in layout.sections),
    )
    await _copy(
        connection,
        "seats",
        ("event_id", "index", "section", "label"),
        (
            (event_id, seat, section.index, layout.seats[seat].label)
            for section in layout.sections
            if section.seated
            for seat in range(section.first_seat, section.first_seat + section.capacity)
        ),
    )
    await _copy(
        connection,
        "usage",
        ("event_id", "section", "leg", "capacity"),
        (
            (event_id, section.index, leg, section.capacity)
            for section in layout.sections
            if not section.seated
            for leg in range(layout.legs)
        ),
    )


async def _copy(connection: Any, table: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    await connection.copy_records_to_table(table, columns=columns, records=rows, timeout=TIMEOUT_S)
