"""Bringing a payment provider into line with a booking, from wherever somebody else was interrupted.

The request that begins a payment goes on here once the provider has answered, webhooks come here, the steps of a
booking's life do, and so does the reconciler. Whoever it is reads the case, does the next thing
(``engine.payment_steps``) and reads again; several at once only ask a provider twice for the
same, under the same idempotency key.
"""

import contextlib
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from engine import figures
from engine.errors import (
    BookingRefused,
    EventNotOpen,
    HoldConfirmed,
    HoldExpired,
    HoldfastError,
    HoldNotFound,
    HoldRefusal,
    HoldReleased,
    LimitExceeded,
    PlacesUnavailable,
    Unavailable,
)
from engine.ids import BookingId
from engine.lifecycle import SYSTEM
from engine.payment_steps import (
    Capture,
    Case,
    Confirm,
    End,
    GiveUp,
    LookUp,
    OpenRefund,
    Refund,
    Say,
    Step,
    Void,
    next_step,
)
from engine.payments import UNKNOWN, Charge, PaymentProvider, Said
from engine.places import parse_places
from engine.ports import Sealer
from engine.reservations import Reservations
from persistence.database import Row
from persistence.payments import CHECK_FIRST, PaymentsStore, charge_of

STEPS_MAX = 100  # of one call: four for each of the twenty payments that a booking may have, and some for the booking
_GONE = (HoldExpired, HoldReleased, HoldNotFound)
_TAKEN = (PlacesUnavailable, LimitExceeded, EventNotOpen, BookingRefused)

logger = structlog.get_logger("holdfast.payments")

OnConfirmed = Callable[[], None]


class _Case(msgspec.Struct, frozen=True):
    """A booking's case, with the rows it was made of."""

    booking_id: str
    view: Case
    rows: Mapping[str, Row]
    booking: Row


class PaymentSettler:
    """Settles payments. *providers* are by name.

    A booking that waits for one that is missing here is left as it is, for a process that has it: to count a look that
    asked nobody would only put off the one that can ask.
    """

    def __init__(
        self,
        store: PaymentsStore,
        reservations: Reservations,
        sealer: Sealer,
        providers: Mapping[str, PaymentProvider],
    ) -> None:
        self._store = store
        self._reservations = reservations
        self._sealer = sealer
        self._providers = providers

    async def settle(self, booking_id: str, *, on_confirmed: OnConfirmed | None = None) -> HoldfastError | None:
        """Do what can be done now; what cannot is due again later. Returns why the booking was refused, if it was.

        *on_confirmed* is called as soon as the booking is as certain as it will be, before its money is taken.
        Raises nothing for a server or provider that does not answer: the reconciler comes back to it.
        """
        refusal: HoldfastError | None = None
        try:
            looked_up: set[str] = set()
            has_confirmed = False
            for _ in range(STEPS_MAX):
                found = await self._store.read_case(booking_id)
                if found is None:
                    return refusal
                case = _Case(booking_id, *found)
                if self._lacks_provider(case):
                    return refusal
                step = next_step(case.view, frozenset(looked_up))
                # What was confirmed and still waits is in the journal, and will be in the ledger.
                if step is None or (has_confirmed and isinstance(step, Confirm)):
                    await self._schedule(case)
                    return refusal
                if isinstance(step, LookUp):
                    looked_up.add(step.payment_id)
                    await self._take(case, step)  # what it does not tell now keeps nothing else from being done
                elif isinstance(step, Confirm):
                    refusal = await self._confirm(case, step)
                    if on_confirmed is not None and (refusal is None or not isinstance(refusal, Unavailable)):
                        on_confirmed()
                    if isinstance(refusal, Unavailable):
                        return None  # later
                    has_confirmed = True
                elif not await self._take(case, step):
                    await self._put_off(case, at=None, backs_off=True)
                    return refusal
                elif isinstance(step, Say):  # which comes last; who has changed the booking meanwhile has made it due
                    await self._schedule(case)
                    return refusal
            logger.error("payment does not come to an end", booking_id=booking_id)
        except Unavailable as error:
            logger.warning("payment left for later", booking_id=booking_id, reason=str(error))
        return refusal

    def _lacks_provider(self, case: _Case) -> bool:
        rows = case.rows.values()
        return any(row["check_at"] is not None and row["provider"] not in self._providers for row in rows)

    async def _take(self, case: _Case, step: Step) -> bool:
        """Take a step; ``False`` when its outcome is not known."""
        match step:
            case LookUp(payment_id):
                return await self._ask(case, payment_id, "look_up", lambda p, charge: p.look_up(charge))
            case Void(payment_id):
                return await self._ask(case, payment_id, "void", lambda p, charge: p.void(charge))
            case Capture(payment_id, amount):
                return await self._ask(case, payment_id, "capture", lambda p, charge: p.capture(charge, amount))
            case GiveUp(payment_id):
                await self._store.give_up_payment(case.booking_id, payment_id)
            case OpenRefund():
                await self._store.open_refund(case.booking_id, step, case.view)
            case Refund(refund_id):
                return await self._refund(case, refund_id)
            case End(to_status):
                reason = "the payment was declined" if to_status == "failed" else "it was not paid for in time"
                await self._store.end(case.booking_id, step, reason, SYSTEM)
            case Say(payment_status):
                if payment_status == "failed" and case.view.status != "payment_initiated" and case.view.was_confirmed:
                    logger.error("booked without payment: it needs a person", booking_id=case.booking_id)
                await self._store.say(case.booking_id, step, case.view, SYSTEM)
        return True

    async def _ask(
        self, case: _Case, payment_id: str, call: str, ask: Callable[[PaymentProvider, Charge], Awaitable[Said]]
    ) -> bool:
        row = case.rows[payment_id]
        provider = self._providers.get(row["provider"])
        said = UNKNOWN
        if provider is not None:
            began = time.perf_counter()
            said = await ask(provider, charge_of(row))
            figures.PAYMENTS.observe(time.perf_counter() - began, row["provider"], call, said.outcome)
        if said.outcome == "unknown":
            return False
        is_news = await self._store.note(case.booking_id, payment_id, said)
        # What changes nothing would be asked again at once: a capture that was refused, money that cannot be let go.
        return is_news or call == "look_up"

    async def _refund(self, case: _Case, refund_id: str) -> bool:
        refund = next(one for one in case.view.refunds if one.id == refund_id)
        row = case.rows[refund.payment_id]
        provider = self._providers.get(row["provider"])
        outcome = "unknown"
        if provider is not None:
            began = time.perf_counter()
            outcome = await provider.refund(charge_of(row), refund.amount, key=refund_id)
            figures.PAYMENTS.observe(time.perf_counter() - began, row["provider"], "refund", outcome)
        if outcome == "unknown":
            return False
        if outcome == "refused":
            logger.error("refund refused: it needs a person", booking_id=case.booking_id, refund_id=refund_id)
        await self._store.finish_refund(refund_id, outcome)
        return True

    async def _confirm(self, case: _Case, step: Confirm) -> HoldfastError | None:
        """Turn the hold into the booking; where it cannot be, end the booking, and say why."""
        try:
            await self._book(case, step.payment_id)
        except Unavailable as error:
            logger.warning("paid booking left for later", booking_id=case.booking_id, reason=str(error))
            return error
        except HoldConfirmed:
            return None  # somebody else's attempt, by hand: the group commit has it, or will
        except (*_GONE, *_TAKEN) as refusal:
            is_over = isinstance(refusal, _GONE)
            end = End("expired" if is_over else "failed", despite_payment=True)
            reason = "its hold was over before it was paid for" if is_over else f"refused: {type(refusal).__name__}"
            await self._store.end(case.booking_id, end, reason, SYSTEM)
            if not is_over:  # that of a cancelled event would keep its places until its deadline
                with contextlib.suppress(HoldRefusal):
                    await self._reservations.release(case.booking_id, customer_id=None)
            return refusal
        return None

    async def _book(self, case: _Case, payment_id: str) -> None:
        row = case.booking
        details = self._sealer.unseal(row["sealed"], BookingId(case.booking_id))
        details = msgspec.structs.replace(details, payment_id=payment_id)
        # The payment marks the attempt: whoever goes on with it is answered as the first one was.
        who = {"customer_id": row["customer_id"], "attempt": payment_id.encode()}
        try:
            await self._reservations.confirm(case.booking_id, details, **who)
        except HoldReleased:
            raise  # the customer does not want it any more
        except _GONE:
            if not case.view.waits_for_late:
                raise
            await self._reservations.book_again(case.booking_id, parse_places(row["places"]), details, **who)

    async def _schedule(self, case: _Case) -> None:
        """Nothing can be done now: when is the next look due?"""
        waits = case.view.status == "payment_initiated" or any(
            payment.state in ("initiated", "pending") for payment in case.view.payments
        )
        at = case.view.turns_at
        if at is not None:
            at = max(at, case.view.now) + CHECK_FIRST / 10
        await self._put_off(case, at=at, backs_off=waits)

    async def _put_off(self, case: _Case, *, at: dt.datetime | None, backs_off: bool) -> None:
        version = case.booking["version"]
        await self._store.schedule(list(case.rows.values()), version=version, at=at, backs_off=backs_off)
