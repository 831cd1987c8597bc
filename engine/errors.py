"""What the engine may answer instead of doing what was asked.

::

    HoldfastError
    ├── Refusal                     the request was understood, and the answer is no
    │   ├── InvalidRequest          a field is wrong; names its JSON path
    │   ├── EventNotFound
    │   ├── EventExists             an event of this id is there already
    │   ├── EventNotDraft           only a draft may be changed like this
    │   ├── EventNotOpen            not on sale, not any more, or not yet
    │   ├── InvalidTransition       this status cannot become that one
    │   ├── VersionConflict         somebody changed it first
    │   ├── PlacesUnavailable       names every place that was not to be had
    │   ├── LimitExceeded           more places than one hold or one customer may claim
    │   ├── RateLimited             more requests than a caller, or an address, may make
    │   ├── AdmissionRequired       no ticket of the caller's that lets them in to the event
    │   ├── AdmissionPending        there is one, and it is not their turn yet
    │   ├── HoldNotFound            unknown, or somebody else's
    │   ├── HoldExpired             its deadline had passed; the places are free
    │   ├── HoldReleased            it was given back
    │   ├── HoldConfirmed           it is a booking already
    │   ├── BookingNotFound         unknown, or somebody else's
    │   ├── BlockNotFound           unknown, or given back
    │   ├── PaymentDeclined         the provider has declined it; the hold, or the booking as it was, lives on
    │   ├── BookingRefused          it was accepted, and then the ledger knew better; it is undone
    │   ├── NoWaitlist              the event's policy has no line to stand in
    │   ├── PlacesAvailable         there is nothing to wait for: they can be held at once
    │   ├── AlreadyInLine           one live entry per customer and event
    │   ├── EntryNotFound           unknown, or somebody else's
    │   ├── IdempotencyKeyReused    the key was used for another request
    │   └── IdempotencyInFlight     the first request with this key is still under way
    └── Unavailable                 nothing was decided: try again
        ├── StoreUnavailable        Redis cannot be reached, or did not answer: the outcome may be unknown
        ├── LedgerUnavailable       Postgres cannot be reached
        ├── NotWrittenYet           the booking is accepted, and on its way to Postgres
        ├── JournalFull             as many bookings wait for Postgres as may wait
        ├── PaymentOpen             the payment of a change has not been answered; the booking keeps its places
        ├── InventoryUnavailable    the inventory service cannot be asked, and nothing is booked without it
        └── Overloaded              more is under way than this process will take

A refusal is named as a fact and carries data, not prose. ``may_succeed_later`` says whether the very same request may
be answered differently without anybody changing it. Infrastructure failures are not refusals.
"""

import datetime as dt
from typing import ClassVar, Self

import msgspec


class HoldfastError(Exception):
    """Anything that Holdfast raises on purpose."""


class Refusal(HoldfastError):
    """The request was understood, and the answer is no; ``replayed``: to an earlier one with the same key."""

    may_succeed_later: ClassVar[bool] = False
    replayed = False

    def again(self) -> Self:
        """The same as what the idempotency key is answered once more."""
        self.replayed = True
        return self


class InvalidRequest(Refusal):
    """A field of the request is wrong; ``path`` is its JSON path (``$.items[0].seats[1]``)."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class EventRefusal(Refusal):
    """A refusal for what the event is, or is not."""

    def __init__(self, event_id: str) -> None:
        super().__init__(event_id)
        self.event_id = event_id


class EventNotFound(EventRefusal):
    """There is no such event, or (``is_foreign``, for the log alone) the caller may not know of it."""

    def __init__(self, event_id: str, *, is_foreign: bool = False) -> None:
        super().__init__(event_id)
        self.is_foreign = is_foreign


class EventExists(EventRefusal):
    """An event of this id exists already."""


class EventNotDraft(EventRefusal):
    """The event has been opened: its definition can no longer change."""

    def __init__(self, event_id: str, status: str) -> None:
        super().__init__(event_id)
        self.status = status


class EventNotOpen(EventRefusal):
    """The event takes no holds: a draft, closed, cancelled, or past the end of its sale, ``sales_ended_at``.

    Nor has a draft places to look at. ``starts_at`` is said with ``sales_ended_at``, which comes that much before.
    """

    may_succeed_later = True

    def __init__(
        self,
        event_id: str,
        status: str,
        *,
        sales_ended_at: dt.datetime | None = None,
        starts_at: dt.datetime | None = None,
    ) -> None:
        super().__init__(event_id)
        self.status = status
        self.sales_ended_at = sales_ended_at
        self.starts_at = starts_at


class InvalidTransition(Refusal):
    """The state machine has no such step."""

    def __init__(self, from_status: str, to_status: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{from_status} -> {to_status}")
        self.from_status = from_status
        self.to_status = to_status
        self.allowed = allowed


class VersionConflict(Refusal):
    """The representation the caller saw is not the current one.

    ``not_a_version``: what they sent to name it could not name any.
    """

    def __init__(self, current_version: int, *, not_a_version: bool = False) -> None:
        super().__init__(f"current version is {current_version}")
        self.current_version = current_version
        self.not_a_version = not_a_version


class UnavailablePlace(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was asked for and not to be had: a seat, or a number of places of which ``free`` are left."""

    section: str
    seat: str | None = None
    requested: int | None = None
    free: int | None = None
    event_id: str | None = None


class PlacesUnavailable(Refusal):
    """At least one place was not to be had; nothing was taken.

    ``held`` of the missing places are only held and may come back, not before ``next_release_at``, when the event's
    next hold lapses, whichever that is; ``sold`` of them will not. ``reason`` is what an inventory service says to it,
    if it was that.
    """

    may_succeed_later = True

    def __init__(
        self,
        unavailable: tuple[UnavailablePlace, ...],
        *,
        held: int,
        sold: int,
        next_release_at: dt.datetime | None,
        reason: str | None = None,
    ) -> None:
        super().__init__(unavailable)
        self.unavailable = unavailable
        self.held = held
        self.sold = sold
        self.next_release_at = next_release_at
        self.reason = reason

    def __str__(self) -> str:
        return f"{len(self.unavailable)} unavailable"


class LimitExceeded(Refusal):
    """A limit of the event's policy: ``limit`` is the name of the policy's member."""

    def __init__(self, limit: str, maximum: int) -> None:
        super().__init__(f"{limit} is {maximum}")
        self.limit = limit
        self.maximum = maximum


class RateLimited(Refusal):
    """As many requests as the limit named *policy* allows were made; the next may come in ``retry_after_ms``.

    The others are how many may follow at once by the limits that were asked, this one among them.
    """

    may_succeed_later = True

    def __init__(
        self, policy: str, left_of_caller: int | None, left_of_address: int | None, *, retry_after_ms: int
    ) -> None:
        super().__init__(policy)
        self.policy = policy
        self.left_of_caller = left_of_caller
        self.left_of_address = left_of_address
        self.retry_after_ms = retry_after_ms

    @property
    def retry_after_s(self) -> int:
        """The same in whole seconds, for ``Retry-After``."""
        return -(-self.retry_after_ms // 1000)


class AdmissionRequired(EventRefusal):
    """The event lets customers in one after another, and the caller has no ticket that lets them in."""


class AdmissionPending(EventRefusal):
    """The caller's turn at the event comes at ``admitted_at``, in ``wait_ms``."""

    may_succeed_later = True

    def __init__(self, event_id: str, *, admitted_at: dt.datetime, wait_ms: int) -> None:
        super().__init__(event_id)
        self.admitted_at = admitted_at
        self.wait_ms = wait_ms

    @property
    def retry_after_s(self) -> int:
        """The same in whole seconds, for ``Retry-After``."""
        return -(-self.wait_ms // 1000)


class HoldRefusal(Refusal):
    """A refusal for what the hold is, or is not any more."""

    def __init__(self, hold_id: str) -> None:
        super().__init__(hold_id)
        self.hold_id = hold_id


class HoldNotFound(HoldRefusal):
    """There is no such hold, or it is somebody else's: the two look the same on purpose."""


class HoldExpired(HoldRefusal):
    """The deadline had passed; the places are free."""


class HoldReleased(HoldRefusal):
    """The hold was given back before, or its booking cancelled before it was paid for; the places are free."""


class HoldConfirmed(HoldRefusal):
    """The hold has become the booking ``booking_id``."""

    def __init__(self, hold_id: str, booking_id: str) -> None:
        super().__init__(hold_id)
        self.booking_id = booking_id


class BookingNotFound(Refusal):
    """There is no such booking, or (``is_foreign``, for the log alone) it is somebody else's."""

    def __init__(self, booking_id: str, *, is_foreign: bool = False) -> None:
        super().__init__(booking_id)
        self.booking_id = booking_id
        self.is_foreign = is_foreign


class BookingRefused(Refusal):
    """The booking was accepted in Redis, but the ledger had another one for its places; it has been undone."""

    def __init__(self, booking_id: str) -> None:
        super().__init__(booking_id)
        self.booking_id = booking_id


class NoWaitlist(EventRefusal):
    """The event's policy has no line to stand in."""


class PlacesAvailable(EventRefusal):
    """There is nothing to wait for: the places can be held at once."""


class AlreadyInLine(Refusal):
    """The customer has a live entry of this event, ``entry_id``."""

    def __init__(self, entry_id: str) -> None:
        super().__init__(entry_id)
        self.entry_id = entry_id


class EntryNotFound(Refusal):
    """There is no such entry of a waitlist, or it is somebody else's."""

    def __init__(self, entry_id: str) -> None:
        super().__init__(entry_id)
        self.entry_id = entry_id


class BlockNotFound(Refusal):
    """There is no such block of the event, or its places were given back."""

    def __init__(self, block_id: str) -> None:
        super().__init__(block_id)
        self.block_id = block_id


class PaymentDeclined(Refusal):
    """The payment was declined, for the provider's *reason* if it gave one.

    The hold may be paid for otherwise; a booking that was to become dearer keeps what it has.
    """

    def __init__(self, booking_id: str, reason: str | None) -> None:
        super().__init__(reason or "declined")
        self.booking_id = booking_id
        self.reason = reason


class IdempotencyKeyReused(Refusal):
    """The same idempotency key came with another body."""


class IdempotencyInFlight(Refusal):
    """The first request with this idempotency key has not been answered yet."""

    may_succeed_later = True


class Unavailable(HoldfastError):
    """Nothing can be said: a part that is needed does not answer. The same request is safe to repeat."""

    retry_after_s: ClassVar[int] = 1


class StoreUnavailable(Unavailable):
    """Redis cannot be reached or did not answer in time."""


class LedgerUnavailable(Unavailable):
    """Postgres cannot be reached or did not answer in time."""


class NotWrittenYet(Unavailable):
    """The booking is accepted, its places are taken, and the ledger, which decides on its steps, has not got it yet."""

    def __init__(self, booking_id: str) -> None:
        super().__init__(booking_id)
        self.booking_id = booking_id


class JournalFull(Unavailable):
    """As many bookings wait for Postgres as the journal may keep; nothing was changed, a hold lives on."""

    retry_after_s = 5


class PaymentOpen(Unavailable):
    """What a change costs more is neither set aside nor declined: its provider has not answered, or waits for somebody.

    Nothing was changed. The same request goes on with the same payment; ``redirect_url`` is where its customer has to
    go before that, if anywhere.
    """

    retry_after_s = 5

    def __init__(self, booking_id: str, redirect_url: str | None = None) -> None:
        super().__init__(booking_id)
        self.booking_id = booking_id
        self.redirect_url = redirect_url


class InventoryUnavailable(Unavailable):
    """The inventory service of the event cannot be asked; nothing was booked, and a hold lives on."""

    retry_after_s = 5


class Overloaded(Unavailable):
    """More work is under way than this process accepts."""
