"""trains: numbered seats of a timetable's train, sold for a stretch of its journey, with passengers and a payment."""

import asyncio
import itertools
from typing import Any

import pytest
from running import EXAMPLES, Installation, People, Person, until

SYSTEM = "trains"

TRIP, DAY = "701", "2030-06-03"  # a bullet train from San José to San Francisco, on a Monday
CAR = "A:16x4"
HOLD_TTL_S = 120


@pytest.fixture(scope="module")
def train(installation: Installation) -> dict[str, Any]:
    """The definition that ``holdfast events import`` makes of the timetable, as the example's README has it."""
    (event,) = installation.command.json(
        *(
            "events",
            "import",
            EXAMPLES / SYSTEM / "timetable",
            "--id-prefix",
            "timetable-",
            "--date",
            DAY,
            "--trip",
            TRIP,
            "--car",
            CAR,
            "--leg-price",
            "200",
        ),
        *("--currency", "USD", "--policy", EXAMPLES / SYSTEM / "policy.json", "--organizer", "caltrain"),
    )
    return dict(event)


class Run:
    """One run of the train, on sale, and how to buy seats on it."""

    _numbers = iter(range(1, 1_000))

    def __init__(self, people: People, event_id: str, stops: list[str]) -> None:
        self.people = people
        self.id = event_id
        self.stops = stops

    @classmethod
    async def open(cls, people: People, train: dict[str, Any]) -> "Run":
        members = ("name", "starts_at", "ends_at", "currency", "sections", "stops", "policy")
        definition = {name: train[name] for name in members} | {"id": f"run-{next(cls._numbers)}"}
        return cls(people, await people.organizer("caltrain").put_on_sale(definition), train["stops"])

    def claim(self, *seats: str, first: int = 0, last: int = -1) -> dict[str, Any]:
        items = [{"section": "A", "seats": list(seats)}]
        return {"items": items, "from": self.stops[first], "to": self.stops[last], "ttl": HOLD_TTL_S}

    async def hold(self, person: Person, *seats: str, first: int = 0, last: int = -1, status: int = 201) -> Any:
        return await person.post(f"/v1/events/{self.id}/holds", self.claim(*seats, first=first, last=last), status)

    async def buy(self, person: Person, hold: dict[str, Any], *, method: str = "sim_ok", status: int = 201) -> Any:
        attendees = [
            {"name": f"Passenger {label}", "age": 40, "gender": "f", "section": "A", "seat": label}
            for item in hold["items"]
            for label in item["seats"]
        ]
        body = {"hold_id": hold["id"], "attendees": attendees, "payment": {"provider": "simulator", "method": method}}
        return await person.post("/v1/bookings", body, status)

    async def seat_map(self, first: int = 0, last: int = -1) -> dict[str, str]:
        query = f"from={self.stops[first]}&to={self.stops[last]}"
        seats = (await self.people.customer("zoe").get(f"/v1/events/{self.id}/seats?{query}"))["seats"]
        return {seat["seat"]: seat["status"] for seat in seats}


async def test_a_timetables_trip_is_a_train_with_a_leg_between_every_two_stops(train: dict[str, Any]) -> None:
    assert len(train["stops"]) >= 4
    assert train["starts_at"].startswith(DAY)
    (section,) = train["sections"]
    assert section["leg_prices"] == [200] * (len(train["stops"]) - 1)
    assert sum(len(row["seats"]) if isinstance(row["seats"], list) else 4 for row in section["rows"]) == 16


async def test_seat_map_between_two_stations_follows_the_sale(
    installation: Installation, train: dict[str, Any]
) -> None:
    async with installation.people() as people:
        run, tom = await Run.open(people, train), people.customer("tom")
        seats = list(await run.seat_map())
        assert set((await run.seat_map()).values()) == {"free"}

        hold = await run.hold(tom, seats[0], seats[1], last=1)
        assert [(await run.seat_map())[seat] for seat in seats[:3]] == ["held", "held", "free"]
        assert (await run.seat_map(first=1))[seats[0]] == "free"
        await run.buy(tom, hold)

        assert [(await run.seat_map(last=1))[seat] for seat in seats[:3]] == ["sold", "sold", "free"]
        assert (await run.seat_map(first=1))[seats[0]] == "free"


async def test_a_hold_lasts_120_seconds_and_only_its_owner_can_use_it(
    installation: Installation, train: dict[str, Any]
) -> None:
    async with installation.people() as people:
        run, tom, eve = await Run.open(people, train), people.customer("tom"), people.customer("eve")
        seat = next(iter(await run.seat_map()))

        hold = await run.hold(tom, seat)

        assert hold["ttl"] == HOLD_TTL_S
        assert hold["amount"] == 200 * (len(run.stops) - 1)
        await eve.get(f"/v1/holds/{hold['id']}", 404)
        await run.buy(eve, hold, status=404)
        refused = await run.hold(eve, seat, status=409)
        assert (refused["held"], refused["sold"]) == (1, 0)
        assert refused["next_release_at"] == hold["expires_at"]
        assert (await run.buy(tom, hold))["status"] == "confirmed"


async def test_every_seat_has_its_passenger(installation: Installation, train: dict[str, Any]) -> None:
    async with installation.people() as people:
        run, tom = await Run.open(people, train), people.customer("tom")
        seats = list(await run.seat_map())[:3]

        booking = await run.buy(tom, await run.hold(tom, *seats))

        passengers = [(one["seat"], one["name"], one["age"], one["gender"]) for one in booking["attendees"]]
        assert passengers == [(seat, f"Passenger {seat}", 40, "f") for seat in seats]
        assert booking["payment_status"] in ("held", "completed")  # taken at once, or a moment later
        (row,) = await installation.rows("SELECT sealed FROM bookings WHERE event_id = $1", run.id)
        assert b"Passenger" not in row["sealed"]


async def test_a_seat_is_sold_again_behind_the_station_where_it_falls_free(
    installation: Installation, train: dict[str, Any]
) -> None:
    async with installation.people() as people:
        run, tom, eve = await Run.open(people, train), people.customer("tom"), people.customer("eve")
        seat = next(iter(await run.seat_map()))

        first = await run.buy(tom, await run.hold(tom, seat, last=2))
        second = await run.buy(eve, await run.hold(eve, seat, first=2))

        assert first["amount"] + second["amount"] == 200 * (len(run.stops) - 1)
        assert (first["to"], second["from"]) == (run.stops[2], run.stops[2])
        refused = await run.hold(people.customer("ivy"), seat, first=1, last=3, status=409)
        assert refused["unavailable"] == [{"section": "A", "seat": seat}]


async def test_a_declined_payment_leaves_the_hold_and_another_card_may_do(
    installation: Installation, train: dict[str, Any]
) -> None:
    async with installation.people() as people:
        run, tom = await Run.open(people, train), people.customer("tom")
        seat = next(iter(await run.seat_map()))
        hold = await run.hold(tom, seat)

        declined = await run.buy(tom, hold, method="sim_declined", status=402)
        assert declined["code"] == "payment-declined"
        assert (await run.seat_map())[seat] == "held"

        assert (await run.buy(tom, hold))["status"] == "confirmed"
        assert (await run.seat_map())[seat] == "sold"


async def test_seats_of_a_payment_that_failed_are_free_once_the_hold_is_given_back(
    installation: Installation, train: dict[str, Any]
) -> None:
    async with installation.people() as people:
        run, tom, eve = await Run.open(people, train), people.customer("tom"), people.customer("eve")
        seat = next(iter(await run.seat_map()))
        hold = await run.hold(tom, seat)
        await run.buy(tom, hold, method="sim_declined", status=402)

        await tom.delete(f"/v1/holds/{hold['id']}")

        assert (await run.seat_map())[seat] == "free"
        assert (await run.buy(eve, await run.hold(eve, seat)))["status"] == "confirmed"


async def test_a_slow_payment_is_waited_for_and_a_very_slow_one_is_told_of(
    installation: Installation, train: dict[str, Any]
) -> None:
    async with installation.people() as people:
        run, tom = await Run.open(people, train), people.customer("tom")
        slow, slower = list(await run.seat_map())[:2]

        assert (await run.buy(tom, await run.hold(tom, slow), method="sim_slow_300"))["status"] == "confirmed"
        waiting = await run.buy(tom, await run.hold(tom, slower), method="sim_slow_7000", status=202)
        assert waiting["status"] == "payment_initiated"
        assert (await run.seat_map())[slower] == "held"

        async def is_confirmed() -> bool:
            booking = await tom.get(f"/v1/bookings/{waiting['id']}")
            return bool(booking["status"] == "confirmed")

        await until(is_confirmed, within_s=30)
        assert (await run.seat_map())[slower] == "sold"


async def test_an_expired_hold_cannot_be_paid_for(installation: Installation, train: dict[str, Any]) -> None:
    async with installation.people() as people:
        run, tom = await Run.open(people, train), people.customer("tom")
        seat = next(iter(await run.seat_map()))
        claim = run.claim(seat) | {"ttl": 1}
        hold = await tom.post(f"/v1/events/{run.id}/holds", claim, 201)
        await asyncio.sleep(1.2)

        gone = await run.buy(tom, hold, status=410)

        assert gone["code"] == "hold-expired"
        assert (await run.seat_map())[seat] == "free"


async def test_many_who_want_the_same_seat_on_overlapping_stretches(
    installation: Installation, train: dict[str, Any]
) -> None:
    async with installation.people() as people:
        run = await Run.open(people, train)
        seat, stops = next(iter(await run.seat_map())), len(run.stops)
        stretches = [(first, last) for first in range(stops) for last in range(first + 1, stops)]

        async def try_to_buy(number: int, first: int, last: int) -> dict[str, Any] | None:
            person = people.customer(f"rival-{number}")
            claim = run.claim(seat, first=first, last=last)
            held = await person.call("POST", f"/v1/events/{run.id}/holds", claim)
            if held.status_code == 409:
                return None
            booking: dict[str, Any] = await run.buy(person, held.json())
            return booking

        outcomes = await asyncio.gather(*(try_to_buy(n, *stretch) for n, stretch in enumerate(stretches)))

        sold = sorted((run.stops.index(b["from"]), run.stops.index(b["to"])) for b in outcomes if b)
        assert sold
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(sold)), sold
        claims = await installation.rows("SELECT count(*) AS n FROM claims WHERE event_id = $1", run.id)
        assert claims[0]["n"] == sum(last - first for first, last in sold)
        await installation.require_agreement()


def test_its_readme_does_what_it_says(installation: Installation) -> None:
    printed = installation.run_readme()

    assert '"status":"confirmed"' in printed
    assert "Lil Otter" in printed
