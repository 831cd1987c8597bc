"""An outbox row as the world sees it: a CloudEvent in JSON, the same bytes however often it is sent."""

import datetime as dt
from typing import Any
from uuid import UUID

import msgspec

from engine.ids import claim_id, claim_key, reference_from_number

CONTENT_TYPE = "application/cloudevents+json"
DATA_VERSION = 1  # raised when a member of `data` changes its meaning or goes; a new member is no new version
SEQUENCE_DIGITS = 19  # of the largest row number, so that sequences compare as text


class OutboxRow(msgspec.Struct, frozen=True):
    """What happened to a booking, or to a hold: then ``number`` is ``None``. ``payload`` is JSON."""

    id: int
    booking_id: UUID
    number: int | None
    event_id: str
    type: str
    payload: str
    created_at: dt.datetime


def message_id(row: OutboxRow) -> str:
    """The event's id: unique over all installations, and the same at every repetition; receivers know it again by it.

    It has no full stop, which parts the signed text of a webhook.
    """
    return f"{claim_key(row.booking_id.int)}-{row.id}"


def envelope(row: OutboxRow) -> bytes:
    """The CloudEvent of *row* in the structured mode of JSON."""
    kind = row.type.partition(".")[0]
    subject = claim_id(row.booking_id.int, row.event_id)
    data: dict[str, Any] = {f"{kind}_id": subject, "event_id": row.event_id}
    if row.number is not None:
        data["reference"] = reference_from_number(row.number)
    data |= msgspec.json.decode(row.payload, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": message_id(row),
            "source": f"/v1/events/{row.event_id}",
            "type": row.type,
            "subject": subject,
            "time": row.created_at,
            "sequence": f"{row.id:0{SEQUENCE_DIGITS}d}",
            "dataschema": f"urn:x-holdfast:{kind}:{DATA_VERSION}",
            "datacontenttype": "application/json",
            "data": data,
        }
    )
