"""The crowd: everybody looks, tries to hold places, and then books them, gives them back, or walks away."""

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import Literal

import msgspec

from holdfast.demo import wishes
from holdfast.demo.box_office import decode_availability, decode_booking, query_of_stretch
from holdfast.demo.client import UNANSWERED, Answer, Client
from holdfast.demo.scenario import Kind
from holdfast.demo.tally import EventTally, Tally

ARRIVALS_S = 1.0  # doors open, and within this time everybody is there
TRIES_MAX = 3  # then a buyer gives up
LAPSE_TTL_S = 2  # of the holds that nobody will come back for in time
LATE_S = 0.3  # after the deadline
LAPSED = (404, 410)  # how a hold ended is remembered for a while, not for ever
CROWD_WEIGHTS: dict[Kind, int] = {"seats": 45, "journey": 25, "places": 30}

Ending = Literal["book", "give back", "walk away", "come too late"]
ENDINGS: tuple[Ending, ...] = ("book", "give back", "walk away", "come too late")
ENDING_WEIGHTS = (80, 12, 5, 3)


class Latecomer(msgspec.Struct, frozen=True):
    """A buyer who comes back to book after the hold's deadline."""

    visit: "Visit"
    hold_id: str
    comes_at_s: float  # of the monotonic clock


class _Hold(msgspec.Struct, frozen=True):
    id: str


_decode_hold = msgspec.json.Decoder(_Hold).decode
_decode_refusal = msgspec.json.Decoder(wishes.Refusal).decode
_decode_seat_map = msgspec.json.Decoder(wishes.SeatMap).decode


async def let_in(
    buyers: int, *, seed: int, client: Client, tally: Tally, token_of: Callable[[str], str]
) -> list[Latecomer]:
    """Let everybody buy at once, until all but the latecomers are through.

    What a buyer sets out to do depends on *seed* and the buyer's number alone; what they get, on who else was faster.
    """
    latecomers: list[Latecomer] = []
    weights = [CROWD_WEIGHTS[books.event.kind] for books in tally.events]

    async def visit(number: int) -> None:
        rng = Random(f"{seed}/{number}")  # noqa: S311 - a simulation
        (books,) = rng.choices(tally.events, weights)
        await asyncio.sleep(rng.uniform(0, ARRIVALS_S))
        name = f"buyer-{number}"
        latecomer = await Visit(name, token_of(name), rng, client, books).run()
        if latecomer is not None:
            latecomers.append(latecomer)
        tally.buyers_done += 1

    async with asyncio.TaskGroup() as group:
        for number in range(1, buyers + 1):
            group.create_task(visit(number))
    return latecomers


class Visit:
    """One buyer at one event."""

    def __init__(self, name: str, token: str, rng: Random, client: Client, books: EventTally) -> None:
        self._name = name
        self._token = token
        self._rng = rng
        self._client = client
        self._books = books
        self._path = f"/v1/events/{books.event.id}"

    async def run(self) -> Latecomer | None:
        """Try to get places, and do with them what this buyer does."""
        rng, books = self._rng, self._books
        (ending,) = rng.choices(ENDINGS, ENDING_WEIGHTS)
        stays = ending in ("book", "give back")
        hold_id = await self._hold(ttl_s=None if stays else LAPSE_TTL_S)
        if hold_id is None:
            books.left_with_nothing += 1
            return None
        if not stays:
            books.lapsed += 1
            comes_at_s = time.monotonic() + LAPSE_TTL_S + LATE_S
            return Latecomer(self, hold_id, comes_at_s) if ending == "come too late" else None
        await asyncio.sleep(rng.uniform(0.05, 0.5))  # finding a card, asking a friend
        if ending == "give back":
            await self._release(hold_id)
        else:
            await self._book(hold_id)
        return None

    async def book_too_late(self, latecomer: Latecomer) -> None:
        """Try to book a hold after its deadline: the answer must be that it has lapsed, or that nobody knows it now."""
        await asyncio.sleep(latecomer.comes_at_s - time.monotonic())
        answer = await self._ask_to_book(latecomer.hold_id, "booking too late", expect=LAPSED)
        if answer.status in LAPSED:
            self._books.too_late += 1
        else:
            self._keep(latecomer.hold_id, answer)

    async def _hold(self, *, ttl_s: int | None) -> str | None:
        """The id of a hold, after a few tries if need be; ``None`` for a buyer who leaves without."""
        event, rng = self._books.event, self._rng
        count = wishes.party_size(rng, event)
        stretch = wishes.stretch(rng, event) if event.kind == "journey" else None
        chooses = event.kind == "seats" and rng.random() < wishes.CHOSEN_SEATS_SHARE
        for _ in range(TRIES_MAX):
            claim = await self._choose(count, stretch, chooses=chooses)
            if claim is None:
                return None
            if ttl_s is not None:
                claim["ttl"] = ttl_s
            answer = await self._call("hold", "POST", f"{self._path}/holds", expect=(201, 409), body=claim)
            if answer.status == 201:
                self._books.held += 1
                return _decode_hold(answer.body).id
            if answer.status != 409:
                return None  # the client has counted it
            left = self._note_refusal(answer)
            if left:
                count = min(count, left)
            await asyncio.sleep(rng.uniform(0.05, 0.3))
        return None

    async def _choose(self, count: int, stretch: tuple[str, str] | None, *, chooses: bool) -> wishes.Claim | None:
        event, rng = self._books.event, self._rng
        if chooses:
            answer = await self._call("seat map", "GET", f"{self._path}/seats", expect=(200,))
            if answer.status != 200:
                return None
            return wishes.seats_from_map(rng, _decode_seat_map(answer.body), count)
        query = f"?{query_of_stretch(*stretch)}" if stretch else ""
        answer = await self._call("availability", "GET", f"{self._path}/availability{query}", expect=(200,))
        if answer.status != 200:
            return None
        seen = decode_availability(answer.body)
        if stretch is not None:
            return wishes.train_seats(rng, event, seen, count, stretch)
        return wishes.best_seats(rng, event, seen, count) if event.kind == "seats" else wishes.places(event, count)

    def _note_refusal(self, answer: Answer) -> int | None:
        """Count it; the number of places that are left of what was asked for, where the answer says so."""
        refusal = _decode_refusal(answer.body)
        if refusal.code != "places-unavailable":
            self._client.unexpected[f"hold: 409 {refusal.code}"] += 1
        self._books.refused += 1
        return next((place.free for place in refusal.unavailable if place.free is not None), None)

    async def _release(self, hold_id: str) -> None:
        answer = await self._call("release", "DELETE", f"/v1/holds/{hold_id}", expect=(204,))
        self._books.released += answer.status == 204

    async def _book(self, hold_id: str) -> None:
        self._keep(hold_id, await self._ask_to_book(hold_id, "booking", expect=(201, 202)))

    async def _ask_to_book(self, hold_id: str, purpose: str, *, expect: tuple[int, ...]) -> Answer:
        body = {"hold_id": hold_id, "guest": {"name": self._name}}
        return await self._call(purpose, "POST", "/v1/bookings", expect=expect, body=body, key=hold_id)

    def _keep(self, hold_id: str, answer: Answer) -> None:
        if answer.status == 201:
            self._books.book(decode_booking(answer.body))
        elif answer.status == 202:
            self._books.confirming.append(decode_booking(answer.body))
        elif answer.status == UNANSWERED or answer.status >= 500:
            self._books.unknown.add(hold_id)

    async def _call(
        self, purpose: str, method: str, path: str, *, expect: tuple[int, ...], body: object = None, key: str = ""
    ) -> Answer:
        headers = {"idempotency-key": key} if key else {}
        return await self._client.call(
            purpose, method, path, token=self._token, expect=expect, body=body, headers=headers
        )
