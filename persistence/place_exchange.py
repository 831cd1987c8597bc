"""A booking's places exchanged in the ledger's guards: what it gains is claimed, what it gives up is free, or neither.

Locks are taken in the order of ``ledger_batch``. What is gained is inserted before anything is deleted, so that nobody
who wants one of the seats given up waits for this transaction while it waits for theirs.
"""

import itertools
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import PlacesUnavailable, UnavailablePlace
from engine.layout import Layout
from engine.places import CountedPlaces, NumberedPlaces, Places

Cell = tuple[int, int]  # seat, leg
CounterKey = tuple[int, int]  # section, leg

_CELLS = "unnest(CAST(:seats AS int[]), CAST(:legs AS smallint[])) AS given(seat, leg)"
_GAIN = sa.text(f"""
    INSERT INTO claims (event_id, seat, leg, booking_id)
    SELECT CAST(:event_id AS text), seat, leg, CAST(:booking_id AS uuid) FROM {_CELLS} ON CONFLICT DO NOTHING
""")  # noqa: S608 - made of the constant above
_TAKEN = sa.text(f"""
    SELECT DISTINCT seat FROM claims JOIN {_CELLS} USING (seat, leg)
     WHERE event_id = :event_id AND booking_id <> :booking_id ORDER BY seat
""")  # noqa: S608 - made of the constant above
_GIVE_UP = sa.text(f"""
    DELETE FROM claims USING {_CELLS}
     WHERE event_id = :event_id AND booking_id = :booking_id AND (claims.seat, claims.leg) = (given.seat, given.leg)
""")  # noqa: S608 - made of the constant above
_LOCK_USAGE = sa.text("""
    SELECT section, leg, capacity - sold AS free
      FROM usage JOIN unnest(CAST(:sections AS smallint[]), CAST(:legs AS smallint[])) AS given(section, leg)
           USING (section, leg)
     WHERE event_id = :event_id ORDER BY section, leg FOR NO KEY UPDATE OF usage
""")
_MOVE_USAGE = sa.text("""
    UPDATE usage SET sold = sold + given.delta
      FROM unnest(CAST(:sections AS smallint[]), CAST(:legs AS smallint[]), CAST(:deltas AS int[]))
           AS given(section, leg, delta)
     WHERE event_id = :event_id AND (usage.section, usage.leg) = (given.section, given.leg)
""")


async def exchange_places(
    connection: AsyncConnection,
    layout: Layout,
    *,
    event_id: str,
    booking_id: uuid.UUID,
    gained: Sequence[Places],
    given_up: Sequence[Places],
) -> None:
    """Exchange places of a booking that the caller's transaction has locked.

    Raises:
        PlacesUnavailable: Another booking has some of what is gained; the transaction must be rolled back.
    """
    owner = {"event_id": event_id, "booking_id": booking_id}
    if cells := sorted(_cells(gained)):
        arguments = owner | _columns(cells)
        if (await connection.execute(_GAIN, arguments)).rowcount < len(cells):
            taken = (await connection.execute(_TAKEN, arguments)).scalars().all()
            raise _unavailable([_name_seat(layout, seat) for seat in taken], len(taken))
    if cells := sorted(_cells(given_up)):
        await connection.execute(_GIVE_UP, owner | _columns(cells))
    await _move_usage(connection, layout, event_id, _deltas(gained, given_up))


async def _move_usage(connection: AsyncConnection, layout: Layout, event_id: str, deltas: Counter[CounterKey]) -> None:
    moved = sorted((key, delta) for key, delta in deltas.items() if delta)
    if not moved:
        return
    arguments = {
        "event_id": event_id,
        "sections": [section for (section, _), _ in moved],
        "legs": [leg for (_, leg), _ in moved],
    }
    locked = (await connection.execute(_LOCK_USAGE, arguments)).mappings().all()
    free = {(row["section"], row["leg"]): row["free"] for row in locked}
    short = {key: delta for key, delta in moved if free.get(key, 0) < delta}
    if short:
        places = [
            UnavailablePlace(layout.sections[section].id, requested=delta, free=free.get((section, leg), 0))
            for (section, leg), delta in short.items()
        ]
        raise _unavailable(list(dict.fromkeys(places)), sum(delta - free.get(key, 0) for key, delta in short.items()))
    await connection.execute(_MOVE_USAGE, arguments | {"deltas": [delta for _, delta in moved]})


def _cells(pieces: Iterable[Places]) -> Iterable[Cell]:
    for places in pieces:
        for item in places.items:
            if isinstance(item, NumberedPlaces):
                yield from itertools.product(item.seats, range(places.first_leg, places.last_leg))


def _columns(cells: Sequence[Cell]) -> dict[str, list[int]]:
    return {"seats": [seat for seat, _ in cells], "legs": [leg for _, leg in cells]}


def _deltas(gained: Iterable[Places], given_up: Iterable[Places]) -> Counter[CounterKey]:
    deltas: Counter[CounterKey] = Counter()
    for pieces, sign in ((gained, 1), (given_up, -1)):
        for places in pieces:
            for item in places.items:
                for leg in range(places.first_leg, places.last_leg) if isinstance(item, CountedPlaces) else ():
                    deltas[item.section, leg] += sign * item.quantity
    return deltas


def _name_seat(layout: Layout, seat: int) -> UnavailablePlace:
    return UnavailablePlace(layout.section_of_seat(seat).id, seat=layout.seats[seat].label)


def _unavailable(places: Sequence[UnavailablePlace], sold: int) -> PlacesUnavailable:
    return PlacesUnavailable(tuple(places), held=0, sold=sold, next_release_at=None)
