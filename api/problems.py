"""What goes wrong, as RFC 9457 problems: one table, one way from an exception to an answer."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
import structlog

from api import errors as http
from api import problem_shapes as shapes
from api.answers import PROBLEM_JSON, Answer, Header, encode_json
from api.idempotency import REPLAYED
from engine import errors as engine

logger = structlog.get_logger("holdfast.api")

_DEPENDENCIES = (engine.StoreUnavailable, engine.LedgerUnavailable, http.KeysUnavailable)

Members = Callable[[Any], Mapping[str, Any]]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of problem: what is documented of it, and how its members come out of the exception.

    ``shape`` is the body's type, ``members`` fills what it has besides the members of all problems.
    """

    status: int
    code: str
    title: str
    meaning: str
    shape: type[shapes.Problem] = shapes.Problem
    members: Members = lambda _: {}
    detail: Callable[[Any], str] | None = None
    headers: Callable[[Any], tuple[Header, ...]] = lambda _: ()


def problem_body(error: Exception, *, base_url: str, request_id: bytes) -> tuple[Kind, bytes]:
    """The kind of *error*, and the JSON that tells of it; *request_id* is one that needs no escaping."""
    kind = kind_of_class(type(error))
    detail = kind.meaning if kind.detail is None else kind.detail(error)
    # Most of what is said is said to everybody: of a rush, one refusal is like the other.
    head = _usual_head(kind.code, base_url) if detail is kind.meaning else _head(kind, base_url, detail)
    members = kind.members(error)
    return kind, b'%b"%b"%b' % (head, request_id, b",%b" % encode_json(members)[1:] if members else b"}")


@lru_cache(maxsize=256)  # a few hosts, and the codes that there are
def _usual_head(code: str, base_url: str) -> bytes:
    kind = KIND_BY_CODE[code]
    return _head(kind, base_url, kind.meaning)


def _head(kind: Kind, base_url: str, detail: str) -> bytes:
    """What all problems have, up to the request's id."""
    head = {
        "type": f"{base_url}/problems/{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": kind.code,
    }
    return encode_json(head)[:-1] + b',"request_id":'


def answer_problem(error: Exception, *, base_url: str, request_id: bytes, route: str) -> Answer:
    """*error* as an answer; what is our own fault is logged, and nothing of it told."""
    kind, body = problem_body(error, base_url=base_url, request_id=request_id)
    if kind.status >= 500:
        if kind is INTERNAL_ERROR:
            logger.error("request_failed", request_id=request_id.decode(), route=route, exc_info=error)
        elif isinstance(error, _DEPENDENCIES):
            logger.warning(
                "dependency_unavailable",
                request_id=request_id.decode(),
                route=route,
                code=kind.code,
                reason=str(error).partition("\n")[0] or None,  # statements and their values are on lines of their own
            )
    headers = kind.headers(error)
    if isinstance(error, engine.Refusal) and error.replayed:
        headers = (*headers, REPLAYED)
    return Answer(kind.status, body, PROBLEM_JSON, headers)


def kind_of_class(error_type: type[Exception]) -> Kind:
    """The kind that the table has for a class of exceptions, or for the nearest class above it."""
    if (kind := KINDS.get(error_type)) is not None:
        return kind
    return next((KINDS[ancestor] for ancestor in error_type.__mro__ if ancestor in KINDS), INTERNAL_ERROR)


def _retry_after(error: Any) -> tuple[Header, ...]:
    return ((b"retry-after", b"%d" % error.retry_after_s),)


def _invalid_request(error: engine.InvalidRequest) -> Mapping[str, Any]:
    return {"path": error.path, "errors": [shapes.FieldError(error.path, error.reason)]}


def _unavailable(error: engine.PlacesUnavailable) -> Mapping[str, Any]:
    return {
        "unavailable": error.unavailable,
        "held": error.held,
        "sold": error.sold,
        "next_release_at": error.next_release_at,
    }


def _why_unavailable(error: engine.PlacesUnavailable) -> str:
    return error.reason or KINDS[engine.PlacesUnavailable].meaning


def _why_not_open(error: engine.EventNotOpen) -> str:
    """A draft is told of in words that fit a read as well: of all that is not open, it alone cannot be looked at."""
    if error.status == "draft":
        return "The event is a draft: it has no places to look at or to hold until it is opened."
    if error.status == "cancelled":
        return "The event takes no holds: it is cancelled."
    if error.sales_ended_at is None:
        return "The event takes no holds: it is closed, until it is opened again."
    ended_at = f"The event takes no holds: its sale ended at {error.sales_ended_at:%Y-%m-%dT%H:%M:%SZ}"
    before_s = 0 if error.starts_at is None else int((error.starts_at - error.sales_ended_at).total_seconds())
    # Nobody has closed it, though the status is told as closed: say what did.
    return f"{ended_at}, {before_s} seconds before its start." if before_s else f"{ended_at}, with its start."


def _what_version(error: engine.VersionConflict) -> str:
    now = f"it is at version {error.current_version} now"
    if error.not_a_version:
        return (
            f"`If-Match` names no version: that is a number in double quotes, as it stands in `ETag`; {now}, which is "
            f'`If-Match: "{error.current_version}"`.'
        )
    return f"{KINDS[engine.VersionConflict].meaning[:-1]}; {now}."


def _transition(error: engine.InvalidTransition) -> Mapping[str, Any]:
    return {"from": error.from_status, "to": error.to_status, "allowed": error.allowed}


def _challenge(error: http.Unauthenticated) -> tuple[Header, ...]:
    hint = b', error="invalid_token"' if error.invalid_token else b""
    return ((b"www-authenticate", b'Bearer realm="holdfast"' + hint),)


INTERNAL_ERROR = Kind(
    status=500,
    code="internal-error",
    title="Internal error",
    meaning="Something is broken on our side; the log knows it under the request id.",
)

KINDS: dict[type, Kind] = {
    engine.InvalidRequest: Kind(
        status=422,
        code="invalid-request",
        title="The request is not valid",
        meaning="A field, parameter or header is wrong: `path` is its JSON path, or its name outside the body.",
        shape=shapes.InvalidRequestProblem,
        members=_invalid_request,
        detail=lambda error: error.reason,
    ),
    engine.EventNotFound: Kind(
        status=404, code="event-not-found", title="Event not found", meaning="There is no such event."
    ),
    engine.EventExists: Kind(
        status=409, code="event-exists", title="Event exists", meaning="An event of this id is there already."
    ),
    engine.EventNotDraft: Kind(
        status=409,
        code="event-not-draft",
        title="Event is not a draft",
        meaning="The event has been opened: its definition can no longer change.",
        shape=shapes.EventStatusProblem,
        members=lambda error: {"event_status": error.status},
    ),
    engine.EventNotOpen: Kind(
        status=409,
        code="event-not-open",
        title="Event is not open",
        meaning="The event takes no holds: not yet, not any more, or not just now; and while it is a draft it has no "
        "places to look at. `sales_ended_at` is null unless it is past the end of its sale, which comes by itself with "
        "the event's start, or `sales_close_before` earlier: then `event_status` is `closed`, though nobody closed it.",
        shape=shapes.EventNotOpenProblem,
        members=lambda error: {"event_status": error.status, "sales_ended_at": error.sales_ended_at},
        detail=_why_not_open,
    ),
    engine.InvalidTransition: Kind(
        status=409,
        code="invalid-transition",
        title="Invalid transition",
        meaning="The status `from` cannot become `to`; `allowed` are the ones it can become.",
        shape=shapes.InvalidTransitionProblem,
        members=_transition,
    ),
    engine.VersionConflict: Kind(
        status=409,
        code="version-conflict",
        title="Version conflict",
        meaning="Somebody changed it since you read it: read it again, and decide anew.",
        shape=shapes.VersionConflictProblem,
        members=lambda error: {"current_version": error.current_version},
        detail=_what_version,
    ),
    engine.PlacesUnavailable: Kind(
        status=409,
        code="places-unavailable",
        title="Places unavailable",
        meaning="Nothing was taken. `unavailable` names what was not to be had; `held` of it may come back, "
        "`sold` of it will not. `next_release_at` is when the event's next hold lapses, of whichever places: the "
        "earliest that any of it may come back by itself; null where nothing of it is held.",
        shape=shapes.PlacesUnavailableProblem,
        members=_unavailable,
        detail=_why_unavailable,
    ),
    engine.LimitExceeded: Kind(
        status=409,
        code="limit-exceeded",
        title="Limit exceeded",
        meaning="The event's policy allows no more: `limit` is the policy's member, `maximum` its value.",
        shape=shapes.LimitExceededProblem,
        members=lambda error: {"limit": error.limit, "maximum": error.maximum},
    ),
    engine.RateLimited: Kind(
        status=429,
        code="rate-limited",
        title="Rate limited",
        meaning="You have made as many requests as you may for now; the next may come after `Retry-After` seconds. "
        "`RateLimit` says which limit is used up: that of the `caller`, or of the `address` you call from.",
        headers=_retry_after,
    ),
    engine.AdmissionRequired: Kind(
        status=409,
        code="admission-required",
        title="Admission required",
        meaning="The event lets customers in one after another. Take a ticket with `POST /v1/events/{event_id}/queue` "
        "and send it in `Holdfast-Admission`: what came there is none of yours for this event, or has lapsed.",
    ),
    engine.AdmissionPending: Kind(
        status=409,
        code="admission-pending",
        title="Admission pending",
        meaning="Your ticket holds, and your turn comes at `admitted_at`: repeat the request after `Retry-After` "
        "seconds.",
        shape=shapes.AdmissionPendingProblem,
        members=lambda error: {"admitted_at": error.admitted_at},
        headers=_retry_after,
    ),
    # Somebody else's hold or booking must look exactly like one that never was: nothing of it may be told here.
    engine.HoldNotFound: Kind(
        status=404, code="hold-not-found", title="Hold not found", meaning="There is no such hold."
    ),
    engine.HoldExpired: Kind(
        status=410,
        code="hold-expired",
        title="Hold expired",
        meaning="The hold's deadline has passed; its places are free.",
    ),
    engine.HoldReleased: Kind(
        status=410,
        code="hold-released",
        title="Hold released",
        meaning="The hold was given back, or its booking cancelled before it was paid for; its places are free.",
    ),
    engine.HoldConfirmed: Kind(
        status=410,
        code="hold-confirmed",
        title="Hold confirmed",
        meaning="The hold has become the booking `booking_id`.",
        shape=shapes.BookingProblem,
        members=lambda error: {"booking_id": error.booking_id},
    ),
    engine.BookingNotFound: Kind(
        status=404, code="booking-not-found", title="Booking not found", meaning="There is no such booking."
    ),
    engine.BookingRefused: Kind(
        status=410,
        code="booking-refused",
        title="Booking refused",
        meaning="The booking was accepted at first, but its places turned out to be somebody else's. "
        "It has been undone.",
        shape=shapes.BookingProblem,
        members=lambda error: {"booking_id": error.booking_id},
    ),
    engine.NoWaitlist: Kind(
        status=409,
        code="no-waitlist",
        title="No waitlist",
        meaning="The event's policy has no waitlist: nobody can stand in line for it.",
    ),
    engine.PlacesAvailable: Kind(
        status=409,
        code="places-available",
        title="Places available",
        meaning="There is nothing to wait for: the places are free, and can be held at once.",
    ),
    engine.AlreadyInLine: Kind(
        status=409,
        code="already-in-line",
        title="Already in line",
        meaning="The customer waits for this event already, or has an offer: `entry_id`. Leave that first.",
        shape=shapes.EntryProblem,
        members=lambda error: {"entry_id": error.entry_id},
    ),
    engine.EntryNotFound: Kind(
        status=404, code="entry-not-found", title="Entry not found", meaning="There is no such entry of a waitlist."
    ),
    engine.BlockNotFound: Kind(
        status=404,
        code="block-not-found",
        title="Block not found",
        meaning="The event has no such block: its places were given back, or were never taken off sale.",
    ),
    engine.PaymentDeclined: Kind(
        status=402,
        code="payment-declined",
        title="Payment declined",
        meaning="The provider has declined the payment, for its `reason`. The hold lives on until its deadline, and "
        "may be paid for otherwise: `booking_id` is its `hold_id`, also where hold and booking were one request. A "
        "booking that was to become dearer keeps what it has.",
        shape=shapes.PaymentDeclinedProblem,
        members=lambda error: {"booking_id": error.booking_id, "reason": error.reason},
    ),
    engine.IdempotencyKeyReused: Kind(
        status=422,
        code="idempotency-key-reused",
        title="Idempotency key reused",
        meaning="This idempotency key came with another body before: every new request needs a key of its own.",
    ),
    engine.IdempotencyInFlight: Kind(
        status=409,
        code="idempotency-in-flight",
        title="Request in flight",
        meaning="The first request with this idempotency key has not been answered yet: repeat it a little later.",
        headers=lambda _: ((b"retry-after", b"1"),),
    ),
    engine.StoreUnavailable: Kind(
        status=503,
        code="store-unavailable",
        title="Store unavailable",
        meaning="Redis does not answer: whether the request took effect is not known. Repeat it with the same "
        "idempotency key, and it takes effect once; without a key, first look at the hold or booking it was about.",
        headers=_retry_after,
    ),
    engine.LedgerUnavailable: Kind(
        status=503,
        code="ledger-unavailable",
        title="Ledger unavailable",
        meaning="Postgres does not answer. With the same idempotency key the request is safe to repeat.",
        headers=_retry_after,
    ),
    engine.NotWrittenYet: Kind(
        status=503,
        code="not-written-yet",
        title="Not written yet",
        meaning="The booking, or block, is accepted and its places are taken, but it is still being written to "
        "Postgres, which decides what becomes of it: repeat the request after `Retry-After` seconds. Nothing was "
        "changed.",
        headers=_retry_after,
    ),
    engine.JournalFull: Kind(
        status=503,
        code="journal-full",
        title="Journal full",
        meaning="As many bookings wait for Postgres as may wait; nothing was changed, and a hold lives on until its "
        "deadline.",
        headers=_retry_after,
    ),
    engine.PaymentOpen: Kind(
        status=503,
        code="payment-open",
        title="Payment open",
        meaning="Whether the difference in price of a change can be had is not known yet: the payment's provider has "
        "not answered, or the customer has to go to `redirect_url`. The booking keeps its places. For ten minutes the "
        "same request goes on with the same payment; what is set aside and not used by then is let go.",
        shape=shapes.PaymentOpenProblem,
        members=lambda error: {"booking_id": error.booking_id, "redirect_url": error.redirect_url},
        headers=_retry_after,
    ),
    engine.InventoryUnavailable: Kind(
        status=503,
        code="inventory-unavailable",
        title="Inventory unavailable",
        meaning="The event's bookings need the consent of an inventory service, which cannot be asked just now. "
        "Nothing was booked; a hold lives on until its deadline.",
        headers=_retry_after,
    ),
    engine.Overloaded: Kind(
        status=503,
        code="overloaded",
        title="Overloaded",
        meaning="More is under way than can be served; nothing was done.",
        headers=_retry_after,
    ),
    http.BadRequest: Kind(
        status=400,
        code="bad-request",
        title="Bad request",
        meaning="It is no HTTP request as RFC 9112 has it.",
        detail=lambda error: error.reason,
    ),
    http.LengthRequired: Kind(
        status=411,
        code="length-required",
        title="Length required",
        meaning="A request that asks for another protocol must tell its body's length in `Content-Length`; the "
        "connection is closed.",
    ),
    http.HeadTooLarge: Kind(
        status=431,
        code="head-too-large",
        title="Head too large",
        meaning="The request is longer than is read of one, besides its body; the connection is closed.",
    ),
    http.Unauthenticated: Kind(
        status=401,
        code="unauthenticated",
        title="Unauthenticated",
        meaning="A bearer token that holds is required.",
        detail=lambda error: error.reason,
        headers=_challenge,
    ),
    http.Forbidden: Kind(
        status=403, code="forbidden", title="Forbidden", meaning="Your roles or your token's scope do not allow this."
    ),
    http.RouteNotFound: Kind(
        status=404, code="not-found", title="Not found", meaning="There is nothing under this URL."
    ),
    http.MethodNotAllowed: Kind(
        status=405,
        code="method-not-allowed",
        title="Method not allowed",
        meaning="This URL answers other methods, named in `Allow`.",
        headers=lambda error: ((b"allow", ", ".join(error.allow).encode("ascii")),),
    ),
    http.PayloadTooLarge: Kind(
        status=413,
        code="payload-too-large",
        title="Payload too large",
        meaning="The body is longer than `maximum` bytes; the rest of it was not read.",
        shape=shapes.PayloadTooLargeProblem,
        members=lambda error: {"maximum": error.maximum},
        headers=lambda _: ((b"connection", b"close"),),
    ),
    http.UnsupportedMediaType: Kind(
        status=415,
        code="unsupported-media-type",
        title="Unsupported media type",
        meaning="Bodies are JSON: `application/json`, or another type that ends in `+json`.",
    ),
    http.ContentEncoded: Kind(
        status=415,
        code="content-encoded",
        title="Content encoded",
        meaning="Bodies are taken as they are: send this one again without `Content-Encoding`.",
        headers=lambda _: ((b"accept-encoding", b"identity"),),
    ),
    http.TooManyStreams: Kind(
        status=429,
        code="too-many-streams",
        title="Too many streams",
        meaning="You listen to as many streams as one may; close one before you open another.",
        headers=_retry_after,
    ),
    http.NoticeUnsigned: Kind(
        status=401,
        code="webhook-not-signed",
        title="Webhook not signed",
        meaning="The webhook's signature is wrong, too old or from the future; nothing of it was believed.",
    ),
    http.KeysUnavailable: Kind(
        status=503,
        code="keys-unavailable",
        title="Keys unavailable",
        meaning="The identity provider's keys cannot be fetched just now, so tokens cannot be checked.",
        headers=_retry_after,
    ),
}

KIND_BY_CODE: dict[str, Kind] = {kind.code: kind for kind in (*KINDS.values(), INTERNAL_ERROR)}
