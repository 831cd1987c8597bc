"""The table of URLs of events."""

from api import bookings, event_endings, events, examples, seats, streams
from api.errors import TooManyStreams
from api.identity import ROLES
from api.route import PLAN_BODY_MAX, Reply, Route
from api.routes_shared import ORGANIZERS, REPLAYABLE
from engine.availability import Availability
from engine.definition import EventDefinition, EventPatch
from engine.errors import (
    EventExists,
    EventNotDraft,
    EventNotFound,
    EventNotOpen,
    InvalidRequest,
    InvalidTransition,
    VersionConflict,
)

_CHANGED_EVENT = (Reply(200, "The event.", events.EventView, headers=("ETag", *REPLAYABLE)),)
_MANAGED = (EventNotFound, VersionConflict, InvalidRequest)

EVENT_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/v1/events/{event_id}/availability",
        handler=seats.show_availability,
        summary="How many places are free, held and sold",
        tag="Events",
        roles=ROLES,
        query=seats.RangeQuery,
        replies=(
            Reply(
                200,
                "Counts per section; `free` on all legs of the range. `next_release_at` is when the event's next hold "
                "lapses, the earliest that any of what is held may come back; null where nothing is.",
                Availability,
                headers=("ETag",),
            ),
            Reply(304, "You have these very counts."),
        ),
        refusals=(EventNotFound, EventNotOpen),
        conditional="If-None-Match",
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
            Reply(200, "The seats.", seats.SeatList, headers=("ETag",)),
            Reply(200, "The seats.", seats.SeatBitmaps, media_type=seats.SEATMAP_MEDIA_TYPE, headers=("ETag",)),
            Reply(304, "You have these very seats."),
        ),
        refusals=(EventNotFound, EventNotOpen),
        conditional="If-None-Match",
    ),
    Route(
        method="GET",
        path="/v1/events/{event_id}/stream",
        handler=streams.stream_event,
        summary="What changes, as it changes: Server-Sent Events",
        tag="Events",
        roles=ROLES,
        query=seats.RangeQuery,
        replies=(
            Reply(
                200,
                "First a `snapshot` (none if `Last-Event-ID` is of the state as it is): `event_id`, `seq`, `status`, "
                "`sections` and `next_release_at` as of availability, and `seats` with one bit per numbered seat in "
                "base64, `held`, `sold` and `blocked`, in the order of the list at `/seats`; what is blocked is among "
                "the sold, and that bitmap is empty where nothing is off sale. Then `change`s: `seq`, the "
                "`sections` and `seats` (`section`, `seat`, `status`) that are otherwise now, `next_release_at`; or a "
                "`snapshot` again. At last `end` with its `reason`: `token_expired`, `closed`, `cancelled`, `over`, "
                "`gone` or `stopping`. Whoever does not read is cut off; come back with the last `id`.",
                media_type="text/event-stream",
            ),
        ),
        refusals=(EventNotFound, EventNotOpen, TooManyStreams),
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
        replies=(Reply(201, "The draft.", events.EventView, headers=("Location", "ETag", *REPLAYABLE)),),
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
        method="POST",
        path="/v1/events/{event_id}/cancel",
        handler=event_endings.cancel_event,
        summary="Cancel an event for good, and refund all of its bookings in full",
        tag="Events",
        roles=ORGANIZERS,
        body=events.TransitionRequest,
        body_required=False,
        replies=(
            Reply(
                200,
                "The event: it takes no holds, and no hold becomes a booking any more. Its bookings are being "
                "cancelled; `cancellation` says how many are.",
                events.EventView,
                headers=("ETag", *REPLAYABLE),
            ),
        ),
        refusals=(*_MANAGED, InvalidTransition),
        keeps_answers=True,
        conditional="If-Match",
    ),
    Route(
        method="GET",
        path="/v1/events/{event_id}/statistics",
        handler=event_endings.show_statistics,
        summary="How an event sells",
        tag="Events",
        roles=ORGANIZERS,
        replies=(
            Reply(
                200,
                "`approved` are confirmed, checked in, completed or no-show, `seats_booked` their places. `revenue` is "
                "what these and cancelled bookings cost, without what was granted back. `occupancy_percent` is the "
                "share of all places, each on each leg, that is sold to approved bookings; `conversion_percent` the "
                "share of all requests that was ever confirmed.",
                event_endings.StatisticsView,
            ),
        ),
        refusals=(EventNotFound,),
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
