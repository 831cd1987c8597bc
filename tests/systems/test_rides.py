"""rides: a driver offers the seats of a car, passengers ask for them, the driver decides."""

import asyncio
import itertools
from typing import Any

import pytest
from running import Installation, People, Person, hours_from_now

SYSTEM = "rides"

PICKUP, DROPOFF = "2030-05-03T22:10:00Z", "2030-05-03T22:55:00Z"
APPROVAL = {"organizer_notes": "White van", "estimated_pickup_time": PICKUP, "estimated_dropoff_time": DROPOFF}


def ask(ride: str, seats: int, **members: Any) -> dict[str, Any]:
    """A passenger's request."""
    return {"event_id": ride, "items": [{"section": "car", "quantity": seats}], **members}


async def request(passenger: Person, ride: str, seats: int = 1) -> dict[str, Any]:
    booking: dict[str, Any] = await passenger.post("/v1/bookings", ask(ride, seats), 201)
    return booking


_numbers = itertools.count()


async def ride_of(people: People, installation: Installation, **changes: Any) -> tuple[Person, str]:
    """A driver and a ride of theirs; one of their own for each, for a driver may ask only so much in a minute."""
    driver = people.organizer(f"driver-{next(_numbers)}")
    return driver, await driver.put_on_sale(installation.example(**changes))


async def test_a_request_holds_its_seats_until_the_driver_has_decided(installation: Installation) -> None:
    async with installation.people() as people:
        driver, ride = await ride_of(people, installation)
        pat = people.customer("pat")

        booking = await request(pat, ride, 2)

        assert booking["status"] == "pending"
        assert booking["amount"] == 2 * 1200
        assert booking["expires_at"] is not None
        assert await pat.free(ride) == 1
        decided = await driver.post(f"/v1/bookings/{booking['id']}/approve", APPROVAL)
        assert decided["status"] == "confirmed"
        assert decided["organizer_notes"] == "White van"
        assert (decided["estimated_pickup_time"], decided["estimated_dropoff_time"]) == (PICKUP, DROPOFF)
        assert decided["expires_at"] is None
        assert await pat.get(f"/v1/bookings/{booking['id']}") == decided


@pytest.mark.parametrize("seats", [0, 8, -1, "two", 1.5, None])
async def test_one_to_seven_seats_can_be_asked_for(installation: Installation, seats: Any) -> None:
    async with installation.people() as people:
        sections = [{"id": "car", "price": 1200, "capacity": 7}]
        _, ride = await ride_of(people, installation, sections=sections)
        refused = await people.customer("pat").call("POST", "/v1/bookings", ask(ride, seats))

        assert refused.status_code in (409, 422), refused.text
        assert refused.json()["code"] in ("limit-exceeded", "invalid-request")
        assert await people.customer("pat").free(ride) == 7
        assert (await request(people.customer("quin"), ride, 7))["amount"] == 8400


async def test_only_the_driver_of_the_ride_decides(installation: Installation) -> None:
    async with installation.people() as people:
        _, ride = await ride_of(people, installation)
        booking = await request(people.customer("pat"), ride)

        for somebody in (people.customer("pat"), people.organizer("another-driver")):
            for step, body in (("approve", APPROVAL), ("reject", {"organizer_notes": "no"})):
                refused = await somebody.call("POST", f"/v1/bookings/{booking['id']}/{step}", body)
                assert refused.status_code in (403, 404), refused.text
        assert (await people.customer("pat").get(f"/v1/bookings/{booking['id']}"))["status"] == "pending"


async def test_a_rejection_needs_a_reason_and_gives_the_seats_back(installation: Installation) -> None:
    async with installation.people() as people:
        driver, ride = await ride_of(people, installation)
        booking = await request(people.customer("pat"), ride, 3)
        assert await driver.free(ride) == 0

        missing = await driver.post(f"/v1/bookings/{booking['id']}/reject", {}, 422)
        assert missing["path"] == "$.organizer_notes"
        rejected = await driver.post(f"/v1/bookings/{booking['id']}/reject", {"organizer_notes": "My car is full"})

        assert (rejected["status"], rejected["organizer_notes"]) == ("rejected", "My car is full")
        assert (await request(people.customer("quin"), ride, 3))["status"] == "pending"


async def test_a_request_can_be_changed_only_while_it_is_pending(installation: Installation) -> None:
    async with installation.people() as people:
        driver, ride = await ride_of(people, installation)
        pat = people.customer("pat")
        booking = await request(pat, ride)

        changed = await pat.patch(f"/v1/bookings/{booking['id']}", {"notes": "I bring a guitar"})
        assert (changed["notes"], changed["version"]) == ("I bring a guitar", booking["version"] + 1)
        stale = await pat.patch(f"/v1/bookings/{booking['id']}", {"notes": "No"}, 409, if_match='"1"')
        assert stale["code"] == "version-conflict"
        await driver.post(f"/v1/bookings/{booking['id']}/reject", {"organizer_notes": "no guitars"})

        refused = await pat.patch(f"/v1/bookings/{booking['id']}", {"notes": "Without it, then"}, 409)
        assert refused["code"] == "invalid-transition"


async def test_a_passenger_has_one_live_booking_of_a_ride(installation: Installation) -> None:
    async with installation.people() as people:
        _, ride = await ride_of(people, installation)
        pat = people.customer("pat")
        first = await request(pat, ride)

        second = await pat.post("/v1/bookings", ask(ride, 1), 409)
        assert (second["code"], second["limit"]) == ("limit-exceeded", "one_booking_per_customer")
        assert await pat.free(ride) == 2
        await pat.post(f"/v1/bookings/{first['id']}/cancel", {"reason": "another train"})

        assert (await request(pat, ride))["status"] == "pending"


async def test_departure_must_be_more_than_an_hour_away(installation: Installation) -> None:
    async with installation.people() as people:
        _, soon = await ride_of(people, installation, starts_at=hours_from_now(0.9))
        _, later = await ride_of(people, installation, starts_at=hours_from_now(1.1))

        refused = await people.customer("pat").post("/v1/bookings", ask(soon, 1), 409)
        assert refused["code"] == "event-not-open"
        assert refused["sales_ended_at"] is not None
        assert (await request(people.customer("pat"), later))["status"] == "pending"


async def test_a_full_ride_is_sold_out_and_on_sale_again_when_a_seat_comes_back(installation: Installation) -> None:
    async with installation.people() as people:
        _, ride = await ride_of(people, installation)
        pat, quin = people.customer("pat"), people.customer("quin")
        booking = await request(pat, ride, 3)

        full = await quin.post("/v1/bookings", ask(ride, 1), 409)
        assert full["code"] == "places-unavailable"
        assert full["unavailable"] == [{"section": "car", "requested": 1, "free": 0}]
        assert await quin.free(ride) == 0
        await pat.post(f"/v1/bookings/{booking['id']}/cancel", {"reason": "ill"})

        assert await quin.free(ride) == 3
        assert (await request(quin, ride))["status"] == "pending"


async def test_two_seats_are_not_to_be_had_where_one_is_left(installation: Installation) -> None:
    async with installation.people() as people:
        _, ride = await ride_of(people, installation)
        await request(people.customer("pat"), ride, 2)

        refused = await people.customer("quin").post("/v1/bookings", ask(ride, 2), 409)

        assert refused["unavailable"] == [{"section": "car", "requested": 2, "free": 1}]
        assert await people.customer("quin").free(ride) == 1


@pytest.mark.parametrize(("hours", "percent"), [(25, 100), (12, 50), (1.5, 0)])
async def test_a_passenger_who_cancels_gets_back_what_the_tiers_say(
    installation: Installation, hours: float, percent: int
) -> None:
    async with installation.people() as people:
        driver, ride = await ride_of(people, installation, starts_at=hours_from_now(hours))
        pat = people.customer("pat")
        booking = await request(pat, ride, 2)
        await driver.post(f"/v1/bookings/{booking['id']}/approve", {})

        quote = await pat.get(f"/v1/bookings/{booking['id']}/refund-quote")
        assert (quote["percent"], quote["amount"]) == (percent, 2400 * percent // 100)
        cancelled = await pat.post(f"/v1/bookings/{booking['id']}/cancel", {"reason": "overslept"})

        assert (cancelled["status"], cancelled["refunded"]) == ("cancelled", 2400 * percent // 100)
        assert (cancelled["cancelled_by"], cancelled["cancellation_reason"]) == ("pat", "overslept")
        assert await pat.free(ride) == 3


@pytest.mark.parametrize("hours", [25, 1.5])
async def test_a_driver_who_cancels_gives_everything_back(installation: Installation, hours: float) -> None:
    async with installation.people() as people:
        driver, ride = await ride_of(people, installation, starts_at=hours_from_now(hours))
        booking = await request(people.customer("pat"), ride, 2)
        await driver.post(f"/v1/bookings/{booking['id']}/approve", {})

        cancelled = await driver.post(f"/v1/bookings/{booking['id']}/cancel", {"reason": "flat tyre"})

        assert (cancelled["status"], cancelled["refunded"], cancelled["cancelled_by"]) == (
            "cancelled",
            2400,
            driver.name,
        )


async def test_completing_sets_the_actual_times_and_the_payment(installation: Installation) -> None:
    async with installation.people() as people:
        driver, ride = await ride_of(people, installation)
        booking = await request(people.customer("pat"), ride)
        await driver.post(f"/v1/bookings/{booking['id']}/approve", APPROVAL)

        times = {"actual_pickup_time": PICKUP, "actual_dropoff_time": DROPOFF}
        done = await driver.post(f"/v1/bookings/{booking['id']}/complete", times)

        assert (done["status"], done["payment_status"]) == ("completed", "completed")
        assert {name: done[name] for name in times} == times
        assert done["completed_at"] is not None


async def test_wrong_steps_are_refused_and_name_what_is_allowed(installation: Installation) -> None:
    async with installation.people() as people:
        driver, ride = await ride_of(people, installation)
        done = await request(people.customer("pat"), ride)
        await driver.post(f"/v1/bookings/{done['id']}/approve", {})
        await driver.post(f"/v1/bookings/{done['id']}/complete", {})
        rejected = await request(people.customer("quin"), ride)
        await driver.post(f"/v1/bookings/{rejected['id']}/reject", {"organizer_notes": "full"})

        blocked = await driver.post(f"/v1/bookings/{done['id']}/cancel", {"reason": "no"}, 409)
        assert (blocked["code"], blocked["from"], blocked["to"], blocked["allowed"]) == (
            "invalid-transition", "completed", "cancelled", []
        )  # fmt: skip
        blocked = await driver.post(f"/v1/bookings/{rejected['id']}/approve", {}, 409)
        assert (blocked["from"], blocked["to"]) == ("rejected", "confirmed")


async def test_history_says_who_did_what(installation: Installation) -> None:
    async with installation.people() as people:
        driver, ride = await ride_of(people, installation)
        pat = people.customer("pat")
        booking = await request(pat, ride)
        await driver.post(f"/v1/bookings/{booking['id']}/approve", {})
        await pat.post(f"/v1/bookings/{booking['id']}/cancel", {"reason": "ill"})

        lines = (await pat.get(f"/v1/bookings/{booking['id']}/history"))["items"]

        told = [(line["from"], line["to"], line["actor"], line["role"], line["reason"]) for line in lines]
        assert told == [
            (None, "pending", "pat", "customer", None),
            ("pending", "confirmed", driver.name, "organizer", None),
            ("confirmed", "cancelled", "pat", "customer", "ill"),
        ]
        assert all(line["at"] and line["request_id"] for line in lines)


async def test_a_passengers_list_is_theirs_and_can_be_narrowed_to_a_status(installation: Installation) -> None:
    async with installation.people() as people:
        driver, one = await ride_of(people, installation)
        _, other = await ride_of(people, installation)
        rita = people.customer("rita")
        approved, waiting = await request(rita, one), await request(rita, other)
        await driver.post(f"/v1/bookings/{approved['id']}/approve", {})
        await request(people.customer("sam"), one)

        mine = (await rita.get("/v1/bookings"))["items"]
        assert {booking["id"] for booking in mine} == {approved["id"], waiting["id"]}
        pending = (await rita.get("/v1/bookings?status=pending"))["items"]
        assert [booking["id"] for booking in pending] == [waiting["id"]]
        await people.customer("sam").get(f"/v1/bookings/{approved['id']}", 404)


async def test_the_driver_sees_the_rides_bookings_and_its_statistics(installation: Installation) -> None:
    async with installation.people() as people:
        sections = [{"id": "car", "price": 1200, "capacity": 7}]
        driver, ride = await ride_of(people, installation, sections=sections)
        asked = [await request(people.customer(name), ride, seats) for name, seats in (("a", 2), ("b", 1), ("c", 3))]
        await driver.post(f"/v1/bookings/{asked[0]['id']}/approve", {})
        await driver.post(f"/v1/bookings/{asked[1]['id']}/reject", {"organizer_notes": "no room for a dog"})

        listed = (await driver.get(f"/v1/events/{ride}/bookings"))["items"]
        assert {booking["id"] for booking in listed} == {booking["id"] for booking in asked}
        figures = await driver.get(f"/v1/events/{ride}/statistics")
        counted = ("total_requests", "pending", "approved", "rejected", "cancelled", "seats_booked", "revenue")
        assert [figures[name] for name in counted] == [3, 1, 1, 1, 0, 2, 2400]
        await people.customer("a").get(f"/v1/events/{ride}/statistics", 403)
        refused = await people.organizer("another-driver").call("GET", f"/v1/events/{ride}/bookings")
        assert refused.status_code in (403, 404)


async def test_ten_ask_for_the_last_seat_and_exactly_one_gets_it(installation: Installation) -> None:
    async with installation.people() as people:
        sections = [{"id": "car", "price": 1200, "capacity": 1}]
        _, ride = await ride_of(people, installation, sections=sections)

        answers = await asyncio.gather(
            *(people.customer(f"p{number}").call("POST", "/v1/bookings", ask(ride, 1)) for number in range(10))
        )

        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
        assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"places-unavailable"}
        rows = await installation.rows("SELECT status FROM bookings WHERE event_id = $1", ride)
        assert [row["status"] for row in rows] == ["pending"]
        await installation.require_agreement()


async def test_a_refused_request_leaves_nothing_behind(installation: Installation) -> None:
    async with installation.people() as people:
        _, ride = await ride_of(people, installation)
        body = {"event_id": ride, "items": [{"section": "car", "quantity": 1}, {"section": "boot", "quantity": 1}]}

        await people.customer("pat").post("/v1/bookings", body, 422)

        assert await people.customer("pat").free(ride) == 3
        for table in ("bookings", "claims", "outbox"):
            assert await installation.rows(f"SELECT 1 FROM {table} WHERE event_id = $1", ride) == []
        await installation.require_agreement()


async def test_everybody_concerned_is_notified(installation: Installation) -> None:
    async with installation.people() as people:
        driver, ride = await ride_of(people, installation)
        taken = await request(people.customer("pat"), ride)
        await driver.post(f"/v1/bookings/{taken['id']}/approve", {})
        await people.customer("pat").post(f"/v1/bookings/{taken['id']}/cancel", {"reason": "ill"})
        refused = await request(people.customer("quin"), ride)
        await driver.post(f"/v1/bookings/{refused['id']}/reject", {"organizer_notes": "full"})

        rows = await installation.rows("SELECT type FROM outbox WHERE event_id = $1 ORDER BY id", ride)

        assert [row["type"] for row in rows] == [
            "booking.created", "booking.confirmed", "booking.cancelled", "booking.created", "booking.rejected"
        ]  # fmt: skip


def test_its_readme_does_what_it_says(installation: Installation) -> None:
    printed = installation.run_readme()

    assert '"status":"cancelled"' in printed
