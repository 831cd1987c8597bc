"""Many holds that have nothing to do with each other, on one event: as few calls of scripts as they need."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from engine.catalog import Catalog
from engine.claim_requests import ClaimRequest, Held
from engine.claims import describe_places, resolve_places
from engine.errors import HoldfastError
from engine.events import SellableEvent
from engine.holds import Hold
from engine.ids import HoldId, claim_id_of, new_claim_key
from engine.kernel import Kernel
from engine.once import Once
from engine.places import Places, format_places
from engine.refusals import places_taken
from engine.shared_calls import GENERAL
from engine.usual_claims import claim_argument, is_usual, many_arguments

CLAIMS_MAX = 100  # of one call of hold_many, as the script has it: 2 ms of a slow server, and a batch over HTTP
ATTEMPTS_MAX = 2  # at hold_many, for each such part of a batch; what is left is claimed one by one

HoldOn = Callable[[SellableEvent, str, int, int, Places], Hold]


class HoldOne(Protocol):
    """A claim by itself, under a key that may have been used for it before."""

    def __call__(
        self, event_id: str, claim: ClaimRequest, *, customer_id: str, once: Once | None, key: str
    ) -> Awaitable[Held]:
        """As :meth:`Reservations.hold`."""
        ...


class _Entry(msgspec.Struct):
    """A claim under way; ``key`` is what makes every repetition of it, by whichever script, the same hold."""

    claim: ClaimRequest
    once: Once | None
    key: str
    outcome: Held | HoldfastError | None = None


class HoldBatches:
    """Batches of holds, in parts of at most ``CLAIMS_MAX``."""

    def __init__(self, kernel: Kernel, catalog: Catalog, *, hold_one: HoldOne, hold_on: HoldOn) -> None:
        self._kernel = kernel
        self._catalog = catalog
        self._hold_one = hold_one
        self._hold_on = hold_on

    async def hold_many(
        self, event_id: str, claims: Sequence[ClaimRequest], *, customer_id: str, onces: Sequence[Once | None]
    ) -> list[Held | HoldfastError]:
        """What became of each claim, in their order. Usual ones may be granted before others that stand further up."""
        entries = [_Entry(claim, once, new_claim_key()) for claim, once in zip(claims, onces, strict=True)]
        parts = [entries[start : start + CLAIMS_MAX] for start in range(0, len(entries), CLAIMS_MAX)]
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(self._hold_part(event_id, part, customer_id))
                await asyncio.sleep(0)  # this part is on its way to Redis while the next one is made ready
        return [_outcome_of(entry) for entry in entries]

    async def _hold_part(self, event_id: str, entries: Sequence[_Entry], customer_id: str) -> None:
        for _ in range(ATTEMPTS_MAX):
            if len(entries) < 2:
                break
            try:
                is_any_answered = await self._run(event_id, entries, customer_id)
            except HoldfastError as error:  # of all alike: the event is unknown, or Redis does not answer
                for entry in entries:
                    entry.outcome = entry.outcome or error
                return
            entries = [entry for entry in entries if entry.outcome is None]
            if is_any_answered or not entries:
                break
            # What stands in the way of all of them (no state yet, an old layout, lapsed holds) the first one may clear
            # away by itself.
            await self._hold_alone(event_id, entries[0], customer_id)
            entries = entries[1:]
        await asyncio.gather(*(self._hold_alone(event_id, entry, customer_id) for entry in entries))

    async def _run(self, event_id: str, entries: Sequence[_Entry], customer_id: str) -> bool:
        """One call of ``hold_many``; whether it did anything."""
        event = self._catalog.recall(event_id) or await self._catalog.get(event_id)
        asked, claims = _resolve(event, entries, customer_id)
        if not asked:
            return False
        onces = [entry.once.scope for entry, _ in asked if entry.once is not None]
        reply: list[Any] = await self._kernel.run("hold_many", event, many_arguments(event, claims), onces=onces)
        if reply[0] == GENERAL:
            return False
        created_ms, *answers = reply[1:]
        last: tuple[Places, int, Hold] | None = None
        for (entry, places), deadline_ms in zip(asked, answers, strict=True):
            if deadline_ms == GENERAL:
                continue
            if not isinstance(deadline_ms, int):
                entry.outcome = places_taken(event, *deadline_ms)
                continue
            if last is None or deadline_ms != last[1] or _legs_of(places) != _legs_of(last[0]):
                hold = self._hold_on(event, entry.key, created_ms, deadline_ms, places)
            else:
                hold = _hold_like(last[2], event, entry.key, places, are_same=places is last[0])
            last = places, deadline_ms, hold
            entry.outcome = Held(hold)
        return True

    async def _hold_alone(self, event_id: str, entry: _Entry, customer_id: str) -> None:
        try:
            entry.outcome = await self._hold_one(
                event_id, entry.claim, customer_id=customer_id, once=entry.once, key=entry.key
            )
        except HoldfastError as error:
            entry.outcome = error


def _resolve(
    event: SellableEvent, entries: Sequence[_Entry], customer_id: str
) -> tuple[list[tuple[_Entry, Places]], list[bytes]]:
    """The places of each usual claim, and their arguments; what makes no sense has its outcome now.

    Neighbours are often alike, a place of the same section each: then they share what was made of the first.
    """
    asked: list[tuple[_Entry, Places]] = []
    claims: list[bytes] = []
    before: ClaimRequest | None = None
    for entry in entries:
        claim = entry.claim
        if claim != before:
            try:
                places = resolve_places(event.layout, claim.items, claim.from_, claim.to)
            except HoldfastError as error:
                entry.outcome = error
                continue
            text = format_places(places).encode()
            ttl_ms = b"%d" % ((claim.ttl or event.definition.policy.hold_ttl) * 1000)
            before, is_shared = claim, is_usual(places)
        if is_shared:
            asked.append((entry, places))
            claims.append(claim_argument(entry.key.encode(), ttl_ms, text, entry.once, customer_id))
    return asked, claims


def _legs_of(places: Places) -> tuple[int, int]:
    return places.first_leg, places.last_leg


def _hold_like(hold: Hold, event: SellableEvent, key: str, places: Places, *, are_same: bool) -> Hold:
    """A hold of the same call, with the same deadline and legs, and of the very same places where they *are_same*."""
    hold_id = HoldId(claim_id_of(key, hold.event_id))
    if are_same:
        return msgspec.structs.replace(hold, id=hold_id)
    items, amount = describe_places(event.layout, places)
    return msgspec.structs.replace(hold, id=hold_id, items=items, amount=amount)


def _outcome_of(entry: _Entry) -> Held | HoldfastError:
    assert entry.outcome is not None, entry.key
    return entry.outcome
