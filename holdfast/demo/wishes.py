"""What a buyer asks for: drawn from the buyer's own random numbers and from what the API showed."""

import itertools
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import msgspec

from holdfast.demo.box_office import Availability, OnSale

Claim = dict[str, Any]  # the body of a request for a hold

PARTY_SIZES, PARTY_WEIGHTS = (1, 2, 3, 4, 6), (15, 50, 15, 15, 5)
TRAVELLERS, TRAVELLER_WEIGHTS = (1, 2, 3), (70, 22, 8)
FRIENDS_MIN, FRIENDS_MAX = 2, 20
CHOSEN_SEATS_SHARE = 0.4  # of the concert's buyers; the others take the best there is
WINDOW_SHARE = 0.25  # of the travellers who are alone
FRONT = 60  # groups of seats at the front that people choose among


class SeatState(msgspec.Struct, frozen=True):
    """A seat of the map."""

    section: str
    seat: str
    status: str


class SeatMap(msgspec.Struct, frozen=True):
    """Every numbered seat of an event, row by row."""

    seats: list[SeatState]


class Unavailable(msgspec.Struct, frozen=True):
    """One thing that was not to be had; ``free`` says how much of it is left."""

    free: int | None = None


class Refusal(msgspec.Struct, frozen=True):
    """Why a hold was refused."""

    code: str
    unavailable: list[Unavailable] = []


def best_seats(rng: Random, event: OnSale, seen: Availability, count: int) -> Claim:
    """The best *count* together in a section that looked as if it had them, else wherever the buyer likes to sit."""
    roomy = [section.id for section in seen.sections if section.free >= count]
    return {"items": [{"section": rng.choice(roomy or list(event.capacities)), "best": count}]}


def seats_from_map(rng: Random, seat_map: SeatMap, count: int) -> Claim | None:
    """*count* seats next to each other, chosen among the free ones in front; ``None`` when no such group is left."""
    groups = list(itertools.islice(_free_groups(seat_map.seats, count), FRONT))
    if not groups:
        return None
    chosen = rng.choice(groups)
    return {"items": [{"section": chosen[0].section, "seats": [state.seat for state in chosen]}]}


def stretch(rng: Random, event: OnSale) -> tuple[str, str]:
    """Where a traveller gets on and off; short rides are more frequent than long ones."""
    first = rng.randrange(event.legs)
    length = min(1 + int(rng.expovariate(1 / 6)), event.legs - first)
    return event.stops[first], event.stops[first + length]


def train_seats(rng: Random, event: OnSale, seen: Availability, count: int, ends: tuple[str, str]) -> Claim:
    """Seats for a stretch of the journey: a certain window seat for some who travel alone, else the best together."""
    claim = best_seats(rng, event, seen, count)
    if count == 1 and rng.random() < WINDOW_SHARE:
        section = rng.choice(list(event.window_seats))
        claim = {"items": [{"section": section, "seats": [rng.choice(event.window_seats[section])]}]}
    return claim | {"from": ends[0], "to": ends[1]}


def places(event: OnSale, count: int) -> Claim:
    """*count* places of the only section."""
    (section,) = event.capacities
    return {"items": [{"section": section, "quantity": count}]}


def party_size(rng: Random, event: OnSale) -> int:
    """How many come together; friends go to a festival in numbers."""
    if event.kind == "places":
        return rng.randint(FRIENDS_MIN, FRIENDS_MAX)
    if event.kind == "journey":
        return rng.choices(TRAVELLERS, TRAVELLER_WEIGHTS)[0]
    return rng.choices(PARTY_SIZES, PARTY_WEIGHTS)[0]


def _free_groups(seats: Sequence[SeatState], count: int) -> Iterator[list[SeatState]]:
    group: list[SeatState] = []
    for state in seats:
        if group and _row(group[-1]) != _row(state):
            group = []
        group = [*group, state] if state.status == "free" else []
        if len(group) == count:
            yield group
            group = []


def _row(state: SeatState) -> tuple[str, str]:
    return state.section, state.seat.rpartition("-")[0]
