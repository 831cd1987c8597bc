"""Places of a booking that has ended go back on sale."""

from engine.catalog import Catalog
from engine.errors import EventNotFound
from engine.ids import parse_claim_id
from engine.kernel import Kernel


async def free_booking(kernel: Kernel, catalog: Catalog, booking_id: str) -> None:
    """Free what a booking owns in Redis, once the ledger has ended it. Safe to repeat; frees nothing of anybody else's.

    Where the event's state is not in Redis it is loaded, rather than left alone: a load that is under way may have read
    the ledger before the booking ended.

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
    # No journal entry, no owner who is to be told of a refusal, no idempotency key: it was a booking until now.
    await kernel.run("unbook_places", event, [key.key.encode(), b"", b"", b""])
