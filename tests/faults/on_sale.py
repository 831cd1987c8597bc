"""What the crowd of a fault test buys: a seated hall with a floor, a train of four legs, and some small clubs."""

import random
from typing import Any

import msgspec
from recording import Place

POLICY = {"hold_ttl": 60, "max_places_per_hold": 10, "max_places_per_customer": 20}
STOPS = ("SJC", "PAO", "SFO", "OAK", "SAC")
CLUBS = 4
HOT_SHARE = 0.3  # of those who choose seats themselves choose among the same few
HOT_SEATS = 24


class OnSale(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the crowd knows it; ``seats`` and ``capacities`` are by section, each section is in one of them."""

    id: str
    definition: dict[str, Any]
    seats: dict[str, tuple[str, ...]]
    capacities: dict[str, int]
    stops: tuple[str, ...] = ()

    @property
    def legs(self) -> int:
        return max(1, len(self.stops) - 1)

    @property
    def sections(self) -> dict[str, int]:
        """How many places each section has."""
        return self.capacities | {section: len(labels) for section, labels in self.seats.items()}

    def leg_range(self, from_stop: str | None, to_stop: str | None) -> tuple[int, int]:
        """The legs of a stretch, the last excluded."""
        if not self.stops or from_stop is None or to_stop is None:
            return 0, self.legs
        return self.stops.index(from_stop), self.stops.index(to_stop)

    def places_of(self, answer: dict[str, Any]) -> tuple[Place, ...]:
        """The places of a hold or booking as the API shows it, in an order of their own."""
        first, last = self.leg_range(answer.get("from"), answer.get("to"))
        places = []
        for item in answer["items"]:
            if item.get("seats"):
                places += [Place(item["section"], seat, first, last) for seat in item["seats"]]
            else:
                places.append(Place(item["section"], None, first, last, item["quantity"]))
        return tuple(sorted(places, key=lambda place: (place.section, place.seat or "")))


def events_on_sale(sale: str) -> list[OnSale]:
    """The events of one sale, whose name their ids begin with. They are large enough never to be sold out."""
    hall = _event(f"{sale}.hall", rows={"stalls": (100, 50)}, counted={"floor": 5_000})
    train = _event(f"{sale}.train", rows={"car": (100, 20)}, counted={"standing": 2_000}, stops=STOPS)
    clubs = [_event(f"{sale}.club-{number}", rows={"tables": (50, 20)}, counted={}) for number in range(CLUBS)]
    return [hall, train, *clubs]


def one_row(sale: str, seats: int = 1) -> OnSale:
    """An event apart, of one row; by default of the one seat that everybody wants."""
    return _event(f"{sale}.row", rows={"box": (1, seats)}, counted={})


def choose_claim(rng: random.Random, event: OnSale) -> dict[str, Any]:
    """A request's ``items``, ``from`` and ``to``: chosen seats, the best together, or counted places."""
    body: dict[str, Any] = {}
    if event.stops:
        first = rng.randrange(event.legs)
        last = rng.randint(first + 1, event.legs)
        body = {"from": event.stops[first], "to": event.stops[last]}
    section = rng.choice(list(event.sections))
    count = rng.choices((1, 2, 3, 4), (40, 40, 10, 10))[0]
    if section in event.capacities:
        item: dict[str, Any] = {"section": section, "quantity": count}
    elif rng.random() < 0.4:
        item = {"section": section, "best": count}
    else:
        labels = event.seats[section]
        if rng.random() < HOT_SHARE:
            labels = labels[:HOT_SEATS]
        start = rng.randrange(len(labels) - count + 1)
        item = {"section": section, "seats": list(labels[start : start + count])}
    return {"items": [item], **body}


def wish_of(event: OnSale, claim: dict[str, Any]) -> Place:
    """How many places of which section a claim asks for, whichever they are."""
    (item,) = claim["items"]
    count = item.get("quantity") or item.get("best") or len(item["seats"])
    return Place(item["section"], None, *event.leg_range(claim.get("from"), claim.get("to")), count)


def named_places(event: OnSale, claim: dict[str, Any]) -> tuple[Place, ...]:
    """The places that a claim itself names; none where it leaves the choice to the best there is."""
    (item,) = claim["items"]
    if "best" in item:
        return ()
    return event.places_of(claim)


def _event(
    event_id: str, *, rows: dict[str, tuple[int, int]], counted: dict[str, int], stops: tuple[str, ...] = ()
) -> OnSale:
    sections: list[dict[str, Any]] = [
        {
            "id": section,
            "price": 1000,
            "rows": [{"id": f"R{row}", "seats": f"1-{width}"} for row in range(1, count + 1)],
        }
        for section, (count, width) in rows.items()
    ]
    sections += [{"id": section, "price": 500, "capacity": capacity} for section, capacity in counted.items()]
    definition: dict[str, Any] = {
        "id": event_id,
        "name": event_id,
        "starts_at": "2035-05-01T19:00:00Z",
        "currency": "EUR",
        "sections": sections,
        "policy": POLICY,
    }
    if stops:
        definition["stops"] = list(stops)
    seats = {
        section: tuple(f"R{row}-{seat}" for row in range(1, count + 1) for seat in range(1, width + 1))
        for section, (count, width) in rows.items()
    }
    return OnSale(id=event_id, definition=definition, seats=seats, capacities=counted, stops=stops)
