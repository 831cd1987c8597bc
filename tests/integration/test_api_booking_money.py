"""What cancelling gives back, refunds, and repeating either under an idempotency key, over HTTP and at the desk."""

import datetime as dt
from typing import Any

import msgspec
import pytest
from api_app import claim
from life_world import World, die, ok, path_of, until_so
from stores import open_client

from engine.lifecycle import Actor
from persistence.booking_desk import Order
from persistence.database import driver_connection

pytest_plugins = ("life_fixtures",)

STARTS_AT = dt.datetime(2035, 5, 1, 19, tzinfo=dt.UTC)  # of the usual event
ANA = Actor("ana", "customer")


def hours(count: float) -> dt.timedelta:
    return dt.timedelta(hours=count)


def moment(before_start: dt.timedelta) -> str:
    return (dt.datetime.now(dt.UTC) + before_start).isoformat()


@pytest.mark.parametrize(
    ("before", "percent", "tier"),
    [
        (hours(24), 100, {"hours_before": 24, "percent": 100}),
        (hours(24) - dt.timedelta(seconds=1), 50, {"hours_before": 2, "percent": 50}),
        (hours(2), 50, {"hours_before": 2, "percent": 50}),
        (hours(2) - dt.timedelta(seconds=1), 0, {"hours_before": 0, "percent": 0}),
        (-dt.timedelta(seconds=1), 0, None),
    ],
)
async def test_cancelling_gives_back_exactly_what_the_quote_of_that_moment_says(
    world: World, before: dt.timedelta, percent: int, tier: dict[str, int] | None
) -> None:
    booking = await world.booked("A-1")
    event = (await world.services.events.find_event(booking["event_id"])).definition
    order, now = Order(admit=lambda _: ANA), STARTS_AT - before

    quote = await world.services.desk.quote(booking["id"], order.admit, event=event, now=now)
    assert (quote.percent, quote.amount) == (percent, 9000 * percent // 100)
    assert msgspec.to_builtins(quote.tier) == tier
    stepped = await world.services.desk.cancel(booking["id"], order, event=event, reason="ill", now=now)

    assert (stepped.booking.refunded, stepped.booking.payment_status) == (quote.amount, "none")


async def test_quote_over_http_names_the_tier_and_after_the_end_of_a_booking_what_is_allowed(world: World) -> None:
    booking = await world.booked("A-1", starts_at=moment(hours(12)))
    quote = await ok(await world.ana.get(path_of(booking, "refund-quote")))
    assert quote == {"percent": 50, "amount": 4500, "tier": {"hours_before": 2, "percent": 50}}
    cancelled = await ok(await world.ana.post(path_of(booking, "cancel"), {"reason": "ill"}))
    assert cancelled["refunded"] == quote["amount"]
    assert (cancelled["cancelled_by"], cancelled["cancellation_reason"]) == ("ana", "ill")
    assert cancelled["cancelled_at"] is not None

    told = await ok(await world.ana.get(path_of(booking, "refund-quote")), 409)
    assert (told["code"], told["to"], told["allowed"]) == ("invalid-transition", "cancelled", [])


@pytest.mark.parametrize("who", ["olga", "root"])
async def test_organizer_and_admin_give_everything_back_whatever_the_time(world: World, who: str) -> None:
    booking = await world.booked("A-1", starts_at=moment(hours(0.1)))
    person = getattr(world, who)
    quote = await ok(await person.get(path_of(booking, "refund-quote")))
    assert quote == {"percent": 100, "amount": 9000, "tier": None}
    cancelled = await ok(await person.post(path_of(booking, "cancel")))
    assert (cancelled["refunded"], cancelled["cancelled_by"], cancelled["cancellation_reason"]) == (9000, who, None)


async def test_request_that_was_never_approved_is_withdrawn_for_nothing(world: World) -> None:
    booking = await world.requested("A-1", starts_at=moment(hours(0.1)))
    cancelled = await ok(await world.ana.post(path_of(booking, "cancel")))
    assert (cancelled["status"], cancelled["refunded"]) == ("cancelled", 9000)


async def test_places_of_a_cancelled_booking_can_be_booked_as_soon_as_it_answers(world: World) -> None:
    event_id = await world.event(sections=[{"id": "floor", "price": 4500, "capacity": 2}])
    for number in range(5):
        booking = await world.book(world.ana if number % 2 else world.ben, event_id, floor=2)
        await ok(await world.olga.post(path_of(booking, "cancel"), {"reason": "again"}))
    availability = await ok(await world.ana.get(f"/v1/events/{event_id}/availability"))
    assert [(one["free"], one["sold"]) for one in availability["sections"]] == [(2, 0)]
    rows = await world.rows("SELECT sold FROM usage WHERE event_id = $1", event_id)
    assert [row["sold"] for row in rows] == [0]


async def test_refunds_add_up_and_never_exceed_what_was_paid(world: World) -> None:
    booking = await world.booked("A-1")
    more_than_all = await ok(await world.olga.post(path_of(booking, "refund"), {"amount": 9001}), 422)
    assert more_than_all["detail"] == "must be at most 9000: the booking's amount"  # nothing was granted back yet
    first = await ok(await world.olga.post(path_of(booking, "refund"), {"amount": 4000, "reason": "rain"}))
    assert (first["refunded"], first["status"], first["payment_status"]) == (4000, "confirmed", "none")

    too_much = await ok(await world.root.post(path_of(booking, "refund"), {"amount": 5001}), 422)
    assert too_much["path"] == "$.amount"
    assert too_much["detail"] == "must be at most 5000: 4000 of 9000 are granted back"
    quote = await ok(await world.ana.get(path_of(booking, "refund-quote")))
    assert (quote["percent"], quote["amount"]) == (100, 5000)  # of what is still paid
    cancelled = await ok(await world.ana.post(path_of(booking, "cancel")))
    assert cancelled["refunded"] == 9000
    assert (await world.olga.post(path_of(booking, "refund"), {"amount": 1})).status_code == 422


async def test_what_a_cancellation_has_kept_can_still_be_refunded(world: World) -> None:
    booking = await world.booked("A-1", starts_at=moment(hours(1)))
    assert (await ok(await world.ana.post(path_of(booking, "cancel"))))["refunded"] == 0
    refunded = await ok(await world.olga.post(path_of(booking, "refund"), {"amount": 9000, "reason": "goodwill"}))
    assert (refunded["status"], refunded["refunded"]) == ("cancelled", 9000)


async def test_what_was_paid_on_the_spot_is_refunded_in_part_and_then_wholly(world: World) -> None:
    booking = await world.booked("A-1")
    await ok(await world.olga.post(path_of(booking, "complete")))
    part = await ok(await world.olga.post(path_of(booking, "refund"), {"amount": 1, "reason": "late"}))
    assert part["payment_status"] == "partially_refunded"
    whole = await ok(await world.olga.post(path_of(booking, "refund"), {"amount": 8999, "reason": "late"}))
    assert whole["payment_status"] == "refunded"


@pytest.mark.parametrize("status", ["rejected", "expired", "failed", "payment_initiated"])
async def test_what_was_never_taken_cannot_be_refunded(world: World, status: str) -> None:
    booking = await world.booked("A-1")
    await world.put(booking, status=status)
    told = await ok(await world.olga.post(path_of(booking, "refund"), {"amount": 1}), 409)
    assert (told["code"], told["from"]) == ("invalid-transition", status)


@pytest.mark.parametrize("body", [{"amount": 0}, {"amount": -1}, {"amount": 1.5}, {"reason": "x"}])
async def test_refund_of_no_amount_names_the_field(world: World, body: dict[str, Any]) -> None:
    booking = await world.booked("A-1")
    answer = await world.olga.post(path_of(booking, "refund"), body)
    assert (answer.status_code, answer.json()["path"]) == (422, "$.amount")


async def test_repeated_step_is_answered_by_the_booking_as_it_is_though_redis_has_forgotten(
    world: World, redis_url: str
) -> None:
    booking = await world.booked("A-1")
    refund = {"amount": 4000, "reason": "rain"}
    await ok(await world.olga.post(path_of(booking, "refund"), refund, idempotency_key="k-1"))
    await ok(await world.ana.patch(path_of(booking), {"notes": "a guitar"}))
    open_client(redis_url).flushall()

    again = await world.olga.post(path_of(booking, "refund"), refund, idempotency_key="k-1", if_match='"1"')

    assert again.headers["idempotent-replayed"] == "true"
    assert ((await ok(again))["refunded"], again.json()["version"], again.json()["notes"]) == (4000, 3, "a guitar")
    assert again.headers["etag"] == '"3"'


async def test_key_of_a_step_is_not_taken_for_another_body_and_means_nothing_elsewhere(world: World) -> None:
    booking, other = await world.booked("A-1"), await world.booked("A-1")
    await ok(await world.olga.post(path_of(booking, "refund"), {"amount": 10}, idempotency_key="k-1"))

    reused = await ok(await world.olga.post(path_of(booking, "refund"), {"amount": 11}, idempotency_key="k-1"), 422)
    assert reused["code"] == "idempotency-key-reused"
    for person, one in ((world.olga, other), (world.root, booking)):
        answer = await person.post(path_of(one, "refund"), {"amount": 11}, idempotency_key="k-1")
        assert "idempotent-replayed" not in answer.headers
        await ok(answer)
    assert (await ok(await world.ana.get(path_of(booking))))["refunded"] == 21


async def test_key_of_a_step_is_forgotten_after_a_day(world: World) -> None:
    booking = await world.booked("A-1")
    await ok(await world.olga.post(path_of(booking, "refund"), {"amount": 10}, idempotency_key="k-1"))
    await world.rows("UPDATE history SET at = at - interval '24 hours 1 second' RETURNING 1")
    again = await world.olga.post(path_of(booking, "refund"), {"amount": 10}, idempotency_key="k-1")
    assert ((await ok(again))["refunded"], "idempotent-replayed" in again.headers) == (20, False)


async def test_repeated_cancellation_frees_what_a_crash_had_left_taken(world: World) -> None:
    booking = await world.booked("A-1")
    desk = world.services.desk
    freeing, desk._free = desk._free, die
    crashed = await world.ana.post(path_of(booking, "cancel"), {"reason": "ill"}, idempotency_key="k")
    assert crashed.status_code == 500
    desk._free = freeing
    rival = {"event_id": booking["event_id"]} | claim("A-1")
    assert (await world.ben.post("/v1/bookings", rival)).status_code == 409

    again = await world.ana.post(path_of(booking, "cancel"), {"reason": "ill"}, idempotency_key="k")

    assert ((await ok(again))["status"], again.headers["idempotent-replayed"]) == ("cancelled", "true")
    await ok(await world.ben.post("/v1/bookings", rival), 201)


async def test_booking_on_its_way_to_the_ledger_is_told_from_one_that_is_not_there(world: World) -> None:
    event_id = await world.event(policy={"durability": "redis"})
    async with driver_connection(world.services.bookings.engine) as connection, connection.transaction():
        await connection.execute("SELECT FROM events WHERE id = $1 FOR UPDATE", event_id)  # the group commit waits
        booking = await world.book(world.ana, event_id)
        assert booking["durable"] is False

        answer = await world.ana.post(path_of(booking, "cancel"), {"reason": "ill"})
        assert (answer.status_code, answer.json()["code"]) == (503, "not-written-yet")
        assert answer.headers["retry-after"] == "1"
        assert (await world.ben.post(path_of(booking, "cancel"))).status_code == 404

    async def cancelled() -> bool:
        return (await world.ana.post(path_of(booking, "cancel"), {"reason": "ill"})).status_code == 200

    await until_so(cancelled, within_s=5)
