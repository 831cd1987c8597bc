"""Blocks: places that their organizer takes off sale, as bookings whose owner nobody can be.

A block owns its places in Redis and in the ledger just as a booking does, so that every guard, audit and load that
knows of bookings keeps them. What it is not is a sale: it has no customer, no price, and no steps but its end.
"""

import datetime as dt

import msgspec

from engine.bookings import BlockTerms, Booking, BookingDetails, Price

BLOCKED_OWNER = "\tblocked"  # ids of customers are printable, so that no token is of this one; as in block.lua
BLOCKS_MAX = 500  # of an event at a time: every snapshot of its state carries their marks; as in block.lua
MARK = "blocked:"  # fields of an event's state by which a snapshot tells what is off sale: the block's key follows

_FREE_OF_CHARGE = Price(0, 0, 0, 0)


class BlockedItem(msgspec.Struct, frozen=True):
    """One line of a block."""

    section: str
    quantity: int
    seats: tuple[str, ...] | None


class Block(msgspec.Struct, frozen=True):
    """Places off sale, until ``release_at`` or until somebody gives them back."""

    id: str
    event_id: str
    items: tuple[BlockedItem, ...]
    from_: str | None = msgspec.field(name="from")
    to: str | None
    release_at: dt.datetime | None
    reason: str | None
    created_at: dt.datetime


def block_details(
    *, actor: str, role: str, request_id: str | None, reason: str | None, release_at: dt.datetime | None
) -> BookingDetails:
    """What goes with a block to the ledger; *reason* is sealed, as notes are."""
    return BookingDetails(
        notes=reason,
        source="block",
        price=_FREE_OF_CHARGE,
        role=role,
        request_id=request_id,
        block=BlockTerms(actor=actor, release_at=release_at),
    )


def is_block(booking: Booking) -> bool:
    """Whether it is none of a customer's."""
    return booking.customer_id == BLOCKED_OWNER


def view_block(booking: Booking) -> Block:
    """A block as its organizer sees it."""
    return Block(
        id=booking.id,
        event_id=booking.event_id,
        items=tuple(BlockedItem(item.section, item.quantity, item.seats) for item in booking.items),
        from_=booking.from_,
        to=booking.to,
        release_at=booking.expires_at,
        reason=booking.notes,
        created_at=booking.created_at,
    )
