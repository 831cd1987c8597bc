"""What a person decides about a dead letter: try it again, or give it up."""

from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from engine.bookings import JournalEntry
from engine.catalog import Catalog
from engine.dead_letters import DeadLetter, discard, discard_booking, revive
from engine.errors import EventNotFound, EventNotOpen, JournalFull, LedgerUnavailable, Overloaded, Refusal
from engine.events import SellableEvent
from engine.ids import BookingId
from engine.kernel import Kernel
from engine.ports import Ledger, UnwritableEntry
from engine.settlement import Settlement


class Retried(msgspec.Struct, frozen=True):
    """What became of a letter that was tried again.

    ``written``: the ledger has it, as ``reference``. ``refused``: the ledger has its places, or its key, for another
    booking, or has ended it before it was paid for; it is undone, and its customer is told so. ``waiting``: it is in
    the journal, and Postgres did not answer. ``unwritable``: it is a dead letter still, or again. ``gone``: somebody
    else was faster.
    """

    journal_id: str
    booking_id: BookingId | None
    outcome: Literal["written", "refused", "waiting", "unwritable", "gone"]
    reference: str | None = None
    reason: str | None = None


class Discarded(msgspec.Struct, frozen=True):
    """What became of a letter that was given up; ``freed`` when its places were taken until now."""

    journal_id: str
    booking_id: BookingId | None
    outcome: Literal["discarded", "gone"]
    freed: bool = False


AcceptAgain = Callable[[DeadLetter, SellableEvent], Awaitable[JournalEntry | None]]
"""Takes the places of a letter's booking once more, as a new booking would, and the letter away; raises a refusal."""


async def retry(
    kernel: Kernel,
    settlement: Settlement,
    catalog: Catalog,
    ledger: Ledger,
    dead: DeadLetter,
    *,
    accept_again: AcceptAgain,
) -> Retried:
    """Put a letter back into the journal, and write it to the ledger at once.

    The places of one whose epoch is over were not kept for it: they are taken again first, if they are free. Where they
    are not it stays a letter, for what it says would be lost. Either way the letter goes as its entry comes, in one
    step: a crash leaves a letter or a booking like any other, and who discards the letter meanwhile comes too late, or
    has come before.

    Raises:
        StoreUnavailable: Redis does not answer; it is in the journal or among the dead letters.
    """

    def outcome(kind: Literal["refused", "waiting", "unwritable", "gone"], reason: object = None) -> Retried:
        return Retried(dead.journal_id, dead.booking_id, kind, reason=None if reason is None else str(reason))

    try:
        event = await catalog.get(dead.entry.event_id)
        if await _is_outdated(kernel, ledger, dead.entry, event):
            entry = await accept_again(dead, event)
        else:
            entry = await revive(kernel, dead)
    except ValueError as error:
        return outcome("unwritable", f"it cannot be read: {error}")
    except (EventNotFound, EventNotOpen) as error:
        return outcome("unwritable", f"the ledger has no event {error.event_id!r} on sale")
    except Refusal as error:
        return outcome("unwritable", f"its places, which were not kept for it, are refused: {_in_words(error)}")
    except (LedgerUnavailable, JournalFull, Overloaded) as error:
        return outcome("unwritable", f"the ledger cannot be asked about it now: {error}")
    if entry is None:
        return outcome("gone")
    try:
        settled = await settlement.settle(entry, event, was_buried=True)
    except UnwritableEntry as error:
        return outcome("unwritable", error)
    except Refusal as error:
        return outcome("refused", _in_words(error))
    except (LedgerUnavailable, Overloaded) as error:
        return outcome("waiting", error)
    if settled.replayed:
        return outcome("refused", f"its idempotency key has made {settled.booking.id} ({settled.booking.reference})")
    return Retried(dead.journal_id, dead.booking_id, "written", reference=settled.booking.reference)


async def _is_outdated(kernel: Kernel, ledger: Ledger, entry: JournalEntry, event: SellableEvent) -> bool:
    """Whether the event has another epoch in Redis than the entry, of which the ledger has yet to hear."""
    epoch = await kernel.epoch_in_store(event)
    if epoch in (None, entry.epoch):
        return False
    return await ledger.find_standing(entry.booking_id) in ("absent", "waiting")


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


async def give_up(kernel: Kernel, ledger: Ledger, dead: DeadLetter) -> Discarded:
    """Forget a letter and undo its booking, unless the ledger has it after all, or somebody has put it back meanwhile.

    The ledger is asked first: what writes a letter's booking takes the letter away before, so that a letter which is
    still there has no booking that was written since. But for one that waits for its payment, which whoever settles
    that tries to write, too: it is ended there, or else it is written, and either is for good. Who has put the letter
    back meanwhile is refused then.

    Raises:
        LedgerUnavailable: Whether the ledger has the booking cannot be asked; nothing was done.
        StoreUnavailable: Redis does not answer; repeating it is safe.
    """
    booking_id = dead.booking_id
    if booking_id is None:
        was_there, freed = await discard(kernel, dead), False
        return Discarded(dead.journal_id, None, "discarded" if was_there else "gone", freed)
    was_ended = await ledger.end_waiting(booking_id)
    if was_ended or await ledger.find_standing(booking_id) != "written":
        was_there, freed = await discard_booking(kernel, dead, booking_id)
    else:
        was_there, freed = await discard(kernel, dead), False
    return Discarded(dead.journal_id, booking_id, "discarded" if was_there or was_ended else "gone", freed)
