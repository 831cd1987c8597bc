"""Handlers for administrators: compare Redis with the ledger, repair, and see how much of everything there is."""

import datetime as dt
from typing import Annotated

import msgspec

from api.answers import Answer, json_answer
from api.call import Call
from api.decoding import decode_query
from api.errors import Forbidden
from persistence.audit import JournalState
from persistence.differences import Difference
from persistence.oversight import DETAILS_MAX

RECONCILE_WAIT_S = 5.0  # for a round before it is answered 202: below the time-outs of proxies and clients


class EventQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which event; all that are in Redis, when it is not said."""

    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None


class AuditView(msgspec.Struct, frozen=True):
    """What an audit found: ``drift`` counts the differences, all of them; of very many, the first are told."""

    events: int
    drift: int
    by_kind: dict[str, int]
    differences: tuple[Difference, ...]
    journal: JournalState
    checked_at: dt.datetime


async def show_audit(call: Call) -> Answer:
    """``GET /v1/admin/audit`` → 200; 404 event-not-found. Read from both sides now, not remembered."""
    audit = await call.services.oversight.audit(_event_id(call))
    view = AuditView(
        events=audit.events,
        drift=audit.drift,
        by_kind=dict(audit.by_kind),
        differences=audit.differences[:DETAILS_MAX],
        journal=audit.journal,
        checked_at=audit.checked_at,
    )
    return json_answer(view)


async def reconcile(call: Call) -> Answer:
    """``POST /v1/admin/reconcile`` → 200 when the round is finished, 202 while it goes on; 404 event-not-found."""
    done = await call.services.oversight.reconcile(_event_id(call), wait_s=RECONCILE_WAIT_S)
    if done.status == "finished":
        return json_answer(done)
    return Answer(202, json_answer(done).body, memorable=False)


async def show_overview(call: Call) -> Answer:
    """``GET /v1/admin/overview`` → 200."""
    if call.caller.scope is not None:  # it tells of all events
        raise Forbidden
    return json_answer(await call.services.oversight.overview())


def _event_id(call: Call) -> str | None:
    """The event that is asked about; a confined token must name one of its own."""
    event_id = decode_query(call.query_string, EventQuery).event_id
    if event_id is not None:
        call.caller.require_event(event_id)
    elif call.caller.scope is not None:
        raise Forbidden
    return event_id
