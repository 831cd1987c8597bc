"""What a duty's failure leads to: a word in the log when it begins and when it ends, and another attempt."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from engine.errors import StoreUnavailable
from persistence.heartbeats import Figures
from persistence.partition_leases import Everywhere, Territory
from persistence.reconciling import duty as duty_module
from persistence.reconciling.duty import Duty, EachPartition, Once, keep_doing
from persistence.reconciling.findings import Findings
from persistence.reconciling.outages import FORGOTTEN_AFTER_S, SUBJECTS_MAX, Outages


class Failing(Duty):
    name = "failing"
    pause_s = 0.001

    def __init__(self, failures: Sequence[Exception], stop: asyncio.Event) -> None:
        super().__init__()
        self._left = list(failures)
        self._stop = stop

    async def work(self, territory: Territory) -> None:
        if self._left:
            raise self._left.pop(0)
        self._stop.set()


async def test_an_outage_is_told_once_when_it_begins_and_once_when_it_is_over() -> None:
    stop, figures = asyncio.Event(), Figures()
    duty = Failing([StoreUnavailable("gone")] * 2, stop)
    with capture_logs() as logs:
        async with asyncio.timeout(5):
            await keep_doing(duty, Everywhere([0]), outages=Outages(), figures=figures, stop=stop)

    assert [(log["log_level"], log["event"]) for log in logs] == [
        ("warning", "reconciler is held up"),
        ("info", "reconciler goes on"),
    ]
    assert figures.failures == {"failing": 2}


async def test_a_duty_that_is_held_up_hears_its_bell_but_no_sooner_than_after_the_first_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One node that is down holds up a whole round; what another duty has found out must not wait for that."""
    monkeypatch.setattr(duty_module, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(duty_module, "BACKOFF_MAX_S", 3600.0)
    failures, stop = 20, asyncio.Event()  # unheard, these take hours
    duty = Failing([StoreUnavailable("gone")] * failures, stop)

    async def ring() -> None:
        while not stop.is_set():
            duty.bell.set()
            await asyncio.sleep(0)

    began_s = time.monotonic()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(ring())
        await keep_doing(duty, Everywhere([0]), outages=Outages(), figures=Figures(), stop=stop)
    assert time.monotonic() - began_s >= failures * 0.01


def test_an_error_that_nobody_foresaw_is_told_as_one() -> None:
    outages = Outages()
    with capture_logs() as logs:
        outages.note("audit", StoreUnavailable("gone"))
        outages.note("audit", KeyError("field"))

    assert [log["log_level"] for log in logs] == ["warning", "error"]


def test_what_is_failing_is_remembered_up_to_a_bound() -> None:
    outages = Outages()
    with capture_logs() as logs:
        for number in range(SUBJECTS_MAX + 5):
            outages.note(f"event {number}", StoreUnavailable("gone"))

    assert len(logs) == SUBJECTS_MAX


def test_what_is_not_tried_any_more_is_forgotten_and_makes_room() -> None:
    now = 0.0
    outages = Outages(monotonic=lambda: now)
    for number in range(SUBJECTS_MAX):
        outages.note(f"archived event {number}", StoreUnavailable("gone"))
    now = FORGOTTEN_AFTER_S / 2
    outages.note("archived event 7", StoreUnavailable("gone"))  # which fails still
    now = FORGOTTEN_AFTER_S + 1
    with capture_logs() as logs:
        outages.note("archived event 7", StoreUnavailable("gone"))
        outages.note("another event", StoreUnavailable("gone"))
        outages.over("another event")
        outages.over("archived event 8")

    assert [log["event"] for log in logs] == ["reconciler is held up", "reconciler goes on"]
    assert {log["subject"] for log in logs} == {"another event"}


def test_a_duty_that_fails_is_told_however_many_events_do() -> None:
    findings = Findings()
    with capture_logs() as logs:
        for number in range(SUBJECTS_MAX + 5):
            findings.failed(f"event {number}", StoreUnavailable("gone"))
        findings.outages.note("audit", StoreUnavailable("gone"))

    assert (len(logs), logs[-1]["subject"]) == (SUBJECTS_MAX + 1, "audit")


async def test_a_duty_may_be_a_function_of_a_partition_or_of_the_installation() -> None:
    async def work(partition: int) -> int:
        return partition

    async def purge() -> int:
        return 7

    figures = Figures()
    await EachPartition("trail", work, figures, pause_s=1.0).work(Everywhere([0, 1, 2]))
    await Once("purge", purge, figures, pause_s=60.0).work(Everywhere([1, 2]))
    assert figures.done == {"trail": 3}

    await Once("purge", purge, figures, pause_s=60.0).work(Everywhere([0, 1]))
    assert figures.done == {"trail": 3, "purge": 7}
