"""Postgres dies in the middle of a sale: every booking has an outcome, no acknowledged one is lost, and it goes on."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from ledger_lab import Lab
from servers import local_servers

from engine.bookings import JournalEntry
from engine.errors import LedgerUnavailable
from engine.events import SellableEvent
from engine.ports import Committed
from persistence.migrate import migrate

pytest_plugins = ("ledger_fixtures",)


@pytest.fixture
def own_server(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A database on a Postgres of this test alone, and the pid of its postmaster; it is started again when it dies."""
    shared_dir = tmp_path_factory.getbasetemp()
    with local_servers(tmp_path / "servers", shared_dir=shared_dir) as servers, servers.database() as url:
        yield url, int((servers.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


@pytest.fixture
async def doomed(own_server: tuple[str, int]) -> AsyncIterator[tuple[Lab, int]]:
    """The ledger on that database."""
    url, postmaster_pid = own_server
    lab = Lab(url)
    await migrate(lab.engine)
    yield lab, postmaster_pid
    await lab.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT], ids=["SIGKILL", "SIGQUIT"])
async def test_ledger_loses_no_acknowledged_booking_when_postgres_dies(
    doomed: tuple[Lab, int], how: signal.Signals
) -> None:
    lab, postmaster_pid = doomed
    event = await lab.event(capacity=100_000)
    acknowledged: dict[str, Committed] = {}
    unknown: list[JournalEntry] = []
    is_dead = asyncio.Event()

    async def sell() -> None:
        while not unknown:
            entry = lab.entry(event, count=1)
            try:
                outcome = await lab.ledger.commit(entry, event)
            except LedgerUnavailable:
                unknown.append(entry)
            else:
                assert isinstance(outcome, Committed)
                acknowledged[entry.booking_id] = outcome
                if len(acknowledged) == 500 and not is_dead.is_set():
                    is_dead.set()
                    os.kill(postmaster_pid, how)

    async with asyncio.timeout(30):
        await asyncio.gather(*(sell() for _ in range(40)))
        settled = await asyncio.gather(*(_until_known(lab, event, entry) for entry in unknown))

    assert unknown
    for outcome in (*acknowledged.values(), *settled):
        assert await lab.ledger.find_booking(outcome.booking.id) == outcome.booking
    total = len(acknowledged) + len(settled)
    assert await lab.value("SELECT count(*) FROM bookings") == total
    assert await lab.value("SELECT sold FROM usage") == total


async def _until_known(lab: Lab, event: SellableEvent, entry: JournalEntry) -> Committed:
    while True:
        try:
            outcome = await lab.ledger.commit(entry, event)
        except LedgerUnavailable:
            await asyncio.sleep(0.05)
        else:
            assert isinstance(outcome, Committed)
            return outcome


async def test_outcome_is_unavailable_and_not_a_refusal_when_the_session_is_cut_during_a_batch(lab: Lab) -> None:
    event = await lab.event()
    entries = [lab.entry(event, count=1) for _ in range(10)]
    commits = [lab.ledger.commit(entry, event) for entry in entries]
    other = lab.another_process()
    cut = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()"""

    while not await lab.fetch(cut):  # noqa: ASYNC110 - the batch's session, as soon as it is there
        await asyncio.sleep(0)

    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {LedgerUnavailable, Committed}
    again = await asyncio.gather(*(other.commit(entry, event) for entry in entries))
    assert {type(outcome) for outcome in again} == {Committed}
    assert await lab.value("SELECT sold FROM usage") == 10
