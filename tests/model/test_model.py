"""The real scripts on a real server against the reference model, by random histories that Hypothesis shrinks."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from invariants import assert_best_choice, assert_consistent
from reference import Limits, Reference
from script_runner import FROZEN_MS, PARTITIONS, Runner, Venue, new_id

from engine.place_differences import difference_of
from engine.places import BestPlaces, CountedPlaces, NumberedPlaces, Places, format_places, parse_places

OWNERS = st.sampled_from(["ana", "bea", "cem"])
RIGHT = "="  # whoever the claim belongs to
CALLERS = st.sampled_from([RIGHT, RIGHT, RIGHT, RIGHT, "ana", "bea"])
ADMINISTRATOR = ""
TTLS_MS = st.sampled_from([1, 5, 10, 40, 1_000, 5_000])
BODIES = st.sampled_from(["b1", "b1", "b1", "b2"])
ATTEMPTS = st.sampled_from(["a1", "a1", "a2"])
KEYS = st.sampled_from(["", "", "", "k1", "k2"])
PICK = st.integers(0, 20)
FLOOR, STALLS = 0, 1
NOBODYS = "7" * 26  # the id of a claim that never was


class KernelMachine(RuleBasedStateMachine):
    """Holds, bookings, time and losses of one event; every answer and every record is compared after each step."""

    runner: Runner

    @initialize(
        legs=st.sampled_from([1, 1, 3]),
        capacity=st.integers(3, 12),
        rows=st.lists(st.integers(1, 7), min_size=1, max_size=4),
        aisle=st.booleans(),
        per_hold=st.integers(6, 12),
        per_customer=st.integers(8, 30),
        orphans=st.sampled_from(["allow", "avoid"]),
    )
    def open_event(
        self, legs: int, capacity: int, rows: list[int], aisle: bool, per_hold: int, per_customer: int, orphans: str
    ) -> None:
        self.runner.redis.flushall()
        drawn = [
            {"id": f"R{n}", "seats": f"1-{length}", "aisles_after": ["2"] if aisle and length > 2 else []}
            for n, length in enumerate(rows)
        ]
        policy = {
            "max_places_per_hold": per_hold,
            "max_places_per_customer": per_customer,
            "orphan_seats": orphans,
            "hold_ttl": 1,
            "hold_ttl_max": 2,
        }
        self.venue = Venue(
            self.runner,
            {"id": "floor", "price": 1, "capacity": capacity},
            {"id": "stalls", "price": 1, "rows": drawn},
            stops=None if legs == 1 else [f"S{n}" for n in range(legs + 1)],
            policy=policy,
        )
        self.avoids_orphans = orphans == "avoid"
        self.version = 1
        self.model = Reference(self.venue.layout, Limits(per_hold, per_customer, 2_000), now_ms=FROZEN_MS)

    # --- steps ---------------------------------------------------------------

    # Twice in the list of rules, because everything else needs holds to act on.
    @rule(data=st.data(), owner=OWNERS, ttl_ms=TTLS_MS)
    def hold_once(self, data: st.DataObject, owner: str, ttl_ms: int) -> None:
        self.hold(data, owner, ttl_ms, "", "b1", twice=False)

    @rule(data=st.data(), owner=OWNERS, ttl_ms=TTLS_MS, once=KEYS, body=BODIES, twice=st.booleans())
    def hold(self, data: st.DataObject, owner: str, ttl_ms: int, once: str, body: str, twice: bool) -> None:
        places, hold_id = self._draw_places(data), new_id()
        for _ in range(1 + twice):
            reply = self.venue.hold(
                format_places(places),
                hold_id=hold_id,
                owner=owner,
                ttl_ms=ttl_ms,
                once=once and f"hold-{once}",
                body=body,
            )
            chosen = _Chosen(reply[1][3], self.avoids_orphans) if reply[0] == "HELD" else _never
            expected = self.model.hold(hold_id, owner, places, ttl_ms, chosen, once=once and f"hold-{once}", body=body)
            if reply[0] == "HELD":
                del reply[1][0]  # seq
            assert reply == expected

    @precondition(lambda self: self.model.holds or self.model.ended or self.model.bookings)
    @rule(pick=PICK, caller=CALLERS | st.just(ADMINISTRATOR), ttl_ms=TTLS_MS)
    def extend(self, pick: int, caller: str, ttl_ms: int) -> None:
        hold_id, owner = self._pick(pick, caller)
        reply = self.venue.extend(hold_id, owner=owner, ttl_ms=ttl_ms)
        if reply[0] == "EXTENDED":
            del reply[1]
        assert reply == self.model.extend(hold_id, owner, ttl_ms)

    @precondition(lambda self: self.model.holds or self.model.ended or self.model.bookings)
    @rule(pick=PICK, caller=CALLERS | st.just(ADMINISTRATOR))
    def read(self, pick: int, caller: str) -> None:
        hold_id, owner = self._pick(pick, caller)
        assert self.venue.read(hold_id, owner=owner) == self.model.read(hold_id, owner)

    @precondition(lambda self: self.model.holds or self.model.ended or self.model.bookings)
    @rule(pick=PICK, caller=CALLERS | st.just(ADMINISTRATOR), twice=st.booleans())
    def release(self, pick: int, caller: str, twice: bool) -> None:
        hold_id, owner = self._pick(pick, caller)
        for _ in range(1 + twice):
            assert self.venue.release(hold_id, owner=owner)[:1] == self.model.release(hold_id, owner)

    @precondition(lambda self: self.model.holds or self.model.ended or self.model.bookings)
    @rule(pick=PICK, caller=CALLERS, attempt=ATTEMPTS, once=KEYS, body=BODIES, twice=st.booleans())
    def confirm(self, pick: int, caller: str, attempt: str, once: str, body: str, twice: bool) -> None:
        hold_id, owner = self._pick(pick, caller)
        for _ in range(1 + twice):
            reply = self.venue.confirm(hold_id, owner=owner, attempt=attempt, once=once, body=body)
            self._compare_booking(reply, self.model.confirm(hold_id, owner, attempt, once=once, body=body))

    @rule(
        data=st.data(), owner=OWNERS, attempt=ATTEMPTS, once=KEYS, body=BODIES, again=st.booleans(), twice=st.booleans()
    )
    def book(
        self, data: st.DataObject, owner: str, attempt: str, once: str, body: str, again: bool, twice: bool
    ) -> None:
        bookings = list(self.model.bookings)
        booking_id = bookings[0] if bookings and again else new_id()
        places = self._draw_places(data)
        for _ in range(1 + twice):
            reply = self.venue.book(
                format_places(places), booking_id=booking_id, owner=owner, attempt=attempt, once=once, body=body
            )
            chosen = _Chosen(reply[5], self.avoids_orphans) if reply[0] == "CONFIRMED" else _never
            expected = self.model.book(booking_id, owner, places, attempt, chosen, once=once, body=body)
            self._compare_booking(reply, expected)

    @precondition(lambda self: self.model.bookings)
    @rule(pick=PICK, refused=st.booleans(), twice=st.booleans())
    def unbook(self, pick: int, refused: bool, twice: bool) -> None:
        bookings = list(self.model.bookings)
        booking_id = bookings[pick % len(bookings)]
        owner = self.model.bookings[booking_id].owner if refused else ""
        entries = {entry["booking"]: journal_id for journal_id, entry in self.venue.journal()}
        for _ in range(1 + twice):
            reply = self.venue.unbook(booking_id, entries.get(booking_id, ""), refused_owner=owner)
            assert reply[:1] == self.model.unbook(booking_id, refused_owner=owner)

    @precondition(lambda self: self.model.bookings)
    @rule(data=st.data(), pick=PICK, applied=st.booleans(), twice=st.booleans())
    def change(self, data: st.DataObject, pick: int, applied: bool, twice: bool) -> None:
        bookings = list(self.model.bookings)
        booking_id = bookings[pick % len(bookings)]
        booking, places = self.model.bookings[booking_id], self._draw_places(data, kinds="*#")
        gained, lost = _pieces(booking.places, places)
        change, new, expected = new_id(), format_places(places), self.model.change(booking_id, places)
        args = (booking_id, format_places(booking.places), places.quantity, *gained)
        for _ in range(1 + twice):
            reply = self.venue.reserve(*args, change=change, owner=booking.owner, sale_only=False)
            assert reply[0] == expected
        if expected != "RESERVED":
            return
        for _ in range(1 + twice):
            if applied:
                assert self.venue.apply(booking_id, new, gained=gained, lost=lost, change=change)[0] == "APPLIED"
            else:
                assert self.venue.abandon(booking_id, count=len(gained), change=change)[0] == "ABANDONED"
        booking.attempt = f"changed:{change}" if applied else ""
        if applied:
            booking.places = places

    @precondition(lambda self: self.model.holds)
    @rule(ms=st.sampled_from([-1, 0, 0, 0, 4, 2_000]))
    def advance(self, ms: int) -> None:
        """To the next deadline, or to near it."""
        ms = max(ms + min(hold.deadline_ms for hold in self.model.holds.values()) - self.model.now_ms, 0)
        self.venue.advance(ms)
        self.model.advance(ms)

    @rule(reap=st.booleans())
    def reap_and_look(self, reap: bool) -> None:
        if reap:
            due_ms = min((hold.deadline_ms for hold in self.model.holds.values()), default=0)
            assert self.venue.reap()[::2] == ["REAPED", due_ms]
        _, _, epoch, status, _, _, pairs = self.venue.snapshot()
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        assert (int(epoch), status) == (self.model.epoch, self.model.status)
        for section in self.venue.layout.sections:
            for leg in range(self.venue.layout.legs):
                for kind in ("held", "sold"):
                    count = self.model.count(kind, section.index, leg)
                    assert int(fields[f"{kind}:{section.index}:{leg}"]) == count

    @precondition(lambda self: self.model.status != "open" or len(self.model.holds) > 1)
    @rule(status=st.sampled_from(["closed", "cancelled"]), older=st.booleans())
    def set_status(self, status: str, older: bool) -> None:
        """Nothing, or something, or open again."""
        status = status if self.model.status == "open" else "open"
        if older:
            assert self.venue.set_status(status, version=self.version - 1) == ["OLDER"]
            return
        self.version += 1
        assert self.venue.set_status(status, version=self.version)[0] == "SET"
        self.model.status = status

    @precondition(lambda self: self.model.status == "open" and len(self.model.holds) + len(self.model.bookings) > 2)
    @rule(flush=st.booleans(), batch_size=st.integers(1, 3), twice=st.booleans())
    def lose_and_load(self, flush: bool, batch_size: int, twice: bool) -> None:
        stored = assert_consistent(self.runner.redis, self.venue.event, partitions=PARTITIONS)
        if flush:
            self.runner.redis.flushall()
            assert self.venue.read(NOBODYS) == ["NOT_LOADED"]
        self.model.reload(flushed=flush)
        for hold_id in stored.holds:  # nobody had noted how they ended, whether they had lapsed or not
            self.model.ended.pop(hold_id, None)
        self.version = 1
        bookings = [
            (booking_id, format_places(booking.places), booking.owner)
            for booking_id, booking in self.model.bookings.items()
        ]
        self.venue.load(epoch=self.model.epoch, bookings=bookings, batch_size=batch_size, twice=twice)
        self.venue.set_time(self.model.now_ms)
        assert self.venue.begin_load(self.model.epoch - 1) == ["STALE"]

    # --- after every step ----------------------------------------------------

    @invariant()
    def records_are_the_models(self) -> None:
        if not hasattr(self, "model"):
            return
        stored = assert_consistent(self.runner.redis, self.venue.event, partitions=PARTITIONS)
        live = {hold_id: hold for hold_id, hold in stored.holds.items() if hold.deadline_ms > self.model.now_ms}
        assert {hold_id: (hold.owner, hold.places, hold.deadline_ms) for hold_id, hold in live.items()} == {
            hold_id: (hold.owner, hold.places, hold.deadline_ms) for hold_id, hold in self.model.holds.items()
        }
        assert all(self.model.ended[hold_id][0] == "EXPIRED" for hold_id in stored.holds.keys() - live.keys())
        assert {booking_id: (booking.owner, booking.places) for booking_id, booking in stored.bookings.items()} == {
            booking_id: (booking.owner, booking.places) for booking_id, booking in self.model.bookings.items()
        }
        journaled = {booking_id for booking_id, booking in self.model.bookings.items() if booking.journaled}
        assert {entry["booking"] for _, entry in self.venue.journal()} == journaled

    # --- drawing -------------------------------------------------------------

    def _pick(self, number: int, caller: str) -> tuple[str, str]:
        """One of the claims, rather a recent one, and who asks."""
        model = self.model
        owners = dict([(hold_id, whose) for hold_id, (_, whose) in model.ended.items()][-4:])
        owners |= {claim_id: claim.owner for claim_id, claim in [*model.bookings.items()][-4:]}
        owners |= {hold_id: hold.owner for hold_id, hold in model.holds.items()}
        if number == 0:
            return NOBODYS, "ana"
        claim_id = list(owners)[-1 - number % len(owners)]
        return claim_id, owners[claim_id] if caller == RIGHT else caller

    def _draw_places(self, data: st.DataObject, *, kinds: str = "*#?") -> Places:
        layout = self.venue.layout
        first_leg = data.draw(st.integers(0, layout.legs - 1))
        last_leg = data.draw(st.integers(first_leg + 1, layout.legs))
        seats = list(range(layout.sections[STALLS].capacity))
        items: list[Any] = []
        for kind in data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3, unique=True)):
            if kind == "*":
                items.append(CountedPlaces(FLOOR, data.draw(st.integers(1, 4))))
            elif kind == "#":
                named = data.draw(st.lists(st.sampled_from(seats), min_size=1, max_size=3, unique=True))
                items.append(NumberedPlaces(STALLS, tuple(named)))
            else:
                items.append(BestPlaces(STALLS, data.draw(st.integers(1, 4))))
        return Places(first_leg, last_leg, tuple(items))

    def _compare_booking(self, reply: list[Any], expected: list[Any]) -> None:
        if reply[0] == "CONFIRMED":
            del reply[4]  # the journal's id
        assert reply == expected


def _pieces(old: Places, new: Places) -> tuple[list[str], list[str]]:
    """What is gained and what is given up, as the scripts are told."""
    difference = difference_of(old, new)
    return [*map(format_places, difference.gained)], [*map(format_places, difference.given_up)]


class _Chosen:
    """Reads the seats chosen for a wish out of the script's answer, having judged the choice."""

    def __init__(self, text: str, avoids_orphans: bool) -> None:
        self._places = parse_places(text)
        self._avoids_orphans = avoids_orphans

    def __call__(self, section: int, runs: list[list[int]], wanted: int) -> list[int]:
        free = {seat for run in runs for seat in run}
        chosen = [
            list(item.seats)
            for item in self._places.items
            if isinstance(item, NumberedPlaces) and item.section == section and free.issuperset(item.seats)
        ]
        assert len(chosen) == 1, f"of {self._places}, nothing is among the free {runs}"
        assert_best_choice(runs, wanted, chosen[0], avoids_orphans=self._avoids_orphans)
        return chosen[0]


def _never(section: int, runs: list[list[int]], wanted: int) -> list[int]:
    raise AssertionError(f"the script refused, though {wanted} of {runs} in section {section} are to be had")


@pytest.mark.timeout(600)  # 16 s of CPU here, and a busy machine takes ten times as long
def test_scripts_do_what_the_reference_model_does(redis_url: str) -> None:
    KernelMachine.runner = Runner(redis_url)
    run_state_machine_as_test(
        KernelMachine,
        settings=settings(
            max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
