"""The desk: every step in the life of a booking that somebody asks for, decided by Postgres and then told to Redis.

A step is one transaction: lock the booking, see who asks, look for a repetition, check the version, take the step. What
follows the commit may be done twice: the places are freed in Redis and the payment is brought into line. Should either
server be away by then, the step stands all the same, and reconcilers do what is left: the audit frees the places.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.booking_requests import DETAILS_BYTES_MAX
from engine.bookings import Booking, BookingDetails, BookingStatus, PaymentStatus, Price
from engine.claims import ClaimedItem
from engine.definition import EventDefinition
from engine.errors import BookingNotFound, InvalidRequest, InvalidTransition, NotWrittenYet, Unavailable
from engine.ids import BookingId, claim_id, parse_claim_id
from engine.lifecycle import OWNING_STATUSES, Actor, allowed_from, status_after
from engine.once import Once
from engine.ports import Sealer
from engine.refund_tiers import RefundQuote, quote_by_tiers, quote_everything
from persistence.booking_history import HistoryLine, read_history
from persistence.bookings import NO_BLOCK, open_booking
from persistence.database import Row, fetch_rows, in_transaction
from persistence.paging import Page
from persistence.schema import bookings
from persistence.steps import Step, find_repetition, lock_booking, require_in_time, take_step

AMENDABLE = ("pending", "confirmed")
# What somebody has promised to pay, or has paid. Before that there is nothing to give back, and what was rejected,
# failed or lapsed has never been taken for good.
REFUNDABLE = ("paid", "pending", "confirmed", "checked_in", "completed", "no_show", "cancelled")
# Between one look for a booking that is on its way to the ledger and the next: most are there within 10 ms, and who
# waited longer than a second had better be told so.
_ARRIVAL_PAUSES_S = (0, 0.01, 0.03, 0.1, 0.3, 0.5)
_UNCONFIRMED = ("payment_initiated", "paid", "pending")

T = TypeVar("T")

logger = structlog.get_logger("holdfast.desk")

Free = Callable[[str], Awaitable[None]]
Settle = Callable[[Booking], Awaitable[None]]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Who wants a step, of which version, under which idempotency key.

    ``admit`` is told the customer of the booking, while it is locked, and says as whom the caller acts, or raises.
    ``expect`` is told the booking's version, and raises when it is not the one that the caller has seen.
    """

    admit: Callable[[str], Actor]
    expect: Callable[[int], object] = lambda _: None
    once: Once | None = None


class Stepped(msgspec.Struct, frozen=True):
    """The booking as it is now; ``replayed`` when the step was taken by an earlier request with the same key."""

    booking: Booking
    replayed: bool = False


class Amendment(msgspec.Struct, frozen=True, kw_only=True):
    """What is said anew beside the places; ``UNSET`` stays as it is."""

    guest: dict[str, Any] | None | msgspec.UnsetType = msgspec.UNSET
    attendees: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    notes: str | None | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET

    def apply(self, details: BookingDetails) -> BookingDetails:
        """The details with everything of this put in place of what was there."""
        said = {name: getattr(self, name) for name in self.__struct_fields__}
        return msgspec.structs.replace(
            details, **{name: value for name, value in said.items() if value is not msgspec.UNSET}
        )


class BookingDesk:
    """Takes steps. *free* and *settle* are called after the commit, and must be safe to repeat.

    *find_accepted* knows of bookings that are on their way to the ledger, and raises ``BookingNotFound`` of others.

    Every step raises ``BookingNotFound``, ``BookingRefused``, ``VersionConflict``, ``InvalidTransition``,
    ``IdempotencyKeyReused``, ``NotWrittenYet``, ``LedgerUnavailable``, and whatever its order's ``admit`` does.
    """

    def __init__(
        self,
        database: AsyncEngine,
        sealer: Sealer,
        *,
        free: Free,
        settle: Settle,
        find_accepted: Callable[[str], Awaitable[Booking]] | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._free = free
        self._settle = settle
        self._find_accepted = find_accepted

    async def approve(
        self,
        booking_id: str,
        order: Order,
        *,
        organizer_notes: str | None = None,
        estimated_pickup_time: dt.datetime | None = None,
        estimated_dropoff_time: dt.datetime | None = None,
    ) -> Stepped:
        """Confirm what was requested, in time: past its ``expires_at`` it is an ``InvalidTransition``."""

        def decide(row: Row, _: Actor) -> Step:
            changes = {
                "organizer_notes": organizer_notes,
                "estimated_pickup_time": estimated_pickup_time,
                "estimated_dropoff_time": estimated_dropoff_time,
                "confirmed_at": sa.func.now(),
                "expires_at": None,
            }
            return Step(to_status=status_after(row["status"], "approve"), changes=changes)

        return await self.take(booking_id, order, decide, in_time_for="confirmed")

    async def reject(self, booking_id: str, order: Order, *, organizer_notes: str) -> Stepped:
        """Turn down what was requested, and grant back what was paid; the places are free when this returns."""

        def decide(row: Row, _: Actor) -> Step:
            changes = self._letting_go(row) | {"organizer_notes": organizer_notes, "expires_at": None}
            return Step(to_status=status_after(row["status"], "reject"), reason=organizer_notes, changes=changes)

        return await self.take(booking_id, order, decide)

    async def cancel(
        self, booking_id: str, order: Order, *, event: EventDefinition, reason: str | None, now: dt.datetime
    ) -> Stepped:
        """End a booking and grant back what :meth:`quote` says; the places are free when this returns."""

        def decide(row: Row, actor: Actor) -> Step:
            to_status = status_after(row["status"], "cancel")
            granted = quote_of(row, actor, event, now).amount
            changes = self._granting(row, granted) | {
                "cancelled_at": sa.func.now(),
                "cancelled_by": actor.id,
                "cancellation_reason": reason,
                "expires_at": None,
            }
            return Step(to_status=to_status, reason=reason, changes=changes)

        return await self.take(booking_id, order, decide)

    async def check_in(self, booking_id: str, order: Order) -> Stepped:
        """Note that the customer has come."""

        def decide(row: Row, _: Actor) -> Step:
            return Step(to_status=status_after(row["status"], "check_in"), changes={"checked_in_at": sa.func.now()})

        return await self.take(booking_id, order, decide)

    async def complete(
        self,
        booking_id: str,
        order: Order,
        *,
        actual_pickup_time: dt.datetime | None = None,
        actual_dropoff_time: dt.datetime | None = None,
        reason: str | None = None,
    ) -> Stepped:
        """Note that it has taken place; what no provider has taken is paid on the spot."""

        def decide(row: Row, _: Actor) -> Step:
            changes: dict[str, Any] = {
                "completed_at": sa.func.now(),
                "actual_pickup_time": actual_pickup_time,
                "actual_dropoff_time": actual_dropoff_time,
            }
            if row["payment_status"] == "none":
                changes["payment_status"] = "completed"
            return Step(to_status=status_after(row["status"], "complete"), reason=reason, changes=changes)

        return await self.take(booking_id, order, decide)

    async def mark_no_show(self, booking_id: str, order: Order, *, reason: str | None = None) -> Stepped:
        """Note that the customer has not come."""

        def decide(row: Row, _: Actor) -> Step:
            return Step(to_status=status_after(row["status"], "mark_no_show"), reason=reason)

        return await self.take(booking_id, order, decide)

    async def refund(self, booking_id: str, order: Order, *, amount: int, reason: str | None) -> Stepped:
        """Grant *amount* back beside what was granted before; the booking keeps its status.

        Raises:
            InvalidRequest: It is more than is left.
        """

        def decide(row: Row, _: Actor) -> Step:
            require_status(row, REFUNDABLE)
            if amount > (left := row["amount"] - row["refunded"]):
                why = (
                    f"{row['refunded']} of {row['amount']} are granted back"
                    if row["refunded"]
                    else "the booking's amount"
                )
                raise InvalidRequest("$.amount", f"must be at most {left}: {why}")
            return Step(reason=reason, changes=self._granting(row, amount))

        return await self.take(booking_id, order, decide)

    async def amend(
        self,
        booking_id: str,
        order: Order,
        amendment: Amendment,
        *,
        expect_places: Callable[[Sequence[ClaimedItem]], object] = lambda _: None,
    ) -> Stepped:
        """Say anew what goes with a booking beside its places, and seal it anew.

        *expect_places* is told the booking's places, while it is locked, and raises when what is said does not fit.

        Raises:
            InvalidRequest: It is too long to be kept.
        """

        def decide(row: Row, _: Actor) -> Step:
            require_status(row, AMENDABLE)
            expect_places(open_booking(row, self._sealer).items)
            return Step(changes={"sealed": self.seal_anew(row, amendment)})

        return await self.take(booking_id, order, decide, in_time_for="pending")

    async def expire(self, booking_id: str, order: Order, *, reason: str) -> Stepped:
        """End a request that nobody has decided on in time, and grant back what was paid."""

        def decide(row: Row, _: Actor) -> Step:
            return Step(to_status=status_after(row["status"], "expire"), reason=reason, changes=self._letting_go(row))

        return await self.take(booking_id, order, decide)

    async def quote(
        self, booking_id: str, admit: Callable[[str], Actor], *, event: EventDefinition, now: dt.datetime
    ) -> RefundQuote:
        """What the caller's cancelling would grant back at *now*.

        Raises:
            BookingNotFound, BookingRefused: There is none of this id, or not any more.
            NotWrittenYet: It is on its way to the ledger.
            InvalidTransition: It cannot be cancelled any more.
        """
        row = await self._once_written(booking_id, admit, lambda: self._find(booking_id))
        actor = admit(row["customer_id"])
        status_after(row["status"], "cancel")
        return quote_of(row, actor, event, now)

    async def history(self, booking_id: str, *, limit: int, cursor: str | None = None) -> Page[HistoryLine]:
        """Every step of a booking, the first one first."""
        return await read_history(self._database, booking_id, limit=limit, cursor=cursor)

    async def take(
        self,
        booking_id: str,
        order: Order,
        decide: Callable[[Row, Actor], Step],
        *,
        in_time_for: BookingStatus | None = None,
    ) -> Stepped:
        """Take the step that *decide* makes of the locked booking, and do what follows.

        With *in_time_for*, the status that it leads to, a request must not be past its ``expires_at``.
        """

        async def work(connection: AsyncConnection) -> tuple[Row, bool]:
            row = await lock_booking(connection, booking_id)
            actor = order.admit(row["customer_id"])
            if order.once is not None and await find_repetition(connection, row, order.once) is not None:
                return row, True
            order.expect(row["version"])
            if in_time_for is not None:
                await require_in_time(connection, row, in_time_for)
            return await take_step(connection, row, decide(row, actor), actor, once=order.once), False

        row, replayed = await self.explained(booking_id, order, work)
        return Stepped(await self.follow_up(booking_id, row), replayed)

    async def explained(self, booking_id: str, order: Order, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run *work* on a booking in a transaction of its own, once it is in the ledger if it is on its way there."""
        return await self._once_written(booking_id, order.admit, lambda: in_transaction(self._database, work))

    def seal_anew(self, row: Row, amendment: Amendment) -> bytes:
        """The details of *row*, amended, as they are kept.

        Raises:
            InvalidRequest: They are too long to be kept.
        """
        booking_id = _id_of(row)
        sealed = self._sealer.seal(amendment.apply(self._sealer.unseal(row["sealed"], booking_id)), booking_id)
        if len(sealed) > DETAILS_BYTES_MAX:
            raise InvalidRequest("$", f"guest, attendees, notes and metadata are more than {DETAILS_BYTES_MAX} bytes")
        return sealed

    async def follow_up(self, booking_id: str, row: Row) -> Booking:
        """Tell Redis and the payment's side what the ledger has decided, again if it is a repetition."""
        try:
            if row["status"] not in OWNING_STATUSES:
                await self._free(booking_id)
            if row["payment_status"] != "none":
                await self._settle(open_booking(row, self._sealer))
                row = await self._find(booking_id)
        except Unavailable as error:
            # The step is taken. To answer otherwise would have the client try again, and be told that it cannot.
            logger.warning("booking not followed up", booking_id=booking_id, status=row["status"], reason=str(error))
        return open_booking(row, self._sealer)

    async def _once_written(
        self, booking_id: str, admit: Callable[[str], Actor], attempt: Callable[[], Awaitable[T]]
    ) -> T:
        """What comes of *attempt*; where it finds no booking that was accepted, again when the ledger has it.

        Raises:
            BookingNotFound, BookingRefused: There is none, nor will there be.
            NotWrittenYet: The ledger has not got it within a second: the same request may succeed in a moment.
        """
        try:
            return await attempt()
        except BookingNotFound as error:
            if self._find_accepted is None or error.is_foreign:  # the ledger has it, and it is somebody else's
                raise
        for pause_s in _ARRIVAL_PAUSES_S:
            await asyncio.sleep(pause_s)
            accepted = await self._find_accepted(booking_id)
            admit(accepted.customer_id)  # before any more waiting: whose it is not gets no answer but 404
            if accepted.durable:
                return await attempt()
        raise NotWrittenYet(booking_id)

    def _granting(self, row: Row, amount: int) -> dict[str, Any]:
        """The columns that say that *amount* more is granted back.

        Of what was paid on the spot we know it at once; whether a provider has given it back, only its side knows.
        """
        refunded = row["refunded"] + amount
        changes: dict[str, Any] = {"refunded": refunded}
        if (
            amount > 0
            and row["payment_status"] in ("completed", "partially_refunded")
            and self._is_paid_on_the_spot(row)
        ):
            status: PaymentStatus = "refunded" if refunded == row["amount"] else "partially_refunded"
            changes["payment_status"] = status
        return changes

    def _letting_go(self, row: Row) -> dict[str, Any]:
        """The columns that say that everything is granted back of a request that comes to nothing.

        Of one that nothing was paid for through Holdfast nothing is: nobody has asked its customer for money yet.
        """
        return {} if row["payment_status"] == "none" else self._granting(row, row["amount"] - row["refunded"])

    def _is_paid_on_the_spot(self, row: Row) -> bool:
        return self._sealer.unseal(row["sealed"], _id_of(row)).payment_id is None

    async def _find(self, booking_id: str) -> Row:
        key = parse_claim_id(booking_id)
        if key is None:
            raise BookingNotFound(booking_id)
        query = sa.select(bookings).where(bookings.c.id == key.uuid, bookings.c.event_id == key.event_id, NO_BLOCK)
        rows = await fetch_rows(self._database, query)
        if not rows:
            raise BookingNotFound(booking_id)
        return rows[0]


def quote_of(row: Row, actor: Actor, event: EventDefinition, now: dt.datetime) -> RefundQuote:
    """What cancelling grants back.

    A customer gets what the tiers say of what the places cost now; but a request that was never confirmed costs
    nothing, and whoever is let down by the organizer gets everything that is still paid.
    """
    paid = row["amount"] - row["refunded"]
    if actor.role != "customer" or row["status"] in _UNCONFIRMED:
        return quote_everything(paid)
    return quote_by_tiers(event.policy.refunds, costs=cost_of(row), paid=paid, starts_at=event.starts_at, now=now)


def cost_of(row: Row) -> int:
    """What the places of a booking cost that it has now; ``amount`` is what all that it ever had were sold for."""
    total: int = msgspec.json.decode(row["price"], type=Price).total if row["price"] else row["amount"]
    return total


def require_status(row: Mapping[Any, Any], statuses: tuple[str, ...]) -> None:
    """Make sure that what keeps its status may be done in it.

    Raises:
        InvalidTransition: It may not.
    """
    if row["status"] not in statuses:
        raise InvalidTransition(row["status"], row["status"], allowed_from(row["status"]))


def _id_of(row: Row) -> BookingId:
    return BookingId(claim_id(row["id"].int, row["event_id"]))
