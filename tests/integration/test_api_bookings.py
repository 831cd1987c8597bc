"""Bookings over HTTP: made from a hold or in one step, read, listed; seen by those they concern and nobody else."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from api_app import Person, claim, composed, connected, open_event
from stores import on_both_stores, open_client

pytestmark = on_both_stores

GUEST = {"name": "Ana Ruiz", "email": "ana@example.org", "phone": "+34 600 000 000"}


@pytest.fixture
async def client(redis_url: str, database_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with composed(redis_url, database_url) as services, connected(services) as opened:
        yield opened


@pytest.fixture
def ana(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ana", "customer")


@pytest.fixture
def ben(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ben", "customer")


@pytest.fixture
def olga(client: httpx2.AsyncClient) -> Person:
    return Person(client, "olga", "organizer")


async def hold_of(person: Person, event_id: str, *seats: str, floor: int = 0) -> str:
    response = await person.post(f"/v1/events/{event_id}/holds", claim(*seats, floor=floor))
    assert response.status_code == 201, response.text
    hold_id: str = response.json()["id"]
    return hold_id


async def booking_of(person: Person, event_id: str, *seats: str, floor: int = 0) -> dict[str, Any]:
    response = await person.post("/v1/bookings", {"event_id": event_id} | claim(*seats, floor=floor))
    assert response.status_code == 201, response.text
    booking: dict[str, Any] = response.json()
    return booking


def without_request_id(response: httpx2.Response) -> dict[str, object]:
    return {name: value for name, value in response.json().items() if name != "request_id"}


async def test_booking_of_a_hold_answers_201_with_everything_that_was_said(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    hold_id = await hold_of(ana, event_id, "A-1", "A-2")
    request = {
        "hold_id": hold_id,
        "guest": GUEST,
        "attendees": [{"name": "Ana Ruiz", "seat": "A-1"}],
        "notes": "wheelchair",
        "metadata": {"campaign": "spring"},
    }
    response = await ana.post("/v1/bookings", request)
    assert response.status_code == 201
    booking = response.json()
    assert response.headers["location"] == f"/v1/bookings/{booking['id']}"
    assert response.headers["etag"] == f'"{booking["version"]}"'
    assert (booking["status"], booking["payment_status"], booking["amount"]) == ("confirmed", "none", 18000)
    assert booking["customer_id"] == "ana"
    assert booking["reference"].startswith("HF-")
    assert {name: booking[name] for name in ("guest", "attendees", "notes", "metadata")} == {
        name: request[name] for name in ("guest", "attendees", "notes", "metadata")
    }
    assert (await ana.get(f"/v1/bookings/{booking['id']}")).json() == booking
    assert (await ana.get(f"/v1/bookings/by-reference/{booking['reference'].lower()}")).json() == booking


async def test_booking_in_one_step_needs_no_hold(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    booking = await booking_of(ana, event_id, "B-3", floor=1)
    assert [item["section"] for item in booking["items"]] == ["stalls", "floor"]
    availability = (await ana.get(f"/v1/events/{event_id}/availability")).json()
    assert [section["sold"] for section in availability["sections"]] == [1, 1]


async def test_hold_that_became_a_booking_answers_410_with_the_booking(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    hold_id = await hold_of(ana, event_id, "A-1")
    booking = (await ana.post("/v1/bookings", {"hold_id": hold_id})).json()
    for response in (
        await ana.get(f"/v1/holds/{hold_id}"),
        await ana.delete(f"/v1/holds/{hold_id}"),
        await ana.post("/v1/bookings", {"hold_id": hold_id}),
    ):
        assert (response.status_code, response.json()["code"]) == (410, "hold-confirmed")
        assert response.json()["booking_id"] == booking["id"]


async def test_booking_repeated_under_its_key_is_the_same_booking(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    for request in ({"hold_id": await hold_of(ana, event_id, "A-1")}, {"event_id": event_id} | claim("A-2")):
        key = f"key-{'hold_id' in request}"
        first = await ana.post("/v1/bookings", request, idempotency_key=key)
        again = await ana.post("/v1/bookings", request, idempotency_key=key)
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json()["id"] == first.json()["id"]
        assert again.headers["idempotent-replayed"] == "true"
        other = await ana.post("/v1/bookings", request | {"notes": "changed"}, idempotency_key=key)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


async def test_booking_repeated_under_its_key_is_told_as_it_is_now(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    request = {"event_id": event_id} | claim("A-1")
    booking = (await ana.post("/v1/bookings", request, idempotency_key="k")).json()
    cancelled = (await ana.post(f"/v1/bookings/{booking['id']}/cancel", {})).json()

    again = await ana.post("/v1/bookings", request, idempotency_key="k")

    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert (again.json()["status"], again.json()["version"]) == ("cancelled", 2)
    assert again.json() == cancelled


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({}, "$.hold_id"),
        ({"event_id": "e"}, "$.items"),
        ({"hold_id": "h", "event_id": "e"}, "$.event_id"),
        ({"hold_id": "h", "items": [{"section": "floor", "quantity": 1}]}, "$.items"),
        ({"hold_id": "h", "from": "SJC"}, "$.from"),
        ({"hold_id": "h", "price": 1}, "$.price"),
        ({"hold_id": "h", "status": "confirmed"}, "$.status"),
        ({"hold_id": "h", "customer_id": "eve"}, "$.customer_id"),
        ({"hold_id": "h", "guest": {"email": "nobody"}}, "$.guest.email"),
        ({"hold_id": "h", "guest": {"age": 7}}, "$.guest.age"),
        ({"hold_id": "h", "metadata": {"n": 2**60}}, "$.metadata.n"),
        ({"hold_id": "h", "notes": "a\0b"}, "$.notes"),
    ],
)
async def test_booking_is_refused_with_the_json_path_of_what_is_wrong(
    ana: Person, members: dict[str, Any], path: str
) -> None:
    response = await ana.post("/v1/bookings", members)
    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    assert response.json()["path"] == path


@pytest.mark.parametrize(
    ("attendees", "path"),
    [
        ([{"name": "Ana"}, {"name": "Ben"}, {"name": "Cem"}], "$.attendees"),
        ([{"seat": "A-1"}, {"name": "Ben", "seat": "A-1"}], "$.attendees[1].seat"),
        ([{"seat": "A-1"}, {"name": "Ben", "seat": "A-3"}], "$.attendees[1].seat"),
        ([{"section": "floor"}], "$.attendees[0].section"),
    ],
)
async def test_attendees_who_have_no_place_are_refused_and_the_hold_lives_on(
    ana: Person, olga: Person, attendees: list[dict[str, str]], path: str
) -> None:
    event_id = await open_event(olga)
    one_step = await ana.post("/v1/bookings", {"event_id": event_id, "attendees": attendees} | claim("A-1", "A-2"))
    hold_id = await hold_of(ana, event_id, "A-1", "A-2")
    of_hold = await ana.post("/v1/bookings", {"hold_id": hold_id, "attendees": attendees})
    for refused in (one_step, of_hold):
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid-request")
        assert refused.json()["path"] == path
    assert (await ana.get(f"/v1/holds/{hold_id}")).json()["status"] == "active"
    right = {"hold_id": hold_id, "attendees": [{"seat": "A-2"}, {"section": "stalls"}]}
    assert (await ana.post("/v1/bookings", right)).status_code == 201


async def test_booking_with_attendees_repeated_under_its_key_is_the_same_booking(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    who = {"attendees": [{"name": "Ana", "seat": "A-1"}]}
    request = {"hold_id": await hold_of(ana, event_id, "A-1")} | who
    first, again = [await ana.post("/v1/bookings", request, idempotency_key="who") for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["id"] == first.json()["id"]
    late = await ana.post("/v1/bookings", request)
    assert (late.status_code, late.json()["code"]) == (410, "hold-confirmed")


async def test_what_is_wrong_with_the_items_is_told_before_their_attendees_are_looked_at(
    ana: Person, olga: Person
) -> None:
    request = {"event_id": await open_event(olga), "attendees": [{"seat": "Z-9"}]} | claim("Z-9")
    assert (await ana.post("/v1/bookings", request)).json()["path"] == "$.items[0].seats[0]"


async def test_table_seats_as_many_attendees_as_it_fits(ana: Person, olga: Person) -> None:
    tables = [{"id": "T", "seats": [{"id": "1", "fits": 2}]}]
    event_id = await open_event(olga, sections=[{"id": "room", "price": 0, "rows": tables}])
    request = {"event_id": event_id, "items": [{"section": "room", "seats": ["T-1"]}]}
    too_many = await ana.post("/v1/bookings", request | {"attendees": [{"seat": "T-1"}] * 3})
    assert (too_many.status_code, too_many.json()["path"]) == (422, "$.attendees")
    assert (await ana.post("/v1/bookings", request | {"attendees": [{"seat": "T-1"}] * 2})).status_code == 201


async def test_booking_against_payment_is_refused_where_nobody_takes_any_and_the_hold_lives_on(
    ana: Person, olga: Person
) -> None:
    event_id = await open_event(olga, policy={"payment": "required"})
    hold_id = await hold_of(ana, event_id, "A-1")
    payment = {"payment": {"provider": "simulator", "method": "sim_ok"}}
    for request in ({"hold_id": hold_id}, {"event_id": event_id} | claim("A-2")):
        response = await ana.post("/v1/bookings", request | payment)
        assert (response.status_code, response.json()["path"]) == (422, "$.payment.provider")
    assert (await ana.get(f"/v1/holds/{hold_id}")).json()["status"] == "active"


async def test_payment_is_not_looked_at_where_the_event_asks_for_none(ana: Person, olga: Person) -> None:
    hold_id = await hold_of(ana, await open_event(olga), "A-1")
    request = {"hold_id": hold_id, "payment": {"provider": "simulator", "method": "sim_ok"}}
    response = await ana.post("/v1/bookings", request)
    assert (response.status_code, response.json()["payment_status"]) == (201, "none")  # as the guide to payments says


async def test_hold_of_somebody_else_cannot_be_booked_and_looks_like_none(
    ana: Person, ben: Person, olga: Person
) -> None:
    event_id = await open_event(olga)
    hold_id = await hold_of(ana, event_id, "A-1")
    theirs = await ben.post("/v1/bookings", {"hold_id": hold_id})
    missing = await ben.post("/v1/bookings", {"hold_id": f"01jt2x9k4mzq8v7c5e3h1n6b0r~{event_id}"})
    garbage = await ben.post("/v1/bookings", {"hold_id": "garbage"})
    assert theirs.status_code == missing.status_code == garbage.status_code == 404
    assert without_request_id(theirs) == without_request_id(missing) == without_request_id(garbage)
    assert (await ana.get(f"/v1/holds/{hold_id}")).status_code == 200


async def test_booking_is_seen_by_its_customer_its_organizer_and_admins_only(
    client: httpx2.AsyncClient, ana: Person, ben: Person, olga: Person
) -> None:
    booking = await booking_of(ana, await open_event(olga), "A-1")
    for person in (ana, olga, Person(client, "root", "admin")):
        assert (await person.get(f"/v1/bookings/{booking['id']}")).status_code == 200
    for person in (ben, Person(client, "otto", "organizer"), Person(client, "olga", "customer")):
        theirs = await person.get(f"/v1/bookings/{booking['id']}")
        missing = await person.get(f"/v1/bookings/01jt2x9k4mzq8v7c5e3h1n6b0r~{booking['event_id']}")
        by_reference = await person.get(f"/v1/bookings/by-reference/{booking['reference']}")
        assert theirs.status_code == missing.status_code == by_reference.status_code == 404
        assert without_request_id(theirs) == without_request_id(missing) == without_request_id(by_reference)


@pytest.mark.parametrize("reference", ["HF-0000-0000", "garbage", "HF-7K3M-9QXP", "%00", "a b"])
async def test_reference_of_no_booking_is_a_404(ana: Person, reference: str) -> None:
    assert (await ana.get(f"/v1/bookings/by-reference/{reference}")).status_code == 404


async def test_booking_is_not_sent_again_to_who_has_its_version(ana: Person, olga: Person) -> None:
    booking = await booking_of(ana, await open_event(olga), "A-1")
    path = f"/v1/bookings/{booking['id']}"
    for tag, status in (('"1"', 304), ('W/"1"', 304), ('"7", "1"', 304), ("*", 304), ('"2"', 200), ("1", 200)):
        response = await ana.get(path, if_none_match=tag)
        assert response.status_code == status, tag
        assert response.headers["etag"] == '"1"'
        assert (response.content == b"") == (status == 304)


async def test_own_bookings_are_listed_the_newest_first_in_pages(ana: Person, ben: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    made = [(await booking_of(ana, event_id, seat))["id"] for seat in ("A-1", "A-2", "A-3")]
    await booking_of(ben, event_id, "A-4")
    first = await ana.get("/v1/bookings?limit=2")
    assert [booking["id"] for booking in first.json()["items"]] == made[:0:-1]
    assert first.links["next"]["url"] == f"/v1/bookings?limit=2&cursor={first.json()['next_cursor']}"
    second = await ana.get(first.links["next"]["url"])
    assert [booking["id"] for booking in second.json()["items"]] == made[:1]
    assert second.json()["next_cursor"] is None
    assert "link" not in second.headers


async def test_listing_is_narrowed_by_its_parameters(ana: Person, olga: Person) -> None:
    one, other = await open_event(olga), await open_event(olga)
    first, second = await booking_of(ana, one, "A-1"), await booking_of(ana, other, "A-1")
    first_day, last_day = first["created_at"][:10], second["created_at"][:10]
    for query, expected in (
        (f"event_id={one}", [first]),
        (f"from_date={first_day}&to_date={last_day}", [second, first]),  # of a date the whole day
        (f"to_date={second['created_at']}", [first]),  # of a moment what was before
        (f"to_date={first_day}T00:00:00Z", []),
        ("status=confirmed", [second, first]),
        ("status=cancelled", []),
        (f"q={second['reference']}", [second]),
        (f"q={first['id']}", [first]),
        ("q=nothing", []),
        ("from_date=2030-01-01", []),
        ("from_date=2020-01-01&to_date=2035-01-01T00:00:00Z", [second, first]),
        ("customer_id=ana", [second, first]),
    ):
        response = await ana.get(f"/v1/bookings?{query}")
        assert response.status_code == 200, query
        assert [booking["id"] for booking in response.json()["items"]] == [booking["id"] for booking in expected], query


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=garbage", "cursor"),
        ("cursor=WzFd!", "cursor"),
        ("status=lost", "status"),
        ("from_date=tomorrow!!", "from_date"),
        ("evnet_id=e", "evnet_id"),
        ("event_id=UPPER", "event_id"),
        ("q=a%00b", "q"),
    ],
)
async def test_listing_is_refused_with_the_name_of_the_wrong_parameter(ana: Person, query: str, path: str) -> None:
    response = await ana.get(f"/v1/bookings?{query}")
    assert (response.status_code, response.json()["path"]) == (422, path)


@pytest.mark.parametrize("path", ["/v1/bookings", "/v1/bookings/upcoming", "/v1/events"])
@pytest.mark.parametrize(
    "key",
    [
        b"[%d]" % 10**30,
        b"[-1]",
        b'["2035-05-01T19:00:00Z", %d]' % 10**30,
        b'["2035-05-01T19:00:00Z", "x"]',
        b'["2035-05-01T19:00:00", 1]',
        b'["0001-01-01T00:00:00+14:00", 1]',
        rb'["2035-05-01T19:00:00Z", "\u0000"]',
        b"[[]]",
    ],
)
async def test_cursor_that_somebody_made_up_is_no_failure(ana: Person, path: str, key: bytes) -> None:
    cursor = base64.urlsafe_b64encode(key).decode().rstrip("=")
    assert (await ana.get(f"{path}?cursor={cursor}")).status_code in (200, 422)


async def test_customer_cannot_list_what_is_somebody_elses(ana: Person, ben: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    await booking_of(ana, event_id, "A-1")
    assert (await ben.get("/v1/bookings")).json()["items"] == []
    assert (await ben.get(f"/v1/bookings?event_id={event_id}")).json()["items"] == []
    assert (await ben.get("/v1/bookings?customer_id=ana")).status_code == 403
    assert (await ben.get(f"/v1/events/{event_id}/bookings")).status_code == 403


async def test_organizer_lists_the_bookings_of_their_events_and_no_others(
    client: httpx2.AsyncClient, ana: Person, ben: Person, olga: Person
) -> None:
    otto = Person(client, "otto", "organizer")
    mine, theirs = await open_event(olga), await open_event(otto)
    booked = [await booking_of(ana, mine, "A-1"), await booking_of(ben, mine, "A-2")]
    await booking_of(ana, theirs, "A-1")
    ids = [booking["id"] for booking in reversed(booked)]
    assert [booking["id"] for booking in (await olga.get("/v1/bookings")).json()["items"]] == ids
    assert [booking["id"] for booking in (await olga.get(f"/v1/events/{mine}/bookings")).json()["items"]] == ids
    assert [b["id"] for b in (await olga.get("/v1/bookings?customer_id=ben")).json()["items"]] == ids[:1]
    assert (await olga.get(f"/v1/bookings?event_id={theirs}")).json()["items"] == []
    assert (await olga.get(f"/v1/events/{theirs}/bookings")).status_code == 403
    everything = (await Person(client, "root", "admin").get("/v1/bookings")).json()["items"]
    assert len(everything) == 3


async def test_upcoming_bookings_are_those_of_events_to_come(ana: Person, olga: Person) -> None:
    later = await open_event(olga, starts_at="2035-06-01T19:00:00Z")
    sooner = await open_event(olga, starts_at="2035-05-01T19:00:00Z")
    expected = [await booking_of(ana, event, "A-1") for event in (later, sooner)]
    response = await ana.get("/v1/bookings/upcoming")
    assert [booking["id"] for booking in response.json()["items"]] == [booking["id"] for booking in reversed(expected)]
    page = await ana.get("/v1/bookings/upcoming?limit=1")
    assert (await ana.get(page.links["next"]["url"])).json()["items"] == [expected[0]]


@pytest.mark.parametrize(
    "path", ["/v1/events", "/v1/bookings", "/v1/bookings/upcoming", "/v1/waitlist", "/v1/admin/bookings"]
)
async def test_lists_name_only_the_events_that_a_token_is_confined_to_in_pages_that_are_full(
    path: str, client: httpx2.AsyncClient, ana: Person, ben: Person, olga: Person
) -> None:
    events = [await open_event(olga) for _ in range(4)]
    for event_id in events:
        await booking_of(ana, event_id, "A-1")
        await hold_of(ben, event_id, floor=5)
        assert (await ana.post(f"/v1/events/{event_id}/waitlist", claim(floor=1))).status_code == 201
    mine = {events[0], events[3]}
    roles = ("admin", "service") if "admin" in path else ("customer", "service")
    kiosk = Person(client, "ana", *roles, scope=sorted(mine))

    seen, url = [], f"{path}?limit=1"
    while url:
        page = await kiosk.get(url)
        (item,) = page.json()["items"]
        seen.append(item.get("event_id", item["id"]))
        url = page.links["next"]["url"] if page.json()["next_cursor"] else ""

    assert len(seen) == len(mine)
    assert set(seen) == mine
    nowhere = Person(client, "ana", *roles, scope=[])
    assert (await nowhere.get(path)).json() == {"items": [], "next_cursor": None}


async def test_nothing_of_a_guest_is_in_redis(ana: Person, olga: Person, redis_url: str) -> None:
    hold_id = await hold_of(ana, await open_event(olga), "A-1")
    await ana.post("/v1/bookings", {"hold_id": hold_id, "guest": GUEST, "notes": "wheelchair"}, idempotency_key="k1")
    with open_client(redis_url) as server:
        dump = b"".join(server.dump(key) or b"" for key in server.scan_iter())
    assert dump
    for secret in (b"Ruiz", b"example.org", b"600 000", b"wheelchair"):
        assert secret not in dump
