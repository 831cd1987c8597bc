"""Bookings can be found, and listings are complete however much is sold while somebody leafs through them."""

import base64
import datetime as dt
from contextlib import aclosing

import pytest
from ledger_lab import SOLD_AT_MS, Lab

from engine.bookings import Booking, JournalEntry
from engine.errors import InvalidRequest
from engine.events import SellableEvent
from engine.ids import BookingId, claim_id, parse_claim_id
from engine.places import format_places
from engine.ports import Committed
from persistence.bookings import BookingFilter, SectionUsage
from persistence.paging import Page

pytest_plugins = ("ledger_fixtures",)


async def sell(lab: Lab, event: SellableEvent, **fields: object) -> Booking:
    outcome = await lab.ledger.commit(lab.entry(event, **({"count": 1} | fields)), event)  # type: ignore[arg-type]
    assert isinstance(outcome, Committed)
    return outcome.booking


async def listed(lab: Lab, **wanted: object) -> list[str]:
    page: Page[Booking] = await lab.bookings.list_bookings(BookingFilter(**wanted), limit=200)  # type: ignore[arg-type]
    return [booking.id for booking in page.items]


@pytest.mark.parametrize("booking_id", ["", "nonsense", claim_id(7, "concert"), "\x00"])
async def test_booking_that_is_not_there_is_none(lab: Lab, booking_id: str) -> None:
    assert await lab.bookings.find_booking(BookingId(booking_id)) is None


async def test_booking_is_not_found_under_another_event(lab: Lab) -> None:
    booking = await sell(lab, await lab.event())
    elsewhere = BookingId(booking.id.partition("~")[0] + "~elsewhere")
    assert await lab.bookings.find_booking(elsewhere) is None


@pytest.mark.parametrize("reference", ["", "HF-0000-0000", "HF-7K3M-9QXP", "nonsense"])
async def test_reference_that_is_not_there_is_none(lab: Lab, reference: str) -> None:
    assert await lab.bookings.find_by_reference(reference) is None


async def test_listing_is_narrowed_by_every_filter(lab: Lab) -> None:
    concert, play = await lab.event(organizer_id="olga"), await lab.event(organizer_id="otto")
    day_ms = 86_400_000
    first = await sell(lab, concert, customer_id="ana")
    second = await sell(lab, concert, customer_id="rui", sold_at_ms=SOLD_AT_MS + day_ms)
    third = await sell(lab, play, customer_id="ana", sold_at_ms=SOLD_AT_MS + 2 * day_ms)
    await lab.fetch("UPDATE bookings SET status = 'cancelled' WHERE customer_id = 'rui'")

    assert await listed(lab) == [third.id, second.id, first.id]
    assert await listed(lab, customer_id="ana") == [third.id, first.id]
    assert await listed(lab, event_id=concert.event.id) == [second.id, first.id]
    assert await listed(lab, organizer_id="otto") == [third.id]
    assert await listed(lab, organizer_id="nobody") == []
    assert await listed(lab, status="cancelled") == [second.id]
    assert await listed(lab, from_date=second.created_at) == [third.id, second.id]
    assert await listed(lab, to_date=second.created_at) == [first.id]
    assert await listed(lab, q=second.reference) == [second.id]
    assert await listed(lab, q=(second.reference or "").replace("-", "").lower()) == [second.id]
    assert await listed(lab, q=third.id) == [third.id]
    assert await listed(lab, q="Raposo") == []
    assert await listed(lab, customer_id="ana", event_id=concert.event.id, status="confirmed") == [first.id]


async def test_listing_shows_each_booking_once_while_others_arrive(lab: Lab) -> None:
    event = await lab.event(capacity=1000)
    before = [(await sell(lab, event)).id for _ in range(25)]

    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await lab.bookings.list_bookings(BookingFilter(customer_id="ana"), limit=4, cursor=cursor)
        assert len(page.items) == 4 or page.next_cursor is None
        seen += [booking.id for booking in page.items]
        await sell(lab, event)
        cursor = page.next_cursor
        if cursor is None:
            break

    assert seen == before[::-1]


async def test_listing_ends_without_a_cursor_when_the_last_page_is_full(lab: Lab) -> None:
    event = await lab.event()
    for _ in range(4):
        await sell(lab, event)

    first = await lab.bookings.list_bookings(BookingFilter(), limit=2)
    second = await lab.bookings.list_bookings(BookingFilter(), limit=2, cursor=first.next_cursor)

    assert (len(first.items), len(second.items), second.next_cursor) == (2, 2, None)


@pytest.mark.parametrize(
    "cursor", ["", "!", "bm9uc2Vuc2U", base64.urlsafe_b64encode(b'["1"]').decode(), "W10", "W251bGxd", "é", "WzFd\n"]
)
async def test_cursor_that_is_none_is_an_invalid_request(lab: Lab, cursor: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await lab.bookings.list_bookings(BookingFilter(), limit=10, cursor=cursor)
    assert refused.value.path == "cursor"
    with pytest.raises(InvalidRequest):
        await lab.bookings.upcoming("ana", now=dt.datetime.now(dt.UTC), limit=10, cursor=cursor)
    with pytest.raises(InvalidRequest):
        await lab.events.list_events(limit=10, cursor=cursor)


async def test_upcoming_is_what_a_customer_will_still_go_to_and_the_next_comes_first(lab: Lab) -> None:
    now = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    days = [3, 1, 2, 1, -1]
    events = [await lab.event(starts_at=now + dt.timedelta(days=day)) for day in days]
    booked = [await sell(lab, event) for event in events]
    await sell(lab, events[0], customer_id="rui")
    cancelled = await sell(lab, events[0])
    await lab.fetch("UPDATE bookings SET status = 'cancelled' WHERE amount = 4500 AND number = 7")
    assert (await lab.bookings.find_booking(cancelled.id)).status == "cancelled"  # type: ignore[union-attr]

    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await lab.bookings.upcoming("ana", now=now, limit=2, cursor=cursor)
        seen += [booking.id for booking in page.items]
        if (cursor := page.next_cursor) is None:
            break

    assert seen == [booked[index].id for index in (1, 3, 2, 0)]


@pytest.mark.parametrize(
    ("few", "page_size", "sizes"),
    [(0, 2, [2, 2, 2]), (0, 4, [4, 2]), (5, 6, [6]), (5, 7, [6]), (6, 7, [6])],
    ids=["pages", "last_is_shorter", "exact", "one", "few"],
)
async def test_loader_reads_the_bookings_that_own_places(
    lab: Lab, few: int, page_size: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.loading.SMALL_BOOKINGS_MAX", few)
    event, other = await lab.event(stops=["A", "B", "C"]), await lab.event()
    entries = [lab.entry(event, seats=(seat,), count=1, legs=(seat % 2, 2)) for seat in range(7)]
    for entry in (*entries, lab.entry(other, count=1)):
        await lab.ledger.commit(entry, event if entry.event_id == event.event.id else other)
    await lab.fetch("UPDATE bookings SET status = 'cancelled' WHERE number = 3")
    await lab.fetch("UPDATE bookings SET status = 'completed' WHERE number = 4")

    async with lab.events.loading([event.event.id]) as turn:
        [loaded] = await turn.begin(turn.event_ids)
        assert loaded.is_small == (few == 6)
        pages = [page async for page in loaded.bookings(page_size=page_size)]

    assert [len(page.ids) for page in pages] == sizes
    owning = [entry for number, entry in enumerate(entries, start=1) if number != 3]
    assert sorted(row for page in pages for row in zip(*page, strict=True)) == sorted(map(row_of, owning))


def row_of(entry: JournalEntry) -> tuple[bytes, str, str, str]:
    """What a loader reads of the booking that *entry* became."""
    number = parse_claim_id(entry.booking_id).uuid.bytes  # type: ignore[union-attr]
    return number, str(entry.confirmed_at_ms), format_places(entry.places), entry.customer_id


async def test_events_that_are_loaded_together_have_their_own_bookings(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.loading.SMALL_BOOKINGS_MAX", 2)
    events = [await lab.event() for _ in range(3)]
    entries = {event.event.id: [lab.entry(event, count=1) for _ in range(n)] for n, event in enumerate(events, start=1)}
    for event in events:
        for entry in entries[event.event.id]:
            await lab.ledger.commit(entry, event)

    async with lab.events.loading([*entries, "nowhere"]) as turn:
        loaded = {one.event.id: one for one in await turn.begin([*entries, "nowhere"])}
        assert [loaded[event_id].is_small for event_id in entries] == [True, True, False]
        assert {one.event.epoch for one in loaded.values()} == {events[0].event.epoch + 1}
        for event_id, expected in entries.items():
            rows = [row async for page in loaded[event_id].bookings(page_size=2) for row in zip(*page, strict=True)]
            assert sorted(rows) == sorted(map(row_of, expected))


async def test_events_bookings_are_of_one_snapshot_though_they_are_read_in_pages(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.loading.SMALL_BOOKINGS_MAX", 0)
    event = await lab.event(capacity=50)
    await sell(lab, event, count=3)
    await sell(lab, event, count=2)
    async with lab.events.loading([event.event.id]) as turn:
        [loaded] = await turn.begin(turn.event_ids)
        pages = loaded.bookings(page_size=1)
        first = await anext(pages)
        await lab.fetch("UPDATE bookings SET status = 'cancelled'")
        assert len([*first.ids, *[one async for page in pages for one in page.ids]]) == 2


async def test_reading_that_is_given_up_leaves_the_turn_in_the_present(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.loading.SMALL_BOOKINGS_MAX", 0)
    event = await lab.event(capacity=50)
    for _ in range(3):
        await sell(lab, event)
    async with lab.events.loading([event.event.id]) as turn:
        [loaded] = await turn.begin(turn.event_ids)
        async with aclosing(loaded.bookings(page_size=1)) as pages:
            await anext(pages)
        await lab.fetch("UPDATE events SET version = version + 1")
        now = await turn.find_events(turn.event_ids)
        assert now[event.event.id].version == loaded.event.version + 1


async def test_value_with_a_separator_in_it_is_refused_by_number(lab: Lab) -> None:
    event = await lab.event(capacity=50)
    await sell(lab, event)
    await sell(lab, event)
    await lab.fetch("UPDATE bookings SET customer_id = E'a\\nb' WHERE number = 1")
    async with lab.events.loading([event.event.id]) as turn:
        [loaded] = await turn.begin(turn.event_ids)
        with pytest.raises(ValueError, match="of 2 bookings up to number 2 one has a separator"):
            await anext(loaded.bookings(page_size=10))


async def test_usage_of_an_event_is_told_by_section_and_leg(lab: Lab) -> None:
    event = await lab.event(capacity=50, stops=["A", "B", "C"])
    await sell(lab, event, count=3, legs=(0, 1))
    await sell(lab, event, count=4)

    assert await lab.bookings.usage_of(event.event.id) == [SectionUsage(0, 0, 7, 50), SectionUsage(0, 1, 4, 50)]


async def test_usage_can_never_pass_capacity_or_zero(lab: Lab) -> None:
    await lab.event(capacity=5)
    for sold in (6, -1):
        with pytest.raises(Exception, match="ck_usage_sold_within_capacity"):
            await lab.fetch("UPDATE usage SET sold = $1", sold)
