"""Admission control: what counts as under way, and who is refused when."""

import pytest

from api.routes import ROUTES
from holdfast.admission import CONFIRM, CONFIRMS, HOLD, IN_FLIGHT, READ, RECORD, Admission, class_of


def let_in(admission: Admission, name: str, *, most: int = 10_000) -> int:
    """How many of a class get in, one after the other, none of which ends."""
    count = 0
    while count < most and admission.has_room(name):
        admission.begin(name)
        count += 1
    return count


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/bookings", CONFIRM),
        ("POST", "/v1/bookings/b-1/cancel", CONFIRM),
        ("POST", "/v1/payments/webhooks/stripe", CONFIRM),
        ("POST", "/v1/waitlist/w-1/accept", CONFIRM),
        ("POST", "/v1/waitlist/w-1/decline", RECORD),
        ("POST", "/v1/events/concert/holds", HOLD),
        ("POST", "/v1/holds", HOLD),
        ("POST", "/v1/holds:batch", HOLD),
        ("POST", "/v1/holds/h-1/extend", HOLD),
        ("DELETE", "/v1/holds/h-1", HOLD),
        ("GET", "/v1/holds/h-1", READ),
        ("GET", "/v1/events/concert/availability", READ),
        ("GET", "/v1/events/concert/stream", READ),
        ("GET", "/v1/bookings", RECORD),
        ("POST", "/v1/events", RECORD),
        ("BREW", "/coffee", RECORD),
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


@pytest.mark.parametrize("in_flight", [1, 2, 128])
def test_confirms_get_in_whatever_else_is_under_way(in_flight: int) -> None:
    admission = Admission(in_flight)
    for name in (RECORD, READ, HOLD):
        let_in(admission, name)

    assert let_in(admission, CONFIRM) == CONFIRMS * in_flight


def test_reads_are_refused_at_half_of_the_bound_and_holds_at_the_whole() -> None:
    admission = Admission(10)

    assert let_in(admission, READ) == 5
    assert let_in(admission, RECORD) == 0
    assert let_in(admission, HOLD) == 5
    assert not admission.has_room(READ)


def test_requests_stuck_on_postgres_keep_neither_holds_nor_reads_out() -> None:
    admission = Admission(10)

    assert let_in(admission, RECORD) == 5
    let_in(admission, CONFIRM)
    assert let_in(admission, READ) == 5
    assert let_in(admission, HOLD) == 5


def test_room_is_there_again_when_a_request_has_ended() -> None:
    admission = Admission(1)
    admission.begin(HOLD)
    assert not admission.has_room(HOLD)

    admission.end(HOLD)

    assert admission.has_room(HOLD)
    assert admission.gauges() == {"holdfast_in_flight": 0}


@pytest.mark.parametrize("name", [CONFIRM, HOLD, READ, RECORD])
def test_whenever_a_class_has_no_room_the_process_says_that_it_is_pressed(name: str) -> None:
    admission = Admission(4)
    assert not admission.is_pressed

    let_in(admission, name)

    assert admission.is_pressed


@pytest.mark.parametrize("name", [CONFIRM, HOLD, READ, RECORD])
def test_sixty_four_connections_with_a_request_each_are_refused_nothing_at_the_default(name: str) -> None:
    admission = Admission(IN_FLIGHT)
    for _ in range(63):
        admission.begin(HOLD)

    assert admission.has_room(name)


def test_those_who_are_refused_together_are_told_different_seconds() -> None:
    admission = Admission()

    assert sorted({admission.retry_after_s() for _ in range(20)}) == [1, 2, 3, 4]
