"""Whether what concurrent clients were told can have happened one after the other, place by place.

**A place** is a seat on one leg of one event, and a small state machine::

    free ── hold ──> held by H until D ── confirm ──> sold to H
      │                 │      │
      │                 │      └ release, or D has come ──> free
      └──────────────── book ─────────────────────────> sold

Every operation that was answered took effect at one moment between its invocation and its answer; one whose outcome is
unknown at any moment after its invocation, or never. The history of a place is *legal* when such moments can be found
for all of its operations together. They are searched for as Wing and Gong do, with the states that were tried kept:
the next moment may belong to any operation that had been invoked before the first outstanding answer.

Instead of an order of operations, the search carries the *earliest* moment at which its last step can have been. Since
all that could go wrong later is to be too late, no other moment needs to be tried; and deadlines are compared with it.

**What is judged.** Holds, releases, extensions, confirmations and bookings that succeeded. Of those that were refused
for their place being taken, only the ones that wanted a single seat on a single leg: of several, nobody says which one
was taken. A claim of many places is judged at each of them, and not for being one moment at all of them. Where Redis's
memory was lost in the run its holds are no promise (P4): then only bookings are judged, which exclude each other.

**Counted sections** are held to a simple bound: what must have been taken at a moment, whatever the unknown outcomes
were, is never more than the capacity.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec
from recording import Operation

STATES_MAX = 200_000  # of one place: far more than a busy seat needs (thousands), and a matter of seconds
SHOWN_MAX = 5  # of the operations that cannot be next; a rush has hundreds
SLACK_S = 0.05  # between Redis's clock, which deadlines are by, and the one of the recording; both are of one machine
TAKEN = "places-unavailable"
UNDONE = frozenset(
    {TAKEN, "booking-refused", "booking-not-found"}
)  # a confirmation refused by the ledger ends the hold

Cell = tuple[str, str, str, int]  # event, section, seat, leg
Kind = Literal["hold", "extend", "release", "confirm", "book", "taken"]


class Step(msgspec.Struct, frozen=True):
    """What an operation does to one place. *claim* is the hold's id, or the booking's, or a name for an unknown one."""

    kind: Kind
    claim: str
    invoked_at: float
    completed_at: float
    lapses_from: float = math.inf
    """The first moment at which the hold's deadline may have passed."""
    lives_until: float = math.inf
    """The last moment at which it may not."""


class Taken(msgspec.Struct, frozen=True):
    """A place that somebody has; one that nobody has is ``None``."""

    claim: str
    sold: bool
    lapses_from: float = math.inf
    lives_until: float = math.inf


class Verdict(msgspec.Struct):
    """How much was looked at, and every place whose history cannot have happened."""

    places: int = 0
    operations: int = 0
    states: int = 0
    findings: list[str] = msgspec.field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"linearizability: {self.places:,} places, {self.operations:,} operations on them, "
            f"{self.states:,} states explored, {len(self.findings)} findings"
        )


def check_history(
    operations: Sequence[Operation], capacities: Mapping[tuple[str, str], int], *, holds_are_kept: bool = True
) -> Verdict:
    """Judge every seat and leg, and every counted section; *capacities* are by event and section."""
    verdict = Verdict()
    for cell, steps in sorted(_steps_by_cell(operations, holds_are_kept=holds_are_kept).items()):
        history = _History(steps)
        verdict.places += 1
        verdict.operations += len(steps)
        problem = history.find_problem()
        verdict.states += history.states
        if problem:
            verdict.findings.append(f"{cell}: {problem}")
    verdict.findings += _oversold(operations, capacities, holds_are_kept=holds_are_kept)
    return verdict


class _State(msgspec.Struct, frozen=True):
    """*first* steps are done and of the later ones those in *ahead*; unknown ones in *used* have taken effect."""

    first: int
    ahead: frozenset[int]
    used: frozenset[int]
    place: Taken | None


class _History:
    """The search over one place's steps."""

    def __init__(self, steps: Iterable[Step]) -> None:
        ordered = sorted(steps, key=lambda step: (step.invoked_at, step.completed_at))
        self._steps = [step for step in ordered if step.completed_at < math.inf]
        self._unknown = [step for step in ordered if step.completed_at == math.inf]
        self._best: dict[_State, float] = {}
        self._furthest = _State(0, frozenset(), frozenset(), None)

    @property
    def states(self) -> int:
        """How many were explored."""
        return len(self._best)

    def find_problem(self) -> str | None:
        """Why there is no order in which all steps are legal, or nothing if there is one."""
        waiting = [(self._furthest, -math.inf)]
        while waiting:
            state, moment = waiting.pop()
            if state.first == len(self._steps):
                return None
            if self._best.get(state, math.inf) <= moment:
                continue
            self._best[state] = moment
            if len(self._best) > STATES_MAX:
                return f"not decided after {STATES_MAX:,} states"
            if state.first + len(state.ahead) > self._furthest.first + len(self._furthest.ahead):
                self._furthest = state
            waiting += self._successors(state, moment)
        window, _ = self._window(self._furthest)
        stuck = "; ".join(_describe(self._steps[number]) for number in window[:SHOWN_MAX])
        return f"with {self._furthest.place or 'the place free'}, none of {len(window)} can be next: {stuck}"

    def _successors(self, state: _State, moment: float) -> list[tuple[_State, float]]:
        """Where one more step leads to; the most promising, whose answer came first, is last."""
        window, bound = self._window(state)
        found: list[tuple[float, _State, float]] = []
        saw_refusal = False
        for number in window:
            step = self._steps[number]
            if step.kind == "taken" and saw_refusal:
                continue  # refusals change nothing: that whose turn is first is enough to try
            result = _apply(step, state.place, moment)
            if result is None or result[1] > bound:
                continue
            after = (self._done(state, number, result[0]), result[1])
            if step.kind == "taken" and result[1] == moment:
                return [after]  # costs nothing now, and may not be possible later
            saw_refusal |= step.kind == "taken"
            found.append((step.completed_at, *after))
        for number, step in enumerate(self._unknown):
            if step.invoked_at > bound:
                break
            if number not in state.used and (result := _apply(step, state.place, moment)) and result[1] <= bound:
                used = _State(state.first, state.ahead, state.used | {number}, result[0])
                found.append((math.inf, used, result[1]))
        found.sort(key=lambda one: -one[0])
        return [(after, at) for _, after, at in found]

    def _window(self, state: _State) -> tuple[list[int], float]:
        """The steps that can be next, and the first outstanding answer, before which the next one must be."""
        window, bound = [], math.inf
        for number in range(state.first, len(self._steps)):
            step = self._steps[number]
            if step.invoked_at > bound:
                break
            if number not in state.ahead:
                window.append(number)
                bound = min(bound, step.completed_at)
        return [number for number in window if self._steps[number].invoked_at <= bound], bound

    @staticmethod
    def _done(state: _State, number: int, place: Taken | None) -> _State:
        first, ahead = state.first, set(state.ahead) | {number}
        while first in ahead:
            ahead.remove(first)
            first += 1
        return _State(first, frozenset(ahead), state.used, place)


def _apply(step: Step, place: Taken | None, moment: float) -> tuple[Taken | None, float] | None:
    """The place after *step*, and the earliest moment for it after *moment*; nothing when it is not legal."""
    moment = max(moment, step.invoked_at)
    if step.kind in ("hold", "book"):
        if place is not None and place.sold:
            return (place, moment) if (step.kind, step.claim) == ("book", place.claim) else None
        if place is not None:
            moment = max(moment, place.lapses_from)
        if step.kind == "book":
            return Taken(step.claim, sold=True), moment
        return Taken(step.claim, False, step.lapses_from, step.lives_until), moment
    if place is None:
        return None
    if step.kind == "taken":
        return (place, moment) if place.sold or moment <= place.lives_until else None
    if place.claim != step.claim or (not place.sold and moment > place.lives_until):
        return None
    if place.sold:
        return (place, moment) if step.kind == "confirm" else None  # the repetition of one
    if step.kind == "confirm":
        return Taken(step.claim, sold=True), moment
    if step.kind == "release":
        return None, moment
    lapses_from = place.lapses_from if step.lapses_from == math.inf else step.lapses_from  # of an unknown extension
    return Taken(step.claim, False, lapses_from, step.lives_until), moment


def _describe(step: Step) -> str:
    answered = f"answered at {step.completed_at:.3f}"
    return f"{step.kind} {step.claim} (invoked at {step.invoked_at:.3f}, {answered})"


def _steps_by_cell(operations: Sequence[Operation], *, holds_are_kept: bool) -> dict[Cell, list[Step]]:
    steps: defaultdict[Cell, list[Step]] = defaultdict(list)
    nameless = [one for one in operations if one.outcome == "unknown" and one.wish is not None and not one.places]
    for number, one in enumerate(operations):
        step = _step_of(one, number) if holds_are_kept else _booking_of(one, number)
        if step is None or (step.kind == "taken" and not _is_decidable(one, nameless)):
            continue
        for place in one.places:
            for leg in range(place.first_leg, place.last_leg) if place.seat is not None else ():
                steps[one.event, place.section, place.seat or "", leg].append(step)
    return steps


def _step_of(one: Operation, number: int) -> Step | None:
    """What *one* does to each of its places; nothing where it did nothing, or nothing can be said."""
    claim = one.hold_id or one.booking_id or f"unknown-{number}"
    unknown = one.outcome == "unknown"
    answered_at = math.inf if one.completed_at is None else one.completed_at
    if one.op == "look":
        return None
    if one.outcome == "fail":
        if one.op in ("hold", "book") and one.code == TAKEN:
            return Step("taken", f"{one.op}-{number}", one.invoked_at, answered_at)
        # It may have ended the hold, and need not have.
        is_undone = one.op == "confirm" and one.code in UNDONE
        return Step("release", claim, one.invoked_at, math.inf) if is_undone else None
    if one.op in ("hold", "extend"):
        if unknown or one.expires_at is None:  # it may last for ever, and a hold may have lapsed at once
            return Step(one.op, claim, one.invoked_at, answered_at, -math.inf if one.op == "hold" else math.inf)
        return Step(one.op, claim, one.invoked_at, answered_at, one.expires_at - SLACK_S, one.expires_at + SLACK_S)
    return Step(one.op, claim, one.invoked_at, answered_at)


def _booking_of(one: Operation, number: int) -> Step | None:
    """What remains when holds are no promise: bookings, made however."""
    if one.op not in ("confirm", "book") or one.outcome == "fail":
        return None
    claim = one.booking_id or one.hold_id or f"unknown-{number}"
    return Step("book", claim, one.invoked_at, math.inf if one.completed_at is None else one.completed_at)


def _is_decidable(refused: Operation, nameless: Iterable[Operation]) -> bool:
    """Whether it is known which place was taken, and that no unknown claim of *some* place can have taken it."""
    if len(refused.places) != 1 or refused.completed_at is None:
        return False
    (place,) = refused.places
    if place.seat is None or place.last_leg - place.first_leg != 1:
        return False
    return not any(
        one.event == refused.event and one.wish is not None and one.wish.section == place.section
        and one.wish.first_leg <= place.first_leg < one.wish.last_leg and one.invoked_at <= refused.completed_at
        for one in nameless
    )  # fmt: skip


def _oversold(
    operations: Sequence[Operation], capacities: Mapping[tuple[str, str], int], *, holds_are_kept: bool
) -> Iterator[str]:
    """Counted sections of which more must have been taken at some moment than there is."""
    changes: defaultdict[tuple[str, str, int], list[tuple[float, int]]] = defaultdict(list)
    for one, began_at, ended_at in _certain(operations, holds_are_kept=holds_are_kept):
        for place in one.places:
            for leg in range(place.first_leg, place.last_leg) if place.seat is None else ():
                changes[one.event, place.section, leg] += [(began_at, place.quantity), (ended_at, -place.quantity)]
    for (event, section, leg), moments in sorted(changes.items()):
        taken = most = 0
        for _, quantity in sorted(moments):  # of one moment, what is given back comes first
            taken += quantity
            most = max(most, taken)
        capacity = capacities[event, section]
        if most > capacity:
            yield f"{event}, {section}, leg {leg}: {most} places were taken at once, of {capacity}"


def _certain(operations: Sequence[Operation], *, holds_are_kept: bool) -> Iterator[tuple[Operation, float, float]]:
    """Claims, and between which moments they certainly had their places."""
    ends: defaultdict[str, float] = defaultdict(lambda: math.inf)
    confirmed = set()
    for one in operations:
        if one.op == "confirm" and one.outcome == "ok":
            confirmed.add(one.hold_id)
        elif one.op in ("release", "confirm") and one.hold_id:
            ends[one.hold_id] = min(ends[one.hold_id], one.invoked_at)
        if one.op in ("hold", "extend") and one.expires_at is not None and one.hold_id:
            ends[one.hold_id] = min(ends[one.hold_id], one.expires_at - SLACK_S)
    for one in operations:
        if one.outcome != "ok" or one.completed_at is None:
            continue
        if one.op == "book" or (one.op == "confirm" and not holds_are_kept):
            yield one, one.completed_at, math.inf
        elif one.op == "hold" and holds_are_kept:
            end = math.inf if one.hold_id in confirmed else ends[one.hold_id or ""]
            if end > one.completed_at:
                yield one, one.completed_at, end
