"""The table of URLs of waiting: the queue for admission to an event, and the line for places that are taken."""

from api import admission_queue, examples, waitlist
from api.identity import ROLES
from api.route import Reply, Route
from api.routes_shared import BUYERS, CLAIMS, ENDED, REPLAYABLE
from engine.admission_queue import AdmissionTicket
from engine.bookings import Booking
from engine.errors import (
    AlreadyInLine,
    EntryNotFound,
    EventNotFound,
    EventNotOpen,
    InvalidRequest,
    InvalidTransition,
    JournalFull,
    LimitExceeded,
    NoWaitlist,
    PaymentDeclined,
    PlacesAvailable,
)
from engine.waitlist import WaitlistEntry

_BOOKED_HEADERS = ("Location", "ETag", *REPLAYABLE)
_WHAT_ENDS = "A booking of the offer whose payment was declined is `failed`; an open payment is waited for."

WAITLIST_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/events/{event_id}/queue",
        handler=admission_queue.take_ticket,
        summary="Take a ticket of an event's admission queue, or see how far it has come",
        tag="Admission",
        roles=BUYERS,
        replies=(Reply(200, "Your ticket, the same until it lapses.", AdmissionTicket, headers=REPLAYABLE),),
        refusals=(EventNotFound, EventNotOpen),
        keeps_answers=True,
    ),
    Route(
        method="POST",
        path="/v1/events/{event_id}/waitlist",
        handler=waitlist.join_waitlist,
        summary="Stand in line for places that cannot be had now",
        tag="Waitlist",
        roles=ROLES,
        body=waitlist.JoinRequest,
        body_example=examples.CLAIM,
        replies=(Reply(201, "You are in line.", WaitlistEntry, headers=("Location", *REPLAYABLE)),),
        refusals=(
            InvalidRequest,
            EventNotFound,
            EventNotOpen,
            LimitExceeded,
            NoWaitlist,
            PlacesAvailable,
            AlreadyInLine,
        ),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/waitlist",
        handler=waitlist.list_waitlist,
        summary="Your entries; for organizers those of their event, for admins all",
        tag="Waitlist",
        roles=ROLES,
        query=waitlist.EntryQuery,
        replies=(Reply(200, "A page, the newest first.", waitlist.EntryPage, headers=("Link",)),),
        refusals=(EventNotFound,),
    ),
    Route(
        method="GET",
        path="/v1/waitlist/{entry_id}",
        handler=waitlist.show_entry,
        summary="Show an entry: its position, or its offer",
        tag="Waitlist",
        roles=ROLES,
        replies=(Reply(200, "The entry.", WaitlistEntry),),
        refusals=(EntryNotFound,),
    ),
    Route(
        method="DELETE",
        path="/v1/waitlist/{entry_id}",
        handler=waitlist.leave_waitlist,
        summary="Leave the line; an offer goes to the next in it",
        tag="Waitlist",
        roles=ROLES,
        replies=(Reply(204, f"It is `cancelled`. {_WHAT_ENDS}", headers=REPLAYABLE),),
        refusals=(EntryNotFound, InvalidTransition),
        keeps_answers=True,
    ),
    Route(
        method="POST",
        path="/v1/waitlist/{entry_id}/accept",
        handler=waitlist.accept_offer,
        summary="Book what is offered",
        tag="Waitlist",
        roles=BUYERS,
        body=waitlist.AcceptRequest,
        body_required=False,
        body_example={"guest": examples.BOOKING["guest"]},
        replies=(
            Reply(201, "The booking, as `POST /v1/bookings` answers.", Booking, headers=_BOOKED_HEADERS),
            Reply(202, "The same, while something is still open.", Booking, headers=(*_BOOKED_HEADERS, "Retry-After")),
        ),
        refusals=(
            EntryNotFound,
            InvalidTransition,
            *CLAIMS,
            *ENDED,
            PaymentDeclined,
            JournalFull,
        ),
    ),
    Route(
        method="POST",
        path="/v1/waitlist/{entry_id}/decline",
        handler=waitlist.decline_offer,
        summary="Let the offer go to the next in line",
        tag="Waitlist",
        roles=BUYERS,
        body_required=False,
        replies=(Reply(200, f"It is `declined`. {_WHAT_ENDS}", WaitlistEntry, headers=REPLAYABLE),),
        refusals=(EntryNotFound, InvalidTransition),
        keeps_answers=True,
    ),
)
