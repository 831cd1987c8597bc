"""The table of URLs for administrators."""

from api import administration, bookings
from api.route import Reply, Route
from api.routes_shared import ADMINS, REPLAYABLE
from engine.errors import EventNotFound, InvalidRequest
from persistence.oversight import Overview, Round

ADMIN_ROUTES: tuple[Route, ...] = (
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
            Reply(200, "The round is finished.", Round, headers=REPLAYABLE),
            Reply(202, "It goes on; ask again, and join it.", Round),
        ),
        refusals=(InvalidRequest, EventNotFound),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/admin/bookings",
        handler=bookings.list_all_bookings,
        summary="All bookings",
        tag="Administration",
        roles=ADMINS,
        query=bookings.BookingQuery,
        replies=(Reply(200, "A page, the newest first.", bookings.BookingPage, headers=("Link",)),),
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
