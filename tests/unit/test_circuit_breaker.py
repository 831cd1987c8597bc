"""The circuit breaker: when it opens, whom it lets through, and how it closes again."""

import pytest

from holdfast.services.breaker import CircuitBreaker


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(opens_after=3, pause_s=5.0, clock=clock)


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        assert breaker.admits()
        breaker.fail()


def test_failures_in_a_row_open_it_and_fewer_do_not(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    assert not breaker.is_open
    fail(breaker, 1)
    assert breaker.is_open
    assert not breaker.admits()


def test_an_answer_in_between_begins_the_count_anew(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    breaker.succeed()
    fail(breaker, 2)
    assert not breaker.is_open


def test_one_probe_passes_after_the_pause_and_nobody_beside_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now_s += 4.9
    assert not breaker.admits()
    clock.now_s += 0.1
    assert [breaker.admits() for _ in range(3)] == [True, False, False]


def test_a_probe_that_is_answered_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now_s += 5
    assert breaker.admits()
    breaker.succeed()
    assert not breaker.is_open
    fail(breaker, 2)
    assert breaker.admits()


def test_a_probe_that_fails_opens_it_for_another_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now_s += 5
    assert breaker.admits()
    breaker.fail()
    assert not breaker.admits()
    clock.now_s += 5
    assert breaker.admits()


def test_a_probe_whose_caller_gave_up_leaves_the_turn_to_the_next(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now_s += 5
    assert breaker.admits()
    breaker.forget()
    assert breaker.is_open
    assert breaker.admits()
