"""A courier: brings one sink what is due, several bookings beside each other, and each booking's events in order."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby

import msgspec
import structlog

from engine.figures import PUBLISHED
from persistence.publishing.attempt import Attempt, Delivery, Patience
from persistence.publishing.envelope import OutboxRow
from persistence.publishing.queue import Queue
from persistence.publishing.sinks import Sink, Sinks

FAILING_AFTER = 8  # failures in a row: then it is the endpoint, and one delivery at a time asks whether it is back
REST_MAX_S = 60.0  # between two such questions
SETTLE_MAX_S = 2.0  # to write down what was told, when we are stopped

logger = structlog.get_logger("holdfast.publishing")


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a sink's queue is claimed at a time, how many requests are under way, and how long one may take."""

    claimed: int
    at_once: int
    send_s: float

    @property
    def lease_s(self) -> float:
        """Long enough for every delivery claimed to take as long as it may, and for a pause of ours."""
        return self.send_s * -(-self.claimed // self.at_once) + 20.0


class Courier:
    """One sink's. Several processes may have one for the same sink: the queue keeps them apart."""

    def __init__(
        self,
        sink: Sink,
        queue: Queue,
        sinks: Sinks,
        send: Callable[[OutboxRow], Awaitable[Attempt]],
        *,
        pace: Pace,
        patience: Patience,
    ) -> None:
        self.sink = sink
        self._queue = queue
        self._sinks = sinks
        self._send = send
        self._pace = pace
        self._patience = patience
        self._failures = 0
        self._rest_until = 0.0
        self._gone = False

    @property
    def gone(self) -> bool:
        """Whether the receiver has said that it wants no more; the sink is disabled."""
        return self._gone

    @property
    def rests_s(self) -> float:
        """For how long the endpoint is to be left alone from now on."""
        return max(0.0, self._rest_until - time.monotonic())

    async def round(self) -> int:
        """Claim some of what is due and tell it; returns how many were looked at, 0 when there is nothing to do now.

        Raises:
            LedgerUnavailable: Postgres does not answer. What was told and not written down is told again.
        """
        if self._gone or self.rests_s:
            return 0
        limit = self._pace.claimed if self._failures < FAILING_AFTER else 1
        lease_until = time.monotonic() + self._pace.lease_s
        claimed, looked_at = await self._queue.claim(self.sink.id, limit=limit, lease_s=self._pace.lease_s)
        if claimed:
            await self._tell(claimed, stop_at=lease_until - self._pace.send_s)
        return looked_at

    async def _tell(self, claimed: Sequence[Delivery], *, stop_at: float) -> None:
        told: list[int] = []
        runs = [list(run) for _, run in groupby(sorted(claimed, key=_by_booking), key=lambda one: one.booking_id)]
        waiting = iter(sorted(runs, key=lambda run: run[0].row.id))

        async def lane() -> None:
            for run in waiting:  # shared: each lane takes the next
                await self._tell_run(run, told, stop_at=stop_at)

        lanes = [asyncio.create_task(lane()) for _ in range(min(self._pace.at_once, len(runs)))]
        try:
            await asyncio.gather(*lanes)
        finally:
            for task in lanes:
                task.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
            async with asyncio.timeout(SETTLE_MAX_S):
                if told:
                    await self._queue.delivered(self.sink.id, told)
                await self._queue.end_lease(self.sink.id, claimed[0].lease_until)

    async def _tell_run(self, run: Sequence[Delivery], told: list[int], *, stop_at: float) -> None:
        """Tell deliveries of one booking one after the other, up to the first that fails."""
        for delivery in run:
            if self._gone or self.rests_s or time.monotonic() > stop_at:
                return
            attempt = await self._attempt(delivery.row)
            if attempt.outcome == "delivered":
                self._failures = 0
                told.append(delivery.row.id)
                PUBLISHED.add(self.sink.name, "delivered")
                continue
            if attempt.outcome == "gone":
                await self._note_gone()
            elif attempt.endless:
                self._note_failure(attempt)
                self._rest_until = max(self._rest_until, time.monotonic() + 1.0)
            else:
                self._note_failure(attempt)
                await self._put_off(delivery, attempt)
            return

    async def _attempt(self, row: OutboxRow) -> Attempt:
        try:
            return await self._send(row)
        except Exception as error:  # of this event, whatever it is: it must not keep others from being told
            logger.error("event cannot be sent", sink=self.sink.name, outbox_id=row.id, exc_info=error)
            return Attempt(outcome="failed", reason=f"{type(error).__name__}: {error}")

    def _note_failure(self, attempt: Attempt) -> None:
        PUBLISHED.add(self.sink.name, "failed")
        self._failures += 1
        if self._failures == FAILING_AFTER:
            logger.warning("webhook fails", sink=self.sink.name, reason=attempt.reason)
        rest_s = attempt.retry_after_s
        if self._failures >= FAILING_AFTER:
            rest_s = max(rest_s, min(self._patience.wait_s(self._failures - FAILING_AFTER + 1), REST_MAX_S))
        if rest_s:
            self._rest_until = max(self._rest_until, time.monotonic() + min(rest_s, self._patience.wait_max_s))

    async def _put_off(self, delivery: Delivery, attempt: Attempt) -> None:
        is_dead = await self._queue.failed(
            self.sink.id,
            delivery,
            attempt.reason,
            wait_s=self._patience.wait_s(delivery.attempts, attempt.retry_after_s),
            retry_for_s=self._patience.retry_for_s,
        )
        if is_dead:
            PUBLISHED.add(self.sink.name, "dead")
            logger.error(
                "event not delivered, and given up: see `holdfast webhooks dead`",
                sink=self.sink.name,
                type=delivery.row.type,
                outbox_id=delivery.row.id,
                reason=attempt.reason,
            )

    async def _note_gone(self) -> None:
        if self._gone:
            return
        self._gone = True
        PUBLISHED.add(self.sink.name, "gone")
        await self._sinks.disable(self.sink.name, "it answered 410 Gone")
        logger.error("webhook disabled: it answered 410 Gone", sink=self.sink.name)


def _by_booking(delivery: Delivery) -> tuple[str, int]:
    return str(delivery.booking_id), delivery.row.id
