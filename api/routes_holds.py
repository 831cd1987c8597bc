"""The table of URLs of holds."""

from api import examples, holds
from api.route import Reply, Route
from api.routes_shared import BUYERS, CLAIMS, ENDED, REPLAYABLE
from engine.claim_requests import ClaimRequest
from engine.holds import Hold

HOLD_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/events/{event_id}/holds",
        handler=holds.place_hold,
        bodies_repeat=True,
        summary="Hold places of an event",
        tag="Holds",
        roles=BUYERS,
        body=ClaimRequest,
        body_example=examples.CLAIM | {"ttl": 120},
        replies=(Reply(201, "The places are held.", Hold, headers=("Location", *REPLAYABLE)),),
        refusals=CLAIMS,
        takes_tickets=True,
    ),
    Route(
        method="POST",
        path="/v1/holds",
        handler=holds.place_group,
        summary="Hold places of several events of one group: all or nothing",
        tag="Holds",
        roles=BUYERS,
        body=holds.GroupRequest,
        body_example={"holds": [{"event_id": "concert-42"} | examples.CLAIM]},
        replies=(Reply(201, "All of it is held.", holds.GroupAnswer, headers=REPLAYABLE),),
        refusals=CLAIMS,
        keeps_answers=True,
        takes_tickets=True,
    ),
    Route(
        method="POST",
        path="/v1/holds:batch",
        handler=holds.place_batch,
        summary="Up to 100 holds at once, each with an answer of its own",
        tag="Holds",
        roles=BUYERS,
        body=holds.BatchRequest | holds.Batch,
        body_example={"holds": [{"event_id": "concert-42"} | examples.CLAIM]},
        replies=(
            Reply(
                207,
                "One result for each, also for one that is malformed: `path` of its problem names the entry. A bare "
                "list when the request was one.",
                holds.BatchAnswer | list[holds.BatchResult],
                headers=REPLAYABLE,
            ),
        ),
        keeps_answers=True,
        takes_tickets=True,
    ),
    Route(
        method="GET",
        path="/v1/holds/{hold_id}",
        handler=holds.show_hold,
        summary="Show a hold",
        tag="Holds",
        roles=BUYERS,
        replies=(Reply(200, "The hold.", Hold),),
        refusals=ENDED,
    ),
    Route(
        method="POST",
        path="/v1/holds/{hold_id}/extend",
        handler=holds.extend_hold,
        summary="Move a hold's deadline",
        tag="Holds",
        roles=BUYERS,
        body=holds.ExtendRequest,
        body_example={"ttl": 120},
        replies=(Reply(200, "The hold with its new deadline.", Hold, headers=REPLAYABLE),),
        refusals=ENDED,
        keeps_answers=True,
    ),
    Route(
        method="DELETE",
        path="/v1/holds/{hold_id}",
        handler=holds.release_hold,
        summary="Give a hold back",
        tag="Holds",
        roles=BUYERS,
        replies=(Reply(204, "The places are free.", headers=REPLAYABLE),),
        refusals=ENDED,
        keeps_answers=True,
    ),
)
