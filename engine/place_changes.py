"""Redis's half of changing what a booking has: holding what it is to get, then handing it over, or giving it back.

Between the two the ledger decides. Whatever is cut short there, the audit brings Redis to what the ledger says::

    reserve      old places sold, new ones held; the record is marked
    -- ledger --
    apply        new places sold, old ones free
    or abandon   old places sold, new ones free

The holds have deadlines like any other: of a change that nobody finishes nothing remains but the mark, which means
nothing by then.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from engine.errors import LimitExceeded, StoreUnavailable
from engine.events import SellableEvent
from engine.ids import new_claim_id, parse_claim_id
from engine.kernel import Kernel
from engine.place_differences import difference_of, grant_wishes
from engine.places import Places, format_places, parse_places
from engine.refusals import booking_refusal
from engine.verification import Verification

RESERVED_MS = 120_000  # far beyond a commit, and two rounds of audits, which repair what a crash has left by then
VERIFICATIONS_MAX = 3  # of one call: a server may change again while the first change is looked into

logger = structlog.get_logger("holdfast.changes")


class Overtaken(Exception):
    """Begin again: Redis has the booking otherwise than the ledger had, or another change of it is under way."""


class Owned(msgspec.Struct, frozen=True):
    """A booking's places and customer, as the ledger has them."""

    booking_id: str
    customer_id: str
    places: Places

    @property
    def key(self) -> bytes:
        """Its name inside the event's hashes."""
        return _key_of(self.booking_id)


class Reserved(msgspec.Struct, frozen=True):
    """A change whose new places are held; ``places`` are all that the booking is to have, wishes granted.

    Held they are ``until`` then, by our own clock, or a little longer.
    """

    change_id: bytes
    owned: Owned
    epoch: int
    places: Places
    held: tuple[tuple[bytes, Places], ...]
    given_up: tuple[Places, ...]
    until: float


class Transferred(msgspec.Struct, frozen=True):
    """A transfer as Redis has made it, under which epoch."""

    transfer_id: bytes
    epoch: int


class PlaceChanges:
    """Runs the scripts of changes and transfers; each of them may be sent twice."""

    def __init__(self, kernel: Kernel, verification: Verification) -> None:
        self._kernel = kernel
        self._verification = verification

    async def reserve(self, event: SellableEvent, owned: Owned, places: Places, *, sale_only: bool) -> Reserved:
        """Hold what *places* have beyond what is owned; *sale_only*: and only while the event is on sale.

        Raises:
            PlacesUnavailable, LimitExceeded, EventNotOpen: Refused; nothing is held.
            Overtaken: Read the ledger again.
            StoreUnavailable: Redis does not answer, or waits for an audit.
        """
        difference = difference_of(owned.places, places)
        change_id = _key_of(new_claim_id(event.event.id))
        hold_ids = [_key_of(new_claim_id(event.event.id)) for _ in difference.pieces]
        pieces = [_piece(hold_id, piece) for hold_id, piece in zip(hold_ids, difference.pieces, strict=True)]
        args = [owned.key, owned.customer_id.encode(), event.layout.digest.encode()]
        args += [format_places(owned.places).encode(), b"%d" % places.quantity, b"%d" % sale_only]
        args += [change_id, b"%d" % RESERVED_MS, *pieces]
        until = time.monotonic() + RESERVED_MS / 1000
        reply = await self._run_audited("reserve_change", event, args)
        if reply[0] in (b"DIFFERS", b"BUSY"):
            raise Overtaken("the booking is being changed")
        if reply[0] != b"RESERVED":
            raise booking_refusal(_named_once(reply), event, owned.booking_id)
        granted = [parse_places(text.decode()) for text in reply[2:]]
        return Reserved(
            change_id=change_id,
            owned=owned,
            epoch=int(reply[1]),
            places=grant_wishes(places, granted[-1] if difference.wishes is not None else None),
            held=tuple(zip(hold_ids, granted, strict=True)),
            given_up=difference.given_up,
            until=until,
        )

    async def apply(self, event: SellableEvent, reserved: Reserved) -> None:
        """Hand over what was reserved, once the ledger has; what somebody else has taken instead, the audit settles.

        Raises:
            StoreUnavailable: Redis does not answer. The audit will do it.
        """
        owned = reserved.owned
        pieces = [*(_piece(*held) for held in reserved.held), *(_piece(b"", places) for places in reserved.given_up)]
        args = [owned.key, reserved.change_id, format_places(reserved.places).encode(), *pieces]
        reply = await self._kernel.run("apply_change", event, args)
        if reply[0] != b"APPLIED":
            logger.warning("change not applied", booking_id=owned.booking_id, status=reply[0].decode())

    async def abandon(self, event: SellableEvent, reserved: Reserved) -> None:
        """Give back what was reserved, for the ledger has refused it.

        Raises:
            StoreUnavailable: Redis does not answer. The holds lapse.
        """
        args = [reserved.owned.key, reserved.change_id, *(hold_id for hold_id, _ in reserved.held)]
        await self._kernel.run("abandon_change", event, args)

    def suspect(self, event: SellableEvent, reserved: Reserved) -> None:
        """Have *event* repaired: what is *reserved* is another's in the ledger. Returns at once.

        It may have lapsed, and rightly be another's since: then there is nothing to repair.
        """
        if time.monotonic() >= reserved.until:
            return
        logger.error("drift: Redis held for a change what the ledger had sold before", event_id=event.event.id)
        self._verification.suspect(event)

    async def transfer(self, event: SellableEvent, owned: Owned, receiver: str) -> Transferred:
        """Make the booking *receiver*'s before the ledger does; returns what :meth:`take_back` needs.

        Raises:
            LimitExceeded: The receiver would have more places than a customer may.
            Overtaken: Read the ledger again.
            StoreUnavailable: Redis does not answer.
        """
        transfer_id = _key_of(new_claim_id(event.event.id))
        reply = await self._transfer(event, owned.key, transfer_id, b"give", receiver, owned.customer_id)
        match reply:
            case [b"TRANSFERRED", epoch]:
                return Transferred(transfer_id, int(epoch))
            case [b"LIMIT", limit, maximum]:
                raise LimitExceeded(limit.decode(), maximum)
            case [b"DIFFERS"] | [b"BUSY", _]:
                raise Overtaken("the booking is being changed")
        raise booking_refusal(reply, event, owned.booking_id)

    async def take_back(self, event: SellableEvent, owned: Owned, receiver: str, given: Transferred) -> None:
        """Undo a transfer that the ledger has refused.

        Raises:
            StoreUnavailable: Redis does not answer. The audit will do it.
        """
        await self._transfer(event, owned.key, given.transfer_id, b"undo", owned.customer_id, receiver)

    async def _transfer(
        self, event: SellableEvent, key: bytes, transfer_id: bytes, mode: bytes, receiver: str, owner: str
    ) -> list[Any]:
        args = [key, transfer_id, mode, receiver.encode(), owner.encode()]
        return await self._kernel.run("transfer_booking", event, args)

    async def _run_audited(self, script: str, event: SellableEvent, args: Sequence[bytes]) -> list[Any]:
        """Run a script, and have the event audited first when it says that another server has taken over."""
        for _ in range(VERIFICATIONS_MAX):
            reply = await self._kernel.run(script, event, args)
            if reply[0] != b"UNAUDITED":
                return reply
            await self._verification.verify(event, epoch=reply[1], server=reply[2])
        raise StoreUnavailable("servers change too fast to be audited")


def _key_of(claim_id: str) -> bytes:
    key = parse_claim_id(claim_id)
    assert key is not None, claim_id
    return key.key.encode()


def _piece(hold_id: bytes, places: Places) -> bytes:
    return b"%b|%b" % (hold_id, format_places(places).encode())


def _named_once(reply: list[Any]) -> list[Any]:
    """A refusal in which a seat that is missing on two stretches of legs is named once."""
    if reply[0] != b"UNAVAILABLE":
        return reply
    return [*reply[:4], *dict.fromkeys(reply[4:])]
