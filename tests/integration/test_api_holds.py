"""Holds over HTTP: placed, read, extended, released; alone, in groups, in batches; and nobody else's."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from api_app import Person, claim, composed, connected, event_definition, open_event
from stores import on_both_stores

pytestmark = on_both_stores


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


def without_request_id(response: httpx2.Response) -> dict[str, object]:
    return {name: value for name, value in response.json().items() if name != "request_id"}


async def test_hold_answers_201_with_lines_amount_deadline_and_location(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    response = await ana.post(f"/v1/events/{event_id}/holds", claim("A-1", "A-2", floor=2, ttl=60))
    assert response.status_code == 201
    hold = response.json()
    assert response.headers["location"] == f"/v1/holds/{hold['id']}"
    assert hold["items"] == [
        {"section": "stalls", "quantity": 2, "seats": ["A-1", "A-2"], "price": 9000, "amount": 18000},
        {"section": "floor", "quantity": 2, "seats": None, "price": 4500, "amount": 9000},
    ]
    assert (hold["status"], hold["amount"], hold["currency"], hold["ttl"]) == ("active", 27000, "EUR", 60)
    assert hold["expires_at"].endswith("Z")
    assert (await ana.get(f"/v1/holds/{hold['id']}")).json() == hold


async def test_hold_of_best_places_answers_which_they_are(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    response = await ana.post(f"/v1/events/{event_id}/holds", {"items": [{"section": "stalls", "best": 3}]})
    assert response.status_code == 201
    assert len(response.json()["items"][0]["seats"]) == 3


async def test_hold_is_refused_with_everything_that_was_not_to_be_had(ana: Person, ben: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    await ana.post(f"/v1/events/{event_id}/holds", claim("A-1", "A-2", floor=4))
    response = await ben.post(f"/v1/events/{event_id}/holds", claim("A-2", "A-3", floor=3))
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == "places-unavailable"
    assert problem["unavailable"] == [
        {"section": "stalls", "seat": "A-2"},
        {"section": "floor", "requested": 3, "free": 1},
    ]
    assert problem["sold"] == 0
    assert problem["held"] > 0
    assert problem["next_release_at"].endswith("Z")
    seats = (await ben.get(f"/v1/events/{event_id}/availability")).json()
    assert [section["held"] for section in seats["sections"]] == [4, 2]


async def test_no_time_is_named_for_places_that_do_not_come_back(ana: Person, ben: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    sold = (await ana.post("/v1/bookings", {"event_id": event_id} | claim("A-1"))).status_code
    held = (await ana.post(f"/v1/events/{event_id}/holds", claim(floor=1))).json()
    refused = (await ben.post(f"/v1/events/{event_id}/holds", claim("A-1"))).json()
    assert (sold, refused["held"], refused["sold"], refused["next_release_at"]) == (201, 0, 1, None)
    refused = (await ben.post(f"/v1/events/{event_id}/holds", claim("A-1", floor=5))).json()
    assert (refused["held"], refused["sold"], refused["next_release_at"]) == (1, 1, held["expires_at"])
    booked = await ben.post("/v1/bookings", {"event_id": event_id} | claim("A-1"))
    assert (booked.json()["held"], booked.json()["next_release_at"]) == (0, None)


async def test_availability_of_legs_that_nobody_holds_names_no_time(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga, stops=["a", "b", "c"])
    held = (await ana.post(f"/v1/events/{event_id}/holds", claim("A-1") | {"from": "a", "to": "b"})).json()
    of_range = [
        (await ana.get(f"/v1/events/{event_id}/availability?from={first}&to={last}")).json()["next_release_at"]
        for first, last in ("ab", "bc", "ac")
    ]
    assert of_range == [held["expires_at"], None, held["expires_at"]]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"items": [{"section": "circle", "quantity": 1}]}, "$.items[0].section"),
        ({"items": [{"section": "stalls", "seats": ["A-1", "Z-9"]}]}, "$.items[0].seats[1]"),
        ({"items": [{"section": "floor"}]}, "$.items[0]"),
        ({"items": [{"section": "floor", "quantity": 1}], "from": "SJC"}, "$.from"),
        ({"items": [{"section": "floor", "quantity": 1}], "ttl": 0}, "$.ttl"),
        ({"items": [{"section": "floor", "quantity": 1, "price": 1}]}, "$.items[0].price"),
    ],
)
async def test_hold_is_refused_with_the_json_path_of_what_is_wrong(
    ana: Person, olga: Person, body: object, path: str
) -> None:
    event_id = await open_event(olga)
    response = await ana.post(f"/v1/events/{event_id}/holds", body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    assert response.json()["path"] == path
    assert response.json()["errors"][0]["path"] == path


async def test_hold_is_refused_when_the_event_is_not_open(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    await olga.post(f"/v1/events/{event_id}/close")
    response = await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))
    assert (response.status_code, response.json()["code"]) == (409, "event-not-open")
    assert response.json()["event_status"] == "closed"
    assert response.json()["sales_ended_at"] is None
    assert "closed" in response.json()["detail"]


async def test_hold_after_the_end_of_sale_hears_when_that_was(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga, starts_at="2023-05-01T19:00:00Z", policy={"sales_close_before": 3600})
    response = await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))
    assert (response.status_code, response.json()["code"]) == (409, "event-not-open")
    assert response.json()["sales_ended_at"] == "2023-05-01T18:00:00Z"
    assert "ended at 2023-05-01T18:00:00Z, 3600 seconds before its start" in response.json()["detail"]


async def test_hold_of_an_event_that_has_begun_hears_that_its_sale_ended_with_its_start(
    ana: Person, olga: Person
) -> None:
    event_id = await open_event(olga, starts_at="2023-05-01T21:00:00+02:00")
    response = await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))
    assert (response.status_code, response.json()["event_status"]) == (409, "closed")
    assert "ended at 2023-05-01T19:00:00Z, with its start" in response.json()["detail"]


async def test_hold_is_refused_when_the_event_is_still_a_draft(ana: Person, olga: Person) -> None:
    draft = (await olga.post("/v1/events", event_definition())).json()
    hold = await ana.post(f"/v1/events/{draft['id']}/holds", claim("A-1"))
    looks = [await olga.get(f"/v1/events/{draft['id']}/{part}") for part in ("availability", "seats", "stream")]
    for response in (hold, *looks):
        assert (response.status_code, response.json()["code"]) == (409, "event-not-open")
        assert response.json()["event_status"] == "draft"
        assert "no places to look at or to hold until it is opened" in response.json()["detail"]


@pytest.mark.parametrize("event_id", ["nowhere", "NO-SUCH-ID", "a" * 100, "{x}:*", "a%0d%0ab", "%F0%9F%8E%AB"])
async def test_hold_is_refused_when_there_is_no_such_event(ana: Person, event_id: str) -> None:
    response = await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))
    assert (response.status_code, response.json()["code"]) == (404, "event-not-found")


async def test_hold_above_the_policys_limits_is_refused_with_the_limit(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga, policy={"max_places_per_hold": 2, "max_places_per_customer": 3})
    too_many = await ana.post(f"/v1/events/{event_id}/holds", claim(floor=3))
    assert (too_many.status_code, too_many.json()["code"]) == (409, "limit-exceeded")
    assert (too_many.json()["limit"], too_many.json()["maximum"]) == ("max_places_per_hold", 2)
    await ana.post(f"/v1/events/{event_id}/holds", claim(floor=2))
    too_many = await ana.post(f"/v1/events/{event_id}/holds", claim(floor=2))
    assert (too_many.json()["limit"], too_many.json()["maximum"]) == ("max_places_per_customer", 3)


@pytest.mark.parametrize(
    ("method", "suffix", "body"), [("GET", "", None), ("DELETE", "", None), ("POST", "/extend", {"ttl": 60})]
)
async def test_hold_of_somebody_else_looks_exactly_like_one_that_never_was(
    ana: Person, ben: Person, olga: Person, method: str, suffix: str, body: object
) -> None:
    event_id = await open_event(olga)
    hold = (await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))).json()
    never = f"01jt2x9k4mzq8v7c5e3h1n6b0r~{event_id}"
    theirs = await ben.call(method, f"/v1/holds/{hold['id']}{suffix}", body)
    missing = await ben.call(method, f"/v1/holds/{never}{suffix}", body)
    garbage = await ben.call(method, f"/v1/holds/garbage{suffix}", body)
    assert theirs.status_code == missing.status_code == garbage.status_code == 404
    assert without_request_id(theirs) == without_request_id(missing) == without_request_id(garbage)
    assert (await ana.get(f"/v1/holds/{hold['id']}")).status_code == 200


async def test_admin_may_read_extend_and_release_anybodys_hold(
    client: httpx2.AsyncClient, ana: Person, olga: Person
) -> None:
    event_id = await open_event(olga)
    hold = (await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))).json()
    root = Person(client, "root", "admin")
    assert (await root.get(f"/v1/holds/{hold['id']}")).json() == hold
    assert (await root.post(f"/v1/holds/{hold['id']}/extend", {"ttl": 300})).status_code == 200
    assert (await root.delete(f"/v1/holds/{hold['id']}")).status_code == 204


async def test_extend_moves_the_deadline_but_never_past_the_policys_maximum(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga, policy={"hold_ttl": 30, "hold_ttl_max": 100})
    hold = (await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))).json()
    assert hold["ttl"] == 30
    cut = await ana.post(f"/v1/events/{event_id}/holds", claim("A-2", ttl=5000))
    assert (cut.status_code, cut.json()["ttl"]) == (201, 100)  # not refused: docs/events.md
    longer = await ana.post(f"/v1/holds/{hold['id']}/extend", {"ttl": 5000})
    assert longer.status_code == 200
    assert longer.json()["ttl"] == 100
    assert longer.json()["expires_at"] > hold["expires_at"]


async def test_release_frees_the_places_at_once_and_the_hold_is_gone_for_good(
    ana: Person, ben: Person, olga: Person
) -> None:
    event_id = await open_event(olga)
    hold = (await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))).json()
    released = await ana.delete(f"/v1/holds/{hold['id']}")
    assert (released.status_code, released.content) == (204, b"")
    assert (await ben.post(f"/v1/events/{event_id}/holds", claim("A-1"))).status_code == 201
    for again in (await ana.delete(f"/v1/holds/{hold['id']}"), await ana.get(f"/v1/holds/{hold['id']}")):
        assert (again.status_code, again.json()["code"]) == (410, "hold-released")


async def test_hold_repeated_under_its_key_is_the_same_hold_and_takes_nothing_more(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    path = f"/v1/events/{event_id}/holds"
    first = await ana.post(path, claim(floor=2), idempotency_key="k1")
    again = await ana.post(path, claim(floor=2), idempotency_key="k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    availability = (await ana.get(f"/v1/events/{event_id}/availability")).json()
    assert availability["sections"][0]["held"] == 2


async def test_hold_repeated_under_its_key_is_told_as_it_was_whatever_became_of_it(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    path = f"/v1/events/{event_id}/holds"
    first = await ana.post(path, claim(floor=1), idempotency_key="k1")
    hold = f"/v1/holds/{first.json()['id']}"
    extended = await ana.post(f"{hold}/extend", {"ttl": 600})
    assert extended.json()["expires_at"] > first.json()["expires_at"]
    assert (await ana.post(path, claim(floor=1), idempotency_key="k1")).json() == first.json()

    assert (await ana.delete(hold)).status_code == 204

    again = await ana.post(path, claim(floor=1), idempotency_key="k1")
    assert (again.status_code, again.json()) == (201, first.json())
    assert (await ana.get(hold)).json()["code"] == "hold-released"


async def test_refusal_of_a_hold_is_not_remembered(ana: Person, olga: Person) -> None:
    """Whatever it is: only what was done has a key."""
    path = f"/v1/events/{await open_event(olga)}/holds"
    for _ in range(2):
        refused = await ana.post(path, claim("Z-9"), idempotency_key="k1")
        assert (refused.status_code, "idempotent-replayed" in refused.headers) == (422, False)
    assert (await ana.post(path, claim("A-1"), idempotency_key="k1")).status_code == 201


async def test_key_reused_for_another_body_is_refused(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    path = f"/v1/events/{event_id}/holds"
    await ana.post(path, claim(floor=1), idempotency_key="k1")
    response = await ana.post(path, claim(floor=2), idempotency_key="k1")
    assert (response.status_code, response.json()["code"]) == (422, "idempotency-key-reused")


async def test_key_belongs_to_its_caller_and_route(ana: Person, ben: Person, olga: Person) -> None:
    one, other = await open_event(olga), await open_event(olga)
    answers = [
        await ana.post(f"/v1/events/{one}/holds", claim(floor=1), idempotency_key="k1"),
        await ben.post(f"/v1/events/{one}/holds", claim(floor=1), idempotency_key="k1"),
        await ana.post(f"/v1/events/{other}/holds", claim(floor=1), idempotency_key="k1"),
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert len({answer.json()["id"] for answer in answers}) == 3


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "ümlaut", "a\tb"], ids=repr)
async def test_key_that_is_not_printable_ascii_is_refused(ana: Person, olga: Person, key: str) -> None:
    event_id = await open_event(olga)
    response = await ana.call("POST", f"/v1/events/{event_id}/holds", claim(floor=1), idempotency_key=key.encode())  # type: ignore[arg-type]
    assert (response.status_code, response.json()["path"]) == (422, "Idempotency-Key")


async def test_release_repeated_under_its_key_is_answered_204_again(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    hold = (await ana.post(f"/v1/events/{event_id}/holds", claim("A-1"))).json()
    first = await ana.delete(f"/v1/holds/{hold['id']}", idempotency_key="k1")
    again = await ana.delete(f"/v1/holds/{hold['id']}", idempotency_key="k1")
    assert (first.status_code, again.status_code) == (204, 204)
    assert again.headers["idempotent-replayed"] == "true"


async def test_group_holds_all_or_nothing(ana: Person, ben: Person, olga: Person) -> None:
    out, back = [await open_event(olga, group="trip") for _ in range(2)]
    both = {"holds": [{"event_id": out} | claim("A-1"), {"event_id": back} | claim("A-1")]}
    held = await ana.post("/v1/holds", both)
    assert held.status_code == 201, held.text
    assert [hold["event_id"] for hold in held.json()["holds"]] == [out, back]
    half = {"holds": [{"event_id": out} | claim("A-2"), {"event_id": back} | claim("A-1")]}
    refused = await ben.post("/v1/holds", half)
    assert (refused.status_code, refused.json()["code"]) == (409, "places-unavailable")
    assert (await ben.post(f"/v1/events/{out}/holds", claim("A-2"))).status_code == 201


async def test_group_is_refused_over_events_that_are_not_of_one_group(ana: Person, olga: Person) -> None:
    events = [await open_event(olga), await open_event(olga)]
    response = await ana.post("/v1/holds", {"holds": [{"event_id": event} | claim(floor=1) for event in events]})
    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")


async def test_group_repeated_under_its_key_is_the_same_holds(ana: Person, olga: Person) -> None:
    events = [await open_event(olga, group="trip") for _ in range(2)]
    body = {"holds": [{"event_id": event} | claim(floor=1) for event in events]}
    first = await ana.post("/v1/holds", body, idempotency_key="k1")
    again = await ana.post("/v1/holds", body, idempotency_key="k1")
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"


async def test_batch_answers_each_hold_with_a_status_of_its_own(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    entries = [
        {"event_id": event_id} | claim("A-1"),
        {"event_id": event_id} | claim("A-1"),
        {"event_id": "nowhere"} | claim("A-1"),
        {"event_id": event_id} | claim("Z-1"),
        {"event_id": event_id} | claim(floor=1),
    ]
    response = await ana.post("/v1/holds:batch", {"holds": entries}, x_request_id="r1")
    assert response.status_code == 207
    results = response.json()["results"]
    assert sorted(result["status"] for result in results[:2]) == [201, 409]
    assert [result["status"] for result in results[2:]] == [404, 422, 201]
    assert results[4]["hold"]["event_id"] == event_id
    assert results[2]["problem"]["code"] == "event-not-found"
    assert results[2]["problem"]["request_id"] == "r1"
    bare = await ana.post("/v1/holds:batch", entries[4:])
    assert [result["status"] for result in bare.json()] == [201]


@pytest.mark.parametrize("bare", [False, True])
async def test_malformed_entries_of_a_batch_leave_the_others_alone(ana: Person, olga: Person, *, bare: bool) -> None:
    event_id = await open_event(olga)
    well = {"event_id": event_id} | claim(floor=1)
    entries = [
        well,
        {"event_id": event_id},
        {"event_id": event_id, "items": [{"section": "floor", "quantity": 0}]},
        well | {"surprise": 1},
        {"event_id": "No Id"} | claim(floor=1),
        7,
        well | {"from": "a\x00b"},
        {"event_id": event_id} | claim("Z-1"),
        well,
    ]
    response = await ana.post("/v1/holds:batch", entries if bare else {"holds": entries})
    assert response.status_code == 207
    results = response.json() if bare else response.json()["results"]
    assert [result["status"] for result in results] == [201, *[422] * 7, 201]
    at = "$" if bare else "$.holds"
    assert [result["problem"]["path"] for result in results[1:8]] == [
        f"{at}[1].items",
        f"{at}[2].items[0].quantity",
        f"{at}[3].surprise",
        f"{at}[4].event_id",
        f"{at}[5]",
        f"{at}[6].from",
        f"{at}[7].items[0].seats[0]",
    ]
    assert results[2]["problem"]["errors"][0]["path"] == results[2]["problem"]["path"]
    availability = (await ana.get(f"/v1/events/{event_id}/availability")).json()
    assert availability["sections"][0]["held"] == 2


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ('{"holds": [{"event_id": 7}, {]}', "$"),
        ('{"holds": [{"event_id": 7}], "surprise": 1}', "$.surprise"),
        ('{"holds": 7}', "$.holds"),
        ('[{"event_id": 7}, {"event_id": "\\ud83d"}]', "$[1].event_id"),  # which no UTF-8 can spell
        ("7", "$"),
        ("[]", "$"),
        ("", "$"),
    ],
)
async def test_what_is_no_batch_is_refused_as_a_whole(ana: Person, body: str, path: str) -> None:
    response = await ana.post("/v1/holds:batch", body.encode())
    assert (response.status_code, response.json()["path"]) == (422, path)


async def test_batch_with_a_malformed_entry_is_answered_again_under_its_key(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    body = {"holds": [{"event_id": event_id}, {"event_id": event_id} | claim(floor=1)]}
    first = await ana.post("/v1/holds:batch", body, idempotency_key="k1")
    again = await ana.post("/v1/holds:batch", body, idempotency_key="k1")
    assert [result["status"] for result in first.json()["results"]] == [422, 201]
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("count", [0, 101])
async def test_batch_of_none_or_too_many_is_refused(ana: Person, count: int) -> None:
    response = await ana.post("/v1/holds:batch", {"holds": [{"event_id": "e"} | claim(floor=1)] * count})
    assert (response.status_code, response.json()["path"]) == (422, "$.holds")


async def test_batch_of_a_hundred_holds_exactly_what_there_is(ana: Person, olga: Person) -> None:
    event_id = await open_event(
        olga, sections=[{"id": "floor", "price": 1, "capacity": 60}], policy={"max_places_per_customer": 1000}
    )
    response = await ana.post("/v1/holds:batch", [{"event_id": event_id} | claim(floor=1)] * 100)
    statuses = [result["status"] for result in response.json()]
    assert (statuses.count(201), statuses.count(409)) == (60, 40)


async def test_claims_of_a_batch_that_share_what_is_alike_are_each_answered_for_themselves(
    ana: Person, olga: Person
) -> None:
    event_id = await open_event(olga)
    claims = [claim(floor=1), claim(floor=1), claim("A-1"), claim("A-2"), claim(floor=1) | {"ttl": 60}, claim(floor=2)]
    results = (await ana.post("/v1/holds:batch", [{"event_id": event_id} | one for one in claims])).json()
    assert [result["status"] for result in results] == [201] * len(claims)
    assert len({result["hold"]["id"] for result in results}) == len(claims)
    for result in results:
        hold = result["hold"]
        assert (await ana.get(f"/v1/holds/{hold['id']}")).json() == hold
    assert [result["hold"]["items"][0].get("seats") for result in results[2:4]] == [["A-1"], ["A-2"]]
    assert [result["hold"]["ttl"] for result in results[3:5]] == [results[0]["hold"]["ttl"], 60]
    assert [result["hold"]["items"][0]["quantity"] for result in results[4:]] == [1, 2]


async def test_batch_repeated_under_its_key_is_answered_again_and_takes_nothing_more(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    body = {"holds": [{"event_id": event_id} | claim(floor=1), {"event_id": event_id} | claim(floor=1)]}
    first = await ana.post("/v1/holds:batch", body, idempotency_key="k1")
    again = await ana.post("/v1/holds:batch", body, idempotency_key="k1")
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    availability = (await ana.get(f"/v1/events/{event_id}/availability")).json()
    assert availability["sections"][0]["held"] == 2


async def test_service_token_with_a_scope_holds_on_its_events_only(client: httpx2.AsyncClient, olga: Person) -> None:
    mine, other = await open_event(olga), await open_event(olga)
    box_office = Person(client, "box", "service", scope=[mine])
    assert (await box_office.post(f"/v1/events/{mine}/holds", claim(floor=1))).status_code == 201
    assert (await box_office.post(f"/v1/events/{other}/holds", claim(floor=1))).status_code == 403
    batch = await box_office.post("/v1/holds:batch", [{"event_id": event} | claim(floor=1) for event in (mine, other)])
    assert [result["status"] for result in batch.json()] == [201, 403]
    group = {"holds": [{"event_id": other} | claim(floor=1)]}
    assert (await box_office.post("/v1/holds", group)).status_code == 403
