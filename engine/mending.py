"""What a person decides about a dead letter: try it again, or give it up."""

from typing import Literal

import msgspec

from engine.catalog import Catalog
from engine.dead_letters import DeadLetter, discard, revive
from engine.errors import (
    EventNotFound,
    EventNotOpen,
    IdempotencyKeyReused,
    LedgerUnavailable,
    Overloaded,
    PlacesUnavailable,
)
from engine.ids import BookingId, parse_claim_id
from engine.kernel import Kernel
from engine.ports import Ledger, UnwritableEntry
from engine.settlement import Settlement


class Retried(msgspec.Struct, frozen=True):
    """What became of a letter that was tried again.

    ``written``: the ledger has it, as ``reference``. ``refused``: the ledger has its places, or its key, for another
    booking; it is undone, and its customer is told so. ``waiting``: it is in the journal, and Postgres did not answer.
    ``unwritable``: it is a dead letter still, or again. ``gone``: somebody else was faster.
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


async def retry(kernel: Kernel, settlement: Settlement, catalog: Catalog, dead: DeadLetter) -> Retried:
    """Put a letter back into the journal, and write it to the ledger at once.

    Raises:
        StoreUnavailable: Redis does not answer; it is in the journal or among the dead letters.
    """

    def outcome(kind: Literal["refused", "waiting", "unwritable", "gone"], reason: object = None) -> Retried:
        return Retried(dead.journal_id, dead.booking_id, kind, reason=None if reason is None else str(reason))

    try:
        event = await catalog.get(dead.entry.event_id)
        entry = await revive(kernel, dead)
        if entry is None:
            return outcome("gone")
        settled = await settlement.settle(entry, event)
    except ValueError as error:
        return outcome("unwritable", f"it cannot be read: {error}")
    except (EventNotFound, EventNotOpen) as error:
        return outcome("unwritable", f"the ledger has no event {error.event_id!r} on sale")
    except UnwritableEntry as error:
        return outcome("unwritable", error)
    except (PlacesUnavailable, IdempotencyKeyReused) as error:
        return outcome("refused", f"{type(error).__name__}: {error}")
    except (LedgerUnavailable, Overloaded) as error:
        return outcome("waiting", error)
    return Retried(dead.journal_id, dead.booking_id, "written", reference=settled.booking.reference)


async def give_up(kernel: Kernel, ledger: Ledger, dead: DeadLetter) -> Discarded:
    """Undo a letter's booking, unless the ledger has it after all, and forget the letter.

    In this order: a crash in between leaves the letter, and giving it up again ends here again.

    Raises:
        LedgerUnavailable: Whether the ledger has the booking cannot be asked; nothing was done.
        StoreUnavailable: Redis does not answer; repeating it is safe.
    """
    freed = False
    booking_id = dead.booking_id
    if booking_id is not None and await ledger.find_booking(booking_id) is None:
        freed = await _undo(kernel, dead, booking_id)
    is_gone = not await discard(kernel, dead)
    return Discarded(dead.journal_id, booking_id, "gone" if is_gone else "discarded", freed)


async def _undo(kernel: Kernel, dead: DeadLetter, booking_id: BookingId) -> bool:
    """Free the places of the booking where Redis still has it; its customer hears that it was refused."""
    claim = parse_claim_id(booking_id)
    assert claim is not None, booking_id
    once = dead.text_of("once").encode() or None
    args = [claim.key, "", dead.text_of("owner"), dead.text_of("body")]
    reply = await kernel.run_in_partition(
        "unbook_places", dead.partition, [*map(str.encode, args)], event_id=claim.event_id, once=once
    )
    return bool(reply[0] == b"UNBOOKED")
