"""A hold: the temporary exclusive claim of one customer on places."""

import datetime as dt
from typing import Literal

import msgspec

from engine.claims import ClaimedItem
from engine.ids import HoldId


class Hold(msgspec.Struct, frozen=True, gc=False):
    """A live hold as its owner sees it; amounts in minor units, ``ttl`` in seconds from creation to deadline.

    ``paying`` is one whose payment has begun: its deadline has been moved for that, and moves no more.
    """

    id: HoldId
    event_id: str
    status: Literal["active", "paying"]
    items: tuple[ClaimedItem, ...]
    from_: str | None = msgspec.field(name="from")
    to: str | None
    amount: int
    currency: str
    created_at: dt.datetime
    expires_at: dt.datetime
    ttl: int
