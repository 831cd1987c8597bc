"""Handlers of holds: one, several of a group, a batch."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from api.admission_queue import require_admission
from api.answers import Answer, encode_json, json_answer
from api.audit_log import log_refused
from api.call import Call
from api.decoding import decode_body
from api.errors import Forbidden
from api.idempotency import REPLAYED, part_of
from api.payments import is_sold_against_payment
from api.problems import answer_problem, problem_body
from engine.claim_requests import GROUP_MAX, ITEMS_MAX, ClaimRequest, Held, TtlSeconds
from engine.claims import ItemRequest
from engine.definition import EventId, PlaceName
from engine.errors import HoldfastError, InvalidRequest, PlacesUnavailable
from engine.holds import Hold
from engine.ids import parse_claim_id

BATCH_MAX = 100
# As api.problems makes it; its schema is that of api.problem_shapes.Problem, which every route's errors refer to.
ProblemDocument = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/Problem"})]
Items = Annotated[list[ItemRequest], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class ClaimOnEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be held on one event of several."""

    event_id: EventId
    items: Items
    from_: PlaceName | None = msgspec.field(default=None, name="from")
    to: PlaceName | None = None
    ttl: TtlSeconds | None = None

    def claim(self) -> ClaimRequest:
        """The same for the engine."""
        return ClaimRequest(items=self.items, from_=self.from_, to=self.to, ttl=self.ttl)


class GroupRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds on events of one group: all of them, or none."""

    holds: Annotated[list[ClaimOnEvent], msgspec.Meta(min_length=1, max_length=GROUP_MAX)]


class GroupAnswer(msgspec.Struct, frozen=True):
    """The holds, in the order in which they were asked for."""

    holds: list[Hold]


_BATCH_SIZE = msgspec.Meta(min_length=1, max_length=BATCH_MAX)
Batch = Annotated[list[ClaimOnEvent], _BATCH_SIZE]
_RawBatch = Annotated[list[msgspec.Raw], _BATCH_SIZE]


class BatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds that have nothing to do with each other."""

    holds: Batch


class _RawBatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same, of which no entry has been looked at."""

    holds: _RawBatch


class BatchResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one hold of a batch: the hold, or the problem."""

    status: int
    hold: Hold | None = None
    problem: ProblemDocument | None = None


class BatchAnswer(msgspec.Struct, frozen=True):
    """One result for each hold asked for, in the same order."""

    results: list[BatchResult]


class ExtendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds from now to the new deadline."""

    ttl: TtlSeconds


_claim = msgspec.json.Decoder(ClaimRequest)
_group = msgspec.json.Decoder(GroupRequest)
_batch = msgspec.json.Decoder(BatchRequest | Batch)
_raw_batch = msgspec.json.Decoder(_RawBatchRequest | _RawBatch)
_entry = msgspec.json.Decoder(ClaimOnEvent)
_extension = msgspec.json.Decoder(ExtendRequest)


async def place_hold(call: Call) -> Answer:
    """``POST /v1/events/{event_id}/holds`` → 201."""
    event_id, claim = call.params["event_id"], decode_body(_claim, call.body)
    await require_admission(call, event_id, call.once)
    held = await call.services.reservations.try_hold(event_id, claim, customer_id=call.caller.sub, once=call.once)
    if isinstance(held, PlacesUnavailable):
        return answer_problem(held, base_url=call.base_url, request_id=call.request_id, route=call.route_path)
    location = call.location(f"/v1/holds/{held.hold.id}")
    return Answer(201, encode_json(held.hold), headers=(location, REPLAYED) if held.replayed else (location,))


async def place_group(call: Call) -> Answer:
    """``POST /v1/holds`` → 201; all or nothing."""
    claims = [(entry.event_id, entry.claim()) for entry in decode_body(_group, call.body).holds]
    for event_id, _ in claims:
        call.caller.require_event(event_id)
    # The route keeps the whole answer; the part is what a crash before that is picked up from.
    once = part_of(call.once, 0) if call.once is not None else None
    for event_id, _ in claims:
        await require_admission(call, event_id, once)
    held = await call.services.reservations.hold_group(claims, customer_id=call.caller.sub, once=once)
    replayed = (REPLAYED,) if all(each.replayed for each in held) else ()
    return json_answer(GroupAnswer([each.hold for each in held]), status=201, headers=replayed)


async def place_batch(call: Call) -> Answer:
    """``POST /v1/holds:batch`` → 207; a bare list is answered by a bare list."""
    entries, at = _entries_of(call.body)
    results = await _attempt_all(call, entries, at)
    document = results if at == "$" else BatchAnswer(results)
    # Nothing is known of an entry that ended in a 503: under the same key the batch must be able to run again.
    return Answer(207, encode_json(document), memorable=all(result.status < 500 for result in results))


async def show_hold(call: Call) -> Answer:
    """``GET /v1/holds/{hold_id}`` → 200."""
    hold = await call.services.reservations.find_hold(call.params["hold_id"], customer_id=call.caller.owner)
    return json_answer(hold)


async def extend_hold(call: Call) -> Answer:
    """``POST /v1/holds/{hold_id}/extend`` → 200."""
    extension = decode_body(_extension, call.body)
    hold = await call.services.reservations.extend(
        call.params["hold_id"], ttl_s=extension.ttl, customer_id=call.caller.owner
    )
    return json_answer(hold)


async def release_hold(call: Call) -> Answer:
    """``DELETE /v1/holds/{hold_id}`` → 204."""
    hold_id = call.params["hold_id"]
    await call.services.reservations.release(hold_id, customer_id=call.caller.owner, once=call.once)
    key = parse_claim_id(hold_id)
    if key is not None and await is_sold_against_payment(call, key.event_id):
        await call.services.checkout.give_up(hold_id)
    return Answer(204)


def _entries_of(body: bytes) -> tuple[list[ClaimOnEvent | InvalidRequest], str]:
    """The entries of a batch and where they stand in it; of one that is malformed, why.

    Raises:
        InvalidRequest: It is no batch, of however many entries.
    """
    try:
        batch = decode_body(_batch, body)
    except InvalidRequest:
        # Something is wrong with the whole, which is said here, or with some of its entries.
        raw = decode_body(_raw_batch, body, in_parts=True)
        entries, at = (raw.holds, "$.holds") if isinstance(raw, _RawBatchRequest) else (raw, "$")
        return [_decode_entry(bytes(entry)) for entry in entries], at
    return (list(batch.holds), "$.holds") if isinstance(batch, BatchRequest) else (list(batch), "$")


def _decode_entry(entry: bytes) -> ClaimOnEvent | InvalidRequest:
    try:
        return decode_body(_entry, entry)
    except InvalidRequest as error:
        return error


async def _attempt_all(call: Call, entries: Sequence[ClaimOnEvent | InvalidRequest], at: str) -> list[BatchResult]:
    """Hold entries event by event; one that is malformed, or asks for an event out of reach, is only refused."""
    outcomes: dict[int, Held | HoldfastError | Forbidden] = {}
    of_events: dict[str, dict[int, ClaimOnEvent]] = {}
    for number, entry in enumerate(entries):
        if isinstance(entry, InvalidRequest):
            outcomes[number] = entry
            continue
        try:
            call.caller.require_event(entry.event_id)
        except Forbidden as error:
            outcomes[number] = error
        else:
            of_events.setdefault(entry.event_id, {})[number] = entry
    for found in await asyncio.gather(*(_hold_on_event(call, *of_event) for of_event in of_events.items())):
        outcomes.update(found)
    return [_result(call, outcomes[number], f"{at}[{number}]") for number in range(len(entries))]


async def _hold_on_event(
    call: Call, event_id: str, entries: Mapping[int, ClaimOnEvent]
) -> dict[int, Held | HoldfastError]:
    """Each has a key of its own, so that a batch cut off by a crash is completed, not repeated."""
    onces = {number: part_of(call.once, number) if call.once is not None else None for number in entries}
    outcomes: dict[int, Held | HoldfastError] = {}
    for number in entries:
        try:
            await require_admission(call, event_id, onces[number])
        except HoldfastError as error:
            outcomes[number] = error
    admitted = [number for number in entries if number not in outcomes]
    if admitted:
        held = await call.services.reservations.hold_many(
            event_id,
            [entries[number].claim() for number in admitted],
            customer_id=call.caller.sub,
            onces=[onces[number] for number in admitted],
        )
        outcomes.update(zip(admitted, held, strict=True))
    return outcomes


def _result(call: Call, outcome: Held | HoldfastError | Forbidden, at: str) -> BatchResult:
    if isinstance(outcome, Held):
        return BatchResult(201, hold=outcome.hold)
    if isinstance(outcome, InvalidRequest) and outcome.path.startswith("$"):  # else it is a header that is wrong
        outcome = InvalidRequest(f"{at}{outcome.path.removeprefix('$')}", outcome.reason)
    log_refused(call, outcome)
    kind, body = problem_body(outcome, base_url=call.base_url, request_id=call.request_id)
    return BatchResult(kind.status, problem=msgspec.Raw(body))
