"""Handlers of blocks: places that an event's organizer takes off sale, and gives back."""

import datetime as dt
from typing import Annotated

import msgspec

from api.answers import Answer, encode_json, json_answer
from api.call import Call
from api.decoding import check_moment, decode_body, decode_query
from api.events import managed_event
from api.idempotency import REPLAYED, part_of
from api.paging import PageQuery, page_answer
from api.patterns import NOT_BLANK_PATTERN
from engine.blocks import Block
from engine.claim_requests import ITEMS_MAX, ClaimRequest
from engine.claims import ItemRequest
from engine.definition import Moment, PlaceName
from engine.errors import InvalidRequest
from engine.lifecycle import Actor, Role
from persistence.blocks import BLOCK_SEATS_MAX, BlockOrder

QUANTITY_MAX = 1_000_000  # places of a counted section: as many as one may have

BlockId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class BlockItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a block: seats of a seated section, or a quantity of a counted one."""

    section: PlaceName
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)] | None = None
    seats: Annotated[list[str], msgspec.Meta(min_length=1, max_length=BLOCK_SEATS_MAX)] | None = None


BlockItems = Annotated[list[BlockItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class BlockRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be off sale, until when if not for good, and why, which no customer reads."""

    items: BlockItems
    from_: PlaceName | None = msgspec.field(default=None, name="from")
    to: PlaceName | None = None
    release_at: Moment | None = None
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=2000, pattern=NOT_BLANK_PATTERN)] | None = None


class ReleaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which blocks to give back: one by its id, or those that consist of these very places."""

    id: BlockId | None = None
    items: BlockItems | None = None
    from_: PlaceName | None = msgspec.field(default=None, name="from")
    to: PlaceName | None = None


class ReleaseQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which block to give back, where the body does not say it."""

    id: BlockId | None = None


class BlockPage(msgspec.Struct, frozen=True):
    """Part of a list of blocks."""

    items: list[Block]
    next_cursor: str | None


_block = msgspec.json.Decoder(BlockRequest)
_release = msgspec.json.Decoder(ReleaseRequest)


async def block_places(call: Call) -> Answer:
    """``POST /v1/events/{event_id}/blocks`` → 201; 202 while Postgres has not answered, and the places are blocked."""
    request = decode_body(_block, call.body)
    if request.release_at is not None:
        check_moment(request.release_at, "$.release_at")
    event = await managed_event(call)
    order = BlockOrder(
        claim=_claim(request.items, request.from_, request.to),
        release_at=None if request.release_at is None else request.release_at.astimezone(dt.UTC),
        reason=request.reason,
        actor=_actor(call, event.organizer_id),
        # The route keeps the whole answer; the part is what a crash before that is picked up from.
        once=part_of(call.once, 0) if call.once is not None else None,
    )
    blocked = await call.services.blocks.block(event.id, order)
    location = call.location(f"/v1/events/{event.id}/blocks/{blocked.block.id}")
    headers = (location, REPLAYED) if blocked.replayed else (location,)
    return Answer(201 if blocked.durable else 202, encode_json(blocked.block), headers=headers)


async def list_blocks(call: Call) -> Answer:
    """``GET /v1/events/{event_id}/blocks`` → 200, the newest first."""
    query = decode_query(call.query_string, PageQuery)
    event = await managed_event(call)
    page = await call.services.blocks.list_blocks(event.id, limit=query.limit, cursor=query.cursor)
    return page_answer(call, page.items, page.next_cursor)


async def show_block(call: Call) -> Answer:
    """``GET /v1/events/{event_id}/blocks/{block_id}`` → 200."""
    event = await managed_event(call)
    return json_answer(await call.services.blocks.find_block(event.id, call.params["block_id"]))


async def release_block(call: Call) -> Answer:
    """``DELETE /v1/events/{event_id}/blocks/{block_id}`` → 204; the places are on sale."""
    event = await managed_event(call)
    actor = _actor(call, event.organizer_id)
    await call.services.blocks.release(event.id, call.params["block_id"], actor=actor, once=call.once)
    return Answer(204)


async def release_blocks(call: Call) -> Answer:
    """``DELETE /v1/events/{event_id}/blocks`` → 204: the block of an id, or those of certain places."""
    query = decode_query(call.query_string, ReleaseQuery)
    request = decode_body(_release, call.body) if call.body else ReleaseRequest()
    if (query.id is not None) + (request.id is not None) + (request.items is not None) != 1:
        raise InvalidRequest("$", "say which blocks: an id or items")
    event = await managed_event(call)
    blocks, actor = call.services.blocks, _actor(call, event.organizer_id)
    if request.items is not None:
        claim = _claim(request.items, request.from_, request.to)
        await blocks.release_places(event.id, claim, actor=actor, once=call.once)
    else:
        await blocks.release(event.id, query.id or request.id or "", actor=actor, once=call.once)
    return Answer(204)


def _claim(items: list[BlockItem], from_stop: str | None, to_stop: str | None) -> ClaimRequest:
    """The same for the engine."""
    wanted = [ItemRequest(item.section, quantity=item.quantity, seats=item.seats) for item in items]
    return ClaimRequest(items=wanted, from_=from_stop, to=to_stop)


def _actor(call: Call, organizer_id: str) -> Actor:
    role: Role = "organizer" if call.caller.sub == organizer_id else "admin"
    return Actor(call.caller.sub, role, call.request_id.decode("ascii"))
