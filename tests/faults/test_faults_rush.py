"""Ten thousand people want one seat."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from checker import check
from crowd import Crowd
from http_calls import Connection
from on_sale import one_row
from recording import Operation, now
from rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

CONNECTIONS = 64
ATTEMPTS_MAX = 20


@pytest.mark.parametrize("callers", [pytest.param(500, marks=pytest.mark.short), 10_000])
async def test_exactly_one_of_many_callers_gets_the_last_seat(
    rig: Rig, report: Callable[..., None], callers: int
) -> None:
    event = one_row(f"rush-{callers}")
    await rig.put_on_sale([event.definition])
    crowd = Crowd(rig, [event])
    customers = iter(range(callers))
    answers: Counter[int] = Counter()

    await asyncio.gather(*(_call(rig, crowd, event.id, customers, answers) for _ in range(CONNECTIONS)))

    again = crowd.codes["503 ledger-unavailable"] + crowd.codes["503 overloaded"]
    besides = f"{answers[409]:,} refused, {again} answers 503 before that"
    report(14, f"{callers:,} callers for one seat", await check(rig, crowd, holds_are_kept=True), besides)
    assert answers == {201: 1, 409: callers - 1}, crowd.codes


async def _call(rig: Rig, crowd: Crowd, event_id: str, customers: Iterator[int], answers: Counter[int]) -> None:
    """One caller after the other, over one connection; a customer's key is used for this event alone."""
    connection = Connection(rig.urls[0])
    body = {"event_id": event_id, "items": [{"section": "box", "seats": ["R1-1"]}]}
    for number in customers:
        customer, invoked_at = f"caller-{number}", now()
        attempts, answer = 0, None
        while answer is None or answer.status == 503:
            attempts += 1
            assert attempts < ATTEMPTS_MAX, answer
            answer = await connection.call("POST", "/v1/bookings", token=rig.token(customer), body=body, key=event_id)
            crowd.inspect("POST", "/v1/bookings", answer)
        answers[answer.status] += 1
        booked = answer.json() if answer.status == 201 else None
        crowd.recording.add(
            Operation(
                process=number,
                op="book",
                event=event_id,
                customer=customer,
                invoked_at=invoked_at,
                completed_at=now(),
                outcome="fail" if booked is None else "ok",
                places=crowd.events[event_id].places_of(body if booked is None else booked),
                booking_id=None if booked is None else booked["id"],
                hold_id=None if booked is None else booked["id"],
                status=answer.status,
                code=answer.code,
                attempts=attempts,
                key=event_id,
            )
        )
    connection.close()
