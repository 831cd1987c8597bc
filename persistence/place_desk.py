"""The desk for places: what a booking has is changed, or becomes another customer's, and never lost on the way.

Redis goes first, because it has the guard that everybody else meets; the ledger decides; and what the ledger refuses is
undone in Redis. A change step by step, and what a crash after it leaves:

1. look      the booking as the ledger has it                    nothing
2. reserve   what is gained is held in Redis                     the old booking; the holds lapse
3. charge    what a paid booking costs more is set aside         the same; what was set aside is let go
4. commit    claims, counters, row, payment, history, outbox     the new booking; the audit brings Redis to it
5. apply     held becomes sold, what is given up is free         the new booking

A transfer is the same without holds: Redis says whose the booking is, then the ledger does.
"""

import asyncio
import datetime as dt
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.catalog import Catalog
from engine.claims import ClaimedItem, ItemRequest, resolve_places
from engine.errors import (
    EventNotOpen,
    InvalidRequest,
    LedgerUnavailable,
    LimitExceeded,
    PlacesUnavailable,
    Refusal,
    StoreUnavailable,
    Unavailable,
)
from engine.events import SellableEvent
from engine.layout import Layout
from engine.lifecycle import Actor
from engine.payments import Means
from engine.place_changes import Overtaken, Owned, PlaceChanges, Reserved
from engine.place_differences import difference_of
from engine.places import Places, format_places, parse_places
from engine.ports import DifferenceCharger, Sealer
from engine.price_changes import CHARGED, Money, Priced, PriceOf, money_after, price_of
from persistence.booking_desk import (
    AMENDABLE,
    Amendment,
    BookingDesk,
    Order,
    Stepped,
    cost_of,
    quote_of,
    require_status,
)
from persistence.bookings import open_booking
from persistence.database import Row, in_transaction, sqlstate
from persistence.difference_charges import choose_payment
from persistence.place_exchange import exchange_places
from persistence.schema import events
from persistence.steps import (
    PLACES_CHANGED,
    TRANSFERRED,
    Step,
    find_repetition,
    lock_booking,
    require_in_time,
    take_step,
)

ATTEMPTS_MAX = 5  # of one request that is overtaken by others for the same booking: each of them is a commit
PAUSE_S = 0.05  # before the next; times its number, about what a commit and its script take
UNIQUE_VIOLATION = "23505"
NOTHING_SAID = Amendment(guest=None, attendees=[], notes=None)  # of people; metadata is the shop's own

logger = structlog.get_logger("holdfast.desk")

Commit = Callable[[AsyncConnection], Awaitable[Row]]


class PlaceWish(msgspec.Struct, frozen=True, kw_only=True):
    """The places that a booking is to have; ``UNSET`` stays as it is, ``None`` is where the event begins or ends."""

    items: Sequence[ItemRequest] | msgspec.UnsetType = msgspec.UNSET
    from_: str | None | msgspec.UnsetType = msgspec.UNSET
    to: str | None | msgspec.UnsetType = msgspec.UNSET

    def resolve(self, layout: Layout, old: Places) -> Places:
        """The same by number, for a booking that has *old*.

        Raises:
            InvalidRequest: A section, seat or stop is unknown, or a place is asked for twice.
        """
        from_stop = layout.stop_name(old.first_leg) if self.from_ is msgspec.UNSET else self.from_
        to_stop = layout.stop_name(old.last_leg) if self.to is msgspec.UNSET else self.to
        if self.items is not msgspec.UNSET:
            return resolve_places(layout, self.items, from_stop, to_stop)
        return Places(*layout.leg_range(from_stop, to_stop), old.items)


class _Seen(msgspec.Struct, frozen=True):
    """A booking as the ledger had it, and as whom the caller acts on it; ``replayed``: the step was taken before."""

    row: Row
    actor: Actor | None
    event: SellableEvent
    owned: Owned
    replayed: bool


class _Agreed(msgspec.Struct, frozen=True):
    """What the places cost, what the booking comes to, and the payment that is to be chosen for the difference."""

    priced: Priced
    money: Money
    payment_id: str | None


class PlaceDesk:
    """Changes and transfers. Both raise what a step does, and ``StoreUnavailable``."""

    def __init__(
        self,
        database: AsyncEngine,
        sealer: Sealer,
        desk: BookingDesk,
        catalog: Catalog,
        changes: PlaceChanges,
        *,
        price: PriceOf = price_of,
        charger: DifferenceCharger | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._desk = desk
        self._catalog = catalog
        self._changes = changes
        self._price = price
        self._charger = charger

    async def change(
        self,
        booking_id: str,
        order: Order,
        wish: PlaceWish,
        amendment: Amendment | None = None,
        *,
        means: Means | None = None,
        now: dt.datetime,
    ) -> Stepped:
        """Give a booking the places of *wish* in place of its own, all or nothing, with whatever else is said anew.

        What a paid booking costs more is charged to *means*; without, to what it was paid with last.

        Raises:
            PaymentDeclined, PaymentOpen: What they cost more is not to be had, or not yet; it keeps what it has.
            PlacesUnavailable, LimitExceeded, EventNotOpen: It keeps what it has. After the end of the sale a customer
                may still give places up, and whoever organizes the event may do everything.
            InvalidRequest: There are no such places; or they cost more than was paid, and nobody can charge it.
        """
        return await self._insist(lambda: self._change(booking_id, order, wish, amendment, means, now))

    async def transfer(
        self,
        booking_id: str,
        order: Order,
        customer_id: str,
        amendment: Amendment = NOTHING_SAID,
        *,
        expect_places: Callable[[Sequence[ClaimedItem]], object] = lambda _: None,
    ) -> Stepped:
        """Make a booking *customer_id*'s; *amendment* takes the place of what the giver has said of people.

        *expect_places* is told its places, and raises when what is said does not fit.

        Raises:
            LimitExceeded: They would have more places of the event, or bookings, than a customer may.
            InvalidRequest: It is theirs.
        """
        return await self._insist(lambda: self._transfer(booking_id, order, customer_id, amendment, expect_places))

    async def _insist(self, attempt: Callable[[], Awaitable[Stepped]]) -> Stepped:
        """Begin again when somebody else was faster, a bounded number of times."""
        for number in range(1, ATTEMPTS_MAX):
            try:
                return await attempt()
            except Overtaken:
                await asyncio.sleep(PAUSE_S * number * random.uniform(0.5, 1))  # noqa: S311 - spreads rivals, no secret
        try:
            return await attempt()
        except Overtaken as error:
            raise StoreUnavailable(str(error)) from error

    async def _change(
        self,
        booking_id: str,
        order: Order,
        wish: PlaceWish,
        amendment: Amendment | None,
        means: Means | None,
        now: dt.datetime,
    ) -> Stepped:
        seen = await self._look(booking_id, order)
        if seen.actor is None:
            return Stepped(open_booking(seen.row, self._sealer), replayed=True)
        places = wish.resolve(seen.event.layout, seen.owned.places)
        if difference_of(seen.owned.places, places).is_empty:
            if amendment is not None:
                return await self._desk.amend(booking_id, order, amendment)
            return Stepped(open_booking(seen.row, self._sealer))
        is_customers = seen.actor.role == "customer"
        reserved = await self._changes.reserve(seen.event, seen.owned, places, sale_only=is_customers)

        async def undo() -> None:
            await self._changes.abandon(seen.event, reserved)

        try:
            priced = await self._price(seen.event, reserved.places, seen.owned.customer_id)
            money = self._money_of(seen, priced, now)
            payment_id = await self._charge(seen, order, money, means) if money.charge else None
        except (Refusal, Unavailable, Overtaken):
            await _quietly(undo, booking_id)
            raise
        commit = self._commit_of_change(seen, order, reserved, _Agreed(priced, money, payment_id), amendment)
        try:
            row = await self._decide(
                booking_id, commit, undo, lambda row: row["places"] == format_places(reserved.places)
            )
        except PlacesUnavailable:
            self._changes.suspect(seen.event, reserved)
            raise
        await _quietly(lambda: self._changes.apply(seen.event, reserved), booking_id)
        return Stepped(await self._desk.follow_up(booking_id, row))

    async def _transfer(
        self,
        booking_id: str,
        order: Order,
        customer_id: str,
        amendment: Amendment,
        expect_places: Callable[[Sequence[ClaimedItem]], object],
    ) -> Stepped:
        seen = await self._look(booking_id, order)
        if seen.actor is None:
            return Stepped(open_booking(seen.row, self._sealer), replayed=True)
        if seen.owned.customer_id == customer_id:
            raise InvalidRequest("$.customer_id", "the booking is theirs already")
        expect_places(open_booking(seen.row, self._sealer).items)
        given = await self._changes.transfer(seen.event, seen.owned, customer_id)

        async def undo() -> None:
            await self._changes.take_back(seen.event, seen.owned, customer_id, given)

        async def commit(connection: AsyncConnection) -> Row:
            row, actor = await self._lock(connection, seen, order, given.epoch)
            sealed = self._desk.seal_anew(row, amendment)
            step = Step(reason=TRANSFERRED, changes={"customer_id": customer_id, "sealed": sealed})
            try:
                return await take_step(connection, row, step, actor, once=order.once)
            except sa.exc.IntegrityError as error:
                if sqlstate(error) != UNIQUE_VIOLATION:
                    raise
                raise LimitExceeded("one_booking_per_customer", 1) from None

        row = await self._decide(booking_id, commit, undo, lambda row: row["customer_id"] == customer_id)
        return Stepped(await self._desk.follow_up(booking_id, row))

    async def _look(self, booking_id: str, order: Order) -> _Seen:
        """The booking as it is now. A key that has changed it before is looked at first: it may be another's since.

        Whose it is no more is told what their own step has made of it, and nothing that was said of it since.
        """

        async def work(connection: AsyncConnection) -> tuple[Row, Actor | None]:
            row = await lock_booking(connection, booking_id)
            repeated = None if order.once is None else await find_repetition(connection, row, order.once)
            if repeated == row["version"]:
                return row, None
            actor = order.admit(row["customer_id"])
            if repeated is not None:
                return row, None
            order.expect(row["version"])
            require_status(row, AMENDABLE)
            await require_in_time(connection, row, row["status"])
            return row, actor

        row, actor = await self._desk.explained(booking_id, order, work)
        event = await self._catalog.get(row["event_id"])
        owned = Owned(booking_id, row["customer_id"], parse_places(row["places"]))
        return _Seen(row, actor, event, owned, replayed=actor is None)

    def _money_of(self, seen: _Seen, priced: Priced, now: dt.datetime) -> Money:
        """What the booking comes to."""
        row, actor = seen.row, seen.actor
        assert actor is not None
        return money_after(
            amount=row["amount"],
            refunded=row["refunded"],
            was=cost_of(row),
            total=priced.price.total,
            is_charged=row["payment_status"] in CHARGED,
            percent=quote_of(row, actor, seen.event.definition, now).percent,
        )

    async def _charge(self, seen: _Seen, order: Order, money: Money, means: Means | None) -> str:
        """Have what the booking costs beyond what was paid set aside; the payment's id.

        Raises:
            InvalidRequest: Nobody can charge it.
        """
        if self._charger is None:
            raise InvalidRequest("$.items", f"costs {money.charge} more than was paid, which cannot be charged")
        booking = open_booking(seen.row, self._sealer)
        return await self._charger.charge_difference(booking, money.charge, means, order.once)

    def _commit_of_change(
        self,
        seen: _Seen,
        order: Order,
        reserved: Reserved,
        agreed: _Agreed,
        amendment: Amendment | None,
    ) -> Commit:
        places, layout, money = reserved.places, seen.event.layout, agreed.money
        changes: dict[str, Any] = {
            "places": format_places(places),
            "first_leg": places.first_leg,
            "last_leg": places.last_leg,
            "from_stop": layout.stop_name(places.first_leg),
            "to_stop": layout.stop_name(places.last_leg),
            "items": msgspec.json.encode(agreed.priced.items).decode(),
            "price": msgspec.json.encode(agreed.priced.price).decode(),
            "amount": money.amount,
            "refunded": money.refunded,
        }

        async def commit(connection: AsyncConnection) -> Row:
            row, actor = await self._lock(connection, seen, order, reserved.epoch)
            if agreed.payment_id is not None:
                await choose_payment(connection, agreed.payment_id)
            said = {} if amendment is None else {"sealed": self._desk.seal_anew(row, amendment)}
            step = Step(reason=PLACES_CHANGED, changes=changes | said)
            changed = await take_step(connection, row, step, actor, once=order.once)
            await exchange_places(
                connection,
                layout,
                event_id=row["event_id"],
                booking_id=row["id"],
                gained=[piece for _, piece in reserved.held],
                given_up=reserved.given_up,
            )
            return changed

        return commit

    async def _lock(self, connection: AsyncConnection, seen: _Seen, order: Order, epoch: int) -> tuple[Row, Actor]:
        """The event, shared, as every commit has it, and the booking; both must be as Redis was told.

        Raises:
            Overtaken: They are not.
            EventNotOpen: The event was cancelled.
            InvalidTransition: It is a request whose time is over.
        """
        query = sa.select(events.c.epoch, events.c.status).where(events.c.id == seen.row["event_id"])
        event = (await connection.execute(query.with_for_update(read=True, key_share=True))).mappings().one()
        row = await lock_booking(connection, seen.owned.booking_id)
        if row["version"] != seen.row["version"] or event["epoch"] != epoch:
            raise Overtaken("the booking was changed meanwhile, or its event built anew")
        if event["status"] == "cancelled":
            raise EventNotOpen(row["event_id"], "cancelled")
        await require_in_time(connection, row, row["status"])  # its time may be over since it was looked at
        order.expect(row["version"])
        return row, order.admit(row["customer_id"])

    async def _decide(
        self,
        booking_id: str,
        commit: Commit,
        undo: Callable[[], Awaitable[None]],
        is_done: Callable[[Row], bool],
    ) -> Row:
        """Let the ledger decide, and undo in Redis what it refuses.

        When its answer is lost it is asked again: whoever has the booking's lock sees what became of the commit. While
        it does not answer nothing is undone, for it may have been done: the audit will know.
        """
        try:
            return await in_transaction(self._database, commit)
        except (Refusal, Overtaken):
            await _quietly(undo, booking_id)
            raise
        except LedgerUnavailable:
            row = await in_transaction(self._database, lambda connection: lock_booking(connection, booking_id))
            if not is_done(row):
                await _quietly(undo, booking_id)
                raise
            return row


async def _quietly(work: Callable[[], Awaitable[None]], booking_id: str) -> None:
    """Tell Redis what has been decided; where it is away, the audit will, or holds lapse."""
    try:
        await work()
    except Unavailable as error:
        logger.warning("change not followed up", booking_id=booking_id, reason=str(error))
