"""The duty to publish: what the outbox has goes to its sinks, within a moment."""

from persistence.heartbeats import Figures
from persistence.partition_leases import Territory
from persistence.publishing.relay import Relay
from persistence.reconciling.duty import Duty

LOOK_PAUSE_S = 0.25  # one query; a notification by the transactions that write would have them wait for each other


class Publish(Duty):
    """Every reconciler publishes: the queue keeps them apart, and there are no partitions in Postgres."""

    name = "publish"
    pause_s = LOOK_PAUSE_S

    def __init__(self, relay: Relay, figures: Figures) -> None:
        super().__init__()
        self._relay = relay
        self._figures = figures

    async def work(self, territory: Territory) -> None:  # noqa: ARG002 - see above
        if queued := await self._relay.step():
            self._figures.count("done", {self.name: queued})

    async def close(self) -> None:
        await self._relay.close()
