"""The usual batch of bookings in one round trip to Postgres, as the scripts have a straight path for the usual claim.

A round trip costs Postgres next to nothing, and us whatever the event loop does in between: under load the five of a
transaction took longer than its work. ``holdfast_write_usual_bookings`` (migration 0011) does what
``persistence.ledger_batch`` does step by step, in the same order of locks, as long as there is nothing to refuse;
whatever is not usual ends it with nothing written, and is left to that module.
"""

import binascii
import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from persistence.database import sqlstate
from persistence.ledger_entries import ReadyEntry

_WRITE = "SELECT made_id, made_number FROM holdfast_write_usual_bookings($1, $2, $3, $4, $5, $6, $7)"
_UNUSUAL = ("HF001", "23505")  # our own; a booking, a key, a seat or a customer's one booking is there already
# An entry that comes later may be of an event at whose bookings nobody looks any more: see ledger_batch. That is a day
# after its end; such entries come from journals that have waited for Postgres, and from retried dead letters.
USUAL_FOR = dt.timedelta(hours=1)
LANES = 64  # few enough for Postgres's table of locks whatever is in a batch
LANES_CLASS = 7201  # of advisory locks; as in migrations 0010 and 0011

Counter = tuple[str, int, int]
"""A row of ``usage``: event, section, leg."""

_encode = msgspec.json.Encoder().encode


async def write_straight(connection: Any, batch: Sequence[ReadyEntry]) -> dict[uuid.UUID, int] | None:
    """Write *batch*, durably: the numbers of its bookings. ``None`` if it is not a usual one, and nothing is written.

    A statement by itself is a transaction: it is committed when its answer is there. Within a transaction of the
    caller's its failure would be that one's end, so there no batch is usual.
    """
    late = dt.datetime.now(dt.UTC) - USUAL_FOR
    if connection.is_in_transaction() or any(one.is_paid or one.row["updated_at"] < late for one in batch):
        return None
    epochs = sorted({(one.entry.event_id, one.entry.epoch) for one in batch})
    ordered = sorted(batch, key=_uuid_number)
    try:
        rows = await connection.fetch(
            _WRITE,
            lanes_of(batch),
            as_json([{"event_id": event_id, "epoch": epoch} for event_id, epoch in epochs]),
            [one.id for one in ordered],
            bookings_as_json(ordered),
            _as_json_if_any(_keys_of(batch)),
            _as_json_if_any(claims_of(batch)),
            _as_json_if_any(_counts_of(batch)),
        )
    except asyncpg.PostgresError as error:
        if sqlstate(error) not in _UNUSUAL:
            raise
        return None
    return dict(rows)


def bookings_as_json(batch: Iterable[ReadyEntry]) -> str:
    """What ``holdfast_insert_bookings`` takes; bytes are in base64 in it."""
    return as_json(
        [
            one.row | {"actor": one.actor, "role": one.details.role, "request_id": one.details.request_id}
            for one in batch
        ]
    )


def claims_of(batch: Iterable[ReadyEntry]) -> list[dict[str, Any]]:
    """The rows of ``claims``, in their order."""
    cells = sorted((one.entry.event_id, seat, leg, one.id) for one in batch for seat, leg in one.cells)
    return [
        {"event_id": event_id, "seat": seat, "leg": leg, "booking_id": booking_id}
        for event_id, seat, leg, booking_id in cells
    ]


def lanes_of(batch: Iterable[ReadyEntry]) -> list[int]:
    """The lanes of the batch's events, in the order in which they are locked."""
    return sorted({binascii.crc32(one.entry.event_id.encode()) % LANES for one in batch})


def counters_of(one: ReadyEntry) -> Iterable[tuple[Counter, int]]:
    """What the entry adds to which row of ``usage``."""
    for section, quantity in one.counts:
        for leg in range(one.row["first_leg"], one.row["last_leg"]):
            yield (one.entry.event_id, section, leg), quantity


def as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """As the driver takes JSON. Of arrays it looks at every value by itself, and there are two dozen to a booking."""
    return _encode(rows).decode()


def _as_json_if_any(rows: Sequence[Mapping[str, Any]]) -> str | None:
    return as_json(rows) if rows else None


def _uuid_number(one: ReadyEntry) -> int:
    return one.id.int


def _keys_of(batch: Iterable[ReadyEntry]) -> list[dict[str, Any]]:
    keyed = sorted((one for one in batch if one.entry.once), key=lambda one: one.entry.once)
    return [{"scope": one.entry.once, "body_digest": one.entry.body_digest, "booking_id": one.id} for one in keyed]


def _counts_of(batch: Iterable[ReadyEntry]) -> list[dict[str, Any]]:
    raised: dict[Counter, int] = defaultdict(int)
    for one in batch:
        for counter, quantity in counters_of(one):
            raised[counter] += quantity
    return [
        {"event_id": event_id, "section": section, "leg": leg, "quantity": quantity}
        for (event_id, section, leg), quantity in sorted(raised.items())
    ]
