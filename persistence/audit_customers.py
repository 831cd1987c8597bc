"""Customers' totals, which limits are kept by, against the records; in memory that does not grow with customers.

Totals are first summed by a hash of the customer. Only where a sum is wrong are its customers told apart, in a second
pass. Two wrong totals that cancel out and share one of the buckets go unseen until either changes.
"""

import binascii
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from itertools import islice

from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.records import parse_booking_record, parse_hold_record, scan_hash
from persistence.differences import Difference

BUCKETS = 65_536
SUSPECTS_MAX = 4_096  # buckets whose customers are told apart at once; the rest in the next round


class CustomerSums:
    """Places by customer's bucket, as the records have them."""

    def __init__(self) -> None:
        self._sums: Counter[int] = Counter()  # at most one for every bucket

    def add(self, customer: str, quantity: int) -> None:
        """Count places of one record."""
        self._sums[_bucket(customer.encode())] += quantity

    async def compare(self, kernel: Kernel, event: SellableEvent, *, leave_out: Collection[str]) -> list[Difference]:
        """Totals that are wrong; *leave_out* are customers whose bookings are disputed. Empties the sums."""
        async for batch in scan_hash(kernel, event, "users"):
            for customer, total in batch:
                self._sums[_bucket(customer)] -= int(total)
        suspects = set(islice((bucket for bucket, rest in self._sums.items() if rest), SUSPECTS_MAX))
        return await _tell_apart(kernel, event, suspects, leave_out) if suspects else []


async def _tell_apart(
    kernel: Kernel,
    event: SellableEvent,
    suspects: Collection[int],
    leave_out: Collection[str],
) -> list[Difference]:
    expected: Counter[str] = Counter()
    for hash_name, parse in (("holds", parse_hold_record), ("bookings", parse_booking_record)):
        async for batch in scan_hash(kernel, event, hash_name):
            for member in batch:
                with suppress(ValueError):  # a difference of its own, and not counted
                    record = parse(*member)
                    if _bucket(record.owner.encode()) in suspects:
                        expected[record.owner] += record.quantity
    stored: dict[str, int] = {}
    async for batch in scan_hash(kernel, event, "users"):
        stored.update((name.decode(), int(total)) for name, total in batch if _bucket(name) in suspects)
    return [
        Difference(
            event.event.id, "customer_wrong", subject=customer, redis=stored.get(customer, 0), ledger=expected[customer]
        )
        for customer in sorted(expected.keys() | stored.keys())
        if customer not in leave_out and stored.get(customer, 0) != expected[customer]
    ]


def _bucket(customer: bytes) -> int:
    return binascii.crc32(customer) % BUCKETS
