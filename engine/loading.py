"""Building an event's state in Redis from what the ledger knows."""

import itertools
import struct
from functools import cache

from engine.definition import EventDefinition
from engine.events import Event
from engine.layout import Layout

RUNS = 16  # as in lua/include/rows.lua: runs of neighbours that the index tells apart
NEVER_MS = 9_000_000_000_000_000  # as in lua/include/bounds.lua


def closes_at_ms(definition: EventDefinition) -> int:
    """When sale ends by itself: ``sales_close_before`` seconds before the start, in ms of the Unix clock."""
    return int(definition.starts_at.timestamp() * 1000) - definition.policy.sales_close_before * 1000


def status_args(event: Event) -> list[bytes]:
    """The arguments of ``set_status`` that bring Redis to what *event* says."""
    return [event.status.encode(), b"%d" % closes_at_ms(event.definition), b"%d" % event.version]


def state_fields(event: Event, layout: Layout) -> list[bytes]:
    """Names and values of the state hash of an event of which nothing is taken yet."""
    policy = event.definition.policy
    fields: dict[str, object] = {
        "status": event.status,
        "version": event.version,
        "clock": 0,
        "due": NEVER_MS,
        "undone": 0,
        "repairs": 0,
        "off_sale": 0,
        "closes": closes_at_ms(event.definition),
        "layout": layout.digest,
        "legs": layout.legs,
        "seats": len(layout.seats),
        "blocks": len(layout.block_starts),
        "stride": rows_stride(layout),
        "max_hold": policy.max_places_per_hold,
        "max_customer": policy.max_places_per_customer,
        "ttl_max": policy.hold_ttl_max * 1000,
        "orphans": policy.orphan_seats,
    }
    for section in layout.sections:
        seat_count = section.capacity if section.seated else 0
        shape = (section.first_seat, seat_count, section.first_block, section.block_count)
        fields[f"section:{section.index}"] = ":".join(map(str, shape))
        for leg in range(layout.legs):
            fields[f"free:{section.index}:{leg}"] = section.capacity
            fields[f"held:{section.index}:{leg}"] = 0
            fields[f"sold:{section.index}:{leg}"] = 0
    return [str(part).encode() for pair in fields.items() for part in pair]


def rows_stride(layout: Layout) -> int:
    """Bytes of one run's bits in the index of neighbours."""
    return (len(layout.block_starts) + 7) // 8


def pack_rows(layout: Layout) -> bytes:
    """The index of neighbours of an empty venue, as lua/include/rows.lua describes it."""
    starts = [*layout.block_starts, len(layout.seats)]
    lengths = bytes(min(RUNS, end - start) for start, end in itertools.pairwise(starts))
    stride = rows_stride(layout)
    digits = lengths.ljust(8 * stride, b"\0")  # one for each bit; those behind the last block are 0
    runs = [int(b"0" + digits.translate(_has_run(run)), 2).to_bytes(stride) for run in range(1, RUNS + 1)]
    return b"".join(runs) + struct.pack(f">{len(starts)}I", *starts)


@cache
def _has_run(run: int) -> bytes:
    """For each length of a block, ``1`` if it has *run* seats side by side, else ``0``."""
    return bytes(b"01"[length >= run] for length in range(256))
