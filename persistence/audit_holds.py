"""Live holds: their records, their deadlines, and the places they add to the tally.

Where they are few enough, all of them are of the picture's moment. More are read in steps: then each is judged by
itself, by asking in an order that no race can deceive, and what they add up to is exact only if the event stood still.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from engine.events import SellableEvent
from engine.ids import claim_id_of
from engine.kernel import Kernel
from engine.loading import NEVER_MS
from engine.records import HoldRecord, pairs, parse_hold_record, scan_hash
from persistence.audit_customers import CustomerSums
from persistence.audit_picture import Picture, SeenRecord, deadline_of
from persistence.audit_tally import Tally
from persistence.differences import Difference, name_seat

BATCH = 500


class HoldsSide:
    """Judges the holds of one reading, and keeps the records that a repair has to do with."""

    def __init__(self, event: SellableEvent, tally: Tally, customers: CustomerSums) -> None:
        self.wrong: list[SeenRecord] = []
        self.unindexed: list[SeenRecord] = []
        self.lost: list[bytes] = []
        self._event = event
        self._event_id = event.event.id
        self._tally = tally
        self._customers = customers

    def of_picture(self, picture: Picture) -> Iterator[Difference]:
        """Count every hold of the picture in; yields what is wrong with records and deadlines."""
        assert picture.holds is not None
        assert picture.deadlines is not None
        for key, text in picture.holds.items():
            yield from self._judge(key, text, picture.deadlines.get(key))
        for key in picture.deadlines.keys() - picture.holds.keys():
            yield self._lost(key, picture.deadlines[key])
        yield from self.due(picture, min(picture.deadlines.values(), default=NEVER_MS))

    async def in_steps(self, kernel: Kernel) -> AsyncIterator[Sequence[Difference]]:
        """The same of holds that are too many to be read at once."""
        async for batch in scan_hash(kernel, self._event, "holds"):
            keys = [key for key, _ in batch]
            deadlines = await read_deadlines(kernel, self._event, keys)
            # What was extended or ended between the two has another record now, or none.
            still = await kernel.event_command(self._event, "HMGET", "holds", *keys)
            yield [
                difference
                for (key, text), now in zip(batch, still, strict=True)
                for difference in self._judge(key, text, deadlines.get(key) if now == text else None, skip=now != text)
            ]
        cursor = b"0"
        while True:
            cursor, flat = await kernel.event_command(self._event, "ZSCAN", "expiries", cursor, "COUNT", BATCH)
            keys = [key for key, _ in pairs(flat)]
            records = await kernel.event_command(self._event, "HMGET", "holds", *keys) if keys else []
            without = [key for key, record in zip(keys, records, strict=True) if record is None]
            deadlines = await read_deadlines(kernel, self._event, without)  # who was ended meanwhile has none any more
            yield [self._lost(key, deadline_ms) for key, deadline_ms in deadlines.items()]
            if cursor == b"0":
                return

    def due(self, picture: Picture, earliest_ms: int) -> Iterator[Difference]:
        """Whether the earliest deadline is what its two copies say."""
        due_ms = int(picture.state["due"])
        if due_ms != earliest_ms:
            yield Difference(self._event_id, "due_wrong", subject="due", redis=due_ms, ledger=earliest_ms)
        if (picture.wakeup_ms or NEVER_MS) != earliest_ms:
            yield Difference(
                self._event_id, "due_wrong", subject="wakeups", redis=picture.wakeup_ms, ledger=earliest_ms
            )

    def _judge(self, key: bytes, text: bytes, deadline_ms: int | None, *, skip: bool = False) -> Iterator[Difference]:
        """One hold; with *skip* it is only counted, for it has changed since it was read."""
        subject = claim_id_of(key.decode(errors="replace"), self._event_id)
        try:
            hold = parse_hold_record(key, text, deadline_ms)
            twice = self._tally.add("held", hold.places)
        except ValueError as error:
            self.wrong.append(SeenRecord(key, text))
            yield Difference(self._event_id, "record_wrong", subject=subject, redis=str(error))
            return
        self._customers.add(hold.owner, hold.quantity)
        if deadline_ms != hold.deadline_ms and not skip:
            self.unindexed.append(SeenRecord(key, text))
            wanted = hold.deadline_ms or None  # which only records of old say
            yield Difference(self._event_id, "expiry_wrong", subject=subject, redis=deadline_ms, ledger=wanted)
        for seat, leg in twice:
            section, label = name_seat(self._event.layout, seat)
            yield Difference(self._event_id, "claimed_twice", section, label, leg, subject, redis="held twice")

    def _lost(self, key: bytes, deadline_ms: int) -> Difference:
        self.lost.append(key)
        subject = claim_id_of(key.decode(errors="replace"), self._event_id)
        return Difference(self._event_id, "hold_lost", subject=subject, redis=deadline_ms)


def live_holds(picture: Picture) -> dict[bytes, tuple[HoldRecord, bytes]]:
    """The holds of a picture that can be read, with their texts."""
    found = {}
    deadlines = picture.deadlines or {}
    for key, text in (picture.holds or {}).items():
        try:
            found[key] = (parse_hold_record(key, text, deadlines.get(key)), text)
        except ValueError:
            continue  # a difference of its own, and not counted
    return found


async def read_deadlines(kernel: Kernel, event: SellableEvent, keys: Sequence[bytes]) -> Mapping[bytes, int]:
    """The deadlines of those holds that have one, by their keys."""
    if not keys:
        return {}
    scores = await kernel.event_command(event, "ZMSCORE", "expiries", *keys)
    return {key: deadline_of(score) for key, score in zip(keys, scores, strict=True) if score is not None}
