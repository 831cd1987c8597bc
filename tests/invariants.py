"""What must hold of an event's state in Redis at every moment, whatever was done to it."""

import itertools
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from engine.blocks import BLOCKED_OWNER, MARK
from engine.events import SellableEvent
from engine.keys import event_key, partition_key, partition_of
from engine.layout import Layout
from engine.loading import NEVER_MS, RUNS, rows_stride
from engine.places import NumberedPlaces, Places, format_places, parse_places

Cell = tuple[int, int]  # seat, leg


class StoredState:
    """All that Redis knows of one event, read in one transaction."""

    def __init__(self, client: Any, event: SellableEvent, *, partitions: int) -> None:
        event_id = event.event.id
        partition = partition_of(event_id, event.definition.group, partitions)

        def key(name: str) -> bytes:
            return event_key(partition, event_id, name)

        with client.pipeline(transaction=True) as pipeline:
            pipeline.hgetall(key("state")).hgetall(key("holds")).hgetall(key("bookings")).hgetall(key("users"))
            pipeline.zrange(key("expiries"), 0, -1, withscores=True)
            pipeline.get(key("held")).get(key("sold")).get(key("rows"))
            pipeline.zscore(partition_key(partition, "wakeups"), event_id)
            pipeline.sismember(partition_key(partition, "live"), event_id)
            state, holds, bookings, users, expiries, held, sold, rows, wakeup, live = pipeline.execute()
        self.layout: Layout = event.layout
        self.state = {field.decode(): value.decode() for field, value in state.items()}
        self.bookings = {key.decode(): _Claim(record.decode(), _BOOKING_FIELDS) for key, record in bookings.items()}
        self.users = {user.decode(): int(places) for user, places in users.items()}
        self.expiries = {hold_id.decode(): int(score) for hold_id, score in expiries}
        self.holds = {key.decode(): _hold_claim(record.decode()) for key, record in holds.items()}
        for hold_id, hold in self.holds.items():
            hold.deadline_ms = hold.deadline_ms or self.expiries.get(hold_id, 0)
        self.held = _cells(held or b"", event.layout)
        self.sold = _cells(sold or b"", event.layout)
        self.rows: bytes = rows or b""
        self.wakeup = None if wakeup is None else int(wakeup)
        self.live = bool(live)


def assert_consistent(client: Any, event: SellableEvent, *, partitions: int) -> StoredState:
    """Fail unless the event's parts agree with each other; returns what was read."""
    stored = StoredState(client, event, partitions=partitions)
    faults = list(find_faults(stored))
    assert not faults, "\n".join(faults)
    return stored


def find_faults(stored: StoredState) -> Iterator[str]:
    """Every way in which the parts of an event's state contradict each other."""
    assert stored.state, "the event is not loaded"
    yield from _double_claims(stored)
    yield from _wrong_cells("held", stored.held, stored.holds)
    yield from _wrong_cells("sold", stored.sold, stored.bookings)
    yield from _wrong_counters(stored)
    yield from _wrong_users(stored)
    yield from _wrong_marks(stored)
    yield from _wrong_deadlines(stored)
    yield from _wrong_rows(stored)


def cells_of(places: Places) -> Iterator[Cell]:
    """Every seat and leg that *places* take."""
    for item in places.items:
        if isinstance(item, NumberedPlaces):
            yield from itertools.product(item.seats, range(places.first_leg, places.last_leg))


def free_runs(layout: Layout, taken: set[Cell], legs: range) -> list[list[int]]:
    """The stretches of neighbours, in the order of the definition, that are free on all *legs*."""
    runs: list[list[int]] = []
    ends = [*layout.block_starts[1:], len(layout.seats)]
    for start, end in zip(layout.block_starts, ends, strict=True):
        runs.append([])
        for seat in range(start, end):
            if any((seat, leg) in taken for leg in legs):
                runs.append([])
            else:
                runs[-1].append(seat)
    return [run for run in runs if run]


def assert_best_choice(runs: list[list[int]], wanted: int, got: list[int], *, avoids_orphans: bool) -> None:
    """The rule: one stretch if there is one, the first in the order of the definition; else the fewest stretches."""
    assert len(set(got)) == wanted
    whole = [run for run in runs if len(run) >= wanted]
    if whole:
        without_orphan = [run for run in whole if len(run) != wanted + 1]
        first = (without_orphan or whole)[0] if avoids_orphans else whole[0]
        assert got == first[:wanted]
        return
    parts = [part for part in ([seat for seat in run if seat in got] for run in runs) if part]
    assert sum(map(len, parts)) == wanted
    lengths = sorted(map(len, runs), reverse=True)
    assert len(parts) == next(n for n, total in enumerate(itertools.accumulate(lengths), start=1) if total >= wanted)
    for part in parts:
        assert part[-1] - part[0] == len(part) - 1, "of each stretch, neighbours"


_HOLD_FIELDS = ("phase", "lifetime", "places", "owner")
_OLD_HOLD_FIELDS = ("phase", "created", "deadline", "quantity", "places", "owner")
_BOOKING_FIELDS = ("confirmed", "created", "journal_id", "attempt", "quantity", "places", "owner")


class _Claim:
    """A record of a hold or booking, taken apart."""

    def __init__(self, record: str, fields: tuple[str, ...]) -> None:
        values = dict(zip(fields, record.split("|", len(fields) - 1), strict=True))
        self.owner = values["owner"]
        self.places = parse_places(values["places"])
        self.quantity = int(values.get("quantity", self.places.quantity))
        self.created_ms = int(values.get("created", 0))
        self.deadline_ms = int(values.get("deadline", 0))  # of a hold; only old records say it themselves
        self.journal_id = values.get("journal_id", "")


def _hold_claim(record: str) -> _Claim:
    is_old = record.partition("|")[0] not in ("a", "p")
    return _Claim(record, _OLD_HOLD_FIELDS if is_old else _HOLD_FIELDS)


def _cells(bitmap: bytes, layout: Layout) -> set[Cell]:
    assert len(bitmap) == (len(layout.seats) * layout.legs + 7) // 8, "a bitmap has its full size from the beginning"
    cells = set()
    for number, byte in enumerate(bitmap):
        for bit in range(8) if byte else ():
            if byte & 0x80 >> bit:
                cells.add(divmod(number * 8 + bit, layout.legs))
    return cells


def _double_claims(stored: StoredState) -> Iterator[str]:
    owners: dict[Cell, list[str]] = defaultdict(list)
    for claim_id, claim in [*stored.holds.items(), *stored.bookings.items()]:
        for cell in cells_of(claim.places):
            owners[cell].append(claim_id)
    for cell, claim_ids in owners.items():
        if len(claim_ids) > 1:
            yield f"seat and leg {cell} are claimed by {claim_ids}"


def _wrong_cells(kind: str, bitmap: set[Cell], claims: dict[str, _Claim]) -> Iterator[str]:
    claimed = {cell for claim in claims.values() for cell in cells_of(claim.places)}
    for cell in sorted(bitmap ^ claimed):
        yield f"seat and leg {cell} are {kind} in {'the bitmap' if cell in bitmap else 'a record'} only"


def _wrong_counters(stored: StoredState) -> Iterator[str]:
    counts: Counter[tuple[str, int, int]] = Counter()
    for kind, claims in (("held", stored.holds), ("sold", stored.bookings)):
        for claim in claims.values():
            if claim.quantity != claim.places.quantity:
                yield f"a record says {claim.quantity} of {claim.places}"
            for item in claim.places.items:
                for leg in range(claim.places.first_leg, claim.places.last_leg):
                    counts[kind, item.section, leg] += item.quantity
    for section, leg in itertools.product(stored.layout.sections, range(stored.layout.legs)):
        held, sold = counts["held", section.index, leg], counts["sold", section.index, leg]
        expected = {"free": section.capacity - held - sold, "held": held, "sold": sold}
        found = {kind: int(stored.state[f"{kind}:{section.index}:{leg}"]) for kind in expected}
        if found != expected:
            yield f"counters of section {section.id!r}, leg {leg} are {found}, records make {expected}"
        if found["free"] < 0:
            yield f"section {section.id!r}, leg {leg} is oversold by {-found['free']}"


def _wrong_users(stored: StoredState) -> Iterator[str]:
    users: Counter[str] = Counter()
    for claim in [*stored.holds.values(), *stored.bookings.values()]:
        users[claim.owner] += claim.quantity
    if stored.users != users:
        yield f"users are {stored.users}, records make {dict(users)}"


def _wrong_marks(stored: StoredState) -> Iterator[str]:
    marks = {field: text for field, text in stored.state.items() if field.startswith(MARK)}
    blocks = {
        f"{MARK}{key}": booking.places for key, booking in stored.bookings.items() if booking.owner == BLOCKED_OWNER
    }
    if marks != {field: format_places(places) for field, places in blocks.items()}:
        yield f"places off sale are {marks}, records make {blocks}"
    if int(stored.state["off_sale"]) != len(marks):
        yield f"blocks are {stored.state['off_sale']}, and there are {len(marks)} marks"


def _wrong_deadlines(stored: StoredState) -> Iterator[str]:
    deadlines = {hold_id: hold.deadline_ms for hold_id, hold in stored.holds.items()}
    if stored.expiries != deadlines:
        yield f"expiries are {stored.expiries}, holds make {deadlines}"
    due = min(deadlines.values(), default=NEVER_MS)
    if int(stored.state["due"]) != due:
        yield f"due is {stored.state['due']}, the first deadline is {due}"
    if (stored.wakeup or NEVER_MS) != due:
        yield f"the wake-up is at {stored.wakeup}, the first deadline is {due}"
    if not stored.live:
        yield "the event is not in the partition's set of live events"


def _wrong_rows(stored: StoredState) -> Iterator[str]:
    """The index must never say that neighbours are not there when they are; the other way round costs only time."""
    layout = stored.layout
    starts = [*layout.block_starts, len(layout.seats)]
    stride = rows_stride(layout)
    if not layout.seats:
        return
    if stored.rows[RUNS * stride :] != struct.pack(f">{len(starts)}I", *starts):
        yield "the index of neighbours has lost the blocks"
    taken = stored.held | stored.sold
    longest: Counter[int] = Counter()
    block_of = [block for block, (a, b) in enumerate(itertools.pairwise(starts)) for _ in range(a, b)]
    for leg in range(layout.legs):
        for stretch in free_runs(layout, taken, range(leg, leg + 1)):
            block = block_of[stretch[0]]
            longest[block] = max(longest[block], len(stretch))
    for block, (start, end) in enumerate(itertools.pairwise(starts)):
        for run in range(1, RUNS + 1):
            position = (run - 1) * stride * 8 + block
            says = bool(stored.rows[position >> 3] & 0x80 >> (position & 7))
            if not says and run <= longest[block]:
                yield f"the index hides {run} free neighbours of block {block}"
            if says and run > end - start:
                yield f"the index says {run} neighbours of block {block}, which has {end - start} seats"
