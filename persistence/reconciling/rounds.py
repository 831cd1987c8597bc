"""What one round of the reconciler has found and done, event by event, and what that means."""

import datetime as dt
from typing import Literal

import msgspec

from persistence.differences import Difference
from persistence.reconciling.equipment import Drained, Repaired
from persistence.reconciling.findings import Findings, count_kinds
from persistence.reconciling.partitions import Unreached
from persistence.reconciling.roster import Sighting

DIFFERENCES_MAX = 1_000  # of one event, told one by one; the counts by kind have all

Verdict = Literal["clean", "repaired", "person"]


class EventRound(msgspec.Struct, kw_only=True):
    """What a round has found of one event, and done about it; a dry run has only found."""

    event_id: str
    reaped: int = 0
    ended: int = 0
    missing: bool = False
    rebuilt: bool = False
    archived: bool = False
    found: dict[str, int] = {}
    repaired: dict[str, int] = {}
    unresolved: dict[str, int] = {}
    differences: tuple[Difference, ...] = ()
    error: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether anything was not as it should be; what is due by the clock is as it should be."""
        return bool(self.missing or self.rebuilt or self.found or self.error)


class NotReached(msgspec.Struct, frozen=True):
    """A partition that was left alone from some point of the round on, because its server did not answer."""

    partition: int
    error: str


class Round(msgspec.Struct, kw_only=True):
    """A round as ``--json`` prints it. ``events`` are those with something to tell; ``audited`` were looked at.

    ``held_up`` are duties of the whole installation, with what they ran into; they have done the rest.
    """

    verdict: Verdict = "clean"
    dry_run: bool
    started_at: dt.datetime
    seconds: float = 0.0
    drained: int = 0
    buried: int = 0
    left: int = 0
    reaped: int = 0
    offered: int = 0
    lapsed: int = 0
    unblocked: int = 0
    """Blocks that were given back, their time being over."""
    ended: int = 0
    settled: int = 0
    audited: int = 0
    rebuilt: int = 0
    repaired: int = 0
    unresolved: int = 0
    archived: int = 0
    published: int = 0
    """Events of the outbox that were queued for its sinks."""
    events: list[EventRound] = []
    unreached: list[NotReached] = []
    held_up: dict[str, str] = {}


class Collected(Findings):
    """Findings kept for one round rather than logged."""

    def __init__(self, *, dry_run: bool) -> None:
        super().__init__()
        self.round = Round(dry_run=dry_run, started_at=dt.datetime.now(dt.UTC))
        self._events: dict[str, EventRound] = {}

    def is_missing(self, event_id: str) -> bool:
        """Whether a dry run has found that it ought to be rebuilt."""
        return event_id in self._events and self._events[event_id].missing

    def event(self, event_id: str) -> EventRound:
        """What there is to tell of an event."""
        return self._events.setdefault(event_id, EventRound(event_id=event_id))

    def drained(self, partition: int, drained: Drained) -> None:  # noqa: ARG002 - events are what a person looks for
        self.round.drained += drained.settled
        self.round.buried += drained.buried
        self.round.left += drained.left

    def reaped(self, event_id: str, count: int) -> None:
        self.round.reaped += count
        self.event(event_id).reaped += count

    def audited(self, sighting: Sighting, repaired: Repaired) -> None:
        self.round.audited += 1
        if not (repaired.found or repaired.unresolved or repaired.rebuilt):
            return
        event = self.event(sighting.event_id)
        event.found = count_kinds(repaired.found)
        event.repaired = count_kinds(repaired.repaired)
        event.unresolved = count_kinds(repaired.unresolved)
        event.differences = tuple(repaired.found[:DIFFERENCES_MAX])
        if repaired.rebuilt:
            self.rebuilt(sighting.event_id)

    def unknown(self, sighting: Sighting) -> None:
        self.round.audited += 1
        difference = Difference(sighting.event_id, "event_unknown")
        event = self.event(sighting.event_id)
        event.found = event.unresolved = count_kinds([difference])
        event.differences = (difference,)

    def missing(self, event_id: str) -> None:
        self.event(event_id).missing = True

    def rebuilt(self, event_id: str) -> None:
        self.round.rebuilt += 1
        self.event(event_id).rebuilt = True

    def lapsed(self, count: int) -> None:
        self.round.lapsed += count

    def unblocked(self, count: int) -> None:
        self.round.unblocked += count

    def settled(self, count: int) -> None:
        self.round.settled += count

    def cared_for(self, event_id: str, count: int) -> None:
        self.round.ended += count
        if count:
            self.event(event_id).ended += count

    def archived(self, event_id: str) -> None:
        self.round.archived += 1
        self.event(event_id).archived = True

    def failed(self, event_id: str, error: Exception) -> None:
        self.event(event_id).error = describe(error)

    def held_up(self, duty: str, error: Exception) -> None:
        """A duty could not be done in full."""
        self.round.held_up[duty] = describe(error)

    def finish(self, seconds: float, unreached: Unreached) -> Round:
        """The round, with its sums and its verdict; *unreached* has partitions."""
        found = self.round
        found.unreached = [NotReached(one, describe(error)) for one, error in sorted(unreached.errors.items())]
        found.seconds = round(seconds, 3)
        found.events = sorted(self._events.values(), key=lambda event: event.event_id)
        found.repaired = sum(sum(event.repaired.values()) for event in found.events)
        found.unresolved = sum(sum(event.unresolved.values()) for event in found.events)
        is_whole = not (found.unreached or found.held_up or any(event.error for event in found.events))
        if found.unresolved or found.buried or not is_whole:
            found.verdict = "person"
        elif found.drained or any(event.wrong for event in found.events):
            found.verdict = "repaired"
        return found


def describe(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {error}"
