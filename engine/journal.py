"""The journal: bookings accepted in Redis that are not yet known to be in Postgres, one stream per partition."""

from collections.abc import Awaitable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from engine.bookings import JournalEntry
from engine.ids import BookingId, claim_id_of
from engine.kernel import Kernel
from engine.places import parse_places

FIRST_ID = "0-0"  # before every entry
DROPPED_AT_ONCE = 128  # entries that one call looks at and drops: about a millisecond of the server's time


def parse_entry(journal_id: bytes, fields: list[bytes]) -> JournalEntry:
    """The entry of a stream.

    Raises:
        ValueError: It is none of ours.
    """
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    try:
        event_id = values[b"event"].decode()
        return JournalEntry(
            journal_id=journal_id.decode(),
            epoch=int(values[b"epoch"]),
            event_id=event_id,
            booking_id=BookingId(claim_id_of(values[b"booking"].decode(), event_id)),
            customer_id=values[b"owner"].decode(),
            places=parse_places(values[b"places"].decode()),
            created_at_ms=int(values[b"created"]),
            confirmed_at_ms=int(values[b"confirmed"]),
            details=values[b"details"],
            once=values[b"once"],
            body_digest=values[b"body"],
        )
    except KeyError as error:
        raise ValueError(f"journal entry {journal_id!r} has no {error}") from error


async def read_journal(kernel: Kernel, partition: int, *, after: str, until: str, limit: int) -> list[Any]:
    """Raw entries of a partition as ``[id, fields]``, in the order they were made, up to and with the id *until*.

    An id may be cut to its milliseconds: it then stands for all of them.
    """
    reply = await kernel.partition_command(partition, "XRANGE", "journal", f"({after}", until, "COUNT", limit)
    return list(reply)


async def read_entry(kernel: Kernel, partition: int, journal_id: str) -> list[bytes] | None:
    """The raw fields of one entry, names and values in turn; ``None`` when it is not there (any more)."""
    found = await kernel.partition_command(partition, "XRANGE", "journal", journal_id, journal_id)
    return list(found[0][1]) if found else None


async def journal_tail(kernel: Kernel, partition: int) -> tuple[str, int]:
    """The id of the last entry ever made, whether or not it is still there, and how many there are now."""
    return await stream_tail(kernel.partition_subcommand(partition, "XINFO", "STREAM", "journal"))


async def stream_tail(asked: Awaitable[Any]) -> tuple[str, int]:
    """The same of any stream, whose ``XINFO STREAM`` was *asked*."""
    try:
        reply = await asked
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return FIRST_ID, 0
    facts = dict(zip(reply[::2], reply[1::2], strict=True))
    return facts[b"last-generated-id"].decode(), facts[b"length"]


def entry_order(journal_id: str) -> tuple[int, int]:
    """What sorts ids of entries by when they were made.

    The first number is when that was, by Redis's clock at the time, unless an entry before it has a later one: ids
    never go back, though the clock may have.

    Raises:
        ValueError: It is no such id.
    """
    made_ms, number = journal_id.split("-")
    return int(made_ms), int(number)


def booking_of(fields: Sequence[bytes]) -> bytes:
    """What an entry calls its booking; empty where it names none."""
    return next((value for name, value in zip(fields[::2], fields[1::2], strict=True) if name == b"booking"), b"")


async def drop_entries(kernel: Kernel, partition: int, entries: Sequence[JournalEntry]) -> None:
    """Forget entries that are settled, and no others: after a failover another booking's may have the same id.

    Raises:
        StoreUnavailable: Redis does not answer; the next drain settles once more what is left.
    """
    for start in range(0, len(entries), DROPPED_AT_ONCE):
        args: list[bytes] = []
        for entry in entries[start : start + DROPPED_AT_ONCE]:
            args += (entry.journal_id.encode(), entry.booking_key)
        await kernel.run_in_partition("drop_entries", partition, args)
