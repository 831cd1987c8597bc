"""What a customer who cancels gets back: the tiers of an event's policy, as a pure function of the time."""

import datetime as dt
from collections.abc import Sequence

import msgspec

from engine.definition import RefundTier

EVERYTHING = 100


class RefundQuote(msgspec.Struct, frozen=True):
    """What a cancellation gives back: *percent* of what the places cost now, and never of more than is still paid.

    ``amount`` is in minor units; ``tier`` is what says so.

    ``tier`` is ``None`` where no tier decides: after the start, when the organizer cancels, and while the booking is
    not confirmed.
    """

    percent: int
    amount: int
    tier: RefundTier | None


def quote_by_tiers(
    tiers: Sequence[RefundTier], *, costs: int, paid: int, starts_at: dt.datetime, now: dt.datetime
) -> RefundQuote:
    """What the policy gives back, rounded down, to a customer who cancels at *now* what *costs* so many minor units.

    *paid* is what is still paid. That may be less, where something was granted back; and more, where places were given
    up before and a part of their price was kept: that part is kept for good, and is not given back in its turn.

    The tier that counts is the one with the most ``hours_before`` that the time left still reaches: exactly 24 hours
    before the start are 24 hours. Of two with the same ``hours_before`` the customer gets the better. Once the event
    has started nothing is given back, whatever the tiers say.
    """
    reached = [tier for tier in tiers if now <= starts_at - dt.timedelta(hours=tier.hours_before)]
    if not reached:
        return RefundQuote(0, 0, None)
    tier = max(reached, key=lambda tier: (tier.hours_before, tier.percent))
    return RefundQuote(tier.percent, min(costs, paid) * tier.percent // 100, tier)


def quote_everything(paid: int) -> RefundQuote:
    """All of *paid* minor units."""
    return RefundQuote(EVERYTHING, paid, None)
