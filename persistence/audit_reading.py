"""One reading of one event: Redis held against ledger and journal, while all of them go on changing.

What concerns a single booking is settled at once, by asking in an order that no race can deceive::

    Redis has it; the journal has not; the ledger has not; Redis still has it
        an entry leaves the journal when it is in the ledger (asked after it) or undone in Redis (asked last)
    the ledger has it; Redis has not; the ledger still has it
        it is in Redis before it comes to the ledger, and stops owning places in the ledger before it leaves Redis

What concerns sums is exact if the event's ``seq`` stood still meanwhile (``steady``). Otherwise holds are still exact,
being read at one moment; bitmaps and counters of bookings are held against what they were before and after; and
customers' totals are left out.
"""

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from engine.errors import StoreUnavailable
from engine.events import SellableEvent
from engine.ids import claim_id_of, parse_claim_id
from engine.journal import parse_entry, read_journal
from engine.kernel import Kernel
from engine.places import CountedPlaces, NumberedPlaces, Places, format_places
from engine.ports import ActiveBooking
from engine.records import BookingRecord, parse_booking_record, scan_hash
from persistence.audit_customers import CustomerSums
from persistence.audit_holds import deadline_differences, hold_differences
from persistence.audit_ledger import check_guards, epoch_in_ledger, find_owning
from persistence.audit_picture import Picture, read_bitmaps, read_counters, read_mark, take_picture
from persistence.audit_tally import Tally
from persistence.bookings import Bookings
from persistence.differences import Difference, Kind, name_seat

BATCH = 500  # bookings compared at once
DIFFERENCES_MAX = 10_000  # of one event; past this, more would tell nobody anything
_EVER_MS = 2**53


class Reading(msgspec.Struct, frozen=True):
    """What one reading found; ``steady`` when nothing changed meanwhile, ``loaded`` when Redis has the event at all."""

    loaded: bool
    steady: bool
    epoch: int | None
    seq: int | None
    hold_count: int
    booking_count: int
    differences: frozenset[Difference]


async def read_event(kernel: Kernel, bookings: Bookings, event: SellableEvent) -> Reading:
    """Read *event* once.

    Raises:
        StoreUnavailable: Redis does not answer, or was loaded anew meanwhile.
        LedgerUnavailable: Postgres does not answer.
    """
    picture = await take_picture(kernel, event)
    reader = _Reader(kernel, bookings, event)
    try:
        reader.note_all(await check_guards(bookings.engine, event))
        steady = await reader.compare(picture) if picture.loaded else True
    except _EnoughFound:
        steady = False
    return Reading(
        loaded=picture.loaded,
        steady=steady,
        epoch=int(picture.state["epoch"]) if picture.loaded else None,
        seq=int(picture.state["seq"]) if picture.loaded else None,
        hold_count=len(picture.holds),
        booking_count=picture.booking_count,
        differences=frozenset(reader.found),
    )


class _EnoughFound(Exception):
    pass


class _Reader:
    def __init__(self, kernel: Kernel, bookings: Bookings, event: SellableEvent) -> None:
        self.found: set[Difference] = set()
        self._kernel = kernel
        self._bookings = bookings
        self._event = event
        self._event_id = event.event.id
        self._tally = Tally(self._event_id, event.layout)
        self._customers = CustomerSums()
        self._disputed_customers: set[str] = set()

    def note_all(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            self.found.add(difference)
            if len(self.found) >= DIFFERENCES_MAX:
                raise _EnoughFound

    async def compare(self, picture: Picture) -> bool:
        """Everything but Postgres's own guards; returns whether the event stood still."""
        ledger_epoch = await epoch_in_ledger(self._bookings.engine, self._event_id)
        if (epoch := int(picture.state["epoch"])) != ledger_epoch:
            self.note_all([Difference(self._event_id, "epoch_wrong", redis=epoch, ledger=ledger_epoch)])
        if (digest := picture.state["layout"]) != self._event.layout.digest:
            self.note_all([Difference(self._event_id, "layout_wrong", redis=digest, ledger=self._event.layout.digest)])
            return True
        self.note_all(hold_differences(self._event, picture, self._tally, self._customers))
        self.note_all(deadline_differences(self._event_id, picture))
        async for batch in scan_hash(self._kernel, self._event, "bookings"):
            await self._compare_redis(batch)
        async for page in self._bookings.ledger_claims(self._event_id, batch_size=BATCH):
            await self._compare_ledger(page)
        await self._compare_journal(epoch)
        return await self._compare_sums(picture)

    async def _compare_sums(self, picture: Picture) -> bool:
        bitmaps, counters = (
            await read_bitmaps(self._kernel, self._event),
            await read_counters(self._kernel, self._event),
        )
        now = await read_mark(self._kernel, self._event)
        if now[0] != picture.mark[0]:
            raise StoreUnavailable(f"event {self._event_id} was loaded anew while it was read")
        steady = now == picture.mark
        self.note_all(self._tally.compare_cells((picture.held, bitmaps[0]), (picture.sold, bitmaps[1])))
        if steady or picture.holds_exact:
            self.note_all(self._tally.compare_counters(picture.counters, None if steady else counters))
        if steady:
            wrong = await self._customers.compare(
                self._kernel, self._event, holds=picture.holds, leave_out=self._disputed_customers
            )
            steady = await read_mark(self._kernel, self._event) == picture.mark
            self.note_all(wrong if steady else ())
        return steady

    async def _compare_redis(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """Bookings of Redis, and whether ledger or journal account for them."""
        records: dict[str, BookingRecord] = {}
        for name, text in batch:
            try:
                record = _checked(parse_booking_record(name, text))
            except ValueError as error:
                self._note("record_wrong", _id(name.decode(), self._event_id), redis=str(error))
                continue
            records[record.key] = record
            self._customers.add(record.owner, record.quantity)
        owning = await find_owning(self._bookings.engine, self._event_id, records)
        unknown = []
        for key, record in records.items():
            known = owning.get(key)
            if known is None:
                unknown.append(record)
            elif (known.places, known.customer_id) == (record.places, record.owner):
                self._count(record)
            else:
                self._dispute("booking_differs", key, record=record, known=known)
        unaccounted = await self._unaccounted(unknown)
        for record in unknown:
            if record.key in unaccounted:
                self._dispute("missing_in_ledger", record.key, record=record)
            else:
                self._count(record)

    async def _unaccounted(self, records: Sequence[BookingRecord]) -> set[str]:
        """Those that neither journal nor ledger have, and Redis still has."""
        journaled = await asyncio.gather(*[self._is_journaled(record.journal_id) for record in records])
        left = [record.key for record, known in zip(records, journaled, strict=True) if not known]
        owning = await find_owning(self._bookings.engine, self._event_id, left) if left else {}
        return await self._present(key for key in left if key not in owning)

    async def _compare_ledger(self, page: Sequence[ActiveBooking]) -> None:
        """Bookings of the ledger, and whether Redis has them."""
        known = {claim.key: booking for booking in page if (claim := parse_claim_id(booking.booking_id)) is not None}
        lacking = known.keys() - await self._present(known)
        if lacking:
            still_owning = await find_owning(self._bookings.engine, self._event_id, lacking)
            for key, booking in still_owning.items():
                self._dispute("missing_in_redis", key, known=booking)

    async def _compare_journal(self, epoch: int) -> None:
        """Bookings of the journal, and whether Redis has them; those of another epoch will be refused anyway."""
        partition = self._kernel.partition_of(self._event)
        after = "0-0"
        while True:
            entries = await read_journal(self._kernel, partition, after=after, until_ms=_EVER_MS, limit=BATCH)
            if not entries:
                return
            after = entries[-1][0].decode()
            for journal_id, fields in entries:
                try:
                    entry = parse_entry(journal_id, fields)
                except ValueError:
                    continue  # of no event that could be told; the drain reports it
                if entry.event_id != self._event_id or entry.epoch != epoch:
                    continue
                key = entry.booking_id.partition("~")[0]
                if await self._present([key]) or not await self._is_journaled(entry.journal_id):
                    continue
                booking = ActiveBooking(entry.booking_id, entry.customer_id, entry.confirmed_at_ms, entry.places)
                self._dispute("missing_in_redis", key, known=booking)

    async def _is_journaled(self, journal_id: str) -> bool:
        if not journal_id:
            return False
        partition = self._kernel.partition_of(self._event)
        return bool(await self._kernel.partition_command(partition, "XRANGE", "journal", journal_id, journal_id))

    async def _present(self, keys: Iterable[str]) -> set[str]:
        """Those bookings that Redis has now."""
        asked = list(keys)
        if not asked:
            return set()
        values = await self._kernel.event_command(self._event, "HMGET", "bookings", *asked)
        return {key for key, value in zip(asked, values, strict=True) if value is not None}

    def _count(self, record: BookingRecord) -> None:
        try:
            self._tally.add("sold", record.places)
        except ValueError as error:
            self._note("record_wrong", _id(record.key, self._event_id), redis=str(error))

    def _dispute(
        self, kind: Kind, key: str, *, record: BookingRecord | None = None, known: ActiveBooking | None = None
    ) -> None:
        """Note a booking, and that what follows from it is no difference of its own."""
        sides = [(record.places, record.owner)] if record else []
        sides += [(known.places, known.customer_id)] if known else []
        for places, customer in sides:
            self._disputed_customers.add(customer)
            self._tally.add("disputed", places)
        section, seat = _name_places(self._event, sides[0][0])
        self._note(
            kind,
            _id(key, self._event_id),
            section=section,
            seat=seat,
            redis=f"{format_places(record.places)} {record.owner}" if record else None,
            ledger=f"{format_places(known.places)} {known.customer_id}" if known else None,
        )

    def _note(
        self,
        kind: Kind,
        subject: str,
        *,
        section: str | None = None,
        seat: str | None = None,
        redis: str | None = None,
        ledger: str | None = None,
    ) -> None:
        self.note_all(
            [Difference(self._event_id, kind, section=section, seat=seat, subject=subject, redis=redis, ledger=ledger)]
        )


def _id(key: str, event_id: str) -> str:
    return claim_id_of(key, event_id)


def _checked(record: BookingRecord) -> BookingRecord:
    if record.quantity != record.places.quantity:
        raise ValueError(f"it says {record.quantity} places and names {record.places.quantity}")
    return record


def _name_places(event: SellableEvent, places: Places) -> tuple[str | None, str | None]:
    """Section and seat where they are one; a reader finds the rest in the places."""
    match places.items:
        case (NumberedPlaces(seats=(seat,)),):
            return name_seat(event.layout, seat)
        case (NumberedPlaces(section=section) | CountedPlaces(section=section),) if section < len(
            event.layout.sections
        ):
            return event.layout.sections[section].id, None
        case _:
            return None, None
