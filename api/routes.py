"""The table of all URLs: who may call them, what they take, what they answer. Dispatch, authorization, the OpenAPI
document and the tests are made from it.
"""

import functools
from typing import Any

from api import administration, bookings, documentation, events, examples, holds, operations, seats, waitlist
from api.answers import Answer, encode_json
from api.call import Call
from api.errors import ApprovalUnavailable, PaymentUnavailable, RouteNotFound
from api.identity import ADMIN, CUSTOMER, ORGANIZER, ROLES, SERVICE
from api.openapi import openapi_document
from api.paging import PageQuery
from api.route import PLAN_BODY_MAX, Reply, Route
from api.services import Info
from engine.availability import Availability
from engine.bookings import Booking
from engine.definition import EventDefinition, EventPatch
from engine.errors import (
    AlreadyInLine,
    BookingNotFound,
    BookingRefused,
    EntryNotFound,
    EventExists,
    EventNotDraft,
    EventNotFound,
    EventNotOpen,
    HoldConfirmed,
    HoldExpired,
    HoldNotFound,
    HoldReleased,
    InvalidRequest,
    InvalidTransition,
    JournalFull,
    LimitExceeded,
    NoWaitlist,
    PlacesAvailable,
    PlacesUnavailable,
    VersionConflict,
)
from engine.holds import Hold
from engine.reservations import ClaimRequest
from engine.waitlist import WaitlistEntry
from persistence.oversight import Overview, Round

BUYERS = frozenset({CUSTOMER, SERVICE, ADMIN})
ORGANIZERS = frozenset({ORGANIZER, ADMIN})
ADMINS = frozenset({ADMIN})

_ENDED = (HoldNotFound, HoldExpired, HoldReleased, HoldConfirmed, BookingRefused)
_CLAIMS = (InvalidRequest, EventNotFound, EventNotOpen, PlacesUnavailable, LimitExceeded)
_REPLAYABLE = ("Idempotent-Replayed",)
_BOOKED_HEADERS = ("Location", "ETag", *_REPLAYABLE)


async def show_openapi(call: Call) -> Answer:
    """``GET /openapi.json`` → 200. It lives here because it describes the very table it stands in."""
    return Answer(200, _openapi_json(call.services.info.version))


@functools.cache
def _openapi_json(version: str) -> bytes:
    return encode_json(openapi_document(ROUTES, version=version))


_HOLD_ROUTES = (
    Route(
        method="POST",
        path="/v1/events/{event_id}/holds",
        handler=holds.place_hold,
        summary="Hold places of an event",
        tag="Holds",
        roles=BUYERS,
        body=ClaimRequest,
        body_example=examples.CLAIM | {"ttl": 120},
        replies=(Reply(201, "The places are held.", Hold, headers=("Location", *_REPLAYABLE)),),
        refusals=_CLAIMS,
    ),
    Route(
        method="POST",
        path="/v1/holds",
        handler=holds.place_group,
        summary="Hold places of several events of one group: all or nothing",
        tag="Holds",
        roles=BUYERS,
        body=holds.GroupRequest,
        body_example={"holds": [{"event_id": "concert-42"} | examples.CLAIM]},
        replies=(Reply(201, "All of it is held.", holds.GroupAnswer, headers=_REPLAYABLE),),
        refusals=_CLAIMS,
        keeps_answers=True,
    ),
    Route(
        method="POST",
        path="/v1/holds:batch",
        handler=holds.place_batch,
        summary="Up to 100 holds at once, each with an answer of its own",
        tag="Holds",
        roles=BUYERS,
        body=holds.BatchRequest | holds.Batch,
        body_example={"holds": [{"event_id": "concert-42"} | examples.CLAIM]},
        replies=(
            Reply(
                207,
                "One result for each; a bare list when the request was one.",
                holds.BatchAnswer | list[holds.BatchResult],
                headers=_REPLAYABLE,
            ),
        ),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/holds/{hold_id}",
        handler=holds.show_hold,
        summary="Show a hold",
        tag="Holds",
        roles=BUYERS,
        replies=(Reply(200, "The hold.", Hold),),
        refusals=_ENDED,
    ),
    Route(
        method="POST",
        path="/v1/holds/{hold_id}/extend",
        handler=holds.extend_hold,
        summary="Move a hold's deadline",
        tag="Holds",
        roles=BUYERS,
        body=holds.ExtendRequest,
        body_example={"ttl": 120},
        replies=(Reply(200, "The hold with its new deadline.", Hold, headers=_REPLAYABLE),),
        refusals=_ENDED,
        keeps_answers=True,
    ),
    Route(
        method="DELETE",
        path="/v1/holds/{hold_id}",
        handler=holds.release_hold,
        summary="Give a hold back",
        tag="Holds",
        roles=BUYERS,
        replies=(Reply(204, "The places are free.", headers=_REPLAYABLE),),
        refusals=_ENDED,
        keeps_answers=True,
    ),
)

_BOOKING_ROUTES = (
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
                "The booking is confirmed. It is `durable`, unless its event has the policy `durability: redis`: then "
                "the ledger has it, and it has its `reference`, a moment later.",
                Booking,
                headers=("Location", "ETag", *_REPLAYABLE),
            ),
            Reply(
                202,
                "The places are taken; whether the ledger has the booking is not known yet. Ask at `Location`.",
                Booking,
                headers=("Location", "ETag", "Retry-After", *_REPLAYABLE),
            ),
        ),
        refusals=(*_CLAIMS, *_ENDED, PaymentUnavailable, ApprovalUnavailable, JournalFull),
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

_WAITLIST_ROUTES = (
    Route(
        method="POST",
        path="/v1/events/{event_id}/waitlist",
        handler=waitlist.join_waitlist,
        summary="Stand in line for places that cannot be had now",
        tag="Waitlist",
        roles=ROLES,
        body=waitlist.JoinRequest,
        body_example=examples.CLAIM,
        replies=(Reply(201, "You are in line.", WaitlistEntry, headers=("Location", *_REPLAYABLE)),),
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
        replies=(Reply(204, "It is `cancelled`.", headers=_REPLAYABLE),),
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
            *_CLAIMS,
            *_ENDED,
            PaymentUnavailable,
            ApprovalUnavailable,
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
        replies=(Reply(200, "It is `declined`.", WaitlistEntry, headers=_REPLAYABLE),),
        refusals=(EntryNotFound, InvalidTransition),
        keeps_answers=True,
    ),
)

_CHANGED_EVENT = (Reply(200, "The event.", events.EventView, headers=("ETag", *_REPLAYABLE)),)
_MANAGED = (EventNotFound, VersionConflict, InvalidRequest)

_EVENT_ROUTES = (
    Route(
        method="GET",
        path="/v1/events/{event_id}/availability",
        handler=seats.show_availability,
        summary="How many places are free, held and sold",
        tag="Events",
        roles=ROLES,
        query=seats.RangeQuery,
        replies=(Reply(200, "Counts per section; `free` on all legs of the range.", Availability),),
        refusals=(EventNotFound, EventNotOpen),
    ),
    Route(
        method="GET",
        path="/v1/events/{event_id}/seats",
        handler=seats.show_seats,
        summary="Every numbered seat and whether it is free",
        tag="Events",
        roles=ROLES,
        query=seats.SeatQuery,
        replies=(
            Reply(200, "The seats.", seats.SeatList),
            Reply(200, "The seats.", seats.SeatBitmaps, media_type=seats.SEATMAP_MEDIA_TYPE),
        ),
        refusals=(EventNotFound, EventNotOpen),
    ),
    Route(
        method="POST",
        path="/v1/events",
        handler=events.create_event,
        summary="Create an event as a draft",
        tag="Events",
        roles=ORGANIZERS,
        body=EventDefinition,
        body_max=PLAN_BODY_MAX,
        body_example=examples.EVENT,
        replies=(Reply(201, "The draft.", events.EventView, headers=("Location", "ETag", *_REPLAYABLE)),),
        refusals=(EventExists,),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/events",
        handler=events.list_events,
        summary="Events by the time they start; drafts only your own",
        tag="Events",
        roles=ROLES,
        query=events.EventQuery,
        replies=(Reply(200, "A page.", events.EventPage, headers=("Link",)),),
    ),
    Route(
        method="GET",
        path="/v1/events/{event_id}",
        handler=events.show_event,
        summary="Show an event",
        tag="Events",
        roles=ROLES,
        replies=(Reply(200, "The event.", events.EventView, headers=("ETag",)), Reply(304, "You have this version.")),
        refusals=(EventNotFound,),
        conditional="If-None-Match",
    ),
    Route(
        method="PATCH",
        path="/v1/events/{event_id}",
        handler=events.patch_event,
        summary="Change a draft",
        tag="Events",
        roles=ORGANIZERS,
        body=EventPatch,
        body_max=PLAN_BODY_MAX,
        body_example={"name": "An evening of trios", "expected_version": 1},
        replies=_CHANGED_EVENT,
        refusals=(*_MANAGED, EventNotDraft),
        keeps_answers=True,
        conditional="If-Match",
    ),
    Route(
        method="POST",
        path="/v1/events/{event_id}/seating-plan",
        handler=events.plan_seats,
        summary="Make sections of a seating plan in pretix's format",
        tag="Events",
        roles=ORGANIZERS,
        body=events.PlanAndPrices,
        body_max=PLAN_BODY_MAX,
        body_example=examples.SEATING_PLAN,
        replies=_CHANGED_EVENT,
        refusals=(*_MANAGED, EventNotDraft),
        keeps_answers=True,
        conditional="If-Match",
    ),
    Route(
        method="POST",
        path="/v1/events/{event_id}/open",
        handler=events.open_event,
        summary="Put an event on sale",
        tag="Events",
        roles=ORGANIZERS,
        body=events.TransitionRequest,
        body_required=False,
        replies=_CHANGED_EVENT,
        refusals=(*_MANAGED, InvalidTransition),
        keeps_answers=True,
        conditional="If-Match",
    ),
    Route(
        method="POST",
        path="/v1/events/{event_id}/close",
        handler=events.close_event,
        summary="Take an event off sale; holds that are there live on",
        tag="Events",
        roles=ORGANIZERS,
        body=events.TransitionRequest,
        body_required=False,
        replies=_CHANGED_EVENT,
        refusals=(*_MANAGED, InvalidTransition),
        keeps_answers=True,
        conditional="If-Match",
    ),
    Route(
        method="GET",
        path="/v1/events/{event_id}/bookings",
        handler=bookings.list_event_bookings,
        summary="The bookings of an event",
        tag="Events",
        roles=ORGANIZERS,
        query=bookings.EventBookingQuery,
        replies=(Reply(200, "A page, the newest first.", bookings.BookingPage, headers=("Link",)),),
        refusals=(EventNotFound,),
    ),
)

_OPERATION_ROUTES = (
    Route(
        method="GET",
        path="/healthz",
        handler=operations.show_health,
        summary="Whether the process answers",
        tag="Operations",
        replies=(Reply(200, "It does.", operations.Health),),
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=operations.show_readiness,
        summary="Whether requests can be served",
        tag="Operations",
        replies=(
            Reply(200, "They can; if `degraded`, the verdicts say what is not as it should be.", operations.Readiness),
            Reply(503, "They cannot; the verdicts say why.", operations.Readiness, headers=("Retry-After",)),
        ),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=operations.show_metrics,
        summary="Figures for Prometheus, of all processes of this server",
        tag="Operations",
        replies=(
            Reply(200, "All figures.", media_type="text/plain"),
            Reply(200, "All figures.", media_type="application/openmetrics-text"),
        ),
    ),
    Route(
        method="GET",
        path="/v1/info",
        handler=operations.show_info,
        summary="What this installation is",
        tag="Operations",
        replies=(Reply(200, "Name and version.", Info),),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=show_openapi,
        summary="This document",
        tag="Operations",
        replies=(Reply(200, "OpenAPI 3.1.", dict[str, Any]),),
    ),
    Route(
        method="GET",
        path="/docs",
        handler=documentation.show_docs,
        summary="This document, for people",
        tag="Operations",
        replies=(Reply(200, "A page.", media_type="text/html"),),
    ),
    Route(
        method="GET",
        path="/docs/{file}",
        handler=documentation.show_docs_file,
        summary="A file of that page",
        tag="Operations",
        replies=tuple(Reply(200, "The file.", media_type=media_type) for media_type in documentation.FILE_MEDIA_TYPES),
        refusals=(RouteNotFound,),
    ),
    Route(
        method="GET",
        path="/problems/{code}",
        handler=documentation.show_problem,
        summary="What a problem's `type` means",
        tag="Operations",
        replies=(
            Reply(200, "The kind of problem.", documentation.ProblemPage),
            Reply(200, "The kind of problem.", media_type="text/html"),
        ),
        refusals=(RouteNotFound,),
    ),
)

_ADMIN_ROUTES = (
    Route(
        method="GET",
        path="/v1/admin/audit",
        handler=administration.show_audit,
        summary="Compare Redis with the ledger, one event or all",
        tag="Administration",
        roles=ADMINS,
        query=administration.EventQuery,
        replies=(Reply(200, "What differs; read just now.", administration.AuditView),),
        refusals=(InvalidRequest, EventNotFound),
    ),
    Route(
        method="POST",
        path="/v1/admin/reconcile",
        handler=administration.reconcile,
        summary="Repair what differs, one event or all",
        tag="Administration",
        roles=ADMINS,
        query=administration.EventQuery,
        replies=(
            Reply(200, "The round is finished.", Round, headers=_REPLAYABLE),
            Reply(202, "It goes on; ask again, and join it.", Round),
        ),
        refusals=(InvalidRequest, EventNotFound),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/admin/overview",
        handler=administration.show_overview,
        summary="How much of everything there is",
        tag="Administration",
        roles=ADMINS,
        replies=(Reply(200, "Counts, and the reconcilers.", Overview),),
    ),
)

ROUTES: tuple[Route, ...] = (
    *_HOLD_ROUTES,
    *_BOOKING_ROUTES,
    *_WAITLIST_ROUTES,
    *_EVENT_ROUTES,
    *_OPERATION_ROUTES,
    *_ADMIN_ROUTES,
)
