"""One reading of one event: Redis held against ledger and journal, while all of them go on changing.

What concerns a single booking is settled at once, by asking in an order that no race can deceive::

    Redis has it; the journal has not; the ledger has not; Redis still has it
        an entry leaves the journal when it is in the ledger (asked after it) or undone in Redis (asked last)
    the ledger has it; Redis has not; the ledger still has it
        it is in Redis before it comes to the ledger, and stops owning places in the ledger before it leaves Redis
    the journal has it; Redis has not; the journal still has it; the ledger has not ended it
        an entry outlives its booking where its process died between commit and dropping it; the next drain drops it

What concerns sums is *exact*: records are counted as they were at the moment of the picture, and its bitmaps and
counters must be what they add up to. Holds are in the picture themselves. Bookings are read after it, in steps, but
each carries the id of its journal's entry, so that later ones are told from those that were there. What was removed or
changed since is taken from a list that scripts keep of it (:mod:`persistence.audit_removed`). That none is missing is
proved by two numbers: the list comes to ``undone``, which counts what was removed, and as many were counted as the
picture says there were. Otherwise the reading is not exact, and is repeated.
Customers' totals are compared when nothing at all changed meanwhile (``steady``).
"""

import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from engine.blocks import BLOCKED_OWNER, MARK
from engine.bookings import JournalEntry
from engine.errors import StoreUnavailable
from engine.events import SellableEvent
from engine.ids import claim_id_of, parse_claim_id
from engine.journal import entry_order, journal_tail
from engine.kernel import Kernel
from engine.loading import NEVER_MS, state_fields
from engine.places import Places, format_places
from engine.ports import ActiveBooking
from engine.records import BookingRecord, pairs, parse_booking_record, scan_hash
from persistence.audit_accounts import are_journaled, present, unchanged
from persistence.audit_customers import CustomerSums
from persistence.audit_holds import HoldsSide
from persistence.audit_journal import KEPT_S, PAGE, JournalWatch
from persistence.audit_ledger import find_ended, find_owning, read_ledger
from persistence.audit_picture import Mark, Picture, SeenRecord, deadline_of, read_mark, take_picture
from persistence.audit_removed import RemovedBookings
from persistence.audit_tally import Exact, Tally
from persistence.bookings import Bookings
from persistence.differences import Difference, Kind, name_places

DIFFERENCES_MAX = 10_000  # of one event; past this, more would tell nobody anything
CLOCK_LEEWAY_MS = 5_000  # of an event's clock ahead of Redis's: NTP slews, or steps by less
# What every state has the same, as long as its layout stands; and what it must have.
_OF_THE_LAYOUT = ("event", "legs", "seats", "blocks", "stride")
_LATER = ("undone", "repairs", "off_sale")  # 0 where a state was made by a version that did not know them
_NUMBERS = ("epoch", "seq", "clock", "due", "closes", "version", "max_hold", "max_customer", "ttl_max", *_LATER)
_COUNTERS = ("free:", "held:", "sold:", "kept:")


class Dispute(msgspec.Struct, frozen=True):
    """A booking that the two sides do not agree on: its record as it was read, and what ledger or journal say."""

    difference: Difference
    key: str
    text: bytes | None
    record: BookingRecord | None
    wanted: BookingRecord | None

    @property
    def places(self) -> list[Places]:
        """Those of both sides."""
        return [side.places for side in (self.record, self.wanted) if side is not None]


class Evidence(msgspec.Struct, frozen=True):
    """What a reading has seen, for a repair to begin with."""

    picture: Picture
    tally: Tally
    exact: Exact
    disputes: tuple[Dispute, ...]
    wrong_bookings: tuple[SeenRecord, ...]
    wrong_holds: tuple[SeenRecord, ...]
    unindexed: tuple[SeenRecord, ...]
    lost: tuple[bytes, ...]


class Reading(msgspec.Struct, frozen=True):
    """What one reading found; ``loaded`` when Redis has the event at all.

    ``steady`` when nothing changed meanwhile. ``complete`` when another reading would hardly tell more: all sums are
    exact, but for those of holds where these are too many. ``evidence`` is ``None`` where nothing is left to be
    repaired in place: Redis does not have the event, or has another than the ledger's.
    """

    loaded: bool
    steady: bool
    exact: bool
    complete: bool
    epoch: int | None
    seq: int | None
    hold_count: int
    booking_count: int
    differences: frozenset[Difference]
    evidence: Evidence | None = None


async def read_event(
    kernel: Kernel, bookings: Bookings, event: SellableEvent, *, journals: JournalWatch, again: bool = False
) -> Reading:
    """Read *event* once; *again* to confirm what was found, with nothing that was read before.

    Raises:
        StoreUnavailable: Redis does not answer, or was loaded anew meanwhile.
        LedgerUnavailable: Postgres does not answer.
        EventNotFound: The ledger has no such event.
    """
    begun_at = time.monotonic()
    picture = await take_picture(kernel, event)
    reader = _Reader(kernel, bookings, event, picture)
    try:
        evidence = await reader.read(journals, begun_after=begun_at if again else begun_at - KEPT_S)
    except _EnoughFound:
        evidence = None
    return Reading(
        loaded=picture.loaded,
        steady=reader.steady,
        exact=reader.exact.held and reader.exact.sold,
        complete=reader.exact.sold and (reader.exact.held or picture.holds is None),
        epoch=_number(picture.state.get("epoch")),
        seq=_number(picture.state.get("seq")),
        hold_count=picture.hold_count,
        booking_count=picture.booking_count,
        differences=frozenset(reader.found),
        evidence=evidence,
    )


class _EnoughFound(Exception):
    pass


class _Reader:
    def __init__(self, kernel: Kernel, bookings: Bookings, event: SellableEvent, picture: Picture) -> None:
        self.found: set[Difference] = set()
        self.steady = True
        self.exact = Exact(held=True, sold=True)
        self._in_redis = 0  # of what was found, that is not Postgres's own
        self._kernel = kernel
        self._engine = bookings.engine
        self._event = event
        self._event_id = event.event.id
        self._partition = kernel.partition_of(event)
        self._picture = picture
        self._tally = Tally(self._event_id, event.layout)
        self._customers = CustomerSums()
        self._holds = HoldsSide(event, self._tally, self._customers)
        self._disputes: list[Dispute] = []
        self._wrong_bookings: list[SeenRecord] = []
        self._removed: RemovedBookings  # once the state has proved to be readable
        self._disputed: dict[str, list[Places]] = {}  # by key, those of both sides
        self._lacking: dict[str, ActiveBooking] = {}
        self._journal_seen = True  # whether all that it has and Redis has not is known
        self._blocked: dict[str, str] = {}  # places of blocks, by key
        self._counted = 0  # bookings that were there at the moment of the picture

    async def read(self, journals: JournalWatch, *, begun_after: float) -> Evidence | None:
        """Everything; returns what a repair may begin with."""
        is_readable = self._picture.loaded and self._note_state()
        if is_readable:
            self._removed = RemovedBookings(self._kernel, self._event, self._picture)
        ledger, guards = await read_ledger(
            self._engine, self._event, self._compare_ledger if is_readable else _no_comparison
        )
        self.found.update(guards)
        if not is_readable:
            return None
        epoch = int(self._picture.state["epoch"])
        if epoch != ledger.epoch:
            self._note([Difference(self._event_id, "epoch_wrong", redis=epoch, ledger=ledger.epoch)])
        if int(self._picture.state["version"]) < ledger.version:
            said = self._picture.state["status"]
            self._note([Difference(self._event_id, "status_wrong", redis=said, ledger=ledger.status)])
        if self._picture.lead_ms > CLOCK_LEEWAY_MS or "back" in self._picture.state:
            self._note([Difference(self._event_id, "clock_wrong", redis=int(self._picture.state["clock"]))])
        await self._compare_holds()
        async for batch in scan_hash(self._kernel, self._event, "bookings"):
            await self._removed.catch_up()
            await self._compare_redis(batch)
        await self._find_lacking()
        if self._picture.journal_length:
            lost, self._journal_seen = await journals.lost_entries(
                self._partition, self._event_id, epoch=epoch, begun_after=begun_after
            )
            for start in range(0, len(lost), PAGE):
                await self._compare_journaled(lost[start : start + PAGE])
        await self._compare_sums()
        return Evidence(
            picture=self._picture,
            tally=self._tally,
            exact=self.exact,
            disputes=tuple(self._disputes),
            wrong_bookings=tuple(self._wrong_bookings),
            wrong_holds=tuple(self._holds.wrong),
            unindexed=tuple(self._holds.unindexed),
            lost=tuple(self._holds.lost),
        )

    def _note(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            self.found.add(difference)
            self._in_redis += 1
            if self._in_redis >= DIFFERENCES_MAX:
                self.steady, self.exact = False, Exact(held=False, sold=False)
                raise _EnoughFound

    def _note_state(self) -> bool:
        """Whether the state numbers places as the event does, and has all that scripts need of it."""
        state, layout = self._picture.state, self._event.layout
        if state.get("layout") != layout.digest:
            self._note([Difference(self._event_id, "layout_wrong", redis=state.get("layout"), ledger=layout.digest)])
            return False
        fields = dict(pairs([part.decode() for part in state_fields(self._event.event, layout)]))
        for name, value in {"event": self._event_id, "epoch": None, "seq": None, **fields}.items():
            said = state.get(name)
            fixed = name in _OF_THE_LAYOUT or name.startswith("section:")
            if (said is None and name not in _LATER) or (fixed and said != value):
                self._note([Difference(self._event_id, "layout_wrong", subject=name, redis=said, ledger=value)])
                return False
        for name, said in state.items():
            if (name in _NUMBERS or name.startswith(_COUNTERS)) and _number(said) is None:
                self._note([Difference(self._event_id, "layout_wrong", subject=name, redis=said, ledger=None)])
                return False
        return True

    async def _compare_holds(self) -> None:
        if self._picture.holds is not None:
            self._note(self._holds.of_picture(self._picture))
            return
        async for differences in self._holds.in_steps(self._kernel):
            self._note(differences)
        first = await self._kernel.event_command(self._event, "ZRANGE", "expiries", 0, 0, "WITHSCORES")
        if await self._stood_still():
            self._note(self._holds.due(self._picture, deadline_of(first[1]) if first else NEVER_MS))

    async def _stood_still(self) -> bool:
        return await read_mark(self._kernel, self._event) == self._picture.mark

    async def _compare_sums(self) -> None:
        picture, now = self._picture, await read_mark(self._kernel, self._event)
        if now.epoch != picture.mark.epoch:
            raise StoreUnavailable(f"event {self._event_id} was loaded anew while it was read")
        self.steady = now == picture.mark
        self.exact = Exact(
            held=self.steady or picture.holds is not None,
            sold=await self._count_removed(now) and self._journal_seen and self._counted == picture.booking_count,
        )
        self._note(self._tally.compare_cells(picture.held, picture.sold, self.exact))
        self._note(self._tally.compare_counters(picture.counter, picture.kept, self.exact))
        if self.steady:
            disputed = {side.owner for one in self._disputes for side in (one.record, one.wanted) if side is not None}
            wrong = await self._customers.compare(self._kernel, self._event, leave_out=disputed)
            self.steady = await self._stood_still()
            self._note([*wrong, *self._wrong_marks()] if self.steady else ())

    async def _count_removed(self, now: Mark) -> bool:
        """Count in what was gone before it was read; returns whether all that is gone by *now* is accounted for."""
        if int(now.seq or 0) < int(self._picture.mark.seq or 0):  # a replica has taken over, without the last changes
            return False
        if (now.undone, now.repairs) == (self._picture.mark.undone, self._picture.mark.repairs):
            return True
        await self._removed.catch_up()
        if now.repairs != self._picture.mark.repairs or not self._removed.reaches(int(now.undone or 0)):
            return False
        for key, sides in self._disputed.items():
            if (places := self._removed.in_picture(key)) is not None and places not in sides:
                return False  # neither side is what the picture had
        for key, places in self._removed.unread():
            self._counted += 1
            if key not in self._disputed:
                try:
                    self._tally.add("sold", places)
                except ValueError:  # a record that contradicted itself, and is gone
                    return False
        return True

    def _wrong_marks(self) -> Iterator[Difference]:
        """Where the fields that tell what is off sale are not what the records of blocks say, or are miscounted."""
        marks = {name.removeprefix(MARK): text for name, text in self._picture.state.items() if name.startswith(MARK)}
        for key in marks.keys() | self._blocked.keys():
            said, should = marks.get(key), self._blocked.get(key)
            if said != should:
                subject = claim_id_of(key, self._event_id)
                yield Difference(self._event_id, "mark_wrong", subject=subject, redis=said, ledger=should)
        count = int(self._picture.state.get("off_sale", 0))
        if count != len(marks):
            yield Difference(self._event_id, "mark_wrong", subject="off_sale", redis=count, ledger=len(marks))

    async def _compare_redis(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """Bookings of Redis, and whether ledger or journal account for them."""
        texts: dict[str, bytes] = {}
        records: dict[str, BookingRecord] = {}
        for name, text in batch:
            try:
                record = parse_booking_record(name, text)
            except ValueError as error:
                self._note_wrong(name, text, str(error))
                continue
            texts[record.key], records[record.key] = text, record
        young = await self._set_apart(records, texts)
        owning = await find_owning(self._engine, self._event_id, records)
        unknown, differing = [], {}
        for key, record in records.items():
            self._customers.add(record.owner, record.quantity)
            if record.owner == BLOCKED_OWNER:
                self._blocked[key] = format_places(record.places)
            if key not in young:
                self._counted += 1
                self._removed.note_read(key)
            known = owning.get(key)
            if known is None:
                unknown.append(record)
            elif (known.places, known.customer_id) == (record.places, record.owner):
                self._count(record, texts[key], young)
            else:
                differing[key] = known
        still = await unchanged(self._kernel, self._event, {key: texts[key] for key in differing})
        for key, known in differing.items():
            if key in still:
                self._dispute("booking_differs", key, text=texts[key], record=records[key], wanted=_record_of(known))
            else:
                self._count(records[key], texts[key], young)
        unaccounted = await self._unaccounted(unknown)
        for record in unknown:
            if record.key in unaccounted:
                self._dispute("missing_in_ledger", record.key, text=texts[record.key], record=record)
            else:
                self._count(record, texts[record.key], young)

    async def _set_apart(self, records: dict[str, BookingRecord], texts: dict[str, bytes]) -> set[str]:
        """Those made after the picture; takes out of *records* what is from a future that no journal has seen."""
        mark = entry_order(self._picture.journal_id)
        later = {
            key: at for key, one in records.items() if one.journal_id and (at := entry_order(one.journal_id)) > mark
        }
        if later:
            last_id, _ = await journal_tail(self._kernel, self._partition)
            for key in [key for key, at in later.items() if at > entry_order(last_id)]:
                self._note_wrong(key.encode(), texts[key], f"the journal has not come to {records[key].journal_id} yet")
                del records[key], later[key]
        return set(later)

    async def _unaccounted(self, records: Sequence[BookingRecord]) -> set[str]:
        """Those that neither journal nor ledger have, and Redis still has."""
        journaled = await are_journaled(self._kernel, self._partition, [record.journal_id for record in records])
        left = [record.key for record in records if record.journal_id not in journaled]
        owning = await find_owning(self._engine, self._event_id, left)
        return await present(self._kernel, self._event, [key for key in left if key not in owning])

    async def _compare_ledger(self, page: Sequence[ActiveBooking]) -> None:
        """Remember those bookings of the ledger that Redis does not have."""
        await self._removed.catch_up()  # a list that nobody asks for too long has a gap
        known = {claim.key: booking for booking in page if (claim := parse_claim_id(booking.booking_id)) is not None}
        there = await present(self._kernel, self._event, list(known))
        self._lacking.update((key, booking) for key, booking in known.items() if key not in there)
        if len(self._lacking) >= DIFFERENCES_MAX:
            raise _EnoughFound

    async def _find_lacking(self) -> None:
        if not self._lacking:
            return
        still_owning = await find_owning(self._engine, self._event_id, self._lacking)
        for key, booking in still_owning.items():
            self._dispute("missing_in_redis", key, wanted=_record_of(booking))

    async def _compare_journaled(self, entries: Sequence[JournalEntry]) -> None:
        """Entries whose booking Redis did not have; those of another epoch will be refused anyway."""
        by_key = {entry.booking_id.partition("~")[0]: entry for entry in entries}
        there = await present(self._kernel, self._event, list(by_key))
        lost = {key: entry for key, entry in by_key.items() if key not in there and key not in self._lacking}
        journaled = await are_journaled(self._kernel, self._partition, [entry.journal_id for entry in lost.values()])
        # Asked last: what is cancelled has ended in the ledger before it leaves Redis.
        ended = await find_ended(self._engine, self._event_id, lost)
        for key, entry in lost.items():
            if entry.journal_id in journaled and key not in ended:
                self._dispute("missing_in_redis", key, wanted=_journaled_record(key, entry))

    def _count(self, record: BookingRecord, text: bytes, young: set[str]) -> None:
        if record.key in young:
            return
        try:
            self._tally.add("sold", self._removed.in_picture(record.key) or record.places)
        except ValueError as error:
            self._note_wrong(record.key.encode(), text, str(error), counted=True)

    def _note_wrong(self, key: bytes, text: bytes, reason: str, *, counted: bool = False) -> None:
        self._counted += not counted
        self._wrong_bookings.append(SeenRecord(key, text))
        subject = claim_id_of(key.decode(errors="replace"), self._event_id)
        self._note([Difference(self._event_id, "record_wrong", subject=subject, redis=reason)])

    def _dispute(
        self,
        kind: Kind,
        key: str,
        *,
        text: bytes | None = None,
        record: BookingRecord | None = None,
        wanted: BookingRecord | None = None,
    ) -> None:
        """Note a booking, and that what follows from it is no difference of its own."""
        sides = [side for side in (record, wanted) if side is not None]
        self._disputed[key] = [side.places for side in sides]
        known = True
        for side in sides:
            try:
                self._tally.add("disputed", side.places)
            except ValueError as error:
                if side is record and text is not None:
                    self._note_wrong(key.encode(), text, str(error), counted=True)
                    return
                known = False  # the ledger's own places are none of this layout: a person must look
        section, seat = name_places(self._event.layout, sides[0].places)
        difference = Difference(
            self._event_id,
            kind,
            section=section,
            seat=seat,
            subject=claim_id_of(key, self._event_id),
            redis=f"{format_places(record.places)} {record.owner}" if record else None,
            ledger=f"{format_places(wanted.places)} {wanted.owner}" if wanted else None,
        )
        if known:
            self._disputes.append(Dispute(difference, key, text, record, wanted))
        self._note([difference])


async def _no_comparison(_: Sequence[ActiveBooking]) -> None:
    """For an event that Redis does not have."""


def _record_of(booking: ActiveBooking) -> BookingRecord:
    """The record that the loader would make of a booking."""
    key = booking.booking_id.partition("~")[0]
    places, confirmed_ms = booking.places, booking.confirmed_at_ms
    return BookingRecord(key, confirmed_ms, confirmed_ms, "", places.quantity, places, booking.customer_id)


def _journaled_record(key: str, entry: JournalEntry) -> BookingRecord:
    return BookingRecord(
        key=key,
        confirmed_ms=entry.confirmed_at_ms,
        created_ms=entry.created_at_ms,
        journal_id=entry.journal_id,
        quantity=entry.places.quantity,
        places=entry.places,
        owner=entry.customer_id,
    )


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
