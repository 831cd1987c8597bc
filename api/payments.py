"""Handlers of payments: bookings that are sold against payment, and the webhooks of those who take it."""

import contextlib
import datetime as dt
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from api.answers import Answer, json_answer
from api.call import Call
from api.errors import NoticeUnsigned, RouteNotFound
from api.idempotency import REPLAYED
from api.versions import versioned_answer
from engine.bookings import Booking, BookingDetails
from engine.claim_requests import ClaimRequest
from engine.errors import HoldConfirmed, InvalidRequest, LimitExceeded
from engine.payments import NoticeRefused
from persistence.checkout import Paid

if TYPE_CHECKING:  # which hands us its requests
    from api.bookings import BookingRequest

RETRY_AFTER_S = 2  # after which to ask again how a payment has gone
NOTICE_MAX = 65_536  # bytes of a webhook; providers' are a few thousand

logger = structlog.get_logger("holdfast.api")


class StartedBooking(Booking, frozen=True, kw_only=True):
    """A booking that is not certain yet; ``redirect_url`` is where its customer has to go to pay it, if anywhere."""

    redirect_url: str | None = None


class Received(msgspec.Struct, frozen=True):
    """What a provider hears that has told us something."""

    received: bool = True


async def is_sold_against_payment(call: Call, event_id: str) -> bool:
    """Whether the event's policy asks for a payment."""
    reservations = call.services.reservations
    event = reservations.recall_event(event_id) or await reservations.find_event(event_id)
    return event.definition.policy.payment == "required"


async def answer_paid(
    call: Call, request: "BookingRequest", details: BookingDetails, *, claim: ClaimRequest | None
) -> Answer:
    """Take the payment for a hold; without one (``hold_id``), hold what is *claimed* first.

    201 when the booking is durable and paid for, 202 while it is not known.
    """
    order = request.payment
    if order is None:
        raise InvalidRequest("$.payment", "required: the event is sold against payment")
    checkout, once, sub = call.services.checkout, call.once, call.caller.sub
    checkout.require_provider(order.provider)
    # A repetition must not be told that the places are gone, which it has itself, nor agree on a price once more.
    if once is not None and (paid := await checkout.find_replay(once, sub)) is not None:
        return _answer(call, paid)
    terms = call.services.terms
    pay = partial(checkout.pay, customer_id=sub, provider=order.provider, method=order.method, once=once)
    if request.hold_id is not None:
        # What an earlier request with the same key made of it, the checkout knows.
        with contextlib.suppress(HoldConfirmed):
            details = await terms.agree_on_hold(request.hold_id, details, customer_id=sub)
        return _answer(call, await pay(request.hold_id, details))
    assert request.event_id is not None
    assert claim is not None
    hold, details = await terms.hold_and_agree(request.event_id, claim, details, customer_id=sub, once=once)
    try:
        return _answer(call, await pay(hold.id, details))
    except LimitExceeded:  # before anything was written down: nothing is taken, then
        await terms.give_back(hold, sub, once)
        raise


async def receive_notice(call: Call) -> Answer:
    """``POST /v1/payments/webhooks/{provider}`` → 202, also for what is known already and what is not ours.

    What is wrong in it is told only to those who have signed it: 422.
    """
    name = call.params["provider"]
    provider = call.services.checkout.providers.get(name)
    if provider is None:
        raise RouteNotFound
    try:
        notice = provider.parse_webhook(call.headers, call.body, now=dt.datetime.now(dt.UTC))
    except NoticeRefused as refused:
        logger.warning("payment webhook refused", provider=name, reason=str(refused))
        raise NoticeUnsigned from None
    except InvalidRequest as invalid:
        logger.warning("payment webhook refused", provider=name, reason=str(invalid))
        raise
    if notice is not None:
        await call.services.checkout.receive(name, notice)
    return json_answer(Received(), status=202)


def _answer(call: Call, paid: Paid) -> Answer:
    booking = paid.booking
    headers = (call.location(f"/v1/bookings/{booking.id}"), *((REPLAYED,) if paid.replayed else ()))
    if booking.status != "payment_initiated":
        return versioned_answer(call, booking, booking.version, status=201, headers=headers)
    started = StartedBooking(**msgspec.structs.asdict(booking), redirect_url=paid.redirect_url)
    retry_after = (b"retry-after", b"%d" % RETRY_AFTER_S)
    return versioned_answer(call, started, booking.version, status=202, headers=(*headers, retry_after))
