"""The journal's other end: a backlog goes into the ledger, poison goes aside, and what is refused is undone."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis
from ledger_lab import Lab
from postgres_outage import postgres_away
from shops import Shop, at_once, claim, open_shops

from engine.backlog import read_backlog
from engine.booking_requests import BookingRequest, booking_args
from engine.bookings import BookingDetails, JournalEntry
from engine.dead_letters import DeadLetter, scan_letters
from engine.definition import Policy
from engine.draining import PAGE, PAGES_AHEAD, Drained, Drainer
from engine.errors import BookingRefused, LedgerUnavailable
from engine.events import SellableEvent
from engine.ids import BookingId, new_claim_id, parse_claim_id
from engine.journal_bound import JOURNAL_BYTES_MAX
from engine.keys import event_key, once_key, partition_key
from engine.mending import Discarded, Retried, give_up, retry
from engine.once import ONCE_TTL_MS, Once
from engine.ports import Committed, Refused, Standing, UnwritableEntry
from engine.settlement import OUTDATED
from persistence.ledger import PostgresLedger
from persistence.sealing import AesSealer

pytest_plugins = ["ledger_fixtures"]

BACKLOG = 2_300  # several pages, and one that is not full
SOME_PAGES = 2 * PAGE + 1
ROOMY = Policy(max_places_per_customer=10_000)
NOBODY_CALLED_EVE = "ALTER TABLE bookings ADD CONSTRAINT nobody_called_eve CHECK (customer_id <> 'eve')"
EVE_IS_WELCOME = "ALTER TABLE bookings DROP CONSTRAINT nobody_called_eve"


A_1 = claim(section="stalls", seats=["A-1"])
EVES = Once(b"e" * 32, b"b" * 32)


async def retry_letter(shop: Shop, ledger: PostgresLedger, dead: DeadLetter) -> Retried:
    accept_again = shop.reservations.accept_again
    return await retry(shop.kernel, shop.settlement, shop.catalog, ledger, dead, accept_again=accept_again)


@pytest.fixture
async def shop(redis_url: str, lab: Lab) -> AsyncIterator[Shop]:
    async with open_shops(redis_url, lab, 1) as (opened,):
        yield opened


class Journal:
    """A partition's journal and dead letters, as they stand, and ways to put things there."""

    def __init__(self, redis_url: str, shop: Shop, lab: Lab, event: SellableEvent) -> None:
        self.redis = redis.Redis.from_url(redis_url)
        self.partition = shop.kernel.partition_of(event)
        self._shop = shop
        self._lab = lab
        self._event = event

    @property
    def length(self) -> int:
        return int(self.redis.xlen(partition_key(self.partition, "journal")))  # type: ignore[arg-type]

    async def accept(self, count: int = 1, *, customer_id: str = "ana", sealer: AesSealer | None = None) -> list[str]:
        """Bookings of one counted place each, which nobody commits: their process died. Returns their ids."""

        async def book() -> str:
            booking_id = BookingId(new_claim_id(self._event.event.id))
            key = parse_claim_id(booking_id)
            assert key is not None
            sealed = (sealer or self._lab.sealer).seal(BookingDetails(notes="window"), booking_id)
            request = BookingRequest(key.key.encode(), booking_id, customer_id, BookingDetails(), sealed, None)
            args = [*booking_args(request), b"%d" % ONCE_TTL_MS, b"%d" % JOURNAL_BYTES_MAX]
            places = [self._event.layout.digest.encode(), b"0:1;0*1"]
            reply = await self._shop.kernel.run("book_places", self._event, [*args, *places])
            assert reply[0] == b"CONFIRMED"
            return booking_id

        return await asyncio.gather(*(book() for _ in range(count)))

    def run_ahead(self, *, hours: int) -> None:
        """As a clock leaves it that was so far ahead while an entry was made, and is right again."""
        ahead = f"{int((time.time() + hours * 3600) * 1000)}-0"
        self.redis.xadd(partition_key(self.partition, "journal"), {"made": "meanwhile"}, id=ahead)
        self.redis.xdel(partition_key(self.partition, "journal"), ahead)

    def add(self, **fields: str) -> str:
        """An entry that no script of ours wrote."""
        added: Any = self.redis.xadd(partition_key(self.partition, "journal"), fields)  # type: ignore[arg-type]
        return str(added.decode())

    async def dead(self) -> list[DeadLetter]:
        letters = [letter async for letter in scan_letters(self._shop.kernel, self.partition)]
        return sorted(letters, key=lambda letter: letter.journal_id)

    def sold(self) -> int:
        """Places of the floor that Redis has sold."""
        state = event_key(self.partition, self._event.event.id, "state")
        return int(self.redis.hget(state, "sold:0:0"))  # type: ignore[arg-type]


@pytest.fixture
async def event(lab: Lab) -> SellableEvent:
    return await lab.event(capacity=5_000, policy=ROOMY)


@pytest.fixture
def journal(redis_url: str, shop: Shop, lab: Lab, event: SellableEvent) -> Journal:
    return Journal(redis_url, shop, lab, event)


async def test_backlog_of_an_outage_is_drained_when_postgres_is_back(shop: Shop, lab: Lab, journal: Journal) -> None:
    await journal.accept(BACKLOG)
    async with postgres_away(lab.url):
        assert await shop.drainer.drain(journal.partition) == Drained(settled=0, buried=0, left=BACKLOG)
        assert (await shop.drainer.drain_all()).left == BACKLOG
    assert journal.length == BACKLOG

    assert await shop.drainer.drain_all() == Drained(settled=BACKLOG)

    assert journal.length == 0
    assert await lab.value("SELECT count(*) FROM bookings") == await lab.value("SELECT sold FROM usage") == BACKLOG
    assert journal.sold() == BACKLOG
    assert await shop.drainer.drain_all() == Drained()


async def test_entries_younger_than_the_grace_are_left_to_the_process_that_made_them(
    shop: Shop, lab: Lab, journal: Journal
) -> None:
    await journal.accept()
    patient = Drainer(shop.kernel, shop.settlement, shop.catalog, lab.ledger)
    assert await patient.drain(journal.partition) == Drained()
    assert journal.length == 1


async def test_entries_are_drained_though_the_clock_was_set_back_since_one_before_them(
    shop: Shop, lab: Lab, journal: Journal
) -> None:
    """Ids never go back: until the clock has come to the last one again, all are numbered on from there."""
    journal.run_ahead(hours=1)
    await journal.accept(2)
    assert 0 <= (await read_backlog(shop.kernel)).oldest_age_s < 60  # type: ignore[operator]  # told by the bookings
    patient = Drainer(shop.kernel, shop.settlement, shop.catalog, lab.ledger)
    assert await patient.drain(journal.partition) == Drained(settled=2)
    await journal.accept()
    assert await patient.drain_now(journal.partition) == Drained(settled=1)
    assert journal.length == 0
    assert await lab.value("SELECT count(*) FROM bookings") == 3


async def test_two_drainers_at_once_write_every_booking_once(
    redis_url: str, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    await journal.accept(SOME_PAGES)
    async with open_shops(redis_url, lab, 2) as shops:
        await asyncio.gather(*(one.drainer.drain(journal.partition) for one in shops))
    assert (await lab.row_counts())["bookings"] == await lab.value("SELECT sold FROM usage") == SOME_PAGES
    assert (await lab.row_counts())["outbox"] == 2 * SOME_PAGES
    assert journal.length == 0


class WatchedLedger:
    """The real ledger, and the most entries that it was given at a time."""

    def __init__(self, ledger: PostgresLedger) -> None:
        self._ledger = ledger
        self._now = self.most = 0

    async def commit_all(
        self, entries: Sequence[tuple[JournalEntry, SellableEvent]]
    ) -> list[Refused | UnwritableEntry | None]:
        self._now += len(entries)
        self.most = max(self.most, self._now)
        try:
            return await self._ledger.commit_all(entries)
        finally:
            self._now -= len(entries)


async def test_backlog_of_any_size_is_in_memory_a_few_pages_at_a_time(shop: Shop, lab: Lab, journal: Journal) -> None:
    await journal.accept(SOME_PAGES)
    watched = WatchedLedger(lab.ledger)
    drainer = Drainer(shop.kernel, shop.settlement, shop.catalog, watched, grace_ms=0)  # type: ignore[arg-type]
    assert (await drainer.drain(journal.partition)).settled == SOME_PAGES
    assert PAGE < watched.most <= PAGES_AHEAD * PAGE


async def test_booking_of_a_lost_epoch_is_undone_by_the_drain(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    (booking_id,) = await journal.accept()
    await lab.fetch("UPDATE events SET epoch = epoch + 1")
    assert await shop.drainer.drain(journal.partition) == Drained(settled=1)
    assert journal.length == 0
    with pytest.raises(BookingRefused):
        await shop.reservations.find_booking(booking_id, customer_id="ana")


# --- dead letters ----------------------------------------------------------------------------------------------------


async def test_poison_goes_to_the_dead_letters_and_the_others_flow(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    first = await journal.accept(3)
    garbage = journal.add(event=event.event.id, epoch="x", nonsense="yes")
    unknown = journal.add(**_entry_of("no-such-event"))
    (sealed_elsewhere,) = await journal.accept(sealer=AesSealer([b"another key of thirty-two bytes!"]))
    last = await journal.accept(3)

    assert await shop.drainer.drain(journal.partition) == Drained(settled=6, buried=3)

    assert journal.length == 0
    stored = {row["id"] for row in await lab.fetch("SELECT id FROM bookings")}
    assert stored == {parse_claim_id(booking_id).uuid for booking_id in first + last}  # type: ignore[union-attr]
    dead = await journal.dead()
    assert [letter.journal_id for letter in dead][:2] == [garbage, unknown]
    reasons = [letter.letter.reason for letter in dead]
    assert [any(word in reason for reason in reasons) for word in ("cannot be read", "no event", "a key that is not")]
    assert [letter.booking_id for letter in dead] == [None, f"{'0' * 26}~no-such-event", sealed_elsewhere]
    assert await shop.drainer.drain(journal.partition) == Drained()


async def test_letter_keeps_every_byte_of_its_entry(shop: Shop, lab: Lab, journal: Journal) -> None:
    await journal.accept(sealer=AesSealer([b"another key of thirty-two bytes!"]))
    ((_, fields),) = journal.redis.xrange(partition_key(journal.partition, "journal"))  # type: ignore[misc]
    await shop.drainer.drain(journal.partition)
    (dead,) = await journal.dead()
    assert dead.flat_fields == [part for pair in fields.items() for part in pair]
    assert (dead.text_of("owner"), dead.text_of("details")) == ("ana", "")


async def test_buried_booking_keeps_its_places_and_is_known(shop: Shop, lab: Lab, journal: Journal) -> None:
    (booking_id,) = await journal.accept(sealer=AesSealer([b"another key of thirty-two bytes!"]))
    await shop.drainer.drain(journal.partition)
    booking = await shop.reservations.find_booking(booking_id, customer_id="ana")
    assert (booking.status, booking.durable, booking.reference, booking.notes) == ("confirming", False, None, None)
    assert journal.sold() == 1


async def test_booking_that_postgres_will_not_have_is_confirming_until_a_person_has_mended_it(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    await lab.fetch(NOBODY_CALLED_EVE)
    once = Once(b"k" * 32, b"b" * 32)
    floor = claim(section="floor", quantity=2)

    booked = await shop.reservations.book(event.event.id, floor, BookingDetails(), customer_id="eve", once=once)
    assert (booked.booking.status, booked.booking.durable, booked.replayed) == ("confirming", False, False)
    again = await shop.reservations.book(event.event.id, floor, BookingDetails(), customer_id="eve", once=once)
    assert (again.booking, again.replayed) == (booked.booking, True)
    assert (journal.length, journal.sold()) == (0, 2)
    (dead,) = await journal.dead()
    assert "nobody_called_eve" in dead.letter.reason
    assert "CheckViolationError 23514" in dead.letter.reason
    assert not any(word in dead.letter.reason for word in ("DETAIL", "Failing row", "(", "\n"))  # it is the whole row

    retried = await retry_letter(shop, lab.ledger, dead)
    assert (retried.outcome, retried.booking_id) == ("unwritable", booked.booking.id)
    (dead,) = await journal.dead()
    await lab.fetch(EVE_IS_WELCOME)
    retried = await retry_letter(shop, lab.ledger, dead)
    found = await shop.reservations.find_booking(booked.booking.id, customer_id="eve")
    assert (retried.outcome, retried.reference) == ("written", found.reference)
    assert (found.status, found.durable) == ("confirmed", True)
    assert (await retry_letter(shop, lab.ledger, dead)).outcome == "gone"
    await shop.settlement.close()
    assert (journal.length, await journal.dead(), journal.sold()) == (0, [], 2)


async def test_booking_that_waits_again_after_a_retry_is_found_in_the_journal(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    await lab.fetch(NOBODY_CALLED_EVE)
    (booking_id,) = await journal.accept(customer_id="eve")
    await shop.drainer.drain(journal.partition)
    (dead,) = await journal.dead()
    async with postgres_away(lab.url):
        assert (await retry_letter(shop, lab.ledger, dead)).outcome == "waiting"
        assert (await shop.reservations.find_booking(booking_id, customer_id="eve")).status == "confirming"
    assert (journal.length, await journal.dead()) == (1, [])
    await lab.fetch(EVE_IS_WELCOME)
    assert await shop.drainer.drain(journal.partition) == Drained(settled=1)


async def test_discarded_booking_frees_its_places_and_its_customer_is_told(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    await lab.fetch(NOBODY_CALLED_EVE)
    once = Once(b"k" * 32, b"b" * 32)
    floor = claim(section="floor", quantity=2)
    booked = await shop.reservations.book(event.event.id, floor, BookingDetails(), customer_id="eve", once=once)
    (dead,) = await journal.dead()
    expected = Discarded(dead.journal_id, booked.booking.id, "discarded", freed=True)

    assert await give_up(shop.kernel, lab.ledger, dead) == expected

    assert (journal.sold(), await journal.dead()) == (0, [])
    with pytest.raises(BookingRefused):
        await shop.reservations.find_booking(booked.booking.id, customer_id="eve")
    await lab.fetch(EVE_IS_WELCOME)
    anew = await shop.reservations.book(event.event.id, floor, BookingDetails(), customer_id="eve", once=once)
    assert (anew.booking.status, anew.replayed) == ("confirmed", False)
    assert (await give_up(shop.kernel, lab.ledger, dead)).outcome == "gone"


async def test_discarding_the_letter_of_a_booking_that_the_ledger_has_frees_nothing(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    (booking_id,) = await journal.accept(sealer=AesSealer([b"another key of thirty-two bytes!"]))
    await shop.drainer.drain(journal.partition)
    (dead,) = await journal.dead()
    entry = lab.entry(event, count=1, booking_id=booking_id, epoch=await lab.value("SELECT epoch FROM events"))
    assert isinstance(await lab.ledger.commit(entry, event), Committed)  # by a process that has the key
    assert not (await give_up(shop.kernel, lab.ledger, dead)).freed
    assert (journal.sold(), await journal.dead()) == (1, [])


async def stale_letter(shop: Shop, lab: Lab, event: SellableEvent, journal: Journal) -> DeadLetter:
    """The letter of a booking of Eve's of A-1, which Redis has forgotten with everything else of its event."""
    await lab.fetch(NOBODY_CALLED_EVE)
    await shop.reservations.book(event.event.id, A_1, BookingDetails(notes="window"), customer_id="eve", once=EVES)
    await lab.fetch(EVE_IS_WELCOME)
    journal.redis.delete(event_key(journal.partition, event.event.id, "state"), once_key(journal.partition, EVES.scope))
    await shop.loader.load(event.event.id)
    (dead,) = await journal.dead()
    return dead


async def test_letter_of_an_epoch_that_is_over_is_booked_again_where_its_places_are_free(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    dead = await stale_letter(shop, lab, event, journal)
    retried = await retry_letter(shop, lab.ledger, dead)
    await shop.settlement.close()

    found = await shop.reservations.find_booking(str(dead.booking_id), customer_id="eve")
    assert (retried.outcome, retried.reference, found.status) == ("written", found.reference, "confirmed")
    assert (found.notes, found.items[0].seats) == ("window", ("A-1",))
    assert (journal.length, await journal.dead()) == (0, [])
    again = await shop.reservations.book(event.event.id, A_1, BookingDetails(), customer_id="eve", once=EVES)
    assert (again.booking.id, again.replayed) == (found.id, True)
    assert await lab.value("SELECT count(*) FROM claims") == 1


async def test_letter_that_was_booked_again_by_a_process_that_ended_then_is_a_booking_like_any_other(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    dead = await stale_letter(shop, lab, event, journal)
    entry = await shop.reservations.accept_again(dead, event)
    assert await shop.reservations.accept_again(dead, event) == entry  # whose answer was lost
    assert (journal.length, await journal.dead()) == (1, [])

    assert await shop.drainer.drain(journal.partition) == Drained(settled=1)

    found = await shop.reservations.find_booking(str(dead.booking_id), customer_id="eve")
    assert (found.status, found.notes) == ("confirmed", "window")


@pytest.mark.parametrize("discard_first", [True, False], ids=["discard first", "retry first"])
async def test_of_a_discard_and_a_retry_that_books_again_one_has_its_way(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal, discard_first: bool
) -> None:
    dead = await stale_letter(shop, lab, event, journal)
    discarded: list[Discarded] = []

    async def accept_again(letter: DeadLetter, sellable: SellableEvent) -> JournalEntry | None:
        """Somebody else discards the letter just before its places are taken again, or just after."""
        if discard_first:
            discarded.append(await give_up(shop.kernel, lab.ledger, letter))
        entry = await shop.reservations.accept_again(letter, sellable)
        if not discard_first:
            discarded.append(await give_up(shop.kernel, lab.ledger, letter))
        return entry

    retried = await retry(shop.kernel, shop.settlement, shop.catalog, lab.ledger, dead, accept_again=accept_again)

    outcomes = (retried.outcome, discarded[0].outcome)
    assert outcomes == (("gone", "discarded") if discard_first else ("written", "gone"))
    await shop.settlement.close()
    assert (journal.length, await journal.dead()) == (0, [])
    assert await lab.value("SELECT count(*) FROM claims") == (not discard_first)
    if discard_first:
        with pytest.raises(BookingRefused):
            await shop.reservations.find_booking(str(dead.booking_id), customer_id="eve")


@pytest.mark.parametrize("is_stale", [True, False], ids=["booked again", "put back"])
async def test_of_discards_and_retries_at_once_one_kind_has_its_way(
    redis_url: str, shop: Shop, lab: Lab, event: SellableEvent, journal: Journal, is_stale: bool
) -> None:
    if is_stale:
        dead = await stale_letter(shop, lab, event, journal)
    else:
        await lab.fetch(NOBODY_CALLED_EVE)
        await shop.reservations.book(event.event.id, A_1, BookingDetails(), customer_id="eve")
        await lab.fetch(EVE_IS_WELCOME)
        (dead,) = await journal.dead()
    async with open_shops(redis_url, lab, 2) as others:
        told = await at_once(
            [
                *(retry_letter(one, lab.ledger, dead) for one in (shop, *others)),
                *(give_up(one.kernel, lab.ledger, dead) for one in (shop, *others)),
            ]
        )
        outcomes = Counter(one.outcome for one in told if isinstance(one, Retried | Discarded))
        for one in others:
            await one.settlement.close()

    assert outcomes.total() == 6
    assert set(outcomes) <= {"written", "discarded", "gone"}
    assert (outcomes["written"] > 0) != (outcomes["discarded"] > 0)
    assert outcomes["discarded"] <= 1
    assert await lab.value("SELECT count(*) FROM claims") == (outcomes["written"] > 0)
    assert (journal.length, await journal.dead()) == (0, [])


async def test_letter_of_an_epoch_that_is_over_is_kept_where_its_places_are_taken(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    dead = await stale_letter(shop, lab, event, journal)
    bens = await shop.reservations.book(event.event.id, A_1, BookingDetails(), customer_id="ben")

    retried = await retry_letter(shop, lab.ledger, dead)

    assert (retried.outcome, "PlacesUnavailable" in str(retried.reason)) == ("unwritable", True)
    assert ([letter.raw for letter in await journal.dead()], journal.length) == ([dead.raw], 0)
    assert not (await give_up(shop.kernel, lab.ledger, dead)).freed
    assert (await shop.reservations.find_booking(bens.booking.id, customer_id="ben")).status == "confirmed"
    assert await lab.value("SELECT count(*) FROM claims") == 1


async def test_letter_of_a_request_that_was_repeated_since_makes_no_second_booking(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    dead = await stale_letter(shop, lab, event, journal)
    await shop.reservations.book(event.event.id, A_1, BookingDetails(), customer_id="eve", once=EVES)
    await lab.fetch("DELETE FROM claims")
    journal.redis.delete(event_key(journal.partition, event.event.id, "sold"))  # as if its place were free all the same

    retried = await retry_letter(shop, lab.ledger, dead)

    assert (retried.outcome, "its idempotency key has made" in str(retried.reason)) == ("refused", True)
    assert await lab.value("SELECT count(*) FROM bookings") == 1
    assert await journal.dead() == []


async def test_letter_that_the_ledger_finds_outdated_is_kept_until_redis_knows_it_too(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    await lab.fetch(NOBODY_CALLED_EVE)
    (booking_id,) = await journal.accept(customer_id="eve")
    await shop.drainer.drain(journal.partition)
    await lab.fetch(EVE_IS_WELCOME)
    (dead,) = await journal.dead()

    await lab.fetch("UPDATE events SET epoch = epoch + 1")  # Redis has not been told: the ledger refuses the letter
    retried = await retry_letter(shop, lab.ledger, dead)
    assert (retried.outcome, retried.booking_id, retried.reason) == ("unwritable", booking_id, OUTDATED)
    await shop.settlement.close()  # Redis's state is built anew meanwhile
    (again,) = await journal.dead()
    assert (again.flat_fields, again.letter.reason, journal.length) == (dead.flat_fields, OUTDATED, 0)

    async with postgres_away(lab.url):  # it must not wait in a journal that would lose it
        assert (await retry_letter(shop, lab.ledger, again)).outcome == "unwritable"
    assert ([letter.raw for letter in await journal.dead()], journal.length) == ([again.raw], 0)
    retried = await retry_letter(shop, lab.ledger, again)
    found = await shop.reservations.find_booking(booking_id, customer_id="eve")
    assert (retried.outcome, retried.reference, found.status) == ("written", found.reference, "confirmed")
    await shop.settlement.close()
    assert (journal.sold(), journal.length, await journal.dead()) == (1, 0, [])


class LedgerOfASlowDiscard:
    """The real ledger, and what somebody else does between its answer and what follows from it."""

    def __init__(self, ledger: PostgresLedger, then: Callable[[], Awaitable[Retried]]) -> None:
        self._ledger = ledger
        self._then = then

    async def end_waiting(self, booking_id: BookingId) -> bool:
        return await self._ledger.end_waiting(booking_id)

    async def find_standing(self, booking_id: BookingId) -> Standing:
        found = await self._ledger.find_standing(booking_id)
        assert (await self._then()).outcome == "written"
        return found


async def test_discard_leaves_a_booking_alone_that_a_retry_has_written_meanwhile(
    shop: Shop, lab: Lab, event: SellableEvent, journal: Journal
) -> None:
    await lab.fetch(NOBODY_CALLED_EVE)
    (booking_id,) = await journal.accept(customer_id="eve")
    await shop.drainer.drain(journal.partition)
    await lab.fetch(EVE_IS_WELCOME)
    (dead,) = await journal.dead()
    slow = LedgerOfASlowDiscard(lab.ledger, lambda: retry_letter(shop, lab.ledger, dead))

    discarded = await give_up(shop.kernel, slow, dead)  # type: ignore[arg-type]

    assert discarded == Discarded(dead.journal_id, booking_id, "gone", freed=False)
    assert journal.sold() == await lab.value("SELECT sold FROM usage") == 1
    assert (await shop.reservations.find_booking(booking_id, customer_id="eve")).status == "confirmed"


async def test_discarding_waits_for_the_ledger_s_word(shop: Shop, lab: Lab, journal: Journal) -> None:
    await journal.accept(sealer=AesSealer([b"another key of thirty-two bytes!"]))
    await shop.drainer.drain(journal.partition)
    (dead,) = await journal.dead()
    async with postgres_away(lab.url):
        with pytest.raises(LedgerUnavailable):
            await give_up(shop.kernel, lab.ledger, dead)
    assert (journal.sold(), len(await journal.dead())) == (1, 1)


async def test_table_that_is_not_there_buries_nothing(shop: Shop, lab: Lab, journal: Journal) -> None:
    await journal.accept(3)
    await lab.fetch("ALTER TABLE outbox RENAME TO elsewhere")
    assert await shop.drainer.drain(journal.partition) == Drained(left=3)
    await lab.fetch("ALTER TABLE elsewhere RENAME TO outbox")
    assert await shop.drainer.drain(journal.partition) == Drained(settled=3)


async def test_letter_that_somebody_else_wrote_can_be_seen_and_discarded(
    shop: Shop, lab: Lab, journal: Journal
) -> None:
    journal.redis.hset(partition_key(journal.partition, "dead"), "1-1", "gibberish")
    (dead,) = await journal.dead()
    assert "cannot be read" in dead.letter.reason
    assert (await retry_letter(shop, lab.ledger, dead)).outcome == "unwritable"
    assert (await give_up(shop.kernel, lab.ledger, dead)).outcome == "discarded"
    assert await journal.dead() == []


def _entry_of(event_id: str) -> dict[str, str]:
    return {
        "event": event_id,
        "epoch": "1",
        "booking": "0" * 26,
        "owner": "ana",
        "places": "0:1;0*1",
        "created": "1",
        "confirmed": "1",
        "details": "sealed",
        "once": "",
        "body": "",
    }
