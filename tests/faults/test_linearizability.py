"""Small histories made by hand: what can have happened passes, and what cannot is found."""

import random
import time
from typing import Any

import pytest
from linearizability import Verdict, check_history
from recording import Op, Operation, Outcome, Place

pytestmark = pytest.mark.short

SEAT = (Place("box", "R1-1", 0, 1),)
CAPACITIES = {("gig", "floor"): 3}


def told(op: Op, claim: str, invoked_at: float, answered_at: float | None, **fields: Any) -> Operation:
    """An operation about one seat; without an answer, an unknown one."""
    outcome: Outcome = "unknown" if answered_at is None else "ok"
    given: dict[str, Any] = {
        "process": 0,
        "op": op,
        "event": "gig",
        "customer": claim,
        "invoked_at": invoked_at,
        "completed_at": answered_at,
        "outcome": outcome,
        "places": SEAT,
        "hold_id": claim,
        "booking_id": claim if op in ("confirm", "book") else None,
        "expires_at": 100.0 if op == "hold" and answered_at is not None else None,
    }
    return Operation(**(given | fields))


def refused(invoked_at: float, answered_at: float, **fields: Any) -> Operation:
    """A hold that was not given, because its seat is taken."""
    given = {"outcome": "fail", "hold_id": None, "expires_at": None, "code": "places-unavailable"}
    return told("hold", "loser", invoked_at, answered_at, **(given | fields))


def judge(*history: Operation, holds_are_kept: bool = True) -> Verdict:
    return check_history(history, CAPACITIES, holds_are_kept=holds_are_kept)


LEGAL = {
    "a hold is confirmed": [told("hold", "a", 0, 1), told("confirm", "a", 2, 3)],
    "a hold is released, and another made": [
        told("hold", "a", 0, 1), told("release", "a", 2, 3), told("hold", "b", 4, 5), told("confirm", "b", 6, 7),
    ],
    "answers overtake each other": [
        told("hold", "a", 0, 9), told("release", "a", 9.1, 20), told("hold", "b", 8, 10), told("confirm", "b", 11, 12),
    ],
    "a hold lapses, and another customer books": [
        told("hold", "a", 0, 1, expires_at=5.0), told("book", "b", 4, 6), refused(6, 7),
    ],
    "an extension keeps it": [
        told("hold", "a", 0, 1, expires_at=5.0), told("extend", "a", 4, 4.5, expires_at=50.0),
        told("confirm", "a", 20, 21),
    ],
    "a refusal during a hold": [told("hold", "a", 0, 10, expires_at=60.0), refused(1, 2), refused(0, 11)],
    "a booking and its repetition": [told("book", "a", 0, 1), told("book", "a", 2, 3)],
    "an unknown booking did happen": [told("book", "a", 0, None), refused(5, 6), refused(50, 51)],
    "an unknown booking did not happen": [told("book", "a", 0, None), told("book", "b", 5, 6)],
    "an unknown release did happen": [
        told("hold", "a", 0, 1), told("release", "a", 2, None), told("book", "b", 5, 6),
    ],
    "an unknown release did not happen": [
        told("hold", "a", 0, 1), told("release", "a", 2, None), told("confirm", "a", 5, 6),
    ],
    "an unknown confirmation did happen, long after it was given up": [
        told("hold", "a", 0, 1, expires_at=30.0), told("confirm", "a", 2, None), refused(40, 41),
    ],
    "an unknown extension did happen": [
        told("hold", "a", 0, 1, expires_at=5.0), told("extend", "a", 2, None), told("confirm", "a", 20, 21),
    ],
    "an unknown hold of somebody's choice may have been this seat": [
        told("hold", "a", 0, None, places=(), hold_id=None, wish=Place("box", None, 0, 1, 2)), refused(5, 6),
    ],
    "a confirmation that the ledger refused ended its hold": [
        told("hold", "a", 0, 1), told("confirm", "a", 2, 3, outcome="fail", code="booking-refused"),
        told("book", "b", 4, 5),
    ],
    "a refusal of which nobody says which seat it was for": [
        refused(0, 1, places=(*SEAT, Place("box", "R1-2", 0, 1))),
    ],
    "another leg is another place": [
        told("book", "a", 0, 1), told("book", "b", 2, 3, places=(Place("box", "R1-1", 1, 2),)),
    ],
    "counted places are given back and sold again": [
        told("hold", "a", 0, 1, places=(Place("floor", None, 0, 1, 3),)),
        told("release", "a", 2, 3, places=(Place("floor", None, 0, 1, 3),)),
        told("book", "b", 2.5, 4, places=(Place("floor", None, 0, 1, 3),)),
    ],
}  # fmt: skip

IMPOSSIBLE = {
    "two bookings": [told("book", "a", 0, 1), told("book", "b", 2, 3)],
    "two bookings at once": [told("book", "a", 0, 5), told("book", "b", 0, 5)],
    "two holds, both confirmed": [
        told("hold", "a", 0, 1), told("hold", "b", 0, 1), told("confirm", "a", 2, 3), told("confirm", "b", 2, 3),
    ],
    "a hold on a seat that is sold": [told("book", "a", 0, 1), told("hold", "b", 2, 3)],
    "a hold on a seat that is held": [told("hold", "a", 0, 1, expires_at=60.0), told("hold", "b", 2, 3)],
    "a refusal when nobody could have the seat": [refused(0, 1), told("book", "a", 2, 3)],
    "a refusal after the only hold was released": [told("hold", "a", 0, 1), told("release", "a", 2, 3), refused(4, 5)],
    "a refusal after the only hold had lapsed": [told("hold", "a", 0, 1, expires_at=5.0), refused(6, 7)],
    "a confirmation after the release": [
        told("hold", "a", 0, 1), told("release", "a", 2, 3), told("confirm", "a", 4, 5),
    ],
    "a confirmation after the deadline": [told("hold", "a", 0, 1, expires_at=5.0), told("confirm", "a", 6, 7)],
    "a confirmation of a hold that lapsed and was given to somebody else": [
        told("hold", "a", 0, 1, expires_at=5.0), told("hold", "b", 6, 7), told("confirm", "a", 5, 8),
        told("confirm", "b", 9, 10),
    ],
    "an unknown booking cannot have been both": [
        told("book", "a", 0, None), refused(5, 6), told("book", "b", 8, 9),
    ],
    "an unknown booking cannot have been before it was asked for": [refused(0, 1), told("book", "a", 2, None)],
    "an unknown release does not let two have it": [
        told("hold", "a", 0, 1), told("release", "a", 2, None), told("book", "b", 5, 6), told("confirm", "a", 7, 8),
    ],
    "more counted places than there are": [
        told("book", "a", 0, 1, places=(Place("floor", None, 0, 1, 2),)),
        told("book", "b", 0, 5, places=(Place("floor", None, 0, 1, 2),)),
    ],
    "more counted places held than there are": [
        told("hold", "a", 0, 1, places=(Place("floor", None, 0, 1, 2),)),
        told("hold", "b", 2, 3, places=(Place("floor", None, 0, 1, 2),)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_a_history_that_can_have_happened_passes(name: str) -> None:
    assert judge(*LEGAL[name]).findings == []


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_history_that_cannot_have_happened_is_found(name: str) -> None:
    (finding,) = judge(*IMPOSSIBLE[name]).findings
    assert "gig" in finding


def test_where_memory_was_lost_only_bookings_exclude_each_other() -> None:
    held_twice = [told("hold", "a", 0, 1), told("hold", "b", 2, 3), told("confirm", "b", 4, 5)]

    assert judge(*held_twice, holds_are_kept=False).findings == []
    assert judge(*held_twice, told("confirm", "a", 6, 7), holds_are_kept=False).findings != []


def test_thousands_of_operations_on_one_seat_are_judged_in_seconds() -> None:
    history = _busy_seat(rivals=16, rounds=300)
    began_s = time.perf_counter()

    verdict = judge(*history)

    assert verdict.findings == []
    assert verdict.operations > 4_000
    assert time.perf_counter() - began_s < 20  # on a machine with other things to do; alone it takes one or two


def test_a_lie_in_the_middle_of_thousands_of_operations_is_found() -> None:
    history = _busy_seat(rivals=16, rounds=300)
    holds = [one for one in history if one.op == "hold" and one.outcome == "ok"]
    lied = holds[len(holds) // 2]
    history.append(told("hold", "intruder", lied.invoked_at + 0.5, lied.invoked_at + 0.51))

    (finding,) = judge(*history).findings

    assert "can be next" in finding


@pytest.mark.parametrize("seed", range(40))
def test_what_a_real_place_would_have_said_passes_whatever_was_not_heard(seed: int) -> None:
    verdict = judge(*_overheard(random.Random(seed), operations=120))

    assert verdict.findings == []
    assert verdict.states < 50_000


def _overheard(rng: random.Random, *, operations: int) -> list[Operation]:
    """A place lives through operations at known moments; clients learn the outcomes late, and some never do."""
    history: list[Operation] = []
    owner, until, is_sold, is_known = "", 0.0, False, False
    for number in range(operations):
        at = float(number)
        invoked_at, answered_at = at - rng.random() * 8, at + rng.random() * 8
        heard = None if rng.random() < 0.05 else answered_at
        is_free = not is_sold and (not owner or until <= at)
        op: Op = rng.choices(("hold", "release", "extend", "confirm", "book"), (60, 25, 10, 1, 1))[0]
        if op in ("hold", "book"):
            if is_free:
                owner, until, is_sold = f"{op}-{number}", at + rng.choice((3, 10, 40)), op == "book"
                is_known = heard is not None  # or its customer has no id to go on with
                named = {} if heard else {"hold_id": None, "booking_id": None}
                history.append(
                    told(op, owner, invoked_at, heard, **named, expires_at=until if heard and op == "hold" else None)
                )
            elif heard:
                history.append(refused(invoked_at, heard))
        elif is_known and not is_free and not is_sold:
            until = at + 20 if op == "extend" else until
            history.append(told(op, owner, invoked_at, heard, expires_at=until if heard and op == "extend" else None))
            is_sold = op == "confirm"
            owner = "" if op == "release" else owner
    return history


def _busy_seat(*, rivals: int, rounds: int) -> list[Operation]:
    """Rounds of a second: somebody holds the seat and releases it, the others are refused, and answers are late."""
    rng = random.Random(7)
    history = []
    for number in range(rounds):
        at = float(number)
        history.append(told("hold", f"h{number}", at, at + 0.1 + rng.random() / 10, expires_at=at + 60))
        history.append(told("release", f"h{number}", at + 0.9, at + 0.95))
        history += [refused(at + rng.random() * 0.5, at + 0.6 + rng.random() * 0.25) for _ in range(rivals - 1)]
    return history
