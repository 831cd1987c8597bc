"""Steps that exclude each other, at the same moment: exactly one is taken, and places are where its outcome says."""

import asyncio
from typing import Any

import pytest
from api_app import claim
from life_world import World, die, ok, path_of

pytest_plugins = ("life_fixtures",)

WHY = {"cancel": {"reason": "flat tyre"}, "reject": {"organizer_notes": "full"}}
ROUNDS = 8  # of each race; a lost update shows in one of three


async def at_once(*calls: Any) -> list[Any]:
    return await asyncio.gather(*calls)


async def require_agreement(world: World, event_id: str) -> None:
    """Redis and the ledger say the same, which an audit sees."""
    audit = await ok(await world.root.get(f"/v1/admin/audit?event_id={event_id}"))
    assert audit["drift"] == 0, audit["differences"]


async def test_of_two_approvals_at_once_one_is_taken(world: World) -> None:
    event_id = await world.event(
        policy={"approval": "manual"}, sections=[{"id": "floor", "price": 1, "capacity": ROUNDS}]
    )
    for _ in range(ROUNDS):
        booking = await world.book(world.ana, event_id, floor=1)
        approve = path_of(booking, "approve")

        answers = await at_once(
            world.olga.post(approve, {"organizer_notes": "first"}),
            world.root.post(approve, {"organizer_notes": "second"}),
        )

        assert sorted(answer.status_code for answer in answers) == [200, 409]
        won, lost = sorted(answers, key=lambda answer: answer.status_code)
        told = lost.json()
        assert (told["code"], told["from"], told["to"]) == ("invalid-transition", "confirmed", "confirmed")
        now = (await world.ana.get(path_of(booking))).json()
        assert (now["version"], now["organizer_notes"]) == (2, won.json()["organizer_notes"])
    await require_agreement(world, event_id)


async def test_of_an_approval_and_a_rejection_one_is_taken_and_decides_on_the_places(world: World) -> None:
    event_id = await world.event(policy={"approval": "manual"})
    for _ in range(ROUNDS):
        booking = await world.book(world.ana, event_id, "A-1")

        approved, rejected = await at_once(
            world.olga.post(path_of(booking, "approve")),
            world.root.post(path_of(booking, "reject"), {"organizer_notes": "full"}),
        )

        assert sorted((approved.status_code, rejected.status_code)) == [200, 409]
        if approved.status_code == 200:
            await ok(await world.olga.post(path_of(booking, "cancel")))
    await world.book(world.ben, event_id, "A-1")
    await require_agreement(world, event_id)


async def test_approval_and_cancellation_at_once_leave_the_places_free(world: World) -> None:
    """The cancellation always succeeds, before the approval or after it; the approval only before."""
    event_id = await world.event(policy={"approval": "manual"})
    for _ in range(ROUNDS):
        booking = await world.book(world.ana, event_id, "A-1")

        approved, cancelled = await at_once(
            world.olga.post(path_of(booking, "approve")), world.ana.post(path_of(booking, "cancel"), {"reason": "ill"})
        )

        assert cancelled.status_code == 200, cancelled.text
        assert approved.status_code in (200, 409)
        assert cancelled.json()["version"] == (3 if approved.status_code == 200 else 2)
        history = (await ok(await world.ana.get(path_of(booking, "history"))))["items"]
        assert history[-1]["to"] == "cancelled"
    await world.book(world.ben, event_id, "A-1")
    await require_agreement(world, event_id)


async def test_cancellation_and_completion_at_once_never_both_hold(world: World) -> None:
    event_id = await world.event(sections=[{"id": "floor", "price": 1, "capacity": ROUNDS}])
    taken = 0
    for _ in range(ROUNDS):
        booking = await world.book(world.ana, event_id, floor=1)

        cancelled, completed = await at_once(
            world.ana.post(path_of(booking, "cancel")), world.olga.post(path_of(booking, "complete"))
        )

        assert sorted((cancelled.status_code, completed.status_code)) == [200, 409]
        taken += completed.status_code == 200
    rows = await world.rows("SELECT sold FROM usage WHERE event_id = $1", event_id)
    assert [row["sold"] for row in rows] == [taken]
    await require_agreement(world, event_id)


async def test_cancellation_and_check_in_at_once_end_as_cancelled(world: World) -> None:
    event_id = await world.event()
    for _ in range(ROUNDS):
        booking = await world.book(world.ana, event_id, "A-1")
        cancelled, arrived = await at_once(
            world.ana.post(path_of(booking, "cancel")), world.olga.post(path_of(booking, "check-in"))
        )
        assert cancelled.status_code == 200
        assert arrived.status_code in (200, 409)
    await world.book(world.ben, event_id, "A-1")


async def test_many_refunds_at_once_never_give_back_more_than_was_paid(world: World) -> None:
    booking = await world.booked("A-1")

    answers = await at_once(
        *(world.olga.post(path_of(booking, "refund"), {"amount": 2000, "reason": str(n)}) for n in range(8))
    )

    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [422] * 4
    assert (await ok(await world.ana.get(path_of(booking))))["refunded"] == 8000


async def test_same_step_with_one_key_ten_times_at_once_is_taken_once(world: World) -> None:
    booking = await world.booked("A-1")
    refund = {"amount": 100, "reason": "rain"}

    answers = await at_once(
        *(world.olga.post(path_of(booking, "refund"), refund, idempotency_key="k") for _ in range(10))
    )

    assert [answer.status_code for answer in answers] == [200] * 10
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 9
    assert {answer.json()["refunded"] for answer in answers} == {100}


async def test_freed_seat_goes_to_one_of_those_who_wait_for_it(world: World) -> None:
    event_id = await world.event()
    booking = await world.book(world.ana, event_id, "A-1")
    rivals = [world.person(f"rival-{number}", "customer") for number in range(6)]

    async def grab(person: Any) -> int:
        for _ in range(20):
            answer = await person.post("/v1/bookings", {"event_id": event_id} | claim("A-1"))
            if answer.status_code == 201:
                return 1
        return 0

    cancelled, *got = await at_once(world.ana.post(path_of(booking, "cancel")), *map(grab, rivals))

    assert cancelled.status_code == 200
    assert sum(got) == 1
    await require_agreement(world, event_id)


@pytest.mark.parametrize("step", ["cancel", "reject"])
async def test_places_that_a_crash_has_left_taken_are_freed_by_the_audit(world: World, step: str) -> None:
    booking = await world.requested("A-1", floor=2)
    desk = world.services.desk
    freeing, desk._free = desk._free, die
    assert (await world.olga.post(path_of(booking, step), WHY[step])).status_code == 500
    desk._free = freeing
    rival = {"event_id": booking["event_id"]} | claim("A-1", floor=5)
    assert (await world.ben.post("/v1/bookings", rival)).status_code == 409  # taken, and never sold twice

    round_ = await ok(await world.root.post(f"/v1/admin/reconcile?event_id={booking['event_id']}"))

    assert (round_["found"] > 0, round_["unresolved"]) == (True, 0)
    await ok(await world.ben.post("/v1/bookings", rival), 201)
    await require_agreement(world, booking["event_id"])
