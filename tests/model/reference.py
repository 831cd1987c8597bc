"""What the kernel should do, in the plainest Python: claims in dictionaries, no bitmaps, no counters, no reaping."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from invariants import Cell, cells_of, free_runs

from engine.layout import Layout
from engine.places import BestPlaces, CountedPlaces, NumberedPlaces, Places, format_places

ENDED = {"EXPIRED", "RELEASED"}
# The seats that were chosen out of these stretches for a wish for so many.
Chooser = Callable[[int, list[list[int]], int], list[int]]


class Claim(msgspec.Struct):
    """A hold or booking."""

    owner: str
    places: Places
    created_ms: int
    deadline_ms: int = 0
    confirmed_ms: int = 0
    attempt: str = ""
    journaled: bool = False


class Limits(msgspec.Struct, frozen=True):
    """The event's policy as far as it concerns scripts."""

    per_hold: int
    per_customer: int
    ttl_max_ms: int


class Shortage(msgspec.Struct):
    """What is missing, as a refusal tells it."""

    held: int = 0
    sold: int = 0
    texts: list[str] = []


class Reference:
    """One event: who has what until when, what time it is, and what was answered before."""

    def __init__(self, layout: Layout, limits: Limits, *, now_ms: int) -> None:
        self.layout = layout
        self.limits = limits
        self.now_ms = now_ms
        self.epoch = 1
        self.status = "open"
        self.holds: dict[str, Claim] = {}
        self.bookings: dict[str, Claim] = {}
        self.ended: dict[str, tuple[str, str]] = {}
        self.answers: dict[str, tuple[str, list[Any]]] = {}

    # --- steps; each answers as the script should, but for numbers that only Redis can know ---------------------------

    def advance(self, ms: int) -> None:
        self.now_ms += ms
        for hold_id, hold in list(self.holds.items()):
            if hold.deadline_ms <= self.now_ms:
                self._end(hold_id, "EXPIRED")

    def hold(
        self, hold_id: str, owner: str, places: Places, ttl_ms: int, choose: Chooser, *, once: str, body: str
    ) -> list[Any]:
        if (replay := self._replay(once, body)) is not None:
            return replay
        if (again := self.holds.get(hold_id)) is None:
            if (refusal := self._refuse(owner, places)) is not None:
                return refusal
            deadline_ms = self.now_ms + min(ttl_ms, self.limits.ttl_max_ms)
            again = self.holds[hold_id] = Claim(owner, self._choose(places, choose), self.now_ms, deadline_ms)
        answer = [again.created_ms, again.deadline_ms, format_places(again.places)]
        if once:
            self.answers[once] = (body, ["REPLAYED", [hold_id, *answer]])
        return ["HELD", answer]

    def extend(self, hold_id: str, owner: str, ttl_ms: int) -> list[Any]:
        if (reason := self._not_live(hold_id, owner)) is not None:
            return [reason]
        hold = self.holds[hold_id]
        hold.deadline_ms = min(self.now_ms + ttl_ms, hold.created_ms + self.limits.ttl_max_ms)
        answer = ["EXTENDED", hold.created_ms, hold.deadline_ms, format_places(hold.places)]
        self.advance(0)  # an extension by nothing ends it
        return answer

    def read(self, hold_id: str, owner: str) -> list[Any]:
        if (reason := self._not_live(hold_id, owner)) is not None:
            return [reason]
        hold = self.holds[hold_id]
        return ["ACTIVE", hold.created_ms, hold.deadline_ms, format_places(hold.places)]

    def release(self, hold_id: str, owner: str) -> list[Any]:
        if (reason := self._not_live(hold_id, owner)) is not None:
            return ["ALREADY_RELEASED" if reason == "RELEASED" else reason]
        self._end(hold_id, "RELEASED")
        return ["RELEASED"]

    def confirm(self, hold_id: str, owner: str, attempt: str, *, once: str, body: str) -> list[Any]:
        known = self._replay(once, body) or self._booked_before(hold_id, owner, attempt)
        if known is not None:
            return known
        if (reason := self._not_live(hold_id, owner)) is not None:
            return [reason]
        if self.status == "cancelled":
            return ["NOT_OPEN", "cancelled"]
        hold = self.holds.pop(hold_id)
        return self._book(hold_id, hold, attempt, once, body)

    def book(
        self, booking_id: str, owner: str, places: Places, attempt: str, choose: Chooser, *, once: str, body: str
    ) -> list[Any]:
        known = self._replay(once, body) or self._booked_before(booking_id, owner, attempt)
        if known is not None:
            return known
        if self.ended.get(booking_id) == ("REFUSED", owner):
            return ["REFUSED"]
        if (refusal := self._refuse(owner, places)) is not None:
            # One event is asked, so the refusal does not number it.
            if refusal[0] == "UNAVAILABLE":
                return [*refusal[:4], *refusal[4][1:]]
            return [refusal[0], *refusal[2:]]
        claim = Claim(owner, self._choose(places, choose), self.now_ms)
        return self._book(booking_id, claim, attempt, once, body)

    def unbook(self, booking_id: str, *, refused_owner: str = "") -> list[Any]:
        if refused_owner:
            self.ended[booking_id] = ("REFUSED", refused_owner)
        return ["NOT_FOUND" if self.bookings.pop(booking_id, None) is None else "UNBOOKED"]

    def change(self, booking_id: str, places: Places) -> str:
        """What becomes of a wish that a booking should have *places*: they are to be had as if it had none."""
        booking = self.bookings.pop(booking_id)
        try:
            if self.status == "cancelled":
                return "NOT_OPEN"
            if places.quantity > booking.places.quantity:
                theirs = sum(claim.places.quantity for claim in self._claims() if claim.owner == booking.owner)
                beyond = theirs + places.quantity > self.limits.per_customer
                if beyond or places.quantity > self.limits.per_hold:
                    return "LIMIT"
            return "UNAVAILABLE" if self._shortage(places).texts else "RESERVED"
        finally:
            self.bookings[booking_id] = booking

    def reload(self, *, flushed: bool) -> None:
        """A new epoch: the ledger's bookings are all that is left, and nothing is known of how they were made."""
        self.epoch += 1
        self.holds.clear()
        for booking in self.bookings.values():
            booking.attempt, booking.journaled = "", booking.journaled and not flushed
        if flushed:
            self.ended.clear()
            self.answers.clear()

    # --- what follows from the claims ---------------------------------------------------------------------------------

    def taken(self, kind: str) -> dict[Cell, str]:
        claims = self.holds if kind == "held" else self.bookings
        return {cell: claim_id for claim_id, claim in claims.items() for cell in cells_of(claim.places)}

    def count(self, kind: str, section: int, leg: int) -> int:
        claims = self.holds if kind == "held" else self.bookings
        return sum(
            item.quantity
            for claim in claims.values()
            for item in claim.places.items
            if item.section == section and claim.places.first_leg <= leg < claim.places.last_leg
        )

    def _refuse(self, owner: str, places: Places) -> list[Any] | None:
        if self.status != "open":
            return ["NOT_OPEN", 1, self.status]
        if places.quantity > self.limits.per_hold:
            return ["LIMIT", 1, "max_places_per_hold", self.limits.per_hold]
        theirs = [claim for claim in self._claims() if claim.owner == owner]
        if sum(claim.places.quantity for claim in theirs) + places.quantity > self.limits.per_customer:
            return ["LIMIT", 1, "max_places_per_customer", self.limits.per_customer]
        shortage = self._shortage(places)
        if not shortage.texts:
            return None
        next_release_ms = min((hold.deadline_ms for hold in self.holds.values()), default=0)
        return ["UNAVAILABLE", shortage.held, shortage.sold, next_release_ms, [1, *shortage.texts]]

    def _shortage(self, places: Places) -> Shortage:
        shortage = Shortage(texts=[])
        legs = range(places.first_leg, places.last_leg)
        held, sold = self.taken("held"), self.taken("sold")
        for item in places.items:
            for seat in item.seats if isinstance(item, NumberedPlaces) else ():
                if any((seat, leg) in sold for leg in legs):
                    shortage.sold += 1
                elif any((seat, leg) in held for leg in legs):
                    shortage.held += 1
                else:
                    continue
                shortage.texts.append(f"{item.section}#{seat}")
        for item in places.items:
            if isinstance(item, NumberedPlaces):
                continue
            free = min(self._free(item.section, leg) for leg in legs)
            if free >= item.quantity and isinstance(item, BestPlaces):
                free = sum(map(len, self._runs(places, item)))  # free on every leg, and on the same seats
            if free < item.quantity:
                back = min(max(self.count("held", item.section, leg) for leg in legs), item.quantity - free)
                shortage.held += back
                shortage.sold += item.quantity - free - back
                shortage.texts.append(f"{item.section}*{item.quantity}:{free}")
        return shortage

    def _choose(self, places: Places, choose: Chooser) -> Places:
        items: list[CountedPlaces | NumberedPlaces | BestPlaces] = [
            NumberedPlaces(item.section, tuple(choose(item.section, self._runs(places, item), item.quantity)))
            if isinstance(item, BestPlaces)
            else item
            for item in places.items
        ]
        return Places(places.first_leg, places.last_leg, tuple(items))

    def _runs(self, places: Places, item: BestPlaces) -> list[list[int]]:
        """Stretches of the section that are free on all legs and that the request does not name itself."""
        section = self.layout.sections[item.section]
        seats = range(section.first_seat, section.first_seat + section.capacity)
        taken = {*self.taken("held"), *self.taken("sold"), *cells_of(places)}
        runs = free_runs(self.layout, taken, range(places.first_leg, places.last_leg))
        return [run for run in runs if run[0] in seats]

    def _free(self, section: int, leg: int) -> int:
        capacity = self.layout.sections[section].capacity
        return max(capacity - self.count("held", section, leg) - self.count("sold", section, leg), 0)

    def _claims(self) -> Iterator[Claim]:
        yield from self.holds.values()
        yield from self.bookings.values()

    def _not_live(self, hold_id: str, owner: str) -> str | None:
        if (hold := self.holds.get(hold_id)) is not None:
            return None if owner in ("", hold.owner) else "NOT_FOUND"
        if (booking := self.bookings.get(hold_id)) is not None and owner in ("", booking.owner):
            return "BOOKED"
        how, whose = self.ended.get(hold_id, ("NOT_FOUND", ""))
        return how if owner in ("", whose) else "NOT_FOUND"

    def _booked_before(self, booking_id: str, owner: str, attempt: str) -> list[Any] | None:
        if (booking := self.bookings.get(booking_id)) is None:
            return None
        if booking.owner != owner:
            return ["NOT_FOUND"]
        return self._confirmed(booking) if booking.attempt == attempt else ["BOOKED"]

    def _book(self, booking_id: str, claim: Claim, attempt: str, once: str, body: str) -> list[Any]:
        claim.attempt, claim.confirmed_ms, claim.journaled = attempt, self.now_ms, True
        self.bookings[booking_id] = claim
        if once:
            self.answers[once] = (body, ["REPLAYED", booking_id])
        return self._confirmed(claim)

    def _confirmed(self, claim: Claim) -> list[Any]:
        return ["CONFIRMED", str(self.epoch), claim.created_ms, claim.confirmed_ms, format_places(claim.places)]

    def _replay(self, once: str, body: str) -> list[Any] | None:
        if once not in self.answers:
            return None
        first_body, answer = self.answers[once]
        return answer if first_body == body else ["KEY_REUSED"]

    def _end(self, hold_id: str, how: str) -> None:
        self.ended[hold_id] = (how, self.holds.pop(hold_id).owner)
