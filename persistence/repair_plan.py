"""What is to be done about what a reading has found: from its evidence to operations of ``repair_event``. Pure.

Ledger and journal win over Redis's records, records over bitmaps and counters, bookings over holds, and an older hold
over a newer one. The operations come in an order in which nothing is opened before it is known to be free: what takes
places away from sale first, then records, then what gives places back. So a repair that stops half-way leaves too
little on sale, never too much.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from engine.events import SellableEvent
from engine.places import NumberedPlaces, Places
from engine.records import HoldRecord, booking_text
from persistence.audit_holds import live_holds
from persistence.audit_picture import SeenRecord
from persistence.audit_reading import Dispute, Evidence
from persistence.audit_tally import Tally, cells_without
from persistence.differences import Difference

CLEAR_WEIGHT = 6  # a freed seat's block is looked up in the index of neighbours: some 30 us, a counter takes 2

Identity = tuple[object, ...]


class Operation(msgspec.Struct, frozen=True):
    """One argument of ``repair_event``; *weight* is in proportion to the server's time that it takes."""

    text: bytes
    weight: int = 1


def unset_cells(evidence: Evidence) -> set[int]:
    """Cells that a booking has and that look free; who has them must be looked up before a plan is made."""
    if not evidence.exact.sold:
        return set()
    cells = evidence.tally.cells
    return set(cells_without(cells["sold"], evidence.picture.sold, cells["disputed"]))


def plan_repair(
    event: SellableEvent,
    evidence: Evidence,
    confirmed: Sequence[Difference],
    owners: Mapping[int, SeenRecord],
) -> list[Operation]:
    """The operations for what was *confirmed*; *owners* are those of :func:`unset_cells`, as far as they were found.

    Records that no script can read go first, and alone: what they leave behind is seen when they are gone.
    """
    wrong = [(b"drop_booking", seen) for seen in evidence.wrong_bookings]
    wrong += [(b"drop_hold", seen) for seen in evidence.wrong_holds]
    if wrong:
        return [_on_record(verb, seen) for verb, seen in wrong]
    return list(_Planner(event, evidence, {difference.identity for difference in confirmed}).plan(confirmed, owners))


class _Planner:
    def __init__(self, event: SellableEvent, evidence: Evidence, confirmed: Collection[Identity]) -> None:
        self._event = event
        self._evidence = evidence
        self._picture = evidence.picture
        self._exact = evidence.exact
        self._disputes = [one for one in evidence.disputes if one.difference.identity in confirmed]
        self._open = [one for one in evidence.disputes if one.difference.identity not in confirmed]
        self._after = Tally(event.event.id, event.layout)  # what there will be
        self._ended: list[SeenRecord] = []
        self._explained: Counter[tuple[int, int]] = Counter()  # of the surplus of each counter of what is sold
        self._holders: list[tuple[HoldRecord, SeenRecord]] = []
        self._settle_bookings()
        self._settle_holds()

    def plan(self, confirmed: Sequence[Difference], owners: Mapping[int, SeenRecord]) -> Iterator[Operation]:
        counts = dict(self._counts())
        scarcer = {field: delta for field, delta in counts.items() if field.startswith("free:") and delta < 0}
        yield from self._totals(confirmed)
        yield from map(_count, scarcer.items())
        yield from map(self._on_booking, self._disputes)
        yield from self._marks(confirmed)
        for hold in self._ended:
            yield _on_record(b"end_hold", hold)
        ended = set(self._ended)
        for hold in self._evidence.unindexed:
            if hold not in ended:
                yield _on_record(b"index", hold)
        for key in self._evidence.lost:
            yield Operation(b"unindex|" + key)
        yield from self._set_cells(owners)
        yield from self._clear_cells()
        yield from map(_count, (counts.items() - scarcer.items()))

    def _settle_bookings(self) -> None:
        tally = self._evidence.tally
        self._after.cells["sold"] = bytearray(tally.cells["sold"])
        self._after.counts.update({key: count for key, count in tally.counts.items() if key[0] == "sold"})
        for dispute in self._disputes:
            if dispute.wanted is not None:
                self._after.add("sold", dispute.wanted.places)
        for dispute in self._open:
            for places in dispute.places:
                self._after.add("disputed", places)

    def _settle_holds(self) -> None:
        """Let holds keep their places, the oldest first, as long as nobody has a better right to them."""
        if self._picture.holds is None:  # too many to be kept: they are counted, and none is judged
            tally = self._evidence.tally
            self._after.cells["held"] = bytearray(tally.cells["held"])
            self._after.counts.update({key: count for key, count in tally.counts.items() if key[0] == "held"})
            return
        booked = {dispute.key for dispute in self._disputes if dispute.wanted is not None}
        holds = sorted(live_holds(self._picture).items(), key=lambda item: (item[1][0].created_ms, item[0]))
        for key, (hold, text) in holds:
            seen = SeenRecord(key, text)
            if hold.key in booked or (self._exact.sold and self._is_taken(hold.places)):
                self._ended.append(seen)
            else:
                self._after.add("held", hold.places)
                self._holders.append((hold, seen))

    def _is_taken(self, places: Places) -> bool:
        after = self._after
        return (
            after.has("sold", places)
            or after.has("held", places)
            or any(
                after.counts["sold", item.section, leg] + after.counts["held", item.section, leg] + item.quantity
                > self._event.layout.sections[item.section].capacity
                for item in places.items
                for leg in range(places.first_leg, places.last_leg)
            )
        )

    def _on_booking(self, dispute: Dispute) -> Operation:
        key, text = dispute.key.encode(), dispute.text
        if dispute.wanted is None:
            assert text is not None
            return Operation(b"unbook|%b|%d|%b" % (key, self._is_in_counters(dispute.places[0], unknown=True), text), 2)
        new, weight = booking_text(dispute.wanted), 2 + _cell_count(dispute.wanted.places)
        if text is None:
            is_new = not self._is_in_counters(dispute.wanted.places, unknown=False)
            return Operation(b"book|%b|%d|%b" % (key, is_new, new), weight)
        return Operation(b"rebook|%b|%d|%b%b" % (key, len(text), text, new), weight)

    def _is_in_counters(self, places: Places, *, unknown: bool) -> bool:
        """Whether the counters of what is sold go beyond the records by these *places*; *unknown* where none can tell.

        Customers' totals are not in the picture. They are written in the same step as the counters, so where a booking
        is counted there, it is most likely counted here; what is not will be found in a moment when nothing changes.
        """
        if not self._exact.sold:
            return unknown
        wanted = Counter(
            {
                (item.section, leg): item.quantity
                for item in places.items
                for leg in range(places.first_leg, places.last_leg)
            }
        )
        if any(self._surplus(place) < quantity for place, quantity in wanted.items()):
            return False
        self._explained.update(wanted)
        return True

    def _surplus(self, place: tuple[int, int]) -> int:
        section, leg = place
        counted = self._picture.counter(f"sold:{section}:{leg}") - self._picture.kept(section, leg)
        return counted - self._evidence.tally.counts["sold", section, leg] - self._explained[place]

    def _totals(self, confirmed: Sequence[Difference]) -> Iterator[Operation]:
        for one in confirmed:
            if one.kind == "customer_wrong":
                yield Operation(f"total|{one.redis}|{one.ledger}|{one.subject}".encode())

    def _marks(self, confirmed: Sequence[Difference]) -> Iterator[Operation]:
        for one in confirmed:
            if one.kind == "mark_wrong" and one.subject == "off_sale":
                yield Operation(b"count_marks|%d" % (int(one.ledger or 0) - int(one.redis or 0)))
            elif one.kind == "mark_wrong":
                key = (one.subject or "").partition("~")[0]
                yield Operation(f"mark|{key}".encode())

    def _set_cells(self, owners: Mapping[int, SeenRecord]) -> Iterator[Operation]:
        for cell in sorted(owners):
            yield _on_record(b"set_sold|%d" % cell, owners[cell])
        if not self._exact.held:
            return
        unset = set(cells_without(self._after.cells["held"], self._picture.held))
        for hold, seen in self._holders if unset else ():
            for cell in sorted(unset.intersection(_cells(hold.places, self._event.layout.legs))):
                yield _on_record(b"set_held|%d" % cell, seen)

    def _clear_cells(self) -> Iterator[Operation]:
        after, picture = self._after.cells, self._picture
        if self._exact.held:
            for cell in sorted(cells_without(picture.held, after["held"])):
                yield Operation(b"clear_held|%d" % cell, CLEAR_WEIGHT)
        if self._exact.sold:
            for cell in sorted(cells_without(picture.sold, after["sold"], after["disputed"])):
                yield Operation(b"clear_sold|%d" % cell, CLEAR_WEIGHT)

    def _counts(self) -> Iterator[tuple[str, int]]:
        """The counters that are off, and by how much; not those that an unconfirmed booking concerns."""
        counts, exact = self._after.counts, self._exact
        for section in self._event.layout.sections:
            for leg in range(self._event.layout.legs):
                place = f"{section.index}:{leg}"
                said = {kind: self._picture.counter(f"{kind}:{place}") for kind in ("free", "held", "sold")}
                wanted = dict(said)
                if exact.held:
                    wanted["held"] = counts["held", section.index, leg]
                if exact.sold and not counts["disputed", section.index, leg]:
                    wanted["sold"] = counts["sold", section.index, leg]
                    # What holds have is perhaps not known: then no more is given back than was sold too much.
                    wanted["free"] = said["free"] + said["sold"] - wanted["sold"]
                    if exact.held:
                        wanted["free"] = section.capacity - wanted["held"] - wanted["sold"]
                    if kept := self._picture.kept(section.index, leg):
                        yield f"kept:{place}", -kept
                for kind, number in wanted.items():
                    if delta := number - said[kind]:
                        yield f"{kind}:{place}", delta


def _on_record(verb: bytes, seen: SeenRecord) -> Operation:
    return Operation(b"%b|%b|%b" % (verb, seen.key, seen.text), 2)


def _count(change: tuple[str, int]) -> Operation:
    return Operation(f"count|{change[0]}|{change[1]}".encode())


def _cells(places: Places, legs: int) -> Iterator[int]:
    for item in places.items:
        if isinstance(item, NumberedPlaces):
            for seat in item.seats:
                yield from range(seat * legs + places.first_leg, seat * legs + places.last_leg)


def _cell_count(places: Places) -> int:
    return sum(1 for _ in _cells(places, 1 << 32))
