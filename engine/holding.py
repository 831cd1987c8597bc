"""Holding places for a while, and looking at what is held, by ids and labels that clients understand."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.catalog import Catalog
from engine.claim_requests import ClaimRequest, Held, check_group, resolve_claim
from engine.claims import describe_places, resolve_places
from engine.errors import EventNotFound, HoldfastError, HoldNotFound, PlacesUnavailable
from engine.events import SellableEvent
from engine.hold_batches import HoldBatches
from engine.holds import Hold
from engine.ids import ClaimKey, HoldId, claim_id_of, new_claim_key, parse_claim_id
from engine.kernel import Kernel
from engine.once import ONCE_TTL_MS, Once, attempt_of
from engine.places import Places, format_places, parse_places
from engine.refusals import booking_refusal, claim_refusal, hold_refusal, moment, places_taken
from engine.shared_calls import SharedCalls
from engine.usual_claims import claim_argument, is_usual, many_arguments
from engine.views import Views

_ONCE_TTL = b"%d" % ONCE_TTL_MS


class PayingHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold whose payment has begun: its event, its places, and when it was made and will lapse, in ms."""

    event: SellableEvent
    places: Places
    created_ms: int
    deadline_ms: int


class Holding(Views):
    """All that can be done with holds but to book them. ``customer_id=None`` acts for an administrator: any owner's."""

    def __init__(self, kernel: Kernel, catalog: Catalog) -> None:
        super().__init__(kernel, catalog)
        self._shared_claims = SharedCalls(kernel, "hold_many", many_arguments)
        self._batches = HoldBatches(kernel, catalog, hold_one=self.hold, hold_on=_hold_on)

    async def hold(
        self,
        event_id: str,
        claim: ClaimRequest,
        *,
        customer_id: str,
        once: Once | None = None,
        key: str | None = None,
    ) -> Held:
        """Claim places of one event for a while, all or nothing.

        Safe to repeat with the same *once*: the first answer comes again, for 24 hours. With a *key* that is held
        under already, that hold is the answer, as long as it lives.

        Raises:
            InvalidRequest: The claim names what the event does not have.
            EventNotFound, EventNotOpen, PlacesUnavailable, LimitExceeded, IdempotencyKeyReused: Refused.
        """
        held = await self.try_hold(event_id, claim, customer_id=customer_id, once=once, key=key)
        if isinstance(held, PlacesUnavailable):
            raise held
        return held

    async def try_hold(
        self,
        event_id: str,
        claim: ClaimRequest,
        *,
        customer_id: str,
        once: Once | None = None,
        key: str | None = None,
    ) -> Held | PlacesUnavailable:
        """As :meth:`hold`, but that places are taken is returned: most of a rush hear it, and raising it takes as long
        again as all else that is made of Redis's answer.
        """
        # A group of one, without what a group costs: nearly all holds come this way.
        for _ in range(2):
            event = self._catalog.recall(event_id) or await self._catalog.get(event_id)
            places = resolve_places(event.layout, claim.items, claim.from_, claim.to)
            may_share = key is None and is_usual(places)  # else it may be there already
            key, text = key or new_claim_key(), format_places(places).encode()
            ttl_ms = b"%d" % ((claim.ttl or event.definition.policy.hold_ttl) * 1000)
            asked = (event, key.encode(), ttl_ms, text, once, customer_id)
            is_crowded = self._shared_claims.enter(event_id)
            try:
                if is_crowded and may_share:
                    answer = await self._kernel.within_limit(self._claim_with_others(*asked))
                else:
                    answer = await self._claim_alone(*asked)
            finally:
                self._shared_claims.leave(event_id)
            if isinstance(answer, PlacesUnavailable):
                return answer
            reply = answer
            if reply[0] == b"HELD":
                _, created_ms, deadline_ms, got = reply[1]
                # What was asked for by number is what was got; the best available is known only now.
                got_places = places if got == text else parse_places(got.decode())
                return Held(_hold_on(event, key, created_ms, deadline_ms, got_places))
            if reply[0] == b"REPLAYED":
                first_key, *fields = reply[1]
                return Held(_read_hold(event, first_key.decode(), *fields), replayed=True)
            if reply[0] != b"STALE_LAYOUT":
                break
            self._catalog.forget(event_id)
        refusal = claim_refusal(reply, [event])
        if isinstance(refusal, PlacesUnavailable):
            return refusal
        raise refusal

    async def _claim_with_others(
        self, event: SellableEvent, key: bytes, ttl_ms: bytes, text: bytes, once: Once | None, customer_id: str
    ) -> list[Any] | PlacesUnavailable:
        """What ``hold_places`` answers to a usual claim, from a call that it shares, or by itself behind that.

        Of a shared call a refusal is told as it is meant: what the script says is not put together to be taken apart.
        """
        request = claim_argument(key, ttl_ms, text, once, customer_id)
        answer = await self._shared_claims.ask(event, request, once.scope if once else None)
        if answer is None:
            return await self._claim_alone(event, key, ttl_ms, text, once, customer_id)
        ran_ms, told = answer
        if isinstance(told, int):
            return [b"HELD", (None, ran_ms, told, text)]
        return places_taken(event, *told)

    async def _claim_alone(
        self, event: SellableEvent, key: bytes, ttl_ms: bytes, text: bytes, once: Once | None, customer_id: str
    ) -> list[Any]:
        layout, body = event.layout.digest.encode(), once.body if once else b""
        args = (customer_id.encode(), body, _ONCE_TTL, key, layout, text, ttl_ms)
        return await self._kernel.run("hold_places", event, args, once=once.scope if once else None)

    async def hold_many(
        self, event_id: str, claims: Sequence[ClaimRequest], *, customer_id: str, onces: Sequence[Once | None]
    ) -> list[Held | HoldfastError]:
        """As :meth:`hold` for each claim by itself, with its own of *onces*: its hold, or why there is none.

        The usual ones share a script call, and may be granted before others that stand further up.
        """
        return await self._batches.hold_many(event_id, claims, customer_id=customer_id, onces=onces)

    async def hold_group(
        self, claims: Sequence[tuple[str, ClaimRequest]], *, customer_id: str, once: Once | None = None
    ) -> list[Held]:
        """Claim places of several events of one group, all or nothing; one hold each.

        Raises:
            InvalidRequest: An event comes twice, or they are not of one group; else as :meth:`hold`.
        """
        events = [await self._catalog.get(event_id) for event_id, _ in claims]
        if len(events) > 1:
            check_group(events)
        reply = await self._try_hold(events, claims, customer_id, once)
        if reply[0] == b"STALE_LAYOUT":
            for event in events:
                self._catalog.forget(event.event.id)
            events = [await self._catalog.get(event_id) for event_id, _ in claims]
            reply = await self._try_hold(events, claims, customer_id, once)
        if reply[0] == b"HELD":
            return [Held(_hold_on(event, key, *fields)) for event, key, fields in reply[1]]
        if reply[0] == b"REPLAYED":
            return [
                Held(_read_hold(event, fields[0].decode(), *fields[1:]), replayed=True)
                for event, fields in zip(events, reply[1:], strict=True)
            ]
        raise claim_refusal(reply, events)

    async def find_hold(self, hold_id: str, *, customer_id: str | None) -> Hold:
        """A live hold.

        Raises:
            HoldNotFound, HoldExpired, HoldReleased, HoldConfirmed: It is not live, or not this customer's.
        """
        key, event = await self._find_event_of(hold_id)
        reply = await self._kernel.run("read_hold", event, [key.key.encode(), _owner(customer_id)])
        if reply[0] not in (b"ACTIVE", b"PAYING"):
            raise hold_refusal(reply[0], hold_id)
        return _read_hold(event, key.key, *reply[1:], is_paying=reply[0] == b"PAYING")

    async def extend(self, hold_id: str, *, ttl_s: int, customer_id: str | None) -> Hold:
        """Move a hold's deadline to *ttl_s* seconds from now.

        The deadline never passes the event's ``hold_ttl_max``, counted from the hold's creation; asking for more gives
        what is left. Once its payment has begun it stays where that has put it. Safe to repeat.

        Raises:
            HoldNotFound, HoldExpired, HoldReleased, HoldConfirmed: It is not live, or not this customer's.
        """
        key, event = await self._find_event_of(hold_id)
        args = [key.key.encode(), _owner(customer_id), b"%d" % (ttl_s * 1000)]
        reply = await self._kernel.run("extend_hold", event, args)
        if reply[0] not in (b"EXTENDED", b"PAYING"):
            raise hold_refusal(reply[0], hold_id)
        return _read_hold(event, key.key, *reply[2:], is_paying=reply[0] == b"PAYING")

    async def begin_payment(self, hold_id: str, *, customer_id: str) -> PayingHold:
        """Have a hold live for the event's ``payment_ttl`` at least, once: its payment is about to begin.

        Safe to repeat: the deadline moves only the first time.

        Raises:
            HoldNotFound, HoldExpired, HoldReleased, HoldConfirmed: It is not live, or not this customer's.
            EventNotOpen: The event was cancelled.
        """
        key, event = await self._find_event_of(hold_id)
        ttl_ms = event.definition.policy.payment_ttl * 1000
        reply = await self._kernel.run("begin_payment", event, [key.key.encode(), customer_id.encode(), b"%d" % ttl_ms])
        if reply[0] != b"BEGUN":
            raise booking_refusal(reply, event, hold_id)
        places = parse_places(reply[4].decode())
        return PayingHold(event=event, places=places, created_ms=reply[2], deadline_ms=reply[3])

    async def release(
        self, hold_id: str, *, customer_id: str | None, once: Once | None = None, made_with: Once | None = None
    ) -> None:
        """Give a hold's places back at once.

        A repetition succeeds with the same *once*; any other is told :class:`HoldReleased`. The key that the hold was
        *made_with* is forgotten, also where the hold has ended before: the request that made it may be sent again.

        Raises:
            HoldNotFound, HoldExpired, HoldReleased, HoldConfirmed: It is not live, or not this customer's.
        """
        key, event = await self._find_event_of(hold_id)
        args = [key.key.encode(), _owner(customer_id), attempt_of(once), made_with.body if made_with else b""]
        reply = await self._kernel.run("release_hold", event, args, once=made_with.scope if made_with else None)
        if reply[0] != b"RELEASED":
            raise hold_refusal(reply[0], hold_id)

    async def _try_hold(
        self,
        events: Sequence[SellableEvent],
        claims: Sequence[tuple[str, ClaimRequest]],
        customer_id: str,
        once: Once | None,
    ) -> list[Any]:
        """One run of ``hold_places``; a ``HELD`` answer is brought together with events, keys and places."""
        args = [customer_id.encode(), once.body if once else b"", _ONCE_TTL]
        asked = []
        for number, (event, (_, claim)) in enumerate(zip(events, claims, strict=True)):
            places = resolve_claim(event, claim, number if len(events) > 1 else None)
            key, text = new_claim_key(), format_places(places).encode()
            asked.append((key, text, places))
            ttl_s = claim.ttl or event.definition.policy.hold_ttl
            args += (key.encode(), event.layout.digest.encode(), text, b"%d" % (ttl_s * 1000))
        reply = await self._kernel.run_over("hold_places", events, args, once=once.scope if once else None)
        if reply[0] != b"HELD":
            return reply
        held = []
        for event, (key, text, places), (_, created_ms, deadline_ms, got) in zip(events, asked, reply[1:], strict=True):
            got_places = places if got == text else parse_places(got.decode())
            held.append((event, key, (created_ms, deadline_ms, got_places)))
        return [b"HELD", held]

    async def _find_event_of(self, hold_id: str) -> tuple[ClaimKey, SellableEvent]:
        key = parse_claim_id(hold_id)
        if key is None:
            raise HoldNotFound(hold_id)
        try:
            return key, self._catalog.recall(key.event_id) or await self._catalog.get(key.event_id)
        except EventNotFound:
            raise HoldNotFound(hold_id) from None


def _read_hold(
    event: SellableEvent, key: str, created_ms: int, deadline_ms: int, places_text: bytes, *, is_paying: bool = False
) -> Hold:
    """The hold as a script tells of it."""
    return _hold_on(event, key, created_ms, deadline_ms, parse_places(places_text.decode()), is_paying=is_paying)


def _hold_on(
    event: SellableEvent, key: str, created_ms: int, deadline_ms: int, places: Places, *, is_paying: bool = False
) -> Hold:
    items, amount = describe_places(event.layout, places)
    return Hold(
        id=HoldId(claim_id_of(key, event.event.id)),
        event_id=event.event.id,
        status="paying" if is_paying else "active",
        items=items,
        from_=event.layout.stop_name(places.first_leg),
        to=event.layout.stop_name(places.last_leg),
        amount=amount,
        currency=event.definition.currency,
        created_at=moment(created_ms),
        expires_at=moment(deadline_ms),
        ttl=(deadline_ms - created_ms) // 1000,
    )


def _owner(customer_id: str | None) -> bytes:
    return b"" if customer_id is None else customer_id.encode()
