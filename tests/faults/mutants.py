"""Safeties of the Python side, taken out: each function replaces one of them for the length of a test."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from engine import kernel
from engine.booking_requests import accepted_booking
from engine.bookings import BookingDetails, JournalEntry
from engine.errors import StoreUnavailable
from engine.events import SellableEvent
from engine.ports import Committed, Sealer
from engine.reservations import Reservations
from engine.settlement import Settled, Settlement
from persistence import ledger_batch
from persistence.ledger import PostgresLedger
from persistence.ledger_batch import Outcomes
from persistence.ledger_entries import ReadyEntry


def _leave_the_straight_path(patch: pytest.MonkeyPatch) -> None:
    """Whose checks are taken out in ``tests/integration/test_ledger_straight.py``."""

    async def write(connection: Any, batch: Sequence[ReadyEntry]) -> None:
        return None

    patch.setattr(ledger_batch, "write_straight", write)


def epochs_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    """An entry is written whatever has become of the state that it was accepted under."""

    async def check(connection: Any, batch: Sequence[ReadyEntry], *_: Any) -> tuple[list[ReadyEntry], Outcomes]:
        return list(batch), {}

    _leave_the_straight_path(patch)
    patch.setattr(ledger_batch, "_check_epochs", check)


def claims_in_the_way_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """``ON CONFLICT DO NOTHING``, and nobody looks at what was not inserted."""

    async def insert(connection: Any, entries: Sequence[ReadyEntry]) -> None:
        if claims := ledger_batch.claims_of(entries):
            await connection.execute(ledger_batch._INSERT_CLAIMS, ledger_batch.as_json(claims))

    _leave_the_straight_path(patch)
    patch.setattr(ledger_batch, "_insert_claims", insert)


def keys_are_left_to_redis(patch: pytest.MonkeyPatch) -> None:
    """The ledger keeps no idempotency keys of its own."""

    async def insert(connection: Any, entries: Sequence[ReadyEntry], sealer: Sealer) -> None:
        return None

    _leave_the_straight_path(patch)
    patch.setattr(ledger_batch, "_insert_keys", insert)


def retries_have_new_ids(patch: pytest.MonkeyPatch) -> None:
    """A call whose reply was lost is made anew, rather than sent again as it was."""
    hold = Reservations.hold

    async def hold_again(self: Reservations, *args: Any, **options: Any) -> Any:
        try:
            return await hold(self, *args, **options)
        except StoreUnavailable:
            return await hold(self, *args, **options)

    patch.setattr(kernel, "SENDS_MAX", 1)
    patch.setattr(Reservations, "hold", hold_again)


def journal_is_dropped_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """An entry is forgotten when its commit begins."""
    start = Settlement.start

    def start_late(
        self: Settlement, entry: JournalEntry, event: SellableEvent, details: BookingDetails
    ) -> asyncio.Future[Settled]:
        self._drop(self._kernel.partition_of(event), entry)
        return start(self, entry, event, details)

    patch.setattr(Settlement, "start", start_late)


def bookings_are_acknowledged_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """A booking is called durable when its commit begins."""
    commit = PostgresLedger.commit

    def commit_later(
        self: PostgresLedger, entry: JournalEntry, sellable: SellableEvent, details: BookingDetails | None = None
    ) -> asyncio.Future[Committed]:
        commit(self, entry, sellable, details).add_done_callback(lambda done: done.exception())
        accepted = accepted_booking(entry, sellable, BookingDetails())
        said: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        said.set_result(Committed(msgspec.structs.replace(accepted, status="confirmed", durable=True)))
        return said

    patch.setattr(PostgresLedger, "commit", commit_later)
