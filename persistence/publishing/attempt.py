"""What came of one attempt to tell a sink something, and how much patience there is for more of them."""

import datetime as dt
import random
from typing import Literal
from uuid import UUID

import msgspec

from persistence.publishing.envelope import OutboxRow

FIRST_WAIT_S = 5.0
WAIT_MAX_S = 3_600.0  # between two attempts, and the longest Retry-After that is honoured
RETRY_FOR_S = 48 * 3_600.0  # a weekend; then a person decides
_DOUBLINGS_MAX = 12  # past it the wait is at its bound by far

Outcome = Literal["delivered", "failed", "gone"]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. ``gone``: the receiver wants no more of anything; ``retry_after_s`` is its word, if it gave one.

    ``endless`` failures are the installation's own (its Redis is away): they are tried for as long as it takes.
    """

    outcome: Outcome
    status: int | None = None
    reason: str = ""
    answer: str = ""
    retry_after_s: float = 0.0
    endless: bool = False
    seconds: float = 0.0


class Delivery(msgspec.Struct, frozen=True):
    """Something that a sink is to be told, ours to tell until ``lease_until``; ``attempts`` counts this one."""

    row: OutboxRow
    attempts: int
    lease_until: dt.datetime

    @property
    def booking_id(self) -> UUID:
        """Deliveries of one booking wait for each other."""
        return self.row.booking_id


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a delivery is tried, and how long the first pause is; each is twice as long as the one before."""

    retry_for_s: float = RETRY_FOR_S
    first_wait_s: float = FIRST_WAIT_S
    wait_max_s: float = WAIT_MAX_S

    def wait_s(self, attempts: int, retry_after_s: float = 0.0) -> float:
        """The pause behind this many attempts, give or take a quarter: receivers that come back are not stormed."""
        doubled = self.first_wait_s * 2.0 ** min(max(attempts - 1, 0), _DOUBLINGS_MAX)
        spread = min(doubled, self.wait_max_s) * random.uniform(0.75, 1.25)  # noqa: S311 - spreads rivals, no secret
        return max(spread, min(retry_after_s, self.wait_max_s))
