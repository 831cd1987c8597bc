"""The audit log: who was refused, and who changed what, as JSON lines of the logger ``holdfast.audit``.

Lines name callers and things by their ids, and nothing that anybody said about people. Holds are left out: they come
by the thousand a second, and the trail keeps them (``docs/operations.md``).
"""

import logging

import structlog

from api import errors as http
from api.answers import Answer
from api.call import Call
from api.route import Route
from engine import errors as engine
from engine.ids import parse_claim_id

logger = structlog.get_logger("holdfast.audit")

_UNTOLD_TAG = "Holds"


def log_refused(call: Call, error: Exception) -> None:
    """Tell of *error*, if somebody was kept from what is not theirs by it."""
    if type(error) is engine.PlacesUnavailable:
        return  # what most of a rush hear
    if (reason := _reason(error)) is not None:
        logger.warning("access_refused", reason=reason, **_who_and_what(call))


def log_change(call: Call, route: Route, answer: Answer) -> None:
    """Tell of a change that was made."""
    if not route.changes or route.tag == _UNTOLD_TAG or answer.status >= 400 or not logger.is_enabled_for(logging.INFO):
        return
    told = _who_and_what(call)
    told["status"], told["replayed"] = answer.status, False
    for name, value in answer.headers:
        if name == b"location":
            told["made"] = value.decode().removeprefix(call.root_path)
        elif name == b"idempotent-replayed":
            told["replayed"] = True
    logger.info("changed", **told)


def _reason(error: Exception) -> str | None:
    """Why access was refused; a place that is taken or a field that is wrong is no matter of access."""
    match error:
        case http.Unauthenticated():
            return "unauthenticated"
        case http.Forbidden():
            return "forbidden"
        case engine.BookingNotFound(is_foreign=True) | engine.EventNotFound(is_foreign=True):
            return "not_theirs"
        case engine.HoldNotFound() if parse_claim_id(error.hold_id) is not None:
            # Redis does not say whether there is none or it is somebody else's. Ids are not to be guessed, so whoever
            # has one that looks right has it from somewhere.
            return "not_theirs_or_gone"
    return None


def _who_and_what(call: Call) -> dict[str, object]:
    return {
        "logger": "holdfast.audit",  # by which these lines are told from all others
        "actor": call.caller.sub or None,
        "roles": sorted(call.caller.roles),
        "route": f"{call.scope['method']} {call.route_path}",
        "request_id": call.request_id.decode("ascii"),
        **call.params,
    }
