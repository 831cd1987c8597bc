"""The table of URLs of blocks: places off sale."""

from api import blocks, examples
from api.paging import PageQuery
from api.route import Reply, Route
from api.routes_shared import ORGANIZERS, REPLAYABLE
from engine.blocks import Block
from engine.errors import (
    BlockNotFound,
    EventNotFound,
    EventNotOpen,
    InvalidRequest,
    LimitExceeded,
    NotWrittenYet,
    PlacesUnavailable,
)

_MADE = ("Location", *REPLAYABLE)

BLOCK_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/events/{event_id}/blocks",
        handler=blocks.block_places,
        summary="Take places off sale, for good or until `release_at`",
        tag="Blocks",
        roles=ORGANIZERS,
        body=blocks.BlockRequest,
        body_example=examples.BLOCK,
        replies=(
            Reply(201, "The places are off sale: `blocked` in the seat map, `sold` in counts.", Block, headers=_MADE),
            Reply(202, "They are off sale; Postgres has not answered yet, and will be told.", Block, headers=_MADE),
        ),
        refusals=(EventNotFound, EventNotOpen, PlacesUnavailable, LimitExceeded),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/events/{event_id}/blocks",
        handler=blocks.list_blocks,
        summary="What is off sale, the newest block first",
        tag="Blocks",
        roles=ORGANIZERS,
        query=PageQuery,
        replies=(Reply(200, "A page.", blocks.BlockPage, headers=("Link",)),),
        refusals=(EventNotFound,),
    ),
    Route(
        method="DELETE",
        path="/v1/events/{event_id}/blocks",
        handler=blocks.release_blocks,
        summary="Give back a block by its id, or the blocks that consist of certain places",
        tag="Blocks",
        roles=ORGANIZERS,
        query=blocks.ReleaseQuery,
        body=blocks.ReleaseRequest,
        body_required=False,
        body_example={"items": examples.BLOCK["items"]},
        replies=(Reply(204, "The places are on sale.", headers=REPLAYABLE),),
        refusals=(EventNotFound, BlockNotFound, InvalidRequest),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/events/{event_id}/blocks/{block_id}",
        handler=blocks.show_block,
        summary="Show a block",
        tag="Blocks",
        roles=ORGANIZERS,
        replies=(Reply(200, "The block.", Block),),
        refusals=(EventNotFound, BlockNotFound),
    ),
    Route(
        method="DELETE",
        path="/v1/events/{event_id}/blocks/{block_id}",
        handler=blocks.release_block,
        summary="Give the places of a block back",
        tag="Blocks",
        roles=ORGANIZERS,
        replies=(Reply(204, "The places are on sale.", headers=REPLAYABLE),),
        refusals=(EventNotFound, BlockNotFound, NotWrittenYet),
        keeps_answers=True,
    ),
)
