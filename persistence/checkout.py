"""Selling against payment: from a hold to a booking that is paid for, or to the reason why not.

What a customer waits for goes on in a task of its own: at the time limit they are told where to ask, and nothing that
was begun is broken off.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from engine import figures
from engine.bookings import Booking, BookingDetails
from engine.errors import (
    BookingNotFound,
    HoldConfirmed,
    HoldExpired,
    HoldfastError,
    HoldRefusal,
    HoldReleased,
    InvalidRequest,
    LedgerUnavailable,
    PaymentDeclined,
    Refusal,
    Unavailable,
)
from engine.events import Event
from engine.ids import BookingId
from engine.lifecycle import SYSTEM
from engine.once import Once
from engine.payments import PROVIDER_TIMEOUT_S, Charge, Notice, PaymentProvider, Said
from engine.ports import Sealer
from engine.reservations import Reservations
from persistence.bookings import Bookings
from persistence.payment_beginning import Begun, Order, begin_payment, new_payment_id
from persistence.payment_notices import EARLY_WAIT_S, Notices
from persistence.payments import PaymentsStore
from persistence.settler import PaymentSettler
from persistence.straight_way import StraightWay

SETTLE_WAIT_S = 1.0  # for which a step's answer waits for its money to follow
CLOSE_WAIT_S = 2.0  # an end that waited for a provider's time limit would be cut short by whoever asked for it
ANSWER_WAIT_S = 0.5  # from a webhook to the answer of the call that it is about, which most often comes first
CAPTURE_WAIT_S = 0.3  # for which an answer waits for the money to be taken, once the booking is certain

T = TypeVar("T")

logger = structlog.get_logger("holdfast.payments")


class Paid(msgspec.Struct, frozen=True):
    """A booking whose payment has begun; ``redirect_url`` is where its customer has to go to pay it, if anywhere."""

    booking: Booking
    redirect_url: str | None = None
    replayed: bool = False


class Decided(asyncio.Event):
    """Set once the booking is as certain as it will be; ``booking`` is the latest word on it, where that is known."""

    booking: Booking | None = None


class Checkout:
    """Takes payments. *providers* are by the name that requests give."""

    def __init__(
        self,
        database: AsyncEngine,
        sealer: Sealer,
        reservations: Reservations,
        bookings: Bookings,
        providers: Mapping[str, PaymentProvider],
        *,
        confirm_timeout_s: float,
    ) -> None:
        self.providers = providers
        self.store = PaymentsStore(database, providers)
        self.settler = PaymentSettler(self.store, reservations, sealer, providers)
        self._database = database
        self._sealer = sealer
        self._reservations = reservations
        self._bookings = bookings
        self._confirm_timeout_s = confirm_timeout_s
        self._straight = StraightWay(database, reservations)
        self._notices = Notices(database)
        self._early: list[Notice] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._heard: set[str] = set()  # those of them that a webhook has come of
        self._in_hand: set[str] = set()  # bookings whose payment this process carries out: it reads what webhooks write

    async def find_replay(self, once: Once, customer_id: str) -> Paid | None:
        """What the idempotency key *once* was answered, and what has become of it since.

        Raises:
            IdempotencyKeyReused: It was used for another request.
            BookingNotFound: The booking is another customer's by now.
            PaymentDeclined: The payment that it began was declined.
            HoldExpired: It was not paid for in time.
        """
        booking = await self._bookings.find_replay(once.scope, once.body)
        if booking is None:
            return None
        if booking.customer_id != customer_id:  # it was given to somebody else since
            raise BookingNotFound(booking.id)
        return await self._answer(booking.id, once=once, replayed=True)

    async def pay(
        self,
        hold_id: str,
        details: BookingDetails,
        *,
        customer_id: str,
        provider: str,
        method: str,
        once: Once | None = None,
    ) -> Paid:
        """Pay for a hold and turn it into a booking; at the time limit, say how far that is.

        Safe to repeat with the same *once*. After a payment that was declined, the same hold may be paid for otherwise.

        Raises:
            InvalidRequest: There is no such provider.
            HoldNotFound, HoldExpired, HoldReleased, HoldConfirmed, EventNotOpen: There is nothing to pay for.
            LimitExceeded: The customer has a live booking of an event that takes but one.
            PaymentDeclined: The provider has declined it. The hold lives on.
            PlacesUnavailable, BookingRefused: It was paid, its places are somebody else's; the money is given back.
            IdempotencyKeyReused: The key was used for another request.
        """
        self.require_provider(provider)
        if once is not None and (replayed := await self.find_replay(once, customer_id)) is not None:
            return replayed
        try:
            hold = await self._reservations.begin_payment(hold_id, customer_id=customer_id)
            order = Order(
                hold_id=hold_id,
                hold=hold,
                details=msgspec.structs.replace(details, payment_id=new_payment_id()),
                customer_id=customer_id,
                provider=provider,
                method=method,
                once=once,
            )
            begun = await begin_payment(self._database, self._sealer, order)
        except HoldConfirmed:  # by a request with the same key, it may be, since that was asked for
            if once is not None and (replayed := await self.find_replay(once, customer_id)) is not None:
                return replayed
            raise
        except HoldReleased:
            # Whoever cancelled its booking may have died before the hold was released: what is said now is to be true.
            with contextlib.suppress(HoldRefusal):
                await self._reservations.release(hold_id, customer_id=customer_id)
            raise
        decided = Decided()
        if (refusal := await self._wait_for(begun, order, decided)) is not None:
            raise refusal
        if decided.booking is not None:
            return Paid(decided.booking)
        return await self._answer(begun.booking_id, once=once, replayed=begun.how == "replayed")

    def require_provider(self, name: str) -> None:
        """Make sure that there is a provider of this name.

        Raises:
            InvalidRequest: There is not.
        """
        if name not in self.providers:
            if not self.providers:
                reason = "this installation has no payment provider configured (HOLDFAST_PAYMENT_PROVIDERS)"
                raise InvalidRequest("$.payment.provider", reason)
            known = ", ".join(sorted(self.providers))
            raise InvalidRequest("$.payment.provider", f"no such provider; there are: {known}")

    def warn_if_unpayable(self, event: Event) -> None:
        """Say so when an event goes on sale against payment where nobody takes one. Another process may know one."""
        if event.definition.policy.payment == "required" and not self.providers:
            reason = "no payment provider is configured here (HOLDFAST_PAYMENT_PROVIDERS)"
            logger.warning("event on sale cannot be paid for", event_id=event.id, reason=reason)

    async def give_up(self, hold_id: str) -> None:
        """The customer has given the hold back: a booking that waited for another payment of it is over.

        One whose payment is still open ends when that is known, and its money is let go. If Postgres does not answer
        now, the booking ends at the hold's deadline.
        """
        try:
            await self.store.give_up(hold_id, SYSTEM)
        except LedgerUnavailable as error:
            logger.warning("booking left to lapse", booking_id=hold_id, reason=str(error))

    async def receive(self, provider: str, notice: Notice) -> None:
        """Write a webhook down, and go on with what it says. One that comes again does nothing."""
        figures.PAYMENT_NOTICES.add(provider, notice.said.outcome)
        match await self._notices.write_down(provider, notice):
            case "early":
                self._early.append(notice)
                if len(self._early) == 1:
                    self.keep_going(self._look_at_early())
            case "news":
                if (booking_id := await self.store.receive(provider, notice)) is not None:
                    self._go_on(booking_id)

    async def settle_booking(self, booking: Booking) -> None:
        """Bring the provider into line with a booking that has just been changed, and wait for that a moment."""
        task = self.keep_going(self.settler.settle(booking.id))
        await asyncio.wait((task,), timeout=SETTLE_WAIT_S)

    def keep_going(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run *work* whether or not anybody waits for it, and finish it before :meth:`close` returns."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def close(self) -> None:
        """Give what is under way a moment; what waits for a provider then is left as a crash would leave it.

        Redis, Postgres and the providers must still be there.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WAIT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_at_early(self) -> None:
        """Go on with notices that were early, where whoever had the payment in hand does not know by now."""
        await asyncio.sleep(EARLY_WAIT_S)
        early, self._early = self._early, []
        try:
            for booking_id, notice in await self._notices.find_news(early):
                if await self.store.note(booking_id, notice.key, notice.said):
                    self._go_on(booking_id)
        except LedgerUnavailable as error:
            logger.warning("payment notices left for later", count=len(early), reason=str(error))

    async def _wait_for(self, begun: Begun, order: Order, decided: Decided) -> HoldfastError | None:
        """Have the payment done, and wait for as long as an answer may take; the refusal, if it came to one."""
        if begun.charge is None:
            return None  # somebody else has it in hand
        task = self.keep_going(self._carry_out(begun.booking_id, order.provider, begun.charge, decided, order))
        waiting = asyncio.create_task(decided.wait())
        try:
            await asyncio.wait((task, waiting), timeout=self._confirm_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if decided.is_set() and not task.done():
                await asyncio.wait((task,), timeout=CAPTURE_WAIT_S)
        finally:
            waiting.cancel()
        return task.result() if task.done() else None

    async def _carry_out(
        self, booking_id: str, provider: str, charge: Charge, decided: Decided, order: Order | None = None
    ) -> HoldfastError | None:
        """Ask for the money and see to the rest; with an *order*, which is a booking's first, straight where it can."""
        self._in_hand.add(booking_id)
        try:
            began = time.perf_counter()
            said = await self._authorize(provider, charge)
            # After longer than it may take the payment may be in somebody else's hands.
            may_go = said.outcome == "authorized" and time.perf_counter() - began < PROVIDER_TIMEOUT_S
            if order is not None and may_go and await self._go_straight(order, said, charge, decided):
                return None
            return await self._note_and_settle(booking_id, charge, said, decided)
        finally:
            self._in_hand.discard(booking_id)
            self._heard.discard(booking_id)

    async def _go_straight(self, order: Order, said: Said, charge: Charge, decided: Decided) -> bool:
        """Book and take what *said* has set aside; whether nothing is left to be done now."""
        if (booking := await self._straight.book(order, said)) is None:
            return False
        decided.booking = booking
        decided.set()
        if booking.status != "confirmed" or booking.amount == 0:
            return False
        charge = msgspec.structs.replace(charge, provider_ref=said.provider_ref)
        try:
            taken, paid = await self._straight.take(booking, charge, self.providers[order.provider])
        except LedgerUnavailable as error:
            logger.warning("payment left for later", booking_id=booking.id, reason=str(error))
            return True
        if paid is None:
            decided.booking = None  # whoever answers reads what has become of it
            return taken.outcome == "unknown"  # it is due in a moment
        decided.booking = paid
        return True

    async def _note_and_settle(
        self, booking_id: str, charge: Charge, said: Said, decided: Decided
    ) -> HoldfastError | None:
        if said.outcome != "unknown":
            try:
                await self.store.note(booking_id, charge.key, said)
            except LedgerUnavailable as error:
                logger.warning("payment left for later", booking_id=booking_id, reason=str(error))
                return None
        if said.outcome in ("unknown", "pending") and booking_id not in self._heard:
            return None  # to ask at once would tell nothing new; a webhook or the reconciler goes on with it
        refusal = await self.settler.settle(booking_id, on_confirmed=decided.set)
        return None if isinstance(refusal, Unavailable) else refusal

    def _go_on(self, booking_id: str) -> None:
        """Go on with what a webhook has said of a booking's payment."""
        if booking_id in self._in_hand:
            self._heard.add(booking_id)
            self.keep_going(self._settle_if_slow(booking_id))
        else:
            self.keep_going(self.settler.settle(booking_id))

    async def _settle_if_slow(self, booking_id: str) -> HoldfastError | None:
        """The provider's notice came before its answer, which may be lost: it is waited for no longer than this."""
        await asyncio.sleep(ANSWER_WAIT_S)
        return await self.settler.settle(booking_id) if booking_id in self._in_hand else None

    async def _authorize(self, provider: str, charge: Charge) -> Said:
        if charge.amount == 0:
            return Said(outcome="captured")  # as it was written down: there is nothing to ask for
        began = time.perf_counter()
        said = await self.providers[provider].authorize(charge)
        figures.PAYMENTS.observe(time.perf_counter() - began, provider, "authorize", said.outcome)
        return said

    async def _answer(self, booking_id: str, *, once: Once | None, replayed: bool) -> Paid:
        booking = await self._bookings.find_booking(BookingId(booking_id))
        assert booking is not None, booking_id  # it was written before
        payment = await self.store.find_last(booking_id, once.scope if once is not None else None)
        if payment is None:  # the key of a request that met a payment under way
            payment = await self.store.find_last(booking_id)
        if payment is None:
            return Paid(booking, replayed=replayed)
        refusal: Refusal | None = None
        if payment["state"] == "declined":
            refusal = PaymentDeclined(booking_id, payment["reason"])
        elif booking.status in ("failed", "expired") and booking.confirmed_at is None:
            refusal = HoldExpired(booking_id)  # what became of a 202: it never was a booking
        if refusal is not None:
            raise refusal.again() if replayed else refusal
        is_open = booking.status == "payment_initiated"
        return Paid(booking, payment["redirect_url"] if is_open else None, replayed)

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("payment left in between", error=type(error).__name__, exc_info=error)
