"""Places of a booking that has ended go back on sale, whether it had them or a hold still had them for it."""

import datetime as dt

from engine.catalog import Catalog
from engine.errors import EventNotFound
from engine.events import event_end_at
from engine.ids import parse_claim_id
from engine.kernel import Kernel

# Marks the release of a hold whose booking has ended: no request of anybody's is answered as if it had been that.
_ENDED = b"ended"


async def free_booking(kernel: Kernel, catalog: Catalog, booking_id: str) -> None:
    """Free what a booking owns in Redis, once the ledger has ended it. Safe to repeat; frees nothing of anybody else's.

    One that was not paid for yet owns nothing: its hold, which has its id, is released. A payment may be turning that
    into the booking at this very moment; then the ledger refuses the journal's entry, which undoes it. A crash before
    the hold is released leaves it to lapse.

    Where the event's state is not in Redis it is loaded, rather than left alone: a load that is under way may have read
    the ledger before the booking ended. Not so when the event is over or cancelled: nobody waits for its places, and
    should such a load bring the booking back, the audit will find it.

    Raises:
        StoreUnavailable: Redis does not answer. The audit will free them.
        LedgerUnavailable: The event cannot be read.
    """
    key = parse_claim_id(booking_id)
    assert key is not None, booking_id
    try:
        event = await catalog.get(key.event_id)
    except EventNotFound:
        return
    is_wanted = event.event.status != "cancelled" and event_end_at(event.definition) > dt.datetime.now(dt.UTC)
    # No journal entry, no owner who is to be told of a refusal, no idempotency key: it was a booking until now.
    reply = await kernel.run("unbook_places", event, [key.key.encode(), b"", b"", b""], load=is_wanted)
    if reply[0] == b"NOT_FOUND":
        await kernel.run("release_hold", event, [key.key.encode(), b"", _ENDED, b""], load=is_wanted)
