"""Changing the places of a booking over HTTP: all that was asked for, or it keeps what it has; and giving it away."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from api_app import Person, claim, composed, connected, open_event

from api.services import Services
from persistence.database import driver_connection

STOPS = ["SJC", "PAO", "SFO", "OAK"]


class World:
    """An application over real servers, and the people who call it."""

    def __init__(self, services: Services, client: httpx2.AsyncClient) -> None:
        self.services = services
        self.ana = Person(client, "ana", "customer")
        self.ben = Person(client, "ben", "customer")
        self.olga = Person(client, "olga", "organizer")
        self.otto = Person(client, "otto", "organizer")
        self.root = Person(client, "root", "admin")

    async def booked(self, *seats: str, floor: int = 0, **members: Any) -> dict[str, Any]:
        """A booking of ana's on an event of its own."""
        event_id = await open_event(self.olga, **members)
        return await self.book(self.ana, event_id, *seats, floor=floor)

    async def book(self, person: Person, event_id: str, *seats: str, floor: int = 0, **legs: str) -> dict[str, Any]:
        response = await person.post("/v1/bookings", {"event_id": event_id} | claim(*seats, floor=floor) | legs)
        return ok(response, 201)

    async def postgres(self, statement: str, *arguments: object) -> list[Any]:
        async with driver_connection(self.services.bookings.engine) as connection:
            rows: list[Any] = await connection.fetch(statement, *arguments)
            return rows

    async def pay_for(self, booking: dict[str, Any]) -> None:
        await self.postgres("UPDATE bookings SET payment_status = 'held' WHERE event_id = $1", booking["event_id"])

    async def assert_no_drift(self, event_id: str) -> None:
        audit = ok(await self.root.get(f"/v1/admin/audit?event_id={event_id}"))
        assert audit["drift"] == 0, audit["differences"]


@pytest.fixture
async def world(redis_url: str, database_url: str) -> AsyncIterator[World]:
    async with composed(redis_url, database_url) as services, connected(services) as client:
        yield World(services, client)


def ok(answer: httpx2.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def path_of(booking: dict[str, Any], step: str = "") -> str:
    return f"/v1/bookings/{booking['id']}{step}"


def seats_of(booking: dict[str, Any]) -> list[str]:
    return sorted(seat for item in booking["items"] for seat in item["seats"] or ())


CHANGES: dict[str, tuple[dict[str, Any], list[str], int, int]] = {
    # what is asked for → seats, places on the floor, amount; the booking had and two of the floor
    "one seat for another": (claim("A-1", "A-3", floor=2), ["A-1", "A-3"], 2, 27000),
    "seats for the other section": (claim(floor=4), [], 4, 18000),
    "a seat less": (claim("A-2", floor=2), ["A-2"], 2, 18000),
    "a seat more": (claim("A-1", "A-2", "B-1", floor=2), ["A-1", "A-2", "B-1"], 2, 36000),
    "more of the floor": (claim("A-1", "A-2", floor=5), ["A-1", "A-2"], 5, 40500),
    "less of the floor": (claim("A-1", "A-2", floor=1), ["A-1", "A-2"], 1, 22500),
    "nothing but seats": (claim("A-2", "A-1"), ["A-1", "A-2"], 0, 18000),
    "the best instead": ({"items": [{"section": "stalls", "best": 2}]}, ["A-3", "A-4"], 0, 18000),
    "the best beside what it has": (
        {"items": [{"section": "stalls", "seats": ["A-1"]}, {"section": "stalls", "best": 2}]},
        ["A-1", "A-3", "A-4"],
        0,
        27000,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_places_are_changed_to_what_was_asked_for(world: World, name: str) -> None:
    wish, seats, floor, amount = CHANGES[name]
    booking = await world.booked("A-1", "A-2", floor=2)

    changed = ok(await world.ana.patch(path_of(booking), wish))

    quantity = sum(item["quantity"] for item in changed["items"] if item["section"] == "floor")
    assert (seats_of(changed), quantity, changed["amount"]) == (seats, floor, amount)
    assert (changed["version"], changed["status"], changed["price"]["total"]) == (2, "confirmed", amount)
    assert ok(await world.ana.get(path_of(booking))) == changed
    await world.assert_no_drift(booking["event_id"])
    ((sold,),) = await world.postgres("SELECT sold FROM usage WHERE event_id = $1", booking["event_id"])
    assert sold == floor
    ((claimed,),) = await world.postgres("SELECT count(*) FROM claims WHERE event_id = $1", booking["event_id"])
    assert claimed == len(seats)
    free = {"floor": 5 - floor, "stalls": 6 - len(seats)}
    availability = ok(await world.ana.get(f"/v1/events/{booking['event_id']}/availability"))
    assert {section["id"]: section["free"] for section in availability["sections"]} == free
    history = ok(await world.ana.get(path_of(booking, "/history")))["items"]
    assert [(line["to"], line["reason"]) for line in history] == [
        ("confirmed", None),
        ("confirmed", "places changed"),
    ]
    told = await world.postgres("SELECT type, payload FROM outbox WHERE event_id = $1 ORDER BY id", booking["event_id"])
    assert told[-1]["type"] == "booking.updated"


async def test_what_is_given_up_can_be_booked_at_once_and_what_is_gained_cannot(world: World) -> None:
    booking = await world.booked("A-1")
    ok(await world.ana.patch(path_of(booking), claim("A-2")))

    await world.book(world.ben, booking["event_id"], "A-1")
    refused = await world.ben.post("/v1/bookings", {"event_id": booking["event_id"]} | claim("A-2"))
    assert (refused.status_code, refused.json()["code"]) == (409, "places-unavailable")
    await world.assert_no_drift(booking["event_id"])


async def test_what_cannot_be_had_is_named_and_the_booking_keeps_what_it_has(world: World) -> None:
    booking = await world.booked("A-1", floor=2)
    await world.book(world.ben, booking["event_id"], "A-2", "A-3", floor=3)

    refused = await world.ana.patch(path_of(booking), claim("A-2", "A-3", "A-4", floor=5))

    assert (refused.status_code, refused.json()["code"]) == (409, "places-unavailable")
    missing = {place.get("seat", place["section"]) for place in refused.json()["unavailable"]}
    assert missing == {"A-2", "A-3", "floor"}
    assert ok(await world.ana.get(path_of(booking))) == booking
    await world.assert_no_drift(booking["event_id"])
    await world.book(world.ben, booking["event_id"], "A-4")  # of what was refused nothing is held


@pytest.mark.parametrize(
    ("wish", "legs", "amount"),
    [
        ({"to": "OAK"}, ("SJC", "OAK"), 9000),
        ({"from": "PAO"}, ("PAO", "SFO"), 9000),
        ({"from": "PAO", "to": "OAK"}, ("PAO", "OAK"), 9000),
        ({"from": "SFO", "to": "OAK"}, ("SFO", "OAK"), 9000),
        ({"from": None, "to": None, "items": [{"section": "stalls", "best": 1}]}, ("SJC", "OAK"), 9000),
    ],
)
async def test_journey_is_lengthened_shortened_and_shifted(
    world: World, wish: dict[str, Any], legs: tuple[str, str], amount: int
) -> None:
    event_id = await open_event(world.olga, stops=STOPS)
    booking = await world.book(world.ana, event_id, "A-1", **{"from": "SJC", "to": "SFO"})

    changed = ok(await world.ana.patch(path_of(booking), wish))

    assert ((changed["from"], changed["to"]), changed["amount"]) == (legs, amount)
    await world.assert_no_drift(event_id)
    rows = await world.postgres("SELECT leg FROM claims WHERE event_id = $1 ORDER BY leg", event_id)
    assert [row["leg"] for row in rows] == list(range(STOPS.index(legs[0]), STOPS.index(legs[1])))


async def test_seat_that_is_missing_on_two_stretches_is_named_once(world: World) -> None:
    event_id = await open_event(world.olga, stops=STOPS)
    booking = await world.book(world.ana, event_id, "A-1", **{"from": "PAO", "to": "SFO"})
    for legs in ({"from": "SJC", "to": "PAO"}, {"from": "SFO", "to": "OAK"}):
        await world.book(world.ben, event_id, "A-1", **legs)

    refused = await world.ana.patch(path_of(booking), {"from": "SJC", "to": "OAK"})

    assert [place["seat"] for place in refused.json()["unavailable"]] == ["A-1"]
    await world.assert_no_drift(event_id)


async def test_limits_count_what_is_kept_once(world: World) -> None:
    policy = {"max_places_per_customer": 4, "max_places_per_hold": 3}
    booking = await world.booked("A-1", "A-2", "A-3", policy=policy)
    await world.book(world.ana, booking["event_id"], floor=1)

    ok(await world.ana.patch(path_of(booking), claim("A-1", "A-2", "A-4")))
    too_many = await world.ana.patch(path_of(booking), claim("A-1", "A-2", "A-3", "A-4"))
    assert too_many.json()["limit"] == "max_places_per_hold"
    ok(await world.ana.patch(path_of(booking), claim("A-1", "A-2")))
    await world.book(world.ana, booking["event_id"], floor=1)
    beyond = await world.ana.patch(path_of(booking), claim("A-1", "A-2", "A-3"))
    assert (beyond.status_code, beyond.json()["limit"]) == (409, "max_places_per_customer")


async def test_guest_and_places_are_changed_in_one_step(world: World) -> None:
    booking = await world.booked("A-1")
    changed = ok(await world.ana.patch(path_of(booking), claim("A-2") | {"notes": "aisle, please"}))
    assert (seats_of(changed), changed["notes"], changed["version"]) == (["A-2"], "aisle, please", 2)
    same = ok(await world.ana.patch(path_of(booking), claim("A-2") | {"notes": "window"}))
    assert (same["notes"], same["version"]) == ("window", 3)
    assert ok(await world.ana.patch(path_of(booking), claim("A-2")))["version"] == 3


async def test_attendees_named_for_seats_that_are_given_up_stay_until_somebody_names_others(world: World) -> None:
    booking = await world.booked("A-1")
    ok(await world.ana.patch(path_of(booking), {"attendees": [{"name": "Rui", "seat": "A-1"}]}))
    moved = ok(await world.ana.patch(path_of(booking), claim("A-2")))
    assert (seats_of(moved), moved["attendees"]) == (["A-2"], [{"name": "Rui", "seat": "A-1"}])
    ok(await world.ana.patch(path_of(booking), {"notes": "aisle, please"}))
    named = {"attendees": [{"name": "Rui", "seat": "A-3"}]}
    assert ok(await world.ana.patch(path_of(booking), named), 422)["path"] == "$.attendees[0].seat"
    both = ok(await world.ana.patch(path_of(booking), claim("A-3") | named))
    assert (seats_of(both), both["attendees"]) == (["A-3"], named["attendees"])


async def test_version_and_status_decide_before_anything_is_held(world: World) -> None:
    booking = await world.booked("A-1")
    stale = await world.ana.patch(path_of(booking), claim("A-2") | {"expected_version": 7})
    assert (stale.status_code, stale.json()["code"]) == (409, "version-conflict")
    ok(await world.ana.post(path_of(booking, "/cancel"), {}))
    ended = await world.ana.patch(path_of(booking), claim("A-2"))
    assert (ended.status_code, ended.json()["code"]) == (409, "invalid-transition")
    await world.book(world.ben, booking["event_id"], "A-1", "A-2")


async def test_strangers_do_not_learn_that_there_is_a_booking(world: World) -> None:
    booking = await world.booked("A-1")
    for person in (world.ben, world.otto):
        assert (await person.patch(path_of(booking), claim("A-2"))).status_code == 404
        assert (await person.post(path_of(booking, "/transfer"), {"customer_id": "ben"})).status_code == 404


async def test_after_the_sale_customers_only_give_up_and_organizers_do_everything(world: World) -> None:
    booking = await world.booked("A-1", "A-2")
    ok(await world.olga.post(f"/v1/events/{booking['event_id']}/close"))

    refused = await world.ana.patch(path_of(booking), claim("A-1", "A-3"))
    assert (refused.status_code, refused.json()["code"]) == (409, "event-not-open")
    assert seats_of(ok(await world.ana.patch(path_of(booking), claim("A-1")))) == ["A-1"]
    assert seats_of(ok(await world.olga.patch(path_of(booking), claim("A-1", "A-3")))) == ["A-1", "A-3"]


async def test_after_the_sale_an_organizer_does_not_wait_for_a_line_that_nobody_asks(world: World) -> None:
    booking = await world.booked("A-1", policy={"waitlist": True})
    event_id = booking["event_id"]
    held = ok(await world.ben.post(f"/v1/events/{event_id}/holds", claim("A-2")), 201)
    ok(await world.ana.post(f"/v1/events/{event_id}/waitlist", claim("A-2")), 201)
    ok(await world.olga.post(f"/v1/events/{event_id}/close"))
    assert (await world.ben.delete(f"/v1/holds/{held['id']}")).status_code == 204

    assert seats_of(ok(await world.olga.patch(path_of(booking), claim("A-1", "A-3")))) == ["A-1", "A-3"]
    await world.assert_no_drift(event_id)


async def test_key_makes_a_change_once(world: World) -> None:
    booking = await world.booked("A-1")
    for replayed in (None, "true"):
        answer = await world.ana.patch(path_of(booking), claim("A-2"), idempotency_key="k")
        assert (ok(answer)["version"], answer.headers.get("idempotent-replayed")) == (2, replayed)
    reused = await world.ana.patch(path_of(booking), claim("A-3"), idempotency_key="k")
    assert reused.json()["code"] == "idempotency-key-reused"
    await world.assert_no_drift(booking["event_id"])


async def test_cheaper_places_of_a_paid_booking_are_granted_back_by_the_tiers(world: World) -> None:
    booking = await world.booked("A-1", "A-2")
    await world.pay_for(booking)
    changed = ok(await world.ana.patch(path_of(booking), claim("A-1")))
    assert (changed["amount"], changed["refunded"], changed["price"]["total"]) == (18000, 9000, 9000)

    policy = {"refunds": [{"hours_before": 1_000_000 // 200, "percent": 50}]}
    booking = await world.booked("A-1", "A-2", policy=policy)
    await world.pay_for(booking)
    assert ok(await world.ana.patch(path_of(booking), claim("A-1")))["refunded"] == 4500
    assert ok(await world.olga.patch(path_of(booking), claim(floor=1)))["refunded"] == 4500 + 4500


async def test_dearer_places_of_a_booking_that_no_provider_knows_of_need_to_be_paid_for(world: World) -> None:
    booking = await world.booked("A-1")
    await world.pay_for(booking)
    refused = await world.ana.patch(path_of(booking), claim("A-1", "A-2"))
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.payment")
    await world.assert_no_drift(booking["event_id"])
    await world.book(world.ben, booking["event_id"], "A-2")


async def test_booking_that_was_refunded_in_full_is_not_upgraded_for_nothing(world: World) -> None:
    booking = await world.booked("A-1")
    await world.postgres(
        "UPDATE bookings SET payment_status = 'refunded', refunded = amount WHERE event_id = $1", booking["event_id"]
    )
    refused = await world.ana.patch(path_of(booking), claim("A-1", "A-2"))
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.payment")


async def test_two_who_want_each_other_s_seats_both_keep_their_own(world: World) -> None:
    booking = await world.booked("A-1")
    other = await world.book(world.ben, booking["event_id"], "A-2")

    answers = await asyncio.gather(
        world.ana.patch(path_of(booking), claim("A-2")), world.ben.patch(path_of(other), claim("A-1"))
    )

    assert [answer.status_code for answer in answers] == [409, 409]
    assert seats_of(ok(await world.ana.get(path_of(booking)))) == ["A-1"]
    assert seats_of(ok(await world.ben.get(path_of(other)))) == ["A-2"]
    await world.assert_no_drift(booking["event_id"])


# --- transfer --------------------------------------------------------------------------------------------------------


async def test_transferred_booking_is_the_receiver_s_and_nobody_else_s(world: World) -> None:
    booking = await world.booked("A-1", floor=1)

    answer = await world.ana.post(path_of(booking, "/transfer"), {"customer_id": "ben"}, idempotency_key="k")

    given = ok(answer)
    assert (given["customer_id"], given["version"], given["status"]) == ("ben", 2, "confirmed")
    assert (await world.ana.get(path_of(booking))).status_code == 404
    assert ok(await world.ben.get(path_of(booking))) == given
    again = await world.ana.post(path_of(booking, "/transfer"), {"customer_id": "ben"}, idempotency_key="k")
    assert (ok(again)["version"], again.headers["idempotent-replayed"]) == (2, "true")
    assert (await world.ana.post(path_of(booking, "/transfer"), {"customer_id": "cy"})).status_code == 404
    await world.assert_no_drift(booking["event_id"])
    ok(await world.ben.patch(path_of(booking), claim("A-2")))
    ok(await world.olga.post(path_of(booking, "/transfer"), {"customer_id": "cy"}))
    history = ok(await world.olga.get(path_of(booking, "/history")))["items"]
    assert [(line["actor"], line["reason"]) for line in history[1:]] == [
        ("ana", "transferred"),
        ("ben", "places changed"),
        ("olga", "transferred"),
    ]
    await world.assert_no_drift(booking["event_id"])


async def test_receiver_hears_nothing_that_the_giver_has_said_of_people(world: World) -> None:
    event_id = await open_event(world.olga)
    said = {
        "guest": {"name": "Ana", "email": "ana@example.org"},
        "attendees": [{"name": "Ana", "seat": "A-1"}],
        "notes": "by the aisle, for my leg",
        "metadata": {"campaign": "spring"},
    }
    booking = ok(await world.ana.post("/v1/bookings", {"event_id": event_id} | claim("A-1") | said), 201)

    transfer = path_of(booking, "/transfer")
    wrong = await world.ana.post(transfer, {"customer_id": "ben", "attendees": [{"name": "Ben", "seat": "A-2"}]})
    assert (wrong.status_code, wrong.json()["path"]) == (422, "$.attendees[0].seat")
    assert ok(await world.ana.get(path_of(booking))) == booking
    given = ok(await world.ana.post(transfer, {"customer_id": "ben"}))

    told = ("guest", "attendees", "notes", "metadata")
    assert [given[name] for name in told] == [None, [], None, {"campaign": "spring"}]
    assert ok(await world.ben.get(path_of(booking))) == given
    anew = {"guest": {"name": "Cy"}, "attendees": [{"name": "Cy", "seat": "A-1"}], "notes": "late"}
    given = ok(await world.ben.post(transfer, {"customer_id": "cy"} | anew))
    assert {name: given[name] for name in anew} == anew


async def test_receiver_s_limit_and_the_one_booking_of_an_event_are_kept(world: World) -> None:
    booking = await world.booked("A-1", "A-2", policy={"max_places_per_customer": 3})
    await world.book(world.ben, booking["event_id"], "A-3", "A-4")
    refused = await world.ana.post(path_of(booking, "/transfer"), {"customer_id": "ben"})
    assert (refused.status_code, refused.json()["limit"]) == (409, "max_places_per_customer")

    booking = await world.booked("A-1", policy={"one_booking_per_customer": True})
    await world.book(world.ben, booking["event_id"], "A-3")
    refused = await world.ana.post(path_of(booking, "/transfer"), {"customer_id": "ben"})
    assert (refused.status_code, refused.json()["limit"]) == (409, "one_booking_per_customer")
    assert ok(await world.ana.get(path_of(booking))) == booking
    await world.assert_no_drift(booking["event_id"])


async def test_of_two_transfers_at_once_one_is_made(world: World) -> None:
    booking = await world.booked("A-1")
    answers = await asyncio.gather(
        *(world.ana.post(path_of(booking, "/transfer"), {"customer_id": name}) for name in ("ben", "cy", "dan"))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404]
    await world.assert_no_drift(booking["event_id"])


async def test_old_keys_do_not_show_what_the_receiver_says_of_a_booking_that_was_given_away(world: World) -> None:
    event_id = await open_event(world.olga)
    hold = ok(await world.ana.post(f"/v1/events/{event_id}/holds", claim("A-1")), 201)
    asked = ("/v1/bookings", {"hold_id": hold["id"]})
    at_once = ("/v1/bookings", {"event_id": event_id} | claim("A-3"))
    booking = ok(await world.ana.post(*asked, idempotency_key="book"), 201)
    other = ok(await world.ana.post(*at_once, idempotency_key="at once"), 201)
    ok(await world.ana.patch(path_of(booking), claim("A-2"), idempotency_key="change"))
    give = (path_of(booking, "/transfer"), {"customer_id": "ben"})
    ok(await world.ana.post(*give, idempotency_key="give"))
    ok(await world.ana.post(path_of(other, "/transfer"), {"customer_id": "ben"}))
    for each in (booking, other):
        ok(await world.ben.patch(path_of(each), {"guest": {"name": "Ben's child"}}))

    answers = [
        await world.ana.post(*asked, idempotency_key="book"),
        await world.ana.post(*at_once, idempotency_key="at once"),
        await world.ana.patch(path_of(booking), claim("A-2"), idempotency_key="change"),
        await world.ana.post(*give, idempotency_key="give"),
    ]

    assert [(answer.status_code, "child" in answer.text) for answer in answers] == [(404, False)] * 4


@pytest.mark.parametrize("name", ["ben\n", "ben\x7f", "\t"])
async def test_nobody_is_given_a_booking_whom_no_token_could_name(world: World, name: str) -> None:
    booking = await world.booked("A-1")
    refused = await world.ana.post(path_of(booking, "/transfer"), {"customer_id": name})
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.customer_id")
    refused = await world.ana.patch(path_of(booking), {"guest": {"email": "ben@example.org\n"}})
    assert refused.status_code == 422
