"""Handlers of events: made, read, changed, put on sale and taken off it, and given a seating plan."""

import datetime as dt
from typing import Annotated, Any

import msgspec

from api.answers import Answer
from api.call import Call
from api.decoding import check_free_form, check_moment, decode_body, decode_query
from api.errors import Forbidden
from api.idempotency import REPLAYED, part_of
from api.paging import PageQuery, page_answer
from api.versions import expected_version, versioned_answer
from engine.definition import EventDefinition, EventId, EventPatch, PlaceName, Price, SectionDefinition
from engine.errors import EventExists, EventNotFound, InvalidRequest
from engine.events import Event, EventStatus
from engine.importing.seating_plan import SeatingPlan, sections_from_plan
from engine.once import ONCE_TTL_MS, Once
from persistence.statistics import Cancellation, read_cancellation

KEYED_ID_LENGTH = 16  # hexadecimal digits of a digest: 64 bits, so that no two keys meet
KEY_LIFETIME = dt.timedelta(milliseconds=ONCE_TTL_MS)  # the same key later is another request

Prices = dict[PlaceName, Price]


class EventView(EventDefinition, frozen=True, kw_only=True):
    """An event as clients see it: its definition, and what has become of it.

    ``cancellation`` says of a cancelled one, to its organizer, how many of its bookings are cancelled so far.
    """

    id: EventId
    organizer_id: str
    status: EventStatus
    version: int
    created_at: dt.datetime
    updated_at: dt.datetime
    cancellation: Cancellation | None = None


class EventPage(msgspec.Struct, frozen=True):
    """Part of a list of events."""

    items: list[EventView]
    next_cursor: str | None


class EventQuery(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Which events: drafts are listed to their organizer only."""

    status: EventStatus | None = None
    organizer_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None


class TransitionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Optional: the version that must be the current one."""

    expected_version: Annotated[int, msgspec.Meta(ge=1)] | None = None


class PricedPlan(SeatingPlan, frozen=True, kw_only=True):
    """A seating plan in pretix's format with the prices of its categories beside its own members."""

    prices: Prices


class PlanAndPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A seating plan in pretix's format, and the prices of its categories in minor units."""

    plan: SeatingPlan
    prices: Prices


class _PlanForm(msgspec.Struct, frozen=True):
    """Just enough of a body to tell in which of the two forms it is; neither plans nor prices are looked at."""

    plan: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_definition = msgspec.json.Decoder(EventDefinition)
_patch = msgspec.json.Decoder(EventPatch)
_FIXED = frozenset(EventDefinition.__struct_fields__) - frozenset(EventPatch.__struct_fields__)  # its id, its group
_CHANGEABLE = tuple(name for name in EventPatch.__struct_fields__ if name != "expected_version")
_transition_request = msgspec.json.Decoder(TransitionRequest)
_plan_form = msgspec.json.Decoder(_PlanForm)
_priced_plan = msgspec.json.Decoder(PricedPlan)
_plan_and_prices = msgspec.json.Decoder(PlanAndPrices)


async def create_event(call: Call) -> Answer:
    """``POST /v1/events`` → 201."""
    definition = decode_body(_definition, call.body)
    call.caller.require_event(definition.id or "")  # a confined token makes the events that it names
    _check_storable(definition)
    if call.once is None:
        event, replayed = await call.services.events.create(definition, organizer_id=call.caller.sub), False
    else:
        event, replayed = await _create_once(call, definition, call.once)
    location = call.location(f"/v1/events/{event.id}")
    return await answer_event(call, event, status=201, headers=(location, REPLAYED) if replayed else (location,))


async def list_events(call: Call) -> Answer:
    """``GET /v1/events`` → 200: those that may be seen, of a confined token's events."""
    query = decode_query(call.query_string, EventQuery)
    page = await call.services.events.list_events(
        status=query.status,
        organizer_id=query.organizer_id,
        drafts_of=call.caller.sub,
        all_drafts=call.caller.is_admin,
        within=call.caller.scope,
        limit=query.limit,
        cursor=query.cursor,
    )
    return page_answer(call, [view_event(event) for event in page.items], page.next_cursor)


async def show_event(call: Call) -> Answer:
    """``GET /v1/events/{event_id}`` → 200, 304."""
    event = await call.services.events.find_event(call.params["event_id"])
    if event.status == "draft" and not call.caller.organizes(event.organizer_id):
        raise EventNotFound(event.id, is_foreign=True)
    return await answer_event(call, event)


async def patch_event(call: Call) -> Answer:
    """``PATCH /v1/events/{event_id}`` → 200; its definition can be changed while it is a draft."""
    patch = decode_body(_patch, call.body, fixed=_FIXED)
    if all(getattr(patch, name) is msgspec.UNSET for name in _CHANGEABLE):
        raise InvalidRequest("$", f"say at least one of {', '.join(_CHANGEABLE)}")
    _check_storable(patch)
    return await _patch_event(call, patch)


async def plan_seats(call: Call) -> Answer:
    """``POST /v1/events/{event_id}/seating-plan`` → 200; a section for each zone of the plan, while it is a draft."""
    return await _patch_event(call, EventPatch(sections=_sections(call.body)))


async def open_event(call: Call) -> Answer:
    """``POST /v1/events/{event_id}/open`` → 200."""
    return await answer_event(call, await change_status(call, "open"))


async def close_event(call: Call) -> Answer:
    """``POST /v1/events/{event_id}/close`` → 200."""
    return await answer_event(call, await change_status(call, "closed"))


def view_event(event: Event) -> EventView:
    """The event as clients see it."""
    definition: dict[str, Any] = {name: getattr(event.definition, name) for name in EventDefinition.__struct_fields__}
    return EventView(
        **definition | {"id": event.id},
        organizer_id=event.organizer_id,
        status=event.status,
        version=event.version,
        created_at=event.created_at,
        updated_at=event.updated_at,
    )


async def change_status(call: Call, to_status: EventStatus) -> Event:
    """Bring the event to *to_status*, in Postgres and then in Redis.

    An event that is there already is published all the same, so that a request which failed between the two can be
    repeated.
    """
    request = decode_body(_transition_request, call.body) if call.body else TransitionRequest()
    event = await managed_event(call)
    version = expected_version(call, request.expected_version, current=event.version)
    if to_status == "open":
        call.services.terms.require_services(event.definition)
    event = await call.services.events.transition(event.id, to_status, expected_version=version)
    if to_status == "open":
        call.services.checkout.warn_if_unpayable(event)
    await call.services.reservations.publish(event)
    return event


async def answer_event(
    call: Call, event: Event, *, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Answer:
    """The event, and to its organizer how far its cancelling has come."""
    view = view_event(event)
    beside: tuple[int, ...] = ()
    if event.status == "cancelled" and call.caller.organizes(event.organizer_id):
        told = await read_cancellation(call.services.bookings.engine, event.id)
        view, beside = msgspec.structs.replace(view, cancellation=told), (told.bookings, told.done)
    return versioned_answer(call, view, event.version, *beside, status=status, headers=headers)


async def managed_event(call: Call) -> Event:
    """The event of the path, as it stands now, if it is the caller's to run.

    Raises:
        EventNotFound: There is none, or it is somebody else's draft.
        Forbidden: It is somebody else's.
    """
    event = await call.services.events.find_event(call.params["event_id"])
    if call.caller.organizes(event.organizer_id):
        return event
    if event.status == "draft":
        raise EventNotFound(event.id, is_foreign=True)
    raise Forbidden


async def _create_once(call: Call, definition: EventDefinition, once: Once) -> tuple[Event, bool]:
    """Create the event of a request with an idempotency key; also whether an earlier sending of it has done so.

    A crash between writing the event and keeping the answer leaves the key without one. So the id is made of the key
    where the organizer gave none: the repetition then finds the event instead of making a second one.
    """
    organizer_id = call.caller.sub
    named = definition if definition.id else msgspec.structs.replace(definition, id=_id_from(once))
    try:
        return await call.services.events.create(named, organizer_id=organizer_id), False
    except EventExists as error:
        event = await call.services.events.find_event(error.event_id)
        if definition.id is None and dt.datetime.now(dt.UTC) - event.created_at > KEY_LIFETIME:
            return await call.services.events.create(definition, organizer_id=organizer_id), False
        if event.organizer_id == organizer_id and event.definition == named:
            return event, True
        raise


def _id_from(once: Once) -> str:
    return part_of(once, 0).scope[:KEYED_ID_LENGTH].decode()


def _check_storable(change: EventDefinition | EventPatch) -> None:
    """Refuse what is well formed but could not be stored, or not be told again as it was said.

    Raises:
        InvalidRequest: A moment far out, or metadata of a kind that :func:`check_free_form` names.
    """
    for name, moment in (("starts_at", change.starts_at), ("ends_at", change.ends_at)):
        if isinstance(moment, dt.datetime):
            check_moment(moment, f"$.{name}")
    if change.metadata is not msgspec.UNSET:
        check_free_form(change.metadata, "$.metadata")


async def _patch_event(call: Call, patch: EventPatch) -> Answer:
    event = await managed_event(call)
    version = expected_version(call, patch.expected_version, current=event.version)
    event = await call.services.events.patch(event.id, patch, expected_version=version)
    await call.services.reservations.publish(event)
    return await answer_event(call, event)


def _sections(body: bytes) -> list[SectionDefinition]:
    """The sections of a plan whose prices stand beside the plan's own members, or beside ``plan``."""
    if decode_body(_plan_form, body).plan is msgspec.UNSET:
        priced = decode_body(_priced_plan, body)
        return sections_from_plan(priced, priced.prices)
    apart = decode_body(_plan_and_prices, body)
    try:
        return sections_from_plan(apart.plan, apart.prices)
    except InvalidRequest as error:
        in_plan = not error.path.startswith("$.prices")
        raise InvalidRequest("$.plan" + error.path[1:] if in_plan else error.path, error.reason) from None
