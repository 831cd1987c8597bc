"""The life of a booking as one table: what may follow what, by which step.

Python's checks, the constraint in Postgres and the picture in the guide are all made from :data:`TRANSITIONS`; tests
hold the three against it.
"""

from collections import defaultdict
from typing import Literal, get_args

import msgspec

from engine.bookings import BookingStatus
from engine.errors import InvalidTransition

Step = Literal[
    "begin_payment",
    "request",
    "book",
    "pay",
    "fail",
    "expire",
    "approve",
    "reject",
    "cancel",
    "check_in",
    "complete",
    "mark_no_show",
]
Role = Literal["customer", "organizer", "admin", "service", "system"]
"""Who took a step; ``system`` is Holdfast itself: a deadline that passed, a payment that was settled."""


class Actor(msgspec.Struct, frozen=True):
    """Who asked for a step, in which role, by which request; for the history."""

    id: str
    role: Role
    request_id: str | None = None


SYSTEM = Actor("holdfast", "system")


class Transition(msgspec.Struct, frozen=True):
    """One arrow of the picture; ``from_status`` is ``None`` where a hold becomes a booking."""

    from_status: BookingStatus | None
    step: Step
    to_status: BookingStatus


TRANSITIONS: tuple[Transition, ...] = (
    Transition(None, "begin_payment", "payment_initiated"),
    Transition(None, "request", "pending"),
    Transition(None, "book", "confirmed"),
    Transition(None, "expire", "expired"),
    Transition("payment_initiated", "pay", "paid"),
    Transition("payment_initiated", "fail", "failed"),
    Transition("payment_initiated", "expire", "expired"),
    Transition("payment_initiated", "cancel", "cancelled"),
    Transition("paid", "request", "pending"),
    Transition("paid", "book", "confirmed"),
    Transition("paid", "cancel", "cancelled"),
    Transition("pending", "approve", "confirmed"),
    Transition("pending", "reject", "rejected"),
    Transition("pending", "cancel", "cancelled"),
    Transition("pending", "expire", "expired"),
    Transition("confirmed", "check_in", "checked_in"),
    Transition("confirmed", "complete", "completed"),
    Transition("confirmed", "cancel", "cancelled"),
    Transition("confirmed", "mark_no_show", "no_show"),
    Transition("checked_in", "complete", "completed"),
    Transition("checked_in", "cancel", "cancelled"),
)

# What the ledger keeps. ``confirming`` is not one of them: it is what can be said before the ledger has been heard.
STORED_STATUSES: tuple[str, ...] = tuple(status for status in get_args(BookingStatus) if status != "confirming")
# Of blocks (see ``engine.blocks``), which lie among the bookings and have a life of their own: made, and given back.
BLOCK_STATUSES: tuple[str, ...] = ("blocked", "unblocked")
# A booking of one of these statuses owns its places: it has rows in ``claims`` and ``usage``. What is completed keeps
# them, because somebody did sit there. In ``payment_initiated`` it is the hold in Redis that owns them.
OWNING_STATUSES: tuple[str, ...] = ("paid", "pending", "confirmed", "checked_in", "completed", "no_show", "blocked")
UPCOMING_STATUSES: tuple[str, ...] = ("payment_initiated", "paid", "pending", "confirmed", "checked_in")

_ALLOWED: dict[str | None, list[str]] = defaultdict(list)
for _transition in TRANSITIONS:
    _ALLOWED[_transition.from_status].append(_transition.to_status)

FINAL_STATUSES: tuple[str, ...] = tuple(status for status in STORED_STATUSES if status not in _ALLOWED)


def allowed_from(status: str | None) -> tuple[str, ...]:
    """The statuses that may follow *status*, in the order of the table; none after a final one."""
    return tuple(_ALLOWED.get(status, ()))


def require_transition(from_status: str, to_status: str) -> None:
    """Make sure that the table has this arrow.

    Raises:
        InvalidTransition: It has not.
    """
    allowed = allowed_from(from_status)
    if to_status not in allowed:
        raise InvalidTransition(from_status, to_status, allowed)


def status_after(from_status: str, step: Step) -> BookingStatus:
    """What *step* makes of a booking that is *from_status*.

    Raises:
        InvalidTransition: The table has no such step from there.
    """
    wanted = [transition for transition in TRANSITIONS if transition.step == step]
    for transition in wanted:
        if transition.from_status == from_status:
            return transition.to_status
    raise InvalidTransition(from_status, wanted[0].to_status, allowed_from(from_status))


def statuses_condition(column: str = "status") -> str:
    """The SQL that says that *column* is a status the ledger keeps."""
    return f"{column} IN ({_quoted(STORED_STATUSES + BLOCK_STATUSES)})"


def transitions_condition() -> str:
    """The SQL that says of a row of ``history`` that the table has its arrow, or that its status stays as it was.

    The two arrows of blocks are there beside those of the table.
    """
    by_origin = [
        f"from_status = '{status}' AND to_status IN ({_quoted(allowed_from(status))})"
        for status in STORED_STATUSES
        if allowed_from(status)
    ]
    made, given_back = BLOCK_STATUSES
    by_origin.append(f"from_status = '{made}' AND to_status IN ('{given_back}')")
    beginning = f"from_status IS NULL AND to_status IN ({_quoted((*allowed_from(None), made))})"
    staying = f"from_status = to_status AND {statuses_condition('to_status')}"
    # NOT NULL is said aloud, because a check that comes out as NULL is passed.
    return f"{beginning} OR from_status IS NOT NULL AND ({' OR '.join((staying, *by_origin))})"


def state_diagram() -> str:
    """The picture, for Mermaid."""
    arrows = [
        f"    {transition.from_status or '[*]'} --> {transition.to_status}: {transition.step}"
        for transition in TRANSITIONS
    ]
    ends = [f"    {status} --> [*]" for status in FINAL_STATUSES]
    return "\n".join(("stateDiagram-v2", *arrows, *ends))


def _quoted(statuses: tuple[str, ...]) -> str:
    return ", ".join(f"'{status}'" for status in statuses)
