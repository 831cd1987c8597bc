"""events: tickets by quantity, reserved for a while, confirmed by hand, with a waitlist for those who came too late."""

import asyncio
from typing import Any

from running import Installation, People, Person, until

SYSTEM = "events"
QUARTER_OF_AN_HOUR_S = 900


async def concert_of(people: People, installation: Installation, **changes: Any) -> tuple[Person, str]:
    """The organizer, and an event."""
    organizer = people.organizer("evently")
    return organizer, await organizer.put_on_sale(installation.example(**changes))


def tickets(quantity: int, **members: Any) -> dict[str, Any]:
    return {"items": [{"section": "tickets", "quantity": quantity}], **members}


async def reserve(person: Person, event: str, quantity: int, **members: Any) -> dict[str, Any]:
    hold: dict[str, Any] = await person.post(f"/v1/events/{event}/holds", tickets(quantity, **members), 201)
    return hold


async def book(person: Person, event: str, quantity: int) -> dict[str, Any]:
    booking: dict[str, Any] = await person.post("/v1/bookings", tickets(quantity, event_id=event), 201)
    return booking


async def join(person: Person, event: str, quantity: int = 1, **members: Any) -> dict[str, Any]:
    entry: dict[str, Any] = await person.post(f"/v1/events/{event}/waitlist", tickets(quantity, **members), 201)
    return entry


async def offer_to(person: Person, entry: dict[str, Any]) -> dict[str, Any]:
    async def is_offered() -> dict[str, Any] | None:
        now = await person.get(f"/v1/waitlist/{entry['id']}")
        return dict(now) if now["status"] == "offered" else None

    offered: dict[str, Any] = await until(is_offered, within_s=10)
    return offered


async def test_capacity_is_reserved_for_a_while_and_released(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)
        uma = people.customer("uma")

        hold = await reserve(uma, event, 4)
        assert hold["ttl"] == QUARTER_OF_AN_HOUR_S
        (section,) = (await uma.get(f"/v1/events/{event}/availability"))["sections"]
        assert (section["capacity"], section["free"], section["held"], section["sold"]) == (10, 6, 4, 0)
        await uma.delete(f"/v1/holds/{hold['id']}")

        assert await uma.free(event) == 10
        gone = await uma.call("POST", "/v1/bookings", {"hold_id": hold["id"]})
        assert (gone.status_code, gone.json()["code"]) == (410, "hold-released")


async def test_a_reservation_that_is_not_used_lapses(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)
        uma = people.customer("uma")
        hold = await reserve(uma, event, 10, ttl=1)
        await asyncio.sleep(1.1)

        await reserve(people.customer("vic"), event, 10)

        assert (await uma.post("/v1/bookings", {"hold_id": hold["id"]}, 410))["code"] == "hold-expired"


async def test_a_booking_is_confirmed_by_hand(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)
        uma, admin = people.customer("uma"), people.admin()
        booking = await book(uma, event, 2)
        assert (booking["status"], booking["amount"]) == ("pending", 7000)

        await uma.post(f"/v1/bookings/{booking['id']}/approve", {}, 403)
        confirmed = await admin.post(f"/v1/bookings/{booking['id']}/approve", {})

        assert confirmed["status"] == "confirmed"
        assert confirmed["confirmed_at"] is not None
        assert (await uma.get(f"/v1/bookings/{booking['id']}"))["status"] == "confirmed"


async def test_what_is_not_confirmed_in_time_expires_and_its_tickets_are_free(installation: Installation) -> None:
    async with installation.people() as people:
        policy = installation.example()["policy"] | {"approval_ttl": 1, "waitlist": False}
        _, event = await concert_of(people, installation, policy=policy)
        uma = people.customer("uma")
        booking = await book(uma, event, 10)

        async def has_expired() -> bool:
            return bool((await uma.get(f"/v1/bookings/{booking['id']}"))["status"] == "expired")

        async def everything_is_free() -> bool:
            return await uma.free(event) == 10

        await until(has_expired, within_s=30)
        await until(everything_is_free, within_s=5)  # the ledger is told first, and then Redis


async def test_an_admin_refunds(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)
        uma, admin = people.customer("uma"), people.admin()
        booking = await book(uma, event, 2)
        await admin.post(f"/v1/bookings/{booking['id']}/approve", {})

        await uma.post(f"/v1/bookings/{booking['id']}/refund", {"amount": 100, "reason": "x"}, 403)
        part = await admin.post(f"/v1/bookings/{booking['id']}/refund", {"amount": 3000, "reason": "rain"})
        too_much = await admin.post(f"/v1/bookings/{booking['id']}/refund", {"amount": 4001, "reason": "rain"}, 422)
        rest = await admin.post(f"/v1/bookings/{booking['id']}/refund", {"amount": 4000, "reason": "cancelled"})

        assert (part["refunded"], rest["refunded"]) == (3000, 7000)
        assert too_much["path"] == "$.amount"


async def test_an_admin_lists_all_bookings_with_filters(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)
        admin = people.admin()
        mine, theirs = await book(people.customer("uma"), event, 1), await book(people.customer("vic"), event, 1)
        await admin.post(f"/v1/bookings/{mine['id']}/approve", {})

        async def found(query: str) -> set[str]:
            items = (await admin.get(f"/v1/admin/bookings?event_id={event}&{query}"))["items"]
            return {booking["id"] for booking in items}

        assert await found("") == {mine["id"], theirs["id"]}
        assert await found("status=confirmed") == {mine["id"]}
        assert await found("customer_id=vic") == {theirs["id"]}
        assert await found(f"q={mine['reference']}") == {mine["id"]}
        assert await found("from_date=2099-01-01") == set()
        await people.customer("uma").get("/v1/admin/bookings", 403)


async def test_utilisation_is_told(installation: Installation) -> None:
    async with installation.people() as people:
        organizer, event = await concert_of(people, installation)
        booking = await book(people.customer("uma"), event, 4)
        await organizer.post(f"/v1/bookings/{booking['id']}/approve", {})
        await reserve(people.customer("vic"), event, 1)

        figures = await organizer.get(f"/v1/events/{event}/statistics")

        assert (figures["occupancy_percent"], figures["holds_active"], figures["revenue"]) == (40, 1, 14000)
        overview = await people.admin().get("/v1/admin/overview")
        assert overview


async def test_who_comes_too_late_joins_the_waitlist_and_leaves_it(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)
        await book(people.customer("early"), event, 10)
        wei, xia = people.customer("wei"), people.customer("xia")

        first, second = await join(wei, event, 2), await join(xia, event)
        assert (first["status"], first["position"], second["position"]) == ("waiting", 1, 2)
        assert [entry["id"] for entry in (await wei.get("/v1/waitlist"))["items"]] == [first["id"]]
        await xia.get(f"/v1/waitlist/{first['id']}", 404)
        await wei.delete(f"/v1/waitlist/{first['id']}")

        assert (await wei.get(f"/v1/waitlist/{first['id']}"))["status"] == "cancelled"
        assert (await xia.get(f"/v1/waitlist/{second['id']}"))["position"] == 1


async def test_priority_goes_first_and_only_staff_may_give_it(installation: Installation) -> None:
    async with installation.people() as people:
        organizer, event = await concert_of(people, installation)
        await book(people.customer("early"), event, 10)
        wei = await join(people.customer("wei"), event)

        refused = await people.customer("pushy").call("POST", f"/v1/events/{event}/waitlist", tickets(1, priority=9))
        assert refused.status_code in (403, 422)
        staff = await join(organizer, event, priority=5)

        assert staff["position"] == 1
        assert (await people.customer("wei").get(f"/v1/waitlist/{wei['id']}"))["position"] == 2


async def test_freed_tickets_are_offered_for_a_day_and_booked_from_the_offer(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)
        early, wei = people.customer("early"), people.customer("wei")
        taken = await book(early, event, 10)
        entry = await join(wei, event, 2)

        await early.post(f"/v1/bookings/{taken['id']}/cancel", {"reason": "ill"})
        offered = await offer_to(wei, entry)
        hold = await wei.get(f"/v1/holds/{offered['offer']['hold_id']}")
        assert hold["expires_at"] == offered["offer"]["expires_at"]
        assert 86_000 < hold["ttl"] <= 86_400
        await people.customer("pushy").post(f"/v1/waitlist/{entry['id']}/accept", {}, 404)
        booking = await wei.post(f"/v1/waitlist/{entry['id']}/accept", {}, 201)

        assert (booking["customer_id"], booking["items"][0]["quantity"]) == ("wei", 2)
        assert (await wei.get(f"/v1/waitlist/{entry['id']}"))["status"] == "booked"
        types = await installation.rows("SELECT type FROM outbox WHERE event_id = $1", event)
        assert "waitlist.offered" in {row["type"] for row in types}


async def test_an_offer_that_lapses_goes_to_the_next_in_line(installation: Installation) -> None:
    async with installation.people() as people:
        policy = installation.example()["policy"] | {"offer_ttl": 1}
        _, event = await concert_of(people, installation, policy=policy)
        early, wei, xia = (people.customer(name) for name in ("early", "wei", "xia"))
        taken = await book(early, event, 10)
        first, second = await join(wei, event, 10), await join(xia, event, 10)

        await early.post(f"/v1/bookings/{taken['id']}/cancel", {"reason": "ill"})
        await offer_to(wei, first)
        await offer_to(xia, second)

        async def has_lapsed() -> bool:
            return bool((await wei.get(f"/v1/waitlist/{first['id']}"))["status"] == "expired")

        await until(has_lapsed)


async def test_nobody_overtakes_the_line(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)
        early, wei = people.customer("early"), people.customer("wei")
        taken = await book(early, event, 10)
        entry = await join(wei, event, 1)

        async def snatch(number: int) -> int:
            for _ in range(10):
                answer = await people.customer(f"snatcher-{number}").call(
                    "POST", f"/v1/events/{event}/holds", tickets(10)
                )
                if answer.status_code == 201:
                    return 1
            return 0

        snatchers = asyncio.gather(*(snatch(number) for number in range(8)))
        await early.post(f"/v1/bookings/{taken['id']}/cancel", {"reason": "ill"})
        await offer_to(wei, entry)

        assert sum(await snatchers) == 0
        await installation.require_agreement()


async def test_health_says_how_what_it_depends_on_is(installation: Installation) -> None:
    async with installation.people() as people:
        ready = await people.nobody().get("/readyz")
        assert {"redis", "postgres"} <= set(ready["checks"])
        assert (await people.nobody().get("/v1/info"))["name"] == "holdfast"
        assert (await people.nobody().get("/healthz")) is not None


async def test_versions_let_one_of_two_changes_win_and_the_other_try_again(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)
        uma = people.customer("uma")
        booking = await book(uma, event, 1)
        path = f"/v1/bookings/{booking['id']}"
        bodies = [{"notes": f"from tab {tab}", "expected_version": booking["version"]} for tab in (1, 2)]

        answers = await asyncio.gather(*(uma.call("PATCH", path, body) for body in bodies))

        assert sorted(answer.status_code for answer in answers) == [200, 409]
        loser = next(answer for answer in answers if answer.status_code == 409).json()
        again = await uma.patch(path, {"notes": "once more", "expected_version": loser["current_version"]})
        assert again["version"] == booking["version"] + 2


async def test_a_crowd_wants_more_tickets_than_there_are(installation: Installation) -> None:
    async with installation.people() as people:
        _, event = await concert_of(people, installation)

        answers = await asyncio.gather(
            *(
                people.customer(f"fan-{number}").call("POST", "/v1/bookings", tickets(2, event_id=event))
                for number in range(30)
            )
        )

        assert sorted(answer.status_code for answer in answers) == [201] * 5 + [409] * 25
        sold = await installation.rows("SELECT sold FROM usage WHERE event_id = $1", event)
        assert [row["sold"] for row in sold] == [10]
        await installation.require_agreement()


def test_its_readme_does_what_it_says(installation: Installation) -> None:
    printed = installation.run_readme()

    assert '"customer_id":"wei"' in printed
