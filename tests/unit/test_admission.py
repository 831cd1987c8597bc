"""Admission control: bounds, order, patience, and what is told to those who are turned away."""

import asyncio

import pytest

from api.admission import CONFIRM, CONFIRMS, HOLD, READ, RECORD, Admission, class_of
from api.routes import ROUTES
from engine.errors import Overloaded


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def settle() -> None:
    """Let what is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def wait_for_turn(admission: Admission, name: str, order: list[str]) -> None:
    if not admission.begin_at_once(name):
        await admission.begin(name)
    order.append(name)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/bookings", CONFIRM),
        ("POST", "/v1/bookings/b-1/cancel", CONFIRM),
        ("POST", "/v1/payments/webhooks/stripe", CONFIRM),
        ("POST", "/v1/events/concert/holds", HOLD),
        ("POST", "/v1/holds:batch", HOLD),
        ("DELETE", "/v1/holds/h-1", HOLD),
        ("GET", "/v1/holds/h-1", READ),
        ("GET", "/v1/events/concert/availability", READ),
        ("GET", "/v1/bookings", RECORD),
        ("POST", "/v1/events", RECORD),
        ("GET", "/healthz", None),
        ("HEAD", "/readyz", None),
        ("GET", "/metrics", None),
    ],
)
def test_class_of_a_request_follows_from_its_head(method: str, path: str, name: str | None) -> None:
    assert class_of(method, path) == name


def test_every_route_has_a_class_except_health_and_metrics() -> None:
    assert {route.path for route in ROUTES if class_of(route.method, route.path) is None} == {
        "/healthz",
        "/readyz",
        "/metrics",
    }


async def test_turns_are_bounded_by_class_and_given_on_in_order_of_arrival() -> None:
    admission = Admission(in_flight=1)
    assert admission.begin_at_once(HOLD)
    assert not admission.begin_at_once(HOLD)
    assert [admission.begin_at_once(CONFIRM) for _ in range(CONFIRMS + 1)] == [True] * CONFIRMS + [False]
    order: list[int] = []

    async def one(number: int) -> None:
        await admission.begin(HOLD)
        order.append(number)
        admission.end(HOLD)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(one(number))
        await settle()
        admission.end(HOLD)

    assert order == [0, 1, 2]
    assert admission.gauges() == {"holdfast_in_flight": CONFIRMS, "holdfast_queue_waiting": 0}


async def test_reads_give_way_while_a_hold_waits_and_confirms_do_not() -> None:
    admission = Admission(in_flight=1)
    order: list[str] = []
    assert admission.begin_at_once(HOLD)
    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_turn(admission, HOLD, order))
        await settle()
        for name in (READ, RECORD, CONFIRM):
            group.create_task(wait_for_turn(admission, name, order))
        await settle()
        assert order == [CONFIRM]
        admission.end(HOLD)

    assert order == [CONFIRM, HOLD, READ, RECORD]


async def test_requests_stuck_on_postgres_keep_neither_holds_nor_availability_waiting() -> None:
    admission = Admission(in_flight=2)
    while admission.begin_at_once(RECORD) or admission.begin_at_once(CONFIRM):
        pass

    assert admission.begin_at_once(HOLD)
    assert admission.begin_at_once(READ)


async def test_who_waits_is_turned_away_after_the_queue_time_although_nothing_ends() -> None:
    admission = Admission(in_flight=1, queue_time_s=0.01)
    assert admission.begin_at_once(HOLD)

    with pytest.raises(Overloaded):
        await admission.begin(HOLD)

    assert admission.gauges() == {"holdfast_in_flight": 1, "holdfast_queue_waiting": 0}


async def test_patience_is_short_in_a_queue_that_stands_and_newcomers_are_refused_by_its_pace() -> None:
    clock = Clock()
    admission = Admission(in_flight=1, queue_time_s=10.0, clock=clock)
    assert admission.begin_at_once(HOLD)
    turns = [asyncio.create_task(admission.begin(HOLD)) for _ in range(30)]
    await settle()
    assert not admission.would_refuse(HOLD)  # how fast it goes is not known yet
    for _ in range(5):
        clock.now_s += 0.1
        admission.end(HOLD)
        await settle()
    assert not admission.would_refuse(HOLD)  # 25 of 0.1 s each: a burst may take ten seconds
    assert admission.would_refuse(HOLD, arriving=100)
    assert not admission.would_refuse(CONFIRM)
    clock.now_s += 9.6
    assert admission.would_refuse(HOLD)  # it has stood for longer than that: 1.25 s are all there is
    with pytest.raises(Overloaded):
        admission.require_room(HOLD)

    admission.end(HOLD)
    await settle()

    # Those who came with the queue have waited for too long by now, however many there are.
    assert [turn.done() and turn.exception() is None for turn in turns] == [True] * 5 + [False] * 25


async def test_caller_that_is_cancelled_leaves_its_turn_to_the_next() -> None:
    admission = Admission(in_flight=1)
    order: list[str] = []
    assert admission.begin_at_once(HOLD)
    gone = asyncio.create_task(admission.begin(HOLD))
    await settle()
    heir = asyncio.create_task(wait_for_turn(admission, HOLD, order))
    await settle()
    admission.end(HOLD)  # the turn is gone's, who does not live to know
    gone.cancel()
    await asyncio.gather(gone, heir, return_exceptions=True)

    assert order == [HOLD]
    admission.end(HOLD)
    assert admission.gauges() == {"holdfast_in_flight": 0, "holdfast_queue_waiting": 0}


def test_those_who_are_turned_away_together_are_told_different_seconds() -> None:
    admission = Admission()

    assert sorted({admission.retry_after_s() for _ in range(20)}) == [1, 2, 3, 4]
