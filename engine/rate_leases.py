"""Requests that a process takes off an allowance in advance, for those who ask often: most of theirs ask nobody then.

They are charged before they are used, so nobody gets more than the limit allows. What is not used within a second is
lost to whoever it was taken for. That is why a lease grows only with what is used of it, and is small against what is
left; why nothing is leased of the second half of a burst (``take_tokens`` sees to that), and nothing at all of a small
one: there, every request of a caller who goes from process to process counts exactly.
"""

import msgspec

LEASE_S = 1.0  # for so long it is good
LEASE_SHARE = 64  # one of so many that are left
LEASE_MAX = 255  # requests; what fits a byte of the script's argument
LEASED = 1_000_000_000  # by this much a figure of the script's is larger when it took what was wanted in advance
REMEMBERED_MAX = 10_000  # allowances, some 300 bytes each

Mark = tuple[bytes, bytes]
"""What an allowance is known by: its slot, and the digest of whose it is."""


class _Lease(msgspec.Struct):
    left: int
    until: float
    here: int = 0
    size: int = 1
    is_wanted: bool = False


class Leases:
    """Those of one process. *now* is a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._leases: dict[Mark, _Lease] = {}

    def spend(self, mark: Mark, now: float) -> int | None:
        """Use a request taken in advance, if there is one; how many may follow at once."""
        lease = self._leases.get(mark)
        if lease is None or not lease.here or now >= lease.until:
            return None
        lease.here -= 1
        return lease.left + lease.here

    def give_back(self, mark: Mark) -> None:
        """It was not used after all."""
        if (lease := self._leases.get(mark)) is not None:
            lease.here += 1

    def wanted(self, mark: Mark, now: float) -> int:
        """How many to take in advance, now that Redis is asked: none for who was not here within the last second.

        Twice as many as last time, if those were used up.
        """
        lease = self._leases.get(mark)
        if lease is None or lease.is_wanted or now >= lease.until:
            return 0
        lease.size = min(2 * lease.size, LEASE_MAX)
        count = min(lease.size, lease.left // LEASE_SHARE)
        lease.is_wanted = count > 0  # requests that come meanwhile want none
        return count

    def note(self, mark: Mark, figure: int, wanted: int, now: float) -> int:
        """Keep what was taken in advance, if it was; how many may follow at once, or *figure* if that is a refusal."""
        is_leased = figure >= LEASED
        left = figure - LEASED if is_leased else figure
        lease = self._leases.get(mark)
        if lease is None:
            if left < LEASE_SHARE:
                return left
            if len(self._leases) >= REMEMBERED_MAX:
                del self._leases[next(iter(self._leases))]
            lease = self._leases[mark] = _Lease(left, now)
        if now >= lease.until:
            lease.here, lease.size = 0, max(lease.size // 2, 1)
        if wanted:
            lease.is_wanted = False
        lease.here += wanted if is_leased else 0
        lease.left, lease.until = max(left, 0), now + LEASE_S
        return left if left < 0 else left + lease.here
