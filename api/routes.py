"""The table of all URLs: who may call them, what they take, what they answer. Dispatch, authorization, the OpenAPI
document and the tests are made from it.
"""

import functools
from typing import Any

from api import customers, documentation, operations
from api.answers import Answer, encode_json
from api.call import Call
from api.errors import RouteNotFound
from api.identity import ADMIN, CUSTOMER
from api.openapi import openapi_document
from api.route import Reply, Route
from api.routes_admin import ADMIN_ROUTES
from api.routes_blocks import BLOCK_ROUTES
from api.routes_booking_steps import BOOKING_STEP_ROUTES
from api.routes_bookings import BOOKING_ROUTES
from api.routes_events import EVENT_ROUTES
from api.routes_holds import HOLD_ROUTES
from api.routes_payments import PAYMENT_ROUTES
from api.routes_shared import REPLAYABLE
from api.routes_waitlist import WAITLIST_ROUTES
from api.services import Info


async def show_openapi(call: Call) -> Answer:
    """``GET /openapi.json`` → 200. It lives here because it describes the very table it stands in."""
    return Answer(200, _openapi_json(call.services.info.version))


@functools.cache
def _openapi_json(version: str) -> bytes:
    return encode_json(openapi_document(ROUTES, version=version))


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
        path="/",
        handler=documentation.show_root,
        summary="The way to the documents",
        tag="Operations",
        replies=(Reply(307, "They are under `/docs`.", media_type="text/html", headers=("Location",)),),
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

_CUSTOMER_ROUTES = (
    Route(
        method="DELETE",
        path="/v1/customers/{customer_id}/personal-data",
        handler=customers.erase_personal_data,
        summary="Erase what a customer's bookings say about people; places and money stay",
        tag="Customers",
        roles=frozenset({CUSTOMER, ADMIN}),
        replies=(Reply(200, "Nothing personal is left in these bookings.", customers.Erased, headers=REPLAYABLE),),
        keeps_answers=True,
    ),
)

ROUTES: tuple[Route, ...] = (
    *HOLD_ROUTES,
    *BOOKING_ROUTES,
    *BOOKING_STEP_ROUTES,
    *PAYMENT_ROUTES,
    *WAITLIST_ROUTES,
    *_CUSTOMER_ROUTES,
    *EVENT_ROUTES,
    *BLOCK_ROUTES,
    *_OPERATION_ROUTES,
    *ADMIN_ROUTES,
)
