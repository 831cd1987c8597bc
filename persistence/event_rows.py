"""Rows of the table ``events``, written from definitions and read as events."""

from typing import Any

import msgspec

from engine.definition import EventDefinition
from engine.events import Event, event_end_at
from engine.layout import Layout
from persistence.database import Row

_decode_definition = msgspec.json.Decoder(EventDefinition).decode
_encode_definition = msgspec.json.Encoder().encode


def event_from_row(row: Row) -> Event:
    """The event of a row."""
    return Event(
        id=row["id"],
        organizer_id=row["organizer_id"],
        status=row["status"],
        version=row["version"],
        epoch=row["epoch"],
        definition=_decode_definition(row["definition"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def event_values(definition: EventDefinition, layout: Layout) -> dict[str, Any]:
    """The columns that follow from the definition."""
    return {
        "group_id": definition.group,
        "name": definition.name,
        "starts_at": definition.starts_at,
        "ends_at": definition.ends_at,
        "currency": definition.currency,
        "definition": _encode_definition(definition).decode(),
        "layout_digest": layout.digest,
        "aftercare_at": event_end_at(definition),
    }
