"""The load of a fault test: many clients who look, hold, extend, release, confirm and book, and never give up early.

Every answer is looked at, and what must never be in one is a finding.
"""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from buyer import NEVER_ANSWERED, Buyer
from http_calls import Answer, NoAnswer
from on_sale import OnSale, events_on_sale
from recording import Op, Operation, Outcome, Recording, now
from rig import Rig

CLIENTS = 16
WARM_UP = 400  # operations before a fault, so that it meets a sale under way
AFTER = 800  # and after it
RESOLVE_S = 60.0  # from a 202 to a booking or a refusal: an outage, the grace of ten seconds, and a round of draining
POLL_S = 0.2
ASKING_MAX = 64  # bookings asked after at a time: with thousands waiting, nobody else would have a turn
FINDINGS_MAX = 20  # of one kind of trouble there may be thousands


class Crowd:
    """Clients of one sale. ``findings`` are answers that must not be; ``codes`` counts what was answered."""

    def __init__(
        self,
        rig: Rig,
        events: Sequence[OnSale],
        *,
        seed: int = 1,
        clients: int = CLIENTS,
        pause_s: float = 0.0,
        vanishing: float = 0.0,
        resolve_s: float = RESOLVE_S,
    ) -> None:
        self._pause_s = pause_s
        self._resolve_s = resolve_s
        self._asking = asyncio.Semaphore(ASKING_MAX)
        self.vanishing = vanishing
        """The share of requests that are first sent by somebody who hangs up before the answer."""
        self.recording = Recording()
        self.events = {event.id: event for event in events}
        self._popular = tuple(events)
        self.findings: list[str] = []
        self.codes: Counter[str] = Counter()
        self.late_s: list[float] = []
        """For each booking answered 202: how long until it was known what became of it."""
        self._rig = rig
        self._clients = clients
        self._seed = seed
        self._customers = itertools.count()
        self._stopped = asyncio.Event()
        self._resolving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def buying(self) -> AsyncIterator["Crowd"]:
        """Buy beside the block; at its end, wait until every operation under way has its outcome."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._keep_buying(number))
            try:
                yield self
            finally:
                self._stopped.set()
        await asyncio.gather(*self._resolving)

    async def add_quiet(self, event: OnSale) -> None:
        """Put an event on sale that the crowd does not buy at, and the checker looks at all the same."""
        await self._rig.put_on_sale([event.definition])
        self.events[event.id] = event

    async def until_operations(self, count: int, *, within_s: float = 60.0) -> None:
        """Wait until *count* more operations have ended, which is bounded."""
        goal, give_up_at = len(self.recording.operations) + count, now() + within_s
        while len(self.recording.operations) < goal:
            assert now() < give_up_at, f"the sale stands still: {self.codes}"
            await asyncio.sleep(0.01)

    async def until_answered(self, code: str, count: int, *, within_s: float = 60.0) -> int:
        """Wait until *code* has been answered *count* more times, which is bounded; how often it was in all."""
        goal, give_up_at = self.codes[code] + count, now() + within_s
        while self.codes[code] < goal:
            assert now() < give_up_at, f"not answered {code} {count} times: {self.codes}"
            await asyncio.sleep(0.01)
        return self.codes[code]

    def count(self, op: Op, outcome: Outcome = "ok", *, since: float = 0.0) -> int:
        """How many operations of a kind that began after *since* ended like this."""
        return sum(
            1 for one in self.recording.operations if (one.op, one.outcome) == (op, outcome) and one.invoked_at >= since
        )

    # For buyers.

    @property
    def urls(self) -> list[str]:
        """Where the API answers now."""
        return self._rig.urls

    def token(self, customer: str) -> str:
        """A customer's token."""
        return self._rig.token(customer)

    def note(self, finding: str) -> None:
        """Keep an answer that must not be."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)

    def inspect(self, method: str, path: str, answer: Answer) -> None:
        """Count an answer, and note what no answer may be: somebody else's, a bug, or a 5xx that says not when."""
        self.codes[f"{answer.status} {answer.code or ''}".strip()] += 1
        if answer.headers.get(b"x-request-id") != answer.asked:
            self.note(f"{method} {path}: the answer is to request {answer.headers.get(b'x-request-id')!r}")
        if answer.status >= 500 and (answer.status != 503 or b"retry-after" not in answer.headers):
            self.note(f"{method} {path}: {answer.status} without Retry-After: {answer.body!r}")
        if answer.status in NEVER_ANSWERED:
            self.note(f"{method} {path}: {answer.status}: {answer.body!r}")

    def resolve_later(self, operation: Operation) -> None:
        """Ask after a booking that was answered 202, beside everything else."""
        task = asyncio.create_task(self._resolve(operation))
        self._resolving.add(task)
        task.add_done_callback(self._resolving.discard)

    async def _keep_buying(self, number: int) -> None:
        rng = random.Random(self._seed * 1000 + number)
        buyer = Buyer(self, rng.randrange(2**32))
        try:
            while not self._stopped.is_set():
                await buyer.visit(f"c{next(self._customers)}", rng.choice(self._popular))
                await asyncio.sleep(self._pause_s)
        finally:
            buyer.close()

    async def _resolve(self, waiting: Operation) -> None:
        """Until it is a booking or refused; what is neither in time stays unknown, and is a finding."""
        asked_at, answer = now(), None
        while now() - asked_at < self._resolve_s:
            with contextlib.suppress(NoAnswer):
                path = f"/v1/bookings/{waiting.booking_id}"
                async with self._asking:
                    answer = await self._rig.ask("GET", path, customer=waiting.customer)
                self.inspect("GET", path, answer)
                confirmed = answer.status == 200 and answer.json()["status"] == "confirmed"
                if confirmed or answer.status in (404, 410):
                    self.late_s.append(now() - asked_at)
                    self._end(waiting, "ok" if confirmed else "fail", answer)
                    return
            await asyncio.sleep(POLL_S)
        self.note(f"{waiting.booking_id} was answered 202, and after {self._resolve_s:g} s: {answer}")
        self.recording.add(waiting)

    def _end(self, waiting: Operation, outcome: Outcome, answer: Answer) -> None:
        self.codes[f"202, then {answer.status} {answer.code or ''}".strip()] += 1
        self.recording.add(
            msgspec.structs.replace(
                waiting, outcome=outcome, status=answer.status, code=answer.code, completed_at=now()
            )
        )


@contextlib.asynccontextmanager
async def crowd_buying(rig: Rig, sale: str, **options: Any) -> AsyncIterator[Crowd]:
    """Put the events of a sale on sale and let a crowd buy beside the block."""
    events = events_on_sale(sale)
    await rig.put_on_sale([event.definition for event in events])
    crowd = Crowd(rig, events, **options)
    async with crowd.buying():
        yield crowd
