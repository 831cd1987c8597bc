"""venues: tables of a restaurant by time slot and party size, with stock, prices and payments of other services."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from running import Installation, People, Person, hours_from_now, until
from stand_ins import StandIn

SYSTEM = "venues"
GUEST = {"name": "Grace Hopper", "email": "grace@example.org", "phone": "+1 555 0100"}


def price_of(wanted: dict[str, Any]) -> dict[str, Any]:
    """Ten euros a table, and a tax."""
    base = 1000 * sum(item["quantity"] for item in wanted["items"])
    return {"base": base, "tax": base // 10, "discount": 0, "total": base + base // 10}


@pytest.fixture(scope="module")
def pricing() -> Iterator[StandIn]:
    with StandIn(price_of).running() as service:
        yield service


@pytest.fixture(scope="module")
def inventory() -> Iterator[StandIn]:
    with StandIn(lambda wanted: {"available": True}).running() as service:
        yield service


@pytest.fixture(scope="module")
def services(pricing: StandIn, inventory: StandIn) -> dict[str, str]:
    return {"HOLDFAST_PRICING_URL": pricing.url, "HOLDFAST_INVENTORY_URL": inventory.url}


async def evening_of(people: People, installation: Installation, **changes: Any) -> tuple[Person, str]:
    """The venue's host, and an evening."""
    host = people.organizer("aurora")
    return host, await host.put_on_sale(installation.example(**changes))


def table(evening: str, *tables: str, at: str = "19:00", until: str = "20:30", **members: Any) -> dict[str, Any]:
    items = [{"section": "room", "seats": list(tables)}]
    payment = {"provider": "simulator", "method": "sim_ok"}
    return {"event_id": evening, "items": items, "from": at, "to": until, "guest": GUEST, "payment": payment, **members}


async def book(guest: Person, evening: str, *tables: str, **members: Any) -> dict[str, Any]:
    booking: dict[str, Any] = await guest.post("/v1/bookings", table(evening, *tables, **members), 201)
    return booking


async def free_tables(person: Person, evening: str, *, at: str, until: str, party: int) -> list[str]:
    seats = (await person.get(f"/v1/events/{evening}/seats?from={at}&to={until}&party={party}"))["seats"]
    return [seat["seat"] for seat in seats if seat["status"] == "free"]


async def test_tables_are_looked_up_by_time_duration_and_party(installation: Installation) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        grace = people.customer("grace")
        assert await free_tables(grace, evening, at="19:00", until="20:30", party=4) == ["T-3", "T-4", "T-5"]

        await book(grace, evening, "T-3")

        assert await free_tables(grace, evening, at="20:00", until="21:00", party=4) == ["T-4", "T-5"]
        assert await free_tables(grace, evening, at="20:30", until="22:00", party=4) == ["T-3", "T-4", "T-5"]
        assert await free_tables(grace, evening, at="17:00", until="19:00", party=5) == ["T-5"]


@pytest.mark.parametrize(
    ("at", "until", "conflicts"),
    [("18:00", "19:00", False), ("18:30", "19:15", True), ("19:15", "19:45", True), ("20:15", "21:45", True),
     ("18:00", "22:00", True), ("20:30", "21:00", False)],
)  # fmt: skip
async def test_overlapping_bookings_of_a_table_conflict(
    installation: Installation, at: str, until: str, conflicts: bool
) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        await book(people.customer("grace"), evening, "T-3")

        answer = await people.customer("alan").call("POST", "/v1/bookings", table(evening, "T-3", at=at, until=until))

        assert answer.status_code == (409 if conflicts else 201), answer.text


async def test_creation_asks_stock_and_price_holds_pays_and_is_told_of(
    installation: Installation, pricing: StandIn, inventory: StandIn
) -> None:
    async with installation.people() as people:
        host, evening = await evening_of(people, installation)
        grace = people.customer("grace")

        booking = await book(grace, evening, "T-3")

        assert booking["status"] == "pending"
        assert booking["payment_status"] == "held"
        assert booking["price"] == {"base": 1000, "tax": 100, "discount": 0, "total": 1100, "source": "service"}
        assert (booking["amount"], booking["currency"]) == (1100, "EUR")
        assert booking["guest"] == GUEST
        assert (inventory.received[-1]["event_id"], pricing.received[-1]["event_id"]) == (evening, evening)
        steps = (await host.get(f"/v1/bookings/{booking['id']}/history"))["items"]
        assert [(s["from"], s["to"]) for s in steps] == [
            (None, "payment_initiated"), ("payment_initiated", "paid"), ("paid", "pending")
        ]  # fmt: skip
        rows = await installation.rows("SELECT type FROM outbox WHERE event_id = $1 ORDER BY id", evening)
        assert rows[0]["type"] == "booking.created"


async def test_a_repeated_creation_makes_one_booking(installation: Installation) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        grace = people.customer("grace")

        first = await grace.call("POST", "/v1/bookings", table(evening, "T-1"), idempotency_key="dinner")
        again = await grace.call("POST", "/v1/bookings", table(evening, "T-1"), idempotency_key="dinner")

        assert first.json()["id"] == again.json()["id"]
        assert again.headers["idempotent-replayed"] == "true"
        rows = await installation.rows("SELECT count(*) AS n FROM bookings WHERE event_id = $1", evening)
        assert rows[0]["n"] == 1


async def test_a_changed_time_is_checked_and_priced_anew(installation: Installation) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        grace, alan = people.customer("grace"), people.customer("alan")
        booking = await book(grace, evening, "T-3")
        await book(alan, evening, "T-3", at="20:30", until="22:00")
        items = [{"section": "room", "seats": ["T-3"]}]

        refused = await grace.patch(
            f"/v1/bookings/{booking['id']}", {"items": items, "from": "19:30", "to": "21:00"}, 409
        )
        assert refused["code"] == "places-unavailable"
        unchanged = await grace.get(f"/v1/bookings/{booking['id']}")
        assert (unchanged["from"], unchanged["to"], unchanged["version"]) == ("19:00", "20:30", booking["version"])
        moved = await grace.patch(
            f"/v1/bookings/{booking['id']}",
            {"items": items, "from": "18:45", "to": "20:15", "expected_version": booking["version"]},
        )

        assert (moved["from"], moved["to"], moved["version"]) == ("18:45", "20:15", booking["version"] + 1)
        rows = await installation.rows(
            "SELECT type FROM outbox WHERE event_id = $1 AND type = 'booking.updated'", evening
        )
        assert len(rows) == 1
        await installation.require_agreement()


async def test_a_larger_party_gets_a_larger_table(installation: Installation) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        grace = people.customer("grace")
        booking = await book(grace, evening, "T-1")

        moved = await grace.patch(
            f"/v1/bookings/{booking['id']}",
            {"items": [{"section": "room", "seats": ["T-5"]}], "from": "19:00", "to": "20:30"},
        )

        assert moved["items"][0]["seats"] == ["T-5"]
        assert "T-1" in await free_tables(grace, evening, at="19:00", until="20:30", party=2)
        assert await free_tables(grace, evening, at="19:00", until="20:30", party=5) == []


async def test_updates_need_the_version_that_was_seen(installation: Installation) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        grace = people.customer("grace")
        booking = await book(grace, evening, "T-1")
        version = booking["version"]
        await grace.patch(f"/v1/bookings/{booking['id']}", {"notes": "A high chair", "expected_version": version})

        stale = await grace.patch(
            f"/v1/bookings/{booking['id']}", {"notes": "Two of them", "expected_version": version}, 409
        )

        assert (stale["code"], stale["current_version"]) == ("version-conflict", version + 1)


async def test_cancelling_frees_the_table_and_says_who_and_why(installation: Installation) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        grace = people.customer("grace")
        booking = await book(grace, evening, "T-3")

        cancelled = await grace.post(f"/v1/bookings/{booking['id']}/cancel", {"reason": "Feeling ill"})

        told = (cancelled["status"], cancelled["cancelled_by"], cancelled["cancellation_reason"], cancelled["refunded"])
        assert told == ("cancelled", "grace", "Feeling ill", 1100)
        assert "T-3" in await free_tables(grace, evening, at="19:00", until="20:30", party=4)


async def test_guests_are_confirmed_checked_in_and_sent_home(installation: Installation) -> None:
    async with installation.people() as people:
        host, evening = await evening_of(people, installation)
        booking = await book(people.customer("grace"), evening, "T-3")
        path = f"/v1/bookings/{booking['id']}"

        await people.customer("grace").post(f"{path}/check-in", None, 403)
        early = await host.post(f"{path}/check-in", None, 409)
        assert (early["from"], early["to"]) == ("pending", "checked_in")
        assert (await host.post(f"{path}/approve", {}))["status"] == "confirmed"
        assert (await host.post(f"{path}/check-in"))["checked_in_at"] is not None
        assert (await host.post(f"{path}/complete", {}))["completed_at"] is not None
        final = await host.post(f"{path}/cancel", {"reason": "too late"}, 409)
        assert final["allowed"] == []

        steps = [s for s in (await host.get(f"{path}/history"))["items"] if s["from"] != s["to"]]
        assert [(s["to"], s["actor"], s["role"]) for s in steps[-3:]] == [
            ("confirmed", "aurora", "organizer"),
            ("checked_in", "aurora", "organizer"),
            ("completed", "aurora", "organizer"),
        ]
        assert all(step["at"] for step in steps)


async def test_whoever_does_not_come_is_a_no_show(installation: Installation) -> None:
    async with installation.people() as people:
        host, evening = await evening_of(people, installation)
        booking = await book(people.customer("grace"), evening, "T-3")
        await host.post(f"/v1/bookings/{booking['id']}/approve", {})

        assert (await host.post(f"/v1/bookings/{booking['id']}/no-show"))["status"] == "no_show"


async def test_a_request_that_nobody_answers_expires_and_its_table_is_free(installation: Installation) -> None:
    async with installation.people() as people:
        policy = installation.example()["policy"] | {"approval_ttl": 1}
        _, evening = await evening_of(people, installation, policy=policy)
        grace = people.customer("grace")
        booking = await book(grace, evening, "T-3")

        async def has_expired() -> bool:
            return bool((await grace.get(f"/v1/bookings/{booking['id']}"))["status"] == "expired")

        await until(has_expired, within_s=30)
        assert "T-3" in await free_tables(grace, evening, at="19:00", until="20:30", party=4)


async def test_references_are_for_reading_out(installation: Installation) -> None:
    async with installation.people() as people:
        host, evening = await evening_of(people, installation)
        booking = await book(people.customer("grace"), evening, "T-3")
        reference = booking["reference"]

        typed = reference.lower().replace("-", "")
        found = await host.get(f"/v1/bookings/by-reference/{typed}")

        assert found["id"] == booking["id"]
        wrong = reference[:-1] + ("0" if reference[-1] != "0" else "1")
        await host.get(f"/v1/bookings/by-reference/{wrong}", 404)


async def test_guests_see_their_own_hosts_their_venues_and_admins_all(installation: Installation) -> None:
    async with installation.people() as people:
        host, evening = await evening_of(people, installation)
        booking = await book(people.customer("lin"), evening, "T-3")
        path = f"/v1/bookings/{booking['id']}"

        await people.customer("eve").get(path, 404)
        await people.organizer("another-venue").get(path, 404)
        assert (await host.get(path))["id"] == (await people.admin().get(path))["id"] == booking["id"]
        assert [b["id"] for b in (await people.customer("lin").get("/v1/bookings"))["items"]] == [booking["id"]]
        assert [b["id"] for b in (await host.get(f"/v1/events/{evening}/bookings"))["items"]] == [booking["id"]]
        everything = await people.admin().get(f"/v1/admin/bookings?event_id={evening}")
        assert [b["id"] for b in everything["items"]] == [booking["id"]]
        await people.nobody().get(path, 401)


async def test_without_a_price_service_the_menus_own_price_is_taken(
    installation: Installation, pricing: StandIn
) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        with pricing.broken():
            booking = await book(people.customer("grace"), evening, "T-3")

        assert booking["price"]["source"] == "fallback"
        assert booking["amount"] == 6 * 500


async def test_without_a_stock_service_nobody_is_seated(installation: Installation, inventory: StandIn) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        grace = people.customer("grace")

        with inventory.broken():
            refused = await grace.call("POST", "/v1/bookings", table(evening, "T-3"))

        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert await installation.rows("SELECT 1 FROM bookings WHERE event_id = $1", evening) == []

        async def is_free() -> bool:
            return "T-3" in await free_tables(grace, evening, at="19:00", until="20:30", party=4)

        await until(is_free)


async def test_what_the_stock_service_does_not_have_is_not_sold(installation: Installation, inventory: StandIn) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        usual = inventory.reply
        inventory.reply = lambda wanted: {"available": False, "reason": "the kitchen is closed"}
        try:
            refused = await people.customer("grace").call("POST", "/v1/bookings", table(evening, "T-3"))
        finally:
            inventory.reply = usual

        assert (refused.status_code, refused.json()["code"]) == (409, "places-unavailable")


async def test_a_payment_that_fails_leaves_no_booking_behind(installation: Installation) -> None:
    async with installation.people() as people:
        host, evening = await evening_of(people, installation)
        grace = people.customer("grace")
        declined = {"provider": "simulator", "method": "sim_declined"}

        await grace.post("/v1/bookings", table(evening, "T-3", payment=declined), 402)

        confirmed = (await host.get(f"/v1/events/{evening}/bookings?status=confirmed"))["items"]
        pending = (await host.get(f"/v1/events/{evening}/bookings?status=pending"))["items"]
        assert confirmed == pending == []
        assert await installation.rows("SELECT 1 FROM claims WHERE event_id = $1", evening) == []


async def test_personal_data_is_encrypted_at_rest(installation: Installation) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        await book(people.customer("grace"), evening, "T-3")

        rows = await installation.rows("SELECT b::text AS row FROM bookings b WHERE event_id = $1", evening)
        told = await installation.rows("SELECT o::text AS row FROM outbox o WHERE event_id = $1", evening)

        text = " ".join(row["row"] for row in (*rows, *told))
        assert all(word not in text for word in ("Grace", "Hopper", "grace@example.org", "555 0100"))


async def test_two_parties_want_the_last_table_for_the_same_hour(installation: Installation) -> None:
    async with installation.people() as people:
        _, evening = await evening_of(people, installation)
        names = [f"party-{number}" for number in range(8)]

        answers = await asyncio.gather(
            *(people.customer(name).call("POST", "/v1/bookings", table(evening, "T-5")) for name in names)
        )

        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
        await installation.require_agreement()


async def test_figures_are_there_for_prometheus(installation: Installation) -> None:
    async with installation.people() as people:
        response = await people.nobody().call("GET", "/metrics")
        assert response.status_code == 200
        assert "holdfast_" in response.text


async def test_an_evening_that_is_over_is_settled_by_the_policy(installation: Installation) -> None:
    async with installation.people() as people:
        host, evening = await evening_of(
            people,
            installation,
            starts_at=hours_from_now(0.004),
            ends_at=hours_from_now(0.005),
        )
        booking = await book(people.customer("grace"), evening, "T-3")
        await host.post(f"/v1/bookings/{booking['id']}/approve", {})

        async def is_no_show() -> bool:
            return bool((await host.get(f"/v1/bookings/{booking['id']}"))["status"] == "no_show")

        await until(is_no_show, within_s=60)


def test_its_readme_does_what_it_says(installation: Installation) -> None:
    printed = installation.run_readme()

    assert '"to":"checked_in"' in printed
