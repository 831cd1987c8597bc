"""shared routes: seats on a route and date, paid for, fares of a matchmaking service, and ten states of a booking."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from running import Installation, People, Person, hours_from_now, until
from stand_ins import StandIn

SYSTEM = "shared-routes"
FARE = 150000  # of the route itself
TAX = 1125
BURST = 20
_riders = itertools.count(1)


def fare_of(wanted: dict[str, Any]) -> dict[str, Any]:
    """The matchmaking service's price: a tenth off for two or more, and a tax."""
    base = sum(item["quantity"] for item in wanted["items"]) * FARE
    discount = base // 10 if base > FARE else 0
    return {"base": base, "tax": TAX, "discount": discount, "total": base + TAX - discount}


@pytest.fixture(scope="module")
def matchmaking() -> Iterator[StandIn]:
    with StandIn(fare_of).running() as service:
        yield service


@pytest.fixture(scope="module")
def services(matchmaking: StandIn) -> dict[str, str]:
    return {"HOLDFAST_PRICING_URL": matchmaking.url}


def rider(people: People) -> Person:
    """Somebody new, whose allowance of requests nobody has used."""
    return people.customer(f"rider-{next(_riders)}")


async def route_of(people: People, installation: Installation, **changes: Any) -> tuple[Person, str]:
    """The operator, and a route on one date."""
    operator = people.organizer(f"openride-{next(_riders)}")
    return operator, await operator.put_on_sale(installation.example(**changes))


async def hold(person: Person, route: str, seats: int = 1, **members: Any) -> dict[str, Any]:
    body = {"items": [{"section": "bus", "quantity": seats}], **members}
    answer: dict[str, Any] = await person.post(f"/v1/events/{route}/holds", body, 201)
    return answer


def payment(method: str) -> dict[str, str]:
    return {"provider": "simulator", "method": method}


async def book(person: Person, route: str, seats: int = 1, *, method: str = "sim_ok", status: int = 201) -> Any:
    body = {"hold_id": (await hold(person, route, seats))["id"], "payment": payment(method)}
    return await person.post("/v1/bookings", body, status)


async def has_status(people: People, booking: dict[str, Any], *statuses: str) -> bool:
    """Whether it has come to that; asked by an admin, who may ask as often as they like."""
    return (await people.admin().get(f"/v1/bookings/{booking['id']}"))["status"] in statuses


async def has_payment_status(people: People, booking: dict[str, Any], status: str) -> bool:
    now: str = (await people.admin().get(f"/v1/bookings/{booking['id']}"))["payment_status"]
    return now == status


async def steps_of(person: Person, booking: dict[str, Any]) -> list[tuple[str | None, str]]:
    lines = (await person.get(f"/v1/bookings/{booking['id']}/history"))["items"]
    return [(line["from"], line["to"]) for line in lines if line["from"] != line["to"]]


async def test_a_booking_goes_from_hold_through_payment_to_the_end_of_its_trip(installation: Installation) -> None:
    async with installation.people() as people:
        operator, route = await route_of(people, installation)
        chi = rider(people)

        booking = await book(chi, route, 2)
        assert booking["status"] == "confirmed"
        await until(lambda: has_payment_status(people, booking, "completed"))
        await operator.post(f"/v1/bookings/{booking['id']}/check-in")
        done = await operator.post(f"/v1/bookings/{booking['id']}/complete", {})

        assert done["status"] == "completed"
        assert await steps_of(chi, booking) == [
            (None, "payment_initiated"),
            ("payment_initiated", "paid"),
            ("paid", "confirmed"),
            ("confirmed", "checked_in"),
            ("checked_in", "completed"),
        ]


async def test_creation_is_idempotent(installation: Installation) -> None:
    async with installation.people() as people:
        _, route = await route_of(people, installation)
        chi = rider(people)
        body = {"hold_id": (await hold(chi, route))["id"], "payment": payment("sim_ok")}

        answers = await asyncio.gather(
            *(chi.call("POST", "/v1/bookings", body, idempotency_key="trip-1") for _ in range(5))
        )
        again = await chi.call("POST", "/v1/bookings", body, idempotency_key="trip-1")

        assert {answer.status_code for answer in answers} <= {201, 202, 409}
        assert len({answer.json()["id"] for answer in answers if answer.status_code != 409}) == 1
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        rows = await installation.rows("SELECT count(*) AS n FROM bookings WHERE event_id = $1", route)
        assert rows[0]["n"] == 1
        other = await chi.post("/v1/bookings", body | {"notes": "x"}, 422, idempotency_key="trip-1")
        assert other["code"] == "idempotency-key-reused"


async def test_a_hold_is_extended_while_its_payment_is_under_way(installation: Installation) -> None:
    async with installation.people() as people:
        _, route = await route_of(people, installation)
        chi = rider(people)
        held = await hold(chi, route, ttl=3)

        body = {"hold_id": held["id"], "payment": payment("sim_slow_7000")}
        waiting = await chi.post("/v1/bookings", body, 202)
        assert waiting["status"] == "payment_initiated"
        await until(lambda: has_status(people, waiting, "confirmed"), within_s=30)
        await installation.require_agreement()


async def test_holds_that_lapse_give_their_seats_back_by_themselves(installation: Installation) -> None:
    async with installation.people() as people:
        _, route = await route_of(people, installation)
        chi = rider(people)
        await hold(chi, route, 4, ttl=1)
        assert await chi.free(route) == 10

        async def are_free() -> bool:
            return await chi.free(route) == 14

        await until(are_free, within_s=5)


async def test_a_booking_is_confirmed_by_the_payments_webhook(installation: Installation) -> None:
    async with installation.people() as people:
        _, route = await route_of(people, installation)
        chi = rider(people)

        waiting = await book(chi, route, method="sim_redirect", status=202)
        assert waiting["status"] == "payment_initiated"
        await people.pay_at(waiting["redirect_url"])
        await until(lambda: has_status(people, waiting, "confirmed"))
        await until(lambda: has_payment_status(people, waiting, "completed"))


async def test_payment_states_tell_what_has_become_of_the_money(installation: Installation) -> None:
    async with installation.people() as people:
        operator, route = await route_of(people, installation)
        chi = rider(people)

        declined = await book(chi, route, method="sim_declined", status=402)
        assert declined["code"] == "payment-declined"
        paid = await book(chi, route)
        await until(lambda: has_payment_status(people, paid, "completed"))
        part = await operator.post(f"/v1/bookings/{paid['id']}/refund", {"amount": 50000, "reason": "late"})
        assert part["refunded"] == 50000
        await until(lambda: has_payment_status(people, paid, "partially_refunded"))


async def test_one_that_is_never_paid_ends_and_its_seats_are_free(installation: Installation) -> None:
    async with installation.people() as people:
        _, route = await route_of(people, installation)
        chi = rider(people)
        held = await hold(chi, route, 3)
        await chi.post("/v1/bookings", {"hold_id": held["id"], "payment": payment("sim_declined")}, 402)
        await chi.delete(f"/v1/holds/{held['id']}")

        assert await chi.free(route) == 14
        await until(lambda: has_status(people, held, "failed", "cancelled", "expired"), within_s=60)


@pytest.mark.parametrize(("hours", "percent"), [(30, 100), (12, 50), (1, 0)])
async def test_cancelling_keeps_the_reason_and_refunds_by_the_tiers(
    installation: Installation, hours: float, percent: int
) -> None:
    async with installation.people() as people:
        times = {"starts_at": hours_from_now(hours), "ends_at": hours_from_now(hours + 2)}
        _, route = await route_of(people, installation, **times)
        chi = rider(people)
        booking = await book(chi, route)

        cancelled = await chi.post(f"/v1/bookings/{booking['id']}/cancel", {"reason": "meeting moved"})

        assert cancelled["cancellation_reason"] == "meeting moved"
        assert cancelled["refunded"] == booking["amount"] * percent // 100
        assert await chi.free(route) == 14


async def test_fares_come_from_the_matchmaking_service(installation: Installation, matchmaking: StandIn) -> None:
    async with installation.people() as people:
        _, route = await route_of(people, installation)

        booking = await book(rider(people), route, 2)

        price = booking["price"]
        assert (price["base"], price["tax"], price["discount"]) == (2 * FARE, TAX, 2 * FARE // 10)
        assert booking["amount"] == price["total"] == 2 * FARE + TAX - 2 * FARE // 10
        assert price["source"] == "service"
        assert matchmaking.received[-1]["event_id"] == route


async def test_while_that_service_is_away_the_routes_own_fare_is_charged(
    installation: Installation, matchmaking: StandIn
) -> None:
    async with installation.people() as people:
        _, route = await route_of(people, installation)

        with matchmaking.broken():
            booking = await book(rider(people), route, 2)

        assert (booking["amount"], booking["price"]["source"]) == (2 * FARE, "fallback")


async def test_bookings_are_found_by_id_by_reference_among_ones_own_and_upcoming(installation: Installation) -> None:
    async with installation.people() as people:
        _, later = await route_of(people, installation, starts_at=hours_from_now(60), ends_at=hours_from_now(62))
        _, sooner = await route_of(people, installation, starts_at=hours_from_now(30), ends_at=hours_from_now(32))
        dayo = people.customer("dayo")
        second, first = await book(dayo, later), await book(dayo, sooner)

        assert (await dayo.get(f"/v1/bookings/by-reference/{first['reference']}"))["id"] == first["id"]
        assert [b["id"] for b in (await dayo.get("/v1/bookings"))["items"]] == [first["id"], second["id"]]
        upcoming = (await dayo.get("/v1/bookings/upcoming"))["items"]
        assert [booking["id"] for booking in upcoming] == [first["id"], second["id"]]
        await people.customer("eve").get(f"/v1/bookings/{first['id']}", 404)
        await people.customer("eve").get(f"/v1/bookings/by-reference/{first['reference']}", 404)


async def test_occupancy_is_told_to_the_operator(installation: Installation) -> None:
    async with installation.people() as people:
        operator, route = await route_of(people, installation)
        await book(rider(people), route, 4)
        await book(people.customer("dayo"), route, 3)

        figures = await operator.get(f"/v1/events/{route}/statistics")

        assert figures["seats_booked"] == 7
        assert figures["occupancy_percent"] == 50


async def test_twenty_at_once_share_fourteen_seats_and_nobody_is_sold_twice(installation: Installation) -> None:
    async with installation.people() as people:
        _, route = await route_of(people, installation)

        async def try_to_book(number: int) -> int:
            person = people.customer(f"rival-{number}")
            body = {"items": [{"section": "bus", "quantity": 1}]}
            held = await person.call("POST", f"/v1/events/{route}/holds", body)
            if held.status_code != 201:
                return held.status_code
            booked = await person.call(
                "POST", "/v1/bookings", {"hold_id": held.json()["id"], "payment": payment("sim_ok")}
            )
            return booked.status_code

        statuses = await asyncio.gather(*(try_to_book(number) for number in range(20)))

        assert statuses.count(201) + statuses.count(202) == 14
        assert statuses.count(409) == 6

        async def are_settled() -> bool:
            rows = await installation.rows(
                "SELECT count(*) AS n FROM bookings WHERE event_id = $1 AND status = 'confirmed'", route
            )
            return bool(rows[0]["n"] == 14)

        await until(are_settled, within_s=30)
        sold = await installation.rows("SELECT sold FROM usage WHERE event_id = $1", route)
        assert [row["sold"] for row in sold] == [14]
        await installation.require_agreement()


async def test_a_hundred_requests_a_minute_and_twenty_at_once_are_allowed(installation: Installation) -> None:
    async with installation.people() as people:
        chi = rider(people)

        answers = await asyncio.gather(*(chi.call("GET", "/v1/bookings") for _ in range(2 * BURST)))

        refused = [answer for answer in answers if answer.status_code == 429]
        assert BURST <= len(answers) - len(refused) < BURST + 10  # one more is earned every 0.6 s
        assert {answer.json()["code"] for answer in refused} == {"rate-limited"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert (await rider(people).call("GET", "/v1/bookings")).status_code == 200


async def test_its_lifecycle_is_published(installation: Installation) -> None:
    async with installation.people() as people:
        operator, route = await route_of(people, installation)
        done = await book(rider(people), route)
        gone = await book(people.customer("dayo"), route)
        await operator.post(f"/v1/bookings/{done['id']}/complete", {})
        await people.customer("dayo").post(f"/v1/bookings/{gone['id']}/cancel", {"reason": "ill"})

        rows = await installation.rows("SELECT type FROM outbox WHERE event_id = $1", route)

        types = [row["type"] for row in rows]
        for name in ("created", "confirmed", "completed", "cancelled"):
            assert f"booking.{name}" in types


def test_its_readme_does_what_it_says(installation: Installation) -> None:
    printed = installation.run_readme()

    assert '"to":"completed"' in printed
