"""One client of a crowd: what it asks for, how it repeats what may be repeated, and what it makes of the answers."""

import asyncio
import datetime as dt
import random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from http_calls import Answer, Connection, NoAnswer
from on_sale import OnSale, choose_claim, named_places, wish_of
from recording import Op, Operation, Outcome, Place, now

if TYPE_CHECKING:  # the crowd makes its buyers
    from crowd import Crowd

PATIENCE_S = 45.0  # for one operation: longer than any outage of these tests
PAUSE_S = 0.1  # between two attempts; shorter than Retry-After asks for, so that recovery is measured finely
ABANDONED_TTL_S = 2
NEVER_ANSWERED = frozenset({400, 401, 403, 405, 413, 415, 422})  # to requests as well-formed as these


class Attempted:
    """A request, repeated until something was known: the last answer, if any, and when and how often it was sent."""

    def __init__(self) -> None:
        self.invoked_at = now()
        self.answer: Answer | None = None
        self.attempts = 0

    @property
    def status(self) -> int:
        """0 when nothing is known."""
        return self.answer.status if self.answer is not None else 0

    def json(self) -> Any:
        assert self.answer is not None
        return self.answer.json()


class Buyer:
    """A client with one connection, and one operation under way at a time."""

    def __init__(self, crowd: "Crowd", seed: int) -> None:
        self._crowd = crowd
        self._rng = random.Random(seed)
        self._process = crowd.recording.new_process()
        self._connection = Connection(self._rng.choice(crowd.urls))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    async def visit(self, customer: str, event: OnSale) -> None:
        """One customer's errand at one event."""
        token = self._crowd.token(customer)
        claim = choose_claim(self._rng, event)
        fate = self._rng.choices(("book", "confirm", "extend", "release", "abandon"), (20, 45, 10, 15, 10))[0]
        if self._rng.random() < 0.25:
            await self._look(token, customer, event, claim)
        if fate == "book":
            await self._book(token, customer, event, claim)
            return
        hold = await self._hold(token, customer, event, claim, ttl_s=ABANDONED_TTL_S if fate == "abandon" else None)
        if hold is None:
            return
        if fate == "extend":
            await self._extend(token, hold)
        if fate in ("confirm", "extend"):
            await self._confirm(token, hold)
        elif fate == "release":
            await self._release(token, hold)

    async def _look(self, token: str, customer: str, event: OnSale, claim: dict[str, Any]) -> None:
        first, last = event.leg_range(claim.get("from"), claim.get("to"))
        stretch = f"?from={claim['from']}&to={claim['to']}" if event.stops else ""
        sent = await self._persist("GET", f"/v1/events/{event.id}/availability{stretch}", token)
        shown = ()
        if sent.status == 200:
            counts = {section["id"]: section["free"] for section in sent.json()["sections"]}
            shown = tuple(Place(name, None, first, last, counts[name]) for name in event.capacities)
        outcome: Outcome = "ok" if sent.status == 200 else "unknown" if sent.status == 0 else "fail"
        self._record("look", event.id, customer, sent, outcome, places=shown, look_sections=tuple(event.capacities))

    async def _hold(
        self, token: str, customer: str, event: OnSale, claim: dict[str, Any], *, ttl_s: int | None
    ) -> Operation | None:
        body = claim if ttl_s is None else claim | {"ttl": ttl_s}
        key = uuid4().hex
        sent = await self._persist("POST", f"/v1/events/{event.id}/holds", token, body, key)
        known = {"wish": wish_of(event, claim), "places": named_places(event, claim), "key": key}
        if sent.status != 201:
            self._record("hold", event.id, customer, sent, "fail" if sent.status else "unknown", **known)
            return None
        hold = sent.json()
        self._check_claimed(event, claim, hold)
        known |= {
            "places": event.places_of(hold),
            "hold_id": hold["id"],
            "expires_at": dt.datetime.fromisoformat(hold["expires_at"]).timestamp(),
        }
        return self._record("hold", event.id, customer, sent, "ok", **known)

    async def _extend(self, token: str, hold: Operation) -> None:
        sent = await self._persist("POST", f"/v1/holds/{hold.hold_id}/extend", token, {"ttl": 120})
        expires_at = None
        if sent.status == 200:
            expires_at = dt.datetime.fromisoformat(sent.json()["expires_at"]).timestamp()
            if sent.json()["id"] != hold.hold_id:
                self._crowd.note(f"extending {hold.hold_id} was answered with {sent.json()['id']}")
        outcome: Outcome = "ok" if sent.status == 200 else "unknown" if sent.status == 0 else "fail"
        self._record_on(hold, "extend", sent, outcome, expires_at=expires_at)

    async def _release(self, token: str, hold: Operation) -> None:
        sent = await self._persist("DELETE", f"/v1/holds/{hold.hold_id}", token)
        # Who repeats a release that took effect unheard is told that the hold has been released.
        heard_late = sent.attempts > 1 and sent.answer is not None and sent.answer.code == "hold-released"
        outcome: Outcome = "ok" if sent.status == 204 or heard_late else "unknown" if sent.status == 0 else "fail"
        self._record_on(hold, "release", sent, outcome)

    async def _confirm(self, token: str, hold: Operation) -> None:
        key = uuid4().hex
        sent = await self._persist("POST", "/v1/bookings", token, {"hold_id": hold.hold_id}, key)
        if sent.status in (201, 202):
            booking = sent.json()
            self._check_booking(hold.customer, booking)
            event = self._crowd.events[hold.event]
            if booking["id"] != hold.hold_id or event.places_of(booking) != hold.places:
                self._crowd.note(f"confirming {hold.hold_id} ({hold.places}) was answered with {booking}")
        self._record_on(hold, "confirm", sent, *self._booked(sent, hold.hold_id), key=key)

    async def _book(self, token: str, customer: str, event: OnSale, claim: dict[str, Any]) -> None:
        key = uuid4().hex
        sent = await self._persist("POST", "/v1/bookings", token, {"event_id": event.id, **claim}, key)
        places = named_places(event, claim)
        if sent.status in (201, 202):
            booking = sent.json()
            self._check_booking(customer, booking)
            self._check_claimed(event, claim, booking)
            places = event.places_of(booking)
        outcome, booking_id = self._booked(sent, sent.json()["id"] if sent.status in (201, 202) else None)
        self._record(
            "book",
            event.id,
            customer,
            sent,
            outcome,
            booking_id,
            places=places,
            wish=wish_of(event, claim),
            hold_id=booking_id,
            key=key,
        )

    async def _persist(self, method: str, path: str, token: str, body: Any = None, key: str | None = None) -> Attempted:
        """Repeat a request until its answer says what happened, or for as long as patience lasts."""
        sent = Attempted()
        while now() - sent.invoked_at < PATIENCE_S:
            sent.attempts += 1
            try:
                if sent.attempts == 1 and method != "GET" and self._rng.random() < self._crowd.vanishing:
                    await self._vanish(method, path, token, body, key)
                    continue
                answer = await self._connection.call(method, path, token=token, body=body, key=key)
            except NoAnswer:
                self._crowd.codes["no answer"] += 1
                self._connection = Connection(self._rng.choice(self._crowd.urls))
            else:
                self._crowd.inspect(method, path, answer)
                if answer.status < 500 and answer.code != "idempotency-in-flight":
                    sent.answer = answer
                    return sent
            await asyncio.sleep(PAUSE_S)
        return sent

    async def _vanish(self, method: str, path: str, token: str, body: Any, key: str | None) -> None:
        """Hang up in the middle of a request, or before its answer."""
        request = self._connection.request(method, path, token=token, body=body, key=key)
        length = self._rng.choice((len(request), len(request), self._rng.randrange(len(request))))
        await self._connection.send_and_vanish(request[:length])

    def _check_claimed(self, event: OnSale, claim: dict[str, Any], answered: dict[str, Any]) -> None:
        """An answer must be about the event and the places that were asked for."""
        places, wish = event.places_of(answered), wish_of(event, claim)
        named = named_places(event, claim)
        same = {(place.section, place.first_leg, place.last_leg) for place in places}
        if (
            answered["event_id"] != event.id
            or same != {(wish.section, wish.first_leg, wish.last_leg)}
            or sum(place.quantity for place in places) != wish.quantity
            or (named and places != named)
        ):
            self._crowd.note(f"{claim} of {event.id} was answered with {answered}")

    def _check_booking(self, customer: str, booking: dict[str, Any]) -> None:
        if booking["customer_id"] != customer:
            self._crowd.note(f"{customer} was answered with a booking of {booking['customer_id']}")

    @staticmethod
    def _booked(sent: Attempted, booking_id: str | None) -> tuple[Outcome, str | None]:
        """The outcome of a booking's request, and the booking's id where there may be one."""
        if sent.status == 201:
            return "ok", booking_id
        if sent.status in (0, 202):
            return "unknown", booking_id
        return "fail", None

    def _record_on(
        self,
        hold: Operation,
        op: Op,
        sent: Attempted,
        outcome: Outcome,
        booking_id: str | None = None,
        **known: Any,
    ) -> None:
        known |= {"places": hold.places, "hold_id": hold.hold_id}
        self._record(op, hold.event, hold.customer, sent, outcome, booking_id, **known)

    def _record(
        self,
        op: Op,
        event_id: str,
        customer: str,
        sent: Attempted,
        outcome: Outcome,
        booking_id: str | None = None,
        **known: Any,
    ) -> Operation:
        """Record an operation; one without an outcome leaves its process number behind."""
        operation = Operation(
            process=self._process,
            op=op,
            event=event_id,
            customer=customer,
            invoked_at=sent.invoked_at,
            completed_at=None if outcome == "unknown" else now(),
            outcome=outcome,
            booking_id=booking_id,
            status=sent.status or None,
            code=sent.answer.code if sent.answer is not None else None,
            attempts=sent.attempts,
            **known,
        )
        if outcome == "unknown":
            self._process = self._crowd.recording.new_process()
        if sent.status == 202:
            self._crowd.resolve_later(operation)
        else:
            self._crowd.recording.add(operation)
        return operation
