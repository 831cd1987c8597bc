"""The bodies of problems, as types: what ``api.problems`` fills in and the OpenAPI document describes."""

import datetime as dt

import msgspec

from engine.errors import UnavailablePlace


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457); ``type`` is a page that explains ``code``, some kinds have members of their own."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class FieldError(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request: where, and what."""

    path: str
    reason: str


class InvalidRequestProblem(Problem, frozen=True):
    """A field, parameter or header is wrong; ``path`` is the first of ``errors``."""

    path: str
    errors: list[FieldError]


class EventStatusProblem(Problem, frozen=True):
    """The event's status does not allow it."""

    event_status: str


class EventNotOpenProblem(EventStatusProblem, frozen=True):
    """The event takes no holds; ``sales_ended_at`` is null unless it is past the end of its sale."""

    sales_ended_at: dt.datetime | None


class InvalidTransitionProblem(Problem, frozen=True):
    """The state machine has no such step; ``allowed`` are those it has."""

    from_: str = msgspec.field(name="from")
    to: str
    allowed: list[str]


class VersionConflictProblem(Problem, frozen=True):
    """Somebody changed it since it was read."""

    current_version: int


class PlacesUnavailableProblem(Problem, frozen=True):
    """Nothing was taken: what was not to be had, and the earliest that some of it may be, when the next hold lapses."""

    unavailable: list[UnavailablePlace]
    held: int
    sold: int
    next_release_at: dt.datetime | None


class LimitExceededProblem(Problem, frozen=True):
    """The name and the value of the limit."""

    limit: str
    maximum: int


class AdmissionPendingProblem(Problem, frozen=True):
    """When it is the caller's turn."""

    admitted_at: dt.datetime


class BookingProblem(Problem, frozen=True):
    """The booking that the hold has become, or that was refused."""

    booking_id: str


class EntryProblem(Problem, frozen=True):
    """The entry of the waitlist that is in the way."""

    entry_id: str


class PaymentDeclinedProblem(BookingProblem, frozen=True):
    """The booking whose payment was declined, and why, in the provider's words, if it said so."""

    reason: str | None


class PaymentOpenProblem(BookingProblem, frozen=True):
    """The booking that keeps its places, and where its customer has to go to pay for the change, if anywhere."""

    redirect_url: str | None


class PayloadTooLargeProblem(Problem, frozen=True):
    """The most bytes that a body may have here."""

    maximum: int
