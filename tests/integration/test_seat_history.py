"""Who held or owned a seat at a moment of the past, on real servers, wherever the answer lies by then."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from ledger_lab import Lab
from servers import LocalServers
from shops import Shop, claim, open_shops

from engine.bookings import BookingDetails
from engine.errors import InvalidRequest
from engine.events import SellableEvent
from engine.ids import parse_claim_id
from engine.lifecycle import Actor
from persistence.booking_desk import Amendment, Order
from persistence.erasure import Eraser
from persistence.hold_history import moment, store_trail
from persistence.place_desk import PlaceWish
from persistence.seat_history import ClaimThen, SeatThen, who_held

pytest_plugins = ("ledger_fixtures",)

SEAT = 3
STEP_S = 0.02  # between what happens and what is asked about: some ticks of a clock of ms


class Past:
    """One event, what is done to it, and what is asked of it afterwards."""

    def __init__(self, shop: Shop, lab: Lab, event: SellableEvent) -> None:
        self.shop, self.lab, self.event = shop, lab, event
        self.kernel, self.reservations = shop.kernel, shop.reservations
        self.partition = shop.kernel.partition_of(event)

    async def now(self) -> dt.datetime:
        """A moment that lies between what was done before and what is done after."""
        await asyncio.sleep(STEP_S)
        now = moment(await self.kernel.time_ms(self.partition))
        await asyncio.sleep(STEP_S)
        return now

    async def hold(self, seat: str = "A-4", *, by: str = "ana", **fields: Any) -> str:
        wanted = claim(section="stalls", seats=[seat], **fields)
        return (await self.reservations.hold(self.event.event.id, wanted, customer_id=by)).hold.id

    async def confirm(self, hold_id: str, *, by: str = "ana") -> None:
        await self.reservations.confirm(hold_id, BookingDetails(), customer_id=by)

    async def cancel(self, booking_id: str) -> None:
        """As a later version of the ledger will: one transaction with the line of its history."""
        key = parse_claim_id(booking_id)
        assert key is not None
        await self.lab.fetch("UPDATE bookings SET status = 'cancelled', version = 2 WHERE id = $1", key.uuid)
        await self.lab.fetch(
            "INSERT INTO history (booking_id, version, from_status, to_status, actor, role, at)"
            " VALUES ($1, 2, 'confirmed', 'cancelled', 'ana', 'customer', $2)",
            key.uuid,
            await self.now(),
        )
        await self.lab.fetch("DELETE FROM claims WHERE booking_id = $1", key.uuid)
        await self.run("unbook_places", key.key, "", "", "")

    async def run(self, script: str, *args: str) -> list[Any]:
        return await self.kernel.run(script, self.event, [arg.encode() for arg in args])

    async def store(self) -> int:
        return await store_trail(self.kernel, self.lab.engine, self.partition)

    async def seat(self, at: dt.datetime, *, seat: int = SEAT, **options: Any) -> SeatThen:
        return await who_held(self.kernel, self.lab.engine, self.event, seat, at, **options)

    async def claim(self, at: dt.datetime, **options: Any) -> ClaimThen:
        """The only claim on the only leg."""
        (only,) = (await self.seat(at, **options)).claims
        return only

    async def who(self, at: dt.datetime, **options: Any) -> tuple[str, str | None, str | None]:
        only = await self.claim(at, **options)
        return only.status, only.customer_id, only.ended


@pytest.fixture(scope="module")
def database(servers: LocalServers, migrated_database: str) -> Iterator[str]:
    with servers.database(migrated_database) as url:
        yield url


@pytest.fixture
async def lab(database: str) -> AsyncIterator[Lab]:
    made = Lab(database)
    await made.fetch("TRUNCATE hold_history")
    yield made
    await made.close()


@pytest.fixture
async def past(redis_url: str, lab: Lab) -> AsyncIterator[Past]:
    async with open_shops(redis_url, lab, 1) as (shop,):
        yield Past(shop, lab, await lab.event())


@pytest.mark.parametrize("stored", ["at the end", "never", "at each step"])
async def test_seat_is_followed_from_hold_over_extension_and_booking_to_its_end(past: Past, stored: str) -> None:
    async def now() -> dt.datetime:
        if stored == "at each step":
            await past.store()
        return await past.now()

    before = await now()
    hold_id = await past.hold(ttl=60)
    held = await now()
    first = await past.claim(held)
    assert (first.status, first.id, first.customer_id, first.ended) == ("held", hold_id, "ana", None)
    deadline = (await past.reservations.extend(hold_id, ttl_s=300, customer_id="ana")).expires_at
    extended = await now()
    assert (await past.claim(held)).until == (await past.claim(extended)).until == deadline
    await past.confirm(hold_id)
    owned = await now()
    await past.cancel(hold_id)
    after = await now()
    if stored == "at the end":
        await past.store()

    assert await past.who(before) == ("free", None, None)
    assert await past.who(held) == await past.who(extended) == ("held", "ana", "confirmed")
    assert await past.who(owned) == ("owned", "ana", "cancelled")
    assert await past.who(after) == ("free", None, None)
    hold, booking = await past.claim(held), await past.claim(owned)
    assert hold.id == booking.id == hold_id
    assert hold.until == booking.since
    assert owned < (booking.until or owned) < after
    assert (await past.seat(held)).notes == ()


@pytest.mark.parametrize("stored", [False, True])
async def test_seat_of_a_hold_that_expired_is_somebody_else_s_afterwards(past: Past, stored: bool) -> None:
    first_id = await past.hold(ttl=1)
    first = await past.now()
    await asyncio.sleep(1.1)
    between = await past.now()
    assert await past.who(first) == ("held", "ana", "expired")  # though no script has ended it yet
    await past.hold(by="ben")
    second = await past.now()
    if stored:
        await past.store()
    assert await past.who(first) == ("held", "ana", "expired")
    assert (await past.claim(first)).id == first_id
    assert await past.who(between) == ("free", None, None)
    assert await past.who(second) == ("held", "ben", None)


async def test_seat_that_was_given_back_is_free_from_that_moment(past: Past) -> None:
    hold_id = await past.hold()
    held = await past.now()
    await past.reservations.release(hold_id, customer_id="ana")
    released = await past.now()
    assert await past.who(held) == ("held", "ana", "released")
    assert await past.who(released) == ("free", None, None)


async def test_other_seats_with_some_of_the_same_digits_have_nothing_to_do_with_it(past: Past) -> None:
    for label in ("B-3", "B-4"):  # seats 12 and 13
        await past.hold(label)
    await past.store()
    at = await past.now()
    for seat in (1, 2, 3):
        assert (await past.claim(at, seat=seat)).status == "free"
    assert {(await past.claim(at, seat=seat)).status for seat in (12, 13)} == {"held"}


async def test_seat_is_followed_on_each_leg(redis_url: str, lab: Lab) -> None:
    async with open_shops(redis_url, lab, 1) as (shop,):
        past = Past(shop, lab, await lab.event(stops=["SJC", "PAO", "MTV", "SFO", "OAK"]))
        await past.hold(from_="SJC", to="MTV")
        booked = await past.hold(by="ben", from_="MTV", to="SFO")
        await past.confirm(booked, by="ben")
        for _ in range(2):
            at = await past.now()
            claims = [(claim.leg, claim.status, claim.customer_id) for claim in (await past.seat(at)).claims]
            assert claims == [(0, "held", "ana"), (1, "held", "ana"), (2, "owned", "ben"), (3, "free", None)]
            await past.store()


async def test_hold_of_days_is_found_long_after_it_was_made(past: Past) -> None:
    await past.reservations.release(await past.hold(), customer_id="ana")
    await past.store()
    days, now = dt.timedelta(days=1), await past.now()
    await past.lab.fetch("UPDATE hold_history SET made_at = $1, until_at = $2", now - 6 * days, now - days)
    assert await past.who(now - 2 * days) == ("held", "ana", "released")
    assert await past.who(now - 7 * days) == await past.who(now) == ("free", None, None)


async def test_hold_that_was_lost_with_redis_is_told_with_what_is_not_known(past: Past) -> None:
    hold_id = await past.hold()
    held = await past.now()
    await past.store()
    await past.kernel.transport.command("FLUSHALL", node=past.kernel.transport.nodes()[0])
    lost = await past.seat(held)  # nobody has asked for the event yet
    assert [(c.status, c.customer_id, c.ended, c.certain) for c in lost.claims] == [("held", "ana", "unknown", False)]
    assert any(hold_id in note and "Redis lost it" in note for note in lost.notes)
    await past.hold(by="ben")  # loads the event
    after = await past.now()
    await past.store()
    rebuilt = await past.claim(held)
    assert (rebuilt.customer_id, rebuilt.ended, rebuilt.certain) == ("ana", "rebuilt", False)
    assert held < (rebuilt.until or held) < after
    assert await past.who(after) == ("held", "ben", None)


async def change(past: Past, booking_id: str, *seats: str) -> None:
    order = Order(admit=lambda _: Actor("ana", "customer"))
    wanted = PlaceWish(items=claim(section="stalls", seats=list(seats)).items)
    await past.shop.places.change(booking_id, order, wanted, now=dt.datetime.now(dt.UTC))


async def test_seat_is_followed_through_changes_of_its_booking(past: Past) -> None:
    booking_id = await past.hold("A-4")
    await past.confirm(booking_id)
    first = await past.now()
    await change(past, booking_id, "A-5")
    second = await past.now()
    await past.confirm(await past.hold("A-4", by="ben"), by="ben")
    await change(past, booking_id, "A-5", "A-6")
    third = await past.now()

    async def owners(at: dt.datetime, *, seat: int = SEAT) -> list[tuple[str | None, str | None]]:
        return [
            (one.customer_id, one.ended) for one in (await past.seat(at, seat=seat)).claims if one.status == "owned"
        ]

    assert [await owners(at) for at in (first, second, third)] == [[("ana", "changed")], [], [("ben", None)]]
    assert [await owners(at, seat=SEAT + 1) for at in (first, second, third)] == [[], [("ana", None)], [("ana", None)]]
    assert [await owners(at, seat=SEAT + 2) for at in (first, second, third)] == [[], [], [("ana", None)]]
    (before,) = [one for one in (await past.seat(first)).claims if one.status == "owned"]
    (after,) = [one for one in (await past.seat(third, seat=SEAT + 1)).claims if one.status == "owned"]
    assert before.until == after.since
    assert (await past.seat(first)).notes == ()


async def test_seat_of_a_booking_that_was_given_away_was_its_first_customer_s(past: Past) -> None:
    booking_id = await past.hold("A-4")
    await past.confirm(booking_id)
    first = await past.now()
    order = Order(admit=lambda _: Actor("ana", "customer"))
    await past.shop.places.transfer(booking_id, order, "ben")
    second = await past.now()

    assert (await past.who(first), await past.who(second)) == (("owned", "ana", "transferred"), ("owned", "ben", None))


async def test_erasing_what_people_have_said_changes_nothing_of_who_had_a_seat(past: Past) -> None:
    booking_id = await past.hold("A-4")
    await past.confirm(booking_id)
    first = await past.now()
    await change(past, booking_id, "A-5")
    second = await past.now()
    await past.shop.places.transfer(booking_id, Order(admit=lambda _: Actor("ana", "customer")), "eve")
    before = [await past.seat(first), await past.seat(second, seat=SEAT + 1)]

    assert await Eraser(past.lab.engine, past.lab.sealer).erase("eve", Actor("eve", "customer")) == 1

    assert [await past.seat(first), await past.seat(second, seat=SEAT + 1)] == before
    owners = [(one.customer_id, one.ended) for told in before for one in told.claims if one.status == "owned"]
    assert owners == [("ana", "changed"), ("ana", "transferred")]


async def test_change_that_the_outbox_has_forgotten_is_told_as_such(past: Past) -> None:
    booking_id = await past.hold("A-4")
    await past.confirm(booking_id)
    first = await past.now()
    await change(past, booking_id, "A-5")
    await past.lab.fetch("DELETE FROM outbox")

    told = await past.seat(first, seat=SEAT + 1)
    assert [(one.customer_id, one.certain) for one in told.claims if one.status == "owned"] == [("ana", False)]
    assert told.notes == ("a booking of the event changed since, and the places from before are not known any more",)


async def test_change_of_what_is_no_place_says_nothing_of_places(past: Past) -> None:
    booking_id = await past.hold("A-4")
    held = await past.now()
    await past.confirm(booking_id)
    owned = await past.now()
    order = Order(admit=lambda _: Actor("ana", "customer"))
    await past.shop.desk.amend(booking_id, order, Amendment(notes="window"))

    assert [(await past.seat(at, seat=SEAT)).notes for at in (held, owned)] == [(), ()]


async def test_place_that_was_changed_later_is_held_before_it_was_booked(past: Past) -> None:
    booking_id = await past.hold("A-4")
    held = await past.now()
    await past.confirm(booking_id)
    await change(past, booking_id, "A-5")

    assert (await past.seat(held, seat=SEAT)).notes == ()


async def test_booking_that_is_not_in_the_ledger_yet_is_told_as_such(past: Past) -> None:
    hold_id = await past.hold()
    key = parse_claim_id(hold_id)
    assert key is not None
    reply = await past.run("confirm_hold", key.key, "ana", "a1", "sealed", "", "", "1000", "1000000")
    assert reply[0] == b"CONFIRMED"
    at = await past.now()
    told = await past.seat(at)
    assert [(c.status, c.customer_id, c.certain) for c in told.claims] == [("owned", "ana", False)]
    assert told.notes == (f"booking {hold_id} is not in the ledger yet, which may refuse it",)

    await past.run("unbook_places", key.key, reply[4].decode(), "ana", "")
    refused = await past.now()
    assert await past.who(at) == ("held", "ana", "refused")
    assert await past.who(refused) == ("free", None, None)


async def test_moment_that_is_still_to_come_is_refused(past: Past) -> None:
    at = await past.now() + dt.timedelta(minutes=1)
    with pytest.raises(InvalidRequest, match="future"):
        await past.seat(at)


async def test_answer_says_what_it_may_lack(past: Past) -> None:
    await past.hold()
    at = await past.now()
    await past.kernel.partition_command(past.partition, "XTRIM", "trail", "MAXLEN", 0)
    await past.hold("B-1")
    await past.store()
    await past.store()
    gap = (await past.seat(at)).notes
    assert len(gap) == 1
    assert "has a gap: 2 entries" in gap[0]
    assert await past.who(at) == ("held", "ana", None)  # it lives, and so Redis knows it
    await store_trail(past.kernel, past.lab.engine, past.partition, keep=False)
    old = await past.seat(at - dt.timedelta(days=31), kept_for=dt.timedelta(days=30))
    assert [note.partition(":")[0] for note in old.notes] == [
        "the history of holds is kept for 30 days",
        "no history of holds is being kept now",
        "the history of holds has a gap",
    ]
