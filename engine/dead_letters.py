"""Dead letters: entries that the ledger can never take, out of the journal's way until a person has looked at them.

Their bookings keep their places. A letter is written as JSON that a person can read in ``redis-cli``; only this module
knows its form, and ``lua/archive_event.lua`` how it names its event. What a customer said of people stays sealed in it.
"""

from collections.abc import AsyncIterator

import msgspec
import structlog

from engine.bookings import JournalEntry
from engine.ids import BookingId, claim_id_of, parse_claim_id
from engine.journal import booking_of, parse_entry, read_entry
from engine.kernel import Kernel

REASON_MAX = 1_000  # characters of an error kept in a letter: enough for any that Postgres writes
SCAN_COUNT = 100  # letters that one step asks for; each is about a kilobyte

logger = structlog.get_logger("holdfast.engine")


class LetterField(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field of the entry; what is no text is in ``base64``."""

    name: str
    text: str | None = None
    base64: bytes | None = None


class Letter(msgspec.Struct, frozen=True):
    """An entry as it stood in the journal, and why it is not there any more."""

    reason: str
    buried_ms: int
    fields: tuple[LetterField, ...]


class DeadLetter(msgspec.Struct, frozen=True):
    """A letter and where it lies; ``raw`` is what stands there, so that a later one is not mistaken for it."""

    partition: int
    journal_id: str
    letter: Letter
    raw: bytes

    @property
    def entry(self) -> JournalEntry:
        """The entry, as the drain would read it.

        Raises:
            ValueError: It cannot be read at all.
        """
        return parse_entry(self.journal_id.encode(), self.flat_fields)

    @property
    def flat_fields(self) -> list[bytes]:
        """Names and values in turn, as a stream has them."""
        flat = []
        for field in self.letter.fields:
            flat += [field.name.encode(), field.base64 if field.text is None else field.text.encode()]
        return [value or b"" for value in flat]

    def text_of(self, name: str) -> str:
        """A field as text; empty where it is not there, or is none."""
        return next((field.text for field in self.letter.fields if field.name == name and field.text), "")

    @property
    def booking_id(self) -> BookingId | None:
        """The booking that it is about, as far as that can be told."""
        booking_id = claim_id_of(self.text_of("booking"), self.text_of("event"))
        return None if parse_claim_id(booking_id) is None else BookingId(booking_id)


_decode = msgspec.json.Decoder(Letter).decode
_encode = msgspec.json.Encoder().encode


def parse_letter(partition: int, journal_id: bytes, raw: bytes) -> DeadLetter:
    """The letter that stands in Redis under *journal_id*; one that nobody of ours wrote can still be discarded."""
    try:
        letter = _decode(raw)
    except msgspec.MsgspecError as error:
        letter = Letter(f"this letter cannot be read: {error}", 0, ())
    return DeadLetter(partition, journal_id.decode(errors="backslashreplace"), letter, raw)


async def bury(kernel: Kernel, partition: int, journal_id: str, *, booking: bytes, reason: str) -> bool:
    """Move an entry to the dead letters; returns whether it was still in the journal, as that of this *booking*.

    Raises:
        StoreUnavailable: Redis does not answer; the next drain will come here again.
    """
    fields = await read_entry(kernel, partition, journal_id)
    if fields is None or booking_of(fields) != booking:
        return False
    pairs = zip(fields[::2], fields[1::2], strict=True)
    now_ms = await kernel.time_ms(partition)
    letter = Letter(reason[:REASON_MAX], now_ms, tuple(_field(name, value) for name, value in pairs))
    reply = await kernel.run_in_partition("bury_entry", partition, [journal_id.encode(), _encode(letter), booking])
    is_buried: bool = reply[0] == b"BURIED"
    if is_buried:
        logger.error("journal entry buried", partition=partition, journal_id=journal_id, reason=letter.reason)
    return is_buried


async def scan_letters(kernel: Kernel, partition: int) -> AsyncIterator[DeadLetter]:
    """The letters of a partition, in no order; one that comes or goes meanwhile may be there or not."""
    cursor = b"0"
    while True:
        cursor, flat = await kernel.partition_command(partition, "HSCAN", "dead", cursor, "COUNT", SCAN_COUNT)
        for journal_id, raw in zip(flat[::2], flat[1::2], strict=True):
            yield parse_letter(partition, journal_id, raw)
        if cursor == b"0":
            return


async def find_letters(kernel: Kernel, journal_id: str) -> list[DeadLetter]:
    """The letters of this id, of whatever partition: one, unless two were entered in the same millisecond."""
    found = []
    for partition in range(kernel.partitions):
        raw = await kernel.partition_command(partition, "HGET", "dead", journal_id)
        if raw is not None:
            found.append(parse_letter(partition, journal_id.encode(), raw))
    return found


async def revive(kernel: Kernel, dead: DeadLetter) -> JournalEntry | None:
    """Put a letter back into the journal; the entry under its new id, or ``None`` when somebody was faster.

    Raises:
        ValueError: It cannot be read at all, so that trying again is of no use.
    """
    entry = dead.entry
    claim = parse_claim_id(entry.booking_id)
    if claim is None:
        raise ValueError(f"{entry.booking_id!r} is no booking's id")
    args = [dead.journal_id.encode(), dead.raw, claim.key.encode(), *dead.flat_fields]
    reply = await kernel.run_in_partition("revive_entry", dead.partition, args, event_id=claim.event_id)
    if reply[0] != b"REVIVED":
        return None
    return msgspec.structs.replace(entry, journal_id=reply[1].decode())


async def discard(kernel: Kernel, dead: DeadLetter) -> bool:
    """Forget a letter for good, and nothing else; returns whether it was still there."""
    args = [dead.journal_id.encode(), dead.raw]
    reply = await kernel.run_in_partition("discard_entry", dead.partition, args)
    return bool(reply[0] == b"DISCARDED")


async def discard_booking(kernel: Kernel, dead: DeadLetter, booking_id: BookingId) -> tuple[bool, bool]:
    """Forget a letter for good, and undo its booking; returns whether it was still there, and whether places are free.

    Its customer hears that the booking was refused. A letter that somebody has put back meanwhile, or buried again, is
    left alone, and so is its booking.
    """
    claim = parse_claim_id(booking_id)
    assert claim is not None, booking_id
    texts = map(str.encode, (claim.key, dead.text_of("owner"), dead.text_of("body")))
    reply = await kernel.run_in_partition(
        "discard_booking",
        dead.partition,
        [dead.journal_id.encode(), dead.raw, *texts],
        event_id=claim.event_id,
        once=dead.text_of("once").encode() or None,
    )
    return reply[0] != b"NOT_FOUND", reply[0] == b"UNBOOKED"


def _field(name: bytes, value: bytes) -> LetterField:
    readable = name.decode(errors="backslashreplace")
    try:
        return LetterField(readable, text=value.decode())
    except UnicodeDecodeError:
        return LetterField(readable, base64=value)
