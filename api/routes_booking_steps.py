"""The table of URLs of what becomes of bookings."""

from typing import Any

from api import booking_steps as steps
from api import examples
from api.identity import ROLES
from api.paging import PageQuery
from api.route import Handler, Method, Reply, Route
from api.routes_shared import ORGANIZERS, REPLAYABLE
from engine.bookings import Booking
from engine.errors import (
    BookingNotFound,
    BookingRefused,
    EventNotOpen,
    InvalidRequest,
    InvalidTransition,
    LimitExceeded,
    NotWrittenYet,
    PaymentDeclined,
    PaymentOpen,
    PlacesUnavailable,
    VersionConflict,
)
from engine.refund_tiers import RefundQuote

_STEPPED = (Reply(200, "The booking as it is now.", Booking, headers=("ETag", *REPLAYABLE)),)
_REFUSALS = (BookingNotFound, BookingRefused, NotWrittenYet, InvalidTransition, VersionConflict, InvalidRequest)


def _step(path: str, handler: Handler, summary: str, body: Any, *, method: Method = "POST", **more: Any) -> Route:
    """A row whose idempotency key is the desk's to keep."""
    members: dict[str, Any] = {"roles": ORGANIZERS, "body_required": False, "refusals": _REFUSALS} | more
    return Route(
        method=method,
        path=f"/v1/bookings/{{booking_id}}{path}",
        handler=handler,
        summary=summary,
        tag="Bookings",
        body=body,
        replies=_STEPPED,
        conditional="If-Match",
        **members,
    )


BOOKING_STEP_ROUTES: tuple[Route, ...] = (
    _step(
        "",
        steps.patch_booking,
        "Change what goes with a booking, and its places: all that was asked for, or it keeps what it has",
        steps.BookingPatch,
        method="PATCH",
        roles=ROLES,
        body_required=True,
        body_example=examples.BOOKING_PATCH,
        refusals=(*_REFUSALS, EventNotOpen, PlacesUnavailable, LimitExceeded, PaymentDeclined, PaymentOpen),
    ),
    _step(
        "/transfer",
        steps.transfer_booking,
        "Make a booking another customer's",
        steps.TransferRequest,
        roles=ROLES,
        body_required=True,
        body_example={"customer_id": "ben"},
        refusals=(*_REFUSALS, EventNotOpen, LimitExceeded),
    ),
    _step(
        "/approve",
        steps.approve_booking,
        "Confirm what was requested",
        steps.ApprovalRequest,
        body_example=examples.APPROVAL,
    ),
    _step(
        "/reject",
        steps.reject_booking,
        "Turn a request down; its places are free when this answers",
        steps.RejectionRequest,
        body_required=True,
        body_example={"organizer_notes": "The car is in the workshop."},
    ),
    _step(
        "/cancel",
        steps.cancel_booking,
        "Cancel a booking: by its customer with a refund by the tiers, by others in full; its places are free",
        steps.CancellationRequest,
        roles=ROLES,
        body_example={"reason": "Fell ill."},
        notes=(
            "The whole booking: to give back a part of it, `PATCH /v1/bookings/{booking_id}` with the `items` that are "
            "to be kept.",
        ),
    ),
    _step("/check-in", steps.check_in_booking, "Note that the customer has come", steps.StepRequest),
    _step(
        "/complete",
        steps.complete_booking,
        "Note that it has taken place",
        steps.CompletionRequest,
        body_example=examples.COMPLETION,
    ),
    _step("/no-show", steps.mark_no_show, "Note that the customer has not come", steps.StepRequest),
    _step(
        "/refund",
        steps.refund_booking,
        "Give part or all of the money back",
        steps.RefundRequest,
        body_required=True,
        body_example={"amount": 1000, "reason": "The support act did not play."},
    ),
    Route(
        method="GET",
        path="/v1/bookings/{booking_id}/refund-quote",
        handler=steps.quote_refund,
        summary="What cancelling the booking now would give back",
        tag="Bookings",
        roles=ROLES,
        replies=(Reply(200, "Of what the places cost now, and never of more than is still paid.", RefundQuote),),
        refusals=(BookingNotFound, BookingRefused, NotWrittenYet, InvalidTransition),
    ),
    Route(
        method="GET",
        path="/v1/bookings/{booking_id}/history",
        handler=steps.show_history,
        summary="Every step of a booking, and who took it",
        tag="Bookings",
        roles=ROLES,
        query=PageQuery,
        replies=(Reply(200, "A page, the first step first.", steps.HistoryPage, headers=("Link",)),),
        refusals=(BookingNotFound, BookingRefused),
    ),
)
