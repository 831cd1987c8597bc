"""Repair: what an audit has confirmed is put right, event by event, while the sale goes on.

Each round reads, confirms, repairs, and reads again. Whatever a repair does to Redis goes through ``repair_event``,
which acts only on what was seen; so rounds of several processes may run at once, and one that is killed anywhere
leaves no more than drift that the next one finds.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec
import structlog

from engine import figures
from engine.catalog import Catalog
from engine.errors import EventNotFound, LedgerUnavailable, StoreUnavailable
from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.loader import EventLoader
from engine.places import NumberedPlaces
from engine.records import parse_booking_record, scan_hash
from persistence.audit import EventAudit, EventReader, unknown_event, unread_event
from persistence.audit_journal import JournalWatch
from persistence.audit_picture import SeenRecord
from persistence.audit_reading import CLOCK_LEEWAY_MS, DIFFERENCES_MAX, Evidence, Reading
from persistence.bookings import Bookings
from persistence.differences import GUARD_KINDS, Difference
from persistence.repair_ledger import repair_guards
from persistence.repair_plan import Operation, plan_repair, unset_cells

ROUNDS_MAX = 5  # of one event: records, what they leave behind, and rounds that the sale came in between
CALL_WEIGHT_MAX = 200  # of operations in one call: about a millisecond of the server's time
EVENTS_AT_ONCE = 64  # that are under way in a process, most of them waiting for their second reading
READINGS_AT_ONCE = 4  # each keeps a connection of the pool, and work for the server
UNANSWERED_MAX = 3  # events in a row that a server gave no answer for; then it is the server, and no event
REBUILT_KINDS = frozenset(("epoch_wrong", "layout_wrong"))  # what no repair in place can put right


logger = structlog.get_logger("holdfast.persistence")


class EventRepair(msgspec.Struct, frozen=True):
    """What was found of one event, and what has become of it.

    ``audit`` is the last reading; what it still has is ``unresolved``. Unless it was ``complete``, more may be wrong.
    ``failed`` says why the event could not be read
    at all.
    """

    event_id: str
    found: tuple[Difference, ...]
    repaired: tuple[Difference, ...]
    unresolved: tuple[Difference, ...]
    rebuilt: bool
    audit: EventAudit
    complete: bool = True
    failed: str | None = None


async def repair_event(
    kernel: Kernel,
    bookings: Bookings,
    loader: EventLoader,
    sellable: SellableEvent,
    *,
    dry_run: bool = False,
    journals: JournalWatch | None = None,
    turns: AbstractAsyncContextManager[object] | None = None,
) -> EventRepair:
    """Audit one event and put right what differs, the ledger winning; *dry_run* only finds.

    *journals* and *turns* are shared with others that are repaired at the same time.

    Raises:
        StoreUnavailable, LedgerUnavailable: A server does not answer. What was done by then is done.
        EventNotFound: The ledger has no such event.
    """
    reader = EventReader(kernel, bookings, sellable, journals or JournalWatch(kernel), turns)
    repairer = _Repairer(kernel, bookings, loader, sellable)
    audit, reading = await reader.confirmed(await reader.read())
    found = {difference.identity: difference for difference in audit.differences}
    for _ in range(0 if dry_run else ROUNDS_MAX):
        if not audit.differences or not await repairer.mend(audit.differences, reading):
            break
        audit, reading = await reader.confirmed(await reader.read(again=True))
        found.update((difference.identity, difference) for difference in audit.differences)
    left = {difference.identity for difference in audit.differences}
    done = EventRepair(
        event_id=sellable.event.id,
        found=tuple(found.values()),
        repaired=tuple(difference for identity, difference in found.items() if identity not in left),
        unresolved=audit.differences,
        rebuilt=repairer.rebuilt,
        audit=audit,
        complete=reading.complete,
    )
    if not dry_run:
        _count(done)
    return done


def _count(done: EventRepair) -> None:
    figures.AUDITS.add()
    figures.REBUILDS.add(count=done.rebuilt)
    for counter, differences in (
        (figures.DRIFT_FOUND, done.found),
        (figures.DRIFT_REPAIRED, done.repaired),
        (figures.UNRESOLVED, done.unresolved),
    ):
        for difference in differences:
            counter.add(difference.kind)


async def repair_events(
    kernel: Kernel,
    bookings: Bookings,
    catalog: Catalog,
    loader: EventLoader,
    event_ids: Iterable[str],
    *,
    dry_run: bool = False,
) -> AsyncIterator[EventRepair]:
    """Audit and repair many events, in no order, some of them at once; one that fails does not stop the others.

    An event that the ledger does not know is reported and left alone: perhaps it is the wrong Postgres.

    Raises:
        StoreUnavailable, LedgerUnavailable: A server does not answer, for this event and the last few.
    """
    journals, turns = JournalWatch(kernel), asyncio.Semaphore(READINGS_AT_ONCE)
    unanswered = 0  # one event after the other

    async def repair(event_id: str) -> EventRepair:
        nonlocal unanswered
        try:
            sellable = await catalog.get(event_id)
            done = await repair_event(
                kernel, bookings, loader, sellable, dry_run=dry_run, journals=journals, turns=turns
            )
        except EventNotFound:
            audit = unknown_event(event_id)
            done = EventRepair(event_id, audit.differences, (), audit.differences, False, audit)
        except Exception as error:  # one event that is damaged beyond reading must not keep the others from repair
            if isinstance(error, StoreUnavailable | LedgerUnavailable):
                unanswered += 1
                if unanswered > UNANSWERED_MAX:
                    raise
            reason = f"{type(error).__name__}: {error}"
            logger.error("event not audited", event_id=event_id, reason=reason)
            return EventRepair(event_id, (), (), (), False, unread_event(event_id), failed=reason)
        unanswered = 0
        return done

    waiting = iter(event_ids)
    running: set[asyncio.Task[EventRepair]] = set()
    try:
        while True:
            running |= {
                asyncio.create_task(repair(event_id)) for event_id in _take(waiting, EVENTS_AT_ONCE - len(running))
            }
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class _Repairer:
    """Puts right what was found of one event; ``rebuilt`` says whether it was built anew."""

    def __init__(self, kernel: Kernel, bookings: Bookings, loader: EventLoader, sellable: SellableEvent) -> None:
        self.rebuilt = False
        self._kernel = kernel
        self._bookings = bookings
        self._loader = loader
        self._sellable = sellable
        self._tried: frozenset[tuple[object, ...]] | None = None

    async def mend(self, confirmed: Sequence[Difference], reading: Reading) -> bool:
        """Put right what can be; returns whether it is worth another look."""
        identities = frozenset(difference.identity for difference in confirmed)
        if identities == self._tried:  # exactly this was left by the last attempt, which nothing came in between of
            return False
        self._tried = identities
        if any(one.kind == "status_wrong" for one in confirmed):
            await self._loader.tell_status(self._sellable.event.id)
        if any(one.kind == "clock_wrong" for one in confirmed):  # before a rebuild, which leaves people's turns alone
            await self._kernel.run("set_clock", self._sellable, [b"%d" % CLOCK_LEEWAY_MS], load=False)
        in_redis = [difference for difference in confirmed if difference.kind not in GUARD_KINDS]
        if len(in_redis) < len(confirmed):
            await repair_guards(self._bookings.engine, self._sellable, confirmed)
        if not in_redis:
            return True
        if len(in_redis) >= DIFFERENCES_MAX or any(one.kind in REBUILT_KINDS for one in in_redis):
            return await self._rebuild(reading)
        if reading.evidence is None:
            return True
        owners = await _find_owners(self._kernel, self._sellable, unset_cells(reading.evidence))
        plan = plan_repair(self._sellable, reading.evidence, confirmed, owners)
        if not plan and not any(one.kind == "due_wrong" for one in in_redis):
            return True
        if not await self._apply(
            plan, reading.evidence
        ):  # with nothing to do it still puts the earliest deadline right
            self._tried = None
        return True

    async def _rebuild(self, reading: Reading) -> bool:
        event_id = self._sellable.event.id
        if any(
            one.kind == "epoch_wrong"
            and isinstance(one.redis, int)
            and isinstance(one.ledger, int)
            and one.redis > one.ledger
            for one in reading.differences
        ):
            logger.error("Redis has a later epoch than the ledger: is it the right one?", event_id=event_id)
            return False
        if await self._loader.rebuild(event_id, seen_epoch=reading.epoch):
            self.rebuilt = True
            logger.warning("event rebuilt from the ledger", event_id=event_id, epoch_before=reading.epoch)
        return True

    async def _apply(self, plan: Sequence[Operation], evidence: Evidence) -> bool:
        """Run the plan; returns whether all of it was done, rather than given up for what came in between."""
        repairs = evidence.picture.repairs
        epoch = evidence.picture.state["epoch"].encode()
        for call in _calls(plan):
            args = [epoch, b"%d" % repairs, *(operation.text for operation in call)]
            reply = await self._kernel.run("repair_event", self._sellable, args, load=False)
            if reply[0] != b"REPAIRED":
                logger.info("repair begun anew", event_id=self._sellable.event.id, status=reply[0].decode())
                return False
            repairs = reply[1]
        return True


def _calls(plan: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """The plan cut into calls, each of a bounded weight and at least one operation; one call if there is none."""
    call: list[Operation] = []
    weight = 0
    for operation in plan:
        if call and weight + operation.weight > CALL_WEIGHT_MAX:
            yield call
            call, weight = [], 0
        call.append(operation)
        weight += operation.weight
    yield call


async def _find_owners(kernel: Kernel, sellable: SellableEvent, cells: Collection[int]) -> Mapping[int, SeenRecord]:
    """The bookings that have *cells*, by cell, as Redis has them now."""
    owners: dict[int, SeenRecord] = {}
    if not cells:
        return owners
    legs = sellable.layout.legs
    async for batch in scan_hash(kernel, sellable, "bookings"):
        for key, text in batch:
            try:
                places = parse_booking_record(key, text).places
            except ValueError:
                continue  # a difference of its own
            for item in places.items:
                for seat in item.seats if isinstance(item, NumberedPlaces) else ():
                    for cell in range(seat * legs + places.first_leg, seat * legs + places.last_leg):
                        if cell in cells:
                            owners[cell] = SeenRecord(key, text)
    return owners


def _take(waiting: Iterator[str], count: int) -> Iterator[str]:
    for _, event_id in zip(range(count), waiting, strict=False):
        yield event_id
