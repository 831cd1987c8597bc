"""The admission queue: at an event that many want at once, customers are let in to its holds at a steady rate.

A customer's turn is a moment, given once by a script and kept in Redis. Their ticket says the same and is signed, so
that any process can tell whether it is their turn without asking anybody.
"""

import base64
import datetime as dt
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence

import msgspec

from engine.catalog import Catalog
from engine.errors import AdmissionPending, AdmissionRequired, Overloaded
from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.keys import once_key
from engine.once import Once
from engine.refusals import claim_refusal, moment, not_open

CLOCK_LEEWAY_MS = 1_000  # turns are by Redis's clock, tickets are checked by this machine's; NTP keeps both closer
UNGUARDED_TTL_MS = 600_000  # of the ticket to an event that asks for none
TICKETS_MAX = 100  # in one header: as many events as a batch may name
QUEUED_MAX = 1_000_000  # customers who are in line or let in to one event, at some 100 bytes each
_TIME_DIGITS_MAX = 16
_MAC_BYTES = 16
_PURPOSE = b"holdfast admission tickets"


class AdmissionTicket(msgspec.Struct, frozen=True):
    """A customer's turn at an event: ``position`` others come first, for about ``estimated_wait`` seconds.

    ``ticket`` lets its customer in from its turn on until ``expires_at``.
    """

    ticket: str
    position: int
    admitted: bool
    estimated_wait: int
    expires_at: dt.datetime


class AdmissionQueue:
    """Gives tickets and checks them. All processes of an installation must have the same *secrets*.

    The first one signs, tickets of all are good: those in line keep their places while one takes another's.

    ``recall`` and ``find`` are the catalog's: whether an event has a queue stands in its policy.
    """

    def __init__(
        self, kernel: Kernel, catalog: Catalog, *, secrets: Sequence[bytes], clock: Callable[[], float] = time.time
    ) -> None:
        self.recall = catalog.recall
        self.find = catalog.get
        self._kernel = kernel
        self._keys = [hmac.digest(secret, _PURPOSE, hashlib.sha256) for secret in secrets]
        self._clock = clock

    async def take(self, event_id: str, *, customer_id: str) -> AdmissionTicket:
        """The customer's turn at an event: the same until it is over, then another, behind everybody else.

        An event without an admission policy lets everybody in at once, and Redis is not asked. Safe to repeat.

        Raises:
            EventNotFound, EventNotOpen: There is nothing to be let in to.
            Overloaded: As many wait as may wait.
        """
        event = await self.find(event_id)
        admission = event.definition.policy.admission
        if admission is None:
            now_ms = self._now_ms()
            return self._ticket(event_id, customer_id, now_ms, now_ms, 0, UNGUARDED_TTL_MS)
        ttl_ms = admission.ticket_ttl * 1000
        args = (customer_id.encode(), b"%d" % admission.interval_us, b"%d" % ttl_ms, b"%d" % QUEUED_MAX)
        match await self._kernel.run("take_ticket", event, args):
            case [b"QUEUED", int(turn_ms), int(now_ms), int(ahead)]:
                return self._ticket(event_id, customer_id, turn_ms, now_ms, ahead, ttl_ms)
            case [b"NOT_OPEN", status]:
                raise not_open(event, status)
            case [b"FULL"]:
                raise Overloaded("the admission queue is full")
            case reply:
                raise claim_refusal(reply, [event])

    def check(self, event_id: str, tickets: bytes, *, customer_id: str) -> None:
        """Let the customer in to an event if one of their *tickets*, with commas between, says that it is their turn.

        Raises:
            AdmissionPending: It is not their turn yet.
            AdmissionRequired: There is no ticket of theirs for this event, or it has lapsed.
        """
        now_ms, event, pending = self._now_ms(), event_id.encode(), []
        for ticket in tickets.split(b",", TICKETS_MAX)[:TICKETS_MAX]:
            turn, _, rest = ticket.strip().partition(b"~")
            until, _, rest = rest.partition(b"~")
            mac, _, named = rest.partition(b"~")
            if named != event or not (_is_time(turn) and _is_time(until)):
                continue
            signed = _signed(event_id, customer_id, int(turn), int(until))
            if not any(hmac.compare_digest(mac, _mac(key, signed)) for key in self._keys):
                continue
            if int(until) + CLOCK_LEEWAY_MS <= now_ms:
                continue
            if int(turn) - CLOCK_LEEWAY_MS <= now_ms:
                return
            pending.append(int(turn))
        if pending:
            raise AdmissionPending(event_id, admitted_at=moment(min(pending)), wait_ms=min(pending) - now_ms)
        raise AdmissionRequired(event_id)

    async def is_repetition(self, event: SellableEvent, once: Once) -> bool:
        """Whether a hold was made with this idempotency key: it was let in then, and is told the same again."""
        key = once_key(self._kernel.partition_of(event), once.scope)
        return await self._kernel.command("GET", key) is not None

    def _ticket(
        self, event_id: str, customer_id: str, turn_ms: int, now_ms: int, ahead: int, ttl_ms: int
    ) -> AdmissionTicket:
        until_ms = turn_ms + ttl_ms
        mac = _mac(self._keys[0], _signed(event_id, customer_id, turn_ms, until_ms)).decode()
        return AdmissionTicket(
            ticket=f"{turn_ms}~{until_ms}~{mac}~{event_id}",
            position=ahead,
            admitted=turn_ms <= now_ms,
            estimated_wait=max(0, -(-(turn_ms - now_ms) // 1000)),
            expires_at=moment(until_ms),
        )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _signed(event_id: str, customer_id: str, turn_ms: int, until_ms: int) -> bytes:
    """The customer's id comes last, for it may contain anything but a line's end."""
    return f"{event_id}\n{turn_ms}\n{until_ms}\n{customer_id}".encode()


def _mac(key: bytes, signed: bytes) -> bytes:
    return base64.urlsafe_b64encode(hmac.digest(key, signed, hashlib.sha256)[:_MAC_BYTES]).rstrip(b"=")


def _is_time(text: bytes) -> bool:
    return text.isdigit() and len(text) <= _TIME_DIGITS_MAX
