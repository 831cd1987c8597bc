"""What the engine needs from below it; ``persistence`` implements it and ``holdfast.compose`` brings them together."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

import msgspec

from engine.bookings import Booking, BookingDetails, JournalEntry
from engine.events import Event, SellableEvent
from engine.ids import BookingId
from engine.once import Once
from engine.payments import Means
from engine.places import Places


class ActiveBooking(msgspec.Struct, frozen=True):
    """A booking that owns places, as the ledger has it."""

    booking_id: BookingId
    customer_id: str
    confirmed_at_ms: int
    places: Places


class BookingColumns(NamedTuple):
    """Bookings that own places, as a load reads them: column by column, because they may be a million."""

    ids: Sequence[bytes]
    """16 bytes each."""
    confirmed_ms: Sequence[str]
    """Of the Unix clock."""
    places: Sequence[str]
    customers: Sequence[str]

    def part(self, start: int, end: int) -> "BookingColumns":
        """Those from *start* to before *end*."""
        ids, confirmed_ms, places, customers = self
        return BookingColumns(ids[start:end], confirmed_ms[start:end], places[start:end], customers[start:end])


class LoadedEvent(Protocol):
    """One event read for loading: under an epoch that is new and durable, its bookings as one snapshot shows them."""

    event: Event
    is_small: bool
    """Whether its bookings are at hand already; those of others are read one event after another."""
    line: Sequence[bytes]
    """The people in line, each an argument of ``load_line``: entry, score, places and customer, with ``|`` between.

    Who had an offer, which ends with the state that is forgotten, is in line again, where they were.
    """

    def bookings(self, *, page_size: int) -> AsyncGenerator[BookingColumns]:
        """The bookings that own places, none of the pages empty; memory is bounded by *page_size*. To be read once."""
        ...


class EventSource(Protocol):
    """Where events come from."""

    async def find_event(self, event_id: str) -> Event:
        """The event as it stands now.

        Raises:
            EventNotFound: There is none.
            LedgerUnavailable: Postgres does not answer.
        """
        ...

    def loading(self, event_ids: Sequence[str]) -> AbstractAsyncContextManager["LoadingTurn"]:
        """The turn to load *event_ids*: one loader at a time of each, over all processes, until the context ends.

        Of several, those are left out that somebody else is loading just now. If that is all of them, one is waited
        for.
        """
        ...


class LoadingTurn(Protocol):
    """The right to load *event_ids*, held until the context of :meth:`EventSource.loading` ends."""

    event_ids: Sequence[str]

    async def find_events(self, event_ids: Sequence[str]) -> dict[str, Event]:
        """Those of *event_ids* that exist, as they stand now, read without taking a second connection.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        ...

    async def begin(self, event_ids: Sequence[str]) -> Sequence[LoadedEvent]:
        """Raise the epochs of those that exist, durably, and read what the ledger knows.

        Call it only after looking that Redis still has no state: raising an epoch makes every booking that was
        accepted under the old one, and not yet committed, worthless.
        """
        ...


Standing = Literal["absent", "waiting", "ended", "written"]
"""What the ledger has of the booking of an entry.

``written``: it has its places, or had them once. ``waiting``: it was begun, and waits for its payment. ``ended``: it
was ended while it waited, so that its entry will never be written.
"""


class Committed(msgspec.Struct, frozen=True):
    """The booking is in Postgres, durably (now, or since an earlier attempt)."""

    booking: Booking


class Refused(msgspec.Struct, frozen=True):
    """The ledger will never take this booking: its places must be given back and the customer told.

    ``places_taken``: another booking owns one of the places. ``stale_epoch``: the entry was made by a Redis that has
    lost its memory since. ``key_reused``: the idempotency key belongs to a request with another body.
    ``key_replayed``: the idempotency key belongs to ``booking``, made by an earlier attempt of the same request.
    ``one_booking``: the customer has another live booking of an event that takes but one from each. ``ended``: the
    booking, whose payment came first, was ended before its places were claimed.

    ``places_taken`` and ``one_booking`` are durable: an entry that comes again hears the same, whatever has become of
    what was in its way.
    """

    reason: Literal["places_taken", "stale_epoch", "key_reused", "key_replayed", "one_booking", "ended"]
    booking: Booking | None = None


class UnwritableEntry(Exception):
    """The ledger can never take this entry, and not because a customer was too late: a person must look into it."""


class Ledger(Protocol):
    """The record of truth of bookings."""

    def commit(
        self, entry: JournalEntry, sellable: SellableEvent, details: BookingDetails | None = None
    ) -> "asyncio.Future[Committed | Refused]":
        """Write the booking, together with all that arrived meanwhile; there is a result when it is durable.

        *sellable* is the event of the entry: its layout turns numbered places into lines and an amount. *details* are
        those of the entry, where they are at hand and need not be opened. Idempotent by ``entry.booking_id``.
        Cancelling the future does not undo the commit.

        Raises, all of them from the future:
            LedgerUnavailable: Postgres does not answer; whether the booking was written is not known.
            Overloaded: Too many are waiting; it was not tried.
            UnwritableEntry: The entry makes no sense, or Postgres will not have it, alone though it was.
        """
        ...

    async def commit_all(
        self, entries: Sequence[tuple[JournalEntry, SellableEvent]]
    ) -> list[Refused | UnwritableEntry | None]:
        """The same for many at once, as a drain has them, beside the commits that callers wait for.

        ``None`` is said of what is written.

        Raises:
            LedgerUnavailable: Postgres does not answer; which of them were written is not known.
        """
        ...

    async def find_booking(self, booking_id: BookingId) -> Booking | None:
        """The booking, or ``None`` when the ledger has none of this id (yet)."""
        ...

    async def find_standing(self, booking_id: BookingId) -> Standing:
        """How the booking of an entry stands: whether anything is left to be written of it."""
        ...

    async def end_waiting(self, booking_id: BookingId) -> bool:
        """End a booking that waits for its payment, so that its entry can never be written; whether it did wait."""
        ...

    async def find_replay(self, once: bytes, body_digest: bytes) -> Booking | None:
        """The booking that the idempotency key *once* made, or ``None`` when the ledger does not know the key.

        Raises:
            IdempotencyKeyReused: It made one for another body.
        """
        ...


class Auditor(Protocol):
    """Holds what Redis has of an event against the ledger."""

    async def audit(self, sellable: SellableEvent, *, epoch: bytes, server: bytes) -> None:
        """Find and repair what differs in the state of *epoch*, and mark it as audited on *server*. Safe to repeat.

        When the event was built anew meanwhile, or another server has taken over, it is left unmarked.

        Raises:
            StoreUnavailable, LedgerUnavailable: It could not be done now.
        """
        ...

    async def repair(self, sellable: SellableEvent) -> bool:
        """Find and repair what differs, whoever has audited it. Safe to repeat.

        Returns whether all of it could be seen: not so where the event changes faster than it can be read.

        Raises:
            StoreUnavailable, LedgerUnavailable, EventNotFound: It could not be done now.
        """
        ...


class Sealer(Protocol):
    """Encrypts what a customer says about people, bound to the booking it belongs to."""

    def seal(self, details: BookingDetails, booking_id: BookingId) -> bytes:
        """The details as bytes that only this installation can open."""
        ...

    def unseal(self, sealed: bytes, booking_id: BookingId) -> BookingDetails:
        """The details again.

        Raises:
            ValueError: The bytes were sealed for another booking, with another key, or were changed.
        """
        ...


class DifferenceCharger(Protocol):
    """Sets aside what a change of a paid booking costs beyond what was paid."""

    async def charge_difference(self, booking: Booking, amount: int, means: Means | None, once: Once | None) -> str:
        """Set *amount* minor units aside for *booking*, which is at the version that the change is made of.

        Without *means* the booking's own are tried. Comes before the change is in the ledger, which chooses the payment
        by the id that this returns, or refuses the change: a payment that no change chooses is let go. Safe to repeat:
        while a payment of the same amount by the same means waits for its change there is no second one.

        Raises:
            PaymentDeclined: It is not to be had.
            PaymentOpen: Whether it is to be had is not known yet.
            InvalidRequest: There are no such means, or none that the booking was paid by.
            LimitExceeded: As many payments as a booking may have were asked for.
            IdempotencyKeyReused: The key was used for another change.
            Overtaken: The booking has changed.
            LedgerUnavailable: Postgres does not answer.
        """
        ...
