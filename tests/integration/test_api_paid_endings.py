"""How bookings end that were paid for, or were to be: what is free then, and what is given back."""

from typing import Any

import pytest
from api_app import claim, open_event
from payment_lab import RunningSimulator, check_money, until
from test_api_paid_in_one_step import Shop, shop, simulator

__all__ = ("shop", "simulator")  # fixtures

SECTION = {"id": "floor", "price": 801, "capacity": 10}


def order(event_id: str, method: str, **wanted: Any) -> dict[str, Any]:
    return {"event_id": event_id, "payment": {"provider": "simulator", "method": method}, **wanted}


def places(quantity: int) -> dict[str, Any]:
    return {"items": [{"section": "floor", "quantity": quantity}]}


@pytest.mark.parametrize("method", ["sim_redirect", "sim_declined"])
@pytest.mark.parametrize("who", ["ana", "olga"])
async def test_places_of_a_booking_that_is_cancelled_before_it_is_paid_are_free_at_once(
    shop: Shop, simulator: RunningSimulator, method: str, who: str
) -> None:
    event_id = await open_event(shop.olga, policy={"payment": "required"})
    hold = (await shop.ana.post(f"/v1/events/{event_id}/holds", claim("A-1", "A-2"))).json()
    wanted = {"hold_id": hold["id"], "payment": {"provider": "simulator", "method": method}}
    assert (await shop.ana.post("/v1/bookings", wanted)).status_code == (202 if method == "sim_redirect" else 402)
    assert await shop.sold_and_held(event_id) == (0, 2)

    cancelled = await getattr(shop, who).post(f"/v1/bookings/{hold['id']}/cancel", {})
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert await shop.sold_and_held(event_id) == (0, 0)
    again = await shop.ana.post("/v1/bookings", wanted)
    assert (again.status_code, again.json()["code"]) == (410, "hold-released")
    assert (await shop.ben.post("/v1/bookings", order(event_id, "sim_ok", **claim("A-1")))).status_code == 201

    async def nothing_is_paid() -> bool:
        return bool((await shop.ana.get(f"/v1/bookings/{hold['id']}")).json()["payment_status"] == "failed")

    await until(nothing_is_paid)
    figures = (await shop.olga.get(f"/v1/events/{event_id}/statistics")).json()
    assert (figures["cancelled"], figures["refunded"]) == (1, 0)
    assert (await check_money(shop.services.bookings.engine, simulator))["booked"] == 1


@pytest.mark.parametrize("steps", [(0,), (2, 0), (3, 2, 1, 0), (2, 4, 1, 0)])
async def test_booking_that_is_given_back_part_by_part_gives_back_as_much_as_at_once(
    shop: Shop, simulator: RunningSimulator, steps: tuple[int, ...]
) -> None:
    policy = {"payment": "required", "refunds": [{"hours_before": 0, "percent": 80}]}
    event_id = await open_event(shop.olga, policy=policy, sections=[SECTION])
    booked = await shop.ana.post("/v1/bookings", order(event_id, "sim_ok", **places(4)))
    assert booked.status_code == 201, booked.text
    path, paid, had, given_back = f"/v1/bookings/{booked.json()['id']}", 4 * 801, 4, 0
    for left in steps:
        quote = (await shop.ana.get(f"{path}/refund-quote")).json()
        assert quote["amount"] == had * 801 * 80 // 100
        changed = await (shop.ana.patch(path, places(left)) if left else shop.ana.post(f"{path}/cancel", {}))
        assert changed.status_code == 200, changed.text
        given_back += max(had - left, 0) * 801 * 80 // 100
        paid += max(left - had, 0) * 801
        had = left
        assert (changed.json()["amount"], changed.json()["refunded"]) == (paid, given_back)
    assert paid * 80 // 100 - len(steps) < given_back <= paid * 80 // 100
    assert (await check_money(shop.services.bookings.engine, simulator))["booked"] == 0
