"""The table of URLs of bookings: made, read, and listed."""

from api import bookings, examples, payments
from api.identity import ROLES
from api.paging import PageQuery
from api.route import Reply, Route
from api.routes_shared import BUYERS, CLAIMS, ENDED, REPLAYABLE
from engine.bookings import Booking
from engine.errors import BookingNotFound, BookingRefused, InventoryUnavailable, JournalFull, PaymentDeclined

BOOKING_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/bookings",
        handler=bookings.create_booking,
        summary="Turn a hold into a booking, or hold and book in one step",
        tag="Bookings",
        roles=BUYERS,
        body=bookings.BookingRequest,
        body_example=examples.BOOKING,
        replies=(
            Reply(
                201,
                "The booking is confirmed, or `pending` where its organizer approves each. It is `durable`, unless its "
                "event has the policy `durability: redis`: then "
                "the ledger has it, and it has its `reference`, a moment later.",
                Booking,
                headers=("Location", "ETag", *REPLAYABLE),
            ),
            Reply(
                202,
                "The places are taken; whether the ledger has the booking is not known yet (`confirming`), or whether "
                "it is paid for (`payment_initiated`; at `redirect_url`, if there is one). Ask at `Location`.",
                payments.StartedBooking,
                headers=("Location", "ETag", "Retry-After", *REPLAYABLE),
            ),
        ),
        refusals=(*CLAIMS, *ENDED, BookingNotFound, PaymentDeclined, JournalFull, InventoryUnavailable),
        takes_tickets=True,
    ),
    Route(
        method="GET",
        path="/v1/bookings",
        handler=bookings.list_bookings,
        summary="Your bookings; for organizers those of their events, for admins all",
        tag="Bookings",
        roles=ROLES,
        query=bookings.BookingQuery,
        replies=(Reply(200, "A page, the newest first.", bookings.BookingPage, headers=("Link",)),),
    ),
    Route(
        method="GET",
        path="/v1/bookings/upcoming",
        handler=bookings.list_upcoming_bookings,
        summary="Your bookings of events that have not started",
        tag="Bookings",
        roles=BUYERS,
        query=PageQuery,
        replies=(Reply(200, "A page, the next event first.", bookings.BookingPage, headers=("Link",)),),
    ),
    Route(
        method="GET",
        path="/v1/bookings/by-reference/{reference}",
        handler=bookings.show_booking_by_reference,
        summary="Find a booking by the reference people read out",
        tag="Bookings",
        roles=ROLES,
        replies=(Reply(200, "The booking.", Booking, headers=("ETag",)), Reply(304, "You have this version.")),
        refusals=(BookingNotFound, BookingRefused),
        conditional="If-None-Match",
    ),
    Route(
        method="GET",
        path="/v1/bookings/{booking_id}",
        handler=bookings.show_booking,
        summary="Show a booking",
        tag="Bookings",
        roles=ROLES,
        replies=(Reply(200, "The booking.", Booking, headers=("ETag",)), Reply(304, "You have this version.")),
        refusals=(BookingNotFound,),
        conditional="If-None-Match",
    ),
)
