"""Blocks of a draft whose layout changes: they keep their seats by name, whatever numbers these have from then on."""

import uuid
from typing import Any

import msgspec

from engine.claims import ClaimedItem, ItemRequest, describe_places, resolve_places
from engine.errors import InvalidRequest
from engine.layout import Layout
from engine.places import CountedPlaces, NumberedPlaces, Places, format_places

_FIND = """
    SELECT id, items, from_stop, to_stop FROM bookings
     WHERE event_id = $1 AND status = 'blocked' ORDER BY id FOR NO KEY UPDATE
"""
_CHANGE = """
    UPDATE bookings SET places = $2, first_leg = $3, last_leg = $4, items = $5::text::jsonb, updated_at = now()
     WHERE id = $1
"""
_FORGET_CLAIMS = "DELETE FROM claims WHERE event_id = $1"
_CLAIM = """
    INSERT INTO claims (event_id, seat, leg, booking_id)
    SELECT $1, seat, leg, $2 FROM unnest($3::int[]) AS seat CROSS JOIN generate_series($4::int, $5::int - 1) AS leg
"""
_USE = """
    UPDATE usage SET sold = sold + $3
     WHERE event_id = $1 AND section = $2 AND leg >= $4 AND leg < $5 AND sold + $3 <= capacity
"""
_decode_items = msgspec.json.Decoder(tuple[ClaimedItem, ...]).decode


async def replant_blocks(connection: Any, event_id: str, layout: Layout) -> None:
    """Give the blocks of a draft the places of *layout* that are called what theirs were.

    *connection* is asyncpg's own, inside the transaction that has written the rows of *layout*, with nothing sold.

    Raises:
        InvalidRequest: A block's places would not be there any more: it must be given back first.
    """
    rows = await connection.fetch(_FIND, event_id)
    if not rows:
        return
    await connection.execute(_FORGET_CLAIMS, event_id)
    for row in rows:
        items = [
            ItemRequest(item.section, seats=list(item.seats))
            if item.seats is not None
            else ItemRequest(item.section, quantity=item.quantity)
            for item in _decode_items(row["items"])
        ]
        try:
            places = resolve_places(layout, items, row["from_stop"], row["to_stop"])
        except InvalidRequest as error:
            raise _in_the_way(error.reason) from None
        await _plant(connection, event_id, row["id"], places, layout)


async def _plant(connection: Any, event_id: str, block_id: uuid.UUID, places: Places, layout: Layout) -> None:
    lines, _ = describe_places(layout, places)
    items = msgspec.json.encode(lines).decode()
    first_leg, last_leg = places.first_leg, places.last_leg
    await connection.execute(_CHANGE, block_id, format_places(places), first_leg, last_leg, items)
    for item in places.items:
        if isinstance(item, NumberedPlaces):
            await connection.execute(_CLAIM, event_id, block_id, list(item.seats), first_leg, last_leg)
        elif isinstance(item, CountedPlaces):
            used = await connection.execute(_USE, event_id, item.section, item.quantity, first_leg, last_leg)
            if used != f"UPDATE {last_leg - first_leg}":
                raise _in_the_way(f"section {layout.sections[item.section].id!r} has too few places for it")


def _in_the_way(reason: str) -> InvalidRequest:
    return InvalidRequest("$", f"a block of the event is in the way, give it back first: {reason}")
