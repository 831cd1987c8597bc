"""Events over HTTP: made, read, changed, opened and closed by whom they belong to."""

import base64
import datetime as dt
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx2
import pytest
import redis
from api_app import Person, claim, composed, connected, event_definition, open_event

import api.events


@pytest.fixture
async def client(redis_url: str, database_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with composed(redis_url, database_url) as services, connected(services) as opened:
        yield opened


@pytest.fixture
def ana(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ana", "customer")


@pytest.fixture
def olga(client: httpx2.AsyncClient) -> Person:
    return Person(client, "olga", "organizer")


@pytest.fixture
def otto(client: httpx2.AsyncClient) -> Person:
    return Person(client, "otto", "organizer")


async def draft_of(organizer: Person, **members: Any) -> dict[str, Any]:
    response = await organizer.post("/v1/events", event_definition(**members))
    assert response.status_code == 201, response.text
    draft: dict[str, Any] = response.json()
    return draft


async def test_event_is_created_as_a_draft_of_its_organizer(olga: Person) -> None:
    definition = event_definition(metadata={"genre": "chamber music"}, policy={"hold_ttl": 60})
    response = await olga.post("/v1/events", definition)
    assert response.status_code == 201
    event = response.json()
    assert response.headers["location"] == f"/v1/events/{definition['id']}"
    assert response.headers["etag"] == f'"{event["version"]}"'
    assert (event["status"], event["organizer_id"], event["version"]) == ("draft", "olga", 1)
    assert {name: event[name] for name in ("id", "name", "currency", "sections", "metadata")} == {
        name: definition[name] for name in ("id", "name", "currency", "sections", "metadata")
    }
    assert event["policy"]["hold_ttl"] == 60
    assert event["policy"]["hold_ttl_max"] == 900
    assert (await olga.get(f"/v1/events/{event['id']}")).json() == event


@pytest.mark.parametrize("event_id", [None, "gala"])
async def test_event_is_not_made_twice_when_the_answer_to_its_key_was_not_kept(
    olga: Person, otto: Person, redis_url: str, event_id: str | None
) -> None:
    definition = event_definition(id=event_id)
    first = await olga.post("/v1/events", definition, **{"Idempotency-Key": "gala-1"})
    redis.Redis.from_url(redis_url).flushall()  # as a crash leaves it that comes before the answer is kept
    again = await olga.post("/v1/events", definition, **{"Idempotency-Key": "gala-1"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert (again.headers["idempotent-replayed"], again.headers["etag"]) == ("true", first.headers["etag"])

    redis.Redis.from_url(redis_url).flushall()
    other = await olga.post("/v1/events", {**definition, "name": "Other"}, **{"Idempotency-Key": "gala-1"})
    assert (other.status_code, other.json()["code"]) == (409, "event-exists")
    theirs = await otto.post("/v1/events", definition, **{"Idempotency-Key": "gala-1"})
    assert theirs.status_code == (201 if event_id is None else 409)


async def test_key_makes_another_event_once_it_has_been_forgotten(
    olga: Person, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.events, "KEY_LIFETIME", dt.timedelta())
    ids = set()
    for _ in range(2):
        made = await olga.post("/v1/events", event_definition(id=None), **{"Idempotency-Key": "weekly"})
        ids.add(made.json()["id"])
        redis.Redis.from_url(redis_url).flushall()
    assert len(ids) == 2


async def test_times_of_an_event_are_told_in_utc_whatever_zone_they_came_in(
    olga: Person, ana: Person, database_url: str
) -> None:
    said = {"starts_at": "2035-05-01T21:00:00+02:00", "ends_at": "2035-05-01T19:30:00-02:00"}
    event = await draft_of(olga, **said)
    assert (event["starts_at"], event["ends_at"]) == ("2035-05-01T19:00:00Z", "2035-05-01T21:30:00Z")
    path = f"/v1/events/{event['id']}"
    moved = (await olga.patch(path, {"starts_at": "2035-05-01T21:15:00+05:30"})).json()
    assert (moved["starts_at"], moved["ends_at"]) == ("2035-05-01T15:45:00Z", "2035-05-01T21:30:00Z")
    opened = (await olga.post(f"{path}/open")).json()

    # Earlier versions stored what they were told.
    postgres = await asyncpg.connect(database_url)
    try:
        await postgres.execute("UPDATE events SET definition = definition || $1::jsonb", json.dumps(said))
    finally:
        await postgres.close()
    for person in (olga, ana):
        stored = (await person.get(path)).json()
        assert stored == opened | {"starts_at": "2035-05-01T19:00:00Z"}
        assert (await person.get("/v1/events")).json()["items"] == [stored]
    held = await ana.post(f"{path}/holds", claim("A-1"))
    assert held.status_code == 201, held.text


async def test_event_without_an_id_gets_one(olga: Person) -> None:
    assert (await draft_of(olga, id=None))["id"]


async def test_service_token_with_a_scope_creates_the_events_that_it_names_only(client: httpx2.AsyncClient) -> None:
    named, other, unnamed = event_definition(), event_definition(), event_definition()
    del unnamed["id"]
    till = Person(client, "till", "organizer", "service", scope=[named["id"]])
    for definition, status in ((other, 403), (unnamed, 403), (named, 201)):
        assert (await till.post("/v1/events", definition)).status_code == status


async def test_event_of_an_id_that_exists_is_refused(olga: Person, otto: Person) -> None:
    draft = await draft_of(olga)
    response = await otto.post("/v1/events", event_definition(id=draft["id"]))
    assert (response.status_code, response.json()["code"]) == (409, "event-exists")


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"id": "UPPER"}, "$.id"),
        ({"id": "a{b}"}, "$.id"),
        ({"name": ""}, "$.name"),
        ({"name": "a\0b"}, "$.name"),
        ({"starts_at": "2035-05-01T19:00:00"}, "$.starts_at"),
        ({"starts_at": "0001-01-01T00:00:00+14:00"}, "$.starts_at"),
        ({"ends_at": "9999-12-31T23:59:59-12:00"}, "$.ends_at"),
        ({"ends_at": "2000-01-01T00:00:00Z"}, "$.ends_at"),
        ({"currency": "euro"}, "$.currency"),
        ({"currency": "XQZ"}, "$.currency"),
        ({"status": "open"}, "$.status"),
        ({"sections": [{"id": "a", "price": -1, "capacity": 1}]}, "$.sections[0].price"),
        ({"sections": [{"id": "a", "price": 1}]}, "$.sections[0]"),
        ({"policy": {"hold_ttl": 0}}, "$.policy.hold_ttl"),
        ({"metadata": {"n": 2**70}}, "$.metadata.n"),
    ],
)
async def test_event_is_refused_with_the_json_path_of_what_is_wrong(
    olga: Person, members: dict[str, Any], path: str
) -> None:
    response = await olga.post("/v1/events", event_definition() | members)
    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    assert response.json()["path"] == path


async def test_draft_cannot_be_given_a_currency_that_does_not_exist(olga: Person) -> None:
    path = f"/v1/events/{(await draft_of(olga))['id']}"
    refused = await olga.patch(path, {"currency": "XQZ"})
    assert (refused.status_code, refused.json()["path"]) == (422, "$.currency")
    assert "ISO 4217" in refused.json()["detail"]
    assert (await olga.patch(path, {"currency": "JPY"})).json()["currency"] == "JPY"


async def test_creation_repeated_under_its_key_makes_one_event(olga: Person) -> None:
    definition = event_definition(id=None)
    first = await olga.post("/v1/events", definition, idempotency_key="k1")
    again = await olga.post("/v1/events", definition, idempotency_key="k1")
    assert again.json() == first.json()
    assert (again.status_code, again.headers["etag"]) == (201, first.headers["etag"])
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    assert len((await olga.get("/v1/events")).json()["items"]) == 1
    other = await olga.post("/v1/events", definition | {"name": "x"}, idempotency_key="k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


async def test_refusal_of_409_is_not_remembered_but_one_of_422_is(olga: Person) -> None:
    definition = event_definition()
    await olga.post("/v1/events", definition)
    for _ in range(2):
        conflict = await olga.post("/v1/events", definition | {"name": "Another"}, idempotency_key="k1")
        assert conflict.status_code == 409
        assert "idempotent-replayed" not in conflict.headers
    broken = definition | {"name": ""}
    await olga.post("/v1/events", broken, idempotency_key="k2")
    again = await olga.post("/v1/events", broken, idempotency_key="k2")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (422, "true")
    assert again.headers["content-type"] == "application/problem+json"


async def test_draft_is_seen_by_its_organizer_and_admins_only(
    client: httpx2.AsyncClient, ana: Person, olga: Person, otto: Person
) -> None:
    draft = await draft_of(olga)
    path = f"/v1/events/{draft['id']}"
    for person in (olga, Person(client, "root", "admin")):
        assert (await person.get(path)).status_code == 200
        assert [event["id"] for event in (await person.get("/v1/events")).json()["items"]] == [draft["id"]]
    for person in (ana, otto):
        for suffix in ("", "/availability", "/seats"):
            assert (await person.get(path + suffix)).json()["code"] == "event-not-found"
        assert (await person.get("/v1/events")).json()["items"] == []
    for response in (await otto.patch(path, {"name": "x"}), await otto.post(f"{path}/open")):
        assert (response.status_code, response.json()["code"]) == (404, "event-not-found")


async def test_event_of_another_organizer_is_read_but_not_changed(olga: Person, otto: Person) -> None:
    event_id = await open_event(olga)
    path = f"/v1/events/{event_id}"
    assert (await otto.get(path)).status_code == 200
    for response in (
        await otto.patch(path, {"name": "x"}),
        await otto.post(f"{path}/close"),
        await otto.post(f"{path}/seating-plan", {"plan": PLAN, "prices": PRICES}),
        await otto.get(f"{path}/bookings"),
    ):
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")


async def test_patch_changes_what_it_names_and_raises_the_version(olga: Person) -> None:
    draft = await draft_of(olga)
    path = f"/v1/events/{draft['id']}"
    response = await olga.patch(path, {"name": "Trios", "ends_at": None})
    assert response.status_code == 200
    changed = response.json()
    assert changed == draft | {"name": "Trios", "version": 2, "updated_at": changed["updated_at"]}
    assert response.headers["etag"] == '"2"'


@pytest.mark.parametrize("body", [{}, {"expected_version": 1}], ids=str)
async def test_patch_that_changes_nothing_is_refused_and_raises_no_version(olga: Person, body: dict[str, Any]) -> None:
    path = f"/v1/events/{(await draft_of(olga))['id']}"
    refused = await olga.patch(path, body)
    assert (refused.status_code, refused.json()["path"]) == (422, "$")
    assert (await olga.get(path)).json()["version"] == 1


@pytest.mark.parametrize("name", ["id", "group"])
async def test_patch_of_what_stays_for_ever_is_refused_as_that(olga: Person, name: str) -> None:
    refused = await olga.patch(f"/v1/events/{(await draft_of(olga))['id']}", {name: "other"})
    assert refused.status_code == 422
    assert (refused.json()["path"], refused.json()["detail"]) == (f"$.{name}", "cannot be changed")


@pytest.mark.parametrize("tag", ['"7"', 'W/"1"', '"x"', "1", '"2", "3"'])
async def test_patch_is_refused_when_if_match_is_not_the_version(olga: Person, tag: str) -> None:
    draft = await draft_of(olga)
    response = await olga.patch(f"/v1/events/{draft['id']}", {"name": "x"}, if_match=tag)
    assert (response.status_code, response.json()["code"]) == (409, "version-conflict")
    assert response.json()["current_version"] == 1


@pytest.mark.parametrize(("tag", "is_form"), [("foo", True), ("1", True), ('W/"1"', True), ('"7"', False)])
async def test_refusal_of_an_if_match_says_what_one_looks_like_when_it_names_no_version(
    olga: Person, tag: str, is_form: bool
) -> None:
    draft = await draft_of(olga)
    refused = (await olga.patch(f"/v1/events/{draft['id']}", {"name": "x"}, if_match=tag)).json()
    assert ('`If-Match: "1"`' in refused["detail"]) is is_form
    assert "version 1" in refused["detail"]


@pytest.mark.parametrize("tag", ['"1"', "*", '"7", "1"'])
async def test_patch_is_made_when_if_match_is_the_version(olga: Person, tag: str) -> None:
    draft = await draft_of(olga)
    assert (await olga.patch(f"/v1/events/{draft['id']}", {"name": "x"}, if_match=tag)).status_code == 200


async def test_patch_of_the_policy_leaves_the_members_that_it_does_not_name(olga: Person) -> None:
    policy = {"payment": "required", "approval": "manual", "hold_ttl_max": 600, "admission": {"rate": 5}}
    draft = await draft_of(olga, policy=policy)
    path = f"/v1/events/{draft['id']}"

    changed = (await olga.patch(path, {"policy": {"hold_ttl": 300, "admission": None}})).json()

    assert changed["policy"] == draft["policy"] | {"hold_ttl": 300, "admission": None}
    wrong = await olga.patch(path, {"policy": {"hold_ttl": 0}})
    assert (wrong.status_code, wrong.json()["path"]) == (422, "$.policy.hold_ttl")
    wrong = await olga.patch(path, {"policy": {"hold_ttl": 601}})  # which is more than the other member allows
    assert (wrong.status_code, wrong.json()["path"]) == (422, "$.policy.hold_ttl")


async def test_patch_is_refused_when_the_version_in_its_body_is_not_the_version(olga: Person) -> None:
    path = f"/v1/events/{(await draft_of(olga))['id']}"
    refused = await olga.patch(path, {"name": "x", "expected_version": 2})
    assert (refused.status_code, refused.json()["current_version"]) == (409, 1)
    assert (await olga.patch(path, {"name": "x", "expected_version": 1})).status_code == 200
    assert (await olga.patch(path, {"name": "x", "expected_version": 10**30})).status_code == 409


async def test_open_event_can_no_longer_be_changed(olga: Person) -> None:
    event_id = await open_event(olga)
    response = await olga.patch(f"/v1/events/{event_id}", {"name": "x"})
    assert (response.status_code, response.json()["code"]) == (409, "event-not-draft")
    assert response.json()["event_status"] == "open"


async def test_event_is_opened_closed_and_opened_again(ana: Person, olga: Person) -> None:
    event_id = (await draft_of(olga))["id"]
    path = f"/v1/events/{event_id}"
    for step, status, hold in (("open", "open", 201), ("close", "closed", 409), ("open", "open", 201)):
        response = await olga.post(f"{path}/{step}")
        assert (response.status_code, response.json()["status"]) == (200, status)
        assert (await ana.post(f"{path}/holds", claim(floor=1))).status_code == hold


async def test_step_that_is_made_already_can_be_repeated(olga: Person) -> None:
    event_id = await open_event(olga)
    response = await olga.post(f"/v1/events/{event_id}/open")
    assert (response.status_code, response.json()["status"], response.json()["version"]) == (200, "open", 2)


async def test_draft_cannot_be_closed(olga: Person) -> None:
    event_id = (await draft_of(olga))["id"]
    response = await olga.post(f"/v1/events/{event_id}/close")
    assert (response.status_code, response.json()["code"]) == (409, "invalid-transition")
    problem = response.json()
    assert (problem["from"], problem["to"]) == ("draft", "closed")
    assert set(problem["allowed"]) == {"open", "cancelled"}


async def test_event_without_sections_cannot_be_opened(olga: Person) -> None:
    event_id = (await draft_of(olga, sections=[]))["id"]
    response = await olga.post(f"/v1/events/{event_id}/open")
    assert (response.status_code, response.json()["path"]) == (422, "$.sections")


async def test_open_takes_an_expected_version(olga: Person) -> None:
    path = f"/v1/events/{(await draft_of(olga))['id']}/open"
    assert (await olga.post(path, {"expected_version": 2})).status_code == 409
    assert (await olga.post(path, {"version": 1})).status_code == 422
    assert (await olga.post(path, {"expected_version": 1})).status_code == 200


async def test_events_are_listed_by_their_start_in_pages(ana: Person, olga: Person, otto: Person) -> None:
    months = (7, 5, 6)
    ids = [
        await open_event(organizer, starts_at=f"2035-0{month}-01T19:00:00Z")
        for organizer, month in zip((olga, otto, olga), months, strict=True)
    ]
    seen, path = [], "/v1/events?limit=1"
    for _ in range(3):
        page = await ana.get(path)
        seen += [event["id"] for event in page.json()["items"]]
        path = page.links["next"]["url"] if page.json()["next_cursor"] else ""
    assert seen == [ids[1], ids[2], ids[0]]
    assert path == ""
    narrowed = await ana.get("/v1/events?organizer_id=otto&status=open")
    assert [event["id"] for event in narrowed.json()["items"]] == [ids[1]]


async def test_event_is_not_sent_again_to_who_has_its_version(olga: Person) -> None:
    event_id = await open_event(olga)
    response = await olga.get(f"/v1/events/{event_id}", if_none_match='"2"')
    assert (response.status_code, response.content) == (304, b"")
    assert (await olga.get(f"/v1/events/{event_id}", if_none_match='"1"')).status_code == 200


async def test_availability_counts_over_the_range_of_legs_asked_for(ana: Person, olga: Person) -> None:
    event_id = await open_event(
        olga,
        stops=["SJC", "PAO", "SFO"],
        sections=[
            {"id": "car", "leg_prices": [300, 400], "capacity": 3},
            {"id": "first", "leg_prices": [500, 600], "rows": [{"id": "A", "seats": "1-2"}]},
        ],
    )
    items = [{"section": "car", "quantity": 2}, {"section": "first", "seats": ["A-1"]}]
    hold = await ana.post(f"/v1/events/{event_id}/holds", {"items": items, "from": "SJC", "to": "PAO"})
    assert (hold.json()["from"], hold.json()["to"], hold.json()["amount"]) == ("SJC", "PAO", 1100)
    path = f"/v1/events/{event_id}/availability"
    for query, free in (("", [1, 1]), ("?from=SJC&to=PAO", [1, 1]), ("?from=PAO", [3, 2]), ("?to=SFO", [1, 1])):
        response = await ana.get(path + query)
        assert [section["free"] for section in response.json()["sections"]] == free, query
    document = (await ana.get(path)).json()
    assert document["event_id"] == event_id
    assert document["seq"] >= 1
    assert document["next_release_at"].endswith("Z")
    for query, name in (("from=LAX", "from"), ("to=LAX", "to"), ("form=SJC", "form")):
        for part in ("availability", "stream"):  # parameters have names, members of a body have paths
            wrong = await ana.get(f"/v1/events/{event_id}/{part}?{query}")
            assert (wrong.status_code, wrong.json()["code"], wrong.json()["path"]) == (422, "invalid-request", name)


async def test_seats_are_listed_with_their_status(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    await ana.post(f"/v1/events/{event_id}/holds", claim("A-2"))
    await ana.post("/v1/bookings", {"event_id": event_id} | claim("B-3"))
    document = (await ana.get(f"/v1/events/{event_id}/seats")).json()
    status_of = {(seat["section"], seat["seat"]): seat["status"] for seat in document["seats"]}
    assert status_of == {
        ("stalls", "A-1"): "free",
        ("stalls", "A-2"): "held",
        ("stalls", "A-3"): "free",
        ("stalls", "A-4"): "free",
        ("stalls", "B-1"): "free",
        ("stalls", "B-3"): "sold",
    }
    assert document["legs"] == 1


async def test_seats_are_given_as_bitmaps_to_who_accepts_them(ana: Person, olga: Person) -> None:
    event_id = await open_event(olga)
    await ana.post(f"/v1/events/{event_id}/holds", claim("A-2"))
    await ana.post("/v1/bookings", {"event_id": event_id} | claim("B-3"))
    accept = "application/vnd.holdfast.seatmap+json"
    response = await ana.get(f"/v1/events/{event_id}/seats", accept=accept)
    assert response.headers["content-type"] == accept
    document = response.json()
    held, sold = (base64.b64decode(document[name]) for name in ("held", "sold"))
    assert (held[0], sold[0], document["blocked"]) == (0b01000000, 0b00000100, "")
    assert document["layout"].startswith("sha256:")
    assert set(document) == {"seq", "legs", "layout", "held", "sold", "blocked"}
    await olga.post(f"/v1/events/{event_id}/blocks", claim("A-1"))
    document = (await ana.get(f"/v1/events/{event_id}/seats", accept=accept)).json()
    sold, blocked = (base64.b64decode(document[name]) for name in ("sold", "blocked"))
    assert (sold[0], blocked[0]) == (0b10000100, 0b10000000)
    for other in (f"{accept};q=0", f"{accept}-x"):
        listed = await ana.get(f"/v1/events/{event_id}/seats", accept=other)
        assert (listed.headers["content-type"], listed.headers["vary"]) == ("application/json", "accept")


async def test_seat_is_taken_when_it_is_on_any_leg(ana: Person, olga: Person) -> None:
    event_id = await open_event(
        olga,
        stops=["SJC", "PAO", "SFO"],
        sections=[{"id": "first", "leg_prices": [500, 600], "rows": [{"id": "A", "seats": "1-3"}]}],
    )
    body = {"items": [{"section": "first", "seats": ["A-2"]}], "from": "PAO"}
    assert (await ana.post(f"/v1/events/{event_id}/holds", body)).status_code == 201
    document = (await ana.get(f"/v1/events/{event_id}/seats")).json()
    assert [seat["status"] for seat in document["seats"]] == ["free", "held", "free"]
    assert document["legs"] == 2


async def test_seat_map_of_a_part_of_the_journey_shows_what_is_free_there(olga: Person, ana: Person) -> None:
    event_id = await open_event(
        olga,
        stops=["SJC", "PAO", "SFO"],
        sections=[{"id": "first", "leg_prices": [500, 600], "rows": [{"id": "A", "seats": "1-3"}]}],
    )
    claimed = {"items": [{"section": "first", "seats": ["A-2"]}], "from": "PAO"}
    assert (await ana.post(f"/v1/events/{event_id}/holds", claimed)).status_code == 201

    async def statuses(query: str) -> list[str]:
        document = (await ana.get(f"/v1/events/{event_id}/seats?{query}")).json()
        return [seat["status"] for seat in document["seats"]]

    assert await statuses("to=PAO") == ["free", "free", "free"]
    assert await statuses("from=PAO") == ["free", "held", "free"]
    unknown = await ana.get(f"/v1/events/{event_id}/seats?from=LAX")
    assert (unknown.status_code, unknown.json()["path"]) == (422, "from")


async def test_seat_map_for_a_party_leaves_out_tables_that_are_too_small(olga: Person, ana: Person) -> None:
    tables = [{"id": "1", "fits": 2}, {"id": "2", "fits": 6}, "3"]
    event_id = await open_event(olga, sections=[{"id": "room", "price": 0, "rows": [{"id": "T", "seats": tables}]}])

    everything = (await ana.get(f"/v1/events/{event_id}/seats")).json()["seats"]
    large = (await ana.get(f"/v1/events/{event_id}/seats?party=4")).json()["seats"]

    assert [seat.get("fits") for seat in everything] == [2, 6, None]
    assert [seat["seat"] for seat in large] == ["T-2"]


PLAN = {
    "name": "Studio",
    "categories": [{"name": "stalls", "color": "#7f4a91"}],
    "size": {"width": 100, "height": 100},
    "zones": [
        {
            "name": "Main hall",
            "position": {"x": 0, "y": 0},
            "rows": [
                {
                    "row_number": "A",
                    "position": {"x": 0, "y": 0},
                    "seats": [
                        {
                            "seat_guid": f"A-{n}",
                            "seat_number": str(n),
                            "position": {"x": n, "y": 0},
                            "category": "stalls",
                        }
                        for n in (1, 2, 3)
                    ],
                }
            ],
        }
    ],
}
PRICES = {"stalls": 9000}


@pytest.mark.parametrize("body", [{"plan": PLAN, "prices": PRICES}, PLAN | {"prices": PRICES}], ids=["apart", "beside"])
async def test_seating_plan_makes_a_section_of_each_zone(ana: Person, olga: Person, body: dict[str, Any]) -> None:
    event_id = (await draft_of(olga))["id"]
    response = await olga.post(f"/v1/events/{event_id}/seating-plan", body)
    assert response.status_code == 200, response.text
    (section,) = response.json()["sections"]
    assert section["prices"] == PRICES
    await olga.post(f"/v1/events/{event_id}/open")
    claimed = {"items": [{"section": section["id"], "seats": ["A-2"]}]}
    hold = await ana.post(f"/v1/events/{event_id}/holds", claimed)
    assert (hold.status_code, hold.json()["amount"]) == (201, 9000)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"plan": PLAN}, "$.prices"),
        (PLAN, "$.prices"),
        ({"plan": PLAN, "prices": {}}, "$.plan.zones[0].rows[0].seats[0].category"),
        (PLAN | {"prices": {}}, "$.zones[0].rows[0].seats[0].category"),
        ({"plan": PLAN, "prices": PRICES | {"circle": 1}}, "$.prices.circle"),
        ({"plan": PLAN, "prices": PRICES, "extra": 1}, "$.extra"),
        ({"plan": 7, "prices": PRICES}, "$.plan"),
        ({"plan": {"zones": []}, "prices": PRICES}, "$.plan.zones"),
        ({"prices": PRICES}, "$.zones"),
        ([], "$"),
    ],
)
async def test_seating_plan_is_refused_with_the_json_path_of_what_is_wrong(olga: Person, body: Any, path: str) -> None:
    event_id = (await draft_of(olga))["id"]
    response = await olga.post(f"/v1/events/{event_id}/seating-plan", body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid-request"), response.text
    assert response.json()["path"] == path


async def test_seating_plan_comes_too_late_for_an_open_event(olga: Person) -> None:
    event_id = await open_event(olga)
    response = await olga.post(f"/v1/events/{event_id}/seating-plan", {"plan": PLAN, "prices": PRICES})
    assert (response.status_code, response.json()["code"]) == (409, "event-not-draft")


async def test_large_seating_plan_passes_the_cap_that_stops_other_bodies(olga: Person) -> None:
    event_id = (await draft_of(olga))["id"]
    padded = json.loads(json.dumps(PLAN)) | {"comment": "x" * (2 << 20)}
    response = await olga.post(f"/v1/events/{event_id}/seating-plan", {"plan": padded, "prices": PRICES})
    assert response.status_code == 200
    too_large = await olga.post("/v1/bookings", {"comment": "x" * (2 << 20)})
    assert too_large.status_code == 403  # an organizer books nothing, whatever the size
