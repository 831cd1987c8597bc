"""Who accounts for a booking of Redis: journal and dead letters, asked by id; and whether Redis has it at all."""

import asyncio
from collections.abc import Mapping, Sequence

from engine.events import SellableEvent
from engine.kernel import Kernel


async def are_journaled(kernel: Kernel, partition: int, journal_ids: Sequence[str]) -> set[str]:
    """Those entries that the journal has, or that were laid aside as dead letters, where they wait for a person.

    The journal is asked first: an entry is moved from there, in one step.
    """
    asked = [journal_id for journal_id in journal_ids if journal_id]
    found = await asyncio.gather(
        *[kernel.partition_command(partition, "XRANGE", "journal", journal_id, journal_id) for journal_id in asked]
    )
    journaled = {journal_id for journal_id, entries in zip(asked, found, strict=True) if entries}
    left = [journal_id for journal_id in asked if journal_id not in journaled]
    if left:
        letters = await kernel.partition_command(partition, "HMGET", "dead", *left)
        journaled.update(journal_id for journal_id, letter in zip(left, letters, strict=True) if letter is not None)
    return journaled


async def unchanged(kernel: Kernel, event: SellableEvent, texts: Mapping[str, bytes]) -> set[str]:
    """Those bookings whose records Redis still has as they were read."""
    if not texts:
        return set()
    records = await kernel.event_command(event, "HMGET", "bookings", *texts)
    return {key for (key, text), record in zip(texts.items(), records, strict=True) if record == text}


async def present(kernel: Kernel, event: SellableEvent, keys: Sequence[str]) -> set[str]:
    """Those bookings that Redis has now."""
    if not keys:
        return set()
    records = await kernel.event_command(event, "HMGET", "bookings", *keys)
    return {key for key, record in zip(keys, records, strict=True) if record is not None}
