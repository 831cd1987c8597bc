"""Finding a booking wherever it is: in the ledger, or still in the journal, or among the dead letters."""

import msgspec
import structlog

from engine.booking_requests import accepted_booking
from engine.bookings import Booking, BookingDetails, JournalEntry
from engine.catalog import Catalog
from engine.dead_letters import parse_letter
from engine.errors import BookingNotFound, BookingRefused, EventNotFound, EventNotOpen, LedgerUnavailable
from engine.events import SellableEvent
from engine.ids import BookingId, ClaimKey, claim_id_of, parse_claim_id
from engine.journal import parse_entry
from engine.kernel import Kernel
from engine.ports import Ledger, Sealer

logger = structlog.get_logger("holdfast.engine")


class Accepted(msgspec.Struct, frozen=True):
    """What Redis has of a booking that the ledger is not known to have."""

    entry: JournalEntry
    event: SellableEvent
    is_buried: bool = False


class BookingSearch:
    """Looks into the ledger first, and then where bookings wait for it."""

    def __init__(self, kernel: Kernel, catalog: Catalog, ledger: Ledger, sealer: Sealer) -> None:
        self._kernel = kernel
        self._catalog = catalog
        self._ledger = ledger
        self._sealer = sealer

    async def find_booking(self, booking_id: str, *, customer_id: str | None) -> Booking:
        """A booking of the ledger, or of the journal, which is not durable yet, while the ledger has not got it.

        Whose it is, the caller looks at; *customer_id* only says who may hear of a refusal.

        Raises:
            BookingNotFound: There is none of this id.
            BookingRefused: It was accepted, and then the ledger refused it.
            LedgerUnavailable: Postgres does not answer and the journal does not know it.
        """
        key = parse_claim_id(booking_id)
        if key is None:
            raise BookingNotFound(booking_id)
        away: LedgerUnavailable | None = None
        try:
            if (booking := await self._ledger.find_booking(BookingId(booking_id))) is not None:
                return booking
        except LedgerUnavailable as error:
            away = error
        if (found := await self.find_in_journal(key, customer_id)) is not None:
            return accepted_booking(found.entry, found.event, self.open_details(found.entry))
        if away is not None:
            raise away
        # Between looking into the ledger and into the journal, it may have moved from one to the other.
        if (booking := await self._ledger.find_booking(BookingId(booking_id))) is not None:
            return booking
        raise BookingNotFound(booking_id)

    async def find_in_journal(self, key: ClaimKey, customer_id: str | None) -> Accepted | None:
        """The entry of a booking that is not known to be in the ledger, from the journal or from the dead letters.

        Raises:
            BookingRefused: The ledger has refused it, and it is for this customer to know.
        """
        try:
            event = await self._catalog.get(key.event_id)
            reply = await self._kernel.run(
                "read_booking", event, [key.key.encode(), b"" if customer_id is None else customer_id.encode()]
            )
        except (EventNotFound, EventNotOpen, LedgerUnavailable):
            return None
        if reply[0] == b"REFUSED":
            raise BookingRefused(claim_id_of(key.key, key.event_id))
        if reply[0] == b"JOURNALED":
            return Accepted(parse_entry(reply[1], reply[2]), event)
        if reply[0] == b"BURIED":
            letter = parse_letter(self._kernel.partition_of(event), reply[1], reply[2])
            return Accepted(letter.entry, event, is_buried=True)
        return None

    def open_details(self, entry: JournalEntry) -> BookingDetails:
        """The entry's details; where they cannot be opened, which is for a person to look into, there are none."""
        try:
            return self._sealer.unseal(entry.details, entry.booking_id)
        except ValueError as error:
            logger.error("details cannot be opened", booking_id=entry.booking_id, reason=str(error))
            return BookingDetails()
