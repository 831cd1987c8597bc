"""Where duties say what they have found and done: counted and logged by the daemon, collected by a single round."""

from collections import Counter
from collections.abc import Iterable

import structlog

from engine import figures
from persistence.differences import Difference
from persistence.heartbeats import Figures
from persistence.reconciling.equipment import Drained, Repaired
from persistence.reconciling.outages import Outages
from persistence.reconciling.roster import Sighting

logger = structlog.get_logger("holdfast.reconciler")


class Findings:
    """The daemon's: figures for the heartbeat, a line in the log for what was wrong, and once only while it lasts."""

    def __init__(self) -> None:
        self.figures = Figures()
        self.outages = Outages()  # of duties
        self.troubles = Outages()  # of events, of which there may be more than are told

    def drained(self, partition: int, drained: Drained) -> None:
        """Entries of *partition* were older than the grace."""
        self.figures.drained += drained.settled
        self.figures.buried += drained.buried
        if drained.settled:
            logger.info("journal drained", partition=partition, settled=drained.settled, left=drained.left)

    def reaped(self, event_id: str, count: int) -> None:  # noqa: ARG002 - of interest to a single round
        """Holds of an event had lapsed."""
        self.figures.reaped += count
        figures.REAPED.add(count=count)

    def audited(self, sighting: Sighting, repaired: Repaired) -> None:
        """An event was audited, and repaired if need be; what cannot be repaired is told once while it lasts."""
        self.figures.audited += 1
        self.figures.rebuilt += repaired.rebuilt
        self.troubles.over(sighting.event_id)
        trouble = frozenset(difference.kind for difference in repaired.unresolved)
        self.figures.count("repaired", kinds := count_kinds(repaired.repaired))
        self.figures.count("found", kinds)
        if kinds:
            logger.warning("drift repaired", event_id=sighting.event_id, kinds=kinds, rebuilt=repaired.rebuilt)
        if trouble - sighting.trouble:
            kinds = count_kinds(repaired.unresolved)
            self.figures.count("unresolved", kinds)
            self.figures.count("found", kinds)
            logger.error("drift needs a person: see `holdfast audit`", event_id=sighting.event_id, kinds=kinds)
        sighting.trouble = trouble

    def unknown(self, sighting: Sighting) -> None:
        """Redis has an event that the ledger has not, or has as a draft."""
        self.figures.audited += 1
        if "event_unknown" not in sighting.trouble:
            sighting.trouble = frozenset({"event_unknown"})
            self.figures.count("found", {"event_unknown": 1})
            self.figures.count("unresolved", {"event_unknown": 1})
            logger.error("Redis has an event that the ledger does not know", event_id=sighting.event_id)

    def missing(self, event_id: str) -> None:
        """An event that should be in Redis was not, or not under the ledger's epoch; only a dry run leaves it so."""

    def rebuilt(self, event_id: str) -> None:
        """An event was loaded anew because its state was missing."""
        self.figures.rebuilt += 1
        figures.REBUILDS.add()
        self.troubles.over(event_id)
        logger.warning("event rebuilt", event_id=event_id)

    def lapsed(self, count: int) -> None:
        """Requests were expired that nobody had approved in time."""
        if count:
            self.figures.count("done", {"expire": count})
            logger.info("requests have lapsed", bookings=count)

    def unblocked(self, count: int) -> None:
        """Blocks whose time was over were given back."""
        if count:
            self.figures.count("done", {"blocks": count})
            logger.info("blocks given back", blocks=count)

    def settled(self, count: int) -> None:
        """Bookings were looked at whose payments were due."""
        if count:
            self.figures.count("done", {"settle": count})

    def cared_for(self, event_id: str, count: int) -> None:  # noqa: ARG002 - whoever did it has logged it
        """Bookings of an event that is cancelled or over were ended."""
        if count:
            self.figures.count("done", {"aftercare": count})

    def archived(self, event_id: str) -> None:
        """An event that is over has left Redis."""
        self.figures.archived += 1
        figures.ARCHIVED.add()
        logger.info("event archived", event_id=event_id)

    def regressed(self, event_id: str) -> None:
        """An event's state was older than what had been seen of it."""
        self.figures.regressed += 1
        figures.REGRESSED.add()
        logger.error("Redis has gone back to an older state", event_id=event_id)

    def failed(self, event_id: str, error: Exception) -> None:
        """Nothing could be done about one event, though the servers answer; it will be tried again."""
        self.figures.count("failures", {"event": 1})
        self.troubles.note(event_id, error)


def count_kinds(differences: Iterable[Difference]) -> dict[str, int]:
    """How many differences of which kind."""
    return dict(Counter(difference.kind for difference in differences))
